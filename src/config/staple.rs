//! OCSP responses that a certificate is served with: of whom they tell, and until when.
//!
//! Only what has to be known before one is handed on; whether its signature is right is for clients to
//! say.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Any, Class, Enumerated, FromDer, GeneralizedTime, Tag},
    certificate::X509Certificate,
};

/// What one certificate's part of a response tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CertificateStatus<'a> {
    /// The certificate's serial number, as its DER has it.
    serial: &'a [u8],
    /// Until when it is good; `None`: it does not say.
    until: Option<SystemTime>,
}

/// What a response in DER tells of each certificate (RFC 6960 §4.2.1); `None`: it is no successful one, or
/// cannot be read.
pub(crate) fn read(response: &[u8]) -> Option<Vec<CertificateStatus<'_>>> {
    let mut outer = sequence(&mut &response[..])?;
    let Enumerated(0) = next(&mut outer)? else { return None };
    let mut bytes = sequence(&mut tagged(&mut outer, 0)?)?;
    let _kind: Any<'_> = next(&mut bytes)?;
    let basic = element(&mut bytes, Tag::OctetString)?;
    let mut data = sequence(&mut sequence(&mut &basic[..])?)?;
    // The version is there where it is not the first, then whose response it is, and since when.
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
    /// That of the certificate with this serial number, as its DER has it.
    pub(crate) fn of<'r>(all: &'r [CertificateStatus<'a>], serial: &[u8]) -> Option<&'r Self> {
        all.iter().find(|told| told.serial == serial)
    }
}

/// Until when all that a response tells is good; `None`: nothing says so.
pub(crate) fn until(response: &[u8]) -> Option<SystemTime> {
    read(response)?.iter().filter_map(|told| told.until).min()
}

/// Whether a response is about this certificate; by its serial number, its issuer being unknown here.
pub(crate) fn is_about(response: &[u8], leaf: &CertificateDer<'_>) -> bool {
    let told = read(response).unwrap_or_default();
    let leaf = X509Certificate::from_der(leaf).ok();
    leaf.is_some_and(|(_, leaf)| CertificateStatus::of(&told, leaf.raw_serial()).is_some())
}

/// Whether this is a response by which a responder declines to answer (RFC 6960 §4.2.1).
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

/// The next element, which is taken off.
fn next<'a, T: FromDer<'a>>(der: &mut &'a [u8]) -> Option<T> {
    let (rest, element) = T::from_der(der).ok()?;
    *der = rest;
    Some(element)
}

/// The contents of the next element, which has to be of this type.
fn element<'a>(der: &mut &'a [u8], tag: Tag) -> Option<&'a [u8]> {
    let element: Any<'a> = next(der)?;
    (element.tag() == tag && element.class() == Class::Universal).then_some(element.data)
}

fn sequence<'a>(der: &mut &'a [u8]) -> Option<&'a [u8]> {
    element(der, Tag::Sequence)
}

/// The contents of the next element, which has to have this tag of its context.
fn tagged<'a>(der: &mut &'a [u8], tag: u32) -> Option<&'a [u8]> {
    let element: Any<'a> = next(der)?;
    (element.tag() == Tag(tag) && element.class() == Class::ContextSpecific).then_some(element.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = include_bytes!("../../certs/signed.ocsp");

    #[test]
    fn a_response_tells_of_whom_it_is_and_until_when() {
        let told = read(RESPONSE).unwrap();
        assert_eq!(told.len(), 1);
        assert!(
            CertificateStatus::of(&told, &[0x03, 0xe9]).is_some()
                && CertificateStatus::of(&told, &[1]).is_none()
        );
        let date = humantime::parse_rfc3339("2126-11-02T01:52:59Z").unwrap();
        assert_eq!(until(RESPONSE), Some(date));
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_no_response() {
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
