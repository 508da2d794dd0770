//! The facts about a request, and the texts that are made from them.

use std::{fmt::Write as _, net::IpAddr};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    auth::{AuthMethod, Identity},
    config::{Template, TemplatePiece, Variable},
    net::tls::TlsInfo,
    sticky::EnginePlace,
};

/// What the filters know about a request, as the client sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilterFacts<'a> {
    /// Address of the client, taken from forwarding fields behind trusted proxies.
    pub(crate) client: IpAddr,
    /// Whether the client uses TLS.
    pub(crate) secure: bool,
    /// TLS properties of the connection.
    pub(crate) tls_info: Option<&'a TlsInfo>,
    /// Requested host, with its port as sent.
    pub(crate) host: &'a str,
    /// What a trusted peer says about the URL that its client requested.
    pub(crate) claimed: ClaimedOrigin<'a>,
    /// Id of the request.
    pub(crate) id: &'a str,
    /// Request method.
    pub(crate) method: &'a str,
    /// Path as sent.
    pub(crate) path: &'a str,
    /// Query, without its `?`.
    pub(crate) query: Option<&'a str>,
    /// Session id of an Engine.IO request.
    pub(crate) sid: Option<&'a str>,
    /// Whether it is a request of Engine.IO.
    pub(crate) is_engine: bool,
    /// The place that it goes to, if a filter of the route needs that.
    pub(crate) place: EnginePlace,
    /// Whether it is a WebSocket handshake.
    pub(crate) upgrade: bool,
    /// What the request counts as.
    pub(crate) class: RequestClass,
    /// Whether the request is only explained: nothing is counted.
    pub(crate) preview: bool,
    /// Name of the pool that the request goes to; empty if it goes to none. Session ids are known by pool.
    pub(crate) pool: &'a str,
    /// The client, once it is authenticated.
    pub(crate) identity: Option<&'a Identity>,
}

/// The protocols, hosts and ports that a trusted peer names in forwarding fields, by hop.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClaimedOrigin<'a> {
    pub(crate) protos: &'a [Box<str>],
    pub(crate) hosts: &'a [Box<str>],
    pub(crate) ports: &'a [u16],
}

impl ClaimedOrigin<'_> {
    /// A digest of the values, which a client cannot make equal for different ones. `None`: there are no values.
    pub(super) fn digest(&self) -> Option<Digest> {
        let Self { protos, hosts, ports } = self;
        if protos.is_empty() && hosts.is_empty() && ports.is_empty() {
            return None;
        }
        let text = format!("{protos:?} {hosts:?} {ports:?}").to_ascii_lowercase();
        Some(digest(&SHA256, text.as_bytes()))
    }
}

impl FilterFacts<'_> {
    /// Whether it is a request of Engine.IO that goes to a place of Engine.IO: any request can have this query.
    pub(crate) fn reaches_engine(&self) -> bool {
        self.is_engine && self.place.serves
    }
}

/// What a request counts as, for limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// A poll that a backend holds: of a known session of Engine.IO, or of a path that the pool names.
    Poll,
    /// A request that opens a session of Engine.IO, or a WebSocket without a session.
    Handshake,
    /// A CORS preflight.
    Preflight,
    /// Any other request.
    #[default]
    Other,
}

/// Writes a text with the values of its variables.
pub(super) fn render(template: &Template, facts: &FilterFacts<'_>) -> String {
    let mut text = String::new();
    for piece in template.pieces() {
        match piece {
            TemplatePiece::Text(plain) => text.push_str(plain),
            TemplatePiece::Variable(variable) => value(*variable, facts, &mut text),
            TemplatePiece::Claim(path) => {
                text.push_str(&facts.identity.map(|known| known.text(path)).unwrap_or_default());
            }
        }
    }
    text
}

fn value(variable: Variable, facts: &FilterFacts<'_>, out: &mut String) {
    let certificate = || facts.tls_info.and_then(|tls| tls.client.as_ref());
    match variable {
        // Writing to a string cannot fail.
        Variable::ClientIp => _ = write!(out, "{}", facts.client.to_canonical()),
        Variable::Host => out.push_str(without_port(facts.host)),
        Variable::Method => out.push_str(facts.method),
        Variable::Path => out.push_str(facts.path),
        Variable::Query => {
            if let Some(query) = facts.query {
                out.push('?');
                out.push_str(query);
            }
        }
        Variable::Scheme => out.push_str(if facts.secure { "https" } else { "http" }),
        Variable::RequestId => out.push_str(facts.id),
        Variable::TlsVersion => {
            let version = facts.tls_info.and_then(|tls| tls.version);
            out.push_str(version.map_or("", |(version, _)| version));
        }
        Variable::TlsServerName => {
            out.push_str(facts.tls_info.and_then(|tls| tls.sni.as_deref()).unwrap_or_default());
        }
        Variable::CertificateSubject => {
            out.push_str(certificate().map_or("", |certificate| &certificate.subject));
        }
        Variable::CertificateFingerprint => {
            out.push_str(certificate().map_or("", |certificate| &certificate.fingerprint));
        }
        Variable::Subject | Variable::ApiKey => {
            let shows = |identity: &&Identity| {
                variable == Variable::Subject || identity.method == AuthMethod::ApiKey
            };
            let subject = facts.identity.filter(shows).map_or("", |identity| &*identity.subject);
            if moorline_http::is_value(subject.as_bytes()) {
                out.push_str(subject);
            }
        }
        Variable::SidHash => {
            if let Some(sid) = facts.sid {
                _ = write!(out, "{:016x}", xxh3_64(sid.as_bytes()));
            }
        }
    }
}

/// A host without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address has its own colons, within brackets.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request for `/app/x?y=1`.
    pub(in crate::gateway) fn facts() -> FilterFacts<'static> {
        FilterFacts {
            client: "::ffff:192.0.2.7".parse().unwrap(),
            secure: true,
            tls_info: None,
            host: "chat.example.com:8443",
            claimed: ClaimedOrigin::default(),
            id: "r-1",
            method: "GET",
            path: "/app/x",
            query: Some("y=1"),
            sid: None,
            is_engine: false,
            place: EnginePlace::default(),
            upgrade: false,
            class: RequestClass::Other,
            preview: false,
            pool: "",
            identity: None,
        }
    }

    #[test]
    fn every_variable_has_its_value() {
        let text = "{client_ip} {host} {method} {path} {query} {scheme} {request_id}";
        let template = Template::parse(text).unwrap();
        let expected = "192.0.2.7 chat.example.com GET /app/x ?y=1 https r-1";
        assert_eq!(render(&template, &facts()), expected);
        let absent = "{tls_version}{tls_server_name}{certificate_subject}{certificate_fingerprint}{sid_hash}";
        assert_eq!(render(&Template::parse(absent).unwrap(), &facts()), "");
    }

    #[test]
    fn the_hash_of_a_sid_is_not_the_sid() {
        let template = Template::parse("{sid_hash}").unwrap();
        let hash = render(&template, &FilterFacts { sid: Some("secret-sid"), ..facts() });
        assert_eq!(hash.len(), 16);
        assert!(hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
