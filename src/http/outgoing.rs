//! The request that is sent to backends: prepared once, sent as often as the retry rules allow.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use hyper::body::Incoming;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    body::{BodyCopy, BodyProgress, ContinueSignal, InboundBody, RequestBody},
    headers::{self, ForwardingContext},
    hops::ForwardedClaims,
    upgrade,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::half_close::ClientSignal,
    observe::Notices,
    sticky::engine_io::CloseScan,
};

/// Maximum size of a body that is held in memory during an owner search. Socket.IO servers accept 1
/// MB by default, a third more in base64.
const MAX_BUFFERED: usize = 4 * 1024 * 1024;

/// A request for a backend.
#[derive(Debug)]
pub(super) struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// Original case of the field names.
    extensions: Extensions,
    body: BodySource,
    pause: Duration,
    progress: Arc<BodyProgress>,
    /// Copy of the part of the body that was sent, to repeat it if no backend has read it.
    copy: Option<Arc<BodyCopy>>,
    client_signal: Arc<ClientSignal>,
    scan: Option<CloseScan>,
    /// Share of the common memory limit that a buffered body uses.
    memory: Option<OwnedSemaphorePermit>,
}

/// Source of a request body.
#[derive(Debug)]
enum BodySource {
    /// In memory; may be empty.
    Buffered(Bytes),
    /// Still to be read from the client.
    Client(Incoming),
    /// Being sent to a backend; cannot be repeated.
    Taken,
}

/// Properties of the request that determine how it is prepared.
#[derive(Debug)]
pub(super) struct RequestShape<'a> {
    pub(super) origin: ForwardingContext<'a>,
    /// The request is a WebSocket handshake.
    pub(super) upgrade: bool,
    /// The proxy reads the reply, which therefore must not be compressed.
    pub(super) plain_reply: bool,
    /// Maximum pause within the body.
    pub(super) pause: Duration,
    /// Signals that the client has closed its sending side.
    pub(super) client_signal: &'a Arc<ClientSignal>,
    /// Logs forwarding fields that are not used.
    pub(super) notices: &'a Notices,
    /// Scans the body for a packet that closes a polling session.
    pub(super) scan: Option<CloseScan>,
}

impl Outgoing {
    /// Prepares the header of the request; `uri` is in origin form.
    pub(super) fn new(parts: Parts, body: Incoming, shape: &RequestShape<'_>) -> Self {
        let Parts { method, uri, mut headers, extensions, .. } = parts;
        headers::strip_hop_by_hop(&mut headers);
        let origin = &shape.origin;
        if let Some(name) = headers::add_forwarding(&mut headers, origin) {
            shape.notices.dropped(&name, origin.peer.ip());
        }
        if let Some(fault) = origin.claims.and_then(ForwardedClaims::fault) {
            shape.notices.forwarding_fault(fault, origin.peer.ip());
        }
        if shape.upgrade {
            upgrade::mark(&mut headers);
        }
        if shape.plain_reply {
            headers.remove(ACCEPT_ENCODING);
        }
        if let Ok(host) = HeaderValue::from_str(shape.origin.host) {
            headers.insert(HOST, host);
        }
        let empty = http_body::Body::is_end_stream(&body);
        let (body, progress) = if empty {
            (BodySource::Buffered(Bytes::new()), BodyProgress::done())
        } else {
            // hyper assumes that a GET without a length has no body.
            if !headers.contains_key(CONTENT_LENGTH) {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            (BodySource::Client(body), Arc::default())
        };
        let client_signal = Arc::clone(shape.client_signal);
        Self {
            method,
            uri,
            headers,
            extensions,
            body,
            pause: shape.pause,
            progress,
            copy: None,
            client_signal,
            scan: shape.scan,
            memory: None,
        }
    }

    /// How far the body has come.
    pub(super) fn progress(&self) -> &Arc<BodyProgress> {
        &self.progress
    }

    /// Whether the request may be repeated after a backend may have seen it: the method is
    /// idempotent (RFC 9110 §9.2.2) and the whole body is in memory.
    pub(super) fn replayable(&self) -> bool {
        self.method.is_idempotent() && matches!(self.body, BodySource::Buffered(_))
    }

    /// Keeps a copy of a small body that is still to be read, for [`again`](Self::again).
    pub(super) fn keep_copy(&mut self) {
        if matches!(self.body, BodySource::Client(_)) && !self.headers.contains_key(EXPECT) {
            self.copy = Some(Arc::default());
        }
    }

    /// Creates the request again if no backend has read it; `None` if its body is not in memory.
    pub(super) fn again(&mut self) -> Option<Request<RequestBody>> {
        if matches!(self.body, BodySource::Taken) {
            let bytes = self.copy.take().filter(|_| self.progress.is_done())?.whole()?;
            self.progress = self.progress.buffered_whole(bytes.len() as u64);
            self.body = BodySource::Buffered(bytes);
            self.headers.remove(TRANSFER_ENCODING);
        }
        Some(self.request())
    }

    /// Returns the `Sec-WebSocket-Accept` that must answer a validated handshake.
    pub(super) fn expected_accept(&self) -> String {
        upgrade::expected(&self.headers)
    }

    /// Reads the body into memory, so that several backends can be asked; `memory` counts KiB.
    pub(super) async fn buffer(&mut self, memory: &Arc<Semaphore>) -> Result<(), ProxyError> {
        let failed = |kind| ProxyError::new(Side::Client, Phase::RequestBody, kind);
        let BodySource::Client(_) = &self.body else { return Ok(()) };
        let BodySource::Client(incoming) = std::mem::replace(&mut self.body, BodySource::Taken)
        else {
            return Ok(());
        };
        let mut inbound = self.inbound(incoming);
        let mut bytes = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| inbound.poll_frame(cx)).await {
            let kind = self.progress.failure().unwrap_or(FailureKind::Incomplete);
            let frame = frame.map_err(|error| failed(kind).with_source(error))?;
            // Engine.IO servers ignore trailers of a poll.
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BUFFERED {
                return Err(failed(FailureKind::BodyTooLarge));
            }
            let kibibytes = u32::try_from(data.len().div_ceil(1024)).unwrap_or(u32::MAX);
            let share = Arc::clone(memory).try_acquire_many_owned(kibibytes).map_err(|_| {
                ProxyError::new(Side::Proxy, Phase::RequestBody, FailureKind::Saturated)
            })?;
            match &mut self.memory {
                Some(held) => held.merge(share),
                None => self.memory = Some(share),
            }
            bytes.extend_from_slice(&data);
        }
        self.progress = self.progress.buffered_whole(bytes.len() as u64);
        self.body = BodySource::Buffered(bytes.freeze());
        // The length is known now; the chunk sizes of the client need not be preserved.
        self.headers.remove(EXPECT);
        self.headers.remove(TRANSFER_ENCODING);
        Ok(())
    }

    fn inbound(&self, incoming: Incoming) -> InboundBody {
        let (progress, client_signal) =
            (Arc::clone(&self.progress), Arc::clone(&self.client_signal));
        let inbound = InboundBody::new(incoming, progress, self.pause, client_signal);
        inbound.scanned(self.scan).copied(self.copy.clone())
    }

    /// Creates the request to send; moves the body into it, unless the body is in memory.
    pub(super) fn request(&mut self) -> Request<RequestBody> {
        let mut signal = None;
        let body = match std::mem::replace(&mut self.body, BodySource::Taken) {
            BodySource::Buffered(bytes) => {
                self.body = BodySource::Buffered(bytes.clone());
                RequestBody::buffered(bytes)
            }
            BodySource::Client(incoming) => {
                let mut inbound = self.inbound(incoming);
                if self.headers.contains_key(EXPECT) {
                    let given = signal.insert(Arc::<ContinueSignal>::default());
                    inbound = inbound.gated(Arc::clone(given));
                }
                RequestBody::streamed(inbound)
            }
            BodySource::Taken => RequestBody::empty(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        let is_last = matches!(self.body, BodySource::Taken) && self.copy.is_none();
        (*request.headers_mut(), *request.extensions_mut()) = if is_last {
            (std::mem::take(&mut self.headers), std::mem::take(&mut self.extensions))
        } else {
            (self.headers.clone(), self.extensions.clone())
        };
        if let Some(signal) = signal {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == http::StatusCode::CONTINUE {
                    signal.open();
                }
            });
        }
        request
    }
}
