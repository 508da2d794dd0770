//! A document: its text, its references and its operations.

use std::collections::HashMap;

use http::Method;
use serde_json::{Map, Value};

use super::{
    fault::{ApiDocumentFault, RequestRefusal},
    operation::{ApiOperation, escape},
    path::{PathTemplate, without_base},
    places, references,
    rules::{ApiRules, RuleReading},
    schemas::SchemaCompiler,
};

/// Largest document, in bytes.
pub(super) const LARGEST: usize = 8 << 20;

/// Most operations of a document.
const MOST_OPERATIONS: usize = 10_000;

/// Most faults of a document that are reported.
const MOST_FAULTS: usize = 20;

const METHODS: [Method; 8] = [
    Method::GET,
    Method::PUT,
    Method::POST,
    Method::DELETE,
    Method::OPTIONS,
    Method::HEAD,
    Method::PATCH,
    Method::TRACE,
];

/// An API description.
#[derive(Debug)]
pub(crate) struct ApiDocument {
    /// Hosts and base paths of its servers.
    pub(crate) servers: Vec<ApiServer>,
    operations: Vec<ApiOperation>,
    /// Operations by the number of segments of their paths, the most precise path first.
    by_length: HashMap<usize, Vec<usize>>,
}

/// A document with everything that it says about routes.
pub(crate) struct ReadDocument {
    /// Its value.
    pub(crate) value: Value,
    /// The document.
    pub(crate) document: ApiDocument,
    /// Its rules; none are placed if there are faults.
    pub(crate) rules: ApiRules,
    /// Faults of the rules.
    pub(crate) faults: Vec<ApiDocumentFault>,
}

impl ReadDocument {
    /// Parses a document in YAML or JSON.
    ///
    /// # Errors
    /// Its faults, except those of its rules.
    pub(crate) fn parse(text: &str, reading: RuleReading) -> Result<Self, Vec<ApiDocumentFault>> {
        let value = value(text).map_err(|fault| vec![fault])?;
        let document = ApiDocument::read(&value).map_err(|faults| placed(text, faults))?;
        let (rules, faults) = ApiRules::read(&Source { value: &value }, text, &document, reading);
        Ok(Self { value, document, rules, faults: placed(text, faults) })
    }
}

/// Adds the places to faults, in the order of the text.
fn placed(text: &str, mut faults: Vec<ApiDocumentFault>) -> Vec<ApiDocumentFault> {
    faults.truncate(MOST_FAULTS);
    for fault in &mut faults {
        fault.place = places::place(text, &fault.at);
    }
    faults.sort_by_key(|fault| fault.place.as_ref().map(|place| place.start));
    faults
}

/// A server of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiServer {
    /// Its host; `None`: that of the document.
    pub(crate) host: Option<String>,
    /// Path before all paths, without a slash at its end.
    pub(crate) base: String,
}

/// The operation of a request, and the parameters of its path.
#[derive(Debug)]
pub(crate) struct OperationMatch<'a> {
    /// Index of the operation.
    pub(crate) index: usize,
    /// The operation.
    pub(crate) operation: &'a ApiOperation,
    /// Parameters of the path, decoded.
    pub(crate) path: Vec<(&'a str, String)>,
}

impl ApiDocument {
    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<ApiDocumentFault>> {
        Self::parse_with_rules(text, RuleReading::Extensions).map(|(document, _)| document)
    }

    /// Parses a document in YAML or JSON, with its rules about routes.
    ///
    /// # Errors
    /// Its faults, with their places in the text.
    pub(crate) fn parse_with_rules(
        text: &str,
        reading: RuleReading,
    ) -> Result<(Self, ApiRules), Vec<ApiDocumentFault>> {
        let ReadDocument { document, rules, faults, .. } = ReadDocument::parse(text, reading)?;
        if faults.is_empty() { Ok((document, rules)) } else { Err(faults) }
    }

    fn read(value: &Value) -> Result<Self, Vec<ApiDocumentFault>> {
        let is_30 = is_version_30(value).map_err(|fault| vec![fault])?;
        references::check(value)?;
        let source = Source { value };
        let compiler = SchemaCompiler::new(value, is_30).map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        let operations = source.operations(&compiler, &mut faults);
        let servers = servers(value).unwrap_or_else(|fault| {
            faults.push(fault);
            Vec::new()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        let by_length = by_length(&operations);
        Ok(Self { servers, operations, by_length })
    }

    /// Returns the operations, in the order of the document.
    pub(crate) fn operations(&self) -> &[ApiOperation] {
        &self.operations
    }

    /// Returns the indices of the operations: fixed paths before those with parameters, operations of one path together.
    pub(crate) fn by_precision(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.operations.len()).collect();
        let rank = |index: &usize| std::cmp::Reverse(self.operations[*index].template.precision());
        order.sort_by(|one, other| {
            let paths = |index: &usize| &self.operations[*index].path;
            rank(one).cmp(&rank(other)).then_with(|| paths(one).cmp(paths(other)))
        });
        order
    }

    /// Finds the operation of a request. `path` comes without the base path of the server. A HEAD request without its own
    /// operation has that of GET.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<OperationMatch<'_>, RequestRefusal> {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let mut methods = Vec::new();
        let mut of_get = None;
        for index in self.by_length.get(&segments.len()).into_iter().flatten().copied() {
            let operation = &self.operations[index];
            let Some(path) = operation.template.match_path(&segments) else { continue };
            if operation.method == *method {
                return Ok(OperationMatch { index, operation, path });
            }
            if operation.method == Method::GET && of_get.is_none() {
                of_get = Some(OperationMatch { index, operation, path });
            }
            if !methods.contains(&operation.method) {
                methods.push(operation.method.clone());
            }
        }
        match of_get {
            Some(found) if *method == Method::HEAD => return Ok(found),
            Some(_) if !methods.contains(&Method::HEAD) => methods.push(Method::HEAD),
            _ => {}
        }
        Err(match methods.is_empty() {
            true => RequestRefusal::UnknownPath,
            false => RequestRefusal::UnknownMethod(methods),
        })
    }

    /// Removes the base path of a server from a path: the longest that fits; `None`: none fits.
    pub(crate) fn below_server<'p>(&self, path: &'p str) -> Option<&'p str> {
        let below = self.servers.iter().filter_map(|server| without_base(path, &server.base));
        below.min_by_key(|path| path.len())
    }
}

/// Reads the text of a document.
pub(crate) fn value(text: &str) -> Result<Value, ApiDocumentFault> {
    if text.len() > LARGEST {
        let message = format!("the document has more than {LARGEST} bytes");
        return Err(ApiDocumentFault::new("", message).help("describe fewer operations in it"));
    }
    // The escapes of JSON are not all escapes of YAML.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    serde_saphyr::from_str_with_options(text, places::limits()).map_err(|error| {
        let shown = error.without_snippet().to_string();
        let message = shown.lines().next().unwrap_or_default();
        // The place is shown with the line.
        let message = message.split(" at line ").next().unwrap_or_default();
        let place = error.location().and_then(|location| places::start(text, &location));
        let fault = ApiDocumentFault::new("", format!("this is not YAML or JSON: {message}"));
        ApiDocumentFault { place, ..fault.help("correct the text before this place") }
    })
}

/// Whether the version is 3.0; it is 3.1 otherwise.
fn is_version_30(document: &Value) -> Result<bool, ApiDocumentFault> {
    let version = document.get("openapi").and_then(Value::as_str).unwrap_or_default();
    match version {
        _ if version.starts_with("3.0.") => Ok(true),
        _ if version.starts_with("3.1.") => Ok(false),
        _ if document.get("swagger").is_some() => {
            Err(ApiDocumentFault::new("/swagger", "Swagger 2.0 is not supported")
                .help("convert the document to OpenAPI 3"))
        }
        "" if document.get("openapi").is_none() => {
            Err(ApiDocumentFault::new("", "this is not an OpenAPI document: `openapi` is missing")
                .help("begin it with `openapi: 3.1.0`"))
        }
        _ => Err(ApiDocumentFault::new("/openapi", "this version of OpenAPI is not supported")
            .help("use 3.0 or 3.1, in quotes: `openapi: \"3.1.0\"`")),
    }
}

fn by_length(operations: &[ApiOperation]) -> HashMap<usize, Vec<usize>> {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(operations[*index].template.precision()));
    let mut by_length: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in order {
        by_length.entry(operations[index].template.len()).or_default().push(index);
    }
    by_length
}

fn no_url(index: usize) -> ApiDocumentFault {
    ApiDocumentFault::new(format!("/servers/{index}"), "the server has no `url`")
        .help("write for example `url: https://api.example.com/v1`")
}

fn servers(document: &Value) -> Result<Vec<ApiServer>, ApiDocumentFault> {
    let listed = document.get("servers").and_then(Value::as_array);
    let Some(listed) = listed.filter(|listed| !listed.is_empty()) else {
        return Ok(vec![ApiServer { host: None, base: String::new() }]);
    };
    let mut servers = Vec::new();
    for (index, server) in listed.iter().enumerate() {
        let url = server.get("url").and_then(Value::as_str);
        let mut url = url.ok_or_else(|| no_url(index))?.to_owned();
        for (name, variable) in
            server.get("variables").and_then(Value::as_object).into_iter().flatten()
        {
            let default = variable.get("default").and_then(Value::as_str).unwrap_or_default();
            url = url.replace(&format!("{{{name}}}"), default);
        }
        let (host, base) = match url.split_once("://") {
            Some((_, rest)) => {
                let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
                (Some(host.to_ascii_lowercase()), base)
            }
            None => (None, url.trim_start_matches(['.', '/'])),
        };
        let base = base.trim_end_matches('/');
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        servers.push(ApiServer { host, base });
    }
    Ok(servers)
}

/// A document while it is read: values by their JSON pointers.
pub(super) struct Source<'a> {
    value: &'a Value,
}

impl<'a> Source<'a> {
    /// Reads all operations. What is wrong is added to `faults`.
    fn operations(
        &self,
        compiler: &SchemaCompiler<'_>,
        faults: &mut Vec<ApiDocumentFault>,
    ) -> Vec<ApiOperation> {
        let mut operations = Vec::new();
        let paths = self.names("/paths").unwrap_or_else(|fault| {
            faults.push(fault);
            Vec::new()
        });
        for path in paths.iter().filter(|path| !path.starts_with("x-")) {
            let named = format!("/paths/{}", escape(path));
            let read = self.resolve(&named).and_then(|at| {
                let template = PathTemplate::parse(path).ok_or_else(|| {
                    ApiDocumentFault::new(&*named, "the path is not valid")
                        .help("begin it with `/`, and write parameters as `{name}`")
                })?;
                self.object(&at)?;
                Ok((at, template))
            });
            let (at, template) = match read {
                Ok(read) => read,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            for method in METHODS {
                if self.has(&format!("{at}/{}", method.as_str().to_ascii_lowercase())) {
                    match ApiOperation::read(self, compiler, (&at, method), template.clone()) {
                        Ok(operation) => operations.push(operation),
                        Err(fault) => faults.push(fault),
                    }
                }
            }
        }
        if operations.len() > MOST_OPERATIONS {
            let message = format!("there are more than {MOST_OPERATIONS} operations");
            faults.push(ApiDocumentFault::new("/paths", message).help("describe fewer operations"));
        }
        operations
    }

    pub(super) fn value(&self, pointer: &str) -> Option<&'a Value> {
        self.value.pointer(pointer)
    }

    pub(super) fn has(&self, pointer: &str) -> bool {
        self.value(pointer).is_some()
    }

    /// Follows references from a place; returns the pointer of what is meant. All references have been checked.
    pub(super) fn resolve(&self, pointer: &str) -> Result<String, ApiDocumentFault> {
        let mut at = pointer.to_owned();
        for _ in 0..=references::LONGEST_CHAIN {
            let reference = self.value(&at).and_then(|value| value.get("$ref")?.as_str());
            let Some(reference) = reference else { return Ok(at) };
            match references::target(reference).filter(|target| self.has(target)) {
                Some(target) => at = target,
                // An anchor: only schemas have them.
                None => return Ok(at),
            }
        }
        Err(references::circle(pointer))
    }

    /// The object at a place.
    pub(super) fn object(&self, pointer: &str) -> Result<&'a Map<String, Value>, ApiDocumentFault> {
        let object = self.value(pointer).and_then(Value::as_object);
        object.ok_or_else(|| {
            ApiDocumentFault::new(pointer, "this is not an object").help("write members below it")
        })
    }

    /// Names of the members of an object; none if there is no value.
    pub(super) fn names(&self, pointer: &str) -> Result<Vec<String>, ApiDocumentFault> {
        match self.has(pointer) {
            true => Ok(self.object(pointer)?.keys().cloned().collect()),
            false => Ok(Vec::new()),
        }
    }

    /// Pointers of the elements of an array; none if there is no value.
    pub(super) fn elements(&self, pointer: &str) -> Result<Vec<String>, ApiDocumentFault> {
        match self.value(pointer) {
            None => Ok(Vec::new()),
            Some(Value::Array(elements)) => {
                Ok((0..elements.len()).map(|index| format!("{pointer}/{index}")).collect())
            }
            Some(_) => {
                Err(ApiDocumentFault::new(pointer, "this is not an array")
                    .help("begin it with `- `"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
