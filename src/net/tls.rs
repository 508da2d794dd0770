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
//! empty queues for sent and received data. Handshake state is freed when the handshake ends. [`SEND_LIMIT`](provider::SEND_LIMIT) bounds
//! the send queue; no memory is reserved for it. Only the unbuffered API, which tokio-rustls does not use, would
//! avoid the 4 KiB.

mod client_auth;
mod identity;
mod info;
mod key_log;
mod kind;
pub(super) mod provider;
mod resolver;
mod self_signed;
mod sessions;
mod terminator;
#[cfg(test)]
mod tests;
mod validity;

use rustls_pki_types::CertificateDer;

pub use self::{
    info::{ClientCertificate, TlsInfo},
    kind::kind,
    resolver::CertificateResolver,
    self_signed::{SelfSignedError, self_signed},
    sessions::TicketKeys,
    terminator::{AlpnOverride, FailedHandshake, Terminator, TerminatorError, UNRECOGNIZED_NAME},
    validity::{lapsed, overdue, unstapled},
};
pub(crate) use self::{key_log::reopen as reopen_key_logs, provider::provider};
pub use super::tickets::TicketKey;

/// Returns the identity in a verified client certificate.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> ClientCertificate {
    identity::of(certificate)
}
