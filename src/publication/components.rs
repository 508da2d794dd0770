//! Components of several documents in one.

use serde_json::{Map, Value};

use crate::openapi::{ROUTE_KEY, ROUTES_KEY};

/// Deepest nesting that is rewritten. Documents are not deeper.
const DEEPEST: usize = 128;

/// How a document becomes part of another one.
pub(super) struct DocumentMove<'a> {
    /// Added to the names of components, if other documents have these names.
    pub(super) suffix: &'a str,
    /// Whether keys that begin with `x-moorline-` stay.
    pub(super) keeps_keys: bool,
    /// Whether the document has version 3.0.
    pub(super) is_30: bool,
}

impl DocumentMove<'_> {
    /// Rewrites a part of the document.
    pub(super) fn rewrite(&self, value: &mut Value, depth: usize) {
        if depth > DEEPEST {
            *value = Value::Null;
            return;
        }
        match value {
            Value::Array(elements) => {
                elements.iter_mut().for_each(|element| self.rewrite(element, depth + 1));
            }
            Value::Object(members) => {
                members.retain(|name, _| {
                    name != ROUTES_KEY && (self.keeps_keys || !name.starts_with("x-moorline-"))
                });
                if self.is_30 {
                    newer(members);
                }
                for (name, member) in members.iter_mut() {
                    match member {
                        Value::String(reference) if matches!(&**name, "$ref" | "$dynamicRef") => {
                            *reference = self.reference(reference);
                        }
                        _ if name == ROUTE_KEY => {}
                        member => self.rewrite(member, depth + 1),
                    }
                }
            }
            _ => {}
        }
    }

    /// A reference to a component under its new name.
    fn reference(&self, reference: &str) -> String {
        let mut parts: Vec<&str> = reference.split('/').collect();
        if self.suffix.is_empty() || parts.len() < 4 || parts[..2] != ["#", "components"] {
            return reference.to_owned();
        }
        let name = self.named(parts[3]);
        parts[3] = &name;
        parts.join("/")
    }

    /// The new name of a component.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }
}

/// Turns keywords of schemas of OpenAPI 3.0 into those of 3.1.
fn newer(schema: &mut Map<String, Value>) {
    if schema.remove("nullable") == Some(Value::Bool(true)) {
        if let Some(Value::String(kind)) = schema.get("type") {
            schema.insert("type".to_owned(), serde_json::json!([kind, "null"]));
        }
        if let Some(Value::Array(values)) = schema.get_mut("enum") {
            values.push(Value::Null);
        }
    }
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        match schema.get(exclusive) {
            Some(Value::Bool(true)) => {
                schema.remove(exclusive);
                if let Some(limit) = schema.remove(bound) {
                    schema.insert(exclusive.to_owned(), limit);
                }
            }
            Some(Value::Bool(false)) => drop(schema.remove(exclusive)),
            _ => {}
        }
    }
}
