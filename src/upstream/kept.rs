//! A connection to a backend between two requests, which needs no task.
//!
//! The connection is owned by the request that uses it, or by the backend's
//! [`IdlePool`](super::reuse::IdlePool). While it is idle, the runtime's readiness of the socket says
//! whether anything has happened: if not, the connection is open, and finding that out takes no system
//! call. Whatever arrives on an idle connection makes it unusable: its end, or bytes without
//! a request. TLS messages without application data, such as session tickets, are read and change nothing.
//!
//! The pool's waker is stored with the socket while the connection is idle. A request that reads from
//! the connection replaces the waker by its own. This module knows no protocol but TLS.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    task::unconstrained,
};

use super::reuse::{CloseWatch, Permit, Reusable};
use crate::net::stream::BackendStream;

/// A connection that is used for one request after another.
#[derive(Debug)]
pub struct KeptConnection {
    /// The socket, with TLS if the pool uses it.
    pub stream: BackendStream,
    /// When the connection was opened.
    pub opened: Instant,
    /// [`BackendConnector::serial`](super::BackendConnector::serial) of the settings that opened it.
    pub connector: u64,
    /// [`IdlePool::epoch`](super::reuse::IdlePool::epoch) before it was opened.
    pub epoch: u64,
    /// Idle timeout that the backend announced with its last response.
    pub limit: Option<Duration>,
    /// When the connection last became idle.
    answered: Option<Instant>,
    /// Held until the connection is closed, or becomes a tunnel.
    _permit: Permit,
}

impl KeptConnection {
    /// Creates a connection that has just been opened; `connector` and `epoch` as in the fields.
    pub fn new(stream: BackendStream, connector: u64, epoch: u64, permit: Permit) -> Self {
        let opened = Instant::now();
        Self { stream, opened, connector, epoch, limit: None, answered: None, _permit: permit }
    }

    /// When the connection last became idle, after its last response; `None` before the first time.
    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// Returns the stream of a connection that becomes a tunnel, and so cannot be kept.
    pub fn into_stream(self) -> BackendStream {
        self.stream
    }

    /// Reads what has arrived. `Ready` if the connection cannot be used any more, otherwise `close` is
    /// woken when more arrives.
    fn poll_unusable(&mut self, close: &mut Context<'_>) -> Poll<()> {
        // Must not depend on how much the calling task has read already.
        let stream = &mut self.stream;
        pin!(unconstrained(poll_fn(|cx| poll_one_byte(stream, cx)))).poll(close)
    }

    /// Whether the runtime has seen an event that has not been read yet.
    fn has_event(&self) -> bool {
        self.stream.socket().try_io(Interest::READABLE, || Ok(())).is_ok()
    }
}

impl Reusable for KeptConnection {
    fn watch(&mut self, close: &mut Context<'_>) -> CloseWatch {
        match self.poll_unusable(close) {
            Poll::Pending => CloseWatch::Tracked,
            Poll::Ready(()) => CloseWatch::Closed,
        }
    }

    fn is_open(&mut self, close: &mut Context<'_>) -> bool {
        !self.has_event() || self.poll_unusable(close).is_pending()
    }

    fn set_idle(&mut self, since: Option<Instant>) {
        if since.is_some() {
            self.answered = since;
        }
    }
}

/// Resolves if one byte, an end or an error can be read.
fn poll_one_byte(stream: &mut BackendStream, cx: &mut Context<'_>) -> Poll<()> {
    // Without an event there is nothing to read, unless TLS has received more than the response.
    if !stream.has_received() && ready!(stream.socket().poll_read_ready(cx)).is_err() {
        return Poll::Ready(());
    }
    let mut byte = [0];
    Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(drop)
}

#[cfg(test)]
mod tests;
