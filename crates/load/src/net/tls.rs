//! Certificate verification and session resumption of TLS clients.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, anyhow, ensure};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ClientSessionMemoryCache, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use crate::scenario::Tls;

/// Creates a client configuration without session resumption; see [`with_resumption`].
///
/// # Errors
///
/// The certificate authorities cannot be read.
pub(super) fn config(tls: &Tls) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?;
    let mut config = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(InsecureVerifier(provider)))
    } else if let Some(file) = &tls.ca {
        let verifier = FileVerifier::new(file, provider)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    } else {
        builder.with_root_certificates(system_authorities()?)
    }
    .with_no_client_auth();
    config.resumption = Resumption::disabled();
    // No ALPN, like Node.js and `ws`: a proxy must not choose HTTP/2.
    config.alpn_protocols = Vec::new();
    Ok(config)
}

/// Returns a configuration with session resumption for one client. Clients must not share it, or they would
/// resume each other's sessions, unlike real clients.
pub(super) fn with_resumption(shared: &ClientConfig) -> ClientConfig {
    let mut own = shared.clone();
    own.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(1)));
    own
}

/// Trusts the authorities in a file, and each certificate of the file itself: a self-signed server
/// certificate is its own authority, and RFC 5280 does not allow a server to present the certificate of an
/// authority.
#[derive(Debug)]
struct FileVerifier {
    known: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl FileVerifier {
    fn new(file: &Path, provider: Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let named = file.display();
        let pem = fs::read(file).with_context(|| format!("cannot read {named}"))?;
        // Some editors write a byte order mark, which hides the first PEM section.
        let pem = match String::from_utf8(pem) {
            Ok(text) => text.replace('\u{feff}', "").into_bytes(),
            Err(error) => error.into_bytes(),
        };
        let mut roots = RootCertStore::empty();
        let mut known = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate =
                certificate.map_err(|error| anyhow!("invalid PEM file {named}: {error}"))?;
            let added = roots.add(certificate.clone());
            added.with_context(|| format!("unusable certificate in {named}"))?;
            known.push(certificate);
        }
        ensure!(!roots.is_empty(), "no certificate in {named}");
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let authorities = verifier.build().with_context(|| named.to_string())?;
        Ok(Self { known, authorities })
    }
}

impl ServerCertVerifier for FileVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authorities = &self.authorities;
        let verified = authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // webpki checks the validity period before the issuer, so it is valid here.
            Err(rustls::Error::InvalidCertificate(reason))
                if lacks_issuer(&reason) && self.known.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether no known authority has signed the certificate, or it is itself the certificate of an authority.
pub(super) fn lacks_issuer(reason: &CertificateError) -> bool {
    *reason == CertificateError::UnknownIssuer || is_authority(reason)
}

/// Whether a server presents the certificate of an authority, as with most self-signed ones. rustls passes
/// this error of webpki on only as text.
pub(super) fn is_authority(reason: &CertificateError) -> bool {
    matches!(reason, CertificateError::Other(_)) && reason.to_string().contains("CaUsedAsEndEntity")
}

fn system_authorities() -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Invalid certificates in the system store are ignored.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ensure!(
        !roots.is_empty(),
        "no certificate authorities on this system: give a file with --ca, or use --insecure"
    );
    Ok(roots)
}

/// Accepts any certificate, but verifies that the server owns its key, so that a handshake costs as much as
/// for real clients.
#[derive(Debug)]
struct InsecureVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for InsecureVerifier {
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
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
