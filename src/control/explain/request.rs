//! The request that is explained, built as its client would send it.

use std::fmt;

use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{
        CONNECTION, COOKIE, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
    },
    request::Parts,
    uri::PathAndQuery,
};

use crate::{
    api::ExplainRequest,
    http::without_port,
    sticky::engine_io::{self, Transport},
};

/// Why no client could send the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExplainError {
    /// The URL has no scheme, or one that no listener serves.
    Scheme,
    /// The URL has no host.
    NoHost,
    /// The port is not a number from 0 to 65535.
    Port(String),
    /// The method has characters that a method cannot have.
    Method(String),
    /// A header field has a value that it cannot have.
    Field(HeaderName, String),
}

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str(
                "the URL must begin with http://, https://, ws://, wss://, tcp:// or tls://",
            ),
            Self::NoHost => f.write_str("the URL has no host"),
            Self::Port(port) => write!(f, "invalid port {port}: use 1 to 65535"),
            Self::Method(method) => write!(f, "invalid method {method}"),
            Self::Field(name, value) => write!(f, "invalid value of the field {name}: {value}"),
        }
    }
}

impl std::error::Error for ExplainError {}

/// A request target that cannot be parsed.
pub(super) struct UnparsedTarget(pub(super) String);

/// A request, and the connection that it arrives on.
pub(super) struct ExplainedRequest {
    pub(super) tls: bool,
    /// Whether the URL asks for a layer-4 stream (`tcp://`, `tls://`).
    pub(super) stream: bool,
    /// In lower case, without port and final dot.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// The request, or its invalid target.
    pub(super) parts: Result<Parts, UnparsedTarget>,
}

impl ExplainedRequest {
    /// Builds the request as its client would send it.
    ///
    /// # Errors
    /// No client could send it.
    pub(super) fn of(request: &ExplainRequest) -> Result<Self, ExplainError> {
        let (scheme, rest) = request.url.split_once("://").unwrap_or_default();
        let (tls, stream) = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => (true, false),
            "http" | "ws" => (false, false),
            "tls" => (true, true),
            "tcp" => (false, true),
            _ => return Err(ExplainError::Scheme),
        };
        // A client does not send a fragment.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err(ExplainError::NoHost);
        }
        let host = without_port(authority);
        let port = match authority[host.len()..].strip_prefix(':') {
            None | Some("") => None,
            Some(port) => Some(port.parse().map_err(|_| ExplainError::Port(port.to_owned()))?),
        };
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let parts = parts(request, authority, path)?;
        Ok(Self { tls, stream, host: name, port, parts })
    }

    /// The port that the client connects to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }
}

/// Builds the request head in origin form.
fn parts(
    request: &ExplainRequest,
    authority: &str,
    path: &str,
) -> Result<Result<Parts, UnparsedTarget>, ExplainError> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let target = format!("{slash}{path}");
    let Ok(path) = PathAndQuery::try_from(target.as_str()) else {
        return Ok(Err(UnparsedTarget(target)));
    };
    let method = request.method.as_deref().unwrap_or("GET");
    let method: Method = method.parse().map_err(|_| ExplainError::Method(method.to_owned()))?;
    let websocket = method == Method::GET && asks_for_websocket(path.query());
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.uri_mut() = path.into();
    let mut field = |name: HeaderName, text: &str| {
        let invalid = |_| ExplainError::Field(name.clone(), text.to_owned());
        let value = HeaderValue::from_bytes(text.as_bytes()).map_err(invalid)?;
        head.headers_mut().insert(name, value);
        Ok(())
    };
    field(HOST, authority)?;
    for (name, value) in [(COOKIE, &request.cookie), (USER_AGENT, &request.user_agent)] {
        value.as_deref().map_or(Ok(()), |value| field(name, value))?;
    }
    if request.upgrade || websocket {
        field(CONNECTION, "Upgrade")?;
        field(UPGRADE, "websocket")?;
        field(SEC_WEBSOCKET_VERSION, "13")?;
        field(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")?;
    }
    Ok(Ok(head.into_parts().0))
}

fn asks_for_websocket(query: Option<&str>) -> bool {
    let query = query.and_then(engine_io::query);
    query.is_some_and(|query| query.transport == Transport::WebSocket)
}
