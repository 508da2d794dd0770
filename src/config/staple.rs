//! OCSP responses that are stapled to handshakes: the certificates they are about, and their expiry.
//!
//! Reads only what is needed before stapling. Clients verify the signature.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Any, Class, Enumerated, FromDer, GeneralizedTime, Tag},
    certificate::X509Certificate,
};

/// The status of one certificate in a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CertificateStatus<'a> {
    /// The certificate's serial number, as its DER has it.
    serial: &'a [u8],
    /// End of its validity; `None`: the response does not say.
    until: Option<SystemTime>,
}

/// The status of each certificate in a DER response (RFC 6960 §4.2.1). `None`: the response is not
/// successful, or cannot be parsed.
pub(crate) fn read(response: &[u8]) -> Option<Vec<CertificateStatus<'_>>> {
    let mut outer = sequence(&mut &response[..])?;
    let Enumerated(0) = next(&mut outer)? else { return None };
    let mut bytes = sequence(&mut tagged(&mut outer, 0)?)?;
    let _kind: Any<'_> = next(&mut bytes)?;
    let basic = element(&mut bytes, Tag::OctetString)?;
    let mut data = sequence(&mut sequence(&mut &basic[..])?)?;
    // The version is present unless it is the first; then responder and production time.
    let first: Any<'_> = next(&mut data)?;
    if first.tag().0 == 0 {
        let _responder: Any<'_> = next(&mut data)?;
    }
    let _produced: GeneralizedTime = next(&mut data)?;
    let mut parts = sequence(&mut data)?;
    let mut all = Vec::new();
    while !parts.is_empty() {
        all.push(part(sequence(&mut parts)?)?);
    }
    Some(all)
}

impl<'a> CertificateStatus<'a> {
    /// The status of the certificate with this serial number, in the form of its DER.
    pub(crate) fn of<'r>(all: &'r [CertificateStatus<'a>], serial: &[u8]) -> Option<&'r Self> {
        all.iter().find(|status| status.serial == serial)
    }
}

/// Earliest end of validity in a response; `None`: it has none.
pub(crate) fn until(response: &[u8]) -> Option<SystemTime> {
    read(response)?.iter().filter_map(|status| status.until).min()
}

/// Whether a response is about this certificate. Compares the serial number only: the issuer is not
/// known here.
pub(crate) fn is_about(response: &[u8], leaf: &CertificateDer<'_>) -> bool {
    let statuses = read(response).unwrap_or_default();
    let leaf = X509Certificate::from_der(leaf).ok();
    leaf.is_some_and(|(_, leaf)| CertificateStatus::of(&statuses, leaf.raw_serial()).is_some())
}

/// Whether this is an error response of a responder (RFC 6960 §4.2.1).
pub(crate) fn is_refusal(response: &[u8]) -> bool {
    let mut outer = sequence(&mut &response[..]).unwrap_or_default();
    next(&mut outer).is_some_and(|Enumerated(status)| status != 0) && outer.is_empty()
}

/// A SingleResponse.
fn part(mut der: &[u8]) -> Option<CertificateStatus<'_>> {
    let mut certificate = sequence(&mut der)?;
    let _algorithm = sequence(&mut certificate)?;
    for _hash in ["of the issuer's name", "of the issuer's key"] {
        element(&mut certificate, Tag::OctetString)?;
    }
    let serial = element(&mut certificate, Tag::Integer)?;
    let _status: Any<'_> = next(&mut der)?;
    let _since: GeneralizedTime = next(&mut der)?;
    let until = match der.first() {
        Some(0xa0) => Some(time(next(&mut tagged(&mut der, 0)?)?)?),
        _ => None,
    };
    Some(CertificateStatus { serial, until })
}

fn time(time: GeneralizedTime) -> Option<SystemTime> {
    let seconds = u64::try_from(time.utc_datetime().ok()?.unix_timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Takes the next element.
fn next<'a, T: FromDer<'a>>(der: &mut &'a [u8]) -> Option<T> {
    let (rest, element) = T::from_der(der).ok()?;
    *der = rest;
    Some(element)
}

/// The contents of the next element, which must have this type.
fn element<'a>(der: &mut &'a [u8], tag: Tag) -> Option<&'a [u8]> {
    let element: Any<'a> = next(der)?;
    (element.tag() == tag && element.class() == Class::Universal).then_some(element.data)
}

fn sequence<'a>(der: &mut &'a [u8]) -> Option<&'a [u8]> {
    element(der, Tag::Sequence)
}

/// The contents of the next element, which must have this context-specific tag.
fn tagged<'a>(der: &mut &'a [u8], tag: u32) -> Option<&'a [u8]> {
    let element: Any<'a> = next(der)?;
    (element.tag() == Tag(tag) && element.class() == Class::ContextSpecific).then_some(element.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = include_bytes!("../../certs/signed.ocsp");

    #[test]
    fn a_response_has_serial_numbers_and_an_expiry() {
        let statuses = read(RESPONSE).unwrap();
        assert_eq!(statuses.len(), 1);
        assert!(
            CertificateStatus::of(&statuses, &[0x03, 0xe9]).is_some()
                && CertificateStatus::of(&statuses, &[1]).is_none()
        );
        let date = humantime::parse_rfc3339("2126-11-02T01:52:59Z").unwrap();
        assert_eq!(until(RESPONSE), Some(date));
    }

    #[test]
    fn truncated_and_other_data_is_rejected() {
        for end in 0..RESPONSE.len() {
            assert_eq!(read(&RESPONSE[..end]), None, "{end}");
        }
        let mut failed = RESPONSE.to_vec();
        assert_eq!(failed[4..7], [0x0a, 1, 0]);
        failed[6] = 6;
        assert_eq!(read(&failed), None);
        assert!(is_refusal(b"\x30\x03\x0a\x01\x03") && !is_refusal(RESPONSE));
        assert!(!is_refusal(b"\x30\x03\x0a\x01\x00") && !is_refusal(b"text"));
    }
}
