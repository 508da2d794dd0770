//! TLS towards clients: certificate selection, session resumption and the handshake.
//!
//! A [`Terminator`] is rebuilt when the settings of its listener or a file named there change. The state for
//! resumption ([`TicketKeys`]) is created once per process, outlives all terminators, and moves to the next process
//! in a binary upgrade. Listeners share sessions, and so do proxies with the same configured keys. Sessions are not
//! shared between different client certificate settings: a session created under other settings, or none, is
//! unknown to a listener that requests client certificates. rustls itself refuses to resume a session under
//! another server name.
//!
//! # Memory of an idle connection
//!
//! Measured: 8.2 kB in user space (x86-64, rustls 0.23, TLS 1.3; TLS 1.2 needs as much, and tickets make no
//! difference). Half of it is the receive buffer. The deframer of rustls reads 4 KiB at a time (`READ_SIZE`, not
//! configurable), grows to a full record while a record arrives, and shrinks back to 4 KiB at the next read, which
//! then waits. The rest is the connection itself (1.2 kB), two cipher contexts (0.6 kB each), its secrets, and the
//! empty queues for sent and received data. Handshake state is freed when the handshake ends. [`SEND_LIMIT`] bounds
//! the send queue; no memory is reserved for it. Only the unbuffered API, which tokio-rustls does not use, would
//! avoid the 4 KiB.

mod client_auth;
mod identity;
mod info;
mod key_log;
mod kind;
mod resolver;
mod self_signed;
mod sessions;
mod terminator;
#[cfg(test)]
mod tests;
mod validity;

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig,
    crypto::{CryptoProvider, aws_lc_rs},
};

use rustls_pki_types::CertificateDer;

pub(crate) use self::key_log::reopen as reopen_key_logs;
pub(super) use self::kind::certificate as certificate_kind;
pub use self::{
    info::{ClientCertificate, TlsInfo},
    kind::kind,
    resolver::CertificateResolver,
    self_signed::{SelfSignedError, self_signed},
    sessions::TicketKeys,
    terminator::{AlpnOverride, FailedHandshake, Terminator, TerminatorError, UNRECOGNIZED_NAME},
    validity::{lapsed, overdue, unstapled},
};
pub use super::tickets::TicketKey;
use super::tls_client;

/// Maximum bytes that a connection buffers before they are written to its socket; further writes wait. Four full
/// records: enough to fill the socket buffer at once, and the bound for a stalled reader.
pub const SEND_LIMIT: usize = 64 * 1024;
/// Cryptography of aws-lc-rs, explicit so that no process-wide default is needed. The post-quantum key exchange
/// comes first.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
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

/// Client settings for requests by the proxy itself. Trusts `ca`, or else the authorities of the system
/// (honours `SSL_CERT_FILE` and `SSL_CERT_DIR`). Reads files.
///
/// # Errors
/// The system has no readable trusted certificate, or `ca` contains an unusable one.
pub(crate) fn client_trusting(
    ca: Option<&[CertificateDer<'static>]>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let roots = match ca {
        Some(ca) => tls_client::roots_from(ca)?,
        None => tls_client::system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Returns the identity in a verified client certificate.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> ClientCertificate {
    identity::of(certificate)
}
