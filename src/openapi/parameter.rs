//! Parameters of an operation: path, query, header and cookie.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Number, Value};

use super::{
    fault::{ParameterPlace, RequestFault},
    schemas::CompiledSchema,
};

/// One parameter.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) place: ParameterPlace,
    pub(super) required: bool,
    /// Several values of an array are several parameters of the query.
    pub(super) explode: bool,
    /// Separates the values of an array that does not explode.
    pub(super) separator: char,
    /// Kinds of value that the schema allows, in the order of preference.
    pub(super) kinds: Vec<ValueType>,
    /// Kinds of the elements of an array.
    pub(super) element_kinds: Vec<ValueType>,
    pub(super) schema: Option<Arc<CompiledSchema>>,
}

/// A type of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    Null,
    Boolean,
    Integer,
    Number,
    Array,
    Object,
    String,
}

impl ValueType {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "array" => Self::Array,
            "object" => Self::Object,
            "string" => Self::String,
            _ => return None,
        })
    }
}

impl Parameter {
    /// Checks the values that a request has for it, decoded; `None`: they are valid.
    pub(super) fn check(&self, values: &[String]) -> Option<RequestFault> {
        let fault = |why: String| Some(RequestFault::Parameter(self.place, self.name.clone(), why));
        let Some(first) = values.first() else {
            return if self.required { fault("it is missing".to_owned()) } else { None };
        };
        let schema = self.schema.as_ref()?;
        let is_array = self.kinds.contains(&ValueType::Array);
        // The fields of a header list are one list (RFC 9110 §5.2). Otherwise two readers could see different values.
        let may_repeat = is_array && (self.explode || self.place == ParameterPlace::Header);
        if values.len() > 1 && !may_repeat {
            return fault("it occurs several times".to_owned());
        }
        let elements = |text: &String| -> Vec<Value> {
            let separated = text.split(self.separator).map(str::trim);
            separated.map(|text| typed(text, &self.element_kinds)).collect()
        };
        let value = match is_array {
            true if self.explode => {
                Value::Array(values.iter().map(|text| typed(text, &self.element_kinds)).collect())
            }
            true => Value::Array(values.iter().flat_map(elements).collect()),
            false => typed(first, &self.kinds),
        };
        if schema.is_valid(&value) {
            return None;
        }
        let mut faults = schema.faults(&value, 1).unwrap_or_default();
        let why = faults.pop().map(|(_, why)| why);
        fault(why.unwrap_or_else(|| "it does not match its schema".to_owned()))
    }
}

/// Reads a text as one of these types; as a string if it is none of them.
fn typed(text: &str, kinds: &[ValueType]) -> Value {
    for kind in kinds {
        let value = match kind {
            ValueType::Null if text.is_empty() => Some(Value::Null),
            ValueType::Boolean => text.parse().ok().map(Value::Bool),
            ValueType::Integer => {
                text.parse::<i64>().ok().map(|number| Value::Number(number.into()))
            }
            ValueType::Number => {
                let number = text.parse::<f64>().ok().filter(|_| !text.starts_with('+'));
                number.and_then(Number::from_f64).map(Value::Number)
            }
            ValueType::Null | ValueType::Array | ValueType::Object | ValueType::String => None,
        };
        if let Some(value) = value {
            return value;
        }
    }
    Value::String(text.to_owned())
}

/// The parameters of a query, decoded, in their order.
pub(crate) fn query_values(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let spaces = text.replace('+', " ");
        percent_decode_str(&spaces).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_its_type() {
        use ValueType::{Boolean, Integer, Number, String};
        assert_eq!(typed("7", &[Integer]), Value::from(7));
        assert_eq!(typed("7.5", &[Integer, Number]), Value::from(7.5));
        assert_eq!(typed("true", &[Boolean]), Value::from(true));
        assert_eq!(typed("7", &[String]), Value::from("7"));
        assert_eq!(typed("x", &[Integer]), Value::from("x"));
        assert_eq!(typed("NaN", &[Number]), Value::from("NaN"));
    }

    #[test]
    fn a_query_is_decoded() {
        let expected = [
            ("a b".to_owned(), "1".to_owned()),
            ("c".to_owned(), "&".to_owned()),
            ("d".to_owned(), String::new()),
        ];
        assert_eq!(query_values("a+b=1&c=%26&&d"), expected);
    }
}
