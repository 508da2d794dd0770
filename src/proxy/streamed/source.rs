//! The source of a streamed response's body: a backend's connection, or a stream of the proxy.

use std::{
    io,
    task::{Context, Poll, ready},
};

use moorline_http::{BodyDecoder, BodyFault, BodyLength, Buffer, ChunkedOutput};

use super::super::{backend::Lease, exchange::read_error, outgoing::Outgoing};
use crate::{
    error::{FailureKind, Side},
    gateway::BodyStream,
    net::stream::BackendStream,
};

/// Source of a body.
pub(super) enum StreamSource {
    /// The connection of a backend.
    Backend(Box<BackendBody>),
    /// A stream of the proxy.
    Stream(Box<BodyStream>),
}

/// A body that a backend sends.
pub(super) struct BackendBody {
    /// Given back once the whole response has been read.
    lease: Option<Lease>,
    decoder: BodyDecoder,
    /// The announced number of bytes.
    length: Option<u64>,
    /// Bytes that were read and not decoded; after the end, bytes behind the response.
    input: Option<Buffer>,
}

/// What a source has given.
pub(super) enum Piece {
    /// This many bytes.
    Data(usize),
    /// The whole body has been given.
    End,
}

impl StreamSource {
    /// The body behind a head. `input`: what was read with the head.
    pub(super) fn backend(length: BodyLength, input: Option<Buffer>, lease: Lease) -> Self {
        let decoder = BodyDecoder::new(length, ChunkedOutput::Decoded);
        let length = match length {
            BodyLength::Exactly(length) => Some(length),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        Self::Backend(Box::new(BackendBody { lease: Some(lease), decoder, length, input }))
    }

    /// The number of bytes, if it is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Backend(body) => body.length,
            Self::Stream(stream) => stream.length(),
        }
    }

    /// The side that has failed if the source fails.
    pub(super) fn side(&self) -> Side {
        match self {
            Self::Backend(_) => Side::Backend,
            Self::Stream(_) => Side::Proxy,
        }
    }

    /// Takes the next piece; `data` gets each run of it.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        mut data: impl FnMut(&[u8]),
    ) -> Poll<Result<Piece, FailureKind>> {
        match self {
            Self::Backend(body) => body.poll_piece(cx, data),
            Self::Stream(stream) => Poll::Ready(match ready!(stream.poll_piece(cx)) {
                Ok(Some(piece)) => {
                    data(&piece);
                    Ok(Piece::Data(piece.len()))
                }
                Ok(None) => Ok(Piece::End),
                Err(error) => {
                    tracing::warn!(%error, "the body of a response cannot be read; its connection is reset");
                    Err(FailureKind::Io)
                }
            }),
        }
    }

    /// Trailers that may be passed on, after the end: lines with CRLF.
    pub(super) fn trailers(&self) -> &[u8] {
        match self {
            Self::Backend(body) => body.decoder.trailers(),
            Self::Stream(_) => &[],
        }
    }

    /// The backend's stream, while the response is not complete.
    pub(super) fn backend_stream(&mut self) -> Option<&mut BackendStream> {
        match self {
            Self::Backend(body) => body.lease.as_mut().map(Lease::stream),
            Self::Stream(_) => None,
        }
    }

    /// Whether the whole body has been given. Of a stream, it is not known before its end.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Backend(body) => body.decoder.is_ended(),
            Self::Stream(_) => false,
        }
    }

    /// Gives the backend's connection back once the whole response has been read and the whole request been written.
    pub(super) fn release(&mut self, outgoing: Option<&mut Outgoing>) {
        let Self::Backend(body) = self else { return };
        if !body.decoder.is_ended() {
            return;
        }
        // A request that is still being written holds the connection; bytes behind the response close it.
        if outgoing.is_none_or(|outgoing| outgoing.is_written())
            && let Some(lease) = body.lease.take()
            && body.input.is_none()
        {
            lease.give_back(true);
        }
    }

    /// Takes the backend's connection, if it was not given back.
    pub(super) fn take_lease(&mut self) -> Option<Lease> {
        match self {
            Self::Backend(body) => body.lease.take(),
            Self::Stream(_) => None,
        }
    }
}

impl BackendBody {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        mut data: impl FnMut(&[u8]),
    ) -> Poll<Result<Piece, FailureKind>> {
        if self.decoder.is_ended() {
            return Poll::Ready(Ok(Piece::End));
        }
        let mut piece = match self.input.take() {
            Some(input) if !input.is_empty() => input,
            _ => match ready!(self.poll_read(cx)).map_err(|error| read_error(error).kind)? {
                Some(piece) => piece,
                None => return Poll::Ready(self.decoder.end().map(|()| Piece::End).map_err(fault)),
            },
        };
        let mut count = 0;
        let decoded = self.decoder.decode(piece.filled_mut(), |run| {
            count += run.len();
            data(run);
        });
        let consumed = decoded.map_err(fault)?.consumed;
        self.input = piece.split_off(consumed);
        Poll::Ready(Ok(Piece::Data(count)))
    }

    /// Reads one piece; `None` at the end of the input.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buffer>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(Ok(None)) };
        let mut piece = Buffer::new();
        let read = ready!(piece.poll_fill(cx, lease.stream()))?;
        Poll::Ready(Ok((read > 0).then_some(piece)))
    }
}

fn fault(fault: BodyFault) -> FailureKind {
    match fault {
        BodyFault::Incomplete => FailureKind::Incomplete,
        _ => FailureKind::Malformed,
    }
}
