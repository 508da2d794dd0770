//! Types of the limits of a route.

use std::time::Duration;

use super::Rate;

/// A limit of a route, for each value of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitConfig {
    /// What the counters belong to: the name of the limit, or else its route and place. Limits that are equal count
    /// together.
    pub scope: String,
    /// Name of the policy in the RateLimit fields.
    pub name: String,
    /// What requests are counted by.
    pub key: LimitKey,
    /// Requests that are counted.
    pub what: Counted,
    /// Rate of requests; `None`: unlimited.
    pub rate: Option<Rate>,
    /// Number of requests that may come at once, within the rate.
    pub burst: u32,
    /// Maximum number of requests in flight; `None`: unlimited.
    pub concurrent: Option<u32>,
    /// Maximum number of open tunnels; `None`: unlimited.
    pub tunnels: Option<u32>,
    /// Number of requests in a period of the clock; `None`: unlimited.
    pub quota: Option<Quota>,
    /// Length of the IPv6 networks that count as one client.
    pub ipv6_prefix: u8,
    /// Number of keys that are remembered.
    pub max_keys: u32,
    /// Responses that have the RateLimit fields.
    pub fields: LimitFields,
}

/// Limits on the WebSocket messages of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessagesConfig {
    /// Maximum size of a message in bytes; `None`: unlimited.
    pub max_size: Option<u64>,
    /// Rate of messages; `None`: unlimited.
    pub rate: Option<Rate>,
    /// Number of messages that may come at once, within the rate.
    pub burst: u32,
    /// How long a client may be beyond the rate.
    pub patience: Duration,
}

/// What the requests of a limit are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// The address of the client.
    Client,
    /// All requests of the route together.
    Route,
    /// The value of a header field.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The value of a query parameter.
    Query(String),
    /// The subject of the identity.
    Subject,
    /// The client of the API key.
    ApiKey,
    /// A claim of the token.
    Claim(String),
}

/// Requests that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Every request except held polls and preflights.
    Requests,
    /// Requests that open a session: handshakes of Engine.IO, and WebSockets without a session.
    Handshakes,
    /// POST requests.
    Posts,
    /// Held polls.
    Polls,
}

/// A number of requests in a period of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Number of requests.
    pub times: u32,
    /// Length of the period in seconds; periods begin at multiples of it since midnight UTC.
    pub period: u32,
}

/// Responses that have the RateLimit fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitFields {
    /// Every response.
    Always,
    /// Responses to refused requests.
    Refusals,
    /// None.
    Never,
}

impl LimitKey {
    /// Whether the key is known only after authentication.
    pub fn needs_identity(&self) -> bool {
        matches!(self, Self::Subject | Self::ApiKey | Self::Claim(_))
    }

    /// The key as it is written in a file.
    pub fn written(&self) -> String {
        match self {
            Self::Client => "client".to_owned(),
            Self::Route => "route".to_owned(),
            Self::Subject => "subject".to_owned(),
            Self::ApiKey => "api_key".to_owned(),
            Self::Claim(path) => format!("jwt:{path}"),
            Self::Header(name) => format!("header:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
            Self::Query(name) => format!("query:{name}"),
        }
    }
}

impl Counted {
    /// The word in a file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Handshakes => "handshakes",
            Self::Posts => "posts",
            Self::Polls => "polls",
        }
    }
}

impl LimitFields {
    /// The word in a file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Refusals => "refusals",
            Self::Never => "never",
        }
    }
}
