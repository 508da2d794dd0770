//! Writes the forwarding fields for the backend.

use std::{fmt::Write as _, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use super::{
    ForwardedClaims, ForwardedNode, HopValues, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT,
    X_FORWARDED_PROTO, X_REAL_IP, forwarded::push_value, is_tls, port_of,
};
use crate::http::validation;

/// The last hop: from the peer to this proxy.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct OwnHop<'a> {
    pub(in crate::http) peer: IpAddr,
    pub(in crate::http) tls: bool,
    /// With the port, if it was sent; may be empty.
    pub(in crate::http) host: &'a str,
}

/// Writes every forwarding field from one list: the hops that a trusted peer names, and this proxy's
/// own. `client` is the address of the client. `always`: send `Forwarded` even if the request had
/// none.
pub(in crate::http) fn write(
    headers: &mut HeaderMap,
    claims: Option<&ForwardedClaims>,
    own: OwnHop<'_>,
    client: IpAddr,
    always: bool,
) {
    let hops = Hops { claims, own };
    let peer = value(&own.peer.to_string());
    set(
        headers,
        X_REAL_IP,
        if client == own.peer { peer.clone() } else { value(&client.to_string()) },
    );
    set(
        headers,
        X_FORWARDED_FOR,
        match hops.nodes() {
            [] => peer,
            nodes => list(nodes.iter().map(|node| &*node.text), own.peer),
        },
    );
    set(
        headers,
        X_FORWARDED_PROTO,
        match hops.claimed(|claims| &claims.proto) {
            Some(HopValues::Once(proto)) => value(proto),
            Some(HopValues::Each(protos)) => list(protos, own.proto()),
            Some(HopValues::Never) | None => Some(HeaderValue::from_static(own.proto())),
        },
    );
    set(
        headers,
        X_FORWARDED_HOST,
        match hops.claimed(|claims| &claims.host) {
            Some(HopValues::Once(host)) => value(host),
            Some(HopValues::Each(hosts)) => list(hosts, own.host),
            Some(HopValues::Never) | None => value(own.host).filter(|host| !host.is_empty()),
        },
    );
    set(
        headers,
        X_FORWARDED_PORT,
        Some(match hops.claimed(|claims| &claims.port) {
            Some(HopValues::Once(port)) => port_value(*port),
            Some(HopValues::Each(ports)) => {
                list(ports, own.port()).unwrap_or(port_value(own.port()))
            }
            Some(HopValues::Never) | None => port_value(hops.port()),
        }),
    );
    let sent = always || claims.is_some_and(|claims| claims.forwarded);
    set(headers, FORWARDED, sent.then(|| value(&hops.forwarded())).flatten());
}

/// All hops of the request.
#[derive(Clone, Copy)]
struct Hops<'a> {
    claims: Option<&'a ForwardedClaims>,
    own: OwnHop<'a>,
}

impl<'a> Hops<'a> {
    fn nodes(&self) -> &'a [ForwardedNode] {
        self.claims.map_or(&[], |claims| &claims.nodes)
    }

    fn claimed<T>(
        &self,
        of: impl Fn(&'a ForwardedClaims) -> &'a HopValues<T>,
    ) -> Option<&'a HopValues<T>> {
        self.claims.map(of)
    }

    fn first_proto(&self) -> &'a str {
        let claimed = self.claims.and_then(|claims| claims.proto.first());
        claimed.map_or(self.own.proto(), |proto| proto)
    }

    /// Port that the first client connected to, from its host or its protocol.
    fn port(&self) -> u16 {
        let claimed = self.claims.and_then(|claims| claims.host.first());
        let host = claimed.map_or(self.own.host, |host| host);
        port_of(host).unwrap_or(usual_port(self.first_proto()))
    }

    /// Returns the whole field; single values belong to the first element.
    fn forwarded(&self) -> String {
        let nodes = self.nodes();
        let mut out = String::with_capacity(64 * (nodes.len() + 1));
        for (at, node) in nodes.iter().enumerate() {
            push_node(&mut out, node);
            self.push_properties(&mut out, at);
            out.push_str(&node.others);
            out.push_str(", ");
        }
        push_address(&mut out, (self.own.peer, None));
        self.push_properties(&mut out, nodes.len());
        out
    }

    fn push_properties(&self, out: &mut String, at: usize) {
        let proto = self.claimed(|claims| &claims.proto);
        let proto =
            at_hop(proto, at).map(|claimed| claimed.map_or(self.own.proto(), |proto| proto));
        if let Some(proto) = proto {
            out.push_str(";proto=");
            push_value(out, proto);
        }
        let host = at_hop(self.claimed(|claims| &claims.host), at);
        let host = host.map(|claimed| claimed.map_or(self.own.host, |host| host));
        let Some(host) = host.filter(|host| !host.is_empty()) else { return };
        out.push_str(";host=");
        // `X-Forwarded-*` has the port in a separate field.
        let port = self.claims.and_then(|claims| match &claims.port {
            HopValues::Never => None,
            HopValues::Once(port) => (at == 0).then_some(*port),
            HopValues::Each(ports) => ports.get(at).copied(),
        });
        match port {
            None => push_value(out, host),
            Some(port) => {
                let name = validation::without_port(host);
                if port == usual_port(proto.unwrap_or(self.first_proto())) {
                    push_value(out, name);
                } else {
                    push_value(out, &format!("{name}:{port}"));
                }
            }
        }
    }
}

/// Value at this hop. `None`: no value; `Some(None)`: the value of this proxy.
fn at_hop<T>(claimed: Option<&HopValues<T>>, at: usize) -> Option<Option<&T>> {
    match claimed {
        None | Some(HopValues::Never) => (at == 0).then_some(None),
        Some(HopValues::Once(value)) => (at == 0).then_some(Some(value)),
        Some(HopValues::Each(values)) => Some(values.get(at)),
    }
}

impl OwnHop<'_> {
    fn proto(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn port(&self) -> u16 {
        port_of(self.host).unwrap_or(usual_port(self.proto()))
    }
}

fn usual_port(proto: &str) -> u16 {
    if is_tls(proto) { 443 } else { 80 }
}

fn push_node(out: &mut String, node: &ForwardedNode) {
    match node.address {
        Some(address) => push_address(out, address),
        None if super::is_hidden(&node.text) => {
            out.push_str("for=");
            out.push_str(&node.text);
        }
        None => out.push_str("for=unknown"),
    }
}

fn push_address(out: &mut String, (ip, port): (IpAddr, Option<u16>)) {
    // Writing to a string cannot fail.
    let _ = match (ip, port) {
        (IpAddr::V4(ip), None) => write!(out, "for={ip}"),
        (IpAddr::V4(ip), Some(port)) => write!(out, "for=\"{ip}:{port}\""),
        (IpAddr::V6(ip), None) => write!(out, "for=\"[{ip}]\""),
        (IpAddr::V6(ip), Some(port)) => write!(out, "for=\"[{ip}]:{port}\""),
    };
}

/// Formats a list field: these values, followed by this proxy's.
fn list<T: std::fmt::Display>(
    values: impl IntoIterator<Item = T>,
    own: impl std::fmt::Display,
) -> Option<HeaderValue> {
    let mut joined = String::with_capacity(64);
    for value in values {
        let _ = write!(joined, "{value}, ");
    }
    let _ = write!(joined, "{own}");
    value(&joined)
}

fn port_value(port: u16) -> HeaderValue {
    match port {
        80 => HeaderValue::from_static("80"),
        443 => HeaderValue::from_static("443"),
        port => HeaderValue::from(port),
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => _ = headers.insert(name, value),
        None => _ = headers.remove(name),
    }
}
