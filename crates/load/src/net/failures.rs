//! Turns errors of the system and of rustls into a [`Failure`] with a readable text.

use std::io;

use rustls::{AlertDescription, CertificateError};

use super::tls;
use crate::stats::{ErrorKind, Failure};

/// Whether this byte starts a TLS record that a plain-text client may receive: an alert or a handshake
/// message.
pub(super) fn is_tls_record(first: u8) -> bool {
    matches!(first, 0x15 | 0x16)
}

/// The failure of plain text sent to a TLS port.
pub(super) fn server_uses_tls() -> Failure {
    Failure::new(
        ErrorKind::Protocol,
        "the server uses TLS, but the URL does not: use https:// or wss://",
    )
}

/// The failure of an open connection.
pub(super) fn lost(error: &io::Error) -> Failure {
    if let Some(tls) = tls_error(error) {
        return Failure::new(ErrorKind::Tls, describe_tls_error(tls));
    }
    let description = match error.kind() {
        io::ErrorKind::ConnectionReset => "the server reset the connection".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "the server closed the connection".to_owned()
        }
        _ => format!("connection error: {error}"),
    };
    Failure::new(ErrorKind::Disconnect, description)
}

/// The failure of a connection that the server closed properly.
pub(super) fn ended() -> Failure {
    Failure::new(ErrorKind::Disconnect, "the server closed the connection")
}

/// The failure of a TLS handshake.
pub(super) fn handshake(error: &io::Error) -> Failure {
    let description = match tls_error(error) {
        Some(tls) => describe_tls_error(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the TLS handshake".to_owned()
        }
        None => format!("the TLS handshake failed: {error}"),
    };
    Failure::new(ErrorKind::Tls, description)
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn describe_tls_error(error: &rustls::Error) -> String {
    use rustls::{Error, InvalidMessage};

    match error {
        // The answer of a plain-text server to a ClientHello does not start with a known record type.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the server does not use TLS: use http:// or ws:// in the URL".to_owned(),
        Error::InvalidCertificate(reason) => {
            format!(
                "the server's certificate is not trusted: {}",
                describe_certificate_error(reason)
            )
        }
        Error::NoCertificatesPresented => "the server sent no certificate".to_owned(),
        Error::AlertReceived(alert) => describe_alert(*alert),
        other => format!("TLS error: {other}"),
    }
}

/// Describes what is wrong with a certificate, and how to fix it.
fn describe_certificate_error(reason: &CertificateError) -> String {
    use CertificateError as Reason;

    let advice = "to accept any certificate, use --insecure";
    match reason {
        reason if tls::is_authority(reason) => {
            "it is the certificate of an authority, as self-signed ones are; give its file with --ca, or use \
             --insecure to accept any certificate"
                .to_owned()
        }
        // The issuer may have the name of a known authority but a different key.
        Reason::UnknownIssuer
        | Reason::BadSignature
        | Reason::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is self-signed, or signed by an unknown authority; give the file of that authority, or of the \
             certificate, with --ca, or use --insecure to accept any certificate"
                .to_owned()
        }
        Reason::Expired | Reason::ExpiredContext { .. } => {
            format!("it has expired ({reason}); {advice}")
        }
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => {
            format!("it is not valid yet ({reason}): check the clock of this machine; {advice}")
        }
        Reason::NotValidForName | Reason::NotValidForNameContext { .. } => {
            format!("it is not for the host name in the URL ({reason}); {advice}")
        }
        reason => format!("{reason}; {advice}"),
    }
}

/// Describes why a server rejected a handshake, as far as its alert says.
fn describe_alert(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::CertificateRequired => {
            "it requires a client certificate, which moorline-load does not support"
        }
        AlertDescription::HandshakeFailure => {
            "no common cipher suite, or it requires a client certificate, which moorline-load does not support"
        }
        AlertDescription::ProtocolVersion => "it supports neither TLS 1.2 nor TLS 1.3",
        AlertDescription::UnrecognisedName => "it has no certificate for the URL's host name",
        AlertDescription::NoApplicationProtocol => {
            "it requires ALPN, which moorline-load does not use (like ws and Node.js)"
        }
        _ => return format!("the server rejected the TLS handshake with the alert {alert:?}"),
    };
    format!("the server rejected the TLS handshake: {meaning} (alert {alert:?})")
}
