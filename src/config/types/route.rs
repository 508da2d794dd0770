//! Types of routes.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    FilesConfig, FilterConfig, RedirectConfig, RespondConfig, RouteConditions, TextCondition,
    Timeouts,
};
use crate::config::{ErrorPages, WrittenRoute};

/// A route: hosts and paths, and what happens with their requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Hosts that the route covers.
    pub host: HostPattern,
    /// Path prefix, on segment boundaries; starts with `/`.
    pub path: String,
    /// Conditions beyond host and path.
    pub conditions: RouteConditions,
    /// What answers the requests.
    pub target: RouteTo,
    /// Names of the listeners that use the route; empty: every listener.
    pub listeners: Vec<String>,
    /// A pool that gets copies of the requests.
    pub mirror: Option<MirrorConfig>,
    /// Time limits, instead of those of the pool.
    pub timeouts: RouteTimeouts,
    /// HTML pages for errors that the proxy itself reports.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// What else is done with requests and responses.
    pub filters: FilterConfig,
    /// The table of the configuration that the route comes from.
    pub written: WrittenRoute,
}

/// What answers the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTo {
    /// The pool with this name in [`Config::pools`](crate::config::Config::pools).
    Pool(String),
    /// Pools that share the requests.
    Split(Vec<SplitPool>),
    /// A redirect.
    Redirect(RedirectConfig),
    /// A fixed response.
    Respond(RespondConfig),
    /// Static files.
    Files(FilesConfig),
}

/// Time limits of a route; `None`: that of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// See [`Timeouts::response_header`].
    pub response_header: Option<Duration>,
    /// See [`Timeouts::body_idle`].
    pub body_idle: Option<Duration>,
    /// See [`Timeouts::stream_idle`].
    pub stream_idle: Option<Duration>,
    /// See [`Timeouts::tunnel_idle`].
    pub tunnel_idle: Option<Duration>,
}

impl RouteTimeouts {
    /// Returns the time limits of requests to a pool; `None`: those of the pool.
    pub fn over(&self, pool: &Timeouts) -> Option<Timeouts> {
        let Self { response_header, body_idle, stream_idle, tunnel_idle } = *self;
        (*self != Self::default()).then(|| Timeouts {
            response_header: response_header.unwrap_or(pool.response_header),
            body_idle: body_idle.unwrap_or(pool.body_idle),
            stream_idle: stream_idle.or(pool.stream_idle),
            tunnel_idle: tunnel_idle.or(pool.tunnel_idle),
            ..pool.clone()
        })
    }
}

/// A pool that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Name of the pool.
    pub pool: String,
    /// How many of 100 requests are copied.
    pub share: u8,
    /// Maximum size of the body of a copied request, in bytes.
    pub max_body: usize,
    /// Maximum number of copies at a time.
    pub max_in_flight: usize,
}

/// A pool of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPool {
    /// Name of the pool.
    pub pool: String,
    /// Share of the requests, relative to the sum of the weights; 0: only sessions and forced requests.
    pub weight: u32,
    /// Header fields, one of which forces a request to the pool.
    pub headers: Vec<(String, TextCondition)>,
    /// Cookies, one of which forces a request to the pool.
    pub cookies: Vec<(String, TextCondition)>,
}

impl RouteConfig {
    /// Creates a route to a pool, for every listener.
    pub fn to_pool(host: HostPattern, path: impl Into<String>, pool: impl Into<String>) -> Self {
        Self {
            host,
            path: path.into(),
            conditions: RouteConditions::default(),
            target: RouteTo::Pool(pool.into()),
            listeners: Vec::new(),
            mirror: None,
            timeouts: RouteTimeouts::default(),
            error_pages: None,
            filters: FilterConfig::default(),
            written: WrittenRoute::default(),
        }
    }

    /// Returns the name of the pool, if one pool answers the requests.
    pub fn pool(&self) -> Option<&str> {
        match &self.target {
            RouteTo::Pool(pool) => Some(pool),
            RouteTo::Split(_) | RouteTo::Redirect(_) | RouteTo::Respond(_) | RouteTo::Files(_) => {
                None
            }
        }
    }

    /// Whether the route sends requests, or copies of them, to this pool.
    pub fn uses(&self, pool: &str) -> bool {
        self.leads_to(pool) || self.mirror.as_ref().is_some_and(|mirror| mirror.pool == pool)
    }

    /// Whether the route sends requests to this pool.
    pub fn leads_to(&self, pool: &str) -> bool {
        match &self.target {
            RouteTo::Pool(name) => name == pool,
            RouteTo::Split(parts) => parts.iter().any(|part| part.pool == pool),
            RouteTo::Redirect(_) | RouteTo::Respond(_) | RouteTo::Files(_) => false,
        }
    }
}

impl fmt::Display for RouteTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(pool) => write!(f, "pool {pool}"),
            Self::Split(parts) => {
                let part = |part: &SplitPool| format!("{} {}", part.pool, part.weight);
                let parts: Vec<String> = parts.iter().map(part).collect();
                write!(f, "a split: {}", parts.join(", "))
            }
            Self::Redirect(redirect) => write!(f, "a redirect with status {}", redirect.status),
            Self::Files(files) => write!(f, "the files in {}", files.root.display()),
            Self::Respond(respond) => write!(f, "a fixed response with status {}", respond.status),
        }
    }
}

impl fmt::Display for RouteConfig {
    /// Host and path, the conditions if there are any, and the listeners if the route is not for all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Any => f.write_str(&self.path)?,
            HostPattern::Exact(name) => write!(f, "{name}{}", self.path)?,
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}{}", self.path)?,
        }
        if !self.conditions.is_empty() {
            write!(f, " ({})", self.conditions)?;
        }
        match &self.listeners[..] {
            [] => Ok(()),
            listeners => write!(f, " on {}", listeners.join(", ")),
        }
    }
}

/// Hosts that a route or a rule covers. Names are in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This name only.
    Exact(String),
    /// Any name with at least one label before this suffix: `*.example.com` is stored as `example.com`.
    Wildcard(String),
}

impl HostPattern {
    /// Whether the pattern covers this name, in lower case, without port and final dot.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => name == exact,
            Self::Wildcard(suffix) => {
                let labels = name.strip_suffix(suffix.as_str()).and_then(|l| l.strip_suffix('.'));
                labels.is_some_and(|labels| !labels.is_empty())
            }
        }
    }
}
