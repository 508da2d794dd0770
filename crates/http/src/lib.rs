//! HTTP/1.1: bytes to messages and back.
//!
//! This crate owns framing: the beginning and the end of a message, the fields of a connection, and the parts of a
//! message that may be passed on. Parsers are pure, so that property tests and fuzzers run them without a socket. The
//! crate knows no pool, no session and no configuration.
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | `buffer` | free buffers of a thread | messages |
//! | `field` | known names, valid names and values | heads |
//! | `head` | fields of a message: reading, dropping, appending | requests, responses, I/O |
//! | `request`, `response` | first lines, parsing, writing | I/O |
//! | `framing` | the length of a body, as a head announces it | I/O |
//! | `hop_by_hop` | fields of one connection | I/O |
//! | `body` | end of a body, chunks, trailers | heads, I/O |
//! | `relay` | one body from one connection to another | heads |
//!
//! # Rules
//!
//! Messages are read strictly, on both sides: what two implementations could read differently is rejected, before a
//! byte of it is passed on. [`HeadFault`] and [`BodyFault`] are closed lists of the reasons.

mod body;
mod buffer;
mod date;
mod fault;
mod field;
mod framing;
mod head;
mod hop_by_hop;
mod relay;
mod request;
mod response;

pub use body::{BodyDecoder, BodyFault, BodyLength, ChunkedOutput, Decoded};
pub use buffer::{BULK_SIZE, Buffer, HEAD_SIZE};
pub use fault::HeadFault;
pub use field::{FieldId, is_token, is_value, trim};
pub use framing::MOST_BYTES;
pub use head::{Field, Head, HeadLimits};
pub use relay::{BodyForm, BodyRelay, RelayError};
pub use request::{HttpVersion, RequestHead, RequestParser};
pub use response::{ClientConnection, ResponseHead, ResponseParser};
