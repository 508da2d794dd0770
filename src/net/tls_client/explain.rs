//! Explains why a handshake with a backend failed: what is wrong, with which certificate, and what to do.

use std::{error::Error as StdError, fmt, io, net::IpAddr};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, oid_registry::asn1_rs::Oid,
    prelude::FromDer as _, time::ASN1Time,
};

use crate::error::FailureKind;

/// Maximum length of a shown subject or issuer in characters, and maximum number of shown host names.
const LONGEST_NAME: usize = 200;
const MOST_NAMES: usize = 8;

/// Names of unsupported certificate algorithms, by object identifier.
const ALGORITHMS: [(&str, &str); 8] = [
    ("1.2.840.113549.1.1.4", "MD5 with RSA"),
    ("1.2.840.113549.1.1.5", "SHA-1 with RSA"),
    ("1.2.840.10045.4.1", "SHA-1 with ECDSA"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
    ("1.2.840.113549.1.1.1", "RSA"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.10045.2.1", "ECDSA"),
    ("1.3.101.113", "Ed448"),
];

/// A rejected certificate.
#[derive(Debug)]
pub(in crate::net) struct RejectedCertificate {
    kind: FailureKind,
    sentence: String,
}

/// Requirements for a certificate.
pub(super) struct ExpectedCertificate<'a> {
    /// The name that it must contain; `None` if only a signature is checked.
    pub(super) name: Option<&'a ServerName<'a>>,
    /// The authorities of the system are used, because `tls.ca` is not set.
    pub(super) by_system: bool,
}

/// The contents of a certificate, as far as it can be parsed.
#[derive(Default)]
pub(super) struct CertificateSummary {
    subject: String,
    issuer: String,
    is_self_signed: bool,
    from: Option<ASN1Time>,
    until: Option<ASN1Time>,
    /// Hosts and addresses of its subjectAltName.
    names: Vec<String>,
    signature: String,
    key: String,
}

impl RejectedCertificate {
    pub(super) fn new(
        why: &CertificateError,
        seen: &CertificateSummary,
        expected: &ExpectedCertificate<'_>,
    ) -> Self {
        Self { kind: certificate_kind(why), sentence: sentence(why, seen, expected) }
    }

    /// Returns the kind for logs and metrics.
    pub(in crate::net) fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for RejectedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl StdError for RejectedCertificate {}

/// Returns the kind of a rejected certificate.
pub(in crate::net) fn certificate_kind(error: &CertificateError) -> FailureKind {
    use CertificateError as E;
    match error {
        E::Other(OtherError(why)) => match why.downcast_ref::<RejectedCertificate>() {
            Some(rejected) => rejected.kind(),
            None => FailureKind::CertificateInvalid,
        },
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            FailureKind::CertificateExpired
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => FailureKind::CertificateName,
        E::UnknownIssuer => FailureKind::CertificateUntrusted,
        E::Revoked => FailureKind::CertificateRevoked,
        _ => FailureKind::CertificateInvalid,
    }
}

/// Returns an explanation of a failed handshake; `None` if the error text is the best available.
pub(super) fn explain(error: &io::Error) -> Option<String> {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        let closed = error.kind() == io::ErrorKind::UnexpectedEof;
        return closed.then(|| {
            "the backend closed the connection; check that it uses TLS on this port".to_owned()
        });
    };
    match inner {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            why.downcast_ref::<RejectedCertificate>().map(ToString::to_string)
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(
            "the backend's answer is not TLS; leave `tls` out if this port does not use TLS"
                .to_owned(),
        ),
        Error::AlertReceived(alert) => {
            Some(format!("the backend ended it with the alert {alert:?}: {}", advice(*alert)))
        }
        Error::PeerIncompatible(why) => Some(format!(
            "the backend supports none of our TLS versions (1.2, 1.3), cipher suites or curves ({why:?})"
        )),
        _ => None,
    }
}

fn advice(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::ProtocolVersion => "it supports neither TLS 1.2 nor TLS 1.3",
        A::UnrecognisedName => "it does not know the server name; set `tls.name`",
        A::NoApplicationProtocol => "it supports no protocol of `tls.alpn`",
        A::HandshakeFailure | A::InsufficientSecurity => {
            "it has no cipher suite in common, or it needs a server name (`tls.name`)"
        }
        A::CertificateRequired => "it asks for a client certificate; set `tls.client_cert`",
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => "it does not accept our client certificate (`tls.client_cert`)",
        _ => "see the backend's log",
    }
}

fn sentence(
    why: &CertificateError,
    seen: &CertificateSummary,
    expected: &ExpectedCertificate<'_>,
) -> String {
    use CertificateError as E;
    let CertificateSummary { subject, issuer, .. } = seen;
    let of = format!("the backend's certificate (subject {subject}, issuer {issuer})");
    match why {
        E::Expired => format!("{of} expired on {}; renew it", date(seen.until)),
        E::ExpiredContext { not_after, .. } => {
            let at = i64::try_from(not_after.as_secs()).unwrap_or_default();
            match seen.until.is_some_and(|until| until.timestamp() == at) {
                true => format!("{of} expired on {}; renew it", date(seen.until)),
                false => format!("a certificate in the chain of {of} has expired; renew it"),
            }
        }
        E::NotValidYet | E::NotValidYetContext { .. } => format!(
            "{of} is not valid before {}; check the clocks of both machines",
            date(seen.from)
        ),
        E::UnknownIssuer => unknown_issuer(&of, seen, expected.by_system),
        E::NotValidForName | E::NotValidForNameContext { .. } => wrong_name(&of, seen, expected),
        E::BadSignature => format!("{of} is not signed by its issuer's key, or it was modified"),
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "{of} is signed with {} for a key of type {}, which is not supported; use RSA, ECDSA or \
             Ed25519 with SHA-256 or better",
            seen.signature, seen.key
        ),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => format!(
            "{of} is not for servers: its extended key usage lacks serverAuth; issue it again"
        ),
        E::Revoked => format!("{of} is revoked; replace it"),
        E::UnhandledCriticalExtension => {
            format!("{of} has a critical extension that is not supported; issue it without")
        }
        E::BadEncoding => format!("{of} cannot be read: it is not valid DER"),
        E::Other(OtherError(inner)) => match inner.downcast_ref::<webpki::Error>() {
            Some(inner) => of_webpki(inner, &of),
            None => format!("{of} is not accepted: {inner}"),
        },
        other => format!("{of} is not accepted: {other:?}"),
    }
}

fn unknown_issuer(of: &str, seen: &CertificateSummary, by_system: bool) -> String {
    match (seen.is_self_signed, by_system) {
        (true, true) => format!(
            "{of} is self-signed and this system does not trust it; name its file in `tls.ca`"
        ),
        (true, false) => {
            format!("{of} is self-signed and is not in `tls.ca`; add it there")
        }
        (false, true) => format!(
            "{of} is not from an authority that this system trusts; name the issuer's certificate \
             in `tls.ca`, and check that the backend sends its intermediate certificates"
        ),
        (false, false) => format!(
            "{of} is not from an authority of `tls.ca`; add the issuer's certificate there, and \
             check that the backend sends its intermediate certificates"
        ),
    }
}

fn wrong_name(of: &str, seen: &CertificateSummary, expected: &ExpectedCertificate<'_>) -> String {
    let wanted = expected.name.map_or_else(String::new, |name| name.to_str().into_owned());
    if seen.names.is_empty() {
        return format!(
            "{of} has no subjectAltName, and its common name is not used; issue it for {wanted}, or \
             put this certificate itself into `tls.ca`"
        );
    }
    let more = seen.names.len().saturating_sub(MOST_NAMES);
    let mut names = seen.names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        names += &format!(" and {more} more");
    }
    format!(
        "{of} is for {names}, not for {wanted}; set `tls.name` to one of its names, or issue it for \
         {wanted}"
    )
}

fn of_webpki(error: &webpki::Error, of: &str) -> String {
    use webpki::Error as E;
    match error {
        E::CaUsedAsEndEntity => format!(
            "{of} is the certificate of an authority, used as a server's; add exactly this \
             certificate to `tls.ca`, or issue one with CA:FALSE"
        ),
        E::EndEntityUsedAsCa => {
            format!("a certificate in the chain of {of} is not one of an authority (CA:TRUE)")
        }
        E::UnsupportedCertVersion => {
            format!("{of} is not X.509 version 3; issue it again, with a subjectAltName")
        }
        E::NameConstraintViolation => {
            format!("{of} is for a name that the name constraints of its chain exclude")
        }
        E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => {
            format!("the chain of {of} is longer than its authorities allow")
        }
        E::InvalidCertValidity => format!("{of} ends before it begins; issue it again"),
        other => format!("{of} is not accepted: {other:?}"),
    }
}

impl CertificateSummary {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, read)) = X509Certificate::from_der(certificate) else {
            let unknown = || "unknown".to_owned();
            return Self { subject: unknown(), issuer: unknown(), ..Self::default() };
        };
        let names = read.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Self {
            subject: shown(&read.subject().to_string()),
            issuer: shown(&read.issuer().to_string()),
            is_self_signed: read.subject() == read.issuer(),
            from: Some(read.validity().not_before),
            until: Some(read.validity().not_after),
            names: names.filter_map(host).collect(),
            signature: algorithm(&read.signature_algorithm.algorithm),
            key: algorithm(&read.public_key().algorithm.algorithm),
        }
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(shown(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok();
            v4.or_else(v6).map(|ip| ip.to_string())
        }
        _ => None,
    }
}

fn algorithm(id: &Oid<'_>) -> String {
    let id = id.to_id_string();
    let known = ALGORITHMS.iter().find(|(known, _)| *known == id);
    known.map_or(id, |(_, name)| (*name).to_owned())
}

/// Makes a name from an untrusted certificate safe for logs.
fn shown(name: &str) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    match name.is_empty() {
        true => "none".to_owned(),
        false => name.chars().take(LONGEST_NAME).map(visible).collect(),
    }
}

fn date(time: Option<ASN1Time>) -> String {
    let seconds = time.and_then(|time| u64::try_from(time.timestamp()).ok());
    let at = std::time::Duration::from_secs(seconds.unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::SystemTime::UNIX_EPOCH + at).to_string()
}
