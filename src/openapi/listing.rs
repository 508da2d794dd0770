//! What it costs to list the faults of a value.
//!
//! Whether a value is valid is found in linear time, since the results of recursive schemas are remembered. Its faults are
//! searched without that memory: a schema that leads to itself in several ways is searched in all combinations of them. They
//! are listed only while that is cheap.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use serde_json::Value;

use super::references;

/// Greatest cost of a listing, in visits of values.
const MOST_VISITS: u64 = 50_000;

/// Keywords whose schemas may apply to one value together.
const TOGETHER: [&str; 5] = ["patternProperties", "then", "else", "dependentSchemas", "contains"];

/// The references in a part of a document, by its pointer.
#[derive(Debug, Default)]
pub(super) struct SchemaGraph {
    parts: RefCell<HashMap<String, SchemaPart>>,
}

#[derive(Clone, Debug)]
struct SchemaPart {
    targets: Vec<String>,
    /// In how many ways one schema applies others to the same value.
    ways: u64,
    /// There is a reference that is not a pointer.
    is_opaque: bool,
}

impl SchemaGraph {
    /// Returns in how many ways the schema at `pointer` leads to itself: 1 if it does not, or in one way.
    pub(super) fn ways(&self, document: &Value, pointer: &str) -> u64 {
        let (mut ways, mut is_recursive) = (1, false);
        let (mut seen, mut left) = (HashSet::new(), vec![pointer.to_owned()]);
        while let Some(pointer) = left.pop() {
            if !seen.insert(pointer.clone()) {
                // Two references to one schema count as recursive: that errs on the safe side.
                is_recursive = true;
                continue;
            }
            let mut parts = self.parts.borrow_mut();
            let part = parts.entry(pointer).or_insert_with_key(|pointer| part(document, pointer));
            ways = ways.max(part.ways);
            is_recursive |= part.is_opaque;
            left.extend(part.targets.iter().cloned());
        }
        if is_recursive { ways } else { 1 }
    }
}

fn part(document: &Value, pointer: &str) -> SchemaPart {
    let mut part = SchemaPart { targets: Vec::new(), ways: 1, is_opaque: false };
    let mut left: Vec<&Value> = document.pointer(pointer).into_iter().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::Array(elements) => left.extend(elements),
            Value::Object(members) => {
                for (name, member) in members {
                    match (name.as_str(), member) {
                        ("$ref", Value::String(reference)) => match references::target(reference) {
                            Some(target) if target.is_empty() || target.starts_with('/') => {
                                part.targets.push(target);
                            }
                            _ => (part.is_opaque, part.ways) = (true, part.ways.max(2)),
                        },
                        ("$dynamicRef" | "$recursiveRef", _) => {
                            (part.is_opaque, part.ways) = (true, part.ways.max(2));
                        }
                        ("anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => {
                            part.ways = part.ways.max(schemas.len() as u64);
                        }
                        (name, _) if TOGETHER.contains(&name) => part.ways = part.ways.max(2),
                        _ => {}
                    }
                    left.push(member);
                }
            }
            _ => {}
        }
    }
    part
}

/// Whether the faults of a value can be listed, with a schema that leads to itself in `ways` ways.
pub(super) fn is_cheap(value: &Value, ways: u64) -> bool {
    let mut visits: u64 = 0;
    let mut left = vec![(value, 1_u64)];
    while let Some((value, cost)) = left.pop() {
        visits = visits.saturating_add(cost);
        if visits > MOST_VISITS {
            return false;
        }
        let below = cost.saturating_mul(ways);
        match value {
            Value::Array(elements) => left.extend(elements.iter().map(|element| (element, below))),
            Value::Object(members) => left.extend(members.values().map(|member| (member, below))),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ways_are_those_of_recursive_schemas() {
        let document = json!({ "schemas": {
            "Plain": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
            "Tree": { "properties": { "below": { "items": { "$ref": "#/schemas/Tree" } } } },
            "Term": { "oneOf": [{ "$ref": "#/schemas/And" }, { "$ref": "#/schemas/Plain" }, true] },
            "And": { "properties": { "left": { "$ref": "#/schemas/Term" } } },
            "Named": { "$dynamicRef": "#node" },
        } });
        let graph = SchemaGraph::default();
        for (name, ways) in [("Plain", 1), ("Tree", 1), ("Term", 3), ("And", 3), ("Named", 2)] {
            assert_eq!(graph.ways(&document, &format!("/schemas/{name}")), ways, "{name}");
        }
    }

    #[test]
    fn deep_values_are_dear_for_several_ways() {
        let nested = |depth| (0..depth).fold(json!(1), |below, _| json!({ "a": below }));
        assert!(is_cheap(&nested(10), 2) && !is_cheap(&nested(20), 2));
        assert!(is_cheap(&nested(100), 1));
        assert!(!is_cheap(&json!(vec![0; 60_000]), 1));
    }
}
