//! Engine.IO and Socket.IO packets, as pure functions over bytes.
//!
//! Does not know about I/O, time, or the content of events.

use std::fmt;

pub(crate) mod engine_io;
pub(crate) mod socket_io;
#[cfg(test)]
mod tests;

/// Bytes that are not valid Engine.IO or Socket.IO. The text names the invalid part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}
