//! TLS in front of a backend, as a node of its own would speak it, and who issues its certificates.

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

/// Issues certificates.
pub(crate) struct Authority {
    /// Its own certificate's file.
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
    /// Makes one and writes `NAME.pem` into `directory`.
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

    /// Issues one for a name or address, with whatever changed.
    pub(crate) fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let (params, key) = (params(name, change), KeyPair::generate().unwrap());
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Issued { der, key }
    }

    /// Asks for certificates of its own.
    pub(crate) fn asking(&self) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()
    }
}

impl Issued {
    /// One that vouches for itself.
    pub(crate) fn by_itself(name: &str) -> Self {
        Self::by_itself_with(name, |_| {})
    }

    /// One that vouches for itself, with whatever changed.
    pub(crate) fn by_itself_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params(name, change).self_signed(&key).unwrap().der().clone();
        Self { der, key }
    }

    /// A chain and key from PEM files.
    pub(crate) fn from_files(cert: &Path, key: &Path) -> Self {
        let key = KeyPair::from_pem(&fs::read_to_string(key).unwrap()).unwrap();
        Self { der: CertificateDer::from_pem_file(cert).unwrap(), key }
    }

    /// Terms of a server that shows it, to anybody.
    pub(crate) fn shown(&self) -> ServerConfig {
        let terms = ServerConfig::builder().with_no_client_auth();
        terms.with_single_cert(vec![self.der.clone()], self.private()).unwrap()
    }

    /// Terms of a server that shows it to those who show one themselves.
    pub(crate) fn shown_to(&self, verifier: Arc<dyn ClientCertVerifier>) -> ServerConfig {
        let terms = ServerConfig::builder().with_client_cert_verifier(verifier);
        terms.with_single_cert(vec![self.der.clone()], self.private()).unwrap()
    }

    /// Writes `NAME.pem` and `NAME.key`; gives the table that names them.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> String {
        let cert = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        fs::write(&cert, pem(&self.der)).unwrap();
        fs::write(&key, self.key.serialize_pem()).unwrap();
        format!("{{ cert = {cert:?}, key = {key:?} }}")
    }

    /// Chain and key in one file, as HAProxy wants it.
    pub(crate) fn write_joined(&self, file: &Path) {
        fs::write(file, pem(&self.der) + &self.key.serialize_pem()).unwrap();
    }

    fn private(&self) -> PrivateKeyDer<'static> {
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

/// Terminates TLS for a backend, and notes each handshake. Dropping it closes every connection.
pub(crate) struct Front {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shaken: Arc<Mutex<Vec<Shaken>>>,
    task: AbortHandle,
}

/// What a handshake brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shaken {
    /// The name asked for.
    pub(crate) sni: Option<String>,
    /// The protocol agreed on.
    pub(crate) alpn: Option<String>,
    /// Whether it went on with an earlier session.
    pub(crate) resumed: bool,
}

impl Front {
    /// Puts one before a backend.
    pub(crate) async fn before(backend: &Backend, terms: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shaken = Arc::<Mutex<Vec<Shaken>>>::default();
        let serve = accept(listener, backend.address, Arc::new(terms), Arc::clone(&shaken));
        Self { address, shaken, task: tokio::spawn(serve).abort_handle() }
    }

    /// Handshake number `index`, once it is done.
    pub(crate) async fn shaken(&self, index: usize) -> Shaken {
        wait_for("a handshake", || self.shaken.lock().unwrap().get(index).cloned()).await
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    backend: SocketAddr,
    terms: Arc<ServerConfig>,
    shaken: Arc<Mutex<Vec<Shaken>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, shaken) = (TlsAcceptor::from(Arc::clone(&terms)), Arc::clone(&shaken));
        connections.spawn(async move {
            let Ok(mut stream) = acceptor.accept(socket).await else { return };
            let session = stream.get_ref().1;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (sni, alpn) = (session.server_name(), session.alpn_protocol());
            let seen = Shaken {
                sni: sni.map(str::to_owned),
                alpn: alpn.map(text),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            };
            shaken.lock().unwrap().push(seen);
            let Ok(mut inner) = TcpStream::connect(backend).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut inner).await;
        });
    }
}
