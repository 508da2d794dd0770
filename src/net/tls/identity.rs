//! Who a client has proved to be, in texts.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::{
    asn1_rs::{Any, FromDer as _, Tag, ToDer as _},
    x509::{AttributeTypeAndValue, RelativeDistinguishedName},
};

use super::key_log::push_hex;
use crate::net::tls::ClientCertificate;

/// Attribute types that have a name of their own (RFC 4514 section 3; the last ones from the registry
/// that it refers to). All others go by their numbers.
const SHORT_NAMES: [(&str, &str); 13] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.4", "sn"),
    ("2.5.4.42", "givenName"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// What a verified certificate tells of its holder.
pub(super) fn of(certificate: &CertificateDer<'_>) -> ClientCertificate {
    let mut fingerprint = String::with_capacity(64);
    push_hex(&mut fingerprint, digest(&SHA256, certificate).as_ref());
    // It can be read: it has been verified.
    let read = EndEntityCert::try_from(certificate).ok();
    let names = read.as_ref().map_or_else(Vec::new, |read| relative_names(read.subject()));
    let common_name = names
        .iter()
        .flat_map(RelativeDistinguishedName::iter)
        .filter(|attribute| attribute.attr_type().to_id_string() == SHORT_NAMES[0].0)
        .filter_map(|attribute| text(attribute.attr_value()))
        .last();
    ClientCertificate {
        subject: subject(&names).into(),
        common_name: common_name.map(Into::into),
        fingerprint: fingerprint.into(),
    }
}

/// The parts of a name whose outer SEQUENCE is off; none where one cannot be read: half a name may be
/// another's.
fn relative_names(mut der: &[u8]) -> Vec<RelativeDistinguishedName<'_>> {
    let mut names = Vec::new();
    while !der.is_empty() {
        let Ok((rest, name)) = RelativeDistinguishedName::from_der(der) else { return Vec::new() };
        names.push(name);
        der = rest;
    }
    names
}

/// The name in the form of RFC 4514, the last part first, in ASCII alone.
fn subject(names: &[RelativeDistinguishedName<'_>]) -> String {
    let parts = names.iter().rev().map(|name| {
        let attributes = name.iter().map(attribute).collect::<Vec<_>>();
        attributes.join("+")
    });
    parts.collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let known = SHORT_NAMES.iter().find(|(id, _)| *id == number);
    match (known, text(attribute.attr_value())) {
        (Some((_, name)), Some(value)) => format!("{name}={}", escaped(&value)),
        // Section 2.4: what has no name of its own, or no text, is told by its encoding.
        (known, _) => {
            let mut text = format!("{}=#", known.map_or(number.as_str(), |(_, name)| name));
            push_hex(&mut text, &attribute.attr_value().to_der_vec().unwrap_or_default());
            text
        }
    }
}

fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8(value.data.to_vec()).ok()
        }
        // Latin 1 is what everybody has put into it.
        Tag::TeletexString => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let (units, rest) = value.data.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok()).flatten()
        }
        _ => None,
    }
}

/// Section 2.4, and every byte that is no visible ASCII in hex, so that a header can carry it.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (n, byte) in value.bytes().enumerate() {
        let at_the_edge = (byte == b' ' && (n == 0 || n == last)) || (byte == b'#' && n == 0);
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.extend(['\\', char::from(byte)])
            }
            _ if at_the_edge => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    fn told(attributes: &[(DnType, DnValue)]) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn a_subject_is_told_last_part_first() {
        let pem = include_bytes!("../../../certs/client.pem");
        let client = of(&CertificateDer::from_pem_slice(pem).unwrap());
        assert_eq!(&*client.subject, "CN=ada,O=moorline");
        assert_eq!(client.common_name.as_deref(), Some("ada"));
        assert_eq!(client.fingerprint.len(), 64);
        assert_eq!(&*told(&[]).subject, "");
        assert_eq!(told(&[]).common_name, None);
    }

    #[test]
    fn half_a_name_is_none() {
        // C=NZ, and then a SET that holds no SEQUENCE.
        let country = b"\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02NZ";
        assert_eq!(subject(&relative_names(country)), "C=NZ");
        assert!(relative_names(&[&country[..], b"\x31\x02\x05\x00"].concat()).is_empty());
        assert!(relative_names(&[&country[..], b"\x31"].concat()).is_empty());
    }

    #[test]
    fn whatever_a_name_holds_a_header_can_carry_it() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let bmp = DnValue::BmpString(rcgen::string::BmpString::try_from("Ä").unwrap());
        let client = told(&[
            (DnType::CommonName, utf8(" #Ä, \"b\"\r\n ")),
            (DnType::OrganizationName, bmp),
            (DnType::CustomDnType(vec![1, 2, 3, 4]), utf8("x")),
        ]);
        let cn = "CN=\\ #\\C3\\84\\, \\\"b\\\"\\0D\\0A\\ ";
        assert_eq!(&*client.subject, format!("1.2.3.4=#0c0178,O=\\C3\\84,{cn}"));
        assert_eq!(client.common_name.as_deref(), Some(" #Ä, \"b\"\r\n "));
    }
}
