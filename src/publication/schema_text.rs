//! Schemas as short texts. References are shown by name, and never followed.

use serde_json::{Map, Value};

/// Deepest nesting that is shown.
const DEEPEST: usize = 6;

/// Most members of an object, and most choices, that are shown.
const MOST: usize = 40;

/// Longest word.
const LONGEST: usize = 200;

/// Most schemas within one that are shown.
const MOST_PARTS: usize = 400;

/// Shows a schema in a few lines.
pub(super) fn schema(schema: &Value) -> String {
    part(schema, 0, &mut MOST_PARTS.clone())
}

/// Shows a part of a schema; `left` counts the parts that may still be shown.
fn part(schema: &Value, depth: usize, left: &mut usize) -> String {
    if *left == 0 {
        return "…".to_owned();
    }
    *left -= 1;
    let Some(members) = schema.as_object() else {
        return if *schema == Value::Bool(false) { "nothing" } else { "anything" }.to_owned();
    };
    if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
        return short(reference.rsplit('/').next().unwrap_or(reference));
    }
    if depth >= DEEPEST {
        return "…".to_owned();
    }
    for (key, word) in [("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")] {
        if let Some(Value::Array(choices)) = members.get(key) {
            let shown: Vec<String> =
                choices.iter().take(MOST).map(|choice| part(choice, depth + 1, left)).collect();
            return shown.join(word);
        }
    }
    if let Some(value) = members.get("const") {
        return short(value.to_string());
    }
    if let Some(Value::Array(values)) = members.get("enum") {
        let shown: Vec<String> =
            values.iter().take(MOST).map(|value| short(value.to_string())).collect();
        return shown.join(" | ");
    }
    let kinds = kinds(members);
    let mut text = match kinds.as_str() {
        "" if members.contains_key("properties") => object(members, depth, left),
        "object" => object(members, depth, left),
        "array" => {
            let items = members.get("items").unwrap_or(&Value::Bool(true));
            format!("array of {}", part(items, depth + 1, left))
        }
        "" => "anything".to_owned(),
        kinds => kinds.to_owned(),
    };
    let bounds = bounds(members);
    if !bounds.is_empty() {
        text.push_str(&format!(" ({bounds})"));
    }
    text
}

fn kinds(members: &Map<String, Value>) -> String {
    match members.get("type") {
        Some(Value::String(kind)) => short(kind),
        Some(Value::Array(kinds)) => {
            let kinds: Vec<String> =
                kinds.iter().filter_map(Value::as_str).take(8).map(short).collect();
            kinds.join(" or ")
        }
        _ => String::new(),
    }
}

fn object(members: &Map<String, Value>, depth: usize, left: &mut usize) -> String {
    let Some(Value::Object(properties)) = members.get("properties") else {
        return "object".to_owned();
    };
    let required = members.get("required").and_then(Value::as_array);
    let indent = "  ".repeat(depth + 1);
    let mut lines = Vec::new();
    for (name, property) in properties.iter().take(MOST) {
        let is_required = required.is_some_and(|names| names.iter().any(|other| other == name));
        let mark = if is_required { ", required" } else { "" };
        lines.push(format!("{indent}{}: {}{mark}", short(name), part(property, depth + 1, left)));
    }
    if properties.len() > MOST {
        lines.push(format!("{indent}… and {} more", properties.len() - MOST));
    }
    format!("{{\n{}\n{}}}", lines.join("\n"), "  ".repeat(depth))
}

fn bounds(members: &Map<String, Value>) -> String {
    let keys = [
        "format",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minItems",
        "maxItems",
        "default",
    ];
    let shown = keys.into_iter().filter_map(|key| {
        let value = members.get(key)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(format!("{key} {}", short(&text)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn short(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
