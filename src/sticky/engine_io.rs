//! What a proxy must understand of Engine.IO, protocols 3 and 4: which session a request belongs to,
//! which session a reply opened, which bodies close one, and which replies say "not mine".
//!
//! Pure: bytes in, values out. No I/O, no clock, no table, and nothing here trusts its input: every
//! function takes any bytes without panicking and reads no more of them than it needs. Verified
//! against bodies recorded from real servers, see `tests/fixtures/engine_io`.
//!
//! Protocol documents: <https://github.com/socketio/engine.io-protocol> (4) and its `v3` branch.

mod close;
mod error;
mod packet;
mod query;

pub use close::{CloseScan, Framing};
pub use error::{UNKNOWN_SID, is_unknown_sid};
pub use packet::{Open, open_frame, open_packet};
pub use query::{Protocol, Query, Transport, query};

#[cfg(test)]
mod recorded;
