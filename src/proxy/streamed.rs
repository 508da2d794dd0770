//! Delivers a response whose body is made or changed here: a stream of the proxy's own, or a backend's body behind a filter.
//!
//! The usual delivery ([`deliver`]) passes the backend's framing on. This one decodes the body, lets a
//! filter change the data, and frames the result anew: with its length if that is known, otherwise in chunks, or until the
//! connection closes for a client of HTTP/1.0. Only responses that need it come here, in a box of their own.
//!
//! Invariants:
//!
//! - The next piece is taken from the source when the client has taken the last one. What waits for the client is one
//!   piece and what a filter makes of it.
//! - When the source has no more data at present, the filter is flushed and the socket too: no piece waits for the next.
//! - A body that its source breaks off resets the client's connection. It never ends as if it were whole.
//! - Deadlines, the rest of a request body, a client that leaves, and the return of the backend's connection are those of
//!   the usual delivery. The access log counts the bytes of the body that the client gets.
//!
//! It must not know why a body is changed.

use std::{
    fmt::Write as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use moorline_http::{BodyLength, Buffer, HEAD_SIZE, HttpVersion, ResponseHead};
use tokio::{io::AsyncWrite as _, time::Instant};

use super::{
    client::ClientSide,
    connection::{Answered, Flow},
    deliver::{self, Ending},
    exchange::BackendResponse,
    outgoing::Outgoing,
};
use crate::{
    error::{FailureKind, Side, Termination},
    gateway::{BodyCopy, BodyFilter, BodyStream},
    stream_log::StreamScope,
};

mod source;

use source::{Piece, StreamSource};

/// Bytes of a body that are taken in one go, before other tasks of the thread get their turn: filters need time.
const TURN: usize = 256 * 1024;

/// Trailers that describe the bytes before a filter.
const DIGESTS: [&[u8]; 4] = [b"content-digest", b"content-md5", b"digest", b"repr-digest"];

/// A response on its way, with a body that is made or changed here.
pub(super) struct StreamedDelivery {
    scope: StreamScope,
    source: StreamSource,
    filter: Option<BodyFilter>,
    /// Copies the body of the backend for the cache.
    copy: Option<Box<BodyCopy>>,
    /// How the body is framed for the client.
    length: BodyLength,
    /// Bytes to write next: the head, and framed pieces.
    pending: Buffer,
    /// Bytes that have left the filter and are not framed yet.
    data: Vec<u8>,
    /// Bytes of the body for the client so far.
    sent: u64,
    /// The filter may hold something back.
    holds: bool,
    /// The end of the body is pending, or written.
    finished: bool,
    /// Maximum time without a byte of the source.
    pause: Option<Duration>,
    /// When the source gave the last piece, or the client took one.
    moved: Instant,
    closes: bool,
    /// A part of the request was not read, because no backend gets it.
    unread: bool,
}

impl StreamedDelivery {
    /// Begins the delivery of a backend's response that is changed by a filter, which has changed the head already, or
    /// copied. `keeps`: the client's connection may stay open.
    pub(super) fn of_backend(
        client: &mut ClientSide,
        outgoing: &mut Outgoing,
        scope: StreamScope,
        response: BackendResponse,
        (filter, copy): (Option<BodyFilter>, Option<Box<BodyCopy>>),
        (keeps, pause): (bool, Option<Duration>),
    ) -> Self {
        let closes = !keeps || !outgoing.has_read_all() || client.has_ended();
        if let Some(upload) = outgoing.current() {
            // The backend will not send `100 Continue` any more.
            upload.open_gate();
        }
        let BackendResponse { head, input, lease, at, .. } = response;
        let source = StreamSource::backend(head.length(), input, lease);
        let begun = Self::begin(client, scope, &head, (source, filter), (closes, pause, at));
        Self { copy, ..begun }
    }

    /// Begins the delivery of a response that is made here.
    pub(super) fn of_stream(
        client: &mut ClientSide,
        scope: StreamScope,
        head: &ResponseHead,
        (stream, filter): (BodyStream, Option<BodyFilter>),
        request: Answered,
    ) -> Self {
        let closes = !request.keeps || request.unread || client.has_ended();
        let source = StreamSource::Stream(Box::new(stream));
        let begun =
            Self::begin(client, scope, head, (source, filter), (closes, None, Instant::now()));
        Self { unread: request.unread, ..begun }
    }

    fn begin(
        client: &mut ClientSide,
        scope: StreamScope,
        head: &ResponseHead,
        (source, filter): (StreamSource, Option<BodyFilter>),
        (closes, pause, moved): (bool, Option<Duration>, Instant),
    ) -> Self {
        let known = source.length().filter(|_| filter.is_none());
        let length = match (known, client.version) {
            (Some(length), _) => BodyLength::Exactly(length),
            (None, HttpVersion::Http11) => BodyLength::Chunked,
            (None, HttpVersion::Http10) => BodyLength::UntilClose,
        };
        let closes = closes || length == BodyLength::UntilClose;
        let mut pending = client.output.take().unwrap_or_default();
        deliver::write_head(head, &mut pending, length, client.version, closes);
        Self {
            scope,
            source,
            filter,
            copy: None,
            length,
            pending,
            data: Vec::new(),
            sent: 0,
            holds: false,
            finished: false,
            pause,
            moved,
            closes,
            unread: false,
        }
    }

    /// Delivers the response and ends its stream. `outgoing`: the request, if a backend answers it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
        mut outgoing: Option<&mut Outgoing>,
    ) -> Poll<Flow> {
        let ending = ready!(self.poll_ending(cx, client, outgoing.as_deref_mut()));
        self.source.release(outgoing.as_deref_mut());
        let (mut scope, lease) = (self.scope.take(), self.source.take_lease());
        let (complete, lingers) = match outgoing {
            Some(outgoing) => {
                scope.received(outgoing.bytes());
                (Termination::Complete, !outgoing.has_read_all())
            }
            None => (Termination::Answered, self.unread),
        };
        Poll::Ready(deliver::end((scope, lease), ending, complete, (self.closes, lingers)))
    }

    fn poll_ending(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
        mut outgoing: Option<&mut Outgoing>,
    ) -> Poll<Ending> {
        let mut uploading = false;
        if let Some(upload) = outgoing.as_deref_mut().and_then(Outgoing::current)
            && let Some(stream) = self.source.backend_stream()
        {
            // A client that breaks off its body here may still want the response.
            uploading = upload.poll(cx, client, stream).is_pending();
        }
        if let Poll::Ready(ending) = self.poll_body(cx, client) {
            return Poll::Ready(ending);
        }
        self.source.release(outgoing);
        if !uploading && client.poll_departure(cx).is_ready() {
            return Poll::Ready(Ending::ClientLeft);
        }
        let waits_for_source = self.pending.is_empty() && !self.source.has_ended();
        let Some(pause) = self.pause.filter(|_| waits_for_source) else { return Poll::Pending };
        let timed_out = Ending::SourceFailed(Side::Backend, FailureKind::TimedOut);
        client.timer.poll_until(cx, self.moved + pause).map(|()| timed_out)
    }

    /// Moves the body until it is written, or until a side must wait.
    fn poll_body(&mut self, cx: &mut Context<'_>, client: &mut ClientSide) -> Poll<Ending> {
        let mut taken = 0;
        loop {
            // Small pieces that are there already leave together, with the head.
            if self.finished || self.pending.len() >= HEAD_SIZE {
                if ready!(self.poll_write(cx, client)).is_err() {
                    return Poll::Ready(Ending::ClientLeft);
                }
                if self.finished {
                    return Pin::new(&mut client.stream).poll_flush(cx).map(
                        |flushed| match flushed {
                            Ok(()) => Ending::Complete,
                            Err(_) => Ending::ClientLeft,
                        },
                    );
                }
            }
            if taken >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_piece(cx) {
                Ok(Poll::Ready(count)) => taken += count,
                Ok(Poll::Pending) if self.holds => {
                    if let Err(ending) = self.flush_filter() {
                        return Poll::Ready(ending);
                    }
                }
                Ok(Poll::Pending) => {
                    let written = ready!(self.poll_write(cx, client));
                    let flushed = Pin::new(&mut client.stream).poll_flush(cx);
                    return match (written, flushed) {
                        (Err(_), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Ending::ClientLeft),
                        _ => Poll::Pending,
                    };
                }
                Err(ending) => return Poll::Ready(ending),
            }
        }
    }

    /// Writes what is pending.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ClientSide,
    ) -> Poll<io::Result<()>> {
        let before = self.pending.len();
        let written = self.pending.poll_drain(cx, &mut client.stream);
        if self.pending.len() < before {
            (client.answering, self.moved) = (true, Instant::now());
        }
        written
    }

    /// Takes one piece from the source, through the filter, and frames it. Returns its size.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Result<Poll<usize>, Ending> {
        let (filter, copy, out) = (&mut self.filter, &mut self.copy, &mut self.data);
        let mut filtered = Ok(());
        let piece = self.source.poll_piece(cx, |data| {
            *copy = copy.take().and_then(|copy| copy.push(data));
            match filter {
                Some(filter) if filtered.is_ok() => filtered = filter.feed(data, out),
                Some(_) => {}
                None => out.extend_from_slice(data),
            }
        });
        let Poll::Ready(piece) = piece else { return Ok(Poll::Pending) };
        filtered.map_err(filter_failed)?;
        let (side, piece) = (self.source.side(), piece);
        match piece.map_err(|kind| Ending::SourceFailed(side, kind))? {
            Piece::Data(count) => {
                (self.moved, self.holds) = (Instant::now(), self.filter.is_some());
                self.frame()?;
                Ok(Poll::Ready(count))
            }
            Piece::End => {
                if let Some(copy) = self.copy.take() {
                    copy.complete();
                }
                if let Some(filter) = &mut self.filter {
                    filter.end(&mut self.data).map_err(filter_failed)?;
                }
                self.frame()?;
                self.finish()?;
                Ok(Poll::Ready(0))
            }
        }
    }

    fn flush_filter(&mut self) -> Result<(), Ending> {
        self.holds = false;
        if let Some(filter) = &mut self.filter {
            filter.flush(&mut self.data).map_err(filter_failed)?;
        }
        self.frame()
    }

    /// Frames what has left the filter.
    fn frame(&mut self) -> Result<(), Ending> {
        if self.data.is_empty() {
            return Ok(());
        }
        self.sent += self.data.len() as u64;
        self.scope.sent(self.data.len() as u64);
        let chunked = self.length == BodyLength::Chunked;
        if let BodyLength::Exactly(length) = self.length
            && self.sent > length
        {
            // The source has changed while it was sent.
            return Err(Ending::SourceFailed(self.source.side(), FailureKind::Malformed));
        }
        self.pending.reserve(self.data.len() + 32);
        if chunked {
            // Writing to a buffer cannot fail.
            let _ = write!(self.pending, "{:x}\r\n", self.data.len());
        }
        self.pending.push(&self.data);
        if chunked {
            self.pending.push(b"\r\n");
        }
        self.data.clear();
        Ok(())
    }

    /// Ends the body for the client. Trailers of the backend follow, except those that describe other bytes.
    fn finish(&mut self) -> Result<(), Ending> {
        self.finished = true;
        match self.length {
            BodyLength::Exactly(length) if self.sent < length => {
                Err(Ending::SourceFailed(self.source.side(), FailureKind::Incomplete))
            }
            BodyLength::Chunked => {
                self.pending.push(b"0\r\n");
                for line in self.source.trailers().split_inclusive(|byte| *byte == b'\n') {
                    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                    if !DIGESTS.iter().any(|digest| digest.eq_ignore_ascii_case(name)) {
                        self.pending.push(line);
                    }
                }
                self.pending.push(b"\r\n");
                Ok(())
            }
            BodyLength::Exactly(_) | BodyLength::UntilClose => Ok(()),
        }
    }
}

fn filter_failed(_: io::Error) -> Ending {
    Ending::SourceFailed(Side::Proxy, FailureKind::Io)
}
