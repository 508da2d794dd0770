//! Fields that describe the client and earlier hops: what a peer says, and what backends get.
//!
//! Pure functions on [`Head`]. Hop-by-hop fields are stripped before others are added, so that no client
//! can remove the proxy's own fields by naming them in `Connection`.
//!
//! A trusted peer describes earlier hops; [`ForwardedClaims`] holds what it says, and all forwarding
//! fields for the backend are written from it. What any other peer says is dropped, also under aliases
//! with underscores: many frameworks treat `X_Forwarded_For` and `X-Forwarded-For` alike.

mod claims;
mod forwarded;
mod request_id;
mod write;

use std::net::{IpAddr, SocketAddr};

use moorline_http::{Field, FieldId, Head, RequestHead};

use self::write::OwnHop;
pub(super) use self::{claims::ForwardedClaims, request_id::RequestId};
use crate::net::tls::{CERTIFICATE_FIELDS, ClientCertificate};

/// Counts the Moorline processes that a request has passed. `Via` (RFC 9110 §7.6.3) would serve the
/// purpose, but servers do not compress responses to requests that carry it.
const HOPS: FieldId = FieldId::XMoorlineHops;

/// Begins the names of the fields that describe the client's certificate, in lower case.
const CERTIFICATE: &[u8] = CERTIFICATE_FIELDS.as_bytes();

/// Maximum number of Moorline processes. Each turn of a loop holds two descriptors.
const MAX_HOPS: usize = 10;

/// Origin of a request, for the fields that describe it to the backend.
#[derive(Debug)]
pub(super) struct ForwardingContext<'a> {
    /// Address of the peer of the client connection.
    pub(super) peer: SocketAddr,
    /// Whether the peer is a trusted proxy.
    pub(super) trusted: bool,
    /// Forwarding fields of the peer, if it is trusted.
    pub(super) claims: Option<&'a ForwardedClaims>,
    /// Address of the client.
    pub(super) client: IpAddr,
    /// Whether `Forwarded` is sent even if the request had none.
    pub(super) forwarded_always: bool,
    /// Whether the request came over TLS.
    pub(super) tls: bool,
    /// Verified certificate of the client.
    pub(super) certificate: Option<&'a ClientCertificate>,
    /// Number of Moorline processes that the request has already passed.
    pub(super) hops: usize,
    /// Host of the request, with its port as sent.
    pub(super) host: &'a str,
    /// Id of the request.
    pub(super) id: &'a str,
}

/// Removes every hop-by-hop field, including those that `Connection` names, but not the proxy's own.
pub(super) fn strip(request: &mut RequestHead) {
    request.strip_hop_by_hop(&[HOPS]);
}

/// Adds the fields that describe the client to the backend. Removes the fields of an untrusted peer
/// first. Client certificates are described by this connection alone, whatever the peer sends. Returns
/// the name, in lower case, of a forwarding field that was removed because the peer is not trusted.
pub(super) fn add_forwarding(head: &mut Head, origin: &ForwardingContext<'_>) -> Option<Box<str>> {
    let dropped = drop_claims(head, origin.trusted);
    if let Some(certificate) = origin.certificate {
        // Both values are visible ASCII.
        head.append_named("X-Client-Cert-Subject", &*certificate.subject);
        head.append_named("X-Client-Cert-Fingerprint", &*certificate.fingerprint);
    }
    let peer = origin.peer.ip().to_canonical();
    let own = OwnHop { peer, tls: origin.tls, host: origin.host };
    let client = origin.client.to_canonical();
    write::write(head, origin.claims, own, client, origin.forwarded_always);
    count_hop(head, origin.hops);
    head.set(FieldId::XRequestId, origin.id);
    dropped
}

/// Whether a trailer with this name, in lower case and without underscores, may not be passed on: no other process may
/// set the proxy's own fields. [`BodyDecoder`](moorline_http::BodyDecoder) drops the fields that all proxies know.
pub(super) fn is_forbidden_trailer(name: &[u8]) -> bool {
    name.starts_with(CERTIFICATE) || name.eq_ignore_ascii_case(HOPS.name().as_bytes())
}

/// Returns how many Moorline processes the request has passed; `None` if there are too many. The
/// value counts even from untrusted peers, since a loop may lead through any of them; a client that
/// sends a wrong value harms only itself.
pub(super) fn hops(head: &Head) -> Option<usize> {
    let values = head.all(HOPS).filter_map(|value| std::str::from_utf8(value).ok());
    let hops = values.filter_map(|value| value.parse().ok()).max().unwrap_or(0);
    (hops < MAX_HOPS).then_some(hops)
}

/// Counts this process among those that the request has passed.
fn count_hop(head: &mut Head, before: usize) {
    const COUNTS: [&str; MAX_HOPS] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
    if let Some(count) = COUNTS.get(before) {
        head.set(HOPS, count);
    }
}

/// Removes the peer's fields about the client; fields about earlier hops stay if the peer is
/// trusted. Returns the first forwarding field that was removed, if the peer is not trusted.
fn drop_claims(head: &mut Head, trusted: bool) -> Option<Box<str>> {
    let mut dropped = None;
    head.retain(|field| {
        let is_claim = is_claim(&field, trusted);
        if is_claim && dropped.is_none() && !trusted && is_forwarding(&field) {
            dropped = Some(String::from_utf8_lossy(field.name).to_ascii_lowercase().into());
        }
        !is_claim
    });
    dropped
}

/// Returns a value if it is text: visible ASCII, spaces and tabs.
fn ascii(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

/// Returns the elements of a comma-separated field, over all its lines that are text.
fn tokens(head: &Head, id: FieldId) -> impl Iterator<Item = &str> {
    let elements = head.all(id).filter_map(ascii).flat_map(|value| value.split(','));
    elements.map(str::trim).filter(|element| !element.is_empty())
}

/// Whether the field is one that proxies use to describe the client, under its proper name.
fn is_forwarding(field: &Field<'_>) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    let prefix = field.name.get(..PREFIX.len());
    matches!(field.id, FieldId::Forwarded | FieldId::XRealIp)
        || prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

fn is_claim(field: &Field<'_>, trusted: bool) -> bool {
    match field.id {
        FieldId::XForwardedFor
        | FieldId::XForwardedHost
        | FieldId::XForwardedPort
        | FieldId::XForwardedProto
        | FieldId::XRealIp
        | FieldId::XRequestId
        | FieldId::Forwarded => !trusted,
        FieldId::Other => is_other_claim(field.name, trusted),
        _ => false,
    }
}

/// Whether a field without a [`FieldId`] describes the client.
fn is_other_claim(name: &[u8], trusted: bool) -> bool {
    // A proxy in front appends to the fields that all proxies know. It may not know these, and would
    // pass on what its client sent.
    if begins(name, CERTIFICATE) {
        return true;
    }
    if trusted && !name.contains(&b'_') {
        return false;
    }
    let is = |other: &[u8]| name.len() == other.len() && begins(name, other);
    // Aliases with underscores: these names with dashes are the engine's.
    if is(b"content-length") || is(b"transfer-encoding") {
        return name.contains(&b'_');
    }
    begins(name, b"x-forwarded-") || is(b"x-real-ip") || is(b"x-request-id")
}

/// Whether the name begins with `prefix`, in any case and with underscores for dashes.
fn begins(name: &[u8], prefix: &[u8]) -> bool {
    let canonical = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() >= prefix.len() && name.iter().map(canonical).zip(prefix).all(|(a, b)| a == *b)
}

#[cfg(test)]
mod tests;
