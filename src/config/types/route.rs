//! Types of routes.

use std::{fmt, sync::Arc};

use crate::config::ErrorPages;

/// A route: hosts and paths whose requests go to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Hosts that the route covers.
    pub host: HostPattern,
    /// Path prefix, on segment boundaries; starts with `/`.
    pub path: String,
    /// Name of a pool in [`Config::pools`](crate::config::Config::pools).
    pub pool: String,
    /// Names of the listeners that use the route; empty: every listener.
    pub listeners: Vec<String>,
    /// HTML pages for errors that the proxy itself reports.
    pub error_pages: Option<Arc<ErrorPages>>,
}

impl fmt::Display for RouteConfig {
    /// Host and path, and the listeners if the route is not for all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Any => f.write_str(&self.path)?,
            HostPattern::Exact(name) => write!(f, "{name}{}", self.path)?,
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}{}", self.path)?,
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
