//! Sends a request to a backend: its head, then its body.
//!
//! The upload belongs to the request and survives a connection on which nothing was written. A backend may answer
//! before it has read the whole body, and may then close the connection: a failed write therefore only ends the
//! upload, and reading the response decides.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use moorline_http::{BodyFault, BodyForm, BodyLength, BodyRelay, Buffer, RelayError};
use tokio::{io::AsyncWrite, time::Instant};

use super::{client::ClientSide, forwarding, mirror::MirrorCopy};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::stream::BackendStream,
    sticky::engine_io::CloseScan,
};

/// Maximum number of body bytes that are copied, to send a request again that no backend has read.
const MOST_COPIED: usize = 64 * 1024;

/// A backend that ignores `Expect` gets the body after this time (RFC 9110 §10.1.1: do not wait indefinitely).
const EXPECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the upload knows about the body while it passes.
#[derive(Debug)]
pub(super) struct BodyWatch {
    /// Scans the body for a packet that closes a polling session.
    pub(super) scan: Option<CloseScan>,
    /// Copies the body.
    pub(super) copy: UploadCopy,
    /// Maximum size of the body.
    pub(super) most: u64,
}

/// What becomes of a copy of the body.
#[derive(Debug, Default)]
pub(super) enum UploadCopy {
    /// There is none, or the body is too large.
    #[default]
    None,
    /// The request can be sent again.
    Resend(Vec<u8>),
    /// A copy of the request for another pool, which waits for its body.
    Mirror(Box<MirrorCopy>),
}

impl UploadCopy {
    /// Adds a piece of the body.
    fn see(&mut self, data: &[u8]) {
        let fits = match self {
            Self::None => true,
            Self::Resend(copy) => {
                let fits = copy.len() + data.len() <= MOST_COPIED;
                if fits {
                    copy.extend_from_slice(data);
                }
                fits
            }
            Self::Mirror(mirror) => mirror.add(data),
        };
        if !fits {
            *self = Self::None;
        }
    }

    /// Sends the copy for another pool, whose body is complete.
    fn send_mirror(&mut self) {
        if let Self::Mirror(_) = self
            && let Self::Mirror(mirror) = mem::take(self)
        {
            mirror.send();
        }
    }
}

impl BodyWatch {
    fn see(&mut self, data: &[u8]) {
        if let Some(scan) = &mut self.scan {
            scan.feed(data);
        }
        self.copy.see(data);
    }
}

/// Sends one request to a backend.
#[derive(Debug)]
pub(super) struct Upload {
    relay: BodyRelay,
    pub(super) watch: BodyWatch,
    /// Until when the body waits for `100 Continue`.
    gate: Option<Instant>,
    /// The backend takes no more of the request.
    stopped: bool,
    /// The head, and the whole body, have been written.
    done: bool,
    /// A write has failed after which it is not certain that nothing was written.
    maybe_written: bool,
    /// When the last byte moved, and the state of the relay then.
    moved: (Instant, u64),
}

impl Upload {
    /// Creates the upload of a request with a written head. `gated`: the body waits for `100 Continue`.
    pub(super) fn new(
        head: Buffer,
        length: BodyLength,
        watch: BodyWatch,
        (gated, now): (bool, Instant),
    ) -> Self {
        let relay = BodyRelay::new(length, BodyForm::Unchanged, Some(head))
            .dropping_trailers(forwarding::is_forbidden_trailer);
        let gate = gated.then(|| now + EXPECT_TIMEOUT);
        Self {
            relay,
            watch,
            gate,
            stopped: false,
            done: false,
            maybe_written: false,
            moved: (now, 0),
        }
    }

    /// Bytes of the body that the client has sent.
    pub(super) fn bytes(&self) -> u64 {
        self.relay.bytes()
    }

    /// Whether a byte of the request was written.
    pub(super) fn has_written(&self) -> bool {
        self.maybe_written || self.relay.written() > 0
    }

    /// Whether the whole request has been read from the client.
    pub(super) fn has_read_all(&self) -> bool {
        self.relay.has_read_all()
    }

    /// Whether the whole request has been written, or the backend takes no more of it.
    pub(super) fn is_over(&self) -> bool {
        self.done || self.stopped
    }

    /// Whether the whole request has been written.
    pub(super) fn is_complete(&self) -> bool {
        self.done
    }

    /// Whether the backend does not take what the client has sent.
    pub(super) fn waits_for_backend(&self) -> bool {
        self.relay.is_blocked() || self.gate.is_some() || self.relay.has_read_all()
    }

    /// When the last byte moved.
    pub(super) fn moved_at(&self) -> Instant {
        self.moved.0
    }

    /// Whether the body has closed a polling session.
    pub(super) fn closes_session(&self) -> bool {
        self.has_read_all() && self.watch.scan.is_some_and(|scan| scan.closes())
    }

    /// Until when the body waits for `100 Continue`.
    pub(super) fn gate(&self) -> Option<Instant> {
        self.gate
    }

    /// Prepares the next try: the last connection turned out to be closed before a byte was written.
    pub(super) fn restart(&mut self, now: Instant) {
        self.stopped = false;
        self.moved.0 = now;
        self.gate = self.gate.map(|_| self.moved.0 + EXPECT_TIMEOUT);
    }

    /// Lets the body pass; true if it was waiting.
    pub(super) fn open_gate(&mut self) -> bool {
        let opened = self.gate.take().is_some();
        if opened {
            self.moved.0 = Instant::now();
        }
        opened
    }

    /// Moves bytes to the backend. Ready once the whole request is written, or the backend takes no more of it. An
    /// error is the client's.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
        backend: &mut BackendStream,
    ) -> Poll<Result<(), ProxyError>> {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        let outcome = self.poll_relay(cx, client, backend);
        if self.relay.moved() != self.moved.1 {
            self.moved = (Instant::now(), self.relay.moved());
        }
        if self.relay.bytes() > self.watch.most {
            // A response may have begun, whose delivery goes on: nothing more is relayed.
            self.stopped = true;
            return Poll::Ready(Err(body_failure(FailureKind::BodyTooLarge)));
        }
        if self.relay.has_read_all() {
            self.watch.copy.send_mirror();
        }
        let done = match ready!(outcome) {
            Ok(()) => true,
            // The response decides; it may have been sent already.
            Err(RelayError::Write(_)) => {
                // TLS may have written a record before the one that failed.
                self.maybe_written |= backend.is_tls();
                false
            }
            Err(RelayError::Fault(found)) => return Poll::Ready(Err(body_fault(found))),
            Err(RelayError::Read(source)) => {
                // A TLS client that closes without close_notify has also closed.
                let ended = source.kind() == io::ErrorKind::UnexpectedEof;
                let kind = if ended { FailureKind::Incomplete } else { FailureKind::Reset };
                return Poll::Ready(Err(body_failure(kind).with_source(source)));
            }
        };
        (self.done, self.stopped) = (done, !done);
        Poll::Ready(Ok(()))
    }

    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
        backend: &mut BackendStream,
    ) -> Poll<Result<(), RelayError>> {
        if self.gate.is_some() {
            ready!(self.relay.poll_write(cx, backend)).map_err(RelayError::Write)?;
            ready!(Pin::new(backend).poll_flush(cx)).map_err(RelayError::Write)?;
            return Poll::Pending;
        }
        let watch = &mut self.watch;
        let ClientSide { stream, input, .. } = client;
        // Bytes that were read with the head leave with it, in one write.
        self.relay.feed(input, |data| watch.see(data)).map_err(RelayError::Fault)?;
        self.relay.poll(cx, stream, backend, input, |data| watch.see(data))
    }
}

/// The failure of a client whose body violates the rules.
pub(super) fn body_fault(fault: BodyFault) -> ProxyError {
    match fault {
        BodyFault::Incomplete => body_failure(FailureKind::Incomplete),
        fault => body_failure(FailureKind::BadRequest(fault.sentence())),
    }
}

/// A failure of the client within a body.
pub(super) fn body_failure(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Client, Phase::RequestBody, kind)
}
