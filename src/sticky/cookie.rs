//! The affinity cookie: an opaque name for a backend that only holders of the key can create.
//!
//! A value is the first 16 bytes of HMAC-SHA256(key, pool ‖ 0x00 ‖ backend name), as base64url without padding.
//! Clients can neither learn nor forge an address. Proxies with a common key agree, and a reordered list, a new
//! weight or a new address changes nothing. Received values are compared with precomputed ones; any other value,
//! forged or outdated, is treated as absent.
//!
//! This module knows neither the client nor what happens with the backend.

use std::{collections::HashMap, fmt, str};

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, Prk, Salt},
    hmac, rand,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use moorline_http::{FieldId, Head};

use crate::config::{self, SameSite, SharedKeys};

/// Maximum length of an inspected value in bytes. Valid values have 22.
const LONGEST: usize = 64;

/// Size of a backend id in bytes.
const ID: usize = 16;

/// The keys for creating and accepting cookies.
///
/// Each call of [`new`](Self::new) generates a new key if none is configured. Keep the value across reloads, and hand
/// [`generated`](Self::generated) to the next process in a binary upgrade.
#[derive(Clone)]
pub struct CookieKeys {
    keys: Vec<hmac::Key>,
    /// The same keys, for deriving those of other cookies.
    roots: Vec<Prk>,
    generated: Option<GeneratedKey>,
}

/// A generated key.
pub type GeneratedKey = [u8; 32];

/// Cookie values of the backends of one pool.
#[derive(Clone)]
pub struct CookieIds {
    by_id: HashMap<[u8; ID], CookieMatch>,
    values: Vec<String>,
}

/// A backend named by a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieMatch {
    /// Position of the backend among the names given to [`CookieIds::new`].
    pub index: usize,
    /// Whether the value uses the current key; otherwise replace it while its key is still accepted.
    pub current_key: bool,
}

/// Request properties that determine the cookie's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CookieContext {
    /// The client connection uses TLS.
    pub tls: bool,
    /// The request comes from a page of another site.
    pub cross_site: bool,
}

impl CookieKeys {
    /// Uses the configured keys, or generates one of 32 random bytes.
    ///
    /// # Panics
    ///
    /// If the system provides no randomness.
    pub fn new(keys: &SharedKeys) -> Self {
        Self::adopt(keys, None)
    }

    /// Uses the configured keys; without them the generated key of another process.
    ///
    /// # Panics
    ///
    /// If the system provides no randomness.
    pub fn adopt(keys: &SharedKeys, generated: Option<GeneratedKey>) -> Self {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let root = |bytes: &[u8]| Salt::new(HKDF_SHA256, b"moorline").extract(bytes);
        match keys {
            SharedKeys::Configured(keys) => Self {
                keys: keys.iter().map(|bytes| key(bytes)).collect(),
                roots: keys.iter().map(|bytes| root(bytes)).collect(),
                generated: None,
            },
            SharedKeys::Generated => {
                let generated = generated.unwrap_or_else(|| {
                    let mut bytes = [0; 32];
                    rand::fill(&mut bytes).expect("the system's random source works");
                    bytes
                });
                let (keys, roots) = (vec![key(&generated)], vec![root(&generated)]);
                Self { keys, roots, generated: Some(generated) }
            }
        }
    }

    /// Derives keys for another kind of cookie (RFC 5869), in the order of the keys: the first one creates cookies.
    pub(crate) fn derive(&self, purpose: &str) -> Vec<[u8; 32]> {
        let derived = |root: &Prk| {
            let (mut key, info) = ([0; 32], [purpose.as_bytes()]);
            root.expand(&info, HKDF_SHA256).and_then(|expanded| expanded.fill(&mut key)).ok()?;
            Some(key)
        };
        // One block of output is always possible.
        self.roots.iter().filter_map(derived).collect()
    }

    /// Returns the generated key; `None` if keys are configured.
    pub fn generated(&self) -> Option<GeneratedKey> {
        self.generated
    }
}

impl fmt::Debug for CookieKeys {
    /// Shows the number of keys, never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CookieKeys({})", self.keys.len())
    }
}

impl CookieIds {
    /// Computes the values of a pool's backends under each key.
    pub fn new<'a>(keys: &CookieKeys, pool: &str, names: impl Iterator<Item = &'a str>) -> Self {
        let mut by_id = HashMap::new();
        let mut values = Vec::new();
        for (index, name) in names.enumerate() {
            for (age, key) in keys.keys.iter().enumerate() {
                let id = id(key, pool, name);
                let current_key = age == 0;
                by_id.entry(id).or_insert(CookieMatch { index, current_key });
                if current_key {
                    values.push(BASE64_URL_SAFE_NO_PAD.encode(id));
                }
            }
        }
        Self { by_id, values }
    }

    /// Returns the backend that a cookie value names, if it belongs to the pool and to one of the keys.
    pub fn find(&self, value: &str) -> Option<CookieMatch> {
        let mut id = [0; ID];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(value, &mut id).ok()?;
        (length == ID).then(|| self.by_id.get(&id).copied())?
    }

    /// Returns the value for a backend, by its position among the names; empty if the position is out of range.
    pub fn value(&self, index: usize) -> &str {
        self.values.get(index).map_or("", String::as_str)
    }
}

impl fmt::Debug for CookieIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieIds").field("backends", &self.values.len()).finish_non_exhaustive()
    }
}

/// Iterates over the values of all cookies with this name in the values of all `Cookie` fields, in request order.
/// Names are compared exactly, as browsers do.
///
/// A browser sends several cookies of one name if they were set with different attributes, or by different hosts of
/// a site. A value is empty if it is not text or is longer than 64 bytes: it cannot name a backend.
pub fn values<'a>(
    fields: impl Iterator<Item = &'a [u8]>,
    name: &str,
) -> impl Iterator<Item = &'a str> {
    let pairs = fields.flat_map(|field| field.split(|&byte| byte == b';'));
    pairs.filter(move |pair| name_of(pair) == Some(name.as_bytes())).map(value_of)
}

/// Returns the value of a `Cookie` field without the cookies for which `is_ours(name, value)` is true. The rest of
/// the value stays byte for byte unchanged; empty if no cookie is left.
pub fn strip(field: &[u8], is_ours: impl Fn(&[u8], &str) -> bool) -> Vec<u8> {
    let is_kept = |pair: &&[u8]| name_of(pair).is_none_or(|name| !is_ours(name, value_of(pair)));
    let mut rest = Vec::with_capacity(field.len());
    for (at, pair) in field.split(|&byte| byte == b';').filter(is_kept).enumerate() {
        if at > 0 {
            rest.push(b';');
        }
        rest.extend_from_slice(pair);
    }
    // The first pair has no semicolon before it; the space after the removed pair goes too.
    let end = rest.trim_ascii_end().len();
    rest.truncate(end);
    rest.drain(..end - rest.trim_ascii_start().len());
    rest
}

/// Removes the cookies for which `is_ours(name, value)` is true from all `Cookie` fields.
pub(crate) fn strip_all(head: &mut Head, is_ours: impl Fn(&[u8], &str) -> bool) {
    let kept: Vec<Vec<u8>> = head
        .all(FieldId::Cookie)
        .map(|field| strip(field, &is_ours))
        .filter(|rest| !rest.is_empty())
        .collect();
    head.remove(FieldId::Cookie);
    for field in kept {
        head.append(FieldId::Cookie, field);
    }
}

/// Returns the name of a `name=value` pair, without surrounding space.
fn name_of(pair: &[u8]) -> Option<&[u8]> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    Some(pair[..equals].trim_ascii())
}

/// Returns the value of a `name=value` pair, without surrounding space and quotes; empty if it is not valid.
fn value_of(pair: &[u8]) -> &str {
    let equals = pair.iter().position(|&byte| byte == b'=');
    let value = equals.map_or(&b""[..], |equals| &pair[equals + 1..]).trim_ascii();
    let value = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    if value.len() > LONGEST {
        return "";
    }
    str::from_utf8(value).unwrap_or_default()
}

/// Returns the value of the `Set-Cookie` field for this value; it is visible ASCII.
///
/// If `SameSite` is not configured, the attribute is `None` for a page of another site if the cookie is `Secure`
/// (browsers drop it otherwise), and `Lax` in all other cases. Configured attributes are sent unchanged,
/// except that `Partitioned` implies `Secure`.
pub fn set_cookie(cookie: &config::Cookie, value: &str, context: CookieContext) -> String {
    let secure = cookie.partitioned || cookie.secure.unwrap_or(context.tls);
    let same_site = cookie.same_site.unwrap_or(if context.cross_site && secure {
        SameSite::None
    } else {
        SameSite::Lax
    });
    let mut text = format!("{}={value}; Path=/", cookie.name);
    if let Some(lifetime) = cookie.lifetime {
        text.push_str("; Max-Age=");
        text.push_str(&lifetime.as_secs().to_string());
    }
    if cookie.http_only {
        text.push_str("; HttpOnly");
    }
    text.push_str(match same_site {
        SameSite::Strict => "; SameSite=Strict",
        SameSite::Lax => "; SameSite=Lax",
        SameSite::None => "; SameSite=None",
    });
    if secure {
        text.push_str("; Secure");
    }
    if cookie.partitioned {
        text.push_str("; Partitioned");
    }
    text
}

fn id(key: &hmac::Key, pool: &str, name: &str) -> [u8; ID] {
    let mut context = hmac::Context::with_key(key);
    context.update(pool.as_bytes());
    context.update(&[0]);
    context.update(name.as_bytes());
    let tag = context.sign();
    let mut id = [0; ID];
    id.copy_from_slice(&tag.as_ref()[..ID]);
    id
}

#[cfg(test)]
mod tests;
