//! Types of session affinity.

use std::time::Duration;

/// Session affinity of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Whether Engine.IO session ids are used.
    pub engine_io: bool,
    /// Maximum number of backends to try, one after the other, for an unknown sid; 0: no search.
    pub owner_search: usize,
    /// The affinity cookie; `None`: not set and not read.
    pub cookie: Option<Cookie>,
    /// How long the backend of an ended session is remembered for a client without a cookie, by address and
    /// user agent; zero: disabled.
    pub memory: Duration,
}

/// Attributes of the affinity cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Cookie name, an RFC 6265 token; the default is made from the pool's name.
    pub name: String,
    /// `SameSite`; `None`: `None` for a cross-site request over TLS, else `Lax`.
    pub same_site: Option<SameSite>,
    /// `Secure`; `None`: if the client uses TLS.
    pub secure: Option<bool>,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `Partitioned` (CHIPS); implies `Secure`.
    pub partitioned: bool,
    /// `Max-Age`; `None`: until the browser closes.
    pub lifetime: Option<Duration>,
    /// Which replies set it.
    pub set_on: SetOn,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Sent on same-site requests only.
    Strict,
    /// Sent on same-site requests and top-level navigation.
    Lax,
    /// Sent on every request. Browsers require `Secure` with it.
    None,
}

/// Which replies set the affinity cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetOn {
    /// Engine.IO handshakes and WebSocket upgrades.
    #[default]
    Handshake,
    /// Every reply to a client without the cookie.
    Always,
}

/// Limits of the session table, which all pools share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionsConfig {
    /// Maximum number of sids. If the table is full, a new sid replaces the one with the earliest expiry of a
    /// few random ones.
    pub max: usize,
    /// Maximum length of a stored sid, in bytes after percent-decoding.
    pub max_sid_bytes: usize,
}
