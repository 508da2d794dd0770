//! Seals what a browser keeps: only holders of the cookie keys can read or make it.
//!
//! AES-256-GCM-SIV (RFC 8452) with a random nonce: a nonce that occurs twice reveals only equal contents. What is sealed for
//! one context cannot be opened for another.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::LoginFault;
use crate::sticky::cookie::CookieKeys;

/// The keys. The first one seals, all of them open.
pub(crate) struct LoginSeal(Box<[RandomizedNonceKey]>);

impl LoginSeal {
    /// Derives the keys from those of cookies.
    pub(crate) fn new(keys: &CookieKeys) -> Self {
        let keys = keys.derive("login cookies, AES-256-GCM-SIV");
        // Keys of this length are valid.
        let keys =
            keys.iter().filter_map(|key| RandomizedNonceKey::new(&AES_256_GCM_SIV, key).ok());
        Self(keys.collect())
    }

    /// Seals a content. `None`: the system has no random numbers.
    pub(super) fn seal(&self, context: &[u8], content: &[u8]) -> Option<String> {
        let mut sealed = content.to_vec();
        let nonce = self.0.first()?.seal_in_place_append_tag(Aad::from(context), &mut sealed);
        let nonce = nonce.ok()?;
        sealed.splice(..0, nonce.as_ref().iter().copied());
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens a content that was sealed for this context.
    pub(super) fn open(&self, context: &[u8], sealed: &str) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.0.iter().find_map(|key| {
            let mut content = sealed.to_vec();
            let nonce = Nonce::from(nonce);
            let length = key.open_in_place(nonce, Aad::from(context), &mut content).ok()?.len();
            content.truncate(length);
            Some(content)
        })
    }
}

impl fmt::Debug for LoginSeal {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginSeal({})", self.0.len())
    }
}

/// Nothing can be sealed.
pub(super) fn no_randomness() -> LoginFault {
    LoginFault::Unavailable("the system has no random numbers".to_owned())
}
