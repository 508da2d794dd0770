//! The cryptography that all TLS of the process shares.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Cryptography of aws-lc-rs, explicit so that no process-wide default is needed. The post-quantum key exchange
/// comes first.
pub(in crate::net) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography used for all TLS.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}
