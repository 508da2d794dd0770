//! The sticky cookie: a keyed, opaque id of a backend.

use std::collections::HashMap;

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::COOKIE};

use crate::config::{Cookie, CookieKeys, SameSite};

/// Bytes of a backend's id: half an HMAC-SHA256.
const ID: usize = 16;

/// Longest value that is looked at.
const MAX_VALUE: usize = 64;

/// Keys in force: the first makes ids, all are accepted.
pub struct Keys(Vec<hmac::Key>);

/// The ids of a pool's backends.
#[derive(Debug)]
pub struct Ids {
    values: Vec<String>,
    places: HashMap<[u8; ID], Found>,
}

/// A backend that a cookie names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place among the names given to [`Ids::new`].
    pub index: usize,
    /// Whether the id was made under the first key.
    pub current_key: bool,
}

/// What a request says of where its cookie will be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// It came over TLS.
    pub tls: bool,
    /// It was made by a page of another site.
    pub cross_site: bool,
}

impl Keys {
    /// The configured keys, or a random one.
    pub fn new(keys: &CookieKeys) -> Self {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        match keys {
            CookieKeys::Given(keys) => Self(keys.iter().map(|bytes| key(bytes)).collect()),
            CookieKeys::Made => {
                let mut bytes = [0; 32];
                SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
                Self(vec![key(&bytes)])
            }
        }
    }
}

impl Ids {
    /// Ids of the backends with these names.
    pub fn new<'a>(keys: &Keys, pool: &str, names: impl Iterator<Item = &'a str>) -> Self {
        let mut ids = Self { values: Vec::new(), places: HashMap::new() };
        for (index, name) in names.enumerate() {
            for (place, key) in keys.0.iter().enumerate() {
                let tag =
                    hmac::sign(key, [pool.as_bytes(), &[0], name.as_bytes()].concat().as_slice());
                let mut id = [0; ID];
                id.copy_from_slice(&tag.as_ref()[..ID]);
                ids.places.insert(id, Found { index, current_key: place == 0 });
                if place == 0 {
                    ids.values.push(BASE64_URL_SAFE_NO_PAD.encode(id));
                }
            }
        }
        ids
    }

    /// The backend that a value names.
    pub fn find(&self, value: &str) -> Option<Found> {
        let id = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
        self.places.get(id.as_slice()).copied()
    }

    /// The value that names a backend; empty for a place that was not given.
    pub fn value(&self, index: usize) -> &str {
        self.values.get(index).map_or("", String::as_str)
    }
}

/// The one value of the cookie with this name.
pub fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    let value = values.next()?.trim_matches('"');
    (values.next().is_none() && value.len() <= MAX_VALUE).then_some(value)
}

/// The `Set-Cookie` field that carries a value.
pub fn set_cookie(cookie: &Cookie, value: &str, context: Context) -> HeaderValue {
    let secure = cookie.partitioned || cookie.secure.unwrap_or(context.tls);
    let same_site = cookie.same_site.unwrap_or(match context.cross_site && secure {
        true => SameSite::None,
        false => SameSite::Lax,
    });
    let mut text = format!("{}={value}; Path=/", cookie.name);
    if let Some(lifetime) = cookie.lifetime {
        text.push_str(&format!("; Max-Age={}", lifetime.as_secs()));
    }
    text.push_str(match same_site {
        SameSite::Strict => "; SameSite=Strict",
        SameSite::Lax => "; SameSite=Lax",
        SameSite::None => "; SameSite=None",
    });
    for (wanted, attribute) in [
        (secure, "; Secure"),
        (cookie.http_only, "; HttpOnly"),
        (cookie.partitioned, "; Partitioned"),
    ] {
        if wanted {
            text.push_str(attribute);
        }
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}
