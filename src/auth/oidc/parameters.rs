//! Parameters of URLs and forms.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::LoginFault;

/// Characters of a value in a query or a form that stay as they are (RFC 3986 §2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameters of the callback (RFC 6749 §4.1.2, RFC 9207).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerParameters {
    pub(super) code: Option<String>,
    pub(super) state: Option<String>,
    pub(super) error: Option<String>,
    pub(super) issuer: Option<String>,
}

impl AnswerParameters {
    pub(super) fn of(query: &str) -> Result<Self, LoginFault> {
        let mut found = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "code" => &mut found.code,
                "state" => &mut found.state,
                "error" => &mut found.error,
                "iss" => &mut found.issuer,
                _ => continue,
            };
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy().into_owned();
            if place.replace(value).is_some() {
                return Err(LoginFault::Failed(format!("`{name}` occurs twice in the callback")));
            }
        }
        Ok(found)
    }
}

/// A URL with more parameters.
pub(super) fn with_query(url: &str, parameters: &[(&str, &str)]) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{}", form(parameters))
}

/// Parameters as a form, or as a query.
pub(super) fn form(parameters: &[(&str, &str)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

pub(super) fn encoded(value: &str) -> String {
    utf8_percent_encode(value, UNRESERVED).to_string()
}
