//! The request to the server that decides, and the key of its decision.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderName, Request, header, request::Builder};
use http_body_util::Full;
use moorline_http::RequestHead;

use crate::{
    auth::{
        credential_cache::{CredentialHash, KeyedHash},
        fetch::Endpoint,
    },
    config::ForwardAuthConfig,
};

/// Fields that describe the connection, the body, or the wish for a part of the response.
const DROPPED: [&str; 25] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "content-length",
    "content-type",
    "content-encoding",
    "expect",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "accept-encoding",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
    "x-moorline-hops",
];

/// Starts of the names of fields by which the proxy describes the request. The server gets no such field of a client.
const TOLD: [&str; 5] = ["forwarded", "x-forwarded-", "x-original-", "x-real-ip", "x-request-id"];

/// What the proxy knows about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardFacts<'a> {
    /// Address of the client.
    pub(crate) client: IpAddr,
    /// Whether the client uses TLS.
    pub(crate) secure: bool,
    /// Requested host, with its port as sent.
    pub(crate) host: &'a str,
    /// Request method.
    pub(crate) method: &'a str,
    /// Path as sent.
    pub(crate) path: &'a str,
    /// Query, without its `?`.
    pub(crate) query: Option<&'a str>,
    /// Whether it is a request of Engine.IO.
    pub(crate) is_engine: bool,
    /// Id of the request.
    pub(crate) id: &'a str,
}

/// A request to the server.
#[derive(Debug)]
pub(crate) struct ForwardQuestion {
    /// `None`: the request of the client cannot be described.
    pub(super) request: Option<Request<Full<Bytes>>>,
    /// Key of the decision, if it may be kept.
    pub(super) key: Option<CredentialHash>,
}

/// What decides about the key of a decision: all that the server sees, if decisions are kept.
struct SeenByServer(Option<Vec<u8>>);

impl SeenByServer {
    /// Adds a text, so that no two lists of texts have the same bytes.
    fn note(&mut self, text: &[u8]) {
        if let Some(seen) = &mut self.0 {
            seen.extend_from_slice(&(text.len() as u64).to_be_bytes());
            seen.extend_from_slice(text);
        }
    }
}

impl ForwardQuestion {
    /// Creates the request about a request of a client.
    pub(super) fn new(
        config: &ForwardAuthConfig,
        endpoint: &Endpoint,
        hash: &KeyedHash,
        request: &RequestHead,
        facts: &ForwardFacts<'_>,
    ) -> Self {
        let mut seen = SeenByServer((!config.cache.is_zero()).then(Vec::new));
        let mut asks = Request::get(endpoint.target()).header(header::HOST, endpoint.authority());
        for field in request.head.fields().filter(|field| sends(config, field.name)) {
            seen.note(&field.name.to_ascii_lowercase());
            seen.note(field.value);
            asks = asks.header(field.name, field.value);
        }
        let asks = describe(asks, facts, &mut seen);
        Self { request: asks.body(Full::default()).ok(), key: seen.0.map(|seen| hash.of(&seen)) }
    }
}

/// Adds what the proxy knows about a request.
fn describe(asks: Builder, facts: &ForwardFacts<'_>, seen: &mut SeenByServer) -> Builder {
    let ForwardFacts { host, method, path, .. } = *facts;
    let scheme = if facts.secure { "https" } else { "http" };
    let client = facts.client.to_canonical().to_string();
    let target = match facts.query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    for part in [&*client, host, scheme, method, path] {
        seen.note(part.as_bytes());
    }
    for pair in facts.query.unwrap_or_default().split('&') {
        let name = pair.split('=').next();
        // They change with each request of a session.
        if !(facts.is_engine && matches!(name, Some("t" | "sid"))) {
            seen.note(pair.as_bytes());
        }
    }
    let url = format!("{scheme}://{host}{target}");
    let told = [
        ("x-forwarded-for", &*client),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", scheme),
        ("x-forwarded-method", method),
        ("x-forwarded-uri", &target),
        ("x-original-uri", &target),
        ("x-original-url", &url),
        ("x-original-method", method),
        ("x-request-id", facts.id),
    ];
    // A builder keeps its first error: without a field that the server decides by, there is no question.
    told.into_iter().fold(asks, |asks, (name, value)| {
        asks.header(HeaderName::from_static(name), value.as_bytes())
    })
}

/// Whether the server gets a field of the client. `_` counts as `-`: some servers do not distinguish them.
fn sends(config: &ForwardAuthConfig, name: &[u8]) -> bool {
    let plain: Vec<u8> = name.iter().map(|&byte| plain(byte)).collect();
    let is_told = TOLD.iter().any(|start| plain.starts_with(start.as_bytes()));
    match &config.send {
        _ if is_told || DROPPED.iter().any(|known| known.as_bytes() == plain) => false,
        Some(names) => names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name)),
        None => true,
    }
}

/// Whether two names of fields are the same for some server: CGI and its successors do not distinguish `_` from `-`.
pub(crate) fn is_confusable(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(&one, &other)| plain(one) == plain(other))
}

fn plain(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::testing::request;

    fn question(
        cache: u64,
        hash: &KeyedHash,
        request: &RequestHead,
        facts: &ForwardFacts<'_>,
    ) -> ForwardQuestion {
        let config = ForwardAuthConfig {
            url: "http://auth.test:9000/verify?x=1".to_owned(),
            send: None,
            copy: Vec::new(),
            copy_back: Vec::new(),
            subject: None,
            timeout: Duration::from_secs(1),
            cache: Duration::from_secs(cache),
        };
        ForwardQuestion::new(&config, &Endpoint::of(&config.url), hash, request, facts)
    }

    const FACTS: ForwardFacts<'_> = ForwardFacts {
        client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        secure: true,
        host: "app.test",
        method: "POST",
        path: "/a",
        query: Some("t=1&sid=2&b=3"),
        is_engine: true,
        id: "r-1",
    };

    #[test]
    fn the_server_gets_what_describes_the_request_and_no_claims_of_the_client() {
        let request = request(
            "POST /a HTTP/1.1\r\nCookie: c\r\nContent-Length: 5\r\nX-Forwarded-Uri: /evil\r\nUpgrade: x\r\n\
             X-Own: 1\r\nIf-None-Match: x\r\nX_Forwarded_Uri: /evil\r\nForwarded: for=x\r\nX-Real-IP: 1\r\n",
        );
        let asked = question(0, &KeyedHash::new(), &request, &FACTS);
        assert!(asked.key.is_none());
        let asked = asked.request.unwrap();
        assert_eq!(
            (asked.method().as_str(), asked.uri().to_string()),
            ("GET", "/verify?x=1".to_owned())
        );
        let fields = asked.headers();
        let get = |name: &str| {
            let values: Vec<&str> =
                fields.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
            values.join("|")
        };
        for (name, value) in [
            ("host", "auth.test:9000"),
            ("cookie", "c"),
            ("x-own", "1"),
            ("x-forwarded-uri", "/a?t=1&sid=2&b=3"),
            ("x_forwarded_uri", ""),
            ("forwarded", ""),
            ("x-real-ip", ""),
            ("x-original-uri", "/a?t=1&sid=2&b=3"),
            ("x-original-url", "https://app.test/a?t=1&sid=2&b=3"),
            ("x-forwarded-method", "POST"),
            ("x-forwarded-host", "app.test"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-request-id", "r-1"),
            ("content-length", ""),
            ("upgrade", ""),
            ("if-none-match", ""),
        ] {
            assert_eq!(get(name), value, "{name}");
        }
    }

    #[test]
    fn a_decision_is_that_of_all_that_the_server_sees() {
        let hash = KeyedHash::new();
        let first = request("GET / HTTP/1.1\r\nCookie: a\r\n");
        let key = |request: &RequestHead, facts: &ForwardFacts<'_>| {
            question(5, &hash, request, facts).key.unwrap()
        };
        let known = key(&first, &FACTS);
        let again = ForwardFacts { query: Some("t=9&sid=8&b=3"), id: "r-2", ..FACTS };
        assert_eq!(known, key(&first, &again));
        for facts in [
            ForwardFacts { path: "/b", ..FACTS },
            ForwardFacts { host: "other.test", ..FACTS },
            ForwardFacts { method: "GET", ..FACTS },
            ForwardFacts { query: Some("t=1&sid=2&b=4"), ..FACTS },
            ForwardFacts { query: Some("t=2&sid=2&b=3"), is_engine: false, ..FACTS },
        ] {
            assert_ne!(known, key(&first, &facts), "{facts:?}");
        }
        assert_ne!(known, key(&request("GET / HTTP/1.1\r\nCookie: b\r\n"), &FACTS));
        assert_ne!(known, key(&request("GET / HTTP/1.1\r\nCooki: ea\r\n"), &FACTS));
    }
}
