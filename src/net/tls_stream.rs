//! TLS over a byte stream, for both sides, without a buffer while nothing moves.
//!
//! rustls's unbuffered API decrypts records where they lie and encrypts into room that the caller provides. A
//! [`TlsStream`] borrows this room from the free list of the thread while bytes move: an idle connection holds
//! no buffer at all. Three can be held while they move, each at most 64 KiB: records received and not
//! processed, decrypted bytes that the reader had no room for, and records not sent yet. A write decrypts the
//! complete records that were received before it. No record is read from the socket while the reader has no room,
//! and nothing is encrypted while a record waits to be sent.
//!
//! The stream knows neither certificates nor settings: they are in the rustls session that it is given. An
//! invalid record makes every later read and write fail with the same error. The alert for the peer is sent at
//! once if the socket takes it, otherwise by the next flush.

mod records;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use moorline_http::{BULK_SIZE, Buffer, HEAD_SIZE};
use rustls::{
    CommonState,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::UnbufferedStatus,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Maximum plaintext of one record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;

/// Plaintext encrypted before it is sent: with the overhead of its records, it fits into a bulk buffer.
const MOST_AT_ONCE: usize = 3 * RECORD;

/// Room for the overhead of the records of one write, and for a key update before them.
const OVERHEAD: usize = 512;

/// A connection of rustls's unbuffered API, of either side.
pub trait TlsSession: Unpin + Send {
    /// rustls's state of the side.
    type Data;

    /// Processes records until there is something to do.
    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Returns what both sides have in common.
    fn common(&self) -> &CommonState;
}

macro_rules! tls_session {
    ($session:ty, $data:ty) => {
        impl TlsSession for $session {
            type Data = $data;

            fn process<'c, 'i>(
                &'c mut self,
                records: &'i mut [u8],
            ) -> UnbufferedStatus<'c, 'i, Self::Data> {
                self.process_tls_records(records)
            }

            fn common(&self) -> &CommonState {
                self
            }
        }
    };
}

tls_session!(UnbufferedServerConnection, ServerConnectionData);
tls_session!(UnbufferedClientConnection, ClientConnectionData);

/// TLS over a byte stream.
pub struct TlsStream<S, T = TcpStream> {
    socket: T,
    session: S,
    /// Received records that are not processed yet.
    incoming: Option<Buffer>,
    /// Decrypted bytes that the reader had no room for.
    plain: Option<Buffer>,
    /// Records that are not sent yet.
    outgoing: Option<Buffer>,
    /// Why the session has failed.
    failed: Option<Box<rustls::Error>>,
    /// Whether the last read found more than a small buffer holds.
    in_bulk: bool,
    /// Whether the peer has sent its `close_notify`.
    read_closed: bool,
    /// Whether the own `close_notify` has been written.
    write_closed: bool,
}

/// A stream to a client.
pub type ServerTlsStream = TlsStream<UnbufferedServerConnection>;

/// A stream to a backend.
pub type ClientTlsStream = TlsStream<UnbufferedClientConnection>;

impl<S: TlsSession, T: AsyncRead + AsyncWrite + Unpin> TlsStream<S, T> {
    /// Creates a stream before its handshake. `received`: bytes that were read from the socket already.
    pub fn new(session: S, socket: T, received: Option<Buffer>) -> Self {
        Self {
            socket,
            session,
            incoming: received.filter(|received| !received.is_empty()),
            plain: None,
            outgoing: None,
            failed: None,
            in_bulk: false,
            read_closed: false,
            write_closed: false,
        }
    }

    /// Performs the handshake, and sends all messages of it.
    ///
    /// # Errors
    /// The socket's error, [`io::ErrorKind::UnexpectedEof`] if the peer has closed, or
    /// [`io::ErrorKind::InvalidData`] around a [`rustls::Error`].
    pub async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Err(error) = self.process_handshake() {
                // An error of the socket would hide the first one.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
            // Also receives while the socket takes nothing: the peer may send its message before it reads ours.
            let sent = self.poll_send(cx)?;
            if !self.session.common().is_handshaking() {
                return sent.map(Ok);
            }
            if ready!(self.poll_receive(cx))? == 0 {
                let error = "the connection was closed during the TLS handshake";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
            }
        }
    }

    /// Returns the underlying stream.
    pub fn socket(&self) -> &T {
        &self.socket
    }

    /// Returns the underlying stream; records that were received are lost.
    pub fn into_socket(self) -> T {
        self.socket
    }

    /// Returns the state of the session.
    pub fn session(&self) -> &CommonState {
        self.session.common()
    }

    /// Whether a read may find something without the socket: received bytes, or the end of the session.
    pub fn has_received(&self) -> bool {
        let bytes = self.incoming.is_some() || self.plain.is_some();
        bytes || self.read_closed || self.failed.is_some()
    }

    /// Whether there are records to send. A flush sends them.
    pub fn has_unsent(&self) -> bool {
        self.outgoing.is_some() || self.session.common().wants_write()
    }

    /// Moves decrypted bytes to the reader.
    fn take_plain(&mut self, room: &mut ReadBuf<'_>) {
        let Some(plain) = &mut self.plain else { return };
        let count = plain.len().min(room.remaining());
        room.put_slice(&plain.filled()[..count]);
        plain.consume(count);
        if plain.is_empty() {
            self.plain = None;
        }
    }

    /// Reads records from the socket once; 0 at its end. Without any record, no buffer is kept.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = match self.incoming.take() {
            Some(buffer) => self.with_room(buffer)?,
            None if self.in_bulk => Buffer::bulk(),
            None => Buffer::new(),
        };
        let read = buffer.poll_fill(cx, &mut self.socket);
        if let Poll::Ready(Ok(count)) = read {
            self.in_bulk = count > HEAD_SIZE || buffer.is_full();
        } else if buffer.capacity() > HEAD_SIZE && (1..=HEAD_SIZE / 2).contains(&buffer.len()) {
            // The rest of a record may take long.
            buffer = Buffer::of(buffer.filled());
        }
        self.incoming = (!buffer.is_empty()).then_some(buffer);
        read
    }

    /// Makes room behind an incomplete message.
    fn with_room(&self, mut buffer: Buffer) -> io::Result<Buffer> {
        buffer.compact();
        if buffer.capacity() < BULK_SIZE && (self.in_bulk || buffer.is_full()) {
            let mut larger = Buffer::bulk();
            larger.push(buffer.filled());
            buffer = larger;
        }
        if buffer.is_full() {
            // No record is as long, and rustls takes no longer handshake message.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message is too long"));
        }
        Ok(buffer)
    }

    /// Sends all records.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(outgoing) = &mut self.outgoing else { return Poll::Ready(Ok(())) };
        let sent = ready!(outgoing.poll_drain(cx, &mut self.socket));
        self.outgoing = None;
        Poll::Ready(sent)
    }

    /// Ready once application data may be encrypted: earlier records have been sent.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.write_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.poll_send(cx)
    }

    /// Provides room for the records of `count` bytes.
    fn provide_room(&mut self, count: usize) {
        self.outgoing = Some(buffer_for(count + OVERHEAD));
    }

    /// Encrypts as many bytes of the parts as are sent at once, in as few records as possible. `all`: size of the
    /// parts.
    fn encrypt_parts(&mut self, parts: &[IoSlice<'_>], all: usize) -> io::Result<usize> {
        let mut taken = 0;
        let mut begun: Option<Buffer> = None;
        for (at, part) in parts.iter().enumerate() {
            let mut part = &part[..part.len().min(MOST_AT_ONCE - taken)];
            taken += part.len();
            if let Some(mut record) = begun.take() {
                let (fitting, rest) = part.split_at(part.len().min(RECORD - record.len()));
                record.push(fitting);
                part = rest;
                match record.len() {
                    RECORD => self.encrypt(record.filled())?,
                    _ => begun = Some(record),
                }
            }
            // Whole records are encrypted where they lie; the next part continues the last one.
            let is_last = at + 1 == parts.len() || taken == MOST_AT_ONCE;
            let whole = if is_last { part.len() } else { part.len() - part.len() % RECORD };
            let (whole, rest) = part.split_at(whole);
            if !whole.is_empty() && begun.is_none() {
                self.encrypt(whole)?;
            }
            if !rest.is_empty() {
                let mut record = buffer_for(all.min(RECORD));
                record.push(rest);
                begun = Some(record);
            }
        }
        if let Some(record) = begun {
            self.encrypt(record.filled())?;
        }
        Ok(taken)
    }
}

impl<S, T: fmt::Debug> fmt::Debug for TlsStream<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsStream").field(&self.socket).finish()
    }
}

/// Takes a buffer that holds `count` bytes.
fn buffer_for(count: usize) -> Buffer {
    if count > HEAD_SIZE { Buffer::bulk() } else { Buffer::new() }
}

impl<S: TlsSession, T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S, T> {
    /// Fails with [`io::ErrorKind::UnexpectedEof`] if the peer closes without `close_notify`.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        this.take_plain(buf);
        loop {
            let processed = this.process_received(buf);
            if processed.is_err() {
                // An error of the socket would hide the first one.
                let _ = this.poll_send(cx);
            }
            if buf.filled().len() > before {
                // The next read finds the same error.
                return Poll::Ready(Ok(()));
            }
            processed?;
            if this.read_closed {
                return Poll::Ready(Ok(()));
            }
            let received = this.poll_receive(cx)?;
            if received.is_pending() && this.outgoing.is_some() {
                // The answer to a key update must not wait for a write. An error is found by the next one.
                let _ = this.poll_send(cx);
            }
            if ready!(received) == 0 {
                let error = "the peer closed the connection without a TLS close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
            }
        }
    }
}

impl<S: TlsSession, T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S, T> {
    /// Records may still wait for the socket when all bytes are written; a flush sends them.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_writable(cx))?;
        let mut written = 0;
        while written < buf.len() {
            let count = (buf.len() - written).min(MOST_AT_ONCE);
            this.provide_room(count);
            this.encrypt(&buf[written..written + count])?;
            written += count;
            if this.poll_send(cx)?.is_pending() {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_writable(cx))?;
        let all = bufs.iter().map(|part| part.len()).sum::<usize>();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        this.provide_room(all);
        let written = this.encrypt_parts(bufs, all)?;
        // Pending: the next write or flush sends the records.
        let _ = this.poll_send(cx)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.take_queued();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    /// Sends `close_notify`, then shuts the underlying stream. Reads stay possible.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_closed {
            this.write_closed = true;
            if this.failed.is_none() {
                this.write_close_notify()?;
            }
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}
