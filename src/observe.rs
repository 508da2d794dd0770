//! Output for operators: the access log, the metrics, and the process log.
//!
//! No function of this module can block or fail its caller. All labels and names come from
//! [`names`]. Of the other modules, this one depends only on `error`, `config` and `net::tls`.

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
pub use metrics::{BackendSample, CacheSample, CertificateSample, ListenerMetrics, Metrics};
pub use names::ChosenBy;
pub use notices::{ForwardingFault, Notices};
pub use record::{RouteLabel, StreamEnd, StreamKind, StreamRecord, StreamStart};
pub use redact::Redaction;
pub use sink::LogEnd;
