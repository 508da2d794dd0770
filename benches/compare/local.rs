//! What the measured programs share on this machine: certificates and free addresses.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// Folder of the package's test certificates.
pub(crate) const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/certs");

/// An address that was free a moment ago.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
