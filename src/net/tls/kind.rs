//! Classifies failed handshakes for logs and metrics.

use std::{error::Error, fmt, io};

use rustls::InvalidMessage;

use crate::{error::FailureKind, net::tls_client::explain::certificate_kind};

/// The client requested a server name that is not served; `None` if it sent no name.
#[derive(Debug)]
pub(super) struct UnknownName(pub(super) Option<Box<str>>);

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "no certificate for the server name {name}"),
            None => write!(f, "the client sent no server name (SNI)"),
        }
    }
}

impl Error for UnknownName {}

/// Returns the kind of a failed handshake, with a client or a backend.
pub fn kind(error: &io::Error) -> FailureKind {
    if let Some(inner) = error.get_ref() {
        if inner.is::<UnknownName>() {
            return FailureKind::UnknownName;
        }
        if let Some(error) = inner.downcast_ref() {
            return of_rustls(error);
        }
    }
    match error.kind() {
        io::ErrorKind::TimedOut => FailureKind::TimedOut,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => FailureKind::Reset,
        io::ErrorKind::UnexpectedEof => FailureKind::Incomplete,
        io::ErrorKind::InvalidData => FailureKind::Malformed,
        _ => FailureKind::Io,
    }
}

fn of_rustls(error: &rustls::Error) -> FailureKind {
    use rustls::Error as E;
    match error {
        // Valid record types are five values; other protocols almost never begin with one of them.
        E::InvalidMessage(InvalidMessage::InvalidContentType) => FailureKind::NotTls,
        E::NoCertificatesPresented => FailureKind::CertificateMissing,
        E::InvalidCertificate(why) => certificate_kind(why),
        E::AlertReceived(_) | E::NoApplicationProtocol | E::PeerIncompatible(_) => {
            FailureKind::Alert
        }
        E::InvalidMessage(_)
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::DecryptError
        | E::PeerMisbehaved(_)
        | E::PeerSentOversizedRecord => FailureKind::Malformed,
        _ => FailureKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error as TlsError, PeerIncompatible};

    use super::*;

    #[test]
    fn every_failure_has_a_kind() {
        let kind_of = |error: TlsError| kind(&io::Error::new(io::ErrorKind::InvalidData, error));
        let not_tls = TlsError::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(kind_of(not_tls), FailureKind::NotTls);
        let short = TlsError::InvalidMessage(InvalidMessage::MessageTooShort);
        assert_eq!(kind_of(short), FailureKind::Malformed);
        assert_eq!(kind_of(TlsError::NoCertificatesPresented), FailureKind::CertificateMissing);
        let alert = TlsError::AlertReceived(AlertDescription::CertificateUnknown);
        assert_eq!(kind_of(alert), FailureKind::Alert);
        assert_eq!(kind_of(PeerIncompatible::NoCipherSuitesInCommon.into()), FailureKind::Alert);
        let certificates = [
            (CertificateError::Expired, FailureKind::CertificateExpired),
            (CertificateError::NotValidYet, FailureKind::CertificateExpired),
            (CertificateError::NotValidForName, FailureKind::CertificateName),
            (CertificateError::UnknownIssuer, FailureKind::CertificateUntrusted),
            (CertificateError::Revoked, FailureKind::CertificateRevoked),
            (CertificateError::UnknownRevocationStatus, FailureKind::CertificateInvalid),
        ];
        for (error, expected) in certificates {
            assert_eq!(kind_of(error.into()), expected);
        }
        let unknown = io::Error::new(io::ErrorKind::InvalidData, UnknownName(None));
        assert_eq!(kind(&unknown), FailureKind::UnknownName);
        assert_eq!(kind(&io::ErrorKind::TimedOut.into()), FailureKind::TimedOut);
        assert_eq!(kind(&io::ErrorKind::UnexpectedEof.into()), FailureKind::Incomplete);
    }
}
