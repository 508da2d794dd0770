//! Why a valid configuration could not be applied.

use std::{fmt, io};

use crate::net::tls;

/// Why a valid configuration could not be applied.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// An address is not available, or the access log cannot be opened.
    Io(io::Error),
    /// rustls rejects the TLS settings or a certificate.
    Tls(tls::TerminatorError),
    /// A new certificate is not valid now, at a reload.
    InvalidCertificate {
        /// The listener that uses it.
        listener: String,
        /// The names in the certificate, separated by commas.
        names: String,
        /// Why it is not valid.
        why: String,
    },
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::InvalidCertificate { listener, names, why } => {
                write!(f, "listener {listener}: the certificate for {names} {why}")
            }
        }
    }
}

impl std::error::Error for ApplyError {}

impl From<io::Error> for ApplyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for ApplyError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.into())
    }
}

impl From<tls::TerminatorError> for ApplyError {
    fn from(error: tls::TerminatorError) -> Self {
        Self::Tls(error)
    }
}
