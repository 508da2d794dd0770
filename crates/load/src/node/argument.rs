//! Arguments of a Socket.IO event: JSON with binary data.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeTuple},
};

/// All arguments of an event, which can be sent again unchanged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arguments(Vec<Argument>);

/// One argument or a part of one. Maps keep their order, so that an echo has the same text.
#[derive(Clone, Debug, PartialEq)]
enum Argument {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Argument>),
    Map(Vec<(String, Argument)>),
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArgumentsVisitor;
        impl<'de> Visitor<'de> for ArgumentsVisitor {
            type Value = Arguments;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Arguments, A::Error> {
                list(&mut items).map(Arguments)
            }
        }
        // socketioxide passes all arguments to a tuple of any length, but only the first one to other types.
        deserializer.deserialize_tuple(usize::MAX, ArgumentsVisitor)
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for argument in &self.0 {
            tuple.serialize_element(argument)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ArgumentVisitor)
    }
}

/// Accepts any value.
struct ArgumentVisitor;

impl<'de> Visitor<'de> for ArgumentVisitor {
    type Value = Argument;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON or bytes")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Argument, E> {
        Ok(Argument::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Argument, E> {
        Ok(Argument::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Argument, E> {
        Ok(Argument::Unsigned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Argument, E> {
        Ok(Argument::Signed(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Argument, E> {
        Ok(Argument::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Argument, E> {
        Ok(Argument::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Argument, E> {
        Ok(Argument::Text(value))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Argument, E> {
        Ok(Argument::Bytes(value.to_owned()))
    }

    fn visit_byte_buf<E: de::Error>(self, value: Vec<u8>) -> Result<Argument, E> {
        Ok(Argument::Bytes(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Argument, A::Error> {
        list(&mut items).map(Argument::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Argument, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Argument::Map(map))
    }
}

fn list<'de, A: SeqAccess<'de>>(items: &mut A) -> Result<Vec<Argument>, A::Error> {
    let mut list = Vec::new();
    while let Some(item) = items.next_element()? {
        list.push(item);
    }
    Ok(list)
}

impl Serialize for Argument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Bytes(value) => serializer.serialize_bytes(value),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
