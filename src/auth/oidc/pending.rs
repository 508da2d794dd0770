//! A login that has begun: what ties the answer of the provider to the browser.
//!
//! The cookie of the browser has a random secret, and `state` a random number and the page that the browser wants. `state` is
//! sealed for the secret; `nonce` and the PKCE verifier are derived from both. So a browser can log in from several tabs
//! with one small cookie, and every tab gets its own page.

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    LoginFault,
    seal::{self, LoginSeal},
};

/// Longest time of a login, in seconds.
pub(super) const LONGEST_LOGIN: u64 = 600;

/// Age from which on a browser gets another secret, in seconds: each login has at least the other half.
const YOUNG: u64 = LONGEST_LOGIN / 2;

/// Longest target that is kept. `state` is a part of a URL, and providers limit it.
const LONGEST_TARGET: usize = 512;

/// Length of a secret, in bytes.
const SECRET: usize = 32;

/// Length of the random number of a login, in bytes.
const NUMBER: usize = 16;

/// Length of a time, in bytes.
const TIME: usize = 8;

/// The secret of a browser that logs in.
pub(super) struct BrowserSecret {
    secret: [u8; SECRET],
    /// When it was made, in seconds since 1970.
    at: u64,
}

impl BrowserSecret {
    pub(super) fn new(now: u64) -> Result<Self, LoginFault> {
        Ok(Self { secret: random()?, at: now })
    }

    /// Whether logins can begin with it.
    pub(super) fn is_young(&self, now: u64) -> bool {
        now.saturating_sub(self.at) < YOUNG
    }

    /// Whether logins can end with it.
    pub(super) fn is_open(&self, now: u64) -> bool {
        is_open(self.at, now)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&self.secret[..], &self.at.to_be_bytes()].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (secret, at) = bytes.split_first_chunk::<SECRET>()?;
        Some(Self { secret: *secret, at: u64::from_be_bytes(at.try_into().ok()?) })
    }

    /// Names the secret, and does not reveal it.
    fn context(&self, context: &[u8]) -> Vec<u8> {
        [context, digest(&SHA256, &self.secret).as_ref()].concat()
    }
}

/// A login that has begun.
pub(super) struct PendingLogin {
    key: hmac::Key,
    number: [u8; NUMBER],
    at: u64,
    target: String,
}

impl PendingLogin {
    /// Begins a login. Returns it with its `state`.
    pub(super) fn new(
        secret: &BrowserSecret,
        target: String,
        seal: &LoginSeal,
        context: &[u8],
    ) -> Result<(Self, String), LoginFault> {
        let (number, at) = (random()?, super::now());
        let content = [&number[..], &at.to_be_bytes(), target.as_bytes()].concat();
        let state = seal.seal(&secret.context(context), &content);
        let state = state.ok_or_else(seal::no_randomness)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.secret);
        Ok((Self { key, number, at, target }, state))
    }

    /// Reads the `state` of a login that has begun with this secret.
    pub(super) fn open(
        secret: &BrowserSecret,
        state: &str,
        seal: &LoginSeal,
        context: &[u8],
    ) -> Option<Self> {
        let content = seal.open(&secret.context(context), state)?;
        let (number, content) = content.split_first_chunk::<NUMBER>()?;
        let (at, target) = content.split_first_chunk::<TIME>()?;
        let target = String::from_utf8(target.to_vec()).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.secret);
        Some(Self { key, number: *number, at: u64::from_be_bytes(*at), target })
    }

    /// Whether it may still end.
    pub(super) fn is_open(&self, now: u64) -> bool {
        is_open(self.at, now)
    }

    /// The page that the browser wants: a path with its query.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Value that the ID token has to contain.
    pub(super) fn nonce(&self) -> String {
        self.derive(b"nonce")
    }

    /// The PKCE verifier (RFC 7636 §4.1).
    pub(super) fn verifier(&self) -> String {
        self.derive(b"verifier")
    }

    /// The PKCE challenge (RFC 7636 §4.2).
    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier().as_bytes()))
    }

    fn derive(&self, purpose: &[u8]) -> String {
        let message = [purpose, b"\0", &self.number[..]].concat();
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &message))
    }
}

/// The page that the browser gets after its login. A long query is dropped, and so is a long path.
pub(super) fn target(path: &str, query: Option<&str>) -> String {
    let fits = |text: &str| {
        text.len() <= LONGEST_TARGET
            && text.starts_with('/')
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    match (fits(&whole), fits(path)) {
        (true, _) => whole,
        (false, true) => path.to_owned(),
        (false, false) => "/".to_owned(),
    }
}

fn is_open(at: u64, now: u64) -> bool {
    now.saturating_sub(at) < LONGEST_LOGIN
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], LoginFault> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| seal::no_randomness())?;
    Ok(bytes)
}
