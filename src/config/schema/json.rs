//! The JSON Schema of a configuration, for editors and for checks without Moorline.
//!
//! Draft 7, which Taplo and Even Better TOML understand. A string with `${…}` is accepted in place of any
//! scalar. The keys of listeners and pools are not required here, since another file may have them.

use serde_json::{Map, Value, json};

use super::{DefaultValue, SECTIONS, SchemaKey, Section, ValueKind};

/// A reference to the environment, within a string.
const REFERENCE: &str = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}";

/// The JSON Schema of the main file and of included files.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    for (index, section) in SECTIONS.iter().enumerate().skip(1) {
        definitions.insert(id(index), table(section));
    }
    definitions.insert("environment".to_owned(), json!({ "type": "string", "pattern": REFERENCE }));
    let mut schema = table(SECTIONS[0]);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Moorline configuration");
    schema["definitions"] = Value::Object(definitions);
    schema
}

/// The name of a section's definition: `pools.NAME.health`. The second of two with one name gets a
/// number.
fn id(index: usize) -> String {
    let name = SECTIONS[index].name;
    match SECTIONS[..index].iter().filter(|section| section.name == name).count() {
        0 => name.to_owned(),
        before => format!("{name}-{before}"),
    }
}

fn reference(section: &Section) -> Value {
    let index = SECTIONS.iter().position(|known| std::ptr::eq(*known, section));
    json!({ "$ref": format!("#/definitions/{}", index.map(id).unwrap_or_default()) })
}

fn table(section: &Section) -> Value {
    let properties = section.keys.iter().map(|key| (key.name.to_owned(), property(key)));
    let mut table = json!({
        "type": "object",
        "properties": properties.collect::<Map<_, _>>(),
        "additionalProperties": false,
    });
    let required = section.keys.iter().filter(|key| matches!(key.default, DefaultValue::Required));
    let required: Vec<&str> = required.map(|key| key.name).collect();
    if !required.is_empty() && !is_split(section) {
        table["required"] = json!(required);
    }
    table
}

/// Whether the keys of a section may be spread over several files.
fn is_split(section: &Section) -> bool {
    matches!(section.name, "" | "listeners.NAME" | "pools.NAME")
}

fn property(key: &SchemaKey) -> Value {
    let mut property = value(&key.kind);
    // Draft 7 ignores what stands beside `$ref`.
    if property.get("$ref").is_some() {
        property = json!({ "allOf": [property] });
    }
    property["description"] = json!(plain(key.about));
    if let Some(default) = typed(key.default) {
        property["default"] = default;
    }
    if let Some(example) = parsed(key.example) {
        property["examples"] = json!([example]);
    }
    property
}

/// The default as JSON, if it is a value.
fn typed(default: DefaultValue) -> Option<Value> {
    match default {
        DefaultValue::Value(text) => parsed(text),
        DefaultValue::Required | DefaultValue::Words(_) => None,
    }
}

/// A TOML value as JSON.
fn parsed(text: &str) -> Option<Value> {
    let table: Map<String, Value> = toml::from_str(&format!("value = {text}")).ok()?;
    table.get("value").cloned()
}

/// A description without the links of the reference page.
fn plain(about: &str) -> String {
    let mut text = String::with_capacity(about.len());
    let mut rest = about;
    while let Some(at) = rest.find("](#") {
        let Some(end) = rest[at..].find(')') else { break };
        let (before, after) = (&rest[..at], &rest[at + end + 1..]);
        match before.rfind("[`").or_else(|| before.rfind('[')) {
            Some(open) => {
                text.push_str(&before[..open]);
                text.push_str(&before[open + 1..]);
            }
            None => text.push_str(before),
        }
        rest = after;
    }
    text + rest
}

fn value(kind: &ValueKind) -> Value {
    match kind {
        ValueKind::Text(_) => json!({ "type": "string" }),
        ValueKind::Boolean => or_reference(&[json!({ "type": "boolean" })]),
        ValueKind::Integer(low, high) => or_reference(&[integer(*low, *high)]),
        ValueKind::Duration(..) => text(r"\s*[0-9]+\s*[A-Za-zµ]+(\s*[0-9]+\s*[A-Za-zµ]+)*\s*|0"),
        ValueKind::Size(low, high) => json!({
            "anyOf": [integer(*low, *high), text("[0-9]+ *(B|kB|KB|MB|GB|KiB|MiB|GiB)?")],
        }),
        ValueKind::Percent(_) => text(r"[0-9]{1,3}\s*%"),
        ValueKind::Rate => text(r"\s*[0-9]+\s*/\s*[smh]\s*"),
        ValueKind::Choice(words) => or_reference(&[json!({ "enum": words })]),
        ValueKind::Table(section) => reference(section),
        ValueKind::Named(section) => {
            json!({ "type": "object", "additionalProperties": reference(section) })
        }
        ValueKind::Map(_, of) => json!({ "type": "object", "additionalProperties": value(of) }),
        ValueKind::Array(of) => json!({ "type": "array", "items": value(of) }),
        ValueKind::OneOf(kinds) => json!({ "anyOf": kinds.iter().map(value).collect::<Vec<_>>() }),
    }
}

fn integer(low: u64, high: u64) -> Value {
    json!({ "type": "integer", "minimum": low, "maximum": high })
}

/// A string of this pattern, or one with a reference to the environment.
fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^({pattern})$|{REFERENCE}") })
}

/// One of these, or a reference to the environment.
fn or_reference(kinds: &[Value]) -> Value {
    let mut any = kinds.to_vec();
    any.push(json!({ "$ref": "#/definitions/environment" }));
    json!({ "anyOf": any })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_no_links() {
        assert_eq!(plain("See [`drain`](#drain) and [units](#units)."), "See `drain` and units.");
        assert_eq!(plain("`[admin]` or [x"), "`[admin]` or [x");
    }

    #[test]
    fn every_example_and_default_is_toml() {
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            assert!(parsed(key.example).is_some(), "{}: {}", key.name, key.example);
            if let DefaultValue::Value(text) = key.default {
                assert!(parsed(text).is_some(), "{}: {text}", key.name);
            }
        }
    }
}
