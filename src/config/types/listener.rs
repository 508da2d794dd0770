//! Types of listeners.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use ipnet::IpNet;

use super::{Acme, Address, CertificateSource, HeaderLimits, HostPattern, TlsConfig};
use crate::config::address::reaches;

/// One named group of listening addresses that behave alike.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerConfig {
    /// Name in the file, and in logs and metrics.
    pub name: String,
    /// At least one address; port 0 asks the kernel for a free one.
    pub bind: Vec<SocketAddr>,
    /// The protocol of the connections.
    pub protocol: ListenerProtocol,
    /// Pool of the streams of a `tcp`, `tls` or `tls-passthrough` listener, always there for the first
    /// two; `None`: requests are routed, or what no rule of `passthrough` covers is refused.
    pub pool: Option<String>,
    /// Server names whose connections are passed on as they come, in file order; the first that covers
    /// a ClientHello counts.
    pub passthrough: Vec<PassthroughConfig>,
    /// Whether connections begin with a PROXY header; `None`: none is looked for.
    pub proxy_protocol: Option<ProxyIn>,
    /// How many connections one client address may have open at once, IPv6 by /64; `None`: any number.
    pub connections_per_address: Option<NonZeroU32>,
    /// Answer every request with a redirect instead of routing it.
    pub redirect: Option<Redirect>,
    /// Deadline of what comes before the first request or byte of the application: PROXY header and TLS
    /// handshake together, from accept.
    pub handshake_timeout: Duration,
    /// Deadline of a request's header, from its first byte. The first header of a connection counts from the
    /// accept or from the end of the TLS handshake.
    pub header_timeout: Duration,
    /// How long a connection is kept without a byte of another request.
    pub keep_alive: Duration,
    /// Limits of a request's header.
    pub header: HeaderLimits,
}

impl ListenerConfig {
    /// Whether a connection to this address reaches the listener.
    pub fn is_at(&self, address: &Address) -> bool {
        let candidates = match address.literal() {
            Some(literal) => vec![literal],
            // Every other name is looked up when the process runs.
            None if address.host == "localhost" || address.host.ends_with(".localhost") => {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                loopback.map(|ip| SocketAddr::new(ip, address.port)).to_vec()
            }
            None => Vec::new(),
        };
        candidates.iter().any(|candidate| self.bind.iter().any(|own| reaches(*own, *candidate)))
    }
}

/// The protocol of a listener.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerProtocol {
    /// HTTP/1.x in the clear.
    Http,
    /// HTTP/1.1 over TLS.
    Https(TlsConfig),
    /// Anything: bytes to a pool.
    Tcp,
    /// TLS that is terminated here, and what is in it to a pool.
    Tls(TlsConfig),
    /// TLS that is not terminated here: its ClientHello decides on the pool.
    TlsPassthrough,
}

impl ListenerProtocol {
    /// The name in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https(_) => "https",
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::TlsPassthrough => "tls-passthrough",
        }
    }

    /// The TLS settings, if TLS is terminated.
    pub fn tls(&self) -> Option<&TlsConfig> {
        match self {
            Self::Https(tls) | Self::Tls(tls) => Some(tls),
            Self::Http | Self::Tcp | Self::TlsPassthrough => None,
        }
    }

    /// The ACME settings, if the certificate is ordered.
    pub fn acme(&self) -> Option<&Acme> {
        match self.tls().map(|tls| &tls.certificates) {
            Some(CertificateSource::Acme(terms)) => Some(terms),
            _ => None,
        }
    }

    /// The protocols offered by ALPN, in order of preference.
    pub fn alpn(&self) -> Vec<&str> {
        match self {
            Self::Https(_) => vec!["http/1.1"],
            Self::Tls(tls) => tls.alpn.iter().map(String::as_str).collect(),
            Self::Http | Self::Tcp | Self::TlsPassthrough => Vec::new(),
        }
    }

    /// Whether requests are read here, and not only bytes.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http | Self::Https(_))
    }
}

/// Connections that are passed on without being decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughConfig {
    /// Server names that it covers, any of them; empty: every one, and none.
    pub sni: Vec<HostPattern>,
    /// Protocols of which the client has to offer one by ALPN; empty: whatever it offers.
    pub alpn: Vec<String>,
    /// Name of a pool in [`Config::pools`].
    pub pool: String,
}

impl PassthroughConfig {
    /// Whether it names this one, which is in lower case and without a final dot.
    pub fn names(&self, name: &str) -> bool {
        self.sni.iter().any(|pattern| pattern.covers(name))
    }
}

/// Peers that may name the client in a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyIn {
    /// Whether a connection without the header is closed.
    pub required: bool,
    /// Peers that may send one; at least one network.
    pub from: Vec<IpNet>,
}

impl ProxyIn {
    /// Whether a header from this peer is trusted.
    pub fn believes(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|network| network.contains(&peer))
    }
}

/// Target of a redirecting listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// 308 to the same host and path over https.
    Https {
        /// Port to name in the target; `None`: 443, which is left out.
        port: Option<u16>,
    },
}
