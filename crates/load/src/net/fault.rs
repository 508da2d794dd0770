//! What the system and rustls say of a failure, as a [`Failure`] for people.

use std::io;

use rustls::{AlertDescription, CertificateError};

use super::tls;
use crate::stats::{ErrorKind, Failure};

/// A first byte of a TLS record that a plain-text client may see: an alert, or a handshake.
pub(super) fn is_tls_record(first: u8) -> bool {
    matches!(first, 0x15 | 0x16)
}

/// Plain text was spoken to a TLS port.
pub(super) fn speaks_tls() -> Failure {
    Failure::new(ErrorKind::Protocol, "the server speaks TLS, but the URL does not ask for it")
}

/// What ended a connection that was open.
pub(super) fn lost(error: &io::Error) -> Failure {
    if let Some(tls) = tls_error(error) {
        return Failure::new(ErrorKind::Tls, tls_clause(tls));
    }
    let clause = match error.kind() {
        io::ErrorKind::ConnectionReset => "the server reset the connection".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "the server ended the connection".to_owned()
        }
        _ => format!("the connection failed: {error}"),
    };
    Failure::new(ErrorKind::Disconnect, clause)
}

/// The server ended the connection in good order.
pub(super) fn ended() -> Failure {
    Failure::new(ErrorKind::Disconnect, "the server ended the connection")
}

/// What ended a TLS handshake.
pub(super) fn handshake(error: &io::Error) -> Failure {
    let clause = match tls_error(error) {
        Some(tls) => tls_clause(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server ended the connection in the TLS handshake".to_owned()
        }
        None => format!("the TLS handshake failed: {error}"),
    };
    Failure::new(ErrorKind::Tls, clause)
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls_clause(error: &rustls::Error) -> String {
    use rustls::{Error, InvalidMessage};

    match error {
        // Whatever a plain-text server answers to a ClientHello starts with no known record type.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the server does not speak TLS".to_owned(),
        Error::InvalidCertificate(reason) => {
            format!("the server's certificate is not trusted: {}", certificate_clause(reason))
        }
        Error::NoCertificatesPresented => "the server sent no certificate".to_owned(),
        Error::AlertReceived(alert) => alert_clause(*alert),
        other => format!("TLS failed: {other}"),
    }
}

/// What is wrong with a certificate, and what to do.
fn certificate_clause(reason: &CertificateError) -> String {
    use CertificateError as Reason;

    let advice = "to accept any certificate, use --insecure";
    match reason {
        reason if tls::is_authority(reason) => {
            "it is an authority's own certificate, as self-signed ones are; name its file with --ca, or, to \
             accept any certificate, use --insecure"
                .to_owned()
        }
        // A known authority may have the name of the one that has signed, and another key.
        Reason::UnknownIssuer
        | Reason::BadSignature
        | Reason::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is self-signed, or signed by an authority that is not known here; name the file of that \
             authority, or of the certificate, with --ca, or, to accept any certificate, use --insecure"
                .to_owned()
        }
        Reason::Expired | Reason::ExpiredContext { .. } => {
            format!("it has expired ({reason}); {advice}")
        }
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => {
            format!("it is not valid yet ({reason}): is this machine's clock right? {advice}")
        }
        Reason::NotValidForName | Reason::NotValidForNameContext { .. } => {
            format!("it is for another name than the URL's ({reason}); {advice}")
        }
        reason => format!("{reason}; {advice}"),
    }
}

/// What a server that refuses a handshake means, as far as that can be known.
fn alert_clause(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::CertificateRequired => {
            "it asks for a client certificate, and moorline-load has none"
        }
        AlertDescription::HandshakeFailure => {
            "no cipher suite in common, or it asks for a client certificate, and moorline-load has none"
        }
        AlertDescription::ProtocolVersion => "it supports neither TLS 1.2 nor TLS 1.3",
        AlertDescription::UnrecognisedName => "it has no certificate for the URL's host name",
        AlertDescription::NoApplicationProtocol => {
            "it wants a protocol by ALPN, and moorline-load offers none, as ws and Node.js do"
        }
        _ => return format!("the server refused TLS with the alert {alert:?}"),
    };
    format!("the server refused TLS: {meaning} (alert {alert:?})")
}
