//! Clients that send FIN but still wait for their response.
//!
//! HTTP servers cannot distinguish a client that has gone from one that has only finished sending: both look
//! like the end of the stream. [`HalfClose`] sits between the socket and the HTTP layer. It holds the EOF back
//! while the request in flight asks for that through its [`ClientSignal`]. Other requests see the EOF at once, for
//! example a long poll, whose session ends with its client. Resets always pass.

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

use super::{request_clock::RequestClock, stream::ByteStream};

/// A stream whose EOF can be held back.
///
/// Bytes written while no request is served are the HTTP implementation's own error reply. They are dropped,
/// because the connection task that takes the stream back sends its own reply. For the same reason a shutdown
/// only flushes.
#[derive(Debug)]
pub struct HalfClose<S: ByteStream> {
    /// `None` after [`into_inner`](Self::into_inner) only.
    inner: Option<S>,
    ended: bool,
    signal: Arc<ClientSignal>,
    clock: Arc<RequestClock>,
    /// Checks whether a client whose EOF is held back is still connected.
    probe: Option<Box<EofProbe>>,
}

/// Interim response sent to a half-closed client. A waiting client ignores it (RFC 9110 §15.2); a client that
/// has closed its socket answers with a reset.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Time after EOF before the first check: most responses are complete by then.
const FIRST_CHECK_AFTER: Duration = Duration::from_secs(1);

/// First and longest interval between two checks.
const CHECK_INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// State of the check started by [`PROBE`].
#[derive(Debug)]
struct EofProbe {
    /// Time until the next check; `None` before the probe is sent.
    pause: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

/// Records whether the request in flight wants its response even if the client is half-closed.
///
/// A client that ends its stream inside a request body has aborted the request: the body reader learns from
/// [`ended`](Self::ended) that no more data will come.
#[derive(Debug, Default)]
pub struct ClientSignal {
    held: AtomicBool,
    /// Whether a held client may be sent a [`PROBE`].
    probed: AtomicBool,
    ended: AtomicBool,
    aborted: AtomicBool,
    /// Waits for the EOF to be released.
    reader: AtomicWaker,
    /// Waits for more of the body.
    body: AtomicWaker,
}

/// Holds the EOF back until dropped.
#[derive(Debug)]
pub struct EofHold(Arc<ClientSignal>);

impl<S: ByteStream> HalfClose<S> {
    /// Wraps a stream; the EOF is not held back until [`ClientSignal::hold`].
    pub fn new(inner: S, signal: Arc<ClientSignal>, clock: Arc<RequestClock>) -> Self {
        Self { inner: Some(inner), ended: false, signal, clock, probe: None }
    }

    /// Returns the wrapped stream; a pending EOF can be read from it again. Returns `None` if the response in
    /// progress was aborted: the stream has been reset.
    pub fn into_inner(mut self) -> Option<S> {
        if self.signal.aborted.load(Ordering::Acquire) {
            return None;
        }
        self.inner.take()
    }

    /// Returns an error once a client whose EOF is held back turns out to be gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Once a response is being written, its own writes detect a lost client.
        if self.clock.is_answering() || !self.signal.probed.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let probe = self.probe.get_or_insert_with(|| {
            Box::new(EofProbe { pause: None, timer: Box::pin(sleep(FIRST_CHECK_AFTER)) })
        });
        let Some(stream) = &mut self.inner else { return Poll::Pending };
        let gone = || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        while probe.timer.as_mut().poll(cx).is_ready() {
            let pause = match probe.pause {
                None => {
                    // A write of the first bytes either succeeds at once or the connection is unusable.
                    match Pin::new(&mut *stream).poll_write(cx, PROBE) {
                        Poll::Ready(Ok(count)) if count == PROBE.len() => {}
                        _ => return gone(),
                    }
                    let _ = Pin::new(&mut *stream).poll_flush(cx)?;
                    CHECK_INTERVALS.0
                }
                Some(_) if stream.has_failed() => return gone(),
                Some(pause) => (pause * 2).min(CHECK_INTERVALS.1),
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

impl<S: ByteStream> Drop for HalfClose<S> {
    fn drop(&mut self) {
        if let Some(stream) = &self.inner
            && self.signal.aborted.load(Ordering::Acquire)
        {
            stream.reset_on_drop();
        }
    }
}

impl ClientSignal {
    /// Holds the EOF back while the guard lives. Requests of one connection are serial, so at most one guard
    /// exists. If `probed` is set, an interim response checks whether a half-closed client still waits.
    pub fn hold(self: &Arc<Self>, probed: bool) -> EofHold {
        self.probed.store(probed, Ordering::Relaxed);
        self.held.store(true, Ordering::Release);
        EofHold(Arc::clone(self))
    }

    /// Whether the client has ended its stream: no more data will arrive.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Wakes the task at EOF, also if it has already arrived.
    pub fn wake_at_end(&self, cx: &mut Context<'_>) {
        self.body.register(cx.waker());
        if self.ended() {
            cx.waker().wake_by_ref();
        }
    }

    /// Marks the response as incomplete: the stream ends with a reset, which no framing can mistake for a clean
    /// end.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
    }

    fn poll_released(&self, cx: &mut Context<'_>) -> Poll<()> {
        let held = || self.held.load(Ordering::Acquire);
        if !held() {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        if held() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for EofHold {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Release);
        self.0.reader.wake();
    }
}

impl<S: ByteStream> AsyncRead for HalfClose<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ended {
            let before = buffer.filled().len();
            match ready!(this.stream()?.poll_read(cx, buffer)) {
                // A TLS client that closes without close_notify has also closed.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Poll::Ready(Err(e)),
                Ok(()) if buffer.filled().len() > before || buffer.remaining() == 0 => {
                    this.clock.received();
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => {}
            }
            this.ended = true;
            this.signal.ended.store(true, Ordering::Release);
            this.signal.body.wake();
        }
        match this.signal.poll_released(cx) {
            Poll::Pending => this.poll_gone(cx),
            released => released.map(Ok),
        }
    }
}

impl<S: ByteStream> AsyncWrite for HalfClose<S> {
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
        // Called only after the stream has accepted all bytes.
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
    async fn eof_is_held_back_until_released() {
        let (mut client, server) = duplex(64);
        let signal = Arc::new(ClientSignal::default());
        let held = signal.hold(false);
        let mut server = HalfClose::new(server, Arc::clone(&signal), Arc::default());
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let mut rest = Vec::new();
        let mut read = tokio::spawn(async move {
            server.read_to_end(&mut rest).await.unwrap();
            rest
        });
        tokio::task::yield_now().await;
        assert!(!read.is_finished(), "EOF must not be visible yet");
        drop(held);
        assert!((&mut read).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn eof_is_visible_at_once_without_a_hold() {
        let (client, server) = duplex(64);
        drop(client);
        let mut server = HalfClose::new(server, Arc::default(), Arc::default());
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
