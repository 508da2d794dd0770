//! `${NAME}` and `${NAME:-default}` in string values: the process's environment.
//!
//! `$${` stands for a literal `${`; any other `$` stands for itself. Keys are not expanded. Must not
//! know what any key means.

use std::env::{self, VarError};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    fault::{InvalidValue, Span, quoted},
    file::File,
};

/// Expands every string of a table. A fault is noted at the `${` that caused it, and the value keeps
/// its text.
pub(super) fn expand(file: &File<'_>, table: &mut DeTable<'_>) {
    for (_, value) in table.iter_mut() {
        expand_value(file, value);
    }
}

fn expand_value(file: &File<'_>, value: &mut Spanned<DeValue<'_>>) {
    let at = value.span();
    match value.get_mut() {
        DeValue::Table(table) => expand(file, table),
        DeValue::Array(elements) => {
            elements.iter_mut().for_each(|element| expand_value(file, element));
        }
        DeValue::String(text) if text.contains("${") => match expanded(text, environment) {
            Ok(filled) => {
                *text = filled.into();
                file.note_expanded(&at);
            }
            Err(faults) => {
                for (nth, wrong) in faults {
                    file.fault(&reference(file.typed(&at), nth, &at), wrong);
                }
                file.note_unusable(at);
            }
        },
        _ => {}
    }
}

/// The place of the `nth` `${` of a string in the source. The whole value if the source writes it in
/// another way, for example with an escape.
fn reference(typed: &str, nth: usize, at: &Span) -> Span {
    let Some((offset, _)) = typed.match_indices("${").nth(nth) else { return at.clone() };
    let rest = &typed[offset..];
    let length = rest.find('}').map_or(2, |end| end + 1);
    at.start + offset..at.start + offset + length
}

/// A variable of this process.
fn environment(name: &str) -> Result<Option<String>, InvalidValue> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(InvalidValue::new(format!(
            "the environment variable {} is not UTF-8 text",
            quoted(name)
        ))
        .help("set it to UTF-8 text")),
    }
}

/// A string with its references replaced, or every fault with the number of its `${`, from 0.
fn expanded(
    text: &str,
    variable: impl Fn(&str) -> Result<Option<String>, InvalidValue>,
) -> Result<String, Vec<(usize, InvalidValue)>> {
    let (mut filled, mut faults) = (String::with_capacity(text.len()), Vec::new());
    let (mut rest, mut nth) = (text, 0);
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &from[2..];
        } else {
            filled.push_str(before);
            match from.find('}') {
                Some(end) => {
                    match resolved(&from[2..end], &variable) {
                        Ok(value) => filled.push_str(&value),
                        Err(wrong) => faults.push((nth, wrong)),
                    }
                    rest = &from[end + 1..];
                }
                None => {
                    let wrong = InvalidValue::new("this `${` has no closing `}`");
                    faults.push((nth, wrong.help("write `${NAME}`, or `$${` for a literal `${`")));
                    rest = "";
                }
            }
        }
        nth += 1;
    }
    filled.push_str(rest);
    if faults.is_empty() { Ok(filled) } else { Err(faults) }
}

/// The value of what is between the braces. An empty variable takes the default, as in a shell.
fn resolved(
    inner: &str,
    variable: impl Fn(&str) -> Result<Option<String>, InvalidValue>,
) -> Result<String, InvalidValue> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let allowed = |(index, byte): (usize, u8)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit())
    };
    if name.is_empty() || !name.bytes().enumerate().all(allowed) {
        return Err(InvalidValue::new(format!("invalid environment variable name {}", quoted(name))).help(
            "write `${NAME}` or `${NAME:-default}` with letters, digits and `_`, or `$${` for a literal `${`",
        ));
    }
    match (variable(name)?, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let wrong =
                InvalidValue::new(format!("the environment variable {} is not set", quoted(name)));
            Err(wrong.help(format!(
                "set it for this process (systemd: `Environment=` or `EnvironmentFile=`), or write a default: \
                 `${{{name}:-value}}`"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, Vec<(usize, String)>> {
        let variable = |name: &str| {
            Ok(match name {
                "HOST" => Some("10.0.0.1".to_owned()),
                "EMPTY" => Some(String::new()),
                "NESTED" => Some("${HOST}".to_owned()),
                _ => None,
            })
        };
        expanded(text, variable)
            .map_err(|faults| faults.into_iter().map(|(nth, wrong)| (nth, wrong.message)).collect())
    }

    #[test]
    fn references_are_replaced_and_other_dollars_stay() {
        for (text, expected) in [
            ("${HOST}:80", "10.0.0.1:80"),
            ("${HOST}-${HOST}", "10.0.0.1-10.0.0.1"),
            ("${PORT:-8080}", "8080"),
            ("${HOST:-other}", "10.0.0.1"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${PORT:-}", ""),
            ("${PORT:-a:-b}", "a:-b"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("$5 $HOST $", "$5 $HOST $"),
            // A value is not expanded again.
            ("${NESTED}", "${HOST}"),
            ("ü${HOST}ü", "ü10.0.0.1ü"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_fault_has_the_number_of_its_reference() {
        for (text, nth, message) in [
            ("${PORT}", 0, "the environment variable `PORT` is not set"),
            ("${HOST}:${PORT}", 1, "the environment variable `PORT` is not set"),
            ("$${x}${", 1, "this `${` has no closing `}`"),
            ("${}", 0, "invalid environment variable name ``"),
            ("${1A}", 0, "invalid environment variable name `1A`"),
            ("${A B}", 0, "invalid environment variable name `A B`"),
            ("${A-b}", 0, "invalid environment variable name `A-b`"),
        ] {
            assert_eq!(filled(text), Err(vec![(nth, message.to_owned())]), "{text}");
        }
        assert_eq!(filled("${A}${B}").unwrap_err().len(), 2);
    }

    #[test]
    fn a_reference_is_found_in_the_source() {
        assert_eq!(reference("\"${A}:${B}\"", 1, &(100..111)), 106..110);
        assert_eq!(reference("\"${A\"", 0, &(7..12)), 8..10);
        assert_eq!(reference("\"\\u0024{A}\"", 0, &(7..18)), 7..18);
    }
}
