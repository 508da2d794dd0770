//! Message bodies: their end, and the part of them that is passed on (RFC 9112 §6 and §7).
//!
//! [`BodyDecoder`] is pure: it sees the input in pieces of any length, and the pieces do not change
//! the result. It works in place: what is passed on is moved to the front of the piece, and is moved
//! only if something before it was cut out. It reads strictly: what two implementations could read
//! differently is a [`BodyFault`].
//!
//! It knows no head. [`BodyLength`] is decided by the reader of the head.

use std::fmt;

mod chunked;
#[cfg(test)]
mod tests;
mod trailers;

use chunked::ChunkedDecoder;

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

/// Why the rest of a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// The input ended within the body.
    Incomplete,
    /// A chunk size is not 1 to 16 hex digits followed by CRLF or an extension.
    ChunkSize,
    /// A chunk has more than 2^53 bytes.
    ChunkTooLarge,
    /// A chunk extension holds a control character.
    ChunkExtension,
    /// The extensions of all chunks together have more than 16 KiB.
    ExtensionsTooLarge,
    /// A line ends with a bare LF, or holds a bare CR.
    LineEnd,
    /// The data of a chunk is not followed by CRLF.
    ChunkEnd,
    /// A trailer is not a valid field.
    Trailer,
    /// There are more than 100 trailers, or they have more than 16 KiB.
    TrailersTooLarge,
}

/// Decodes one body: counts down a length, or reads chunks.
#[derive(Debug, Clone)]
pub struct BodyDecoder {
    state: DecoderState,
}

/// What a piece of input contained. The rest of the piece, after `consumed`, belongs to the next message.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Number of bytes at the beginning of the piece that are passed on.
    pub kept: usize,
    /// Number of input bytes that belong to the body.
    pub consumed: usize,
    /// Whether the body has ended.
    pub ended: bool,
    /// Bytes to pass on after those of the piece: trailers, and the empty line that ends them. Empty
    /// unless a body with trailers has just ended and its output is [`ChunkedOutput::Framed`].
    pub tail: &'a [u8],
}

#[derive(Debug, Clone)]
enum DecoderState {
    /// The number of missing bytes.
    Exactly(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
    /// The input of a body that ends with the connection has ended.
    Closed,
    Failed(BodyFault),
}

impl BodyDecoder {
    /// Creates a decoder for a body of the given length. `output` matters for chunked bodies only.
    pub fn new(length: BodyLength, output: ChunkedOutput) -> Self {
        let state = match length {
            BodyLength::Exactly(length) => DecoderState::Exactly(length),
            BodyLength::Chunked => DecoderState::Chunked(ChunkedDecoder::new(output)),
            BodyLength::UntilClose => DecoderState::UntilClose,
        };
        Self { state }
    }

    /// Also drops trailers whose name fulfils `is_forbidden`. It gets names in lower case, and with `-`
    /// for `_`.
    pub fn dropping_trailers(mut self, is_forbidden: fn(&[u8]) -> bool) -> Self {
        if let DecoderState::Chunked(chunked) = &mut self.state {
            chunked.is_forbidden = is_forbidden;
        }
        self
    }

    /// Decodes the next piece of input in place, and calls `data` with each run of data in it, without
    /// framing. After a fault, the caller passes on no byte of this piece, and every later call returns the
    /// same fault.
    pub fn decode(
        &mut self,
        bytes: &mut [u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<Decoded<'_>, BodyFault> {
        let was_ended = self.is_ended();
        let (kept, consumed) = match &mut self.state {
            DecoderState::Exactly(missing) => {
                let run =
                    usize::try_from(*missing).map_or(bytes.len(), |most| most.min(bytes.len()));
                *missing -= run as u64;
                data(&bytes[..run]);
                (run, run)
            }
            DecoderState::Chunked(chunked) => match chunked.decode(bytes, data) {
                Ok(lengths) => lengths,
                Err(fault) => return Err(self.fail(fault)),
            },
            DecoderState::UntilClose => {
                data(bytes);
                (bytes.len(), bytes.len())
            }
            DecoderState::Closed => (0, 0),
            DecoderState::Failed(fault) => return Err(*fault),
        };
        let ended = self.is_ended();
        let tail = if ended && !was_ended { self.tail() } else { &[] };
        Ok(Decoded { kept, consumed, ended, tail })
    }

    /// Whether the body has ended: no further byte belongs to it.
    pub fn is_ended(&self) -> bool {
        match &self.state {
            DecoderState::Exactly(missing) => *missing == 0,
            DecoderState::Chunked(chunked) => chunked.is_ended(),
            DecoderState::Closed => true,
            DecoderState::UntilClose | DecoderState::Failed(_) => false,
        }
    }

    /// Handles the end of the input: the end of a body that ends with the connection, otherwise a fault
    /// if the body has not ended.
    pub fn end(&mut self) -> Result<(), BodyFault> {
        match &self.state {
            DecoderState::UntilClose => {
                self.state = DecoderState::Closed;
                Ok(())
            }
            DecoderState::Failed(fault) => Err(*fault),
            _ if self.is_ended() => Ok(()),
            _ => Err(self.fail(BodyFault::Incomplete)),
        }
    }

    /// Trailers that may be passed on: field lines, each with its CRLF. Empty until the body has ended.
    pub fn trailers(&self) -> &[u8] {
        match &self.state {
            DecoderState::Chunked(chunked) => chunked.trailers(),
            _ => &[],
        }
    }

    fn tail(&self) -> &[u8] {
        match &self.state {
            DecoderState::Chunked(chunked) => chunked.tail(),
            _ => &[],
        }
    }

    fn fail(&mut self, fault: BodyFault) -> BodyFault {
        self.state = DecoderState::Failed(fault);
        fault
    }
}

impl BodyFault {
    /// Returns the sentence that describes the fault.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Incomplete => "The connection ended within the body.",
            Self::ChunkSize => "A chunk size is invalid.",
            Self::ChunkTooLarge => "A chunk size is too large.",
            Self::ChunkExtension => "A chunk extension holds a control character.",
            Self::ExtensionsTooLarge => "The chunk extensions are too large.",
            Self::LineEnd => "A line of the chunked body does not end with CRLF.",
            Self::ChunkEnd => "The data of a chunk is not followed by CRLF.",
            Self::Trailer => "A trailer field is malformed.",
            Self::TrailersTooLarge => "The trailers are too large or too many.",
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for BodyFault {}
