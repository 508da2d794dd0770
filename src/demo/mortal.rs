//! A connection of a node that can be killed: it fails at once, and its other end gets a reset.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream until its node is killed.
pub(super) struct Mortal {
    stream: TcpStream,
    killed: CancellationToken,
    death: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Mortal {
    /// A stream that fails once `killed` is cancelled.
    pub(super) fn new(stream: TcpStream, killed: CancellationToken) -> Self {
        let death = Box::pin(killed.clone().cancelled_owned());
        Self { stream, killed, death }
    }

    /// Fails where the node is dead; else wakes the task when it dies.
    fn alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.death.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl fmt::Debug for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mortal").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if self.killed.is_cancelled() {
            // A close with a linger time of zero is a reset; where it cannot be set, it is an end.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Mortal {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.killed.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match Pin::new(&mut self.stream).poll_read(cx, into) {
            // Only who waits need be woken by the death.
            Poll::Pending => match self.alive(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
            ready => ready,
        }
    }
}

impl AsyncWrite for Mortal {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.killed.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.killed.is_cancelled() {
            // No orderly end: the drop resets.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
