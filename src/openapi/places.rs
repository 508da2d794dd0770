//! Places of a document's values in its text.
//!
//! A document is read without places. Only a document with a fault is read once more, with them.

use std::{fmt, ops::Range};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Options, Spanned, budget, options};

/// Deepest nesting of a document.
const DEEPEST: usize = 64;

/// The limits of a document, besides its size.
pub(super) fn limits() -> Options {
    options! { budget: budget! { max_depth: DEEPEST } }
}

/// Returns the place of the value that a JSON pointer names: its text, or the name of a value with members. If there is no
/// such value, the place of what would contain it.
pub(super) fn place(text: &str, pointer: &str) -> Option<Range<usize>> {
    let root: Spanned<PlacedValue> = serde_saphyr::from_str_with_options(text, limits()).ok()?;
    let mut found = None;
    let mut value = &root;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        let Some((at, next)) = value.value.member(&name) else { break };
        let at = match next.value {
            PlacedValue::Scalar(_) => &next.referenced,
            _ => at,
        };
        found = range(at).or(found);
        value = next;
    }
    found
}

/// The bytes of a location.
pub(super) fn range(location: &Location) -> Option<Range<usize>> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    Some(start..start + length)
}

/// The first byte of a location, which may know its line and column only.
pub(super) fn start(text: &str, location: &Location) -> Option<Range<usize>> {
    let line = usize::try_from(location.line()).ok()?.checked_sub(1)?;
    let column = usize::try_from(location.column()).ok()?.checked_sub(1)?;
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(before..)?;
    let at = before + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
    Some(at..at + 1)
}

/// A part of a document, with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct PlacedNode {
    /// The name of a member, or the start of an element.
    pub(crate) key: Range<usize>,
    /// The value.
    pub(crate) at: Range<usize>,
    /// What it is.
    pub(crate) content: PlacedContent,
}

/// The value of a [`PlacedNode`].
#[derive(Clone, Debug)]
pub(crate) enum PlacedContent {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    /// An array.
    Elements(Vec<PlacedNode>),
    /// An object.
    Members(Vec<(String, PlacedNode)>),
}

/// All values of a document, with their places.
pub(crate) struct PlacedDocument(Spanned<PlacedValue>);

impl PlacedDocument {
    /// Reads a text again, with the places; `None`: it is JSON that is not YAML, so that no place is known.
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_saphyr::from_str_with_options(text, limits()).ok().map(Self)
    }

    /// Returns the part that a JSON pointer names.
    pub(super) fn part(&self, pointer: &str) -> Option<PlacedNode> {
        let mut found = (&self.0.referenced, &self.0);
        for name in pointer.split('/').skip(1) {
            let name = name.replace("~1", "/").replace("~0", "~");
            found = found.1.value.member(&name)?;
        }
        Some(PlacedNode::of(found.0, found.1))
    }
}

impl PlacedNode {
    fn of(key: &Location, value: &Spanned<PlacedValue>) -> Self {
        let content = match &value.value {
            PlacedValue::Scalar(scalar) => PlacedContent::Scalar(scalar.clone()),
            PlacedValue::Elements(elements) => PlacedContent::Elements(
                elements.iter().map(|element| Self::of(&element.referenced, element)).collect(),
            ),
            PlacedValue::Members(members) => PlacedContent::Members(
                members
                    .iter()
                    .map(|(key, value)| (key.value.clone(), Self::of(&key.referenced, value)))
                    .collect(),
            ),
        };
        let key = range(key).unwrap_or_default();
        let at = match content {
            PlacedContent::Scalar(_) => range(&value.referenced).unwrap_or_else(|| key.clone()),
            // The place of a block is all of its lines.
            _ => key.clone(),
        };
        Self { key, at, content }
    }

    /// A value without places.
    pub(super) fn without_place(value: &Value) -> Self {
        let content = match value {
            Value::Array(elements) => {
                PlacedContent::Elements(elements.iter().map(Self::without_place).collect())
            }
            Value::Object(members) => PlacedContent::Members(
                members
                    .iter()
                    .map(|(key, value)| (key.clone(), Self::without_place(value)))
                    .collect(),
            ),
            scalar => PlacedContent::Scalar(scalar.clone()),
        };
        Self { key: 0..0, at: 0..0, content }
    }
}

/// A value while it is read.
enum PlacedValue {
    Scalar(Value),
    Elements(Vec<Spanned<PlacedValue>>),
    Members(Vec<(Spanned<String>, Spanned<PlacedValue>)>),
}

impl PlacedValue {
    /// The place of a member's name or of an element, and the value.
    fn member(&self, name: &str) -> Option<(&Location, &Spanned<Self>)> {
        match self {
            Self::Scalar(_) => None,
            Self::Elements(elements) => {
                let element = elements.get(name.parse::<usize>().ok()?)?;
                Some((&element.referenced, element))
            }
            Self::Members(members) => {
                let (key, value) = members.iter().find(|(key, _)| key.value == name)?;
                Some((&key.referenced, value))
            }
        }
    }
}

impl<'de> Deserialize<'de> for PlacedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlacedVisitor)
    }
}

struct PlacedVisitor;

impl<'de> Visitor<'de> for PlacedVisitor {
    type Value = PlacedValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.to_string().into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.into()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.to_string().into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<PlacedValue, E> {
        Ok(PlacedValue::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<PlacedValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<PlacedValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<PlacedValue, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            elements.push(element);
        }
        Ok(PlacedValue::Elements(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PlacedValue, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(PlacedValue::Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_has_its_place() {
        let text = "a: 1\nb:\n  - x: 7\n  - \"y/z\": [1, true]\nc: é\nd: {e: null, 200: f}\n";
        let shown = |pointer: &str| place(text, pointer).map(|at| &text[at]);
        assert_eq!(shown("/a"), Some("1"));
        assert_eq!(shown("/b"), Some("b"));
        assert_eq!(shown("/b/0/x"), Some("7"));
        assert_eq!(shown("/b/1/y~1z/1"), Some("true"));
        assert_eq!(shown("/c"), Some("é"));
        assert_eq!(shown("/d/200"), Some("f"));
        assert_eq!(shown("/d/absent/x"), Some("d"));
        assert_eq!(shown(""), None);
        let json = "{\"a\": {\"b\": [1, \"two\"]}}";
        assert_eq!(place(json, "/a/b/1").map(|at| &json[at]), Some("\"two\""));
    }
}
