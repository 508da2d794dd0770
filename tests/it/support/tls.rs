//! Certificates for tests, and clients that trust them.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A self-signed certificate in PEM files.
pub(crate) struct Certificate {
    /// File of the certificate chain.
    pub(crate) cert: PathBuf,
    /// File of the private key.
    pub(crate) key: PathBuf,
    name: &'static str,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Makes a certificate for `name` and writes `NAME.pem` and `NAME.key` into `directory`.
    pub(crate) fn make(directory: &Path, name: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let cert = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        fs::write(&cert, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { cert, key, name, der: made.cert.der().clone() }
    }

    /// Reads a certificate from these files.
    pub(crate) fn read(cert: &Path, key: &Path, name: &'static str) -> Self {
        let der = CertificateDer::from_pem_file(cert).unwrap();
        Self { cert: cert.to_owned(), key: key.to_owned(), name, der }
    }

    /// A client that trusts the authority in a file, and uses the name of this certificate as server name.
    pub(crate) fn client_trusting(&self, authority: &Path) -> ResumingClient {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        ResumingClient { name: self.name, config: Arc::new(config) }
    }

    /// A client that also sends this certificate as client certificate.
    pub(crate) fn authenticating_client(
        &self,
        authority: &Path,
        server_name: &'static str,
    ) -> ResumingClient {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = config.with_client_auth_cert(self.chain(), self.private_key()).unwrap();
        ResumingClient { name: server_name, config: Arc::new(config) }
    }

    /// The certificate chain, for a server.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.der.clone()]
    }

    /// The private key.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }

    /// Makes a TLS handshake as a client that trusts only this certificate.
    pub(crate) async fn client(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.resuming_client().handshake(tcp).await
    }

    /// Makes a TLS handshake like [`Certificate::client`], and offers these protocols by ALPN.
    pub(crate) async fn offering(
        &self,
        protocols: &[&str],
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut client = self.resuming_client();
        let config = Arc::make_mut(&mut client.config);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        client.handshake(tcp).await
    }

    /// A client with the server name `name`, without a connection.
    pub(crate) fn unconnected(&self, name: &'static str) -> ClientConnection {
        let name = ServerName::try_from(name).unwrap();
        ClientConnection::new(self.resuming_client().config, name).unwrap()
    }

    /// A complete ClientHello with the server name `name`.
    pub(crate) fn client_hello(&self, name: &'static str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.unconnected(name).write_tls(&mut bytes).unwrap();
        bytes
    }

    /// A client that trusts only this certificate and resumes its sessions.
    pub(crate) fn resuming_client(&self) -> ResumingClient {
        ResumingClient::trusting(self.der.clone(), self.name)
    }

    /// Value for a listener's `certificates`.
    pub(crate) fn setting(&self) -> String {
        format!("[{{ cert = {:?}, key = {:?} }}]", self.cert, self.key)
    }
}

/// A client that resumes its TLS sessions.
pub(crate) struct ResumingClient {
    name: &'static str,
    config: Arc<ClientConfig>,
}

impl ResumingClient {
    /// A client that trusts this root certificate and expects this server name.
    pub(crate) fn trusting(root: CertificateDer<'static>, name: &'static str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { name, config: Arc::new(config) }
    }

    /// Offers this protocol by ALPN.
    pub(crate) fn offering(mut self, protocol: &str) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![protocol.into()];
        self
    }

    /// Accepts every certificate and resumes no sessions, for tests that inspect the certificate themselves.
    pub(crate) fn without_verification(mut self) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.dangerous().set_certificate_verifier(Arc::new(AcceptAnyCertificate));
        config.resumption = Resumption::disabled();
        self
    }

    /// Connects; returns the error of a failed handshake.
    pub(crate) async fn try_connect(
        &self,
        address: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.handshake(TcpStream::connect(address).await.unwrap()).await
    }

    /// Connects; panics if the handshake fails.
    pub(crate) async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.handshake(TcpStream::connect(address).await.unwrap()).await.unwrap()
    }

    async fn handshake(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.name).unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await
    }
}

/// Accepts every certificate, even an expired one.
#[derive(Debug)]
struct AcceptAnyCertificate;

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
