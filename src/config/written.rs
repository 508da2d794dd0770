//! Routes as they are written.

use std::sync::Arc;

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::file::{File, TomlTable};

/// The table of a route, as it is written: with the names of environment variables instead of their values.
///
/// It is not part of what a configuration means: any two are equal.
#[derive(Clone, Debug, Default)]
pub struct WrittenRoute {
    /// The table in JSON; empty: the route is not written.
    json: Arc<str>,
    /// Which of the written routes it is, from 0.
    pub index: usize,
}

impl PartialEq for WrittenRoute {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for WrittenRoute {}

impl WrittenRoute {
    pub(super) fn of(table: &TomlTable<'_>, index: usize) -> Self {
        let value = members(table.file(), table.entries());
        Self { json: Value::Object(value).to_string().into(), index }
    }

    /// Returns the keys of the table; `None`: the route is not written.
    pub fn keys(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(&self.json).ok()
    }
}

fn members(file: &File<'_>, table: &DeTable<'_>) -> Map<String, Value> {
    table.iter().map(|(key, node)| (key.get_ref().to_string(), value(file, node))).collect()
}

fn value(file: &File<'_>, node: &Spanned<DeValue<'_>>) -> Value {
    match node.get_ref() {
        DeValue::String(_) if file.is_expanded(&node.span()) => {
            // The text with its `${NAME}`, without quotes and escapes.
            let typed = DeValue::parse(file.typed(&node.span())).ok();
            let text = typed.as_ref().and_then(|typed| typed.get_ref().as_str());
            text.unwrap_or_default().into()
        }
        DeValue::String(text) => text.replace("${", "$${").into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(elements) => elements.iter().map(|element| value(file, element)).collect(),
        DeValue::Table(table) => Value::Object(members(file, table)),
    }
}
