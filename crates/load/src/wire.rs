//! Engine.IO and Socket.IO packets, as pure functions over bytes.
//!
//! Must not know I/O, time, or what is said in packets.

use std::fmt;

pub(crate) mod engine_io;
pub(crate) mod socket_io;
#[cfg(test)]
mod tests;

/// Bytes that are no Engine.IO or Socket.IO: one clause that says what is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}
