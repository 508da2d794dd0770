//! Requests that drain and undrain backends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One or more backends: to drain or undrain, or to list the sessions of.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackendTarget {
    /// The pool; `None`: all pools.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in the pool; `None`: all backends.
    #[serde(default)]
    pub backend: Option<String>,
}

impl fmt::Display for BackendTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pool, &self.backend) {
            (None, _) => f.write_str("every pool"),
            (Some(pool), None) => f.write_str(pool),
            (Some(pool), Some(backend)) => write!(f, "{pool}/{backend}"),
        }
    }
}

/// Deadline and spread of a drain.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainTerms {
    /// Seconds until the deadline; `None`: no tunnel is closed, the drain ends when the last session
    /// has ended.
    #[serde(default)]
    pub within: Option<f64>,
    /// Seconds before the deadline over which closes are spread; half of `within` if omitted.
    #[serde(default)]
    pub spread: Option<f64>,
}

/// A [`BackendTarget`] and [`DrainTerms`] in one body.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in the pool; `None`: all backends.
    #[serde(default)]
    pub backend: Option<String>,
    /// All backends of all pools, instead of one pool.
    #[serde(default)]
    pub all: bool,
    /// As in [`DrainTerms::within`].
    #[serde(default)]
    pub within: Option<f64>,
    /// As in [`DrainTerms::spread`].
    #[serde(default)]
    pub spread: Option<f64>,
}

impl DrainRequest {
    /// Splits the request into target and terms. `None`: it names no target.
    pub fn split(self) -> Option<(BackendTarget, DrainTerms)> {
        let terms = DrainTerms { within: self.within, spread: self.spread };
        Some((named_target(self.pool, self.backend, self.all)?, terms))
    }
}

/// The backends whose drains end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Undrain {
    /// The pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in the pool; `None`: all backends.
    #[serde(default)]
    pub backend: Option<String>,
    /// All backends of all pools, instead of one pool.
    #[serde(default)]
    pub all: bool,
}

impl Undrain {
    /// Returns the target. `None`: the request names none.
    pub fn target(self) -> Option<BackendTarget> {
        named_target(self.pool, self.backend, self.all)
    }
}

/// Returns the target of a request. `None`: the request names no pool and does not set `all`. This
/// protects against a request that lacks its pool name by mistake and would drain all backends.
fn named_target(pool: Option<String>, backend: Option<String>, all: bool) -> Option<BackendTarget> {
    (all == (pool.is_none() && backend.is_none())).then_some(BackendTarget { pool, backend })
}
