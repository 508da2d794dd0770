//! `Vary`: which fields of a request selected a response (RFC 9111 §4.1).

use moorline_http::{FieldId, Head};

use crate::net::tls::CERTIFICATE_FIELDS;

/// Maximum number of fields that `Vary` may name.
const MOST_FIELDS: usize = 16;

/// Fields that the proxy writes itself behind this point: a request cannot be compared by them.
const WRITTEN_LATER: [&str; 9] = [
    "connection",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-moorline-hops",
    "x-real-ip",
    "x-request-id",
];

/// Name of a field in lower case, and its value in a request.
pub(super) type SelectingField = (Box<str>, Option<Box<[u8]>>);

/// The fields of a request that selected a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SelectingFields(pub(super) Box<[SelectingField]>);

/// Whether requests can be compared with what `Vary` names.
pub(super) fn can_select(response: &Head) -> bool {
    let mut names = response.tokens(FieldId::Vary).filter(|name| !name.is_empty());
    let known =
        |name: &[u8]| moorline_http::is_token(name) && name != b"*" && !is_written_later(name);
    names.by_ref().take(MOST_FIELDS).all(known) && names.next().is_none()
}

/// Whether the proxy writes a field behind this point. Some backends do not distinguish `_` from `-`.
fn is_written_later(name: &[u8]) -> bool {
    let plain = name.to_ascii_lowercase();
    let plain: Vec<u8> =
        plain.into_iter().map(|byte| if byte == b'_' { b'-' } else { byte }).collect();
    plain.starts_with(CERTIFICATE_FIELDS.as_bytes())
        || WRITTEN_LATER.iter().any(|later| later.as_bytes() == plain)
}

impl SelectingFields {
    /// The fields that a response names, with their values in its request.
    pub(super) fn of(response: &Head, request: &Head) -> Self {
        let names = response.tokens(FieldId::Vary).filter(|name| !name.is_empty());
        let mut names: Vec<String> =
            names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        let fields = names.into_iter().map(|name| {
            let value = combined(request, &name);
            (name.into(), value)
        });
        Self(fields.collect())
    }

    /// Whether a request has the same values.
    pub(super) fn match_request(&self, request: &Head) -> bool {
        self.0.iter().all(|(name, value)| combined(request, name) == *value)
    }

    /// Bytes in memory.
    pub(super) fn size(&self) -> usize {
        let sizes = self
            .0
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()) + 48);
        sizes.sum()
    }
}

/// The values of all fields with a name, without spaces around commas.
fn combined(head: &Head, name: &str) -> Option<Box<[u8]>> {
    let mut values = head.named(name).peekable();
    values.peek()?;
    let mut all = Vec::new();
    for value in values {
        for part in value.split(|byte| *byte == b',') {
            if !all.is_empty() {
                all.push(b',');
            }
            all.extend_from_slice(part.trim_ascii());
        }
    }
    Some(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::{request, response};

    fn varying(value: &str) -> moorline_http::ResponseHead {
        response(&format!("HTTP/1.1 200 OK\r\nVary: {value}\r\n"))
    }

    fn asking(fields: &str) -> moorline_http::RequestHead {
        request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}"))
    }

    #[test]
    fn requests_are_compared_by_the_named_fields() {
        let stored = SelectingFields::of(&varying("Foo, Bar").head, &asking("Foo: 1\r\n").head);
        for (fields, matches) in [
            ("Foo: 1\r\n", true),
            ("foo: 1\r\nBaz: 2\r\n", true),
            ("Foo: 2\r\n", false),
            ("", false),
            ("Foo: 1\r\nBar: 1\r\n", false),
            ("Foo: 1\r\nBar:\r\n", false),
            ("Foo: 1\r\nFoo: 2\r\n", false),
        ] {
            assert_eq!(stored.match_request(&asking(fields).head), matches, "{fields}");
        }
        let listed = SelectingFields::of(&varying("Foo").head, &asking("Foo: 1, 2\r\n").head);
        assert!(listed.match_request(&asking("Foo: 1\r\nFoo:  2\r\n").head));
    }

    #[test]
    fn some_responses_cannot_be_selected() {
        for value in [
            "*",
            "*, *",
            ", *",
            "Foo, *",
            "X-Forwarded-For",
            "X-Client-Cert-Subject",
            "x_client_cert_new",
            "a b",
        ] {
            assert!(!can_select(&varying(value).head), "{value}");
        }
        for value in ["", "Foo", "Foo, ,Bar"] {
            assert!(can_select(&varying(value).head), "{value}");
        }
        let many: Vec<String> = (0..=MOST_FIELDS).map(|n| format!("X-{n}")).collect();
        assert!(!can_select(&varying(&many.join(",")).head));
    }
}
