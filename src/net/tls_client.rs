//! TLS towards backends: whom we believe to be who they say they are, and the handshake.
//!
//! A [`Connector`] is made once for each configuration of a pool. Sessions are kept for each server of its
//! own: a ticket is of no use to the neighbour, even where both go by one name. A failed handshake has a
//! kind of the closed vocabulary of endings, and a sentence that says what to do.

mod explain;
mod verify;

use std::{error::Error, fmt, io, net::IpAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(super) use self::explain::Rejected;
use self::verify::Verifier;
use super::tls::{self, PROVIDER, SEND_LIMIT};
use crate::{config::BackendTls, error::FailureKind};

/// Tickets kept for one server: as many as rustls keeps for one name.
const SESSIONS: usize = 8;

/// How the servers of a pool are spoken to.
#[derive(Debug)]
pub struct Connector {
    config: ClientConfig,
    /// The name that all of them go by; `None`: each by its own.
    name: Option<ServerName<'static>>,
}

/// What is remembered of one server, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Why a handshake failed. Nothing of the application was sent.
#[derive(Debug)]
pub struct HandshakeError {
    /// What went wrong.
    pub kind: FailureKind,
    /// The error beneath; `None`: the deadline passed.
    pub source: Option<io::Error>,
}

impl Connector {
    /// By a pool's terms; `system`: whom the system trusts, to be there where the terms ask for it.
    ///
    /// # Errors
    /// It is not there, or a certificate is of no use to rustls.
    pub fn new(
        terms: &BackendTls,
        system: Option<&Arc<RootCertStore>>,
    ) -> Result<Self, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if terms.verify {
            let verifier = match (&terms.ca, system) {
                (Some(ca), _) => Verifier::new(Arc::new(these(ca)?), ca.clone())?,
                (None, Some(system)) => Verifier::new(Arc::clone(system), Vec::new())?,
                (None, None) => return Err(nobody()),
            };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody))
        };
        let mut config = match &terms.client_cert {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(
                SingleCertAndKey::from(Arc::clone(&certificate.key)),
            )),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = terms.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // The first byte of a request may change something: it must not be there twice.
        config.enable_early_data = false;
        let name = terms.name.as_deref().map(server_name).transpose()?;
        Ok(Self { config, name })
    }

    /// What goes for the server at this host, with no session so far.
    ///
    /// # Errors
    /// It has no name of its own that a certificate could be for.
    pub fn server(&self, host: &str) -> Result<Server, rustls::Error> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host)?,
        };
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Server { config: Arc::new(config), name })
    }
}

impl Server {
    /// Shakes hands over a connection, within `deadline`.
    ///
    /// # Errors
    /// What the server is, or is not.
    pub async fn handshake(
        &self,
        socket: TcpStream,
        deadline: Duration,
    ) -> Result<Box<TlsStream<TcpStream>>, HandshakeError> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let handshake = connector.connect_with(self.name.clone(), socket, |session| {
            session.set_buffer_limit(Some(SEND_LIMIT));
        });
        match timeout(deadline, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(HandshakeError { kind: tls::kind(&error), source: Some(error) }),
            Err(_) => Err(HandshakeError { kind: FailureKind::TimedOut, source: None }),
        }
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

/// Who vouches for servers: these.
///
/// # Errors
/// One of them cannot vouch.
pub(super) fn these(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Who vouches for servers: whom the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
/// Reads and parses a few hundred certificates from files.
///
/// # Errors
/// The system trusts nobody.
pub(crate) fn system_roots() -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let (taken, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 { Err(nobody()) } else { Ok(roots) }
}

fn nobody() -> rustls::Error {
    rustls::Error::General("the system has no trusted certificates".to_owned())
}

/// A DNS name or an IP address, of which the latter is verified and not asked for.
fn server_name(host: &str) -> Result<ServerName<'static>, rustls::Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(ip.into()));
    }
    let name = DnsName::try_from(host.to_owned());
    name.map(ServerName::DnsName).map_err(|_| {
        rustls::Error::General(format!("`{host}` is no name that a certificate could be for"))
    })
}

/// Believes anybody who has the key of the certificate that it shows, whatever that says.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
    fn hosts_are_names_or_addresses() {
        assert!(matches!(server_name("node.test"), Ok(ServerName::DnsName(_))));
        assert!(matches!(server_name("my_node"), Ok(ServerName::DnsName(_))));
        for ip in ["127.0.0.1", "::1"] {
            assert!(matches!(server_name(ip), Ok(ServerName::IpAddress(_))), "{ip}");
        }
        assert!(server_name("a b").is_err());
    }
}
