//! Closing a tunnel on order: a Close frame of ours to the client at a frame boundary (RFC 6455,
//! section 5.5.1), and the client's own Close to the backend.
//!
//! After our Close nothing of the backend's follows it; what still comes is read and dropped, so that
//! a backend never stalls on a client that leaves. The client's bytes go on to the backend until its
//! Close has passed, which is masked as a backend expects it; then both sides end. A client that hears
//! of a restart (1012) connects again by itself.
//!
//! A tunnel that never had frames ends at its next pause of [`QUIET_TIME`], when nothing is under way as far
//! as bytes tell: none come, and none wait for a slow reader. An operator who names it ends it at once.
//! Its peers are told in order, by FIN and TLS's close_notify, except where bytes for one are left: that
//! one sees a reset, so that it takes nothing for whole.
//!
//! Where frames are lost sight of, nothing is sent: the tunnel lives until it ends or is cut. A drain
//! cuts what is left at its own deadline. No other close has one, so that it brings its own: a client
//! that reads nothing, a frame without an end and a tunnel without frames are cut after [`CLOSE_TIMEOUT`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::{
    TunnelObserver,
    copy::{CopyError, CopyState, Direction, IdleTimer, ROUNDS, Tunnel},
    registry::TunnelCommand,
};
use crate::{
    error::{Side, Termination},
    net::stream::ByteStream,
};

/// How long a client may take to answer our Close. Every client library does so by itself, within a
/// round trip: one that does not has lost its event loop or its network, and is cut.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a close that no drain has ordered may wait until our Close is with the client. Several round
/// trips and a large frame on a slow line take less; past it, nobody reads.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a tunnel without frames that is to be closed must be silent, both ways.
pub const QUIET_TIME: Duration = Duration::from_secs(1);

/// Why a tunnel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its backend drains, or the process.
    Drained,
    /// Its backend has more than its share.
    Rebalanced,
    /// It has lived for as long as a tunnel may.
    Aged,
    /// An operator named it.
    Operator,
    /// Its backend is down.
    Down,
}

/// How far a tunnel's close has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CloseState {
    /// Nobody ordered one.
    #[default]
    No,
    /// The next boundary is waited for.
    Ordered(CloseReason),
    /// It has no frames: it ends at its next pause.
    Quiet(CloseReason),
    /// One of the peers has said Close or FIN before us: they are left to it, for as long as a client
    /// may take to answer ours.
    Theirs(CloseReason),
    /// Our Close is on its way.
    Sending(CloseReason, BackendEnd),
    /// It is with the client, which is to answer.
    Sent(CloseReason, BackendEnd),
}

/// The backend's end of a tunnel that is being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendEnd {
    Open,
    /// It has said FIN.
    Ended,
    /// It takes nothing any more.
    Failed,
}

impl CloseReason {
    const ALL: [Self; 5] =
        [Self::Drained, Self::Rebalanced, Self::Aged, Self::Operator, Self::Down];

    /// How a tunnel ends that is closed for this reason.
    pub fn termination(self) -> Termination {
        match self {
            Self::Drained => Termination::Drained,
            Self::Rebalanced => Termination::Rebalanced,
            Self::Aged => Termination::Aged,
            Self::Operator => Termination::Closed(Side::Proxy),
            Self::Down => Termination::BackendDown,
        }
    }

    /// Whether whoever ordered it cuts what is left of the tunnel some time.
    fn has_drain_deadline(self) -> bool {
        self == Self::Drained
    }

    /// Not 0, and below 0x80.
    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// A whole Close frame from a server: status 1012, "service restart", and a text.
    pub(super) fn frame(self) -> &'static [u8] {
        match self {
            Self::Drained => b"\x88\x0a\x03\xf4draining",
            Self::Rebalanced => b"\x88\x0d\x03\xf4rebalancing",
            Self::Aged => b"\x88\x11\x03\xf4connection aged",
            Self::Operator => b"\x88\x14\x03\xf4closed by operator",
            Self::Down => b"\x88\x0e\x03\xf4backend down",
        }
    }
}

impl CloseState {
    /// Whether the tunnel's pause is a deadline, which no traffic moves.
    pub(super) fn has_deadline(self) -> bool {
        match self {
            Self::No | Self::Quiet(_) => false,
            Self::Ordered(reason) | Self::Sending(reason, _) => !reason.has_drain_deadline(),
            Self::Theirs(_) | Self::Sent(..) => true,
        }
    }

    /// How a tunnel ends whose pause has been too long.
    pub(super) fn timed_out(self) -> Termination {
        match self {
            Self::No | Self::Ordered(CloseReason::Drained) => Termination::Idle,
            Self::Ordered(reason)
            | Self::Quiet(reason)
            | Self::Theirs(reason)
            | Self::Sending(reason, _)
            | Self::Sent(reason, _) => reason.termination(),
        }
    }
}

impl<A: ByteStream, B: ByteStream, G: TunnelObserver> Tunnel<A, B, G> {
    /// Takes note of an order; ready where it is to cut.
    pub(super) fn poll_command(&mut self, cx: &mut Context<'_>) -> Poll<Termination> {
        match self.ticket.command(cx) {
            Some(TunnelCommand::Cut(reason)) => {
                self.part(cx);
                return Poll::Ready(reason.unwrap_or(CloseReason::Drained).termination());
            }
            Some(TunnelCommand::Close(reason)) if self.closing == CloseState::No => {
                if !self.ticket.is_framed() {
                    return self.close_at_pause(cx, reason);
                }
                self.closing = CloseState::Ordered(reason);
                self.down.stops = true;
                if self.closing.has_deadline() {
                    self.pause = Some(IdleTimer::new(CLOSE_TIMEOUT));
                }
            }
            Some(TunnelCommand::Close(_)) | None => {}
        }
        Poll::Pending
    }

    /// Ends a tunnel without frames when it next is silent, for `CLOSE_TIMEOUT` at most where nobody cuts it;
    /// ready where that is now.
    fn close_at_pause(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Poll<Termination> {
        let latest = match reason {
            // To be silent between two frames is nothing that it can be.
            CloseReason::Rebalanced => return Poll::Pending,
            CloseReason::Operator => {
                self.part(cx);
                return Poll::Ready(reason.termination());
            }
            CloseReason::Drained => None,
            CloseReason::Aged | CloseReason::Down => Some(CLOSE_TIMEOUT),
        };
        self.closing = CloseState::Quiet(reason);
        self.pause = Some(IdleTimer::within(QUIET_TIME, latest));
        Poll::Pending
    }

    /// Begins an ordered close where what has passed allows that now. Whether it has begun, so that
    /// nothing of the backend's may pass any more.
    pub(super) fn begin_close(&mut self) -> bool {
        let reason = match self.closing {
            CloseState::No | CloseState::Quiet(_) | CloseState::Theirs(_) => return false,
            CloseState::Sending(..) | CloseState::Sent(..) => return true,
            CloseState::Ordered(reason) => reason,
        };
        let closed = self.up.frames.is_closed() || self.down.frames.is_closed();
        if closed || !self.down.is_open() {
            self.down.stops = false;
            self.closing = CloseState::Theirs(reason);
            self.pause = Some(IdleTimer::new(ANSWER_TIMEOUT));
            return false;
        }
        if self.down.frames.at_boundary() {
            // What a short write left over is of frames that have not begun: it goes, with the memory.
            self.down.rest = Bytes::from_static(reason.frame());
            self.down.stops = false;
            self.closing = CloseState::Sending(reason, BackendEnd::Open);
            return true;
        }
        false
    }

    /// Our Close, and then what the peers still have to say. Ready once both have ended.
    pub(super) fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Termination> {
        let (CloseState::Sending(reason, mut backend_end)
        | CloseState::Sent(reason, mut backend_end)) = self.closing
        else {
            return Poll::Pending;
        };
        let written = self.down.poll_written(cx, &mut self.client);
        if matches!(self.closing, CloseState::Sending(..)) && matches!(written, Poll::Ready(Ok(())))
        {
            self.closing = CloseState::Sent(reason, backend_end);
            self.pause = Some(IdleTimer::new(ANSWER_TIMEOUT));
        }
        if backend_end == BackendEnd::Open
            && let Poll::Ready(end) = poll_drop(cx, &mut self.backend, scratch)
        {
            backend_end = if end.is_ok() { BackendEnd::Ended } else { BackendEnd::Failed };
        }
        let client = self.poll_client_close(cx, &mut backend_end, scratch);
        if let CloseState::Sending(_, now) | CloseState::Sent(_, now) = &mut self.closing {
            *now = backend_end;
        }
        if matches!((&written, &client), (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(())))) {
            // The client has gone without an answer.
            self.backend.reset_on_drop();
            return Poll::Ready(reason.termination());
        }
        let over = client.is_ready() || backend_end == BackendEnd::Failed;
        if !over || !matches!(self.closing, CloseState::Sent(..)) {
            return Poll::Pending;
        }
        // A client that has not read yet must still find our Close: no reset from here on.
        ready!(self.down.poll_shut(cx, &mut self.client));
        if client.is_ready() && backend_end != BackendEnd::Open {
            return Poll::Ready(reason.termination());
        }
        Poll::Pending
    }

    /// The client's bytes up to its Close, to the backend while that takes them. Ready once it has
    /// said Close or FIN and the backend was told; an error where it is gone.
    fn poll_client_close(
        &mut self,
        cx: &mut Context<'_>,
        backend_end: &mut BackendEnd,
        scratch: &mut [u8],
    ) -> Poll<Result<(), ()>> {
        while *backend_end != BackendEnd::Failed {
            match self.up.poll(cx, &mut self.client, &mut self.backend, scratch) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(CopyError::Read(_))) => return Poll::Ready(Err(())),
                Poll::Ready(Err(CopyError::Write(_))) => *backend_end = BackendEnd::Failed,
                Poll::Pending if self.up.frames.is_closed() && self.up.is_open() => self.up.end(),
                Poll::Pending => return Poll::Pending,
            }
        }
        poll_drop(cx, &mut self.client, scratch).map_err(drop)
    }
}

impl Direction {
    /// Writes and flushes what is left.
    fn poll_written<W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx, writer))?;
        if self.state == (CopyState::Open { unflushed: true }) {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.state = CopyState::Open { unflushed: false };
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the writer, once; whether that succeeds does not matter any more.
    fn poll_shut<W: ByteStream>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<()> {
        if self.state != CopyState::Ended {
            let _ = ready!(Pin::new(writer).poll_shutdown(cx));
            self.state = CopyState::Ended;
        }
        Poll::Ready(())
    }
}

/// Reads and drops. Ready at the end.
fn poll_drop<R: ByteStream>(
    cx: &mut Context<'_>,
    reader: &mut R,
    scratch: &mut [u8],
) -> Poll<io::Result<()>> {
    for _ in 0..ROUNDS {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::frame::FrameTracker;

    #[test]
    fn each_reason_has_a_whole_unmasked_close_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::of_code(reason.code()), Some(reason));
            let frame = reason.frame();
            assert!(seen.insert(frame));
            let mut tracker = FrameTracker::new();
            tracker.pass(frame);
            assert!(tracker.is_closed(), "{reason:?}");
            assert_eq!((frame[0], frame[1] & 0x80), (0x88, 0));
            assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), 1012);
            assert!(std::str::from_utf8(&frame[4..]).is_ok());
        }
        assert_eq!((CloseReason::of_code(0), CloseReason::of_code(6)), (None, None));
    }
}
