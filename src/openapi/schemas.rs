//! The JSON Schemas of a document, compiled.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use jsonschema::{Draft, PatternOptions, Registry, Validator};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{
    fault::ApiDocumentFault,
    listing::{self, SchemaGraph},
    operation::escape,
};

/// Name of the document among the resources of its schemas.
const NAME: &str = "urn:moorline:api";

/// Maximum size of a compiled pattern, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// What is encoded in a fragment of a URI.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'~').remove(b'-').remove(b'.').remove(b'_');

/// Keywords whose members are schemas.
const SCHEMAS_BY_NAME: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Deepest nesting that is converted.
const DEEPEST: usize = 128;

/// Longest reason of a fault, in characters. It may have names of members, which may have any length.
const LONGEST_REASON: usize = 200;

/// Longest pointer of a fault, in characters.
const LONGEST_POINTER: usize = 500;

/// A schema, compiled.
#[derive(Debug)]
pub(super) struct CompiledSchema {
    validator: Validator,
    /// In how many ways it leads to itself.
    ways: u64,
}

impl CompiledSchema {
    /// Whether a value is valid. Takes linear time.
    pub(super) fn is_valid(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// Returns the first faults of a value, each with its JSON pointer; `None`: it takes too long to list them. They contain
    /// no part of the value.
    pub(super) fn faults(&self, value: &Value, most: usize) -> Option<Vec<(String, String)>> {
        if !listing::is_cheap(value, self.ways) {
            return None;
        }
        let errors = self.validator.iter_errors(value).take(most);
        let faults = errors.map(|error| {
            let pointer = cut(error.instance_path().as_str(), LONGEST_POINTER);
            (pointer, cut(&error.masked().to_string(), LONGEST_REASON))
        });
        Some(faults.collect())
    }
}

/// At most this many characters of a text.
fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Compiles the schemas of a document, which are named by their JSON pointers.
pub(super) struct SchemaCompiler<'d> {
    registry: Registry<'static>,
    draft: Draft,
    /// Compiled schemas by their pointers: many operations use the same ones.
    compiled: RefCell<HashMap<String, Arc<CompiledSchema>>>,
    graph: SchemaGraph,
    document: &'d Value,
}

impl<'d> SchemaCompiler<'d> {
    /// Prepares the document. `is_30`: it has the schemas of OpenAPI 3.0.
    ///
    /// # Errors
    /// A reference leads nowhere, or out of the document.
    pub(super) fn new(document: &'d Value, is_30: bool) -> Result<Self, ApiDocumentFault> {
        let draft = if is_30 { Draft::Draft4 } else { Draft::Draft202012 };
        let mut schemas = document.clone();
        if is_30 {
            convert(&mut schemas, 0);
        }
        let wrong = |error: &dyn std::fmt::Display| {
            ApiDocumentFault::new("", format!("a schema cannot be read: {error}"))
                .help("correct the schema")
        };
        let resource = draft.create_resource(schemas);
        let registry = Registry::new()
            .draft(draft)
            .add(NAME, resource)
            .map_err(|error| wrong(&error))?
            .prepare()
            .map_err(|error| wrong(&error))?;
        Ok(Self {
            registry,
            draft,
            compiled: RefCell::default(),
            graph: SchemaGraph::default(),
            document,
        })
    }

    /// Compiles the schema at a JSON pointer, or returns it if it is compiled.
    ///
    /// # Errors
    /// It is not a valid schema.
    pub(super) fn compile(&self, pointer: &str) -> Result<Arc<CompiledSchema>, ApiDocumentFault> {
        if let Some(compiled) = self.compiled.borrow().get(pointer) {
            return Ok(Arc::clone(compiled));
        }
        let fragment = utf8_percent_encode(pointer, ENCODED);
        let reference = json!({ "$ref": format!("{NAME}#{fragment}") });
        let validator = self.build(&reference).map_err(|error| self.fault(pointer, &error))?;
        let ways = self.graph.ways(self.document, pointer);
        let compiled = Arc::new(CompiledSchema { validator, ways });
        self.compiled.borrow_mut().insert(pointer.to_owned(), Arc::clone(&compiled));
        Ok(compiled)
    }

    fn build(&self, schema: &Value) -> Result<Validator, String> {
        jsonschema::options()
            .with_draft(self.draft)
            .with_registry(&self.registry)
            .with_pattern_options(PatternOptions::regex().size_limit(LARGEST_PATTERN))
            .should_validate_formats(true)
            .build(schema)
            .map_err(|error| error.to_string())
    }

    /// The fault of a schema, at the innermost keyword that is not valid.
    fn fault(&self, pointer: &str, error: &str) -> ApiDocumentFault {
        let mut at = pointer.to_owned();
        let mut keyword = String::new();
        let mut left = 1_000;
        while let Some(schema) = self.document.pointer(&at).and_then(Value::as_object) {
            let is_wrong = |(name, value): &(&String, &Value)| {
                left -= 1;
                left > 0 && self.build(&json!({ name.as_str(): value })).is_err()
            };
            let Some((name, value)) = schema.iter().find(is_wrong) else { break };
            at = format!("{at}/{}", escape(name));
            keyword.clone_from(name);
            // The schema that is wrong in turn, within an object or an array of schemas.
            let within: Vec<(String, &Value)> = match value {
                Value::Object(members) if SCHEMAS_BY_NAME.contains(&name.as_str()) => members
                    .iter()
                    .map(|(name, value)| (format!("/{}", escape(name)), value))
                    .collect(),
                Value::Array(elements) => {
                    elements.iter().enumerate().map(|(i, value)| (format!("/{i}"), value)).collect()
                }
                _ => vec![(String::new(), value)],
            };
            let mut schemas = within.into_iter().filter(|(_, value)| value.is_object());
            let Some((below, _)) = schemas.find(|(_, value)| self.build(value).is_err()) else {
                break;
            };
            at.push_str(&below);
        }
        let help = match keyword.as_str() {
            "pattern" => {
                "patterns run in linear time: look-around and back-references are not supported"
            }
            "type" => "use string, number, integer, boolean, array, object or null",
            _ => "correct the schema",
        };
        ApiDocumentFault::new(at, format!("the schema is not valid: {error}")).help(help)
    }
}

/// Turns the keywords of OpenAPI 3.0 into those of JSON Schema: `nullable`.
fn convert(value: &mut Value, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    match value {
        Value::Array(elements) => {
            elements.iter_mut().for_each(|element| convert(element, depth + 1))
        }
        Value::Object(members) => {
            allow_null(members);
            for (name, member) in members.iter_mut() {
                // Examples are values, not schemas.
                if !matches!(&**name, "example" | "examples" | "default" | "enum") {
                    convert(member, depth + 1);
                }
            }
        }
        _ => {}
    }
}

fn allow_null(schema: &mut Map<String, Value>) {
    if schema.get("nullable") != Some(&Value::Bool(true)) {
        return;
    }
    schema.remove("nullable");
    if let Some(Value::String(kind)) = schema.get("type") {
        schema.insert("type".to_owned(), json!([kind, "null"]));
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}
