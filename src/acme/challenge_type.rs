//! The challenge types of ACME that the proxy can answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the server checks that the names lead to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum ChallengeType {
    /// A TLS handshake for the ALPN protocol `acme-tls/1` (RFC 8737).
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
    /// A path over HTTP without TLS (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http,
}

impl ChallengeType {
    /// The other challenge type.
    pub(super) fn other(self) -> Self {
        match self {
            Self::TlsAlpn => Self::Http,
            Self::Http => Self::TlsAlpn,
        }
    }

    /// The type in the client library.
    pub(super) fn protocol_type(self) -> instant_acme::ChallengeType {
        match self {
            Self::TlsAlpn => instant_acme::ChallengeType::TlsAlpn01,
            Self::Http => instant_acme::ChallengeType::Http01,
        }
    }
}

impl fmt::Display for ChallengeType {
    /// The name in ACME.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn => "tls-alpn-01",
            Self::Http => "http-01",
        })
    }
}
