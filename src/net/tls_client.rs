//! TLS towards backends: verification of their certificates, and the handshake.
//!
//! A [`TlsClient`] is created for each configuration of a pool. Sessions are stored per server: a ticket of one
//! backend is useless on another, even if both have the same name. A failed handshake has a kind from the closed
//! vocabulary of errors and a sentence with the remedy.

pub(super) mod explain;
mod verify;

use std::{error::Error, fmt, io, net::IpAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, UnbufferedClientConnection,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use tokio::{net::TcpStream, time::timeout};

use self::verify::BackendVerifier;
use super::{
    tls::{self, provider::PROVIDER},
    tls_stream::{ClientTlsStream, TlsStream},
};
use crate::{config::BackendTls, error::FailureKind};

/// Tickets stored per server: the default of rustls for one name.
const SESSIONS: usize = 8;

/// TLS settings for the servers of a pool.
#[derive(Debug)]
pub struct TlsClient {
    config: ClientConfig,
    /// Server name used for all servers; `None`: the host of each server.
    name: Option<ServerName<'static>>,
}

/// TLS settings and stored sessions for one server.
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Why a handshake failed. No application data was sent.
#[derive(Debug)]
pub struct HandshakeError {
    /// Kind of the failure, for logs and metrics.
    pub kind: FailureKind,
    /// The underlying error; `None` if the deadline passed.
    pub source: Option<io::Error>,
}

impl TlsClient {
    /// Uses the settings of a pool. `system`: the authorities of the system, required if the settings rely on them.
    ///
    /// # Errors
    /// `system` is missing, or rustls does not accept a certificate.
    pub fn new(
        terms: &BackendTls,
        system: Option<&Arc<RootCertStore>>,
    ) -> Result<Self, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if terms.verify {
            let verifier = match (&terms.ca, system) {
                (Some(ca), _) => BackendVerifier::new(Arc::new(roots_from(ca)?), ca.clone())?,
                (None, Some(system)) => BackendVerifier::new(Arc::clone(system), Vec::new())?,
                (None, None) => return Err(no_system_roots()),
            };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification))
        };
        let mut config = match &terms.client_cert {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(
                SingleCertAndKey::from(Arc::clone(&certificate.key)),
            )),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = terms.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Early data can be replayed, and the first request may change state.
        config.enable_early_data = false;
        let name = terms.name.as_deref().map(server_name).transpose()?;
        Ok(Self { config, name })
    }

    /// Returns the settings for the server at this host, without stored sessions.
    ///
    /// # Errors
    /// The host is not a name or address that a certificate can contain.
    pub fn server(&self, host: &str) -> Result<TlsServer, rustls::Error> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host)?,
        };
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(TlsServer { config: Arc::new(config), name })
    }
}

impl TlsServer {
    /// Performs the handshake over a connection, within `deadline`.
    ///
    /// # Errors
    /// Why the handshake failed.
    pub async fn handshake(
        &self,
        socket: TcpStream,
        deadline: Duration,
    ) -> Result<Box<ClientTlsStream>, HandshakeError> {
        let session = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(|error| HandshakeError::from(io::Error::other(error)))?;
        let mut stream = Box::new(TlsStream::new(session, socket, None));
        match timeout(deadline, stream.handshake()).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(HandshakeError { kind: FailureKind::TimedOut, source: None }),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self { kind: tls::kind(&error), source: Some(error) }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => match explain::explain(source) {
                Some(sentence) => write!(f, "the TLS handshake failed: {sentence}"),
                None => write!(f, "the TLS handshake failed: {source}"),
            },
            None => f.write_str(
                "the TLS handshake timed out; check that the backend uses TLS on this port",
            ),
        }
    }
}

impl Error for HandshakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Client settings for requests by the proxy itself. Trusts `ca`, or else the authorities of the system
/// (honors `SSL_CERT_FILE` and `SSL_CERT_DIR`). Reads files.
///
/// # Errors
/// The system has no readable trusted certificate, or `ca` contains an unusable one.
pub(crate) fn client_trusting(
    ca: Option<&[CertificateDer<'static>]>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let roots = match ca {
        Some(ca) => roots_from(ca)?,
        None => system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Returns a root store with these certificates.
///
/// # Errors
/// A certificate cannot be used as an authority.
pub(super) fn roots_from(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Returns a root store with the authorities of the system (honors `SSL_CERT_FILE` and `SSL_CERT_DIR`). Reads and
/// parses a few hundred certificates.
///
/// # Errors
/// The system has no usable trusted certificate.
pub(crate) fn system_roots() -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let (taken, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 { Err(no_system_roots()) } else { Ok(roots) }
}

fn no_system_roots() -> rustls::Error {
    rustls::Error::General("the system has no trusted certificates".to_owned())
}

/// Parses a DNS name or IP address. Addresses are verified but not sent as SNI.
fn server_name(host: &str) -> Result<ServerName<'static>, rustls::Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(ip.into()));
    }
    let name = DnsName::try_from(host.to_owned());
    name.map(ServerName::DnsName).map_err(|_| {
        rustls::Error::General(format!("`{host}` is not a valid server name for a certificate"))
    })
}

/// Accepts any certificate whose key the server holds (`tls.verify = false`).
#[derive(Debug)]
struct NoVerification;

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_dns_names_or_addresses() {
        assert!(matches!(server_name("node.test"), Ok(ServerName::DnsName(_))));
        assert!(matches!(server_name("my_node"), Ok(ServerName::DnsName(_))));
        for ip in ["127.0.0.1", "::1"] {
            assert!(matches!(server_name(ip), Ok(ServerName::IpAddress(_))), "{ip}");
        }
        assert!(server_name("a b").is_err());
    }
}
