//! The parts of Engine.IO, protocols 3 and 4, that a proxy must understand: the session of a request, the session
//! that a reply opens, bodies that close a session, and replies that reject an unknown sid.
//!
//! Pure functions: no I/O, no clock, no table. Input is untrusted: every function accepts any bytes without
//! panicking and reads no more of them than necessary. Tested with bodies recorded from real servers, see
//! `tests/fixtures/engine_io`.
//!
//! Protocol documents: <https://github.com/socketio/engine.io-protocol> (4) and its `v3` branch.

mod close;
mod error;
mod packet;
mod query;

pub use close::{CloseScan, Framing};
pub use error::{UNKNOWN_SID, is_unknown_sid};
pub use packet::{OpenPacket, open_frame, open_packet};
pub use query::{EngineIoVersion, Query, Transport, query};

#[cfg(test)]
mod recorded;
