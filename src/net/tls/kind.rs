//! What a failed handshake is called.

use std::{error::Error, fmt, io};

use rustls::{CertificateError, InvalidMessage, OtherError};

use crate::{error::FailureKind, net::tls_client::Rejected};

/// The client asks for a server name that is not served; `None`: for none.
#[derive(Debug)]
pub(super) struct UnknownName(pub(super) Option<Box<str>>);

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "no certificate is for the server name {name}"),
            None => write!(f, "no server name was asked for"),
        }
    }
}

impl Error for UnknownName {}

/// What went wrong in a handshake with either side, from the error that it failed with.
pub fn kind(error: &io::Error) -> FailureKind {
    if let Some(inner) = error.get_ref() {
        if inner.is::<UnknownName>() {
            return FailureKind::UnknownName;
        }
        if let Some(error) = inner.downcast_ref() {
            return said(error);
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

fn said(error: &rustls::Error) -> FailureKind {
    use rustls::Error as E;
    match error {
        // The first byte of a record is one of five; of what speaks no TLS it hardly ever is.
        E::InvalidMessage(InvalidMessage::InvalidContentType) => FailureKind::NotTls,
        E::NoCertificatesPresented => FailureKind::CertificateMissing,
        E::InvalidCertificate(why) => certificate(why),
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

/// What a certificate that is not accepted is called.
pub(in crate::net) fn certificate(error: &CertificateError) -> FailureKind {
    use CertificateError as E;
    match error {
        E::Other(OtherError(why)) => match why.downcast_ref::<Rejected>() {
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

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, Error as Said, PeerIncompatible};

    use super::*;

    #[test]
    fn every_failure_has_its_kind() {
        let kind_of = |said: Said| kind(&io::Error::new(io::ErrorKind::InvalidData, said));
        let not_tls = Said::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(kind_of(not_tls), FailureKind::NotTls);
        let short = Said::InvalidMessage(InvalidMessage::MessageTooShort);
        assert_eq!(kind_of(short), FailureKind::Malformed);
        assert_eq!(kind_of(Said::NoCertificatesPresented), FailureKind::CertificateMissing);
        let alert = Said::AlertReceived(AlertDescription::CertificateUnknown);
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
