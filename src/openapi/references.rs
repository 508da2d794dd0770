//! The references of a document, checked before anything follows them.
//!
//! A reference leads to a place in the document. It never leads to a file or another host, and a chain of references ends.

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{fault::ApiDocumentFault, operation::escape};

/// Longest chain of references.
pub(super) const LONGEST_CHAIN: usize = 32;

/// Names of members that have values, not schemas: a `$ref` in them is not a reference.
const EXAMPLES: [&str; 5] = ["example", "examples", "default", "enum", "const"];

/// Checks all references of a document.
///
/// # Errors
/// References that lead out of the document or nowhere, or in a circle.
pub(super) fn check(document: &Value) -> Result<(), Vec<ApiDocumentFault>> {
    // Parts with their own addresses have other bases for their references.
    let mut checked =
        CheckedReferences { document, has_bases: has_ids(document), faults: Vec::new() };
    checked.visit(document, &mut String::new());
    match checked.faults.is_empty() {
        true => Ok(()),
        false => Err(checked.faults),
    }
}

/// The fault of references that have no end.
pub(super) fn circle(at: &str) -> ApiDocumentFault {
    ApiDocumentFault::new(at, "the references lead in a circle")
        .help("replace one of the references by a value")
}

/// The pointer that a reference within the document has.
pub(super) fn target(reference: &str) -> Option<String> {
    let fragment = reference.strip_prefix('#')?;
    Some(percent_decode_str(fragment).decode_utf8_lossy().into_owned())
}

struct CheckedReferences<'a> {
    document: &'a Value,
    has_bases: bool,
    faults: Vec<ApiDocumentFault>,
}

impl CheckedReferences<'_> {
    fn visit(&mut self, value: &Value, at: &mut String) {
        let length = at.len();
        match value {
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    at.push_str(&format!("/{index}"));
                    self.visit(element, at);
                    at.truncate(length);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    if EXAMPLES.contains(&name.as_str()) && !at.ends_with("/properties") {
                        continue;
                    }
                    at.push('/');
                    at.push_str(&escape(name));
                    match member {
                        Value::String(reference) if name == "$ref" => {
                            self.faults.extend(self.fault(reference, at));
                        }
                        _ => self.visit(member, at),
                    }
                    at.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn fault(&self, reference: &str, at: &str) -> Option<ApiDocumentFault> {
        let mut reference = reference.to_owned();
        for _ in 0..LONGEST_CHAIN {
            let Some(target) = target(&reference) else {
                let fault = ApiDocumentFault::new(at, "the reference leads out of the document");
                let fault = fault.help("move its target into this document: nothing is fetched");
                return (!self.has_bases).then_some(fault);
            };
            // The name of an anchor: the compiler of schemas knows it.
            if !target.is_empty() && !target.starts_with('/') {
                return None;
            }
            let Some(found) = self.document.pointer(&target) else {
                let fault = ApiDocumentFault::new(at, format!("the document has no `{target}`"));
                let fault = fault.help("correct the reference, or add what it names");
                return (!self.has_bases).then_some(fault);
            };
            reference = found.get("$ref")?.as_str()?.to_owned();
        }
        Some(circle(at))
    }
}

fn has_ids(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(has_ids),
        Value::Object(members) => {
            members.get("$id").is_some_and(Value::is_string) || members.values().any(has_ids)
        }
        _ => false,
    }
}
