//! `match` of a route: conditions beyond host and path.

use super::{
    CertificateCondition, RouteConditions, TextCondition,
    expression::Expression,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    filters::whole_path,
    networks, schema,
};
use crate::openapi::PathTemplate;

/// Bytes of a SHA-256 fingerprint in hex.
const FINGERPRINT: usize = 64;

/// Reads the conditions of a route; none if it sets none.
pub(super) fn conditions(route: &TomlTable<'_>) -> RouteConditions {
    let wanted = "a table such as `{ method = \"GET\", header = { X-Beta = \"1\" } }`";
    let table = route.value("match").and_then(|value| value.table(&schema::MATCH, wanted));
    let Some(table) = table else { return RouteConditions::default() };
    let read = |key| table.value(key);
    let tokens = |key| read(key).map(|value| named(&value, token)).unwrap_or_default();
    let found = RouteConditions {
        methods: read("method").map(|value| value.strings(method)).unwrap_or_default(),
        headers: tokens("header"),
        query: read("query").map(|value| named(&value, parameter)).unwrap_or_default(),
        cookies: tokens("cookie"),
        client: read("client").map(|value| networks::all(&value)).unwrap_or_default(),
        certificate: read("certificate").and_then(|value| certificate(&value)),
        expression: read("cel").and_then(|value| expression(&value)),
        path: read("path").and_then(|value| value.parsed(template)),
        operation: None,
    };
    let keys = ["method", "header", "query", "cookie", "client", "certificate", "path", "cel"];
    if keys.iter().all(|key| read(key).is_none()) && !table.has_unknown_keys() {
        let wrong = InvalidValue::new("`match` has no condition");
        table.file().missing(table.at(), wrong.help("add one, or remove `match`"));
    }
    found
}

/// Reads a table from names to conditions.
pub(super) fn named(
    value: &TomlValue<'_>,
    name: impl Fn(&str) -> Result<String, InvalidValue>,
) -> Vec<(String, TextCondition)> {
    if !value.node.get_ref().is_table() {
        value.wrong_type("a table such as `{ NAME = \"value\" }`");
        return Vec::new();
    }
    let read = |(at, typed, value): (super::fault::Span, &str, TomlValue<'_>)| {
        let name = name(typed).map_err(|wrong| value.file.fault(&at, wrong)).ok();
        let text = text(&value);
        Some((name?, text?))
    };
    value.named().into_iter().filter_map(read).collect()
}

/// Reads a text, several texts, whether there is one, or a table with a prefix or a pattern.
fn text(value: &TomlValue<'_>) -> Option<TextCondition> {
    if let Some(present) = value.switch() {
        return Some(if present { TextCondition::Present } else { TextCondition::Absent });
    }
    let plain = value.node.get_ref().is_str() || value.elements().is_some();
    if plain {
        let texts = value.strings(|typed| Ok(typed.to_owned()));
        return (!texts.is_empty()).then_some(TextCondition::OneOf(texts));
    }
    let wanted =
        "a value, an array of values, true, false or a table such as `{ regex = \"a|b\" }`";
    let table = value.table(&schema::MATCH_TEXT, wanted)?;
    let (prefix, pattern) = (table.value("prefix"), table.value("regex"));
    match (prefix, pattern) {
        (Some(_), Some(_)) => {
            let wrong = InvalidValue::new("`prefix` and `regex` cannot be used together");
            table.refuse(&["regex"], |_| wrong.clone().help("remove one of the two"));
            None
        }
        (Some(prefix), None) => prefix.string().map(|text| TextCondition::Prefix(text.to_owned())),
        (None, pattern) => {
            let pattern =
                pattern.or_else(|| table.need("regex", "`regex = \"a|b\"` or `prefix = \"a\"`"))?;
            let checked = pattern.parsed(|typed| whole_path(typed).map(|_| typed.to_owned()))?;
            Some(TextCondition::Pattern(checked))
        }
    }
}

fn template(typed: &str) -> Result<String, InvalidValue> {
    match PathTemplate::parse(typed) {
        Some(_) => Ok(typed.to_owned()),
        None => Err(InvalidValue::new(format!("invalid template of a path {}", quoted(typed)))
            .help("begin it with a slash, and write parameters in braces: \"/rooms/{room}\"")),
    }
}

fn method(typed: &str) -> Result<String, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid method {}", quoted(typed)));
    if !moorline_http::is_token(typed.as_bytes()) {
        return Err(wrong().help("write for example \"GET\""));
    }
    // Methods have a case (RFC 9110 §9.1), and all that are registered are in upper case.
    if typed.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(wrong().help(format!("write \"{}\"", typed.to_ascii_uppercase())));
    }
    Ok(typed.to_owned())
}

pub(super) fn token(typed: &str) -> Result<String, InvalidValue> {
    match moorline_http::is_token(typed.as_bytes()) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid name {}", quoted(typed)))
            .help("a name has letters, digits and hyphens")),
    }
}

fn parameter(typed: &str) -> Result<String, InvalidValue> {
    match typed.is_empty() {
        false => Ok(typed.to_owned()),
        true => Err(InvalidValue::new("a query parameter without a name")
            .help("write the name of the parameter")),
    }
}

/// Reads whether there is a certificate, or a table that describes it.
pub(super) fn certificate(value: &TomlValue<'_>) -> Option<CertificateCondition> {
    if let Some(present) = value.switch() {
        return Some(match present {
            true => CertificateCondition::Present,
            false => CertificateCondition::Absent,
        });
    }
    let wanted = "true, false or a table such as `{ subject = \"CN=client\" }`";
    let table = value.table(&schema::MATCH_CERTIFICATE, wanted)?;
    let subject = table.value("subject").and_then(|value| text(&value));
    let fingerprints =
        table.value("fingerprint").map(|value| value.strings(fingerprint)).unwrap_or_default();
    if table.value("subject").is_none() && table.value("fingerprint").is_none() {
        table.need("subject", "`subject = \"CN=client\"` or `fingerprint = \"…\"`")?;
    }
    Some(CertificateCondition::Identity { subject, fingerprints })
}

/// A SHA-256 fingerprint in hex, with or without colons.
fn fingerprint(typed: &str) -> Result<String, InvalidValue> {
    let plain: String = typed.chars().filter(|c| *c != ':').collect();
    match plain.len() == FINGERPRINT && plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(plain.to_ascii_lowercase()),
        false => Err(InvalidValue::new(format!("invalid fingerprint {}", quoted(typed)))
            .help("write the SHA-256 fingerprint: `openssl x509 -noout -fingerprint -sha256`")),
    }
}

/// Reads an expression. Its faults have their place within the text.
fn expression(value: &TomlValue<'_>) -> Option<String> {
    let typed = value.string()?;
    match Expression::compile(typed) {
        Ok(_) => Some(typed.to_owned()),
        Err(fault) => {
            let whole = value.at();
            // Text with escapes differs from what is typed: the whole value is marked then.
            let at = value.typed().find(typed).map_or(whole.clone(), |start| {
                let start = whole.start + start;
                start + fault.at.start..start + fault.at.end
            });
            value.file.fault(&at, fault.wrong);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_may_have_colons() {
        let pairs = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&pairs), Ok("ab".repeat(32)));
        for bad in ["", "ab", &"g".repeat(64), &"ab".repeat(20)] {
            assert!(fingerprint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn methods_are_in_upper_case() {
        assert_eq!(method("PROPFIND"), Ok("PROPFIND".to_owned()));
        assert_eq!(method("get").unwrap_err().help.unwrap(), "write \"GET\"");
        assert!(method("G T").is_err());
    }
}
