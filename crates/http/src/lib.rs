//! HTTP/1.1: bytes to messages and back.
//!
//! This crate owns framing: the beginning and the end of a message, and the parts of it that may be passed on.
//! Parsers are pure, so that property tests and fuzzers run them without a socket. The crate knows
//! no pool, no session and no configuration.
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | `body` | end of a body, chunks, trailers | heads, I/O |

mod body;

pub use body::{BodyDecoder, BodyFault, BodyLength, ChunkedOutput, Decoded};
