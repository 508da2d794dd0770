//! Conditions in CEL, the Common Expression Language.
//!
//! An expression is compiled with the configuration, so that its faults have their place. It is bounded: no loops
//! (`all`, `exists`, `map`, `filter`), a few additions, regular expressions only as literals, and limits of its size, of
//! its depth and of the texts that it reads. One evaluation thus takes time in proportion to the product of the sizes of
//! the expression and of the request's head.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc, thread};

use cel::{
    Context, ExecutionError, IdedExpr, Value,
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, SourceInfo},
    parser::Parser,
};
use regex::Regex;

use super::{
    fault::{InvalidValue, quoted},
    filters::whole_path,
    schema::nearest,
};

/// Longest expression, in bytes.
const LONGEST: usize = 2048;

/// Maximum number of operators, calls, names and literals.
const MOST_NODES: usize = 256;

/// Deepest nesting.
const DEEPEST: u16 = 32;

/// Stack of the parser, in bytes. It takes up to 200 KiB for one level in a build without optimization.
const PARSER_STACK: usize = 16 << 20;

/// Maximum number of additions: each may copy the texts before it.
const MOST_ADDITIONS: usize = 8;

/// Maximum number of bytes that an expression reads from a request. Longer requests cannot be evaluated.
const LONGEST_INPUT: usize = 64 << 10;

/// Functions that an expression may call, besides operators and `has`.
const FUNCTIONS: [&str; 9] =
    ["bool", "contains", "double", "endsWith", "int", "matches", "size", "startsWith", "string"];

/// The variables of an expression.
const VARIABLES: [&str; 2] = ["client", "request"];

/// The fields of `request`.
const REQUEST: [&str; 8] =
    ["cookies", "headers", "host", "method", "path", "query", "scheme", "upgrade"];

/// The fields of `client`.
const CLIENT: [&str; 2] = ["certificate", "ip"];

/// The facts that an expression reads. Names of header fields are in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpressionInput {
    pub(crate) method: String,
    pub(crate) scheme: &'static str,
    /// Requested host, without port.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) cookies: HashMap<String, String>,
    /// Whether it is a WebSocket handshake.
    pub(crate) upgrade: bool,
    /// Address of the client.
    pub(crate) ip: String,
    /// Subject and fingerprint of the client's certificate; empty without one.
    pub(crate) certificate: (String, String),
}

/// A compiled expression.
pub(crate) struct Expression {
    tree: IdedExpr,
    /// The functions of the expression.
    context: Context<'static, 'static>,
}

/// What is wrong with an expression.
#[derive(Debug)]
pub(super) struct ExpressionFault {
    /// Its place in the text, in bytes.
    pub(super) at: Range<usize>,
    pub(super) wrong: InvalidValue,
}

/// Why an expression has no result for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExpressionError {
    /// The request has more text than an expression may read.
    TooLong,
    /// The result is not a boolean.
    NotBoolean,
    /// The evaluation failed, for this reason: a key is missing, or the types do not fit.
    Failed(String),
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the request has more than {LONGEST_INPUT} bytes of text"),
            Self::NotBoolean => f.write_str("the result is neither true nor false"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").field("tree", &self.tree).finish_non_exhaustive()
    }
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is not valid, or goes beyond the limits.
    pub(super) fn compile(text: &str) -> Result<Self, ExpressionFault> {
        let whole = |wrong| ExpressionFault { at: 0..text.len(), wrong };
        if text.len() > LONGEST {
            let wrong = InvalidValue::new(format!("an expression of more than {LONGEST} bytes"));
            return Err(whole(wrong.help("write a shorter one, or several routes")));
        }
        let parser = thread::Builder::new().stack_size(PARSER_STACK);
        thread::scope(|scope| {
            let compiled = parser.spawn_scoped(scope, || Self::compile_on_this_stack(text));
            let compiled = compiled.ok().and_then(|parsing| parsing.join().ok());
            compiled
                .unwrap_or_else(|| Err(whole(InvalidValue::new("the expression cannot be read"))))
        })
    }

    fn compile_on_this_stack(text: &str) -> Result<Self, ExpressionFault> {
        let whole = |wrong| ExpressionFault { at: 0..text.len(), wrong };
        let parser = Parser::new().max_recursion_depth(DEEPEST).error_recovery_limit(1);
        let (mut tree, source) = parser.parse_with_source_info(text).map_err(|errors| {
            let first = errors.errors.first();
            let at = first.map_or(0, |error| offset(text, error.pos));
            let message = first.map_or("", |error| &*error.msg);
            if message.contains("Recursion limit") {
                let wrong =
                    InvalidValue::new(format!("an expression with more than {DEEPEST} levels"));
                return whole(wrong.help("write a simpler one, or several routes"));
            }
            let line = message.lines().next().unwrap_or_default();
            // Without the list of all that could be there.
            let line = line.split(" expecting ").next().unwrap_or_default();
            let wrong = InvalidValue::new(format!("invalid expression: {line}"));
            let at = at..at + text[at..].chars().next().map_or(0, char::len_utf8);
            ExpressionFault { at, wrong: wrong.help("see the language at https://cel.dev") }
        })?;
        let mut checked =
            CheckedTree { source: &source, nodes: 0, additions: 0, patterns: Vec::new() };
        checked.visit(&mut tree)?;
        let mut context = Context::default();
        for (index, pattern) in checked.patterns.into_iter().enumerate() {
            let matches = move |text: Arc<String>| pattern.is_match(&text);
            // The name is new: expressions cannot contain it.
            _ = context.add_function(&pattern_function(index), matches);
        }
        let expression = Self { tree, context };
        match expression.evaluate(sample()) {
            Ok(_) | Err(ExpressionError::TooLong) => Ok(expression),
            Err(ExpressionError::NotBoolean) => {
                let wrong = InvalidValue::new("the expression must be true or false");
                Err(whole(wrong.help("compare with a value: `request.method == \"GET\"`")))
            }
            // A key that the sample does not have; requests may have it.
            Err(ExpressionError::Failed(reason)) if reason.starts_with("No such key") => {
                Ok(expression)
            }
            Err(ExpressionError::Failed(reason)) => {
                let wrong = InvalidValue::new(format!("the expression fails: {reason}"));
                Err(whole(wrong.help("see the fields and their types in the reference")))
            }
        }
    }

    /// Compiles an expression that the check of the configuration has accepted.
    pub(crate) fn new(text: &str) -> Option<Self> {
        Self::compile(text).ok()
    }

    /// Whether a request meets the condition.
    ///
    /// # Errors
    /// The expression has no result.
    pub(crate) fn evaluate(&self, input: ExpressionInput) -> Result<bool, ExpressionError> {
        if input.size() > LONGEST_INPUT {
            return Err(ExpressionError::TooLong);
        }
        let (request, client) = input.into_values();
        let mut scope = self.context.new_inner_scope();
        scope.add_variable_from_value("request", request);
        scope.add_variable_from_value("client", client);
        match scope.resolve(&self.tree) {
            Ok(Value::Bool(result)) => Ok(result),
            Ok(_) => Err(ExpressionError::NotBoolean),
            // The texts of other errors contain whole values.
            Err(ExecutionError::NoSuchKey(key)) => {
                Err(ExpressionError::Failed(format!("No such key: {key}")))
            }
            Err(ExecutionError::NoSuchOverload(error)) => {
                Err(ExpressionError::Failed(error.to_string()))
            }
            Err(ExecutionError::UndeclaredReference(name)) => {
                Err(ExpressionError::Failed(format!("unknown name {name}")))
            }
            Err(_) => Err(ExpressionError::Failed("the values do not fit".to_owned())),
        }
    }
}

impl ExpressionInput {
    fn size(&self) -> usize {
        let texts = [&self.method, &self.host, &self.path];
        let pairs = [&self.query, &self.headers, &self.cookies].into_iter().flatten();
        texts.iter().map(|text| text.len()).sum::<usize>()
            + pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// The variables `request` and `client`.
    fn into_values(self) -> (Value, Value) {
        let request: HashMap<&str, Value> = HashMap::from([
            ("method", self.method.into()),
            ("scheme", self.scheme.into()),
            ("host", self.host.into()),
            ("path", self.path.into()),
            ("query", self.query.into()),
            ("headers", self.headers.into()),
            ("cookies", self.cookies.into()),
            ("upgrade", Value::Bool(self.upgrade)),
        ]);
        let (subject, fingerprint) = self.certificate;
        let certificate: HashMap<&str, Value> =
            HashMap::from([("subject", subject.into()), ("fingerprint", fingerprint.into())]);
        let client: HashMap<&str, Value> =
            HashMap::from([("ip", self.ip.into()), ("certificate", certificate.into())]);
        (request.into(), client.into())
    }
}

/// A request that every expression can be tried with.
fn sample() -> ExpressionInput {
    ExpressionInput {
        method: "GET".to_owned(),
        scheme: "https",
        host: "example.com".to_owned(),
        path: "/".to_owned(),
        ip: "192.0.2.1".to_owned(),
        ..ExpressionInput::default()
    }
}

/// The function that matches the literal with this index.
fn pattern_function(index: usize) -> String {
    format!("@matches{index}")
}

/// The offset of a line and a column; both count from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line - 1).unwrap_or_default();
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let column = usize::try_from(column - 1).unwrap_or_default();
    let rest = text.get(start..).unwrap_or_default();
    start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at)
}

/// The part of a tree that was checked.
struct CheckedTree<'s> {
    source: &'s SourceInfo,
    nodes: usize,
    additions: usize,
    /// The compiled literals of `matches`.
    patterns: Vec<Regex>,
}

impl CheckedTree<'_> {
    /// Checks a part of the tree, and replaces its regular expressions by compiled ones.
    fn visit(&mut self, node: &mut IdedExpr) -> Result<(), ExpressionFault> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            let wrong = InvalidValue::new(format!("an expression of more than {MOST_NODES} parts"));
            return Err(self.fault(node.id, wrong.help("write a shorter one, or several routes")));
        }
        let id = node.id;
        match &mut node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(id, name),
            Expr::Select(select) => {
                if let Expr::Ident(variable) = &select.operand.expr {
                    self.field(id, variable, &select.field)?;
                }
                self.visit(&mut select.operand)
            }
            Expr::List(list) => list.elements.iter_mut().try_for_each(|part| self.visit(part)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| match &mut entry.expr {
                EntryExpr::StructField(field) => self.visit(&mut field.value),
                EntryExpr::MapEntry(entry) => {
                    self.visit(&mut entry.key)?;
                    self.visit(&mut entry.value)
                }
            }),
            Expr::Call(call) => self.call(id, call),
            Expr::Comprehension(_) => {
                let wrong = InvalidValue::new("loops are not supported");
                let help = "`all`, `exists`, `exists_one`, `map` and `filter` could take too long; use `in` or `matches`";
                Err(self.fault(id, wrong.help(help)))
            }
            Expr::Struct(_) => Err(self.fault(id, InvalidValue::new("messages are not supported"))),
        }
    }

    fn variable(&self, id: u64, name: &str) -> Result<(), ExpressionFault> {
        if VARIABLES.contains(&name) {
            return Ok(());
        }
        let wrong = InvalidValue::new(format!("unknown name {}", quoted(name)));
        Err(self.fault(
            id,
            match REQUEST.contains(&name) {
                true => wrong.help(format!("write `request.{name}`")),
                false => wrong.help("the names are `request` and `client`"),
            },
        ))
    }

    /// Checks the field of a variable.
    fn field(&self, id: u64, variable: &str, field: &str) -> Result<(), ExpressionFault> {
        let fields: &[&str] = match variable {
            "request" => &REQUEST,
            "client" => &CLIENT,
            _ => return Ok(()),
        };
        if fields.contains(&field) {
            return Ok(());
        }
        let wrong = InvalidValue::new(format!("`{variable}` has no field {}", quoted(field)));
        Err(self.fault_of(
            id,
            field,
            match nearest(field, fields.iter().copied()) {
                Some(near) => wrong.help(format!("did you mean `{near}`?")),
                None => wrong.help(format!("the fields are {}", fields.join(", "))),
            },
        ))
    }

    fn call(&mut self, id: u64, call: &mut CallExpr) -> Result<(), ExpressionFault> {
        let name = call.func_name.as_str();
        let is_function = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_function && !FUNCTIONS.contains(&name) {
            let wrong = InvalidValue::new(format!("unknown function {}", quoted(name)));
            return Err(self.fault_of(
                id,
                name,
                match nearest(name, FUNCTIONS.into_iter()) {
                    Some(near) => wrong.help(format!("did you mean `{near}`?")),
                    None => wrong.help(format!("the functions are {}", FUNCTIONS.join(", "))),
                },
            ));
        }
        if name == "_+_" {
            self.additions += 1;
            if self.additions > MOST_ADDITIONS {
                let wrong = InvalidValue::new(format!("more than {MOST_ADDITIONS} additions"));
                return Err(self.fault(id, wrong.help("compare the parts instead")));
            }
        }
        if name == "matches" {
            self.pattern(id, call)?;
        }
        if let Some(target) = &mut call.target {
            self.visit(target)?;
        }
        call.args.iter_mut().try_for_each(|part| self.visit(part))
    }

    /// Replaces `text.matches("…")` and `matches(text, "…")` by a call of the compiled expression, which matches a part of
    /// the text.
    fn pattern(&mut self, id: u64, call: &mut CallExpr) -> Result<(), ExpressionFault> {
        let pattern = call.args.pop();
        let text = call.target.take().map(|target| *target).or_else(|| call.args.pop());
        let literal = pattern.as_ref().and_then(|pattern| match &pattern.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
            _ => None,
        });
        let (Some(literal), Some(text)) = (literal, text) else {
            let wrong = InvalidValue::new("the regular expression of `matches` must be a literal");
            return Err(self.fault(id, wrong.help("write `request.path.matches(\"^/v[0-9]+/\")`")));
        };
        // A match of a part, as the language defines it.
        let partial = whole_path(&format!("(?s:.*?)(?:{literal})(?s:.*)")).map_err(|wrong| {
            let own = whole_path(&literal).err().unwrap_or(wrong);
            self.fault(pattern.map_or(id, |pattern| pattern.id), own)
        })?;
        call.func_name = pattern_function(self.patterns.len());
        call.args = vec![text];
        self.patterns.push(partial);
        Ok(())
    }

    /// A fault of a name, which is before the parenthesis or behind the dot that is the place of its node.
    fn fault_of(&self, id: u64, name: &str, wrong: InvalidValue) -> ExpressionFault {
        let ExpressionFault { at, wrong } = self.fault(id, wrong);
        let (before, after) = self.source.source.split_at(at.start);
        let at = match (before.ends_with(name), after.strip_prefix('.')) {
            (true, _) => at.start - name.len()..at.start,
            (_, Some(rest)) if rest.starts_with(name) => at.start + 1..at.start + 1 + name.len(),
            _ => at,
        };
        ExpressionFault { at, wrong }
    }

    fn fault(&self, id: u64, wrong: InvalidValue) -> ExpressionFault {
        let text = &self.source.source;
        // The place counts characters, and its end is the last character.
        let (start, end) = self.source.offset_for(id).unwrap_or((0, u32::MAX));
        let byte = |place: u32| {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            text.char_indices().nth(place).map_or(text.len(), |(at, _)| at)
        };
        let start = byte(start);
        ExpressionFault { at: start..byte(end.saturating_add(1)).max(start + 1), wrong }
    }
}

#[cfg(test)]
mod tests;
