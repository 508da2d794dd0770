//! The request that is explained, built as its client would send it.

use std::fmt;

use http::Method;
use moorline_http::{
    Buffer, FieldId, HeadFault, HeadLimits, RequestHead, RequestParser, is_token, is_value,
};

use crate::{
    api::ExplainRequest,
    net::tls::ClientCertificate,
    proxy::validate::without_port,
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
    Field(String, String),
    /// A header field is not written as `Name: value`, or has a name that a field cannot have.
    FieldName(String),
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
            Self::FieldName(field) => {
                write!(f, "invalid header field {field}: write it as \"Name: value\"")
            }
        }
    }
}

impl std::error::Error for ExplainError {}

/// A request, and the connection that it arrives on.
pub(super) struct ExplainedRequest {
    pub(super) tls: bool,
    /// Whether the URL asks for a layer-4 stream (`tcp://`, `tls://`).
    pub(super) stream: bool,
    /// In lower case, without port and final dot.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// Certificate of the client.
    pub(super) certificate: Option<ClientCertificate>,
    /// The bytes of the request's head.
    head: String,
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
        let head = head(request, authority, path)?;
        let certificate = certificate(request);
        Ok(Self { tls, stream, host: name, port, certificate, head })
    }

    /// The port that the client connects to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// Parses the head as a listener with these limits does.
    ///
    /// # Errors
    /// The listener rejects it.
    pub(super) fn parse(&self, limits: HeadLimits) -> Result<RequestHead, HeadFault> {
        let mut input = Some(Buffer::of(self.head.as_bytes()));
        let parsed = RequestParser::default().parse(&mut input, limits)?;
        // Every head ends with an empty line.
        parsed.ok_or(HeadFault::LineEnd)
    }
}

/// The client's certificate; its other properties are not known.
fn certificate(request: &ExplainRequest) -> Option<ClientCertificate> {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    let (subject, fingerprint) = (&request.certificate_subject, &request.certificate_fingerprint);
    (subject.is_some() || fingerprint.is_some()).then(|| ClientCertificate {
        subject: text(subject),
        common_name: None,
        fingerprint: text(fingerprint),
    })
}

/// Returns the bytes of the request's head, in origin form.
fn head(request: &ExplainRequest, authority: &str, path: &str) -> Result<String, ExplainError> {
    let method = request.method.as_deref().unwrap_or("GET");
    if !is_token(method.as_bytes()) || method.len() > MAX_METHOD {
        return Err(ExplainError::Method(method.to_owned()));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    // A line end would end the target; another control character makes it invalid in the same way.
    let path = path.replace(['\r', '\n'], "\0");
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\n");
    let mut named = |name: &str, value: &str| {
        if !is_value(value.as_bytes()) {
            return Err(ExplainError::Field(name.to_owned(), value.to_owned()));
        }
        head.extend([name, ": ", value, "\r\n"]);
        Ok(())
    };
    for typed in &request.headers {
        let (name, value) = typed.split_once(':').unwrap_or_default();
        if !is_token(name.as_bytes()) {
            return Err(ExplainError::FieldName(typed.clone()));
        }
        named(name, value.trim())?;
    }
    let mut field = |id: FieldId, value: &str| named(id.name(), value);
    field(FieldId::Host, authority)?;
    for (id, value) in
        [(FieldId::Cookie, &request.cookie), (FieldId::UserAgent, &request.user_agent)]
    {
        value.as_deref().map_or(Ok(()), |value| field(id, value))?;
    }
    let query = path.split_once('?').map(|(_, query)| query);
    if request.upgrade || method == Method::GET.as_str() && asks_for_websocket(query) {
        field(FieldId::Connection, "Upgrade")?;
        field(FieldId::Upgrade, "websocket")?;
        field(FieldId::SecWebSocketVersion, "13")?;
        field(FieldId::SecWebSocketKey, "dGhlIHNhbXBsZSBub25jZQ==")?;
    }
    head.push_str("\r\n");
    Ok(head)
}

/// Length of the longest method that a listener accepts.
const MAX_METHOD: usize = 32;

fn asks_for_websocket(query: Option<&str>) -> bool {
    let query = query.and_then(engine_io::query);
    query.is_some_and(|query| query.transport == Transport::WebSocket)
}
