//! Converts the identity in a client certificate to text.

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

/// Attribute types with a short name (RFC 4514 section 3; the last entries come from the registry it refers to).
/// Other types are shown by number.
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

/// Returns the identity in a verified certificate.
pub(super) fn of(certificate: &CertificateDer<'_>) -> ClientCertificate {
    let mut fingerprint = String::with_capacity(64);
    push_hex(&mut fingerprint, digest(&SHA256, certificate).as_ref());
    // Parsing succeeds: the certificate has been verified.
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

/// Returns the parts of a name without its outer SEQUENCE; empty if a part cannot be parsed, because a partial name
/// could belong to a different subject.
fn relative_names(mut der: &[u8]) -> Vec<RelativeDistinguishedName<'_>> {
    let mut names = Vec::new();
    while !der.is_empty() {
        let Ok((rest, name)) = RelativeDistinguishedName::from_der(der) else { return Vec::new() };
        names.push(name);
        der = rest;
    }
    names
}

/// Formats a name according to RFC 4514, last part first, in ASCII only.
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
        // Section 2.4: a type without a short name, or a value without text, is shown as encoded.
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
        // T.61 in theory, Latin 1 in practice.
        Tag::TeletexString => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let (units, rest) = value.data.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok()).flatten()
        }
        _ => None,
    }
}

/// Escapes by section 2.4, and writes every byte that is not printable ASCII in hex, for use in a header.
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

    fn identity_of(attributes: &[(DnType, DnValue)]) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn subject_is_formatted_last_part_first() {
        let pem = include_bytes!("../../../certs/client.pem");
        let client = of(&CertificateDer::from_pem_slice(pem).unwrap());
        assert_eq!(&*client.subject, "CN=ada,O=moorline");
        assert_eq!(client.common_name.as_deref(), Some("ada"));
        assert_eq!(client.fingerprint.len(), 64);
        assert_eq!(&*identity_of(&[]).subject, "");
        assert_eq!(identity_of(&[]).common_name, None);
    }

    #[test]
    fn partially_readable_names_are_discarded() {
        // C=NZ, followed by a SET without a SEQUENCE.
        let country = b"\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02NZ";
        assert_eq!(subject(&relative_names(country)), "C=NZ");
        assert!(relative_names(&[&country[..], b"\x31\x02\x05\x00"].concat()).is_empty());
        assert!(relative_names(&[&country[..], b"\x31"].concat()).is_empty());
    }

    #[test]
    fn any_name_is_safe_in_a_header() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let bmp = DnValue::BmpString(rcgen::string::BmpString::try_from("Ä").unwrap());
        let client = identity_of(&[
            (DnType::CommonName, utf8(" #Ä, \"b\"\r\n ")),
            (DnType::OrganizationName, bmp),
            (DnType::CustomDnType(vec![1, 2, 3, 4]), utf8("x")),
        ]);
        let cn = "CN=\\ #\\C3\\84\\, \\\"b\\\"\\0D\\0A\\ ";
        assert_eq!(&*client.subject, format!("1.2.3.4=#0c0178,O=\\C3\\84,{cn}"));
        assert_eq!(client.common_name.as_deref(), Some(" #Ä, \"b\"\r\n "));
    }
}
