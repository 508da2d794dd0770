//! `[listeners.NAME.tls]` and `certificates`: how TLS is terminated.
//!
//! What is typed here is checked whole — files read, suites and groups known, names able to be in a
//! certificate — and nothing of it is rustls's own configuration yet: that is made where keys that a
//! process shares are known.

use std::{fmt, path::PathBuf};

use rustls::{CipherSuite, NamedGroup};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::Certificate;

/// How a listener terminates TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// What it proves itself by.
    pub certificates: CertificateSource,
    /// What a client gets that asks for a name of no certificate, or for none.
    pub unknown_sni: UnknownSni,
    /// Oldest version spoken.
    pub min_version: TlsVersion,
    /// Suites in order of preference; empty: the library's modern ones.
    pub cipher_suites: Vec<CipherSuite>,
    /// Key exchange groups in order of preference; empty: X25519MLKEM768 first, then the library's.
    pub curves: Vec<NamedGroup>,
    /// Protocols offered by ALPN, in order of preference. An `https` listener's are its own.
    pub alpn: Vec<String>,
    /// Whether clients prove who they are; `None`: they are not asked.
    pub client_auth: Option<ClientAuth>,
    /// Where the secrets of every session are written, for who debugs (the format of `SSLKEYLOGFILE`).
    pub key_log: Option<PathBuf>,
}

/// Where a listener's certificates come from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// From files; at least one, the first serves clients that send no or an unknown server name.
    Given(Vec<Certificate>),
    /// From an ACME server (RFC 8555), ordered and renewed while the process runs.
    Acme(Acme),
}

/// Terms of certificates that are ordered by ACME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// URL of the server's directory.
    pub directory: String,
    /// Whom it may write to.
    pub email: Option<String>,
    /// DNS names of the one certificate, the first its subject; none is a wildcard.
    pub domains: Vec<String>,
    /// Folder of the account's key and the certificates; made with mode 0700.
    pub storage: PathBuf,
    /// Who vouches for the server itself; `None`: whom the system trusts.
    pub ca: Option<Vec<CertificateDer<'static>>>,
}

/// What a client gets that asks for a name of no certificate, or for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownSni {
    /// The first certificate.
    #[default]
    Default,
    /// The alert `unrecognized_name`.
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

/// How clients prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Who vouches for them; at least one.
    pub ca: Vec<CertificateDer<'static>>,
    /// What was vouched for and is valid no more.
    pub crl: Vec<CertificateRevocationListDer<'static>>,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// How a pool's backends are spoken to in TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTls {
    /// Who vouches for the backends; `None`: whom the system trusts.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The name that is asked for and verified; `None`: the backend's own host.
    pub name: Option<String>,
    /// Protocols offered by ALPN.
    pub alpn: Vec<String>,
    /// What we prove ourselves by.
    pub client_cert: Option<Certificate>,
    /// Whether the backend's certificate is looked at. Anybody can stand in for it where not.
    pub verify: bool,
}

impl BackendTls {
    /// Whether those vouch for the backends whom the system trusts.
    pub fn asks_the_system(&self) -> bool {
        self.verify && self.ca.is_none()
    }
}

/// A suite by its IANA name.
pub fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        // They have no key exchange in their names; rustls marks them.
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => suite.as_str().unwrap_or("?"),
    }
}
