//! Values in TOML, on one line.

use serde_json::Value;

/// Writes a value; `None`: TOML has no null.
pub(super) fn value(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => string(text),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().filter_map(self::value).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Object(members) => {
            let pair = |(name, member): (&String, &Value)| {
                Some(format!("{} = {}", key(name), self::value(member)?))
            };
            let pairs: Vec<String> = members.iter().filter_map(pair).collect();
            match pairs.is_empty() {
                true => "{}".to_owned(),
                false => format!("{{ {} }}", pairs.join(", ")),
            }
        }
    })
}

/// Writes a basic string. Its escapes are those of JSON, except for DEL.
pub(super) fn string(text: &str) -> String {
    Value::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007F")
}

/// Writes a key.
pub(super) fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => string(name),
    }
}
