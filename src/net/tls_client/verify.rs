//! Verification of backend certificates.
//!
//! A certificate that is itself in `tls.ca` is accepted by byte comparison while it is in date. This is how
//! self-signed certificates are configured, whatever their extensions and names. Its holder is trusted like an
//! authority anyway, because rustls treats every certificate in `tls.ca` as one. All other certificates are verified
//! by webpki for the expected name.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::explain::{CertificateSummary, ExpectedCertificate, RejectedCertificate};
use crate::net::tls::provider::PROVIDER;

/// Verifies backend certificates.
#[derive(Debug)]
pub(super) struct BackendVerifier {
    chains: Arc<WebPkiServerVerifier>,
    /// The certificates of `tls.ca`; empty if the authorities of the system are used.
    own: Vec<CertificateDer<'static>>,
}

impl BackendVerifier {
    /// Trusts `roots`, which consist of `own` unless that is empty.
    ///
    /// # Errors
    /// rustls rejects the roots.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        own: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let chains = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&PROVIDER));
        let chains = chains.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chains, own })
    }

    /// Replaces an error by an explanation that describes this certificate.
    fn explained(
        &self,
        error: Error,
        certificate: &CertificateDer<'_>,
        name: Option<&ServerName<'_>>,
    ) -> Error {
        let Error::InvalidCertificate(why) = error else { return error };
        let expected = ExpectedCertificate { name, by_system: self.own.is_empty() };
        let rejected =
            RejectedCertificate::new(&why, &CertificateSummary::of(certificate), &expected);
        CertificateError::Other(OtherError(Arc::new(rejected))).into()
    }
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let outcome = match self.own.iter().any(|own| own == end_entity) {
            true => in_date(end_entity, now).map(|()| ServerCertVerified::assertion()),
            false => self.chains.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        };
        outcome.map_err(|error| self.explained(error, end_entity, Some(server_name)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let outcome = self.chains.verify_tls12_signature(message, cert, dss);
        outcome.map_err(|error| self.explained(error, cert, None))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let outcome = self.chains.verify_tls13_signature(message, cert, dss);
        outcome.map_err(|error| self.explained(error, cert, None))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Checks that a certificate is in date (RFC 5280 §4.1.2.5: both ends included).
fn in_date(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else {
        return Err(CertificateError::BadEncoding.into());
    };
    let seconds = |at: i64| u64::try_from(at).unwrap_or_default();
    let from = seconds(read.validity().not_before.timestamp());
    let until = seconds(read.validity().not_after.timestamp());
    match now.as_secs() {
        now if now < from => Err(CertificateError::NotValidYet.into()),
        now if now > until => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}
