//! The PROXY protocol, versions 1 and 2: who a connection comes from, told by the proxy before it, and
//! told to the backend behind it.
//!
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>)
//!
//! [`parse`] looks at bytes and is pure; [`receive`] takes exactly one header off a client's socket, by
//! a listener's terms; [`header`] is what a backend is sent. None of them knows what follows the header.
//!
//! The parser is our own. Of the crates, `proxy-header` 0.1.3 comes nearest, and lets pass what a gate
//! must not: in version 1 lines of any length where they come at once, ports as `+80` or `0080`, any byte
//! in place of the first space; in version 2 headers of 64 KiB, which it waits for before it looks at
//! anything, a CRC that is wrong, and TLVs that overrun until somebody asks for them; and it refuses a
//! `LOCAL` whose addresses are short, which are to be ignored.

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
    parse::{Header, LONGEST_LINE, MOST, Parsed, parse},
    receive::{Announced, GRACE, HeaderError, Wait, receive},
};
use crate::net::tls::TlsInfo;

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a header of version 2 before its addresses: signature, command, family, length.
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
    /// Ours, of those that anybody may give a meaning: the client certificate's subject (RFC 4514).
    pub(super) const SUBJECT: u8 = 0xe0;
    /// Ours: SHA-256 over the client's certificate, in lower-case hex.
    pub(super) const FINGERPRINT: u8 = 0xe1;

    /// Longest unique id.
    pub(super) const LONGEST_ID: usize = 128;
}

/// Whom a connection to a backend is opened for.
#[derive(Clone, Debug)]
pub enum Introduction {
    /// For ourselves: a probe.
    Local,
    /// For a client.
    Client(Arc<Introduced>),
}

impl Introduction {
    /// For a client that connected to `destination`, where that is known.
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
        Self::Client(Arc::new(Introduced { source, destination, secured, id: id.into() }))
    }
}

/// A client, as a backend is told of it.
#[derive(Clone, Debug)]
pub struct Introduced {
    /// Where it comes from.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
    /// What TLS told of it.
    pub secured: Option<Arc<TlsInfo>>,
    /// The stream's id in the access log.
    pub id: Box<str>,
}
