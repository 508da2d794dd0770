//! Writes the forwarding fields for the backend, straight into its head.

use std::{fmt, net::IpAddr};

use moorline_http::{Buffer, FieldId, Head};

use super::{
    claims::{ForwardedClaims, ForwardedNode, HopValues, is_hidden, is_tls, port_of},
    forwarded::write_value,
};
use crate::proxy::validate;

/// The last hop: from the peer to this proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnHop<'a> {
    pub(super) peer: IpAddr,
    pub(super) tls: bool,
    /// With the port, if it was sent; may be empty.
    pub(super) host: &'a str,
}

/// Writes every forwarding field from one list: the hops that a trusted peer names, and this proxy's
/// own. `client` is the address of the client. `always`: send `Forwarded` even if the request had
/// none.
pub(super) fn write(
    head: &mut Head,
    claims: Option<&ForwardedClaims>,
    own: OwnHop<'_>,
    client: IpAddr,
    always: bool,
) {
    let hops = Hops { claims, own };
    head.set_with(FieldId::XRealIp, |out| push_address(out, client));
    head.set_with(FieldId::XForwardedFor, |out| {
        for node in hops.nodes() {
            out.push(node.text.as_bytes());
            out.push(b", ");
        }
        push_address(out, own.peer);
    });
    match hops.claimed(|claims| &claims.proto) {
        Some(HopValues::Once(proto)) => head.set(FieldId::XForwardedProto, &**proto),
        Some(HopValues::Each(protos)) => {
            let list = ValueList(protos.iter(), own.proto());
            head.set_fmt(FieldId::XForwardedProto, format_args!("{list}"));
        }
        Some(HopValues::Never) | None => head.set(FieldId::XForwardedProto, own.proto()),
    }
    match hops.claimed(|claims| &claims.host) {
        Some(HopValues::Once(host)) => head.set(FieldId::XForwardedHost, &**host),
        Some(HopValues::Each(hosts)) => {
            let list = ValueList(hosts.iter(), own.host);
            head.set_fmt(FieldId::XForwardedHost, format_args!("{list}"));
        }
        Some(HopValues::Never) | None if own.host.is_empty() => {
            head.remove(FieldId::XForwardedHost);
        }
        Some(HopValues::Never) | None => head.set(FieldId::XForwardedHost, own.host),
    }
    match hops.claimed(|claims| &claims.port) {
        Some(HopValues::Once(port)) => set_port(head, *port),
        Some(HopValues::Each(ports)) => {
            let list = ValueList(ports.iter(), own.port());
            head.set_fmt(FieldId::XForwardedPort, format_args!("{list}"));
        }
        Some(HopValues::Never) | None => set_port(head, hops.port()),
    }
    if always || claims.is_some_and(|claims| claims.forwarded) {
        head.set_fmt(FieldId::Forwarded, format_args!("{hops}"));
    } else {
        head.remove(FieldId::Forwarded);
    }
}

fn set_port(head: &mut Head, port: u16) {
    head.set_with(FieldId::XForwardedPort, |out| out.push_number(port.into()));
}

/// Appends an address, for IPv4 without the cost of formatting.
fn push_address(out: &mut Buffer, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let (mut text, mut len) = ([0; 16], 0);
            for part in address.octets() {
                for (unit, digit) in [(100, part / 100), (10, part / 10 % 10), (1, part % 10)] {
                    if part >= unit || unit == 1 {
                        text[len] = b'0' + digit;
                        len += 1;
                    }
                }
                text[len] = b'.';
                len += 1;
            }
            out.push(&text[..len - 1]);
        }
        IpAddr::V6(address) => {
            // Writing to a buffer cannot fail.
            let _ = fmt::Write::write_fmt(out, format_args!("{address}"));
        }
    }
}

/// A list field: these values, followed by this proxy's.
struct ValueList<I, T>(I, T);

impl<I, T> fmt::Display for ValueList<I, T>
where
    I: Iterator<Item: fmt::Display> + Clone,
    T: fmt::Display,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in self.0.clone() {
            write!(f, "{value}, ")?;
        }
        write!(f, "{}", self.1)
    }
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

    fn write_properties(&self, f: &mut fmt::Formatter<'_>, at: usize) -> fmt::Result {
        let proto = self.claimed(|claims| &claims.proto);
        let proto =
            at_hop(proto, at).map(|claimed| claimed.map_or(self.own.proto(), |proto| proto));
        if let Some(proto) = proto {
            f.write_str(";proto=")?;
            write_value(f, proto)?;
        }
        let host = at_hop(self.claimed(|claims| &claims.host), at);
        let host = host.map(|claimed| claimed.map_or(self.own.host, |host| host));
        let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(()) };
        f.write_str(";host=")?;
        // `X-Forwarded-*` has the port in a separate field.
        let port = self.claims.and_then(|claims| match &claims.port {
            HopValues::Never => None,
            HopValues::Once(port) => (at == 0).then_some(*port),
            HopValues::Each(ports) => ports.get(at).copied(),
        });
        let name = validate::without_port(host);
        match port {
            None => write_value(f, host),
            Some(port) if port == usual_port(proto.unwrap_or(self.first_proto())) => {
                write_value(f, name)
            }
            Some(port) => write_value(f, &format!("{name}:{port}")),
        }
    }
}

/// The whole `Forwarded` field; single values belong to the first element.
impl fmt::Display for Hops<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes();
        for (at, node) in nodes.iter().enumerate() {
            write_node(f, node)?;
            self.write_properties(f, at)?;
            f.write_str(&node.others)?;
            f.write_str(", ")?;
        }
        write_address(f, (self.own.peer, None))?;
        self.write_properties(f, nodes.len())
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

fn write_node(f: &mut fmt::Formatter<'_>, node: &ForwardedNode) -> fmt::Result {
    match node.address {
        Some(address) => write_address(f, address),
        None if is_hidden(&node.text) => write!(f, "for={}", node.text),
        None => f.write_str("for=unknown"),
    }
}

fn write_address(f: &mut fmt::Formatter<'_>, address: (IpAddr, Option<u16>)) -> fmt::Result {
    match address {
        (IpAddr::V4(ip), None) => write!(f, "for={ip}"),
        (IpAddr::V4(ip), Some(port)) => write!(f, "for=\"{ip}:{port}\""),
        (IpAddr::V6(ip), None) => write!(f, "for=\"[{ip}]\""),
        (IpAddr::V6(ip), Some(port)) => write!(f, "for=\"[{ip}]:{port}\""),
    }
}
