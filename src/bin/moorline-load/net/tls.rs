//! Whom a TLS client trusts, and what it remembers to resume a session.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ClientSessionMemoryCache, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::scenario::Tls;

/// Reads the authorities. The result resumes nothing; see [`resuming`].
///
/// # Errors
///
/// A sentence for the user.
pub(super) fn config(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let mut config = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(match &tls.ca {
            Some(file) => authorities(file)?,
            None => system_authorities()?,
        })
    }
    .with_no_client_auth();
    config.resumption = Resumption::disabled();
    // Node.js and `ws` offer no ALPN either, and a proxy must not choose HTTP/2 here.
    config.alpn_protocols = Vec::new();
    Ok(config)
}

/// The same for one client, with a memory of its own: clients that shared one would resume each
/// other's sessions, as no real crowd does.
pub(super) fn resuming(shared: &ClientConfig) -> ClientConfig {
    let mut own = shared.clone();
    own.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(1)));
    own
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let named = file.display();
    let pem = fs::read(file).map_err(|error| format!("{named} cannot be read: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| format!("{named} is no PEM file: {error}"))?;
        roots.add(certificate).map_err(|error| {
            format!("{named} holds a certificate that is no authority: {error}")
        })?;
    }
    if roots.is_empty() {
        return Err(format!("{named} holds no certificate"));
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A system may hold one certificate that does not parse: the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this system has no certificate authorities: name one with --ca FILE, or use \
                    --insecure"
            .to_owned());
    }
    Ok(roots)
}

/// Trusts any certificate, but has the server prove that it owns the certificate's key, so that a
/// handshake costs what it costs real clients.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
