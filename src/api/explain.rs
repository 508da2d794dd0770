//! A request to explain, and the explanation.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A request to explain.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// URL that the client requests, `https://host[:port]/path?query`; `tcp://host:port` or
    /// `tls://name:port` for a layer-4 stream.
    pub url: String,
    /// Method; `GET` if omitted.
    #[serde(default)]
    pub method: Option<String>,
    /// The `Cookie` header.
    #[serde(default)]
    pub cookie: Option<String>,
    /// Other header fields, each as `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Distinguished name of the client's certificate (RFC 4514).
    #[serde(default)]
    pub certificate_subject: Option<String>,
    /// SHA-256 fingerprint of the client's certificate, in lower-case hex.
    #[serde(default)]
    pub certificate_fingerprint: Option<String>,
    /// Client address, for conditions of routes, for `source-hash` and for recent sessions.
    #[serde(default)]
    pub client: Option<IpAddr>,
    /// The `User-Agent` header.
    #[serde(default)]
    pub user_agent: Option<String>,
    /// Whether the request asks for a WebSocket; a `GET` with `transport=websocket` in its query
    /// always does.
    #[serde(default)]
    pub upgrade: bool,
}

/// Which backend would get a request, and by which rule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// The listener; `None`: no listener accepts the connection.
    pub listener: Option<String>,
    /// The route: host and path as written in the configuration file.
    pub route: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// The backend; `None`: no backend, or the backend that an owner search will find.
    pub backend: Option<String>,
    /// The rule, as in `chosen_by` of the access log.
    pub chosen_by: String,
    /// Status of the proxy's own reply; `None`: the backend answers.
    #[serde(default)]
    pub status: Option<u16>,
    /// The steps to the decision, one sentence each.
    pub steps: Vec<String>,
}
