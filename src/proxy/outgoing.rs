//! The request that is sent to backends: prepared once, sent as often as the retry rules allow.

use std::{mem, sync::Arc, time::Duration};

use moorline_http::{BodyLength, Buffer, FieldId, RequestHead};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    client::ClientSide,
    mirror::MirrorCopy,
    upload::{BodyWatch, Upload, UploadCopy, body_failure},
    whole_body::{self, BodyLimits, MemoryShare, ReadBody},
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    gateway::{InvalidRequest, RequestBodyChange},
    sticky::engine_io::CloseScan,
};

/// Maximum size of a body that is held in memory during an owner search. Socket.IO servers accept 1
/// MB by default, a third more in base64.
const MAX_BUFFERED: u64 = 4 * 1024 * 1024;

/// A request for a backend.
#[derive(Debug)]
pub(super) struct Outgoing {
    stage: Stage,
    again: Resend,
    body: BodySource,
    /// The method is idempotent (RFC 9110 §9.2.2).
    idempotent: bool,
    /// The request is a WebSocket handshake.
    upgrade: bool,
    /// The body waits for `100 Continue`.
    expects: bool,
    /// Keep a copy of the body while it is sent.
    copies: bool,
    /// A body in memory closed a polling session.
    closes: bool,
    /// Scans the body for a packet that closes a polling session.
    scan: Option<CloseScan>,
    /// Maximum size of the body.
    most: u64,
    /// Bytes of a body in memory.
    buffered: u64,
    /// Share of a memory limit that bodies of this request and its response use.
    pub(super) memory: MemoryShare,
}

/// How far the request is.
#[derive(Debug)]
enum Stage {
    /// Not sent yet; perhaps with a copy for another pool, which waits for the body.
    Prepared(RequestHead, Option<Box<MirrorCopy>>),
    /// The current try, or the last one.
    Sending(Upload),
    /// Between two tries: the next one is made from what [`Resend`] holds.
    Again,
}

/// The head for another try.
#[derive(Debug)]
enum Resend {
    /// As it was written.
    Written(Box<[u8]>),
    /// To be written again.
    Head(Box<RequestHead>),
    /// Nothing: the request was not sent yet, or is sent once.
    No,
}

/// Source of a request body.
#[derive(Debug)]
enum BodySource {
    /// In memory; may be empty.
    Buffered(Box<[u8]>),
    /// Still to be read from the client.
    Client(BodyLength),
    /// Still to be read from the client, and to be changed before it is sent.
    Unchanged(BodyLength, Box<RequestBodyChange>),
    /// Being sent to a backend; cannot be repeated.
    Taken,
}

impl Outgoing {
    /// Prepares a request whose fields are those for the backend. `scan` searches the body for a packet that closes a
    /// polling session.
    pub(super) fn new(request: RequestHead, upgrade: bool, scan: Option<CloseScan>) -> Self {
        let body = match request.length() {
            BodyLength::Exactly(0) => BodySource::Buffered(Box::default()),
            length => BodySource::Client(length),
        };
        Self {
            idempotent: request.method.is_idempotent(),
            expects: request.expects_continue(),
            stage: Stage::Prepared(request, None),
            again: Resend::No,
            body,
            upgrade,
            copies: false,
            closes: false,
            scan,
            most: u64::MAX,
            buffered: 0,
            memory: MemoryShare::default(),
        }
    }

    /// Limits the size of the body; `None`: unlimited.
    pub(super) fn limited_to(mut self, most: Option<u64>) -> Self {
        self.most = most.unwrap_or(u64::MAX);
        self
    }

    /// Completes a copy of the request with its body.
    pub(super) fn copied_to(mut self, mirror: Option<Box<MirrorCopy>>) -> Self {
        if let Stage::Prepared(_, place) = &mut self.stage {
            *place = mirror;
        }
        self
    }

    /// Changes the body before it is sent.
    pub(super) fn changed_by(mut self, change: Option<Box<RequestBodyChange>>) -> Self {
        if let (Some(change), BodySource::Client(length)) = (change, &self.body) {
            self.body = BodySource::Unchanged(*length, change);
        }
        self
    }

    /// Bytes of the body that the client has sent.
    pub(super) fn bytes(&self) -> u64 {
        self.buffered + self.last().map_or(0, Upload::bytes)
    }

    /// Whether the whole request has been read from the client.
    pub(super) fn has_read_all(&self) -> bool {
        match &self.body {
            BodySource::Buffered(_) => true,
            BodySource::Client(_) | BodySource::Unchanged(..) => false,
            BodySource::Taken => self.last().is_some_and(Upload::has_read_all),
        }
    }

    /// Whether the body has closed a polling session.
    pub(super) fn closes_session(&self) -> bool {
        self.closes || self.last().is_some_and(Upload::closes_session)
    }

    /// Whether a byte of the current try was written.
    pub(super) fn has_written(&self) -> bool {
        self.last().is_some_and(Upload::has_written)
    }

    /// Whether the whole request of the current try was written.
    pub(super) fn is_written(&self) -> bool {
        self.last().is_none_or(Upload::is_complete)
    }

    /// Ends the current try: nothing more of it is sent, and the next one begins anew. The body must be in memory.
    pub(super) fn end_try(&mut self) {
        debug_assert!(matches!(self.body, BodySource::Buffered(_)), "the body is on its way");
        if let Stage::Sending(_) = self.stage {
            self.stage = Stage::Again;
        }
    }

    /// Whether the request may be repeated after a backend may have seen it: the method is
    /// idempotent and the whole body is in memory.
    pub(super) fn replayable(&self) -> bool {
        self.idempotent && matches!(self.body, BodySource::Buffered(_))
    }

    /// Keeps a copy of a small body that is still to be read, for [`again`](Self::again).
    pub(super) fn keep_copy(&mut self) {
        self.copies = matches!(self.body, BodySource::Client(_)) && !self.expects;
    }

    /// Prepares the request to be sent again if no backend has read it; false if its body is not in memory.
    pub(super) fn again(&mut self) -> bool {
        if matches!(self.body, BodySource::Taken) {
            let Stage::Sending(upload) = &mut self.stage else { return false };
            let closes = upload.closes_session();
            if !upload.has_read_all() {
                return false;
            }
            let UploadCopy::Resend(copy) = mem::take(&mut upload.watch.copy) else { return false };
            self.stage = Stage::Again;
            (self.buffered, self.closes) = (copy.len() as u64, closes);
            self.body = BodySource::Buffered(copy.into());
        }
        !matches!(self.again, Resend::No)
    }

    /// Returns the upload of the next try, which begins now: the last one if no byte of it was written, otherwise a new
    /// one.
    pub(super) fn upload(&mut self, now: Instant) -> &mut Upload {
        if self.last().is_none_or(Upload::has_written) {
            self.stage = Stage::Sending(self.begin(now));
        }
        match &mut self.stage {
            Stage::Sending(upload) => {
                upload.restart(now);
                upload
            }
            Stage::Prepared(..) | Stage::Again => unreachable!("an upload has begun"),
        }
    }

    /// Returns the upload of the current try.
    pub(super) fn current(&mut self) -> Option<&mut Upload> {
        match &mut self.stage {
            Stage::Sending(upload) => Some(upload),
            Stage::Prepared(..) | Stage::Again => None,
        }
    }

    fn last(&self) -> Option<&Upload> {
        match &self.stage {
            Stage::Sending(upload) => Some(upload),
            Stage::Prepared(..) | Stage::Again => None,
        }
    }

    fn begin(&mut self, now: Instant) -> Upload {
        let (length, streamed) = match &self.body {
            BodySource::Client(length) | BodySource::Unchanged(length, _) => (*length, true),
            BodySource::Buffered(bytes) => (BodyLength::Exactly(bytes.len() as u64), false),
            BodySource::Taken => (BodyLength::Exactly(0), false),
        };
        let copies = self.copies && streamed;
        let copy = match &mut self.stage {
            Stage::Prepared(_, mirror) if mirror.is_some() => {
                mirror.take().map(UploadCopy::Mirror).unwrap_or_default()
            }
            _ if copies => UploadCopy::Resend(Vec::new()),
            _ => UploadCopy::None,
        };
        let mut first = self.write_head(length, streamed && !copies);
        match &self.body {
            BodySource::Buffered(bytes) => first.push(bytes),
            BodySource::Client(_) | BodySource::Unchanged(..) => self.body = BodySource::Taken,
            BodySource::Taken => {}
        }
        let scan = self.scan.filter(|_| streamed);
        let watch = BodyWatch { scan, copy, most: self.most };
        let rest = if streamed { length } else { BodyLength::Exactly(0) };
        Upload::new(first, rest, watch, (self.expects && streamed, now))
    }

    /// Writes the head; `last`: it is not needed again.
    fn write_head(&mut self, length: BodyLength, last: bool) -> Buffer {
        let stage = mem::replace(&mut self.stage, Stage::Again);
        let request = match (stage, mem::replace(&mut self.again, Resend::No)) {
            (Stage::Prepared(request, _), _) => request,
            (_, Resend::Head(request)) => *request,
            (_, Resend::Written(bytes)) => {
                let first = Buffer::of(&bytes);
                self.again = Resend::Written(bytes);
                return first;
            }
            (_, Resend::No) => {
                debug_assert!(false, "a request that cannot be repeated is sent again");
                return Buffer::new();
            }
        };
        let mut first = Buffer::new();
        request.write(&mut first, length, self.upgrade.then_some("websocket"));
        self.again = match length {
            _ if last => Resend::No,
            // The body is sent with a length if it is sent again.
            BodyLength::Chunked => Resend::Head(Box::new(request)),
            _ => Resend::Written(first.filled().into()),
        };
        first
    }

    /// Reads the body into memory, so that several backends can be asked; `memory` counts KiB. `pause` is the maximum
    /// time without a byte.
    pub(super) async fn buffer(
        &mut self,
        client: &mut ClientSide,
        pause: Duration,
        memory: &Arc<Semaphore>,
    ) -> Result<(), ProxyError> {
        let BodySource::Client(length) = self.body else { return Ok(()) };
        let limits = BodyLimits { most: MAX_BUFFERED, pause, memory, keeps: false };
        match self.read(client, length, limits).await? {
            ReadBody::Whole(bytes) => {
                let closes = self.scan.is_some_and(|mut scan| {
                    scan.feed(&bytes);
                    scan.closes()
                });
                (self.buffered, self.closes) = (bytes.len() as u64, closes);
                self.hold(bytes);
                Ok(())
            }
            ReadBody::TooLarge => {
                let (side, kind) = (Side::Client, FailureKind::BodyTooLarge);
                Err(ProxyError::new(side, Phase::Select, kind))
            }
        }
    }

    /// Whether the body is changed before a backend gets it.
    pub(super) fn changes_body(&self) -> bool {
        matches!(self.body, BodySource::Unchanged(..))
    }

    /// Reads the body into memory, and changes it as the route says. `pause` is the maximum time without a byte.
    ///
    /// # Errors
    /// The body must not reach a backend.
    pub(super) async fn change_body(
        &mut self,
        client: &mut ClientSide,
        pause: Duration,
        memory: &Arc<Semaphore>,
    ) -> Result<(), Box<InvalidRequest>> {
        let body = mem::replace(&mut self.body, BodySource::Taken);
        let BodySource::Unchanged(length, change) = body else {
            self.body = body;
            return Ok(());
        };
        // As it is, unless something else follows.
        self.body = BodySource::Client(length);
        let (most, keeps) = (change.limit(), change.passes_large());
        let announced = matches!(length, BodyLength::Exactly(length) if length > most);
        if announced && keeps {
            return Ok(());
        }
        let limits = BodyLimits { most, pause, memory, keeps };
        let read = match announced {
            true => ReadBody::TooLarge,
            false => self.read(client, length, limits).await?,
        };
        let body = match read {
            ReadBody::Whole(body) => body,
            ReadBody::TooLarge if keeps => return Ok(()),
            ReadBody::TooLarge => return Err(body_failure(FailureKind::BodyTooLarge).into()),
        };
        // A request that is refused from here on has been read, so that its connection can stay open.
        self.body = BodySource::Buffered(Box::default());
        self.buffered = body.len() as u64;
        self.memory.reach(change.most_decoded(self.buffered), memory)?;
        let Stage::Prepared(request, _) = &mut self.stage else { return Ok(()) };
        let body = change.change(body.into(), self.most, &mut request.head).await?;
        self.hold(body.into());
        Ok(())
    }

    /// Reads the body into memory.
    async fn read(
        &mut self,
        client: &mut ClientSide,
        length: BodyLength,
        limits: BodyLimits<'_>,
    ) -> Result<ReadBody, ProxyError> {
        if self.expects {
            client.queue_continue();
            // The length is known now, or the body is put back: either way, nothing waits for the backend.
            self.expects = false;
            if let Stage::Prepared(request, _) = &mut self.stage {
                request.head.remove(FieldId::Expect);
            }
        }
        let bounded = BodyLimits { most: limits.most.min(self.most), ..limits };
        let read = whole_body::of_request(client, length, &bounded, &mut self.memory).await?;
        match read {
            ReadBody::TooLarge if self.most <= limits.most => {
                Err(body_failure(FailureKind::BodyTooLarge))
            }
            read => Ok(read),
        }
    }

    /// Sends this body, with its length.
    fn hold(&mut self, body: Vec<u8>) {
        if let Stage::Prepared(request, mirror) = &mut self.stage {
            request.head.remove(FieldId::ContentLength);
            if let Some(mirror) = mirror.take() {
                mirror.send_with(request, &body);
            }
            if body.is_empty() {
                request.head.set(FieldId::ContentLength, "0");
            }
        }
        self.body = BodySource::Buffered(body.into());
    }
}
