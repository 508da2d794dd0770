//! Connections that can be reset all at once.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The open connections. Dropped streams are removed from time to time.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<OpenStreams>);

#[derive(Debug, Default)]
struct OpenStreams {
    streams: Vec<Weak<TcpStream>>,
    /// Length of the list at which dropped streams are removed.
    cleanup_at: usize,
}

/// A connection that [`Connections`] can reset.
#[derive(Debug)]
pub(super) struct Connection(Arc<TcpStream>);

impl Connections {
    /// Adds a connection.
    pub(super) fn add(&self, stream: TcpStream) -> Connection {
        let stream = Arc::new(stream);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.streams.len() >= open.cleanup_at {
            open.streams.retain(|stream| stream.strong_count() > 0);
            open.cleanup_at = (open.streams.len() * 2).max(64);
        }
        open.streams.push(Arc::downgrade(&stream));
        Connection(stream)
    }

    /// Resets all connections. Later reads and writes fail.
    pub(super) fn reset(&self) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.streams.drain(..).filter_map(|stream| stream.upgrade()) {
            // On Linux, disconnecting a socket this way sends a reset at once; SO_LINGER would wait until the
            // last owner drops it. Fails if the peer has already closed the connection.
            let _ = rustix::net::connect_unspec(&stream);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
