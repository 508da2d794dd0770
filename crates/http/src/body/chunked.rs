//! Chunked bodies (RFC 9112 §7.1).
//!
//! Data is handled in runs, and framing byte by byte. Extensions are cut out of the output. Trailers
//! are taken out of the input and collected, because a forbidden trailer is known only after its name,
//! and the name may come in two pieces.

use super::{BodyFault, ChunkedOutput, trailers::TrailerSection};

/// Maximum size of a chunk: every implementation represents it exactly.
const MAX_CHUNK: u64 = 1 << 53;

/// Maximum number of digits of a chunk size.
const MAX_DIGITS: u8 = 16;

/// Maximum number of bytes of all extensions of a body.
const MAX_EXTENSIONS: u16 = 16 << 10;

/// Decodes a chunked body.
#[derive(Debug, Clone)]
pub(super) struct ChunkedDecoder {
    state: ChunkedState,
    output: ChunkedOutput,
    /// Digits of this chunk's size.
    digits: u8,
    /// Bytes of extensions in the whole body.
    extensions: u16,
    /// Size of this chunk as read so far, then the number of its bytes that are missing.
    missing: u64,
    /// Allocated if there are trailers.
    trailers: Option<Box<TrailerSection>>,
    /// Further names of trailers that are dropped.
    pub(super) is_forbidden: fn(&[u8]) -> bool,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkedState {
    /// A digit of a chunk size, or the first byte after the size.
    Size,
    /// Whitespace behind a size.
    Padding,
    /// Part of an extension, or the CR after it.
    Extension,
    /// LF of a size line.
    SizeLf,
    /// Data.
    Data,
    /// CR after data.
    DataCr,
    /// LF after data.
    DataLf,
    /// The first byte after the size line of the last chunk.
    LastLine,
    /// Part of a trailer, or of the empty line after trailers.
    Trailers,
    /// LF of the empty line in a body without trailers.
    LastLf,
    /// Part of the next message.
    Ended,
}

/// A piece of input that is shortened in place.
struct Piece<'a> {
    bytes: &'a mut [u8],
    /// Input that was read.
    read: usize,
    /// Output at the beginning of `bytes`, never more than what was read.
    kept: usize,
}

impl ChunkedDecoder {
    pub(super) fn new(output: ChunkedOutput) -> Self {
        Self {
            state: ChunkedState::Size,
            output,
            digits: 0,
            extensions: 0,
            missing: 0,
            trailers: None,
            is_forbidden: |_| false,
        }
    }

    /// Decodes a piece of input in place. Returns the number of bytes that are passed on, and the number
    /// of input bytes that belong to the body.
    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<(usize, usize), BodyFault> {
        let framed = self.output == ChunkedOutput::Framed;
        let mut piece = Piece { bytes, read: 0, kept: 0 };
        while let Some(byte) = piece.next_byte() {
            match self.state {
                ChunkedState::Data => {
                    let run = piece.rest(self.missing);
                    data(run);
                    let length = run.len();
                    piece.keep(length);
                    self.missing -= length as u64;
                    if self.missing == 0 {
                        self.state = ChunkedState::DataCr;
                    }
                }
                ChunkedState::Ended => break,
                _ => match self.step(byte)? {
                    true if framed => piece.keep(1),
                    _ => piece.read += 1,
                },
            }
        }
        Ok((piece.kept, piece.read))
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state == ChunkedState::Ended
    }

    /// Field lines that may be passed on; empty until the body has ended.
    pub(super) fn trailers(&self) -> &[u8] {
        match &self.trailers {
            Some(trailers) if self.is_ended() => trailers.fields(),
            _ => &[],
        }
    }

    /// What the receiver of chunks gets after the last size line, unless it was part of a piece.
    pub(super) fn tail(&self) -> &[u8] {
        match &self.trailers {
            Some(trailers) if self.output == ChunkedOutput::Framed => trailers.section(),
            _ => &[],
        }
    }

    /// Reads a byte that is not data. Returns whether a receiver of chunks gets it.
    fn step(&mut self, byte: u8) -> Result<bool, BodyFault> {
        use ChunkedState as S;
        self.state = match (self.state, byte) {
            (S::Size, _) => return self.read_size(byte),
            (S::Padding, b' ' | b'\t' | b';') | (S::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                return self.skip_extension(byte);
            }
            // Old servers pad sizes; the padding is cut out.
            (S::Padding, b'\r') => S::SizeLf,
            (S::Padding, _) => return Err(BodyFault::ChunkSize),
            (S::Extension, b'\r') => S::SizeLf,
            (S::Extension, b'\n') => return Err(BodyFault::LineEnd),
            (S::Extension, _) => return Err(BodyFault::ChunkExtension),
            (S::SizeLf, b'\n') if self.missing == 0 => S::LastLine,
            (S::SizeLf, b'\n') => S::Data,
            (S::DataCr, b'\r') => S::DataLf,
            (S::DataLf, b'\n') => {
                self.digits = 0;
                S::Size
            }
            (S::DataCr | S::DataLf, _) => return Err(BodyFault::ChunkEnd),
            (S::LastLine, b'\r') => S::LastLf,
            (S::LastLine | S::Trailers, _) => return self.read_trailers(byte),
            (S::LastLf, b'\n') => S::Ended,
            (S::SizeLf | S::LastLf, _) => return Err(BodyFault::LineEnd),
            (S::Data | S::Ended, _) => unreachable!("handled by the caller"),
        };
        Ok(true)
    }

    fn read_size(&mut self, byte: u8) -> Result<bool, BodyFault> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.digits == 0 => return Err(BodyFault::ChunkSize),
            b'\r' => {
                self.state = ChunkedState::SizeLf;
                return Ok(true);
            }
            b';' | b' ' | b'\t' => return self.skip_extension(byte),
            b'\n' => return Err(BodyFault::LineEnd),
            _ => return Err(BodyFault::ChunkSize),
        };
        if self.digits == MAX_DIGITS {
            return Err(BodyFault::ChunkTooLarge);
        }
        self.digits += 1;
        // At most 2^57, because the size so far is at most 2^53.
        self.missing = self.missing << 4 | u64::from(digit);
        if self.missing > MAX_CHUNK {
            return Err(BodyFault::ChunkTooLarge);
        }
        Ok(true)
    }

    /// Reads a byte of an extension, or of the whitespace before it (RFC 9112 §7.1.1).
    fn skip_extension(&mut self, byte: u8) -> Result<bool, BodyFault> {
        if self.extensions == MAX_EXTENSIONS {
            return Err(BodyFault::ExtensionsTooLarge);
        }
        self.extensions += 1;
        if self.state != ChunkedState::Extension {
            let begins = byte == b';';
            self.state = if begins { ChunkedState::Extension } else { ChunkedState::Padding };
        }
        Ok(false)
    }

    fn read_trailers(&mut self, byte: u8) -> Result<bool, BodyFault> {
        self.state = ChunkedState::Trailers;
        let trailers = self.trailers.get_or_insert_default();
        if trailers.read(byte, self.is_forbidden)? {
            self.state = ChunkedState::Ended;
        }
        Ok(false)
    }
}

impl Piece<'_> {
    fn next_byte(&self) -> Option<u8> {
        self.bytes.get(self.read).copied()
    }

    /// The unread bytes, at most `most` of them.
    fn rest(&self, most: u64) -> &[u8] {
        let rest = &self.bytes[self.read..];
        &rest[..usize::try_from(most).map_or(rest.len(), |most| most.min(rest.len()))]
    }

    /// Adds the next `length` input bytes to the output.
    fn keep(&mut self, length: usize) {
        let end = self.read + length;
        if self.kept != self.read {
            self.bytes.copy_within(self.read..end, self.kept);
        }
        self.read = end;
        self.kept += length;
    }
}
