//! Types of TLS settings: files are read, suites, groups and names are valid.
//!
//! Keys that the whole process shares are added when the rustls configuration is built.

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::{CipherSuite, NamedGroup, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

/// How a listener terminates TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// The server's certificates.
    pub certificates: CertificateSource,
    /// Reaction to a server name that is missing or in no certificate.
    pub unknown_sni: UnknownSni,
    /// Oldest version that is accepted.
    pub min_version: TlsVersion,
    /// Suites in order of preference; empty: the defaults of rustls.
    pub cipher_suites: Vec<CipherSuite>,
    /// Key exchange groups in order of preference; empty: X25519MLKEM768, then the defaults of rustls.
    pub curves: Vec<NamedGroup>,
    /// ALPN protocols in order of preference. Not used by `https` listeners.
    pub alpn: Vec<String>,
    /// Verification of client certificates; `None`: they are not requested.
    pub client_auth: Option<ClientAuth>,
    /// File for the secrets of every session, for debugging (the format of `SSLKEYLOGFILE`).
    pub key_log: Option<PathBuf>,
}

/// The source of a listener's certificates.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// Files, at least one. Clients that send no or an unknown server name get the first certificate.
    Configured(Vec<Certificate>),
    /// An ACME server (RFC 8555). Certificates are ordered and renewed while the process runs.
    Acme(Acme),
}

/// Settings of a certificate that is ordered by ACME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// URL of the server's directory.
    pub directory: String,
    /// Contact address for the server.
    pub email: Option<String>,
    /// DNS names of the certificate, without wildcards. The first is its subject.
    pub domains: Vec<String>,
    /// Folder of the account's key and the certificates, created with mode 0700.
    pub storage: PathBuf,
    /// Authorities for the server's own certificate; `None`: the authorities of the system.
    pub ca: Option<Vec<CertificateDer<'static>>>,
}

/// Reaction to a server name that is missing or in no certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownSni {
    /// Use the first certificate.
    #[default]
    Default,
    /// Send the alert `unrecognized_name`.
    Refuse,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

/// Verification of client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Authorities, at least one.
    pub ca: Vec<CertificateDer<'static>>,
    /// Certificate revocation lists.
    pub crl: Vec<CertificateRevocationListDer<'static>>,
    /// Whether a client without a certificate is rejected.
    pub required: bool,
}

/// TLS settings of connections to backends.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTls {
    /// Authorities for the backends; `None`: the authorities of the system.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// Server name that is sent (SNI) and verified; `None`: the host of the backend.
    pub name: Option<String>,
    /// Protocols offered by ALPN.
    pub alpn: Vec<String>,
    /// Client certificate of the proxy.
    pub client_cert: Option<Certificate>,
    /// Whether the certificates of the backends are verified.
    pub verify: bool,
}

impl BackendTls {
    /// Whether the authorities of the system are used.
    pub fn uses_system_roots(&self) -> bool {
        self.verify && self.ca.is_none()
    }
}

/// The IANA name of a cipher suite.
pub fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        // rustls adds the version to these names.
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => suite.as_str().unwrap_or("?"),
    }
}

/// A certificate chain with the private key that matches it.
#[derive(Clone)]
pub struct Certificate {
    /// DNS names of the leaf certificate, in lower case; wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// Chain and signing key for rustls.
    pub key: Arc<CertifiedKey>,
}

impl PartialEq for Certificate {
    /// Compares chain and staple; equal leaf certificates have equal keys.
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert && self.key.ocsp == other.key.ocsp
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}
