//! Message bodies: their end, and the part of them that is passed on (RFC 9112 §6 and §7).

/// How the length of a body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// This many bytes follow the head; 0 if there is no body.
    Exactly(u64),
    /// Chunks follow, the last one is empty (RFC 9112 §7.1).
    Chunked,
    /// The body ends with the connection. Only a response can have this length.
    UntilClose,
}

/// What the receiver gets of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkedOutput {
    /// Chunks as the sender made them, without extensions and without forbidden trailers.
    Framed,
    /// Data only: the receiver gets a length, or uses HTTP/1.0, or the body is buffered.
    Decoded,
}
