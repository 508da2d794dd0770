//! Types of what a route does with a request besides sending it to a pool.

use ipnet::IpNet;

use super::{
    AuthConfig, CacheConfig, CompressConfig, DecompressConfig, LimitConfig, MessagesConfig,
    OpenApiConfig, TransformConfig,
};
use crate::config::Template;

/// What a route does with its requests and responses besides relaying them; by default, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterConfig {
    /// Changes of path and host, for the backend.
    pub rewrite: RewriteConfig,
    /// Clients that may use the route.
    pub addresses: AddressRules,
    /// Pages that may open sessions and WebSockets; `None`: those of the same host, if the browser has added the
    /// credential by itself.
    pub origins: Option<OriginRules>,
    /// Pages of other origins that may read responses; `None`: the backend decides.
    pub cors: Option<CorsConfig>,
    /// Changes of the request's fields.
    pub request_headers: HeaderEdits,
    /// Changes of the response's fields.
    pub response_headers: HeaderEdits,
    /// Maximum size of a request body, in bytes; `None`: unlimited.
    pub max_body: Option<u64>,
    /// Requests are answered without a backend, until this is removed.
    pub maintenance: Option<MaintenanceConfig>,
    /// Compression of responses; `None`: none.
    pub compress: Option<CompressConfig>,
    /// Decompression of request bodies; `None`: none.
    pub decompress: Option<DecompressConfig>,
    /// Changes of bodies and statuses.
    pub transform: TransformConfig,
    /// Limits of requests, in file order.
    pub limits: Vec<LimitConfig>,
    /// Limits of WebSocket messages; `None`: unlimited.
    pub messages: Option<MessagesConfig>,
    /// Stored responses; `None`: nothing is stored.
    pub cache: Option<CacheConfig>,
    /// Authentication; `None`: every client may use the route.
    pub auth: Option<AuthConfig>,
    /// API description that requests must match; `None`: there is none.
    pub openapi: Option<OpenApiConfig>,
}

/// Changes of path and host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewriteConfig {
    /// Change of the path.
    pub path: Option<PathRewrite>,
    /// Host that backends get; `None`: the client's.
    pub host: Option<String>,
}

/// A change of the path. The query stays, except where a pattern says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This prefix, in whole segments, is removed and replaced by the second one.
    Prefix {
        /// Prefix that is removed; paths without it stay.
        from: String,
        /// Prefix that takes its place; may be empty.
        to: String,
    },
    /// All of the path is replaced.
    Whole(String),
    /// What a regular expression matches is replaced.
    Pattern {
        /// The regular expression, which the path must match from its start to its end.
        pattern: String,
        /// The new path, with `$1` or `${name}` for groups.
        with: String,
    },
}

/// Clients that may use a route. A denied address is denied even if it is also allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Networks of clients that may use the route; empty: all.
    pub allow: Vec<IpNet>,
    /// Networks of clients that may not use it.
    pub deny: Vec<IpNet>,
}

/// Changes of header fields, in this order: remove, set, append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Names of fields that are removed.
    pub remove: Vec<String>,
    /// Fields that replace all fields with their name.
    pub set: Vec<(String, Template)>,
    /// Fields that are added to those with their name.
    pub append: Vec<(String, Template)>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.append.is_empty()
    }
}

/// Cross-origin requests, answered by the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsConfig {
    /// Origins whose pages may read responses.
    pub origins: OriginPatterns,
    /// Methods that pages may use besides GET, HEAD and POST.
    pub methods: Vec<String>,
    /// Request fields that pages may set; `None`: those that the page asks for.
    pub headers: Option<Vec<String>>,
    /// Response fields that pages may read.
    pub expose: Vec<String>,
    /// Whether pages may send cookies and other credentials.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight, in seconds.
    pub max_age: u32,
}

/// Pages that may send requests of Engine.IO and open WebSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginRules {
    /// Whether pages of the host that the request is sent to may.
    pub same_host: bool,
    /// Other origins whose pages may.
    pub listed: OriginPatterns,
}

/// A set of origins such as `https://app.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPatterns {
    /// Every origin.
    Any,
    /// These origins, in lower case.
    Listed(Vec<OriginPattern>),
}

/// One origin, or all origins below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// This origin: scheme, host, and port if it is not the usual one.
    Exact(String),
    /// Every host with at least one label before this suffix.
    Subdomains {
        /// The scheme with `://`.
        scheme: String,
        /// Domain and port, without `*.`.
        suffix: String,
    },
}

/// A route that is closed for maintenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceConfig {
    /// Seconds until a client should try again.
    pub retry_after: u32,
    /// Networks of clients that still reach the backends.
    pub except: Vec<IpNet>,
}

/// A redirect of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectConfig {
    /// The new location.
    pub to: Template,
    /// Status code: 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A fixed response of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RespondConfig {
    /// Status code, from 200 to 599.
    pub status: u16,
    /// The body.
    pub body: Template,
    /// Value of `Content-Type`, which is sent if there is a body.
    pub content_type: String,
}
