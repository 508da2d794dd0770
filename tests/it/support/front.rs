//! A TLS server in front of a backend, and an authority that issues its certificates.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{Backend, wait_for};

/// A certificate authority.
pub(crate) struct Authority {
    /// File of the authority's certificate.
    pub(crate) file: PathBuf,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// Makes an authority and writes its certificate to `NAME.pem` in `directory`.
    pub(crate) fn make(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let file = directory.join(format!("{name}.pem"));
        fs::write(&file, made.pem()).unwrap();
        Self { file, der: made.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for a name or an address, with parameters adjusted by `change`.
    pub(crate) fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let (params, key) = (params(name, change), KeyPair::generate().unwrap());
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Issued { der, key }
    }

    /// Makes a server require client certificates from this authority.
    pub(crate) fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()
    }
}

impl Issued {
    /// Makes a self-signed certificate.
    pub(crate) fn self_signed(name: &str) -> Self {
        Self::self_signed_with(name, |_| {})
    }

    /// Makes a self-signed certificate with parameters adjusted by `change`.
    pub(crate) fn self_signed_with(
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params(name, change).self_signed(&key).unwrap().der().clone();
        Self { der, key }
    }

    /// Reads certificate and key from PEM files.
    pub(crate) fn from_files(cert: &Path, key: &Path) -> Self {
        let key = KeyPair::from_pem(&fs::read_to_string(key).unwrap()).unwrap();
        Self { der: CertificateDer::from_pem_file(cert).unwrap(), key }
    }

    /// Configuration of a server that uses this certificate and requires none from clients.
    pub(crate) fn server_config(&self) -> ServerConfig {
        let config = ServerConfig::builder().with_no_client_auth();
        config.with_single_cert(vec![self.der.clone()], self.private_key()).unwrap()
    }

    /// Configuration of a server that uses this certificate and verifies client certificates.
    pub(crate) fn server_config_verifying(
        &self,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> ServerConfig {
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        config.with_single_cert(vec![self.der.clone()], self.private_key()).unwrap()
    }

    /// Writes `NAME.pem` and `NAME.key`. Returns the TOML table with their paths.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> String {
        let cert = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        fs::write(&cert, pem(&self.der)).unwrap();
        fs::write(&key, self.key.serialize_pem()).unwrap();
        format!("{{ cert = {cert:?}, key = {key:?} }}")
    }

    /// Writes certificate and key to one file, as HAProxy requires.
    pub(crate) fn write_joined(&self, file: &Path) {
        fs::write(file, pem(&self.der) + &self.key.serialize_pem()).unwrap();
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    params
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// Terminates TLS for a backend and records each handshake. Dropping it closes every connection.
pub(crate) struct TlsFront {
    /// Address of the listener.
    pub(crate) address: SocketAddr,
    handshake: Arc<Mutex<Vec<HandshakeInfo>>>,
    task: AbortHandle,
}

/// Outcome of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandshakeInfo {
    /// Server name that the client sent.
    pub(crate) sni: Option<String>,
    /// Negotiated protocol.
    pub(crate) alpn: Option<String>,
    /// Whether the handshake resumed an earlier session.
    pub(crate) resumed: bool,
}

impl TlsFront {
    /// Starts TLS termination in front of a backend.
    pub(crate) async fn before(backend: &Backend, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshake = Arc::<Mutex<Vec<HandshakeInfo>>>::default();
        let serve = accept(listener, backend.address, Arc::new(config), Arc::clone(&handshake));
        Self { address, handshake, task: tokio::spawn(serve).abort_handle() }
    }

    /// Waits until handshake number `index` is complete.
    pub(crate) async fn handshake(&self, index: usize) -> HandshakeInfo {
        wait_for("a handshake", || self.handshake.lock().unwrap().get(index).cloned()).await
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    backend: SocketAddr,
    config: Arc<ServerConfig>,
    handshake: Arc<Mutex<Vec<HandshakeInfo>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, handshake) =
            (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&handshake));
        connections.spawn(async move {
            let Ok(mut stream) = acceptor.accept(socket).await else { return };
            let session = stream.get_ref().1;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (sni, alpn) = (session.server_name(), session.alpn_protocol());
            let seen = HandshakeInfo {
                sni: sni.map(str::to_owned),
                alpn: alpn.map(text),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            };
            handshake.lock().unwrap().push(seen);
            let Ok(mut inner) = TcpStream::connect(backend).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut inner).await;
        });
    }
}
