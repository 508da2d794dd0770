//! Client side of a WebSocket.
//!
//! An idle connection owns no buffer: all connections of a thread share a read and a write buffer, and keep
//! only an incomplete message, or data that the kernel did not accept.

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
    CloseFrame, Kind, Message, Stream, failures,
    frame::{self, FrameError, Header, Opcode},
};
use crate::stats::{ErrorKind, Failure};

/// Bytes of one read: what a socket has ready during a fast download.
const BUFFER_SIZE: usize = 128 << 10;
/// Maximum length of a received message.
const MAX_MESSAGE: usize = 128 << 20;

thread_local! {
    pub(super) static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_SIZE].into_boxed_slice());
    static WRITE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    stream: Stream,
    /// Bytes of an incomplete frame, or of frames not yet returned. Empty and unallocated while idle.
    pub(super) pending: BytesMut,
    /// Sent, but not yet accepted by the kernel. Empty and unallocated while idle.
    outgoing: BytesMut,
    /// Opcode and received fragments of an incomplete message.
    fragments: Option<(Opcode, Vec<u8>)>,
    /// Remaining payload bytes of a frame that is being discarded.
    pub(super) discarding: u64,
    /// The TLS stream may contain records that the kernel did not accept.
    unflushed: bool,
    /// The client has sent its close frame.
    closing: bool,
}

/// Result of one frame.
pub(super) enum Event {
    Message(Message),
    /// A fragment, a ping (answered), or a pong.
    Nothing,
}

impl WebSocket {
    /// A WebSocket over an upgraded stream; `early` are bytes that followed the 101 reply.
    pub(super) fn new(stream: Stream, early: &[u8]) -> Self {
        Self {
            stream,
            pending: BytesMut::from(early),
            outgoing: BytesMut::new(),
            fragments: None,
            discarding: 0,
            unflushed: false,
            closing: false,
        }
    }

    /// Sends a message. Does not wait for a slow server: data that the kernel does not accept is kept, and
    /// sent while [`WebSocket::next`] is awaited; see [`WebSocket::backlog`].
    ///
    /// # Errors
    ///
    /// `Disconnect` or `Tls`.
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
        self.send_with(kind, payload.len(), |out| out.extend_from_slice(payload)).await
    }

    /// Sends a message whose payload of `length` bytes is written by `write_payload` into a buffer of the thread, so
    /// that the client does not own a buffer.
    ///
    /// # Errors
    ///
    /// `Disconnect` or `Tls`.
    pub(crate) async fn send_with(
        &mut self,
        kind: Kind,
        length: usize,
        write_payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failure> {
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let mut write_payload = Some(write_payload);
        poll_fn(|cx| {
            let write_payload = write_payload.take();
            Poll::Ready(self.write_frame(cx, opcode, length, |out| {
                if let Some(write_payload) = write_payload {
                    write_payload(out);
                }
            }))
        })
        .await
    }

    /// Bytes sent, but not yet accepted by the kernel.
    pub(crate) fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    /// Returns the next message, and answers pings. Cancel safe.
    ///
    /// # Errors
    ///
    /// `Disconnect` (the connection ended without a close frame), `Tls` or `Protocol`.
    pub(crate) async fn next(&mut self) -> Result<Message, Failure> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sends a close frame and waits for the server's. The caller sets the deadline. Later messages are
    /// discarded.
    pub(crate) async fn close(mut self) {
        if !self.closing {
            self.closing = true;
            // An error means that the server has already closed the connection.
            let code = 1000_u16.to_be_bytes();
            let sent = poll_fn(|cx| Poll::Ready(self.write_control(cx, Opcode::Close, &code)));
            if sent.await.is_err() {
                return;
            }
        }
        while matches!(self.discard_payload().await, Ok(Ok(_))) {}
    }

    fn write_frame(
        &mut self,
        cx: &mut Context<'_>,
        opcode: Opcode,
        length: usize,
        write_payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failure> {
        WRITE_BUFFER.with_borrow_mut(|out| {
            out.clear();
            // The key may be predictable: it protects caches between browser and server, which do not exist
            // here.
            let key = fastrand::u32(..).to_ne_bytes();
            Header { fin: true, opcode, mask: Some(key), len: length as u64 }.write(out);
            let start = out.len();
            write_payload(out);
            frame::apply_mask(&mut out[start..], key, 0);
            let result = self.write_bytes(cx, out);
            // Frees the memory of a long message.
            out.shrink_to(BUFFER_SIZE);
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

    /// Writes as much of `bytes` as the kernel accepts, and keeps the rest.
    fn write_bytes(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), Failure> {
        if self.outgoing.is_empty() {
            while !bytes.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) => return Err(failures::ended()),
                    Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                    Poll::Ready(Err(error)) => return Err(failures::lost(&error)),
                    Poll::Pending => break,
                }
            }
        }
        self.outgoing.extend_from_slice(bytes);
        self.unflushed = matches!(self.stream, Stream::Tls(_));
        self.poll_flush(cx).map(|_| ())
    }

    /// Writes pending data. Returns whether all is written; if not, the task is woken when the kernel accepts
    /// more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(0)) => return Err(failures::ended()),
                Poll::Ready(Ok(written)) => self.outgoing.advance(written),
                Poll::Ready(Err(error)) => return Err(failures::lost(&error)),
                Poll::Pending => return Ok(false),
            }
            if self.outgoing.is_empty() {
                self.outgoing = BytesMut::new();
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(failures::lost(&error)),
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
            let event = READ_BUFFER.with_borrow_mut(|scratch| {
                let fresh = ready!(self.poll_fill(cx, scratch))?;
                if !self.pending.is_empty() {
                    self.pending.extend_from_slice(fresh);
                    return Poll::Ready(Ok(Event::Nothing));
                }
                // Usual case: complete frames only, so nothing must be kept.
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

    /// Reads into `scratch`. The result is not empty.
    pub(super) fn poll_fill<'s>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &'s mut [u8],
    ) -> Poll<Result<&'s [u8], Failure>> {
        let mut buf = ReadBuf::new(scratch);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
            Ok(()) if buf.filled().is_empty() => Poll::Ready(Err(failures::ended())),
            Ok(()) => {
                let filled = buf.filled().len();
                Poll::Ready(Ok(&scratch[..filled]))
            }
            Err(error) => Poll::Ready(Err(failures::lost(&error))),
        }
    }

    /// Handles one complete frame from earlier reads.
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

    /// Handles one complete frame at the start of `input`; also returns its length.
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
        let room =
            MAX_MESSAGE - self.fragments.as_ref().map_or(0, |(_, fragments)| fragments.len());
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
        let (opcode, whole) = match (header.opcode, self.fragments.take()) {
            (Opcode::Continuation, Some((opcode, mut fragments))) => {
                fragments.extend_from_slice(payload);
                (opcode, fragments)
            }
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(FrameError::FragmentOrder),
            (opcode, None) => (opcode, payload.to_vec()),
        };
        if !header.fin {
            self.fragments = Some((opcode, whole));
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
                let close_frame = CloseFrame::read(payload).map_err(malformed)?;
                if !self.closing {
                    self.closing = true;
                    // The server may have closed the connection without waiting.
                    let _ = self.write_control(cx, Opcode::Close, &payload[..payload.len().min(2)]);
                }
                return Ok(Event::Message(Message::Close(close_frame)));
            }
            _ => {}
        }
        Ok(Event::Nothing)
    }
}

pub(super) fn malformed(error: FrameError) -> Failure {
    Failure::new(ErrorKind::Protocol, format!("the server sent {error}"))
}
