//! One WebSocket from the client's side.
//!
//! A connection owns no buffer while it is idle: all connections of a thread read into and write
//! from two buffers of that thread, and keep only what is left of a message that is not yet whole,
//! or of a write that the kernel would not take.

use std::{
    cell::RefCell,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Closure, Kind, Message, Stream, fault,
    frame::{self, FrameError, Header, Opcode},
};
use crate::stats::{ErrorKind, Failure};

/// As much as one read takes: what a socket holds at a time in a fast download.
const SCRATCH: usize = 128 << 10;
/// Longest message that is taken.
const MAX_MESSAGE: usize = 128 << 20;

thread_local! {
    pub(super) static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    stream: Stream,
    /// Read, but not yet a whole frame or not yet asked for. Empty and unallocated while idle.
    pub(super) pending: BytesMut,
    /// Sent, but not yet taken by the kernel. Empty and unallocated while idle.
    outgoing: BytesMut,
    /// The parts of a message that is not whole yet, and what it is.
    parts: Option<(Opcode, Vec<u8>)>,
    /// Payload bytes of a frame that is being skipped.
    pub(super) skipping: u64,
    /// A TLS stream may hold records that the kernel did not take.
    unflushed: bool,
    /// Our close frame is out.
    closing: bool,
}

/// What one frame came to.
pub(super) enum Event {
    Message(Message),
    /// A part of a message, a ping (answered), a pong.
    Nothing,
}

impl WebSocket {
    /// Over a stream whose upgrade was accepted; `early` came right behind the reply.
    pub(super) fn new(stream: Stream, early: &[u8]) -> Self {
        Self {
            stream,
            pending: BytesMut::from(early),
            outgoing: BytesMut::new(),
            parts: None,
            skipping: 0,
            unflushed: false,
            closing: false,
        }
    }

    /// Sends a message. Does not wait for a slow server: what the kernel does not take is kept, and
    /// goes out while [`WebSocket::next`] is awaited; see [`WebSocket::backlog`].
    ///
    /// # Errors
    ///
    /// `Disconnect` or `Tls`.
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
        self.send_made(kind, payload.len(), |out| out.extend_from_slice(payload)).await
    }

    /// The same with a payload of `length` bytes that `make` appends to a buffer of the thread's:
    /// the client itself need not hold it.
    ///
    /// # Errors
    ///
    /// `Disconnect` or `Tls`.
    pub(crate) async fn send_made(
        &mut self,
        kind: Kind,
        length: usize,
        make: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failure> {
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let mut make = Some(make);
        poll_fn(|cx| {
            let make = make.take();
            Poll::Ready(self.write_frame(cx, opcode, length, |out| {
                if let Some(make) = make {
                    make(out);
                }
            }))
        })
        .await
    }

    /// Bytes that were sent, but are still here.
    pub(crate) fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    /// The next message; pings are answered meanwhile. May be dropped and called again at any time.
    ///
    /// # Errors
    ///
    /// `Disconnect` (an end without a close frame), `Tls` or `Protocol`.
    pub(crate) async fn next(&mut self) -> Result<Message, Failure> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Says goodbye and waits for the server's. The caller sets the deadline. Messages that are still
    /// coming are dropped.
    pub(crate) async fn close(mut self) {
        if !self.closing {
            self.closing = true;
            // A server that is gone needs no goodbye.
            let goodbye = 1000_u16.to_be_bytes();
            let said = poll_fn(|cx| Poll::Ready(self.write_control(cx, Opcode::Close, &goodbye)));
            if said.await.is_err() {
                return;
            }
        }
        while matches!(self.skim().await, Ok(Ok(_))) {}
    }

    fn write_frame(
        &mut self,
        cx: &mut Context<'_>,
        opcode: Opcode,
        length: usize,
        make: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failure> {
        WRITE.with_borrow_mut(|out| {
            out.clear();
            // A key need not be unpredictable here: no browser's cache is to be protected.
            let key = fastrand::u32(..).to_ne_bytes();
            Header { fin: true, opcode, mask: Some(key), len: length as u64 }.write(out);
            let start = out.len();
            make(out);
            frame::apply_mask(&mut out[start..], key, 0);
            let result = self.write_bytes(cx, out);
            // One long message is not to stay for the rest of the run.
            out.shrink_to(SCRATCH);
            result
        })
    }

    fn write_control(
        &mut self,
        cx: &mut Context<'_>,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.write_frame(cx, opcode, payload.len(), |out| out.extend_from_slice(payload))
    }

    /// Gives the kernel what it takes of `bytes` and keeps the rest.
    fn write_bytes(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), Failure> {
        if self.outgoing.is_empty() {
            while !bytes.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) => return Err(fault::ended()),
                    Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                    Poll::Ready(Err(error)) => return Err(fault::lost(&error)),
                    Poll::Pending => break,
                }
            }
        }
        self.outgoing.extend_from_slice(bytes);
        self.unflushed = matches!(self.stream, Stream::Tls(_));
        self.poll_flush(cx).map(|_| ())
    }

    /// Whether all is out; if not, the task is woken when more can go.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(0)) => return Err(fault::ended()),
                Poll::Ready(Ok(written)) => self.outgoing.advance(written),
                Poll::Ready(Err(error)) => return Err(fault::lost(&error)),
                Poll::Pending => return Ok(false),
            }
            if self.outgoing.is_empty() {
                self.outgoing = BytesMut::new();
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(fault::lost(&error)),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Failure>> {
        loop {
            self.poll_flush(cx)?;
            while let Some(event) = self.take_pending(cx)? {
                if let Event::Message(message) = event {
                    return Poll::Ready(Ok(message));
                }
            }
            let event = READ.with_borrow_mut(|scratch| {
                let fresh = ready!(self.poll_fill(cx, scratch))?;
                if !self.pending.is_empty() {
                    self.pending.extend_from_slice(fresh);
                    return Poll::Ready(Ok(Event::Nothing));
                }
                // The usual case: whole frames, of which nothing need be kept.
                let (used, event) = match self.read_frame(cx, fresh)? {
                    Some((used, event)) => (used, event),
                    None => (0, Event::Nothing),
                };
                self.pending.extend_from_slice(&fresh[used..]);
                Poll::Ready(Ok::<_, Failure>(event))
            });
            if let Event::Message(message) = ready!(event)? {
                return Poll::Ready(Ok(message));
            }
        }
    }

    /// Reads into `scratch`; what it read is never empty.
    pub(super) fn poll_fill<'s>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &'s mut [u8],
    ) -> Poll<Result<&'s [u8], Failure>> {
        let mut buf = ReadBuf::new(scratch);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
            Ok(()) if buf.filled().is_empty() => Poll::Ready(Err(fault::ended())),
            Ok(()) => {
                let filled = buf.filled().len();
                Poll::Ready(Ok(&scratch[..filled]))
            }
            Err(error) => Poll::Ready(Err(fault::lost(&error))),
        }
    }

    /// One whole frame of those that were read earlier.
    fn take_pending(&mut self, cx: &mut Context<'_>) -> Result<Option<Event>, Failure> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let pending = mem::take(&mut self.pending);
        let result = self.read_frame(cx, &pending);
        self.pending = pending;
        let Some((used, event)) = result? else {
            return Ok(None);
        };
        self.pending.advance(used);
        if self.pending.is_empty() {
            self.pending = BytesMut::new();
        }
        Ok(Some(event))
    }

    /// One whole frame at the start of `input`, and its length.
    pub(super) fn read_frame(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
    ) -> Result<Option<(usize, Event)>, Failure> {
        let Some((header, start)) = Header::parse(input).map_err(malformed)? else {
            return Ok(None);
        };
        if header.mask.is_some() {
            return Err(malformed(FrameError::Mask));
        }
        let room = MAX_MESSAGE - self.parts.as_ref().map_or(0, |(_, parts)| parts.len());
        if header.len > room as u64 {
            return Err(malformed(FrameError::TooLong(MAX_MESSAGE)));
        }
        let end = start + header.len as usize;
        let Some(payload) = input.get(start..end) else {
            return Ok(None);
        };
        let event = match header.opcode {
            opcode if opcode.is_control() => self.control(cx, opcode, payload)?,
            _ => self.data(header, payload).map_err(malformed)?,
        };
        Ok(Some((end, event)))
    }

    fn data(&mut self, header: Header, payload: &[u8]) -> Result<Event, FrameError> {
        let (opcode, whole) = match (header.opcode, self.parts.take()) {
            (Opcode::Continuation, Some((opcode, mut parts))) => {
                parts.extend_from_slice(payload);
                (opcode, parts)
            }
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(FrameError::Order),
            (opcode, None) => (opcode, payload.to_vec()),
        };
        if !header.fin {
            self.parts = Some((opcode, whole));
            return Ok(Event::Nothing);
        }
        Ok(Event::Message(match opcode {
            Opcode::Text => Message::Text(String::from_utf8(whole).map_err(|_| FrameError::Utf8)?),
            _ => Message::Binary(whole),
        }))
    }

    fn control(
        &mut self,
        cx: &mut Context<'_>,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<Event, Failure> {
        match opcode {
            Opcode::Ping => self.write_control(cx, Opcode::Pong, payload)?,
            Opcode::Close => {
                let closure = Closure::read(payload).map_err(malformed)?;
                if !self.closing {
                    self.closing = true;
                    // The server may have gone without waiting for this.
                    let _ = self.write_control(cx, Opcode::Close, &payload[..payload.len().min(2)]);
                }
                return Ok(Event::Message(Message::Close(closure)));
            }
            _ => {}
        }
        Ok(Event::Nothing)
    }
}

pub(super) fn malformed(error: FrameError) -> Failure {
    Failure::new(ErrorKind::Protocol, format!("the server sent {error}"))
}
