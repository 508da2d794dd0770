//! Whom a TLS client trusts, and what it remembers to resume a session.

use std::{fs, path::Path, sync::Arc};

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
    } else if let Some(file) = &tls.ca {
        let trusting = Trusting::new(file, provider)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(trusting))
    } else {
        builder.with_root_certificates(system_authorities()?)
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

/// Trusts what the certificates of a file have signed, and each of these certificates itself: a self-signed
/// server certificate is its own authority, which RFC 5280 does not let a server present.
#[derive(Debug)]
struct Trusting {
    known: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Trusting {
    fn new(file: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let named = file.display();
        let pem = fs::read(file).map_err(|error| format!("{named} cannot be read: {error}"))?;
        // A byte order mark, which some editors write, hides the section that follows it.
        let pem = match String::from_utf8(pem) {
            Ok(text) => text.replace('\u{feff}', "").into_bytes(),
            Err(error) => error.into_bytes(),
        };
        let mut roots = RootCertStore::empty();
        let mut known = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate =
                certificate.map_err(|error| format!("{named} is no PEM file: {error}"))?;
            roots.add(certificate.clone()).map_err(|error| {
                format!("{named} holds a certificate that cannot be used: {error}")
            })?;
            known.push(certificate);
        }
        if roots.is_empty() {
            return Err(format!("{named} holds no certificate"));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let authorities = verifier.build().map_err(|error| format!("{named}: {error}"))?;
        Ok(Self { known, authorities })
    }
}

impl ServerCertVerifier for Trusting {
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
            // Webpki looks at the times before it looks for an issuer: they are right then.
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

/// Whether nobody known has signed a certificate, or it is an authority's own.
pub(super) fn lacks_issuer(reason: &CertificateError) -> bool {
    *reason == CertificateError::UnknownIssuer || is_authority(reason)
}

/// Whether a server presents the certificate of an authority, as most self-signed ones are; webpki's word for
/// that comes through rustls as text alone.
pub(super) fn is_authority(reason: &CertificateError) -> bool {
    matches!(reason, CertificateError::Other(_)) && reason.to_string().contains("CaUsedAsEndEntity")
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
