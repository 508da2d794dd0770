//! Closing a tunnel by the proxy: a Close frame to the client at a frame boundary (RFC 6455 §5.5.1),
//! and the client's Close to the backend.
//!
//! No bytes of the backend follow the proxy's Close; they are read and dropped, so that the backend
//! never stalls on a client that leaves. The client's bytes are passed to the backend up to the
//! client's Close, which is masked as a backend expects it; then both sides end. A client that gets
//! the status "service restart" (1012) reconnects by itself.
//!
//! A tunnel without frames ends at its next pause of [`QUIET_TIME`], when apparently nothing is in
//! progress: no bytes arrive, and none wait for a slow reader. An operator's close ends it at once.
//! Its peers get FIN and TLS's close_notify. If bytes for a peer are left, this peer gets a reset,
//! so that it does not take the data for complete.
//!
//! If the frame boundary is lost, nothing is sent: the tunnel lives until it ends or is cut. A drain
//! cuts the remaining tunnels at its deadline. Other closes have their own deadline: a client that
//! reads nothing, a frame that does not end, and a tunnel without frames are cut after
//! [`CLOSE_TIMEOUT`].

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
    copy::{IdleTimer, Tunnel},
    direction::{CopyError, CopyState, Direction, ROUNDS},
    reason::CloseReason,
    registry::TunnelCommand,
};
use crate::{error::Termination, net::stream::ByteStream};

/// How long a client may take to answer the proxy's Close. Every client library answers within a
/// round trip; a client that does not has a blocked event loop or no network, and is cut.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Deadline, except in a drain, until the proxy's Close has been written to the client. Several
/// round trips and a large frame on a slow line take less.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a tunnel without frames must be silent in both directions before it is closed.
pub const QUIET_TIME: Duration = Duration::from_secs(1);

/// State of a close by the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CloseState {
    /// No close.
    #[default]
    None,
    /// Waits for the next frame boundary.
    Requested(CloseReason),
    /// Tunnel without frames: ends at its next pause.
    Quiet(CloseReason),
    /// A peer sent Close or FIN first: the peers finish by themselves within the time that a client
    /// may take to answer.
    PeerClosing(CloseReason),
    /// The proxy's Close is being written.
    Sending(CloseReason, BackendEnd),
    /// The proxy's Close has been written; waits for the client's.
    Sent(CloseReason, BackendEnd),
}

/// Backend side of a tunnel that is being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendEnd {
    Open,
    /// The backend has sent FIN.
    Ended,
    /// Writes to the backend fail.
    Failed,
}

impl CloseState {
    /// Whether the timer is a fixed deadline, which no traffic moves.
    pub(super) fn has_deadline(self) -> bool {
        match self {
            Self::None | Self::Quiet(_) => false,
            Self::Requested(reason) | Self::Sending(reason, _) => !reason.has_drain_deadline(),
            Self::PeerClosing(_) | Self::Sent(..) => true,
        }
    }

    /// Termination of a tunnel whose timer has expired.
    pub(super) fn timed_out(self) -> Termination {
        match self {
            Self::None | Self::Requested(CloseReason::Drained) => Termination::Idle,
            Self::Requested(reason)
            | Self::Quiet(reason)
            | Self::PeerClosing(reason)
            | Self::Sending(reason, _)
            | Self::Sent(reason, _) => reason.termination(),
        }
    }
}

impl<A: ByteStream, B: ByteStream, G: TunnelObserver> Tunnel<A, B, G> {
    /// Handles a command; ready if the tunnel ends at once.
    pub(super) fn poll_command(&mut self, cx: &mut Context<'_>) -> Poll<Termination> {
        match self.ticket.command(cx) {
            Some(TunnelCommand::Cut(reason)) => {
                self.part(cx);
                return Poll::Ready(reason.unwrap_or(CloseReason::Drained).termination());
            }
            Some(TunnelCommand::Close(reason)) if self.closing == CloseState::None => {
                if !self.ticket.is_framed() {
                    return self.close_at_pause(cx, reason);
                }
                self.request_close(reason);
            }
            Some(TunnelCommand::Close(_)) | None => {}
        }
        Poll::Pending
    }

    fn request_close(&mut self, reason: CloseReason) {
        self.closing = CloseState::Requested(reason);
        self.down.stops = true;
        if self.closing.has_deadline() {
            self.pause = Some(IdleTimer::new(CLOSE_TIMEOUT));
        }
    }

    /// Closes the tunnel if the client's stream has refused what the client sends.
    pub(super) fn note_refusal(&mut self) {
        if self.closing == CloseState::None
            && let Some(reason) = self.client.refusal().and_then(CloseReason::of_code)
        {
            self.request_close(reason);
        }
    }

    /// Termination of a tunnel whose client's stream has refused what the client sends.
    pub(super) fn refused(&self) -> Option<Termination> {
        let reason = self.client.refusal().and_then(CloseReason::of_code);
        reason.map(CloseReason::termination)
    }

    /// Closes a tunnel without frames at its next silence, after at most `CLOSE_TIMEOUT` unless a
    /// drain cuts it; ready if the tunnel ends at once.
    fn close_at_pause(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Poll<Termination> {
        let latest = match reason {
            // Unframed tunnels have no frame boundary to close at.
            CloseReason::Rebalanced => return Poll::Pending,
            // Streams without frames refuse no message.
            CloseReason::Operator
            | CloseReason::MessageTooLarge
            | CloseReason::MessageRate
            | CloseReason::InvalidFrame => {
                self.part(cx);
                return Poll::Ready(reason.termination());
            }
            CloseReason::Drained => None,
            CloseReason::Aged | CloseReason::Down | CloseReason::Expired | CloseReason::Revoked => {
                Some(CLOSE_TIMEOUT)
            }
        };
        self.closing = CloseState::Quiet(reason);
        self.pause = Some(IdleTimer::within(QUIET_TIME, latest));
        Poll::Pending
    }

    /// Starts the close if the tunnel is at a frame boundary. Returns whether it has started, so
    /// that no more bytes of the backend may pass.
    pub(super) fn begin_close(&mut self) -> bool {
        let reason = match self.closing {
            CloseState::None | CloseState::Quiet(_) | CloseState::PeerClosing(_) => return false,
            CloseState::Sending(..) | CloseState::Sent(..) => return true,
            CloseState::Requested(reason) => reason,
        };
        let closed = self.up.frames.is_closed() || self.down.frames.is_closed();
        if closed || !self.down.is_open() {
            self.down.stops = false;
            self.closing = CloseState::PeerClosing(reason);
            self.pause = Some(IdleTimer::new(ANSWER_TIMEOUT));
            return false;
        }
        if self.down.frames.at_boundary() {
            // The rest of a short write belongs to frames that have not begun: dropped, with its
            // memory.
            self.down.rest = match self.ticket.close_status() {
                0 => Bytes::from_static(reason.frame()),
                status => reason.frame_with(status),
            };
            self.down.stops = false;
            self.closing = CloseState::Sending(reason, BackendEnd::Open);
            return true;
        }
        false
    }

    /// Writes the proxy's Close, then passes the last bytes of the peers. Ready once both have
    /// ended.
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
        // A client that has not read yet must still receive the Close: no reset from here on.
        ready!(self.down.poll_shut(cx, &mut self.client));
        if client.is_ready() && backend_end != BackendEnd::Open {
            return Poll::Ready(reason.termination());
        }
        Poll::Pending
    }

    /// Passes the client's bytes up to its Close to the backend while writes succeed. Ready once the
    /// client has sent Close or FIN and the end was passed on; an error if the client is gone.
    fn poll_client_close(
        &mut self,
        cx: &mut Context<'_>,
        backend_end: &mut BackendEnd,
        scratch: &mut [u8],
    ) -> Poll<Result<(), ()>> {
        while *backend_end != BackendEnd::Failed {
            let (client, backend) = (&mut self.client, &mut self.backend);
            match self.up.poll(cx, client, backend, scratch, false) {
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
    /// Writes and flushes the rest.
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

    /// Shuts the writer down, once; errors no longer matter.
    fn poll_shut<W: ByteStream>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<()> {
        if !self.has_ended() {
            let _ = ready!(Pin::new(writer).poll_shutdown(cx));
            self.state = CopyState::Ended;
        }
        Poll::Ready(())
    }
}

/// Reads and drops bytes. Ready at EOF.
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
