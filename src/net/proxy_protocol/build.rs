//! Builds the header sent to a backend.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::{ConnectionOrigin, FIXED, ProxiedClient, SIGNATURE, crc::crc32c, tlv};
use crate::{
    config::{ProxyOut, Tlv, Tlvs},
    net::tls::{ClientCertificate, TlsInfo},
};

/// Commands and families of version 2.
const LOCAL: [u8; 2] = [0x20, 0x00];
const TCP4: [u8; 2] = [0x21, 0x11];
const TCP6: [u8; 2] = [0x21, 0x21];

/// Client bits of the SSL TLV (§2.2.6). The bit for a certificate on this very connection (0x02) is never set,
/// because a resumed session received its certificate on an earlier connection.
const OVER_TLS: u8 = 0x01;
const CERTIFICATE_IN_SESSION: u8 = 0x04;

/// Maximum length of a text TLV. Longer names are left out: a truncated name could be a different name.
const LONGEST_TEXT: usize = 1024;

/// Builds the header for a connection with this origin.
pub fn header(version: ProxyOut, from: &ConnectionOrigin) -> Vec<u8> {
    match version {
        ProxyOut::V1 => line(from),
        ProxyOut::V2(tlvs) => binary(from, tlvs),
    }
}

fn line(from: &ConnectionOrigin) -> Vec<u8> {
    let ConnectionOrigin::Client(client) = from else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (source, destination) = of_one_family(client);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = write!(line, "PROXY {family} {from} {to} {from_port} {to_port}\r\n");
    line.into_bytes()
}

fn binary(from: &ConnectionOrigin, tlvs: Tlvs) -> Vec<u8> {
    let mut header = Vec::with_capacity(if tlvs == Tlvs::default() { 64 } else { 256 });
    header.extend(SIGNATURE);
    let ConnectionOrigin::Client(client) = from else {
        header.extend(LOCAL);
        header.extend([0, 0]);
        return header;
    };
    let (source, destination) = of_one_family(client);
    header.extend(if source.is_ipv4() { TCP4 } else { TCP6 });
    header.extend([0, 0]);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    append_tlvs(&mut header, client, tlvs);
    seal(header, tlvs.has(Tlv::Crc32c))
}

/// Appends the requested TLVs.
fn append_tlvs(header: &mut Vec<u8>, client: &ProxiedClient, tlvs: Tlvs) {
    if tlvs.has(Tlv::UniqueId) && client.id.len() <= tlv::LONGEST_ID {
        text(header, tlv::UNIQUE_ID, &client.id);
    }
    let Some(secured) = client.secured.as_deref() else { return };
    if tlvs.has(Tlv::Authority) {
        text(header, tlv::AUTHORITY, secured.sni.as_deref().unwrap_or_default());
    }
    // A protocol that is offered but not negotiated is not reported.
    let Some((version, suite)) = secured.version else { return };
    if tlvs.has(Tlv::Alpn) {
        text(header, tlv::ALPN, secured.alpn.as_deref().unwrap_or_default());
    }
    if tlvs.has_ssl() {
        let value = tls(secured, version, suite, tlvs);
        put(header, tlv::SSL, &value);
    }
    let Some(ClientCertificate { subject, fingerprint, .. }) = &secured.client else { return };
    if tlvs.has(Tlv::CertSubject) {
        text(header, tlv::SUBJECT, subject);
    }
    if tlvs.has(Tlv::CertFingerprint) {
        text(header, tlv::FINGERPRINT, fingerprint);
    }
}

/// Returns the value of the SSL TLV: client bits, verification result and nested TLVs.
fn tls(secured: &TlsInfo, version: &str, suite: &str, tlvs: Tlvs) -> Vec<u8> {
    let (bits, failed) = match secured.client {
        Some(_) => (OVER_TLS | CERTIFICATE_IN_SESSION, 0),
        None => (OVER_TLS, 1_u32),
    };
    let mut value = vec![bits];
    value.extend(failed.to_be_bytes());
    // The protocol requires the version for every client that uses TLS (§2.2.6).
    text(&mut value, tlv::SSL_VERSION, version);
    if tlvs.has(Tlv::SslCipher) {
        text(&mut value, tlv::SSL_CIPHER, suite);
    }
    if tlvs.has(Tlv::CertCn) {
        let name = secured.client.as_ref().and_then(|client| client.common_name.as_deref());
        text(&mut value, tlv::SSL_CN, name.unwrap_or_default());
    }
    value
}

/// Appends a text TLV if the text is present.
fn text(to: &mut Vec<u8>, kind: u8, text: &str) {
    if (1..=LONGEST_TEXT).contains(&text.len()) {
        put(to, kind, text.as_bytes());
    }
}

fn put(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // Every value is much shorter than 64 KiB.
    let Ok(length) = u16::try_from(value.len()) else { return };
    to.push(kind);
    to.extend(length.to_be_bytes());
    to.extend(value);
}

/// Fills in the length, and the checksum if requested.
fn seal(mut header: Vec<u8>, checksum: bool) -> Vec<u8> {
    if checksum {
        put(&mut header, tlv::CRC32C, &[0; 4]);
    }
    let length = u16::try_from(header.len() - FIXED).unwrap_or_default();
    header[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
    if checksum {
        let sum = crc32c(header.iter().copied());
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum.to_be_bytes());
    }
    header
}

/// Returns both addresses as IPv4 if both are IPv4, else as IPv6.
fn of_one_family(client: &ProxiedClient) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (plain(client.source), plain(client.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (mapped(source), mapped(destination))
}
