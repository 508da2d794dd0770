//! A client that has said FIN but still waits for its response.
//!
//! HTTP servers cannot tell a client that has gone from one that has only finished sending: both look
//! like the end of the stream. [`HalfClose`] sits between the socket and the HTTP layer and holds that
//! end back while the request in flight says so through its [`Patience`]; a request that does not (a
//! long poll, whose session ends with its client) sees it at once. Resets always pass.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use atomic_waker::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// The stream whose end may be held back.
#[derive(Debug)]
pub struct HalfClose<S: Stream> {
    /// Taken by [`into_inner`](Self::into_inner) only.
    inner: Option<S>,
    ended: bool,
    /// What a client is answered whose first byte is one of TLS; `None`: it is not looked for.
    not_tls: Option<&'static [u8]>,
    patience: Arc<Patience>,
}

/// Whether the request in flight wants its response even from a half-closed client.
///
/// A client that ends its stream within its request's body has broken off: whoever reads the body
/// learns from [`ended`](Self::ended) that nothing more will come.
#[derive(Debug, Default)]
pub struct Patience {
    held: AtomicBool,
    ended: AtomicBool,
    broken_off: AtomicBool,
    began_with_tls: AtomicBool,
    /// Waits for the end to be let through.
    reader: AtomicWaker,
    /// Waits for more of the body.
    body: AtomicWaker,
}

/// Holds the end of the stream back until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<Patience>);

impl<S: Stream> HalfClose<S> {
    /// Wraps a stream; nothing is held back until [`Patience::hold`].
    pub fn new(inner: S, patience: Arc<Patience>) -> Self {
        Self { inner: Some(inner), ended: false, not_tls: None, patience }
    }

    /// Answers a client with these bytes that begins with TLS, and shows nothing of what it has sent.
    #[must_use]
    pub fn without_tls(mut self, answer: &'static [u8]) -> Self {
        self.not_tls = Some(answer);
        self
    }

    /// The stream itself. Its end, if it has come, can be read from it again.
    pub fn into_inner(mut self) -> Option<S> {
        self.inner.take()
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        self.inner.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: Stream> Drop for HalfClose<S> {
    fn drop(&mut self) {
        if let Some(stream) = &self.inner
            && self.patience.broken_off.load(Ordering::Acquire)
        {
            stream.reset_on_drop();
        }
    }
}

impl Patience {
    /// Holds the end of the stream back while the guard lives. Requests of one connection are
    /// serial, so there is one guard at a time.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.held.store(true, Ordering::Release);
        Held(Arc::clone(self))
    }

    /// Whether the end has come: what is not there by now will never be.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether the client has begun with TLS, and was [answered](HalfClose::without_tls).
    pub fn began_with_tls(&self) -> bool {
        self.began_with_tls.load(Ordering::Acquire)
    }

    /// Wakes the task when the end comes; it may have come already.
    pub fn wake_at_end(&self, cx: &mut Context<'_>) {
        self.body.register(cx.waker());
        if self.ended() {
            cx.waker().wake_by_ref();
        }
    }

    /// The response will never be complete: the stream ends with a reset, which no framing can take
    /// for a clean end.
    pub fn break_off(&self) {
        self.broken_off.store(true, Ordering::Release);
    }

    fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let held = || self.held.load(Ordering::Acquire);
        if !held() {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        if held() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Release);
        self.0.reader.wake();
    }
}

impl<S: Stream> AsyncRead for HalfClose<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ended {
            let before = buffer.filled().len();
            match ready!(this.stream()?.poll_read(cx, buffer)) {
                // A TLS client that closes without close_notify has still closed.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Poll::Ready(Err(e)),
                Ok(()) if buffer.filled().len() > before || buffer.remaining() == 0 => {
                    const HANDSHAKE: u8 = 22;
                    let first = buffer.filled().get(before);
                    let answer = this.not_tls.take().filter(|_| first == Some(&HANDSHAKE));
                    let Some(answer) = answer else { return Poll::Ready(Ok(())) };
                    this.patience.began_with_tls.store(true, Ordering::Release);
                    buffer.set_filled(before);
                    // It is the first that is written there: if anything has room, this has.
                    let _ = this.stream()?.poll_write(cx, answer)?;
                }
                Ok(()) => {}
            }
            this.ended = true;
            this.patience.ended.store(true, Ordering::Release);
            this.patience.body.wake();
        }
        this.patience.poll_over(cx).map(Ok)
    }
}

impl<S: Stream> AsyncWrite for HalfClose<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn the_end_waits_while_it_is_held_and_comes_after() {
        let (mut client, server) = duplex(64);
        let patience = Arc::new(Patience::default());
        let held = patience.hold();
        let mut server = HalfClose::new(server, Arc::clone(&patience));
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let mut rest = Vec::new();
        let mut read = tokio::spawn(async move {
            server.read_to_end(&mut rest).await.unwrap();
            rest
        });
        tokio::task::yield_now().await;
        assert!(!read.is_finished(), "the end must not be seen yet");
        drop(held);
        assert!((&mut read).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn unheld_the_end_is_seen_at_once() {
        let (client, server) = duplex(64);
        drop(client);
        let mut server = HalfClose::new(server, Arc::default());
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
