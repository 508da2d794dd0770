//! Self-signed certificates, generated in memory for trials.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use super::provider::PROVIDER;
use crate::config::Certificate;

/// Validity of a generated certificate; some clients reject more than 397 days.
const SELF_SIGNED_FOR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Start of the validity before now, for clients whose clock is behind.
const SELF_SIGNED_SINCE: Duration = Duration::from_secs(24 * 3600);

/// Why a self-signed certificate could not be generated.
#[derive(Debug)]
pub enum SelfSignedError {
    /// A name is not a DNS name or IP address, or key generation failed.
    Make(rcgen::Error),
    /// rustls does not accept the generated key.
    Use(rustls::Error),
}

impl fmt::Display for SelfSignedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(error) => write!(f, "cannot generate a certificate: {error}"),
            Self::Use(error) => write!(f, "cannot use the generated certificate: {error}"),
        }
    }
}

impl Error for SelfSignedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Make(error) => Some(error),
            Self::Use(error) => Some(error),
        }
    }
}

/// Generates a self-signed certificate for these DNS names and IP addresses. It is valid for a year and has a new
/// ECDSA P-256 key that exists in memory only.
///
/// # Errors
/// A name is not valid in a certificate, or there is no randomness.
pub fn self_signed(names: &[String]) -> Result<Certificate, SelfSignedError> {
    let key = KeyPair::generate().map_err(SelfSignedError::Make)?;
    let mut params = CertificateParams::new(names).map_err(SelfSignedError::Make)?;
    let now = SystemTime::now();
    params.not_before = (now - SELF_SIGNED_SINCE).into();
    params.not_after = (now + SELF_SIGNED_FOR - SELF_SIGNED_SINCE).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(SelfSignedError::Make)?;

    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let chain = vec![certificate.der().clone()];
    let key = CertifiedKey::from_der(chain, private, &PROVIDER).map_err(SelfSignedError::Use)?;
    let is_dns = |name: &&String| name.parse::<std::net::IpAddr>().is_err();
    let names = names.iter().filter(is_dns).map(|name| name.to_ascii_lowercase()).collect();
    Ok(Certificate { names, key: Arc::new(key) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_certificate_has_the_requested_names() {
        let made =
            self_signed(&["LocalHost", "127.0.0.1", "::1", "*.chat.test"].map(str::to_owned))
                .unwrap();
        assert_eq!(made.names, ["localhost", "*.chat.test"]);
        assert!(made.key.keys_match().is_ok());
        let error = self_signed(&["käse".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with("cannot generate a certificate: "), "{error}");
    }
}
