//! Limits on the WebSocket messages of a client: their size and their rate, by frame headers (RFC 6455 §5.2).
//!
//! A [`LimitedStream`] wraps the client's stream, so that tunnels without limits pay nothing. It holds a frame back until
//! its header is complete and within the limits. Of a message that is too large, no more than the frames before pass.
//! With permessage-deflate, the compressed size counts.
//!
//! A client beyond its rate is not read: its messages wait in the buffers of the kernels, and at last in the client. A
//! client that has not caught up after [`MessageLimits::patience`] is refused. A message counts at its first frame.
//! Control frames, and continuations of less than [`SMALL`] bytes, count apart, with the same rate but at least
//! [`OTHER_RATE`]: they must not be a way around the limit, and pongs must pass where few messages may.
//!
//! After a refusal, the stream yields nothing until the client has answered the Close of the proxy or has ended; what it
//! sends meanwhile is dropped. Then the backend gets a Close with the same status. This module protects: frames that
//! peers could read in different ways are refused, too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    TunnelEndpoint,
    frame::{FrameHeader, FrameTracker, LONGEST},
    reason::CloseReason,
};
use crate::net::stream::ByteStream;

/// Continuations of fewer bytes are counted.
const SMALL: u64 = 1024;

/// Least limit of control frames and small continuations: the time between two, and how many may come at once.
const OTHER_RATE: (Duration, u32) = (Duration::from_millis(100), 10);

/// Most reads in one poll that drop bytes.
const ROUNDS: usize = 64;

/// Limits on the messages of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Maximum size of a message in bytes, over its fragments; `None`: unlimited.
    pub max_size: Option<u64>,
    /// Time between two messages, and the number of messages that may come at once; `None`: unlimited.
    pub rate: Option<(Duration, u32)>,
    /// How long a client may be beyond the rate.
    pub patience: Duration,
}

/// The stream of a client whose messages are limited.
#[derive(Debug)]
pub struct LimitedStream<S> {
    stream: S,
    state: Box<MessageState>,
}

#[derive(Debug)]
struct MessageState {
    limits: MessageLimits,
    /// Bytes that were read and may not pass yet.
    held: Bytes,
    /// Bytes of the current frame that may pass.
    left: u64,
    /// Size of the current message up to the current frame.
    size: u64,
    /// A message has begun, and its last fragment has not.
    fragmented: bool,
    /// When the bucket of messages is full again.
    messages_full_at: Instant,
    /// When the bucket of control frames and small continuations is full again.
    others_full_at: Instant,
    /// Reading pauses until this time.
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when the client is beyond its rate without a break.
    over_since: Option<Instant>,
    refusal: Option<Refusal>,
}

/// What follows after a refusal.
#[derive(Debug)]
struct Refusal {
    reason: CloseReason,
    /// Finds the client's Close behind what was refused.
    frames: FrameTracker,
    /// The Close for the backend; `None`: the client has not ended yet.
    close: Option<Bytes>,
}

/// Why a scan ends before the end of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The rest is an incomplete header.
    Incomplete,
    /// The next frame may pass at this time.
    Until(Instant),
    Refused(CloseReason),
}

impl<S: ByteStream> LimitedStream<S> {
    /// Limits the messages of a client from the first byte behind its handshake on.
    pub fn endpoint(client: TunnelEndpoint<S>, limits: MessageLimits) -> TunnelEndpoint<Self> {
        let TunnelEndpoint { stream, early } = client;
        let state = MessageState { held: early, ..MessageState::new(limits) };
        let stream = Self { stream, state: Box::new(state) };
        TunnelEndpoint { stream, early: Bytes::new() }
    }

    /// Reads what may pass. The buffer has room for a header.
    fn poll_passing(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, state } = self;
        let start = buffer.filled().len();
        debug_assert!(buffer.remaining() >= LONGEST, "no room for a header");
        loop {
            ready!(state.poll_pause(cx));
            if state.refusal.is_some() {
                return state.poll_drop(cx, stream, buffer);
            }
            if !state.held.is_empty() && state.release(buffer) {
                if buffer.filled().len() > start {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // At most a part of a header is held.
            buffer.put_slice(&std::mem::take(&mut state.held));
            let before = buffer.filled().len();
            match Pin::new(&mut *stream).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {}
                // The end, perhaps within a header.
                Poll::Ready(result) => return Poll::Ready(result),
                Poll::Pending => {
                    // The client has caught up.
                    state.over_since = None;
                    state.hold(buffer, start);
                    return Poll::Pending;
                }
            }
            let (passes, stop) = state.scan(&buffer.filled()[start..]);
            state.hold(buffer, start + passes);
            state.stop(stop);
            if passes > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl MessageState {
    fn new(limits: MessageLimits) -> Self {
        let now = Instant::now();
        Self {
            limits,
            held: Bytes::new(),
            left: 0,
            size: 0,
            fragmented: false,
            messages_full_at: now,
            others_full_at: now,
            pause: None,
            over_since: None,
            refusal: None,
        }
    }

    /// Moves held bytes that may pass; they are not copied again while they wait. False if a read is needed first.
    fn release(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let mut held = std::mem::take(&mut self.held);
        let some = held.len().min(buffer.remaining());
        let (passes, stop) = self.scan(&held[..some]);
        buffer.put_slice(&held[..passes]);
        held.advance(passes);
        // An emptied `Bytes` would still hold its memory.
        self.held = if held.is_empty() { Bytes::new() } else { held };
        self.stop(stop);
        passes > 0 || stop != Some(Stop::Incomplete)
    }

    /// Takes the bytes behind a position out of a buffer, and holds them.
    fn hold(&mut self, buffer: &mut ReadBuf<'_>, from: usize) {
        let rest = &buffer.filled()[from..];
        if !rest.is_empty() {
            self.held = Bytes::copy_from_slice(rest);
            buffer.set_filled(from);
        }
    }

    fn stop(&mut self, stop: Option<Stop>) {
        match stop {
            None | Some(Stop::Incomplete) => {}
            Some(Stop::Until(at)) => {
                let since = *self.over_since.get_or_insert_with(Instant::now);
                let at = at.min(since + self.limits.patience);
                self.pause = Some(Box::pin(sleep_until(at)));
            }
            Some(Stop::Refused(reason)) => self.refuse(reason),
        }
    }

    fn refuse(&mut self, reason: CloseReason) {
        self.refusal = Some(Refusal { reason, frames: FrameTracker::new(), close: None });
    }

    /// Waits until the next frame may pass, or the patience is over.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pause) = &mut self.pause else { return Poll::Ready(()) };
        ready!(pause.as_mut().poll(cx));
        self.pause = None;
        let patience = self.limits.patience;
        if self.over_since.is_some_and(|since| since.elapsed() >= patience) {
            self.refuse(CloseReason::MessageRate);
        }
        Poll::Ready(())
    }

    /// Returns how many of the bytes may pass, and why the rest may not.
    fn scan(&mut self, bytes: &[u8]) -> (usize, Option<Stop>) {
        let mut at = 0;
        loop {
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            at += payload;
            self.left -= payload as u64;
            if at == bytes.len() {
                return (at, None);
            }
            let stop = match FrameHeader::read(&bytes[at..]) {
                Ok(Some(header)) => match self.enter(&bytes[at..], &header) {
                    Ok(()) => {
                        at += header.length;
                        continue;
                    }
                    Err(stop) => stop,
                },
                Ok(None) => Stop::Incomplete,
                Err(()) => Stop::Refused(CloseReason::InvalidFrame),
            };
            return (at, Some(stop));
        }
    }

    /// Enters a frame whose header is complete, if it is within the limits.
    fn enter(&mut self, bytes: &[u8], header: &FrameHeader) -> Result<(), Stop> {
        let (opcode, last) = (bytes[0] & 0x0f, bytes[0] & 0x80 != 0);
        let is_masked = bytes[1] & 0x80 != 0;
        let is_control = opcode >= 0x8;
        let continues = opcode == 0x0;
        if !is_masked || !is_control && continues != self.fragmented {
            return Err(Stop::Refused(CloseReason::InvalidFrame));
        }
        let before = if continues { self.size } else { 0 };
        let size = before.saturating_add(header.payload);
        if !is_control && self.limits.max_size.is_some_and(|most| size > most) {
            return Err(Stop::Refused(CloseReason::MessageTooLarge));
        }
        if is_control || continues {
            if !header.close && (is_control || header.payload < SMALL) {
                let rate = self.limits.rate;
                let rate = rate
                    .map(|(interval, burst)| (interval.min(OTHER_RATE.0), burst.max(OTHER_RATE.1)));
                take(&mut self.others_full_at, rate)?;
            }
        } else {
            take(&mut self.messages_full_at, self.limits.rate)?;
        }
        if !is_control {
            (self.size, self.fragmented) = (size, !last);
        }
        // Nothing follows a Close: what a broken client sends after it is the backend's concern.
        self.left = if header.close { u64::MAX } else { header.payload };
        Ok(())
    }

    /// Drops bytes until the client has sent Close or has ended, then yields a Close for the backend, and the end.
    fn poll_drop<S: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(refusal) = &mut self.refusal else { return Poll::Pending };
        refusal.frames.pass(&std::mem::take(&mut self.held));
        let mut dropped = [0; 4096];
        for _ in 0..ROUNDS {
            if let Some(close) = &mut refusal.close {
                let some = close.len().min(buffer.remaining());
                buffer.put_slice(&close[..some]);
                close.advance(some);
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut dropped);
            let has_closed = refusal.frames.is_closed();
            if !has_closed {
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            }
            if has_closed || read.filled().is_empty() {
                refusal.close = Some(refusal.reason.client_frame());
            }
            refusal.frames.pass(read.filled());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Takes a token from a bucket.
fn take(full_at: &mut Instant, rate: Option<(Duration, u32)>) -> Result<(), Stop> {
    let Some((interval, burst)) = rate else { return Ok(()) };
    let now = Instant::now();
    let next = now.max(*full_at) + interval;
    let latest = now + interval * burst;
    if next > latest {
        return Err(Stop::Until(now + (next - latest)));
    }
    *full_at = next;
    Ok(())
}

impl<S: ByteStream> AsyncRead for LimitedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_passing(cx, buffer)
    }
}

impl<S: ByteStream> AsyncWrite for LimitedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: ByteStream> ByteStream for LimitedStream<S> {
    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }

    fn shut(&self) -> io::Result<()> {
        self.stream.shut()
    }

    fn has_failed(&self) -> bool {
        self.stream.has_failed()
    }

    fn refusal(&self) -> Option<u8> {
        self.state.refusal.as_ref().map(|refusal| refusal.reason.code())
    }
}

#[cfg(test)]
mod tests;
