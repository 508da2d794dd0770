//! An echo server that uses as little CPU time as possible: it shares a core with the clients that measure.
//!
//! Answers `GET` of any path with a small text, and of `/bulk?bytes=N` with that many bytes. A WebSocket on any path echoes each frame; a WebSocket on
//! `/bulk?bytes=N` sends that many bytes and closes, or sends without end if `bytes` is missing. Frames are
//! echoed while they arrive, so that a connection owns no buffer except for data that a client does not read.
//!
//! Does not know about clients or Socket.IO.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    time,
};

use super::request::{Request, RequestKind};
use crate::net::frame::{self, Header, Opcode};

/// Bytes of one read.
const BUFFER_SIZE: usize = 128 << 10;
/// Payload bytes of one frame of a download.
const FRAME_PAYLOAD: usize = 64 << 10;
/// Frames of a download that are written at once.
const BATCH_FRAMES: usize = 4;
/// Maximum length of a request header.
const MAX_HEAD: usize = 32 << 10;
/// Pause after a failed accept, until descriptors are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Maximum time until a client answers a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const REPLY_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\n";
const REPLY_BODY: &[u8] = b"moorline\n";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_SIZE].into_boxed_slice());
    static WRITE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves until dropped. Open connections then continue until the runtime ends.
pub(crate) async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => drop(tokio::spawn(serve_connection(tcp))),
            Err(_) => time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one connection; its errors are ignored.
async fn serve_connection(mut tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (request, early) = match http(&mut tcp).await? {
        Some(upgraded) => upgraded,
        None => return Ok(()),
    };
    match request {
        RequestKind::Bulk(bytes) => download(tcp, bytes).await,
        _ => Echo::new(tcp).run(early).await,
    }
}

/// Answers requests until one is an upgrade. Returns this request and the bytes that follow it.
async fn http(tcp: &mut TcpStream) -> io::Result<Option<(RequestKind, Vec<u8>)>> {
    let mut input = Vec::new();
    let mut replies = Vec::new();
    loop {
        if poll_fn(|cx| read_more(tcp, cx, &mut input)).await? == 0 {
            return Ok(None);
        }
        let mut upgraded = None;
        let mut last = false;
        while let Some(request) = Request::parse(&input) {
            let Ok(request) = request else {
                tcp.write_all(BAD_REQUEST).await?;
                return Ok(None);
            };
            request.answer(&mut replies, REPLY_HEAD, REPLY_BODY);
            input.drain(..request.length);
            if request.is_upgrade() {
                upgraded = Some(request.kind);
                break;
            }
            if request.body() > 0 {
                tcp.write_all(&replies).await?;
                replies.clear();
                send_body(tcp, request.body()).await?;
            }
            last = request.last;
            if last {
                break;
            }
        }
        tcp.write_all(&replies).await?;
        replies.clear();
        if let Some(kind) = upgraded {
            return Ok(Some((kind, input)));
        }
        if last || input.len() > MAX_HEAD {
            return Ok(None);
        }
        if input.is_empty() {
            // Idle connections must not keep a buffer.
            input = Vec::new();
        }
    }
}

/// Reads through the thread's buffer. Returns the number of bytes.
fn read_more(
    tcp: &mut TcpStream,
    cx: &mut Context<'_>,
    input: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    READ_BUFFER.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(tcp).poll_read(cx, &mut buf))?;
        input.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
}

/// A WebSocket that echoes.
struct Echo {
    tcp: TcpStream,
    /// Rest of a read: an incomplete header.
    pending: Vec<u8>,
    /// Data that the client has not read yet; nothing is read meanwhile.
    unsent: Vec<u8>,
    frame: Frame,
}

/// State of the current frame.
struct Frame {
    key: [u8; 4],
    /// Payload bytes already handled.
    done: u64,
    /// Payload bytes still to come.
    left: u64,
    /// Whether this is an unsolicited pong.
    ignored: bool,
    /// Whether this is a close frame.
    last: bool,
}

impl Echo {
    fn new(tcp: TcpStream) -> Self {
        let frame = Frame { key: [0; 4], done: 0, left: 0, ignored: false, last: false };
        Self { tcp, pending: Vec::new(), unsent: Vec::new(), frame }
    }

    async fn run(mut self, early: Vec<u8>) -> io::Result<()> {
        let mut more = poll_fn(|cx| Poll::Ready(self.echo_input(cx, &early))).await?;
        while more {
            if !self.unsent.is_empty() {
                self.tcp.write_all(&self.unsent).await?;
                self.unsent = Vec::new();
            }
            more = poll_fn(|cx| self.poll_echo(cx)).await?;
        }
        self.tcp.write_all(&self.unsent).await?;
        self.tcp.shutdown().await
    }

    /// Reads once and echoes the data. Returns false after a close frame or at the end.
    fn poll_echo(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        READ_BUFFER.with_borrow_mut(|scratch| {
            // At most an incomplete header.
            let old = self.pending.len();
            let mut buf = ReadBuf::new(&mut scratch[old..]);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf))?;
            let fresh = buf.filled().len();
            if fresh == 0 {
                return Poll::Ready(Ok(false));
            }
            scratch[..old].copy_from_slice(&self.pending);
            Poll::Ready(self.echo_input(cx, &scratch[..old + fresh]))
        })
    }

    /// Echoes `input`. Returns false after a close frame.
    fn echo_input(&mut self, cx: &mut Context<'_>, input: &[u8]) -> io::Result<bool> {
        WRITE_BUFFER.with_borrow_mut(|out| {
            out.clear();
            let used = self.frame.echo(input, out)?;
            self.pending.clear();
            self.pending.extend_from_slice(&input[used..]);
            self.write(cx, out)?;
            Ok(!(self.frame.last && self.frame.left == 0))
        })
    }

    fn write(&mut self, cx: &mut Context<'_>, mut out: &[u8]) -> io::Result<()> {
        while !out.is_empty() {
            match Pin::new(&mut self.tcp).poll_write(cx, out) {
                Poll::Ready(written) => out = &out[written?..],
                Poll::Pending => break,
            }
        }
        self.unsent.extend_from_slice(out);
        Ok(())
    }
}

impl Frame {
    /// Appends the echo of `input` to `out`. Returns how much of the input was used.
    fn echo(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let count = self.left.min((input.len() - used) as u64);
            let payload = &input[used..used + count as usize];
            used += payload.len();
            if !self.ignored {
                let start = out.len();
                out.extend_from_slice(payload);
                frame::apply_mask(&mut out[start..], self.key, self.done);
            }
            self.done += count;
            self.left -= count;
            if self.left > 0 || self.last {
                return Ok(used);
            }
            let header = Header::parse(&input[used..]).map_err(io::Error::other)?;
            let Some((header, length)) = header else {
                return Ok(used);
            };
            used += length;
            self.begin(header, out)?;
        }
    }

    fn begin(&mut self, header: Header, out: &mut Vec<u8>) -> io::Result<()> {
        let key = header.mask.ok_or(io::ErrorKind::InvalidData)?;
        *self = Self {
            key,
            done: 0,
            left: header.len,
            ignored: header.opcode == Opcode::Pong,
            last: header.opcode == Opcode::Close,
        };
        if !self.ignored {
            let opcode = match header.opcode {
                Opcode::Ping => Opcode::Pong,
                opcode => opcode,
            };
            Header { opcode, mask: None, ..header }.write(out);
        }
        Ok(())
    }
}

/// Sends a body of this many bytes. Their content has no meaning.
async fn send_body(tcp: &mut TcpStream, mut left: u64) -> io::Result<()> {
    while left > 0 {
        let part = &batch()[..left.min(batch().len() as u64) as usize];
        tcp.write_all(part).await?;
        left -= part.len() as u64;
    }
    Ok(())
}

/// Sends frames of zeros: `bytes` of payload, or until the client disconnects.
async fn download(mut tcp: TcpStream, bytes: Option<u64>) -> io::Result<()> {
    let batch = batch();
    let frame = batch.len() / BATCH_FRAMES;
    let mut left = bytes.unwrap_or(u64::MAX);
    while left >= FRAME_PAYLOAD as u64 {
        let frames = (left / FRAME_PAYLOAD as u64).min(BATCH_FRAMES as u64);
        if !write_unless_closed(&mut tcp, &batch[..frames as usize * frame]).await? {
            return Ok(());
        }
        left -= frames * FRAME_PAYLOAD as u64;
    }
    let mut end = Vec::new();
    if left > 0 {
        Header { fin: true, opcode: Opcode::Binary, mask: None, len: left }.write(&mut end);
        end.resize(end.len() + left as usize, 0);
    }
    Header { fin: true, opcode: Opcode::Close, mask: None, len: 2 }.write(&mut end);
    end.extend_from_slice(&1000_u16.to_be_bytes());
    tcp.write_all(&end).await?;
    tcp.shutdown().await?;
    // Closing with unread bytes would reset the connection before the client has read everything.
    let mut rest = [0; 256];
    let _ = time::timeout(CLOSE_TIMEOUT, async {
        while tcp.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    Ok(())
}

/// Writes all bytes, but stops if the client sends anything: that can only be a close frame.
async fn write_unless_closed(tcp: &mut TcpStream, mut bytes: &[u8]) -> io::Result<bool> {
    poll_fn(|cx| {
        let mut input = [0; 16];
        if Pin::new(&mut *tcp).poll_read(cx, &mut ReadBuf::new(&mut input)).is_ready() {
            return Poll::Ready(Ok(false));
        }
        while !bytes.is_empty() {
            let written = ready!(Pin::new(&mut *tcp).poll_write(cx, bytes))?;
            bytes = &bytes[written..];
        }
        Poll::Ready(Ok(true))
    })
    .await
}

/// Complete frames in a row.
fn batch() -> &'static [u8] {
    static FRAMES: OnceLock<Vec<u8>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let mut frame = Vec::new();
        Header { fin: true, opcode: Opcode::Binary, mask: None, len: FRAME_PAYLOAD as u64 }
            .write(&mut frame);
        frame.resize(frame.len() + FRAME_PAYLOAD, 0);
        frame.repeat(BATCH_FRAMES)
    })
}

#[cfg(test)]
mod tests;
