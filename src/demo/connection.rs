//! A connection of a node. If the node is killed, the connection fails and its peer gets a reset.

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

/// A TCP stream that fails when its node is killed.
pub(super) struct NodeConnection {
    stream: TcpStream,
    killed: CancellationToken,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl NodeConnection {
    /// Creates a stream that fails when `killed` is cancelled.
    pub(super) fn new(stream: TcpStream, killed: CancellationToken) -> Self {
        let kill = Box::pin(killed.clone().cancelled_owned());
        Self { stream, killed, kill }
    }

    /// Fails if the node was killed; else wakes the task when it is killed.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.kill.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl fmt::Debug for NodeConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConnection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Drop for NodeConnection {
    fn drop(&mut self) {
        if self.killed.is_cancelled() {
            // With a linger time of zero, a close is a reset. If the option cannot be set, it is a FIN.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for NodeConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.killed.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match Pin::new(&mut self.stream).poll_read(cx, into) {
            // Only a waiting read must be woken when the node is killed.
            Poll::Pending => match self.poll_alive(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
            ready => ready,
        }
    }
}

impl AsyncWrite for NodeConnection {
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
            // No FIN: dropping the stream resets the connection.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
