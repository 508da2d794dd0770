//! Earlier hops of a request: one list, from which all forwarding fields are written.
//!
//! A trusted peer describes earlier hops by `X-Forwarded-*`, by `Forwarded` (RFC 7239), or by both.
//! [`ForwardedClaims`] holds what those fields say, parsed once per request. The client's address,
//! whether the client used TLS, and the fields for the backend are all derived from it, so that they
//! cannot contradict each other.
//!
//! If both families are present and contradict each other, `X-Forwarded-*` wins. nginx, Caddy,
//! Traefik, Envoy and cloud balancers write `X-Forwarded-*` and pass on `Forwarded` as the client
//! sent it. A `Forwarded` that contradicts them is therefore the client's claim.
//!
//! A single protocol, host or port describes the request as the first client made it, and belongs to
//! the first element of `Forwarded`. A list with one value per hop is extended by this proxy's
//! value.

use std::{
    net::{IpAddr, SocketAddr},
    slice,
};

use moorline_http::{FieldId, Head};

use super::{
    forwarded::{self, ForwardedElement},
    tokens,
};
use crate::{gateway::ClaimedOrigin, observe::ForwardingFault, proxy::validate};

/// Maximum length of a protocol name that is accepted.
const MAX_PROTO: usize = 16;

/// What a trusted peer says about earlier hops.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct ForwardedClaims {
    /// Senders of the request, beginning with the first client; without the peer itself.
    pub(super) nodes: Vec<ForwardedNode>,
    pub(super) proto: HopValues<Box<str>>,
    /// With the port, if it was sent.
    pub(super) host: HopValues<Box<str>>,
    pub(super) port: HopValues<u16>,
    /// Whether the request had a `Forwarded` field.
    pub(super) forwarded: bool,
    /// Set if the fields contradict each other or are malformed.
    fault: Option<ForwardingFault>,
}

/// One sender of the request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ForwardedNode {
    pub(super) address: Option<(IpAddr, Option<u16>)>,
    /// Text in `X-Forwarded-For`.
    pub(super) text: Box<str>,
    /// Further parameters of the element in `Forwarded`, each after a semicolon.
    pub(super) others: Box<str>,
}

/// Values of a property of the request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum HopValues<T> {
    /// No value.
    #[default]
    Never,
    /// One value for the request.
    Once(T),
    /// One value per node, for at least two nodes.
    Each(Vec<T>),
}

impl<T> HopValues<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::Never => &[],
            Self::Once(value) => slice::from_ref(value),
            Self::Each(values) => values,
        }
    }

    /// Creates the values from a list field. If there are more values than hops, the last ones
    /// count, because each proxy appends its value.
    fn from_list(mut values: Vec<T>, hops: usize) -> Self {
        if hops >= 2 && values.len() >= hops {
            return Self::Each(values.split_off(values.len() - hops));
        }
        let at = if hops >= 2 { 0 } else { values.len().saturating_sub(1) };
        if at < values.len() { Self::Once(values.swap_remove(at)) } else { Self::Never }
    }

    /// Creates the values from the elements of `Forwarded`.
    fn from_elements(values: Vec<Option<T>>) -> Self {
        if values.len() >= 2 && values.iter().all(Option::is_some) {
            return Self::Each(values.into_iter().flatten().collect());
        }
        values.into_iter().flatten().next().map_or(Self::Never, Self::Once)
    }

    pub(super) fn first(&self) -> Option<&T> {
        match self {
            Self::Never => None,
            Self::Once(value) => Some(value),
            Self::Each(values) => values.first(),
        }
    }

    fn or(self, other: Self) -> Self {
        if matches!(self, Self::Never) { other } else { self }
    }
}

/// Sender of the request, according to the peer and its forwarding fields.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct ForwardedClient {
    /// The port is 0 if only the address is known.
    pub(in crate::proxy) address: SocketAddr,
    /// Whether the trusted peer says that the client uses TLS.
    pub(in crate::proxy) tls: bool,
}

impl ForwardedClaims {
    /// What the peer says about the URL that its client requested.
    pub(in crate::proxy) fn origin(&self) -> ClaimedOrigin<'_> {
        let Self { proto, host, port, .. } = self;
        ClaimedOrigin { protos: proto.as_slice(), hosts: host.as_slice(), ports: port.as_slice() }
    }

    /// Parses the forwarding fields of a trusted peer; `None` if it sends none.
    pub(in crate::proxy) fn read(head: &Head) -> Option<Box<Self>> {
        let x = [
            FieldId::XForwardedFor,
            FieldId::XForwardedProto,
            FieldId::XForwardedHost,
            FieldId::XForwardedPort,
        ];
        let x = x.into_iter().any(|id| head.has(id));
        let forwarded = head.has(FieldId::Forwarded);
        if !x && !forwarded {
            return None;
        }
        let x_forwarded = if x { Self::x_forwarded(head) } else { Self::default() };
        let other = if forwarded { Self::forwarded(head) } else { Self::default() };
        Some(Box::new(x_forwarded.merged(other, forwarded)))
    }

    /// Returns the client: the nearest sender that is not trusted, starting with the peer.
    pub(in crate::proxy) fn client(
        &self,
        peer: SocketAddr,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> ForwardedClient {
        let (mut address, mut hop) = (peer, None);
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let Some((ip, port)) = node.address else { break };
            (address, hop) = (SocketAddr::new(ip, port.unwrap_or(0)), Some(at));
            if !trusts(ip) {
                break;
            }
        }
        let proto = match &self.proto {
            HopValues::Never => None,
            HopValues::Once(proto) => Some(proto),
            HopValues::Each(protos) => hop.and_then(|hop| protos.get(hop)),
        };
        ForwardedClient { address, tls: proto.is_some_and(|proto| is_tls(proto)) }
    }

    /// Why parts of the fields are not used.
    pub(in crate::proxy) fn fault(&self) -> Option<ForwardingFault> {
        self.fault
    }

    fn x_forwarded(head: &Head) -> Self {
        let nodes = tokens(head, FieldId::XForwardedFor).map(ForwardedNode::from_list).collect();
        let mut claims = Self { nodes, ..Self::default() };
        if claims.nodes.iter().any(|node| node.address.is_none() && !is_hidden(&node.text)) {
            claims.fault = Some(ForwardingFault::Unreadable("X-Forwarded-For"));
        }
        let hops = claims.nodes.len();
        let protos = claims.list(head, FieldId::XForwardedProto, proto);
        claims.proto = HopValues::from_list(protos, hops);
        let hosts = claims.list(head, FieldId::XForwardedHost, host);
        claims.host = HopValues::from_list(hosts, hops);
        let ports = claims.list(head, FieldId::XForwardedPort, port);
        claims.port = HopValues::from_list(ports, hops);
        claims
    }

    /// Parses the values of a list field; invalid values are skipped.
    fn list<T>(&mut self, head: &Head, id: FieldId, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let (mut values, mut all) = (Vec::new(), 0);
        for token in tokens(head, id) {
            all += 1;
            values.extend(parse(token));
        }
        if values.len() < all {
            self.fault.get_or_insert(ForwardingFault::Unreadable(id.name()));
        }
        values
    }

    fn forwarded(head: &Head) -> Self {
        let unreadable = || Self {
            fault: Some(ForwardingFault::Unreadable("Forwarded")),
            forwarded: true,
            ..Self::default()
        };
        let Some(elements) = forwarded::parse(head) else { return unreadable() };
        let mut claims = Self { forwarded: true, ..Self::default() };
        let (mut protos, mut hosts, mut named) = (Vec::new(), Vec::new(), false);
        for ForwardedElement { node, proto: typed_proto, host: typed_host, others } in elements {
            let (proto_claim, host_claim) =
                (typed_proto.as_deref().map(proto), typed_host.as_deref().map(host));
            if proto_claim == Some(None) || host_claim == Some(None) {
                claims.fault = Some(ForwardingFault::Unreadable("Forwarded"));
            }
            protos.push(proto_claim.flatten());
            hosts.push(host_claim.flatten());
            named |= node.is_some();
            let node = ForwardedNode::from_forwarded(node.as_deref().unwrap_or("unknown"), others);
            claims.nodes.push(node);
        }
        if named {
            claims.proto = HopValues::from_elements(protos);
            claims.host = HopValues::from_elements(hosts);
        } else {
            // The values describe the request, not a hop with an address.
            claims.nodes.clear();
            claims.proto = HopValues::from_list(protos.into_iter().flatten().collect(), 0);
            claims.host = HopValues::from_list(hosts.into_iter().flatten().collect(), 0);
        }
        claims
    }

    /// Adds what `Forwarded` says beyond `X-Forwarded-*`.
    fn merged(mut self, other: Self, forwarded: bool) -> Self {
        if self.contradicts(&other) {
            self.fault = Some(ForwardingFault::Contradiction);
            return Self { forwarded, ..self };
        }
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
        } else {
            for (node, claimed) in self.nodes.iter_mut().zip(other.nodes) {
                node.others = claimed.others;
                if let (Some((_, port @ None)), Some((_, claimed))) =
                    (&mut node.address, claimed.address)
                {
                    *port = claimed;
                }
            }
        }
        self.proto = self.proto.or(other.proto);
        self.host = self.host.or(other.host);
        self.fault = self.fault.or(other.fault);
        Self { forwarded, ..self }
    }

    fn contradicts(&self, other: &Self) -> bool {
        let ip = |node: &ForwardedNode| node.address.map(|(ip, _)| ip);
        let nodes = !self.nodes.is_empty()
            && !other.nodes.is_empty()
            && (self.nodes.len() != other.nodes.len()
                || self.nodes.iter().map(ip).ne(other.nodes.iter().map(ip)));
        let differ = |mine: Option<&str>, other: Option<&str>| {
            mine.zip(other).is_some_and(|(mine, other)| !mine.eq_ignore_ascii_case(other))
        };
        let proto = |claims: &Self| claims.proto.first().map(|proto| proto.to_string());
        let name =
            |claims: &Self| claims.host.first().map(|host| validate::without_port(host).to_owned());
        nodes
            || differ(proto(self).as_deref(), proto(other).as_deref())
            || differ(name(self).as_deref(), name(other).as_deref())
            || self
                .port
                .first()
                .zip(other.host.first().and_then(|host| port_of(host)))
                .is_some_and(|(mine, other)| *mine != other)
    }
}

impl ForwardedNode {
    /// Creates a node from an element of `X-Forwarded-For`.
    fn from_list(text: &str) -> Self {
        Self { address: address(text), text: text.into(), others: "".into() }
    }

    /// Creates a node from the `for` parameter of an element of `Forwarded`.
    fn from_forwarded(text: &str, others: Box<str>) -> Self {
        let address = address(text);
        let text = match address {
            Some((ip, _)) => ip.to_string().into(),
            None if is_hidden(text) => text.into(),
            None => "unknown".into(),
        };
        Self { address, text, others }
    }
}

/// Parses an address in each form in use: with a port, in brackets, in quotes, with a zone.
pub(super) fn address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let ip = |text: &str| {
        let text = text.split('%').next().unwrap_or(text);
        text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    };
    if let Some(ip) = ip(text) {
        return Some((ip, None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.split_at(text.find(':')?),
    };
    // RFC 7239 §6 allows an obfuscated port, too.
    let port = port.strip_prefix(':').map_or(port.is_empty().then_some(None), |port| match port
        .parse()
    {
        Ok(port) => Some(Some(port)),
        Err(_) => is_hidden(port).then_some(None),
    })?;
    Some((ip(host)?, port))
}

/// Whether the text is an identifier without an address (RFC 7239 §6.2 and §6.3): `unknown`,
/// `_hidden`.
pub(super) fn is_hidden(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.eq_ignore_ascii_case("unknown")
        || text.len() > 1 && text.starts_with('_') && text.bytes().all(allowed)
}

/// Parses a protocol name (RFC 3986 §3.1), in lower case.
fn proto(text: &str) -> Option<Box<str>> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_name = text.len() <= MAX_PROTO
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(allowed);
    is_name.then(|| text.to_ascii_lowercase().into())
}

fn host(text: &str) -> Option<Box<str>> {
    (!text.is_empty() && validate::is_host(text)).then(|| text.into())
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

pub(super) fn port_of(host: &str) -> Option<u16> {
    port(host[validate::without_port(host).len()..].strip_prefix(':')?)
}

pub(super) fn is_tls(proto: &str) -> bool {
    matches!(proto, "https" | "wss")
}
