//! The request that is explained, made of the order as its client would send it.

use http::{
    HeaderValue, Method, Request,
    header::{
        CONNECTION, COOKIE, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
    },
    request::Parts,
    uri::PathAndQuery,
};

use super::super::validation;
use crate::{
    api::ExplainRequest,
    sticky::engine_io::{self, Transport},
};

/// What a client asks for, and over which connection.
pub(super) struct Asked {
    pub(super) tls: bool,
    /// Only a stream of layer 4 is asked for.
    pub(super) stream: bool,
    /// In lower case, without port and final dot.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// The request; its target, if that cannot be parsed.
    pub(super) parts: Result<Parts, String>,
}

impl Asked {
    /// What an order says, as its client would send it.
    pub(super) fn of(order: &ExplainRequest) -> Result<Self, String> {
        let (scheme, rest) = order.url.split_once("://").unwrap_or_default();
        let (tls, stream) = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => (true, false),
            "http" | "ws" => (false, false),
            "tls" => (true, true),
            "tcp" => (false, true),
            _ => {
                return Err(
                    "the URL has to begin with http://, https://, ws://, wss://, tcp:// or \
                            tls://"
                        .to_owned(),
                );
            }
        };
        // A client does not send a fragment.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err("the URL has no host".to_owned());
        }
        let host = validation::without_port(authority);
        let port = match authority[host.len()..].strip_prefix(':') {
            None | Some("") => None,
            Some(port) => {
                Some(port.parse().map_err(|_| format!("invalid port {port}: use 1 to 65535"))?)
            }
        };
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let parts = request(order, authority, path)?;
        Ok(Self { tls, stream, host: name, port, parts })
    }

    /// The port that its client connects to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }
}

/// The request, in the form in which it is sent; the inner error is a target that cannot be parsed.
fn request(
    order: &ExplainRequest,
    authority: &str,
    path: &str,
) -> Result<Result<Parts, String>, String> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let target = format!("{slash}{path}");
    let Ok(path) = PathAndQuery::try_from(target.as_str()) else { return Ok(Err(target)) };
    let method = order.method.as_deref().unwrap_or("GET");
    let method: Method = method.parse().map_err(|_| format!("invalid method {method}"))?;
    let websocket = method == Method::GET && asks_for_websocket(path.query());
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = path.into();
    let mut field = |name, value: &str| {
        let invalid = |_| format!("invalid value of the field {name}: {value}");
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(invalid)?;
        request.headers_mut().insert(name, value);
        Ok::<_, String>(())
    };
    field(HOST, authority)?;
    for (name, value) in [(COOKIE, &order.cookie), (USER_AGENT, &order.user_agent)] {
        value.as_deref().map_or(Ok(()), |value| field(name, value))?;
    }
    if order.upgrade || websocket {
        field(CONNECTION, "Upgrade")?;
        field(UPGRADE, "websocket")?;
        field(SEC_WEBSOCKET_VERSION, "13")?;
        field(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")?;
    }
    Ok(Ok(request.into_parts().0))
}

fn asks_for_websocket(query: Option<&str>) -> bool {
    let query = query.and_then(engine_io::query);
    query.is_some_and(|query| query.transport == Transport::WebSocket)
}
