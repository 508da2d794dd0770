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
//! A connection holds no buffer while nothing moves, see [`tls_stream`](super::tls_stream). What remains is about
//! 4.5 kB in user space with TLS 1.3 (x86-64, rustls 0.23): two cipher contexts of aws-lc (0.6 kB each), the session
//! (1.1 kB), its room for 16 handshake messages (0.8 kB), its secrets, and its empty queues. They belong to rustls,
//! which keeps them until the connection ends.

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

pub(crate) use self::info::CERTIFICATE_FIELDS;
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
