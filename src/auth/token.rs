//! The place of a credential in a request, and the parts of a token.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use moorline_http::{FieldId, Head, RequestHead};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::AuthFault;
use crate::{
    config::{JWT_ALGORITHMS, JwtAlgorithm, TokenPlace},
    strict_json,
};

/// Longest token, in bytes.
pub(super) const LONGEST: usize = 8 << 10;

/// Returns the token of a request, and the place that has it. The first place that has one counts.
///
/// # Errors
/// A place has several, or one that is not text.
pub(crate) fn presented<'r, 'p>(
    request: &'r RequestHead,
    places: &'p [TokenPlace],
) -> Result<Option<(Cow<'r, str>, &'p TokenPlace)>, AuthFault> {
    for place in places {
        if let Some(token) = token_at(request, place)? {
            return Ok(Some((token, place)));
        }
    }
    Ok(None)
}

/// Returns the credentials of Basic authentication.
///
/// # Errors
/// There are several `Authorization` fields.
pub(crate) fn basic(request: &RequestHead) -> Result<Option<&[u8]>, AuthFault> {
    with_scheme(request, b"basic")
}

/// Returns what follows a scheme in `Authorization`. Another scheme counts as none.
fn with_scheme<'r>(request: &'r RequestHead, wanted: &[u8]) -> Result<Option<&'r [u8]>, AuthFault> {
    let Some(field) = only(request.head.all(FieldId::Authorization))? else { return Ok(None) };
    let Some((scheme, credentials)) = split(field, b' ') else { return Ok(None) };
    Ok(scheme.eq_ignore_ascii_case(wanted).then(|| credentials.trim_ascii()))
}

fn token_at<'r>(
    request: &'r RequestHead,
    place: &TokenPlace,
) -> Result<Option<Cow<'r, str>>, AuthFault> {
    match place {
        TokenPlace::Header => match with_scheme(request, b"bearer")? {
            Some(token) => text(token).map(|token| Some(Cow::Borrowed(token))),
            None => Ok(None),
        },
        TokenPlace::Field(name) => match only(request.head.named(name))? {
            Some(value) => text(value.trim_ascii()).map(|value| Some(Cow::Borrowed(value))),
            None => Ok(None),
        },
        TokenPlace::Cookie(name) => match only(cookies(&request.head, name))? {
            Some(value) => text(unquoted(value)).map(|token| Some(Cow::Borrowed(token))),
            None => Ok(None),
        },
        TokenPlace::Query(name) => {
            let pairs = request.query().unwrap_or_default().split('&');
            let values = pairs.filter_map(|pair| {
                let (found, value) = pair.split_once('=')?;
                let is_named = found == name
                    || found.contains('%') && percent_decode_str(found).eq(name.bytes());
                is_named.then_some(value)
            });
            let Some(value) = only(values)? else { return Ok(None) };
            let decoded = percent_decode_str(value).decode_utf8();
            Ok(Some(decoded.map_err(|_| AuthFault::Malformed("not UTF-8"))?))
        }
        TokenPlace::Subprotocol(name) => {
            let mut offered = request.head.tokens(FieldId::SecWebSocketProtocol);
            match offered.find(|offered| *offered == name.as_bytes()) {
                Some(_) => match offered.next() {
                    Some(token) => text(token).map(|token| Some(Cow::Borrowed(token))),
                    None => Err(AuthFault::Malformed("no subprotocol follows the marker")),
                },
                None => Ok(None),
            }
        }
    }
}

/// The values of the cookies with this name.
pub(super) fn cookies<'h>(head: &'h Head, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let cookies = head.all(FieldId::Cookie).flat_map(|field| field.split(|byte| *byte == b';'));
    cookies.filter_map(move |cookie| {
        let (found, value) = split(cookie.trim_ascii(), b'=')?;
        (found == name.as_bytes()).then_some(value)
    })
}

/// The only value. Of several, two readers might take different ones.
pub(super) fn only<T>(mut values: impl Iterator<Item = T>) -> Result<Option<T>, AuthFault> {
    let first = values.next();
    match values.next() {
        Some(_) => Err(AuthFault::Malformed("several in one place")),
        None => Ok(first),
    }
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

fn text(bytes: &[u8]) -> Result<&str, AuthFault> {
    std::str::from_utf8(bytes).map_err(|_| AuthFault::Malformed("not UTF-8"))
}

/// A signed token (RFC 7515, compact serialization), not verified.
#[derive(Debug)]
pub(super) struct SignedToken<'t> {
    /// Algorithm of the header.
    pub(super) algorithm: JwtAlgorithm,
    /// Id of the key.
    pub(super) key: Option<String>,
    /// What the signature covers.
    pub(super) signed: &'t str,
    pub(super) signature: &'t str,
    payload: &'t str,
}

impl<'t> SignedToken<'t> {
    /// Splits a token and reads its header. Nothing in the header can bring a key along.
    pub(super) fn parse(token: &'t str) -> Result<Self, AuthFault> {
        if token.len() > LONGEST {
            return Err(AuthFault::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthFault::Malformed("it does not have three parts"));
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let header = object(header)?;
        let text = |name| header.get(name).and_then(Value::as_str);
        if header.contains_key("crit") {
            return Err(AuthFault::Malformed("critical extensions are not supported"));
        }
        let algorithm = JWT_ALGORITHMS.iter().find(|(name, _)| text("alg") == Some(name));
        let Some((_, algorithm)) = algorithm else { return Err(AuthFault::Algorithm) };
        let key = match header.get("kid") {
            None => None,
            Some(Value::String(key)) => Some(key.clone()),
            Some(_) => return Err(AuthFault::Malformed("the key id is not a string")),
        };
        Ok(Self { algorithm: *algorithm, key, signed, signature, payload })
    }

    /// Reads the claims. Only of a token whose signature is valid.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, AuthFault> {
        object(self.payload)
    }
}

fn object(part: &str) -> Result<Map<String, Value>, AuthFault> {
    let decoded =
        URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthFault::Malformed("not base64url"))?;
    match strict_json::value(&decoded) {
        Some(Value::Object(object)) => Ok(object),
        _ => Err(AuthFault::Malformed("not a JSON object, or a name occurs twice")),
    }
}
