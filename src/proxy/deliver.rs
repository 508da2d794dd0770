//! Sends a response to the client, after its head is known.
//!
//! The head leaves together with the part of the body that was read with it. The next piece is read from the
//! backend when the client has taken the last one. The rest of a request body moves to the backend meanwhile.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use moorline_http::{
    BodyFault, BodyForm, BodyLength, BodyRelay, Buffer, ClientConnection, HttpVersion, RelayError,
    ResponseHead,
};
use tokio::time::Instant;

use super::{
    backend::Lease,
    client::ClientSide,
    connection::Flow,
    exchange::{BackendResponse, read_error},
    outgoing::Outgoing,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    stream_log::StreamScope,
};

/// How a response ends.
pub(super) enum Ending {
    /// The client has the whole response.
    Complete,
    /// The client has left.
    ClientLeft,
    /// The source of the body has failed within it: the backend, or the proxy itself.
    SourceFailed(Side, FailureKind),
}

/// Ends the stream of a response. `complete`: the termination of a whole one. `closes`: the connection closes after it;
/// `lingers`: the client may still be sending.
pub(super) fn end(
    (scope, lease): (StreamScope, Option<Lease>),
    ending: Ending,
    complete: Termination,
    (closes, lingers): (bool, bool),
) -> Flow {
    match ending {
        Ending::Complete => {
            scope.end(complete);
            if closes { Flow::Close { lingers } } else { Flow::Next }
        }
        Ending::ClientLeft => {
            scope.client_lost(FailureKind::Incomplete);
            Flow::Drop
        }
        Ending::SourceFailed(side, kind) => {
            if let (Some(mut lease), Some(metrics)) = (lease, scope.metrics()) {
                lease.aborted(metrics);
            }
            scope.end(Termination::Failed(side, Phase::ResponseBody, kind));
            Flow::Reset
        }
    }
}

/// How the body of a response reaches a client of this version: its length there, its form, and whether its end
/// closes the connection.
fn framing(length: BodyLength, version: HttpVersion) -> (BodyLength, BodyForm, bool) {
    match (length, version) {
        (BodyLength::Exactly(_), _) => (length, BodyForm::Unchanged, false),
        (BodyLength::Chunked, HttpVersion::Http11) => (length, BodyForm::Unchanged, false),
        (BodyLength::UntilClose, HttpVersion::Http11) => {
            (BodyLength::Chunked, BodyForm::Chunked, false)
        }
        (BodyLength::Chunked, HttpVersion::Http10) => {
            (BodyLength::UntilClose, BodyForm::Decoded, true)
        }
        (BodyLength::UntilClose, HttpVersion::Http10) => {
            (BodyLength::UntilClose, BodyForm::Unchanged, true)
        }
    }
}

/// A response on its way.
pub(super) struct Delivery {
    scope: StreamScope,
    /// Given back once the whole response has been read.
    lease: Option<Lease>,
    download: BodyRelay,
    /// Bytes that the backend sent behind the response.
    rest: Option<Buffer>,
    /// Maximum time without a byte of the backend.
    pause: Option<Duration>,
    /// When the last byte moved, and how many had moved then.
    moved: (Instant, u64),
    closes: bool,
}

impl Delivery {
    /// Begins the delivery; `keeps`: the client's connection may stay open.
    ///
    /// # Errors
    /// The beginning of the body is invalid; nothing was sent. Returns the scope for the reply.
    pub(super) fn begin(
        client: &mut ClientSide,
        outgoing: &mut Outgoing,
        mut scope: StreamScope,
        response: BackendResponse,
        (keeps, pause): (bool, Option<Duration>),
    ) -> Result<Self, Box<(StreamScope, ProxyError)>> {
        let BackendResponse { head, mut input, mut lease, at, .. } = response;
        let source = head.length();
        let (length, form, ends) = framing(source, client.version);
        // After an early response, the rest of the request body must not be read as the next request.
        let closes = ends || !keeps || !outgoing.has_read_all() || client.has_ended();
        if let Some(upload) = outgoing.current() {
            // The backend will not send `100 Continue` any more.
            upload.open_gate();
        }
        let mut first = client.output.take().unwrap_or_default();
        write_head(&head, &mut first, length, client.version, closes);
        drop(head);
        let mut download = BodyRelay::new(source, form, Some(first));
        if let Err(fault) = download.feed(&mut input, |data| scope.relayed(data)) {
            let error = ProxyError::new(Side::Backend, Phase::ResponseBody, FailureKind::Malformed);
            if let Some(metrics) = scope.metrics() {
                lease.aborted(metrics);
            }
            scope.received(outgoing.bytes());
            return Err(Box::new((scope, error.with_source(fault))));
        }
        let moved = (at, 0);
        let lease = Some(lease);
        Ok(Self { scope, lease, download, rest: input, pause, moved, closes })
    }

    /// Delivers the response and ends its stream.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
        outgoing: &mut Outgoing,
    ) -> Poll<Flow> {
        let ending = ready!(self.poll_ending(cx, client, outgoing));
        self.release(outgoing);
        Poll::Ready(self.end(ending, outgoing))
    }

    fn end(&mut self, ending: Ending, outgoing: &Outgoing) -> Flow {
        let (mut scope, lease) = (self.scope.take(), self.lease.take());
        scope.received(outgoing.bytes());
        let lingers = !outgoing.has_read_all();
        end((scope, lease), ending, Termination::Complete, (self.closes, lingers))
    }

    fn poll_ending(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
        outgoing: &mut Outgoing,
    ) -> Poll<Ending> {
        let mut uploading = false;
        if let (Some(upload), Some(lease)) = (outgoing.current(), &mut self.lease) {
            // A client that breaks off its body here may still want the response.
            uploading = upload.poll(cx, client, lease.stream()).is_pending();
        }
        let Self { scope, lease, download, rest, .. } = self;
        let polled = match lease {
            Some(lease) => {
                let (reader, writer) = (lease.stream(), &mut client.stream);
                download.poll(cx, reader, writer, rest, |data| scope.relayed(data))
            }
            None => download.poll_end(cx, &mut client.stream).map_err(RelayError::Write),
        };
        client.answering |= download.written() > 0;
        match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(Ending::Complete),
            Poll::Ready(Err(RelayError::Write(_))) => return Poll::Ready(Ending::ClientLeft),
            Poll::Ready(Err(RelayError::Fault(BodyFault::Incomplete))) => {
                return Poll::Ready(Ending::SourceFailed(Side::Backend, FailureKind::Incomplete));
            }
            Poll::Ready(Err(RelayError::Fault(_))) => {
                return Poll::Ready(Ending::SourceFailed(Side::Backend, FailureKind::Malformed));
            }
            Poll::Ready(Err(RelayError::Read(error))) => {
                let kind = read_error(error).kind;
                return Poll::Ready(Ending::SourceFailed(Side::Backend, kind));
            }
            Poll::Pending => {}
        }
        self.release(outgoing);
        if !uploading && client.poll_departure(cx).is_ready() {
            return Poll::Ready(Ending::ClientLeft);
        }
        self.poll_pause(cx, client)
    }

    /// Gives the backend's connection back once the whole response has been read: the client may take long for the rest.
    fn release(&mut self, outgoing: &mut Outgoing) {
        if !self.download.has_read_all() {
            return;
        }
        // A request that is still being written holds the connection; bytes behind the response close it.
        if outgoing.is_written()
            && let Some(lease) = self.lease.take()
            && self.rest.is_none()
        {
            lease.give_back(true);
        }
    }

    /// Ready if the backend has been silent for too long.
    fn poll_pause(&mut self, cx: &mut Context<'_>, client: &mut ClientSide) -> Poll<Ending> {
        let moved = self.download.moved();
        if moved != self.moved.1 {
            self.moved = (Instant::now(), moved);
        }
        let waits_for_backend = !self.download.is_blocked() && !self.download.has_read_all();
        let Some(pause) = self.pause.filter(|_| waits_for_backend) else {
            return Poll::Pending;
        };
        let timed_out = Ending::SourceFailed(Side::Backend, FailureKind::TimedOut);
        client.timer.poll_until(cx, self.moved.0 + pause).map(|()| timed_out)
    }
}

/// Writes the head of a response for a client of this version.
pub(super) fn write_head(
    head: &ResponseHead,
    out: &mut Buffer,
    length: BodyLength,
    version: HttpVersion,
    closes: bool,
) {
    head.write(out, length, ClientConnection { version, closes, upgrade: None });
}
