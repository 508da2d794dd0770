//! Types of session affinity.

use std::time::Duration;

/// How sessions are kept on their backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Follow Engine.IO session ids.
    pub engine_io: bool,
    /// Backends asked, one after the other, for an unknown sid; 0: none, the first one's answer stands.
    pub owner_search: usize,
    /// The sticky cookie; `None`: not set and not read.
    pub cookie: Option<Cookie>,
    /// How long a client without a cookie is remembered after its session ended, by its address and
    /// user agent, so that it returns to its backend; zero: not at all.
    pub memory: Duration,
}

/// Attributes of the sticky cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Cookie name, an RFC 6265 token; by default made from the pool's name.
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
    /// Sent always; browsers want `Secure` with it.
    None,
}

/// Which replies set the sticky cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetOn {
    /// Engine.IO handshakes and WebSocket upgrades.
    #[default]
    Handshake,
    /// Every reply to a client that has none, for applications with affinity needs of their own.
    Always,
}

/// Bounds of the sid table, over all pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionsConfig {
    /// Most sids remembered; past it, for each new one, the one nearest its expiry of a few drawn
    /// at random goes.
    pub max: usize,
    /// Longest sid that is remembered, in bytes after percent-decoding.
    pub max_sid_bytes: usize,
}
