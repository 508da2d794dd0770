//! The copy loop: both directions of one tunnel in one future.
//!
//! Reads fill a 64 KiB buffer of the thread, borrowed for one poll. Bytes that the other side takes
//! at once leave the buffer before the poll returns; only the rest of a short write is copied into
//! memory of the tunnel.
//!
//! In WebSocket tunnels, each direction's [`FrameTracker`] follows the bytes written, so that it
//! knows at any moment whether a frame of the proxy may follow. Between plain sockets without
//! frames, the kernel moves bulk data ([`splice`]).
//!
//! [`splice`]: super::splice

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{
    CloseReason, TunnelEndpoint, TunnelObserver, TunnelOptions, TunnelSummary, TunnelTicket,
    close::CloseState,
    direction::{CopyError, CopyState, Direction},
    frame::FrameTracker,
    splice,
};
use crate::{
    error::{FailureKind, Phase, Side, Termination},
    net::{stream::ByteStream, tls},
};

/// Size of the thread's buffer: four TLS records, and large enough that a bulk flow is bound by the
/// kernel.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A running tunnel; see [`super::run`].
#[derive(Debug)]
pub struct Tunnel<A, B, G> {
    pub(super) client: A,
    pub(super) backend: B,
    pub(super) up: Direction,
    pub(super) down: Direction,
    /// Side that sent FIN first.
    first_fin: Option<Side>,
    pub(super) closing: CloseState,
    pub(super) pause: Option<Box<IdleTimer>>,
    /// Idle timeout once one direction has ended, in milliseconds.
    half_closed: u32,
    pub(super) ticket: TunnelTicket,
    guard: Option<G>,
}

/// Idle timer. Only tunnels with an idle timeout, half-closed ones and closing ones have it.
#[derive(Debug)]
pub(super) struct IdleTimer {
    limit: Duration,
    since: Instant,
    /// Fixed deadline, whatever moves.
    latest: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<A, B, G> Tunnel<A, B, G>
where
    A: ByteStream,
    B: ByteStream,
    G: TunnelObserver,
{
    pub(super) fn new(
        client: TunnelEndpoint<A>,
        backend: TunnelEndpoint<B>,
        guard: G,
        ticket: TunnelTicket,
        options: TunnelOptions,
    ) -> Self {
        let frames = if options.framed { FrameTracker::new() } else { FrameTracker::lost() };
        Self {
            client: client.stream,
            backend: backend.stream,
            up: Direction::starting_with(client.early, frames, !options.framed),
            down: Direction::starting_with(backend.early, frames, !options.framed),
            first_fin: None,
            closing: CloseState::None,
            pause: options.idle.map(IdleTimer::new),
            half_closed: u32::try_from(options.half_closed.as_millis()).unwrap_or(u32::MAX),
            ticket,
            guard: Some(guard),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Termination> {
        if let Poll::Ready(termination) = self.poll_command(cx) {
            return Poll::Ready(termination);
        }
        let before = self.moved();
        let over = BUFFER.with_borrow_mut(|scratch| {
            if !self.begin_close() {
                let over = self.poll_both(cx, scratch);
                self.note_refusal();
                if over.is_ready() || !self.begin_close() {
                    return over;
                }
            }
            self.poll_close(cx, scratch)
        });
        splice::end_poll();
        if over.is_ready() {
            return over;
        }
        self.poll_pause(cx, before)
    }

    /// Moves available bytes in both directions. Ready once the tunnel has ended or failed.
    fn poll_both(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Termination> {
        let (client, backend) = (&mut self.client, &mut self.backend);
        let up = self.up.poll(cx, client, backend, scratch, self.down.has_ended());
        let down = self.down.poll(cx, backend, client, scratch, self.up.has_ended());
        match (up, down) {
            (Poll::Ready(Err(failure)), _) => {
                Poll::Ready(self.fail(Side::Client, Side::Backend, failure))
            }
            (_, Poll::Ready(Err(failure))) => {
                Poll::Ready(self.fail(Side::Backend, Side::Client, failure))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) if !self.down.is_open() => {
                let closed = Termination::Closed(self.first_fin.unwrap_or(Side::Client));
                Poll::Ready(self.refused().unwrap_or(closed))
            }
            _ => {
                self.note_half_close();
                Poll::Pending
            }
        }
    }

    /// Fails both ends alike: a reset is passed on as a reset.
    fn fail(&mut self, reader: Side, writer: Side, failure: CopyError) -> Termination {
        let (side, error) = match failure {
            CopyError::Read(error) => (reader, error),
            CopyError::Write(error) => (writer, error),
        };
        match side {
            Side::Client => self.backend.reset_on_drop(),
            _ => self.client.reset_on_drop(),
        }
        let kind = tls::kind(&error);
        let failed = Termination::Failed(side, Phase::Tunnel, kind);
        let termination = self.refused().unwrap_or(failed);
        let says_all = matches!(kind, FailureKind::Reset | FailureKind::TimedOut);
        self.report_end(termination, Some(&error).filter(|_| !says_all));
        termination
    }

    /// Reports the end to the observer, once; a failure at once, while its error is known.
    fn report_end(&mut self, termination: Termination, error: Option<&io::Error>) {
        if let Some(guard) = self.guard.take() {
            let (to_backend, to_client) = (self.up.moved, self.down.moved);
            guard.end(TunnelSummary { termination, to_backend, to_client }, error);
        }
    }

    fn note_half_close(&mut self) {
        if self.first_fin.is_some() {
            return;
        }
        self.first_fin = match (self.up.state, self.down.state) {
            (CopyState::Open { .. }, CopyState::Open { .. }) => return,
            (CopyState::Open { .. }, _) => Some(Side::Backend),
            _ => Some(Side::Client),
        };
        if self.closing != CloseState::None
            && self.closing != CloseState::Requested(CloseReason::Drained)
        {
            return;
        }
        let most = Duration::from_millis(self.half_closed.into());
        let limit = self.pause.as_ref().map_or(most, |p| p.limit.min(most));
        self.pause = Some(IdleTimer::new(limit));
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>, before: u64) -> Poll<Termination> {
        // A slow reader is not silent, even if nothing could be written for long.
        let holds =
            matches!(self.closing, CloseState::Quiet(_)) && (self.up.holds() || self.down.holds());
        let moved = holds || self.moved() != before;
        let Some(pause) = &mut self.pause else { return Poll::Pending };
        if moved && !self.closing.has_deadline() {
            pause.since = Instant::now();
        }
        // The timer moves only when it fires: a message costs no timer operation.
        while pause.timer.as_mut().poll(cx).is_ready() {
            let deadline = pause.deadline();
            if deadline <= Instant::now() {
                self.part(cx);
                return Poll::Ready(match self.closing.timed_out() {
                    Termination::Idle if self.first_fin.is_some() => Termination::HalfClosed,
                    termination => termination,
                });
            }
            pause.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn moved(&self) -> u64 {
        self.up.moved + self.down.moved
    }

    /// Ends both streams of a tunnel without frames before they are dropped: in order, as far as
    /// possible at once, or by a reset if bytes for a stream are left. WebSocket peers recognize an
    /// end without Close as abnormal.
    pub(super) fn part(&mut self, cx: &mut Context<'_>) {
        if !self.ticket.is_framed() {
            self.up.part(cx, &mut self.backend);
            self.down.part(cx, &mut self.client);
        }
    }
}

impl<A, B, G> Future for Tunnel<A, B, G>
where
    A: ByteStream,
    B: ByteStream,
    G: TunnelObserver,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let termination = ready!(this.poll_end(cx));
        this.report_end(termination, None);
        Poll::Ready(())
    }
}

impl IdleTimer {
    pub(super) fn new(limit: Duration) -> Box<Self> {
        Self::within(limit, None)
    }

    /// Creates a timer that also expires `latest` from now, whatever moves.
    pub(super) fn within(limit: Duration, latest: Option<Duration>) -> Box<Self> {
        let since = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(since + limit));
        Box::new(Self { limit, since, latest: latest.map(|latest| since + latest), timer })
    }

    fn deadline(&self) -> Instant {
        let deadline = self.since + self.limit;
        self.latest.map_or(deadline, |latest| deadline.min(latest))
    }
}
