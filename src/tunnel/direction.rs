//! One direction of a tunnel: reads from one side, and writes to the other.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;

use super::{
    frame::FrameTracker,
    splice::{Bulk, Pipe},
};
use crate::net::stream::ByteStream;

/// Maximum reads per direction and poll: a bulk flow yields to other tasks after 512 KiB.
pub(super) const ROUNDS: usize = 8;

/// State of one direction.
#[derive(Debug)]
pub(super) struct Direction {
    /// Rest of a short write; otherwise empty and without memory.
    pub(super) rest: Bytes,
    /// Rest of a short spliced write; never set together with `rest`.
    pub(super) held: Option<Box<Pipe>>,
    pub(super) moved: u64,
    pub(super) bulk: Bulk,
    /// Position of the writer within the frames.
    pub(super) frames: FrameTracker,
    pub(super) state: CopyState,
    /// Whether to stop writing at the next frame boundary.
    pub(super) stops: bool,
    /// On EOF without close_notify, send FIN but no close_notify: without frames, the bytes do not
    /// show that some are missing.
    needs_close_notify: bool,
    /// Whether the reader has ended without close_notify.
    missing_close_notify: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    /// Bytes may arrive. If `unflushed`, written bytes may still be buffered in the writer (TLS).
    Open { unflushed: bool },
    /// The reader has ended; the end is still to be passed to the writer.
    Ending,
    /// The end has been passed to the writer.
    Ended,
}

/// Failed operation of a direction.
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl Direction {
    pub(super) fn starting_with(
        early: Bytes,
        frames: FrameTracker,
        needs_close_notify: bool,
    ) -> Self {
        let state = CopyState::Open { unflushed: false };
        let (bulk, held) = (Bulk::default(), None);
        let (stops, missing_close_notify) = (false, false);
        Self {
            moved: 0,
            rest: early,
            held,
            bulk,
            frames,
            state,
            stops,
            needs_close_notify,
            missing_close_notify,
        }
    }

    /// Whether the reader has not ended.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, CopyState::Open { .. })
    }

    /// Whether nothing is left to do.
    pub(super) fn has_ended(&self) -> bool {
        self.state == CopyState::Ended
    }

    /// Whether bytes or an end wait for the writer.
    pub(super) fn holds(&self) -> bool {
        !self.rest.is_empty()
            || self.held.is_some()
            || matches!(self.state, CopyState::Open { unflushed: true } | CopyState::Ending)
    }

    pub(super) fn part<W: ByteStream>(&mut self, cx: &mut Context<'_>, writer: &mut W) {
        if self.holds() {
            writer.reset_on_drop();
        } else if !self.has_ended() {
            // Best effort: a close that would block is not sent.
            let _ = Pin::new(writer).poll_shutdown(cx);
        }
    }

    /// Marks the reader as ended.
    pub(super) fn end(&mut self) {
        self.state = CopyState::Ending;
    }

    /// Moves available bytes. Ready once the direction has ended or failed, or has reached the
    /// boundary where it stops. `is_last`: the other direction has ended, so that the end of this one
    /// drops both streams.
    pub(super) fn poll<R: ByteStream, W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
        is_last: bool,
    ) -> Poll<Result<(), CopyError>> {
        for _ in 0..ROUNDS {
            ready!(self.poll_rest(cx, writer)).map_err(CopyError::Write)?;
            if self.has_stopped() {
                return Poll::Ready(Ok(()));
            }
            match self.state {
                CopyState::Ended => return Poll::Ready(Ok(())),
                // The drop sends the FIN. TLS would have to send close_notify first.
                CopyState::Ending if is_last && writer.plain().is_some() => {
                    self.state = CopyState::Ended;
                }
                CopyState::Ending => {
                    ready!(self.poll_pass_end(cx, writer)).map_err(CopyError::Write)?;
                    self.state = CopyState::Ended;
                }
                CopyState::Open { .. } => ready!(self.poll_move(cx, reader, writer, scratch))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes the end to the writer; with close_notify only if the reader sent one.
    pub(super) fn poll_pass_end<W: ByteStream>(
        &self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        if !self.missing_close_notify {
            return Pin::new(writer).poll_shutdown(cx);
        }
        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
        Poll::Ready(writer.shut())
    }

    pub(super) fn poll_rest<W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        if self.held.is_some() {
            ready!(self.poll_held(cx, writer.plain()))?;
        }
        while !self.rest.is_empty() {
            let may = self.allowed(&self.rest);
            if may == 0 {
                return Poll::Ready(Ok(()));
            }
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.rest[..may]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.frames.pass(&self.rest[..written]);
            self.rest.advance(written);
            self.moved += written as u64;
            self.state = CopyState::Open { unflushed: true };
        }
        // An emptied `Bytes` still holds its memory.
        self.rest = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes the bytes.
    pub(super) fn poll_copy<R: ByteStream, W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
    ) -> Poll<Result<(), CopyError>> {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(reader).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {}
            // A TLS peer that closes without close_notify has still closed, but the connection may
            // as well have been cut by an attacker.
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.missing_close_notify = self.needs_close_notify;
            }
            Poll::Ready(Err(e)) => return Poll::Ready(Err(CopyError::Read(e))),
            Poll::Pending => {
                if self.state == (CopyState::Open { unflushed: true }) {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(CopyError::Write)?;
                    self.state = CopyState::Open { unflushed: false };
                }
                return Poll::Pending;
            }
        }
        let mut filled = buffer.filled();
        if filled.is_empty() {
            self.state = CopyState::Ending;
            return Poll::Ready(Ok(()));
        }
        self.state = CopyState::Open { unflushed: true };
        self.bulk.note(filled.len());
        filled = &filled[..self.allowed(filled)];
        while !filled.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, filled) {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.frames.pass(&filled[..written]);
                    self.moved += written as u64;
                    filled = &filled[written..];
                }
                Poll::Ready(Ok(_)) => {
                    return Poll::Ready(Err(CopyError::Write(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(CopyError::Write(e))),
                Poll::Pending => {
                    self.rest = Bytes::copy_from_slice(filled);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the direction has reached the boundary where it stops.
    pub(super) fn has_stopped(&self) -> bool {
        self.stops && self.frames.at_boundary()
    }

    /// Number of these bytes that may be written.
    pub(super) fn allowed(&self, bytes: &[u8]) -> usize {
        if !self.stops {
            return bytes.len();
        }
        let mut ahead = self.frames;
        ahead.pass_to_boundary(bytes).unwrap_or(bytes.len())
    }
}
