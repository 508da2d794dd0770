//! Types of authentication: which clients may use a route, and how a client proves its identity.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;

/// Authentication of the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AuthConfig {
    /// JSON Web Tokens; `None`: not accepted.
    pub jwt: Option<JwtConfig>,
    /// What happens with sessions whose identity has expired.
    pub session: SessionAuthConfig,
}

/// JSON Web Tokens (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtConfig {
    /// Source of the keys.
    pub keys: KeySource,
    /// Algorithms that a token may have.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Accepted values of `iss`; empty: not checked.
    pub issuers: Vec<String>,
    /// Accepted values of `aud`; empty: not checked.
    pub audiences: Vec<String>,
    /// Places of a token; the first one that has a token counts.
    pub places: Vec<TokenPlace>,
    /// Accepted difference of clocks.
    pub leeway: Duration,
    /// Claim that names the subject.
    pub subject: String,
}

/// Source of the keys of tokens.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// A file with public keys: PEM, or a JWK set.
    File {
        /// Its path.
        path: PathBuf,
        /// Its content, which is valid.
        content: Arc<[u8]>,
    },
    /// Secrets that sign and verify, each at least 32 bytes.
    Secrets(Arc<[Vec<u8>]>),
    /// A URL with a JWK set.
    Url {
        /// The URL.
        url: String,
        /// Time after which the keys are fetched again.
        refresh: Duration,
        /// Deadline of a fetch.
        timeout: Duration,
    },
}

impl fmt::Debug for KeySource {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "File({})", path.display()),
            Self::Secrets(secrets) => write!(f, "Secrets({})", secrets.len()),
            Self::Url { url, .. } => write!(f, "Url({url})"),
        }
    }
}

/// An algorithm of a token's signature (RFC 7518 §3.1).
pub type JwtAlgorithm = Algorithm;

/// All algorithms, with their names.
pub const JWT_ALGORITHMS: [(&str, JwtAlgorithm); 12] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("EdDSA", Algorithm::EdDSA),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
];

/// Place of a token in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenPlace {
    /// `Authorization: Bearer TOKEN` (RFC 6750).
    Header,
    /// A cookie with this name.
    Cookie(String),
    /// A query parameter with this name.
    Query(String),
    /// The WebSocket subprotocol after the one with this name.
    Subprotocol(String),
}

impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Subprotocol(name) => write!(f, "subprotocol:{name}"),
        }
    }
}

/// What happens with sessions whose identity has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionAuthConfig {
    /// Time between the end of an identity and the end of its sessions.
    pub grace: Duration,
    /// Status of the Close frame: 1008, or 3000 to 4999.
    pub close_code: u16,
}

impl AuthConfig {
    /// Returns the names of the query parameters that carry secrets.
    pub fn secret_parameters(&self) -> impl Iterator<Item = &str> {
        self.jwt.iter().flat_map(|jwt| &jwt.places).filter_map(|place| match place {
            TokenPlace::Query(name) => Some(name.as_str()),
            _ => None,
        })
    }
}
