//! One body on its way from one connection to another.
//!
//! A [`BodyRelay`] reads from one side and writes to the other. It reads the next piece after the other side has
//! taken the last one, and holds no buffer while nothing moves. The head of the message is written together with
//! the part of the body that was read with it.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    body::{BodyDecoder, BodyFault, BodyLength, ChunkedOutput},
    buffer::Buffer,
};

/// Room for the size line of a chunk, before its data: eight hex digits and CRLF.
const SIZE_LINE: usize = 10;

/// How a body is changed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// Passed on as it is; of chunks, extensions and forbidden trailers are cut out.
    Unchanged,
    /// Chunks become plain data.
    Decoded,
    /// Plain data becomes chunks.
    Chunked,
}

/// Why a body could not be relayed.
#[derive(Debug)]
pub enum RelayError {
    /// The sender's connection has failed.
    Read(io::Error),
    /// The receiver's connection has failed.
    Write(io::Error),
    /// The sender's bytes are not a valid body, or end too early.
    Fault(BodyFault),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "cannot read the body: {error}"),
            Self::Write(error) => write!(f, "cannot write the body: {error}"),
            Self::Fault(fault) => write!(f, "{fault}"),
        }
    }
}

impl std::error::Error for RelayError {}

/// One body on its way.
#[derive(Debug)]
pub struct BodyRelay {
    decoder: BodyDecoder,
    /// Bytes to write next.
    pending: Option<Buffer>,
    /// Bytes of the body, without framing.
    data: u64,
    /// Bytes that were read.
    read: u64,
    /// Bytes that were written.
    written: u64,
    encodes: bool,
    /// The last chunk has been added.
    encoded_end: bool,
    bulk: bool,
}

impl BodyRelay {
    /// Creates the relay of a body. `first` is written before it: the head of the message.
    pub fn new(length: BodyLength, form: BodyForm, first: Option<Buffer>) -> Self {
        let output = match form {
            BodyForm::Decoded => ChunkedOutput::Decoded,
            BodyForm::Unchanged | BodyForm::Chunked => ChunkedOutput::Framed,
        };
        Self {
            decoder: BodyDecoder::new(length, output),
            pending: first,
            data: 0,
            read: 0,
            written: 0,
            encodes: form == BodyForm::Chunked,
            encoded_end: false,
            bulk: false,
        }
    }

    /// Drops trailers whose name fulfils `is_forbidden`, too; see [`BodyDecoder::dropping_trailers`].
    #[must_use]
    pub fn dropping_trailers(mut self, is_forbidden: fn(&[u8]) -> bool) -> Self {
        self.decoder = self.decoder.dropping_trailers(is_forbidden);
        self
    }

    /// Bytes of the body so far, without framing.
    pub fn bytes(&self) -> u64 {
        self.data
    }

    /// A number that changes with every byte that moves.
    pub fn moved(&self) -> u64 {
        self.read + self.written
    }

    /// Bytes that were written, with the head and framing.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the whole body has been read.
    pub fn has_read_all(&self) -> bool {
        self.decoder.is_ended()
    }

    /// Whether bytes wait for the receiver.
    pub fn is_blocked(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes bytes that were read before, for example with the head; `data` gets each run of data. What is not part of
    /// the body stays in `input`.
    ///
    /// # Errors
    /// The bytes are not a valid body.
    pub fn feed(
        &mut self,
        input: &mut Option<Buffer>,
        data: impl FnMut(&[u8]),
    ) -> Result<(), BodyFault> {
        if self.decoder.is_ended() {
            self.end_encoding();
            return Ok(());
        }
        let Some(buffer) = input.take_if(|buffer| !buffer.is_empty()) else { return Ok(()) };
        *input = self.decode(buffer, data)?;
        Ok(())
    }

    /// Decodes a piece and makes it pending. Returns the bytes behind the body.
    fn decode(
        &mut self,
        mut piece: Buffer,
        mut data: impl FnMut(&[u8]),
    ) -> Result<Option<Buffer>, BodyFault> {
        let mut bytes = 0;
        let decoded = self.decoder.decode(piece.filled_mut(), |run| {
            bytes += run.len() as u64;
            data(run);
        })?;
        let (kept, consumed) = (decoded.kept, decoded.consumed);
        let tail = if decoded.tail.is_empty() { None } else { Some(Buffer::of(decoded.tail)) };
        self.data += bytes;
        let rest = piece.split_off(consumed);
        piece.truncate(kept);
        if self.encodes && kept > 0 {
            piece = chunk(piece);
        }
        self.add(piece);
        if let Some(tail) = tail {
            self.add(tail);
        }
        self.end_encoding();
        Ok(rest)
    }

    /// Adds the last chunk once the whole body has been read.
    fn end_encoding(&mut self) {
        if self.encodes && self.decoder.is_ended() && !self.encoded_end {
            self.encoded_end = true;
            self.add(Buffer::of(b"0\r\n\r\n"));
        }
    }

    fn add(&mut self, piece: Buffer) {
        match &mut self.pending {
            _ if piece.is_empty() => {}
            Some(pending) => pending.push(piece.filled()),
            None => self.pending = Some(piece),
        }
    }

    /// Moves bytes until the whole body is written, or until a side must wait. `rest` receives what follows the body.
    pub fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        rest: &mut Option<Buffer>,
        mut data: impl FnMut(&[u8]),
    ) -> Poll<Result<(), RelayError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_write(cx, writer)).map_err(RelayError::Write)?;
            if self.decoder.is_ended() {
                return Pin::new(writer).poll_flush(cx).map_err(RelayError::Write);
            }
            match self.poll_read(cx, reader) {
                Poll::Ready(Ok(Some(piece))) => {
                    let after = self.decode(piece, &mut data).map_err(RelayError::Fault)?;
                    *rest = after.or(rest.take());
                }
                Poll::Ready(Ok(None)) => {
                    self.decoder.end().map_err(RelayError::Fault)?;
                    self.end_encoding();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Read(error))),
                Poll::Pending => {
                    let _ = Pin::new(writer).poll_flush(cx).map_err(RelayError::Write)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes and flushes what is left of a body that has been read.
    pub fn poll_end<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx, writer))?;
        Pin::new(writer).poll_flush(cx)
    }

    /// Writes the pending bytes.
    pub fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        let Some(pending) = &mut self.pending else { return Poll::Ready(Ok(())) };
        let before = pending.len();
        let written = pending.poll_drain(cx, writer);
        self.written += (before - pending.len()) as u64;
        ready!(written)?;
        self.pending = None;
        Poll::Ready(Ok(()))
    }

    /// Reads one piece; `None` at the end of the input.
    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<Option<Buffer>>> {
        let mut piece = if self.bulk { Buffer::bulk() } else { Buffer::new() };
        if self.encodes {
            piece.leave_room(SIZE_LINE as u32, 2);
        }
        let read = ready!(piece.poll_fill(cx, reader))?;
        self.read += read as u64;
        self.bulk = piece.is_full();
        Poll::Ready(Ok((read > 0).then_some(piece)))
    }
}

/// Adds the framing of a chunk to its data.
fn chunk(mut piece: Buffer) -> Buffer {
    let line = format_size(piece.len());
    if !piece.push_front(&line) {
        let mut framed = Buffer::new();
        framed.push(&line);
        framed.push(piece.filled());
        piece = framed;
    }
    piece.push(b"\r\n");
    piece
}

/// The size line of a chunk, with leading zeros.
fn format_size(size: usize) -> [u8; SIZE_LINE] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut line = *b"00000000\r\n";
    for (at, digit) in line[..8].iter_mut().rev().enumerate() {
        *digit = HEX[(size >> (4 * at)) & 15];
    }
    line
}

#[cfg(test)]
mod tests;
