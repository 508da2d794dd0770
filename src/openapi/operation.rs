//! One operation of a document: what requests of a method and a path need.

use std::{fmt, sync::Arc};

use http::Method;
use serde_json::Value;

use super::{
    document::Source,
    fault::{ApiDocumentFault, ParameterPlace, RequestFault, RequestRefusal},
    parameter::{Parameter, ValueType},
    path::PathTemplate,
    schemas::{CompiledSchema, SchemaCompiler},
};
use crate::strict_json;

/// Most faults of a request that are reported.
const MOST_FAULTS: usize = 16;

/// Header fields that are not parameters, whatever a document says (OpenAPI 3.1 §4.8.12.2).
const NOT_PARAMETERS: [&str; 3] = ["Accept", "Content-Type", "Authorization"];

/// An operation.
#[derive(Debug)]
pub(crate) struct ApiOperation {
    /// Its id in the document.
    pub(crate) id: Option<String>,
    /// The method.
    pub(crate) method: Method,
    /// The path, as in the document.
    pub(crate) path: String,
    pub(super) template: PathTemplate,
    /// JSON pointers of its path and of the operation itself.
    pub(crate) places: [String; 2],
    parameters: Vec<Parameter>,
    body: Option<BodyRule>,
}

/// The body of an operation.
#[derive(Debug)]
struct BodyRule {
    required: bool,
    /// Media types, in lower case and without parameters, each with the schema of JSON.
    content: Vec<(String, Option<Arc<CompiledSchema>>)>,
}

/// What a request has, for its validation.
#[derive(Clone, Copy)]
pub(crate) struct RequestParts<'a> {
    /// Parameters of the query, decoded.
    pub(crate) query: &'a [(String, String)],
    /// Returns the values of a header field.
    pub(crate) header: &'a dyn Fn(&str) -> Vec<String>,
    /// Cookies.
    pub(crate) cookies: &'a [(String, String)],
    /// Value of `Content-Type`.
    pub(crate) content_type: Option<&'a str>,
    /// Whether there is a body.
    pub(crate) has_body: bool,
}

impl ApiOperation {
    /// Reads an operation. `path_item` is the pointer of its path.
    pub(super) fn read(
        source: &Source<'_>,
        compiler: &SchemaCompiler<'_>,
        (path_item, method): (&str, Method),
        template: PathTemplate,
    ) -> Result<Self, ApiDocumentFault> {
        let at = format!("{path_item}/{}", method.as_str().to_ascii_lowercase());
        let operation = source.object(&at)?;
        let mut parameters: Vec<Parameter> = Vec::new();
        // The operation's own parameters replace those of its path.
        for list in [path_item, &at] {
            for parameter in source.elements(&format!("{list}/parameters"))? {
                let parameter = read_parameter(source, compiler, &parameter)?;
                let is_named = |name: &&str| name.eq_ignore_ascii_case(&parameter.name);
                if parameter.place == ParameterPlace::Header && NOT_PARAMETERS.iter().any(is_named)
                {
                    continue;
                }
                parameters.retain(|other| {
                    (&other.name, other.place) != (&parameter.name, parameter.place)
                });
                parameters.push(parameter);
            }
        }
        for name in template.names() {
            let known = |parameter: &Parameter| {
                parameter.place == ParameterPlace::Path && parameter.name == name
            };
            if !parameters.iter().any(known) {
                let message = format!("the parameter {name} of the path is not described");
                let help =
                    format!("add `{{ name: {name}, in: path, required: true }}` to `parameters`");
                return Err(ApiDocumentFault::new(at, message).help(help));
            }
        }
        let body = match operation.contains_key("requestBody") {
            true => Some(BodyRule::read(source, compiler, &format!("{at}/requestBody"))?),
            false => None,
        };
        Ok(Self {
            id: operation.get("operationId").and_then(Value::as_str).map(str::to_owned),
            method,
            path: template.text.clone(),
            template,
            places: [path_item.to_owned(), at],
            parameters,
            body,
        })
    }

    /// Checks everything but the content of the body. `path` has the parameters of the path.
    ///
    /// # Errors
    /// The faults of the parameters, or else that of the body.
    pub(crate) fn check_head(
        &self,
        path: &[(&str, String)],
        parts: &RequestParts<'_>,
    ) -> Result<(), RequestRefusal> {
        let check = |parameter: &Parameter| parameter.check(&values(parameter, path, parts));
        let faults: Vec<_> = self.parameters.iter().filter_map(check).take(MOST_FAULTS).collect();
        if !faults.is_empty() {
            return Err(RequestRefusal::Invalid(faults));
        }
        match &self.body {
            Some(body) if parts.has_body => body.rule(parts.content_type).map(|_| ()),
            Some(body) if body.required => Err(missing_body()),
            _ => Ok(()),
        }
    }

    /// Whether the content of a body of this type is checked.
    pub(crate) fn checks_body(&self, content_type: Option<&str>) -> bool {
        self.body.as_ref().is_some_and(|body| matches!(body.rule(content_type), Ok(Some(_))))
    }

    /// Checks the content of a body.
    ///
    /// # Errors
    /// Its faults.
    pub(crate) fn check_body(
        &self,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<(), RequestRefusal> {
        let Some(rule) = &self.body else { return Ok(()) };
        let Some(schema) = rule.rule(content_type)? else { return Ok(()) };
        if body.is_empty() {
            return if rule.required { Err(missing_body()) } else { Ok(()) };
        }
        let Some(value) = strict_json::value(body) else {
            let why = "it is not JSON, or an object in it has a name twice".to_owned();
            return Err(RequestRefusal::Invalid(vec![RequestFault::Body(String::new(), why)]));
        };
        match schema.is_valid(&value) {
            true => Ok(()),
            false => Err(RequestRefusal::Invalid(faults(schema, &value))),
        }
    }
}

impl fmt::Display for ApiOperation {
    /// Its id, or else method and path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => f.write_str(id),
            None => write!(f, "{} {}", self.method, self.path),
        }
    }
}

fn missing_body() -> RequestRefusal {
    RequestRefusal::Invalid(vec![RequestFault::Body(String::new(), "it is missing".to_owned())])
}

/// The values of a parameter in a request.
fn values(parameter: &Parameter, path: &[(&str, String)], parts: &RequestParts<'_>) -> Vec<String> {
    let named = |list: &[(String, String)]| -> Vec<String> {
        let named = list.iter().filter(|(name, _)| *name == parameter.name);
        named.map(|(_, value)| value.clone()).collect()
    };
    match parameter.place {
        ParameterPlace::Path => {
            let named = path.iter().filter(|(name, _)| *name == parameter.name);
            named.map(|(_, value)| value.clone()).collect()
        }
        ParameterPlace::Query => named(parts.query),
        ParameterPlace::Cookie => named(parts.cookies),
        ParameterPlace::Header => (parts.header)(&parameter.name),
    }
}

/// The faults of a body that is not valid.
fn faults(schema: &CompiledSchema, value: &Value) -> Vec<RequestFault> {
    match schema.faults(value, MOST_FAULTS) {
        Some(faults) => faults.into_iter().map(|(at, why)| RequestFault::Body(at, why)).collect(),
        None => {
            let why = "it does not match its schema, and is too large or too deep to say where";
            vec![RequestFault::Body(String::new(), why.to_owned())]
        }
    }
}

impl BodyRule {
    fn read(
        source: &Source<'_>,
        compiler: &SchemaCompiler<'_>,
        at: &str,
    ) -> Result<Self, ApiDocumentFault> {
        let at = source.resolve(at)?;
        let body = source.object(&at)?;
        let mut content = Vec::new();
        for media_type in source.names(&format!("{at}/content"))? {
            let schema = format!("{at}/content/{}/schema", escape(&media_type));
            let lower = essence(&media_type).to_ascii_lowercase();
            let checked = is_json(&lower) && source.has(&schema);
            let schema = match checked {
                true => Some(compiler.compile(&source.resolve(&schema)?)?),
                false => None,
            };
            content.push((lower, schema));
        }
        let required = body.get("required") == Some(&Value::Bool(true));
        Ok(Self { required, content })
    }

    /// The schema for a type; `Ok(None)`: bodies of this type are not checked.
    fn rule(&self, content_type: Option<&str>) -> Result<Option<&CompiledSchema>, RequestRefusal> {
        let typed = essence(content_type.unwrap_or_default()).to_ascii_lowercase();
        let covers = |pattern: &str| match pattern.strip_suffix("/*") {
            Some("*") => true,
            Some(family) => typed.split_once('/').is_some_and(|(start, _)| start == family),
            None => pattern == typed,
        };
        let exact = self.content.iter().find(|(known, _)| *known == typed);
        let found = exact.or_else(|| self.content.iter().find(|(pattern, _)| covers(pattern)));
        found.map(|(_, schema)| schema.as_deref()).ok_or(RequestRefusal::MediaType)
    }
}

fn read_parameter(
    source: &Source<'_>,
    compiler: &SchemaCompiler<'_>,
    at: &str,
) -> Result<Parameter, ApiDocumentFault> {
    let at = source.resolve(at)?;
    let parameter = source.object(&at)?;
    let text = |key: &str| parameter.get(key).and_then(Value::as_str);
    let (Some(name), Some(place)) = (text("name"), text("in").and_then(ParameterPlace::named))
    else {
        let fault = ApiDocumentFault::new(format!("{at}/in"), "a parameter needs `name` and `in`");
        return Err(fault.help("write a name, and `in: path`, `query`, `header` or `cookie`"));
    };
    let schema = format!("{at}/schema");
    let (kinds, element_kinds) = match source.has(&schema) {
        true => {
            let schema = source.resolve(&schema)?;
            let items = format!("{schema}/items");
            let elements = if source.has(&items) {
                types(source, &source.resolve(&items)?)
            } else {
                Vec::new()
            };
            (types(source, &schema), elements)
        }
        false => (Vec::new(), Vec::new()),
    };
    let style = text("style").unwrap_or(match place {
        ParameterPlace::Query | ParameterPlace::Cookie => "form",
        ParameterPlace::Path | ParameterPlace::Header => "simple",
    });
    // Objects in parameters have forms that the schema alone does not describe.
    let understood = matches!(style, "form" | "simple" | "spaceDelimited" | "pipeDelimited")
        && !kinds.contains(&ValueType::Object);
    let checked = source.has(&schema) && understood;
    Ok(Parameter {
        name: name.to_owned(),
        place,
        required: parameter.get("required") == Some(&Value::Bool(true))
            || place == ParameterPlace::Path,
        explode: place == ParameterPlace::Query
            && parameter.get("explode").and_then(Value::as_bool).unwrap_or(style == "form"),
        separator: match style {
            "spaceDelimited" => ' ',
            "pipeDelimited" => '|',
            _ => ',',
        },
        kinds,
        element_kinds,
        schema: checked.then(|| compiler.compile(&schema)).transpose()?,
    })
}

/// The types that a schema names.
fn types(source: &Source<'_>, schema: &str) -> Vec<ValueType> {
    let named = source.value(&format!("{schema}/type"));
    let mut types: Vec<ValueType> = match named {
        Some(Value::String(name)) => ValueType::named(name).into_iter().collect(),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).filter_map(ValueType::named).collect()
        }
        _ => Vec::new(),
    };
    if source.value(&format!("{schema}/nullable")) == Some(&Value::Bool(true)) {
        types.push(ValueType::Null);
    }
    types
}

/// A media type without parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

/// A name within a JSON pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
