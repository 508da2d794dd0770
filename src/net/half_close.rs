//! A client that has said FIN but still waits for its response.
//!
//! HTTP servers cannot tell a client that has gone from one that has only finished sending: both look
//! like the end of the stream. [`HalfClose`] sits between the socket and the HTTP layer and holds that
//! end back while the request in flight says so through its [`Patience`]; a request that does not (a
//! long poll, whose session ends with its client) sees it at once. Resets always pass.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use atomic_waker::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{request_clock::RequestClock, stream::Stream};

/// The stream whose end may be held back.
///
/// Bytes that are written while no request is served are the HTTP implementation's own refusal of a request.
/// They are dropped: whoever takes the stream back sends a refusal of its own. For the same reason a shutdown
/// only flushes.
#[derive(Debug)]
pub struct HalfClose<S: Stream> {
    /// Taken by [`into_inner`](Self::into_inner) only.
    inner: Option<S>,
    ended: bool,
    patience: Arc<Patience>,
    clock: Arc<RequestClock>,
    /// Looks whether a client whose end is held back is still there.
    probe: Option<Box<Probe>>,
}

/// What a client that has ended its stream is sent: one that still waits for its response ignores it (RFC 9110
/// §15.2), one that has closed its socket resets the connection.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a client that has ended its stream is taken to wait: most responses are there by then.
const TRUST: Duration = Duration::from_secs(1);

/// First and longest pause between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The wait for the answer to [`PROBE`].
#[derive(Debug)]
struct Probe {
    /// Until the next look; `None`: the probe is still to be sent.
    pause: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

/// Whether the request in flight wants its response even from a half-closed client.
///
/// A client that ends its stream within its request's body has broken off: whoever reads the body
/// learns from [`ended`](Self::ended) that nothing more will come.
#[derive(Debug, Default)]
pub struct Patience {
    held: AtomicBool,
    /// Whether the client that is held may be sent a [`PROBE`].
    probed: AtomicBool,
    ended: AtomicBool,
    broken_off: AtomicBool,
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
    pub fn new(inner: S, patience: Arc<Patience>, clock: Arc<RequestClock>) -> Self {
        Self { inner: Some(inner), ended: false, patience, clock, probe: None }
    }

    /// The stream itself. Its end, if it has come, can be read from it again. `None`: the response that was
    /// being sent will never be complete, and the stream has been reset.
    pub fn into_inner(mut self) -> Option<S> {
        if self.patience.broken_off.load(Ordering::Acquire) {
            return None;
        }
        self.inner.take()
    }

    /// Ready with an error once a client whose end is held back turns out to have gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Once a response is on its way, its bytes find out by themselves.
        if self.clock.is_answering() || !self.patience.probed.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let probe = self
            .probe
            .get_or_insert_with(|| Box::new(Probe { pause: None, timer: Box::pin(sleep(TRUST)) }));
        let Some(stream) = &mut self.inner else { return Poll::Pending };
        let gone = || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        while probe.timer.as_mut().poll(cx).is_ready() {
            let pause = match probe.pause {
                None => {
                    // The first bytes of a response find room, or the connection is beyond use.
                    match Pin::new(&mut *stream).poll_write(cx, PROBE) {
                        Poll::Ready(Ok(count)) if count == PROBE.len() => {}
                        _ => return gone(),
                    }
                    let _ = Pin::new(&mut *stream).poll_flush(cx)?;
                    LOOKS.0
                }
                Some(_) if stream.has_failed() => return gone(),
                Some(pause) => (pause * 2).min(LOOKS.1),
            };
            probe.pause = Some(pause);
            probe.timer.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
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
    /// serial, so there is one guard at a time. Where it is `probed`, an interim response finds out whether a
    /// client that has ended its stream still waits.
    pub fn hold(self: &Arc<Self>, probed: bool) -> Held {
        self.probed.store(probed, Ordering::Relaxed);
        self.held.store(true, Ordering::Release);
        Held(Arc::clone(self))
    }

    /// Whether the end has come: what is not there by now will never be.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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
                    this.clock.received();
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => {}
            }
            this.ended = true;
            this.patience.ended.store(true, Ordering::Release);
            this.patience.body.wake();
        }
        match this.patience.poll_over(cx) {
            Poll::Pending => this.poll_gone(cx),
            over => over.map(Ok),
        }
    }
}

impl<S: Stream> AsyncWrite for HalfClose<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.clock.is_serving() {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.clock.answering();
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.clock.is_serving() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.clock.answering();
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called only once everything has been taken by the stream.
        self.clock.flushed();
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
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
        let held = patience.hold(false);
        let mut server = HalfClose::new(server, Arc::clone(&patience), Arc::default());
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
        let mut server = HalfClose::new(server, Arc::default(), Arc::default());
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
