//! Bodies that are made here, or changed on their way to a client.
//!
//! A [`BodyStream`] yields the body of a response that no backend gives. A [`BodyFilter`] changes a body piece by piece;
//! the delivery owns the framing, the sockets and the deadlines, and calls the filter with decoded data. A
//! filter never waits and does no I/O.
//!
//! Invariants:
//!
//! - What a filter holds back is bounded, and [`flush`](BodyFilter::flush) lets it go: a piece of a backend reaches its
//!   client without the next one.
//! - [`end`](BodyFilter::end) is called only for a body that is whole. A body that was cut off stays cut off.
//!
//! This module must not know framing, connections or the log.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

use super::compress::Encoder;

/// The body of a response that is made here.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// In memory.
    Bytes(Bytes),
    /// Made while it is sent.
    Stream(BodyStream),
}

/// A body that is made while it is sent.
pub(crate) struct BodyStream(UnsyncBoxBody<Bytes, io::Error>);

impl BodyStream {
    /// Creates a stream from a body. Its trailers are ignored.
    pub(crate) fn new(body: impl Body<Data = Bytes, Error = io::Error> + Send + 'static) -> Self {
        Self(UnsyncBoxBody::new(body))
    }

    /// Creates a stream of bytes in memory.
    pub(crate) fn of(bytes: Bytes) -> Self {
        Self::new(Sliced(bytes))
    }

    /// The number of bytes, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.0.size_hint().exact()
    }

    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// The source has failed: the body is not whole.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.0).poll_frame(cx)).transpose()? else {
                return Poll::Ready(Ok(None));
            };
            if let Some(data) = Frame::into_data(frame).ok().filter(|data| !data.is_empty()) {
                return Poll::Ready(Ok(Some(data)));
            }
        }
    }
}

/// Bytes in memory, in slices that a socket takes at once.
struct Sliced(Bytes);

impl Sliced {
    /// Size of a slice, in bytes.
    const SLICE: usize = 64 << 10;
}

impl Body for Sliced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let size = self.0.len().min(Self::SLICE);
        let slice = self.0.split_to(size);
        Poll::Ready((!slice.is_empty()).then(|| Ok(Frame::data(slice))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyStream").field("length", &self.length()).finish_non_exhaustive()
    }
}

/// A change of a body on its way to the client.
#[derive(Debug)]
pub(crate) enum BodyFilter {
    /// Compresses it.
    Compress(Encoder),
}

impl BodyFilter {
    /// Takes the next piece of the body. What leaves the filter is appended to `out`.
    ///
    /// # Errors
    /// The filter has failed: the rest of the body cannot be sent.
    pub(crate) fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Compress(encoder) => encoder.feed(data, out),
        }
    }

    /// Lets everything go that was held back.
    ///
    /// # Errors
    /// See [`feed`](Self::feed).
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Compress(encoder) => encoder.flush(out),
        }
    }

    /// Ends a whole body. Nothing may be fed afterwards.
    ///
    /// # Errors
    /// See [`feed`](Self::feed).
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Compress(encoder) => encoder.end(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_yields_its_pieces_and_its_length() {
        let mut stream = BodyStream::of(Bytes::from(vec![b'x'; Sliced::SLICE + 3]));
        assert_eq!(stream.length(), Some(Sliced::SLICE as u64 + 3));
        for size in [Sliced::SLICE, 3] {
            let piece = std::future::poll_fn(|cx| stream.poll_piece(cx)).await.unwrap();
            assert_eq!(piece.unwrap().len(), size);
        }
        assert!(std::future::poll_fn(|cx| stream.poll_piece(cx)).await.unwrap().is_none());
        assert_eq!(BodyStream::of(Bytes::new()).length(), Some(0));
    }
}
