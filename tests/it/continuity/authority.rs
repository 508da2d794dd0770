//! Who issues the proxy's certificates.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority of one test: who trusts it does not notice that a certificate was renewed.
pub(super) struct Authority {
    /// Its own certificate's file.
    pub(super) file: PathBuf,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one and writes `authority.pem` into `directory`.
    pub(super) fn make(directory: &Path) -> Self {
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
    pub(super) fn issue(&self, cert: &Path, key: &Path) -> CertificateDer<'static> {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let fresh = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let made = params.signed_by(&fresh, &self.issuer).unwrap();
        fs::write(cert, made.pem()).unwrap();
        fs::write(key, fresh.serialize_pem()).unwrap();
        made.der().clone()
    }

    /// The certificate that a new handshake meets.
    pub(super) async fn met(&self, tcp: TcpStream) -> io::Result<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(tls.get_ref().1.peer_certificates().unwrap()[0].clone())
    }
}
