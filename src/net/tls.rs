//! TLS towards clients: which certificate a name gets, how sessions are resumed, and the handshake.
//!
//! A [`Terminator`] is built anew when its listener's settings change or a file that they name does;
//! what makes resumption work ([`TicketKeys`]) is made once per process and outlives them all, and goes
//! on in the next process at a binary upgrade. Sessions are shared by listeners, and by proxies that
//! are given the same keys, but not by terms of client certificates: one that was made under others,
//! or none, is not known where some are asked for. rustls itself refuses to resume under another
//! server name than the session was made for.
//!
//! # What an idle connection holds
//!
//! Measured: 8.2 kB, all of it in user space (x86-64, rustls 0.23, TLS 1.3; 1.2 is the same, and
//! sending tickets or not makes no difference). Half of it is the receive buffer: the deframer of
//! rustls reads 4 KiB at a time (`READ_SIZE`, no setting for it), grows to a full record while one
//! comes in, and is cut back to 4 KiB by the next read, the one that then waits. The rest is the
//! connection itself (1.2 kB), two cipher contexts (0.6 kB each), its secrets and the empty queues of
//! what it sent and received; the handshake's own state is freed when it is over. [`SEND_LIMIT`]
//! bounds what waits to be sent, nothing is reserved for it. Only the unbuffered API, which
//! tokio-rustls does not use, would do without the 4 KiB.

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
    resolver::Resolver,
    self_signed::{SelfSignedError, self_signed},
    sessions::TicketKeys,
    terminator::{Beside, Refused, Terminator, UNRECOGNIZED_NAME, Unusable},
    validity::{lapsed, overdue, unstapled},
};
pub use super::tickets::TicketKey;
use super::tls_client;

/// Most bytes a connection takes before they are written to its socket; past it, writing waits. Four
/// full records: enough to fill the socket's buffer in one go, and the bound for a stalled reader.
pub const SEND_LIMIT: usize = 64 * 1024;
/// Cryptography by aws-lc-rs, named here so that no process-wide default is needed. The key exchange
/// that a quantum computer cannot undo comes first.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography that all TLS here is done by.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// What we ask others by, as a client that trusts `ca`, or else whom the system trusts
/// (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). Reads files.
///
/// # Errors
/// The system trusts nobody that can be read, or `ca` has what cannot vouch for others.
pub(crate) fn client_trusting(
    ca: Option<&[CertificateDer<'static>]>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let roots = match ca {
        Some(ca) => tls_client::these(ca)?,
        None => tls_client::system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What a verified certificate tells of its holder.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> ClientCertificate {
    identity::of(certificate)
}
