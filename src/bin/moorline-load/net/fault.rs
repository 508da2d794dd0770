//! What the system and rustls say of a failure, as a [`Failure`] for people.

use std::io;

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
            format!("the server's certificate is not trusted: {reason}")
        }
        Error::AlertReceived(alert) => format!("the server refused TLS: {alert:?}"),
        other => format!("TLS failed: {other}"),
    }
}
