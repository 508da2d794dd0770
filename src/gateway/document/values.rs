//! JSON as values of a template, and values as JSON.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use minijinja::{
    Error, ErrorKind, Output, State, Value,
    value::{Object, ObjectRepr, ValueKind},
};

use super::{DocumentFault, scan::Scanner};

/// Decimal digits that a float keeps.
const EXACT_DIGITS: usize = 15;

/// Values within values that are written, at most.
const DEEPEST: usize = 128;

/// A number that no type of a template holds exactly. It is written as it was read.
#[derive(Debug)]
struct ExactNumber(Box<str>);

impl Object for ExactNumber {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a document. Of fields with one name, the last one counts.
pub(super) fn parse(text: &str) -> Result<Value, DocumentFault> {
    let mut scanner = Scanner::new(text);
    let value = next(&mut scanner)?;
    scanner.end()?;
    Ok(value)
}

fn next(scanner: &mut Scanner<'_>) -> Result<Value, DocumentFault> {
    Ok(match scanner.peek() {
        Some(b'{') => {
            let mut fields = Vec::new();
            scanner.object(|scanner, name| {
                fields.push((name.into_owned(), next(scanner)?));
                Ok(())
            })?;
            Value::from_pairs(fields)
        }
        Some(b'[') => {
            let mut items = Vec::new();
            scanner.array(|scanner| {
                items.push(next(scanner)?);
                Ok(())
            })?;
            Value::from(items)
        }
        Some(b'"') => Value::from(scanner.string()?.into_owned()),
        _ => match scanner.raw()? {
            "null" => Value::from(()),
            "true" => Value::from(true),
            "false" => Value::from(false),
            number => self::number(number),
        },
    })
}

fn number(text: &str) -> Value {
    let exact = || Value::from_object(ExactNumber(text.into()));
    if text.starts_with("-0") && !text.contains(['.', 'e', 'E']) {
        return exact();
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Value::from(integer);
    }
    if let Ok(integer) = text.parse::<i128>() {
        return Value::from(integer);
    }
    let digits = text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E'));
    let digits = digits.filter(u8::is_ascii_digit).count();
    match text.parse::<f64>() {
        // Neither infinite nor so small that digits are lost.
        Ok(float) if digits <= EXACT_DIGITS && (float == 0.0 || float.is_normal()) => {
            Value::from(float)
        }
        _ => exact(),
    }
}

/// Writes a value of `{{ … }}`: as JSON, and text that is marked as safe as it is.
pub(super) fn format(
    out: &mut Output<'_>,
    _: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    match value.as_str() {
        Some(text) if value.is_safe() => out.write_str(text).map_err(Error::from),
        _ if value.is_undefined() => Err(ErrorKind::UndefinedError.into()),
        _ => write(out, value, 0),
    }
}

fn write(out: &mut Output<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    let wrong = |text: &'static str| Error::new(ErrorKind::BadSerialization, text);
    if depth > DEEPEST {
        return Err(wrong("the value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.write_str("null")?,
        ValueKind::Bool => write!(out, "{value}")?,
        ValueKind::Number if value.is_integer() => write!(out, "{value}")?,
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(float) if float.is_finite() => write_json(out, &float)?,
            _ => return Err(wrong("the number is not one of JSON")),
        },
        ValueKind::String => write_json(out, value.as_str().unwrap_or_default())?,
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_char('[')?;
            for (at, item) in value.try_iter()?.enumerate() {
                out.write_str(if at > 0 { "," } else { "" })?;
                write(out, &item, depth + 1)?;
            }
            out.write_char(']')?;
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (at, key) in value.try_iter()?.enumerate() {
                out.write_str(if at > 0 { "," } else { "" })?;
                write_json(out, &*key.to_string())?;
                out.write_char(':')?;
                write(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.write_char('}')?;
        }
        _ => match value.downcast_object_ref::<ExactNumber>() {
            Some(number) => out.write_str(&number.0)?,
            None => return Err(wrong("the value is not one of JSON")),
        },
    }
    Ok(())
}

/// Writes a string or a float.
fn write_json(out: &mut Output<'_>, value: &(impl serde::Serialize + ?Sized)) -> fmt::Result {
    // Neither can fail.
    out.write_str(&serde_json::to_string(value).unwrap_or_default())
}
