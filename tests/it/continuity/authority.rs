//! The authority that issues the proxy's certificates.

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

/// A certificate authority. Clients that trust it do not notice a renewed certificate.
pub(super) struct Authority {
    /// File of the authority's certificate.
    pub(super) file: PathBuf,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority and writes its certificate to `authority.pem` in `directory`.
    pub(super) fn make(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate with the name of its issuer looks self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let file = directory.join("authority.pem");
        fs::write(&file, made.pem()).unwrap();
        Self { file, der: made.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for the loopback address and overwrites the chain and key files.
    pub(super) fn issue(&self, cert: &Path, key: &Path) -> CertificateDer<'static> {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let fresh = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let made = params.signed_by(&fresh, &self.issuer).unwrap();
        fs::write(cert, made.pem()).unwrap();
        fs::write(key, fresh.serialize_pem()).unwrap();
        made.der().clone()
    }

    /// Returns the server certificate of a new handshake.
    pub(super) async fn served_certificate(
        &self,
        tcp: TcpStream,
    ) -> io::Result<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(tls.get_ref().1.peer_certificates().unwrap()[0].clone())
    }
}
