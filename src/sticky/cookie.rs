//! The sticky cookie: an opaque name for a backend that only the holders of the key can make.
//!
//! A value is HMAC-SHA256(key, pool ‖ 0x00 ‖ backend name), its first 16 bytes as base64url without
//! padding. So a client can neither learn nor name an address, two proxies with one key agree, and
//! a reordered list, a new weight or a new address changes nothing. Values are compared with
//! prebuilt ones; anything else, forged or forgotten, is treated as absent.
//!
//! This module must not know who asks, nor what is done with a backend once it is found.

use std::{collections::HashMap, fmt, str};

use aws_lc_rs::{hmac, rand};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};

use crate::config::{self, SameSite, SharedKeys};

/// Longest value that is looked at, in bytes. Ours have 22.
const LONGEST: usize = 64;

/// Bytes of a backend's id.
const ID: usize = 16;

/// The keys that cookies are made and accepted under.
///
/// Made keys are made anew by each [`new`](Self::new): keep these across reloads, and hand
/// [`made`](Self::made) to the next process at a binary upgrade.
#[derive(Clone)]
pub struct Keys {
    keys: Vec<hmac::Key>,
    made: Option<MadeKey>,
}

/// Bytes of a key that was made here.
pub type MadeKey = [u8; 32];

/// Cookie values of one pool's backends.
#[derive(Clone)]
pub struct Ids {
    by_id: HashMap<[u8; ID], Found>,
    values: Vec<String>,
}

/// Whom a cookie names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Position of the backend among the names that [`Ids::new`] was given.
    pub index: usize,
    /// Made under the current key; else it should be replaced while its key is still accepted.
    pub current_key: bool,
}

/// What the attributes depend on beside the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The client's connection is encrypted.
    pub tls: bool,
    /// The request came from a page of another site.
    pub cross_site: bool,
}

impl Keys {
    /// The configured keys, or one of 32 random bytes.
    ///
    /// # Panics
    ///
    /// Where the system has no randomness to give.
    pub fn new(keys: &SharedKeys) -> Self {
        Self::adopt(keys, None)
    }

    /// The configured keys; where one is to be made, the one that another process has made.
    ///
    /// # Panics
    ///
    /// Where the system has no randomness to give.
    pub fn adopt(keys: &SharedKeys, made: Option<MadeKey>) -> Self {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        match keys {
            SharedKeys::Given(keys) => {
                Self { keys: keys.iter().map(|bytes| key(bytes)).collect(), made: None }
            }
            SharedKeys::Made => {
                let made = made.unwrap_or_else(|| {
                    let mut bytes = [0; 32];
                    rand::fill(&mut bytes).expect("the system's random source works");
                    bytes
                });
                Self { keys: vec![key(&made)], made: Some(made) }
            }
        }
    }

    /// The key that was made; `None`: they were configured.
    pub fn made(&self) -> Option<MadeKey> {
        self.made
    }
}

impl fmt::Debug for Keys {
    /// Says how many, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.keys.len())
    }
}

impl Ids {
    /// The values of these backends of a pool, under each key.
    pub fn new<'a>(keys: &Keys, pool: &str, names: impl Iterator<Item = &'a str>) -> Self {
        let mut by_id = HashMap::new();
        let mut values = Vec::new();
        for (index, name) in names.enumerate() {
            for (age, key) in keys.keys.iter().enumerate() {
                let id = id(key, pool, name);
                let current_key = age == 0;
                by_id.entry(id).or_insert(Found { index, current_key });
                if current_key {
                    values.push(BASE64_URL_SAFE_NO_PAD.encode(id));
                }
            }
        }
        Self { by_id, values }
    }

    /// The backend that a cookie's value names, if it is one of the pool's under one of the keys.
    pub fn find(&self, value: &str) -> Option<Found> {
        let mut id = [0; ID];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(value, &mut id).ok()?;
        (length == ID).then(|| self.by_id.get(&id).copied())?
    }

    /// The value that names a backend, by its position among the names given; empty for a position
    /// that there is not.
    pub fn value(&self, index: usize) -> &str {
        self.values.get(index).map_or("", String::as_str)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").field("backends", &self.values.len()).finish_non_exhaustive()
    }
}

/// The values of all cookies of this name, over all `Cookie` fields, in the order of the request. Names are
/// compared exactly, as browsers do.
///
/// A browser sends several cookies of one name if they were set with different attributes, or by different
/// hosts of a site. A value is empty if it is not text or is longer than 64 bytes: it can name no backend.
pub fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(header::COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
    pairs.filter(move |pair| name_of(pair) == Some(name.as_bytes())).map(value_of)
}

/// Removes the cookies for which `is_ours(name, value)` holds from every `Cookie` field. What remains of a
/// field stays byte for byte as it was; a field of which nothing remains is removed.
pub fn strip(headers: &mut HeaderMap, is_ours: impl Fn(&[u8], &str) -> bool) {
    let is_kept = |pair: &&[u8]| name_of(pair).is_none_or(|name| !is_ours(name, value_of(pair)));
    let kept: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|field| {
            let mut rest = Vec::with_capacity(field.len());
            for (at, pair) in
                field.as_bytes().split(|&byte| byte == b';').filter(is_kept).enumerate()
            {
                if at > 0 {
                    rest.push(b';');
                }
                rest.extend_from_slice(pair);
            }
            // The first pair follows no semicolon, and its space goes with that of the pair before.
            HeaderValue::from_bytes(rest.trim_ascii()).ok().filter(|rest| !rest.is_empty())
        })
        .collect();
    headers.remove(header::COOKIE);
    for field in kept {
        headers.append(header::COOKIE, field);
    }
}

/// The name of a `name=value` pair, without the space around it.
fn name_of(pair: &[u8]) -> Option<&[u8]> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    Some(pair[..equals].trim_ascii())
}

/// The value of a `name=value` pair, without space and quotes around it; empty if it cannot be ours.
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

/// The `Set-Cookie` header that gives a client this value.
///
/// Where `SameSite` is not configured it is `None` if the page is another site's and the cookie is
/// `Secure`, without which browsers drop such a cookie, and else `Lax`. What is configured is sent as
/// it is, except that `Partitioned` always brings `Secure`.
///
/// # Panics
///
/// Where the cookie's name or the value is not what it must be: a token, and one of [`Ids`].
pub fn set_cookie(cookie: &config::Cookie, value: &str, context: Context) -> HeaderValue {
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
    HeaderValue::try_from(text).expect("a token, base64url and fixed words are visible ASCII")
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn keys(keys: &[[u8; 32]]) -> Keys {
        Keys::new(&SharedKeys::Given(keys.iter().map(|key| key.to_vec()).collect()))
    }

    fn ids(keys: &Keys, pool: &str, names: &[&str]) -> Ids {
        Ids::new(keys, pool, names.iter().copied())
    }

    fn headers(cookies: &[&[u8]]) -> HeaderMap {
        let value = |bytes| (header::COOKIE, HeaderValue::from_bytes(bytes).unwrap());
        cookies.iter().map(|&bytes| value(bytes)).collect()
    }

    #[test]
    fn a_value_names_its_backend_and_nothing_else_does() {
        let ids = ids(&keys(&[NEW]), "chat", &["blue", "green"]);
        for index in 0..2 {
            let value = ids.value(index);
            assert_eq!(value.len(), 22);
            assert_eq!(ids.find(value), Some(Found { index, current_key: true }));
            assert_eq!(ids.find(&format!("{value}=")), None);
            assert_eq!(ids.find(&value[..21]), None);
            assert_eq!(ids.find(&value.to_uppercase()), None);
        }
        assert_eq!(ids.value(2), "");
        for forged in ["", "blue", "127.0.0.1:3001", "AAAAAAAAAAAAAAAAAAAAAA", "ö", "\0"] {
            assert_eq!(ids.find(forged), None, "{forged}");
        }
    }

    /// So that every release of every proxy that shares the key agrees: from Python's `hmac`.
    #[test]
    fn values_never_change() {
        assert_eq!(ids(&keys(&[NEW]), "chat", &["blue"]).value(0), "GvbNFETCKCAoQZmnXwfsGQ");
    }

    #[test]
    fn proxies_with_one_key_agree_whatever_their_order() {
        let here = ids(&keys(&[NEW]), "chat", &["blue", "green"]);
        let there = ids(&keys(&[NEW, OLD]), "chat", &["green", "red", "blue"]);
        assert_eq!(there.find(here.value(0)), Some(Found { index: 2, current_key: true }));
    }

    #[test]
    fn pools_keys_and_names_do_not_mix() {
        let chat = ids(&keys(&[NEW]), "chat", &["blue"]);
        for other in [
            ids(&keys(&[NEW]), "game", &["blue"]),
            ids(&keys(&[NEW]), "cha", &["tblue"]),
            ids(&keys(&[OLD]), "chat", &["blue"]),
            ids(&Keys::new(&SharedKeys::Made), "chat", &["blue"]),
        ] {
            assert_eq!(other.find(chat.value(0)), None);
        }
    }

    #[test]
    fn a_rotated_key_is_accepted_and_told() {
        let before = ids(&keys(&[OLD]), "chat", &["blue", "green"]);
        let after = ids(&keys(&[NEW, OLD]), "chat", &["blue", "green"]);
        assert_eq!(after.find(before.value(1)), Some(Found { index: 1, current_key: false }));
        assert_ne!(after.value(1), before.value(1));
        assert_eq!(ids(&keys(&[NEW]), "chat", &["blue"]).find(before.value(0)), None);
    }

    #[test]
    fn made_keys_differ_and_are_kept_by_a_clone() {
        let made = Keys::new(&SharedKeys::Made);
        let value = ids(&made, "chat", &["blue"]);
        assert!(ids(&made.clone(), "chat", &["blue"]).find(value.value(0)).is_some());
        let next = Keys::adopt(&SharedKeys::Made, made.made());
        assert!(ids(&next, "chat", &["blue"]).find(value.value(0)).is_some());
        let given = SharedKeys::Given(vec![NEW.to_vec()]);
        assert_eq!(Keys::adopt(&given, made.made()).made(), None);
        let other = ids(&Keys::new(&SharedKeys::Made), "chat", &["blue"]);
        assert_eq!(other.find(value.value(0)), None);
        assert_eq!(format!("{made:?}"), "Keys(1)");
    }

    #[test]
    fn a_cookie_is_read_among_others() {
        for cookies in [
            &[b"moorline=abc".as_slice()][..],
            &[b"a=b; moorline=abc; c=d"],
            &[b"a=b;moorline = \"abc\" ;;c"],
            &[b"a=b", b"\tmoorline=abc"],
            &[b"other=\xff\xfe; moorline=abc; moorline2=x; xmoorline=y; Moorline=z"],
        ] {
            assert_eq!(read(cookies), ["abc"], "{cookies:?}");
        }
        assert_eq!(read(&[b"moorline=a=b=="]), ["a=b=="]);
        assert_eq!(read(&[b"moorline=a; b=c; moorline=d", b"moorline=e"]), ["a", "d", "e"]);
    }

    fn read(cookies: &[&[u8]]) -> Vec<String> {
        values(&headers(cookies), "moorline").map(str::to_owned).collect()
    }

    #[test]
    fn a_value_that_cannot_be_ours_is_empty() {
        let long = [b"moorline=".as_slice(), &[b'x'; 65]].concat();
        assert_eq!(read(&[&long[..long.len() - 1]]), ["x".repeat(64)]);
        for cookies in [b"".as_slice(), b"moorline", b"moorline2=a"] {
            assert_eq!(read(&[cookies]), [""; 0], "{cookies:?}");
        }
        for cookies in [b"moorline=".as_slice(), b"moorline=\"\"", b"moorline=\xff", &long] {
            assert_eq!(read(&[cookies]), [""], "{cookies:?}");
        }
        assert_eq!(read(&[&long, b"moorline=a"]), ["", "a"], "the next one is read all the same");
    }

    #[test]
    fn stripping_keeps_other_cookies_byte_for_byte() {
        for (cookies, expected) in [
            (&[b"moorline=x".as_slice()][..], &[][..]),
            (&[b" moorline = \"x\" ;"], &[]),
            (&[b"moorline=x; a=b"], &[b"a=b".as_slice()]),
            (&[b"a=b; moorline=x"], &[b"a=b"]),
            (
                &[b"a=b;moorline=x;  c=\"d\";;e;moorline=y; moorline2=z"],
                &[b"a=b;  c=\"d\";;e; moorline2=z"],
            ),
            (&[b"moorline=x", b"a=\xff\xfe"], &[b"a=\xff\xfe"]),
            (&[b"a=b; moorline", b"Moorline=x"], &[b"a=b; moorline", b"Moorline=x"]),
        ] {
            let mut fields = headers(cookies);
            strip(&mut fields, |name, _| name == b"moorline");
            let left: Vec<_> =
                fields.get_all(header::COOKIE).iter().map(|v| v.as_bytes()).collect();
            assert_eq!(left, expected, "{cookies:?}");
        }
    }

    #[test]
    fn attributes_follow_the_request_where_they_are_not_configured() {
        let cookie = config::Cookie::of("chat");
        let set = |tls, cross_site| set_cookie(&cookie, "v", Context { tls, cross_site });
        assert_eq!(set(false, false), "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(false, true), "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(true, false), "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(set(true, true), "moorline-chat=v; Path=/; HttpOnly; SameSite=None; Secure");
    }

    #[test]
    fn configured_attributes_are_sent_as_they_are() {
        let context = Context { tls: true, cross_site: true };
        let cookie = config::Cookie {
            name: "__Host-node".to_owned(),
            same_site: Some(SameSite::Strict),
            secure: Some(false),
            http_only: false,
            lifetime: Some(Duration::from_secs(86_400)),
            ..config::Cookie::of("chat")
        };
        let expected = "__Host-node=v; Path=/; Max-Age=86400; SameSite=Strict";
        assert_eq!(set_cookie(&cookie, "v", context), expected);
        let open = config::Cookie { same_site: Some(SameSite::None), ..config::Cookie::of("chat") };
        let plain = Context { tls: false, ..context };
        assert_eq!(
            set_cookie(&open, "v", plain),
            "moorline-chat=v; Path=/; HttpOnly; SameSite=None"
        );
    }

    #[test]
    fn same_site_none_is_not_chosen_where_browsers_would_drop_it() {
        let with = |secure, partitioned, tls| {
            let cookie = config::Cookie { secure, partitioned, ..config::Cookie::of("chat") };
            set_cookie(&cookie, "v", Context { tls, cross_site: true })
        };
        let lax = "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax";
        let none = "moorline-chat=v; Path=/; HttpOnly; SameSite=None; Secure";
        assert_eq!(with(Some(false), false, true), lax);
        assert_eq!(with(None, false, false), lax);
        // TLS ends before us, and the operator says so.
        assert_eq!(with(Some(true), false, false), none);
        assert_eq!(with(Some(false), true, false), format!("{none}; Partitioned").as_str());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            first in proptest::collection::vec(any::<u8>(), 0..80),
            second in "moor[line=;\" ]{0,40}",
        ) {
            let headers: HeaderMap = [first.as_slice(), second.as_bytes()]
                .iter()
                .filter_map(|bytes| Some((header::COOKIE, HeaderValue::from_bytes(bytes).ok()?)))
                .collect();
            let ids = ids(&keys(&[NEW]), "chat", &["blue"]);
            for value in values(&headers, "moor") {
                prop_assert!(value.len() <= LONGEST);
                prop_assert_eq!(ids.find(value), None);
            }
            let mut stripped = headers.clone();
            strip(&mut stripped, |name, _| name == b"moor");
            prop_assert_eq!(values(&stripped, "moor").count(), 0);
        }
    }
}
