//! The PROXY protocol, versions 1 and 2: client addresses received from the proxy in front and sent to the
//! backend behind.
//!
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>)
//!
//! [`parse()`] is a pure function over bytes. [`receive()`] takes exactly one header off a client's socket, according
//! to the listener's settings. [`header`] builds the header for a backend. None of them looks at the bytes after
//! the header.
//!
//! The parser is our own. The closest crate, `proxy-header` 0.1.3, accepts input that must be rejected at a trust
//! boundary. In version 1: lines of any length if they arrive at once, ports such as `+80` or `0080`, any byte in
//! place of the first space. In version 2: headers of 64 KiB, which it buffers before it inspects anything, a
//! wrong CRC, and TLVs that overrun until they are read. It also rejects a `LOCAL` header with short addresses,
//! which must be ignored.

mod build;
mod crc;
mod parse;
mod receive;
#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

pub use self::{
    build::header,
    parse::{LONGEST_LINE, MOST, ParsedHeader, ProxyHeader, parse},
    receive::{GRACE, HeaderError, HeaderWait, ProxiedAddresses, receive},
};
use crate::net::tls::TlsInfo;

/// First bytes of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Size of a version 2 header before its addresses: signature, command, family, length.
const FIXED: usize = 16;

/// TLVs of version 2 (§2.2).
mod tlv {
    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
    pub(super) const SSL: u8 = 0x20;
    pub(super) const SSL_VERSION: u8 = 0x21;
    pub(super) const SSL_CN: u8 = 0x22;
    pub(super) const SSL_CIPHER: u8 = 0x23;
    /// Custom type, from the range for applications: subject of the client certificate (RFC 4514).
    pub(super) const SUBJECT: u8 = 0xe0;
    /// Custom type: SHA-256 of the client certificate, in lower-case hex.
    pub(super) const FINGERPRINT: u8 = 0xe1;

    /// Maximum length of a unique id.
    pub(super) const LONGEST_ID: usize = 128;
}

/// The origin of a connection to a backend.
#[derive(Clone, Debug)]
pub enum ConnectionOrigin {
    /// The proxy itself, for a health check.
    Local,
    /// A client.
    Client(Arc<ProxiedClient>),
}

impl ConnectionOrigin {
    /// For a client that connected to `destination`, if that is known.
    pub fn of(
        source: SocketAddr,
        destination: Option<SocketAddr>,
        secured: Option<Arc<TlsInfo>>,
        id: &str,
    ) -> Self {
        let unknown = || match source {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let destination = destination.unwrap_or_else(unknown);
        Self::Client(Arc::new(ProxiedClient { source, destination, secured, id: id.into() }))
    }
}

/// A client as described to a backend.
#[derive(Clone, Debug)]
pub struct ProxiedClient {
    /// Client address.
    pub source: SocketAddr,
    /// Address that the client connected to.
    pub destination: SocketAddr,
    /// TLS details of the client's connection.
    pub secured: Option<Arc<TlsInfo>>,
    /// Stream id in the access log.
    pub id: Box<str>,
}
