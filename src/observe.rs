//! What is told to the outside: the access log, the metrics, the process's own log.
//!
//! Everything here is told, nothing is asked: no function of this module can block or fail its
//! caller. Labels and names come from [`names`] and nowhere else. This module knows `error` and
//! `config`, and nobody above them.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod names;
mod notices;
pub mod record;
mod redact;
mod sink;
pub mod stalls;

pub use access_log::AccessLog;
pub use metrics::{BackendSample, CertificateSample, ListenerMetrics, Metrics};
pub use names::ChosenBy;
pub use notices::{ForwardingFault, Notices};
pub use record::{RouteLabel, StreamEnd, StreamKind, StreamRecord, StreamStart};
pub use redact::Redaction;
