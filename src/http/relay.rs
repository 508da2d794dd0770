//! Reply bodies on their way to the client: created here or streamed from a backend.
//!
//! A relayed body holds what the stream needs until the last byte: the backend connection, which is
//! then returned, and the [`StreamScope`], which is then closed. Nothing is buffered: the next frame
//! is read from the backend when the client has taken the last one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    body::{BodyError, BodyTimer, never},
    forward::{self, Lease},
};
use crate::{
    error::{FailureKind, Phase, Side, Termination},
    net::half_close::{ClientSignal, EofHold},
    stream_log::StreamScope,
};

/// Body of a response on its way to the client.
#[derive(Debug)]
pub(super) enum ReplyBody {
    /// In memory: a reply of the proxy, or empty.
    Own(Full<Bytes>),
    /// Streamed from the backend.
    Relayed(Box<Relay>),
}

/// Body of a backend's response, streamed.
#[derive(Debug)]
pub(super) struct Relay {
    /// Bytes read before the reply was released; they come first.
    head: Option<Bytes>,
    incoming: Incoming,
    pause: BodyTimer,
    lease: Option<Lease>,
    /// Taken when the stream ends.
    scope: Option<StreamScope>,
    /// Allows the client to half-close until the reply is complete, and marks a reply that stays
    /// incomplete.
    client: (Option<EofHold>, Arc<ClientSignal>),
}

impl ReplyBody {
    /// Creates an empty body.
    pub(super) fn empty() -> Self {
        Self::own(Bytes::new())
    }

    /// Creates a body in memory.
    pub(super) fn own(bytes: impl Into<Bytes>) -> Self {
        Self::Own(Full::new(bytes.into()))
    }

    /// Creates a body that is streamed from the backend, `head` first, with at most `pause` between
    /// two frames. Returns the lease and closes the scope after the last byte, or at once if the
    /// body is empty.
    pub(super) fn relayed(
        head: Option<Bytes>,
        incoming: Incoming,
        pause: Option<Duration>,
        lease: Lease,
        (scope, client): (StreamScope, (Option<EofHold>, Arc<ClientSignal>)),
    ) -> Self {
        let mut relay = Relay {
            head,
            incoming,
            pause: BodyTimer::new(pause),
            lease: Some(lease),
            scope: Some(scope),
            client,
        };
        if relay.head.is_none() && relay.incoming.is_end_stream() {
            relay.complete();
            return Self::empty();
        }
        Self::Relayed(Box::new(relay))
    }
}

impl Relay {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(self.pass(Frame::data(head)))));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(self.pass(frame)))),
            Poll::Ready(Some(Err(error))) => {
                let kind = forward::kind(&error);
                Poll::Ready(Some(Err(self.abort(kind))))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.pause.poll_exceeded(cx));
                Poll::Ready(Some(Err(self.abort(FailureKind::TimedOut))))
            }
        }
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.pause.over();
        if let (Some(scope), Some(data)) = (&mut self.scope, frame.data_ref()) {
            scope.relayed(data);
        }
        // hyper does not poll again after trailers, or once it knows that this was the last frame.
        if frame.is_trailers() || self.incoming.is_end_stream() {
            self.complete();
        }
        frame
    }

    fn complete(&mut self) {
        self.note_request();
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        if let Some(scope) = self.scope.take() {
            scope.end(Termination::Complete);
        }
    }

    fn abort(&mut self, kind: FailureKind) -> BodyError {
        let termination = Termination::Failed(Side::Backend, Phase::ResponseBody, kind);
        self.note_request();
        let metrics = self.scope.as_ref().and_then(StreamScope::metrics);
        if let (Some(mut lease), Some(metrics)) = (self.lease.take(), metrics) {
            lease.aborted(metrics);
        }
        self.client.1.abort();
        if let Some(scope) = self.scope.take() {
            scope.end(termination);
        }
        BodyError(termination)
    }

    fn note_request(&mut self) {
        if let (Some(scope), Some(lease)) = (&mut self.scope, &self.lease) {
            scope.received(lease.request_bytes());
        }
    }
}

impl Drop for Relay {
    /// Records the request bytes if the client left before the end.
    fn drop(&mut self) {
        self.note_request();
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(full) => Pin::new(full).poll_frame(cx).map_err(never),
            Self::Relayed(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(full) => full.is_end_stream(),
            Self::Relayed(relay) => relay.head.is_none() && relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(full) => full.size_hint(),
            Self::Relayed(relay) => {
                let head = relay.head.as_ref().map_or(0, |head| head.len() as u64);
                let rest = relay.incoming.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + head);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + head);
                }
                hint
            }
        }
    }
}
