//! Strict parser for `Forwarded` (RFC 7239 §4): a field that violates the grammar is ignored as a
//! whole.

use std::fmt::{self, Write as _};

use moorline_http::{FieldId, Head};

/// One element: the request as one proxy received it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ForwardedElement {
    pub(super) node: Option<String>,
    pub(super) proto: Option<String>,
    pub(super) host: Option<String>,
    /// `by` and extensions, each after a semicolon.
    pub(super) others: Box<str>,
}

/// Parses the elements of all lines; `None` if a line violates the grammar.
pub(super) fn parse(head: &Head) -> Option<Vec<ForwardedElement>> {
    let mut elements = Vec::new();
    for line in head.all(FieldId::Forwarded) {
        let mut rest = super::ascii(line)?;
        loop {
            let (element, after) = element(rest)?;
            elements.extend(element);
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return None,
            }
        }
    }
    Some(elements)
}

/// Parses one element and returns the rest of the line; an element may be missing between two commas
/// (RFC 9110 §5.6.1).
fn element(text: &str) -> Option<(Option<ForwardedElement>, &str)> {
    let mut element = ForwardedElement::default();
    let (mut rest, mut any) = (text.trim_start(), false);
    let mut others = String::new();
    loop {
        rest = rest.trim_start();
        // The grammar allows an empty pair.
        if !rest.is_empty() && !rest.starts_with([';', ',']) {
            let (name, value, after) = pair(rest)?;
            any = true;
            let place = match &*name.to_ascii_lowercase() {
                "for" => Some(&mut element.node),
                "proto" => Some(&mut element.proto),
                "host" => Some(&mut element.host),
                other => {
                    // Writing to a string cannot fail.
                    let _ = write!(others, ";{other}=");
                    let _ = write_value(&mut others, &value);
                    None
                }
            };
            // A parameter may occur only once (RFC 7239 §4).
            if place.is_some_and(|place| place.replace(value).is_some()) {
                return None;
            }
            rest = after.trim_start();
        }
        match rest.strip_prefix(';') {
            Some(after) => rest = after,
            None => break,
        }
    }
    element.others = others.into();
    Some((any.then_some(element), rest))
}

/// Parses one pair: name, value without quotes, and the rest.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return None;
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return Some((name, value, &quoted[at + 1..])),
                '\\' => value.push(characters.next()?.1),
                _ => value.push(character),
            }
        }
        return None;
    }
    let end = rest.bytes().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
    (end > 0).then(|| (name, rest[..end].to_owned(), &rest[end..]))
}

/// Writes a value, quoted unless it is a token.
pub(super) fn write_value(out: &mut impl fmt::Write, value: &str) -> fmt::Result {
    if !value.is_empty() && value.bytes().all(is_token) {
        return out.write_str(value);
    }
    out.write_char('"')?;
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            out.write_char('\\')?;
        }
        out.write_char(character)?;
    }
    out.write_char('"')
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Accepts ports and IPv6 addresses without quotes: the grammar requires quotes, but many senders
/// omit them.
fn is_plain(byte: u8) -> bool {
    is_token(byte) || b":[]/".contains(&byte)
}
