//! Types of authentication: which clients may use a route, and how a client proves its identity.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;

use super::{CertificateCondition, TextCondition};

/// Authentication of the requests of a route. Without any credential, the client certificate is the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// JSON Web Tokens; `None`: not accepted.
    pub jwt: Option<JwtConfig>,
    /// API keys; `None`: not accepted.
    pub api_keys: Option<ApiKeysConfig>,
    /// Passwords of Basic authentication; `None`: not accepted.
    pub basic: Option<BasicConfig>,
    /// Another server that decides; `None`: none.
    pub forward: Option<ForwardAuthConfig>,
    /// Logins of browsers at an OpenID provider; `None`: none.
    pub oidc: Option<OidcConfig>,
    /// Conditions of the identity.
    pub require: RequireConfig,
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

/// API keys: random secrets of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeysConfig {
    /// File of the keys.
    pub path: PathBuf,
    /// The keys, sorted by their hash.
    pub keys: Arc<[ApiKey]>,
    /// Places of a key; the first one that has a key counts.
    pub places: Vec<TokenPlace>,
}

/// An API key, of which only the hash is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// Name of the client.
    pub client: String,
    /// When the key expires, in seconds since 1970.
    pub expires: Option<u64>,
    /// Scopes of the key.
    pub scopes: Vec<String>,
}

/// Passwords of Basic authentication (RFC 7617).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BasicConfig {
    /// File of the users.
    pub path: PathBuf,
    /// Names of users, and the hashes of their passwords, which are valid.
    pub users: Arc<[(String, String)]>,
}

impl fmt::Debug for BasicConfig {
    /// Shows no hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BasicConfig({})", self.path.display())
    }
}

/// Another server that decides about requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardAuthConfig {
    /// Its URL.
    pub url: String,
    /// Names of the fields that it gets; `None`: all that describe the request.
    pub send: Option<Vec<String>>,
    /// Names of the fields of its response that the backend gets. The client's are removed.
    pub copy: Vec<String>,
    /// Names of the fields of its response that the client gets with the response of the backend.
    pub copy_back: Vec<String>,
    /// Name of the field of its response that names the client.
    pub subject: Option<String>,
    /// Deadline of a decision.
    pub timeout: Duration,
    /// Time for which a decision to let a request pass is kept; 0: not at all.
    pub cache: Duration,
}

/// Logins of browsers at an OpenID provider (OpenID Connect Core 1.0).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OidcConfig {
    /// The issuer: a URL, under which its configuration is published.
    pub issuer: String,
    /// Id of this client at the provider.
    pub client_id: String,
    /// Secret of this client; `None`: it has none.
    pub client_secret: Option<String>,
    /// How the secret is sent to the token endpoint.
    pub client_auth: ClientSecretPlace,
    /// Requested scopes, `openid` among them.
    pub scopes: Vec<String>,
    /// Claims of the ID token that the login keeps, besides `sub`.
    pub claims: Vec<String>,
    /// Algorithms that an ID token may have.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Path to which the provider sends the browser back.
    pub callback: String,
    /// Path that ends a login.
    pub logout: String,
    /// Path or URL to which a logout leads; `None`: the page of the provider, or a page of the proxy.
    pub after_logout: Option<String>,
    /// Lifetime of a login; `None`: until the ID token expires.
    pub session: Option<Duration>,
    /// Accepted difference of clocks.
    pub leeway: Duration,
    /// Deadline of a request to the provider.
    pub timeout: Duration,
}

/// How the secret of a client is sent (OpenID Connect Core 1.0, section 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientSecretPlace {
    /// As the password of Basic authentication.
    #[default]
    Basic,
    /// In the body.
    Post,
}

impl fmt::Debug for OidcConfig {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OidcConfig({}, {})", self.issuer, self.client_id)
    }
}

/// Conditions that an identity must meet, besides being valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequireConfig {
    /// Scopes, all of which the identity must have.
    pub scopes: Vec<String>,
    /// Conditions of claims, by name or path.
    pub claims: Vec<(String, TextCondition)>,
    /// Condition of the client certificate.
    pub certificate: Option<CertificateCondition>,
}

/// Place of a credential in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenPlace {
    /// `Authorization: Bearer TOKEN` (RFC 6750).
    Header,
    /// The whole value of a header field with this name.
    Field(String),
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
            Self::Field(name) => write!(f, "header:{name}"),
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
    /// Whether the route accepts a credential in requests.
    pub fn has_credentials(&self) -> bool {
        self.jwt.is_some()
            || self.api_keys.is_some()
            || self.basic.is_some()
            || self.forward.is_some()
            || self.oidc.is_some()
    }

    /// Returns the names of the query parameters that carry secrets.
    pub fn secret_parameters(&self) -> impl Iterator<Item = &str> {
        let tokens = self.jwt.iter().flat_map(|jwt| &jwt.places);
        let keys = self.api_keys.iter().flat_map(|keys| &keys.places);
        tokens.chain(keys).filter_map(|place| match place {
            TokenPlace::Query(name) => Some(name.as_str()),
            _ => None,
        })
    }
}
