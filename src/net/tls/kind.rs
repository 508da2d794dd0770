//! What a failed handshake is called.

use std::{error::Error, fmt, io};

use rustls::{CertificateError, InvalidMessage, OtherError};

use crate::{error::Kind, net::tls_client::Rejected};

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
pub fn kind(error: &io::Error) -> Kind {
    if let Some(inner) = error.get_ref() {
        if inner.is::<UnknownName>() {
            return Kind::UnknownName;
        }
        if let Some(error) = inner.downcast_ref() {
            return said(error);
        }
    }
    match error.kind() {
        io::ErrorKind::TimedOut => Kind::TimedOut,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Kind::Reset,
        io::ErrorKind::UnexpectedEof => Kind::Incomplete,
        io::ErrorKind::InvalidData => Kind::Malformed,
        _ => Kind::Io,
    }
}

fn said(error: &rustls::Error) -> Kind {
    use rustls::Error as E;
    match error {
        // The first byte of a record is one of five; of what speaks no TLS it hardly ever is.
        E::InvalidMessage(InvalidMessage::InvalidContentType) => Kind::NotTls,
        E::NoCertificatesPresented => Kind::CertificateMissing,
        E::InvalidCertificate(why) => certificate(why),
        E::AlertReceived(_) | E::NoApplicationProtocol | E::PeerIncompatible(_) => Kind::Alert,
        E::InvalidMessage(_)
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::DecryptError
        | E::PeerMisbehaved(_)
        | E::PeerSentOversizedRecord => Kind::Malformed,
        _ => Kind::Io,
    }
}

/// What a certificate that is not accepted is called.
pub(in crate::net) fn certificate(error: &CertificateError) -> Kind {
    use CertificateError as E;
    match error {
        E::Other(OtherError(why)) => match why.downcast_ref::<Rejected>() {
            Some(rejected) => rejected.kind(),
            None => Kind::CertificateInvalid,
        },
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            Kind::CertificateExpired
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => Kind::CertificateName,
        E::UnknownIssuer => Kind::CertificateUntrusted,
        E::Revoked => Kind::CertificateRevoked,
        _ => Kind::CertificateInvalid,
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
        assert_eq!(kind_of(not_tls), Kind::NotTls);
        let short = Said::InvalidMessage(InvalidMessage::MessageTooShort);
        assert_eq!(kind_of(short), Kind::Malformed);
        assert_eq!(kind_of(Said::NoCertificatesPresented), Kind::CertificateMissing);
        let alert = Said::AlertReceived(AlertDescription::CertificateUnknown);
        assert_eq!(kind_of(alert), Kind::Alert);
        assert_eq!(kind_of(PeerIncompatible::NoCipherSuitesInCommon.into()), Kind::Alert);
        let certificates = [
            (CertificateError::Expired, Kind::CertificateExpired),
            (CertificateError::NotValidYet, Kind::CertificateExpired),
            (CertificateError::NotValidForName, Kind::CertificateName),
            (CertificateError::UnknownIssuer, Kind::CertificateUntrusted),
            (CertificateError::Revoked, Kind::CertificateRevoked),
            (CertificateError::UnknownRevocationStatus, Kind::CertificateInvalid),
        ];
        for (error, expected) in certificates {
            assert_eq!(kind_of(error.into()), expected);
        }
        let unknown = io::Error::new(io::ErrorKind::InvalidData, UnknownName(None));
        assert_eq!(kind(&unknown), Kind::UnknownName);
        assert_eq!(kind(&io::ErrorKind::TimedOut.into()), Kind::TimedOut);
        assert_eq!(kind(&io::ErrorKind::UnexpectedEof.into()), Kind::Incomplete);
    }
}
