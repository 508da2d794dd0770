//! Types of listeners.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use ipnet::IpNet;

use super::{Acme, Address, CertificateSource, HeaderLimits, HostPattern, Rate, TlsConfig};
use crate::config::address::reaches;

/// A listener: addresses with the same settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerConfig {
    /// Name in the file, and in logs and metrics.
    pub name: String,
    /// At least one address; port 0 means any free port.
    pub bind: Vec<SocketAddr>,
    /// The protocol of the connections.
    pub protocol: ListenerProtocol,
    /// Pool of the streams of a `tcp`, `tls` or `tls-passthrough` listener, always set for the first two;
    /// `None`: requests are routed, or connections that no `passthrough` rule covers are refused.
    pub pool: Option<String>,
    /// Rules for connections that are forwarded without decryption, in file order. The first rule that
    /// covers a ClientHello is used.
    pub passthrough: Vec<PassthroughConfig>,
    /// PROXY headers of clients; `None`: no header is expected.
    pub proxy_protocol: Option<ProxyIn>,
    /// Maximum number of open connections per client address, IPv6 by /64; `None`: unlimited.
    pub connections_per_address: Option<NonZeroU32>,
    /// Rate of new connections per client address, IPv6 by /64, and how many may come at once; `None`: unlimited.
    pub connection_rate: Option<(Rate, u32)>,
    /// Redirect for every request; `None`: requests are routed.
    pub redirect: Option<Redirect>,
    /// Time limit of the PROXY header and the TLS handshake together, from the accept.
    pub handshake_timeout: Duration,
    /// Time limit of a request's header, from its first byte. For the first header of a connection, from the
    /// accept or the end of the TLS handshake.
    pub header_timeout: Duration,
    /// How long a connection stays open without another request.
    pub keep_alive: Duration,
    /// Limits of a request's header.
    pub header: HeaderLimits,
}

impl ListenerConfig {
    /// Whether a connection to this address reaches the listener.
    pub fn is_at(&self, address: &Address) -> bool {
        let candidates = match address.literal() {
            Some(literal) => vec![literal],
            // Every other name is resolved when the process runs.
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
    /// HTTP/1.x without TLS.
    Http,
    /// HTTP/1.1 over TLS.
    Https(TlsConfig),
    /// Bytes of any protocol, forwarded to a pool.
    Tcp,
    /// TLS that is terminated here; the decrypted bytes are forwarded to a pool.
    Tls(TlsConfig),
    /// TLS that is not terminated here. The ClientHello decides on the pool.
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

    /// Whether the listener reads HTTP requests.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http | Self::Https(_))
    }
}

/// A rule for connections that are forwarded without decryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughConfig {
    /// Server names that the rule covers; empty: every connection, with or without a server name.
    pub sni: Vec<HostPattern>,
    /// ALPN protocols of which the client must offer one; empty: any offer.
    pub alpn: Vec<String>,
    /// Name of a pool in [`Config::pools`](crate::config::Config::pools).
    pub pool: String,
}

impl PassthroughConfig {
    /// Whether one of [`sni`](Self::sni) covers this name, in lower case and without a final dot.
    pub fn names(&self, name: &str) -> bool {
        self.sni.iter().any(|pattern| pattern.covers(name))
    }
}

/// PROXY headers that name the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyIn {
    /// Whether a connection without the header is closed.
    pub required: bool,
    /// Peers that may send the header; at least one network.
    pub from: Vec<IpNet>,
}

impl ProxyIn {
    /// Whether a header from this peer is trusted.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|network| network.contains(&peer))
    }
}

/// Redirect of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// 308 to the same host and path over HTTPS.
    Https {
        /// Port in the target; `None`: 443, which the target does not name.
        port: Option<u16>,
    },
}
