//! Certificates made for one test, and clients that trust them.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A self-signed certificate in PEM files.
pub(crate) struct Certificate {
    /// The chain's file.
    pub(crate) cert: PathBuf,
    /// The key's file.
    pub(crate) key: PathBuf,
    name: &'static str,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Makes one for `name` and writes `NAME.pem` and `NAME.key` into `directory`.
    pub(crate) fn make(directory: &Path, name: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let cert = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        fs::write(&cert, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { cert, key, name, der: made.cert.der().clone() }
    }

    /// Shakes hands as a client that trusts nothing else.
    pub(crate) async fn client(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.returning().shake(tcp).await
    }

    /// A client that trusts nothing else, and resumes its sessions.
    pub(crate) fn returning(&self) -> Returning {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Returning { name: self.name, config: Arc::new(config) }
    }

    /// The table for a listener's `certificates`.
    pub(crate) fn setting(&self) -> String {
        format!("[{{ cert = {:?}, key = {:?} }}]", self.cert, self.key)
    }
}

/// An authority of one test: who trusts it does not notice that a certificate was renewed.
pub(crate) struct Authority {
    /// Its own certificate's file.
    pub(crate) file: PathBuf,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one and writes `authority.pem` into `directory`.
    pub(crate) fn make(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate that is named like its issuer looks self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let file = directory.join("authority.pem");
        fs::write(&file, made.pem()).unwrap();
        Self { file, der: made.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for the loopback and writes chain and key over what was there.
    pub(crate) fn issue(&self, cert: &Path, key: &Path) -> CertificateDer<'static> {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let fresh = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let made = params.signed_by(&fresh, &self.issuer).unwrap();
        fs::write(cert, made.pem()).unwrap();
        fs::write(key, fresh.serialize_pem()).unwrap();
        made.der().clone()
    }

    /// The certificate that a new handshake meets.
    pub(crate) async fn met(&self, tcp: TcpStream) -> io::Result<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(tls.get_ref().1.peer_certificates().unwrap()[0].clone())
    }
}

/// A client that comes more than once.
pub(crate) struct Returning {
    name: &'static str,
    config: Arc<ClientConfig>,
}

impl Returning {
    /// One connection, its handshake done.
    pub(crate) async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.shake(TcpStream::connect(address).await.unwrap()).await.unwrap()
    }

    async fn shake(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.name).unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await
    }
}
