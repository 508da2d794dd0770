//! A plain origin that costs as little as it can: it shares a core with the clients that measure.
//!
//! `GET` of any path is answered with a small text. A WebSocket on any path echoes each frame; one on
//! `/bulk?bytes=N` pushes that many bytes and closes; without `bytes` it pushes until the client
//! leaves. Frames are echoed as they come, without waiting for their ends, so that a connection owns
//! no buffer but for what a client does not take.
//!
//! Must not know clients or Socket.IO.

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

use super::request::{Asked, Request};
use crate::net::frame::{self, Header, Opcode};

/// As much as one read takes.
const SCRATCH: usize = 128 << 10;
/// Payload of a pushed frame.
const PUSHED: usize = 64 << 10;
/// Pushed frames that are written at a time.
const BATCH: usize = 4;
/// Longest head of a request.
const MAX_HEAD: usize = 32 << 10;
/// Pause after a failed accept: descriptors must become free first.
const NO_DESCRIPTORS: Duration = Duration::from_millis(50);
/// How long a client may take to answer a close frame.
const FAREWELL: Duration = Duration::from_secs(1);

const REPLY_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\n";
const REPLY_BODY: &[u8] = b"moorline\n";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves until it is dropped; connections that are open then live as long as the runtime.
pub(crate) async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => drop(tokio::spawn(peer(tcp))),
            Err(_) => time::sleep(NO_DESCRIPTORS).await,
        }
    }
}

/// One connection; what ends it interests nobody here.
async fn peer(mut tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (request, early) = match http(&mut tcp).await? {
        Some(upgraded) => upgraded,
        None => return Ok(()),
    };
    match request {
        Asked::Bulk(bytes) => push(tcp, bytes).await,
        _ => Echo::new(tcp).run(early).await,
    }
}

/// Answers requests until one asks for a WebSocket: that, and what came behind it.
async fn http(tcp: &mut TcpStream) -> io::Result<Option<(Asked, Vec<u8>)>> {
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
            if request.asked != Asked::Text {
                upgraded = Some(request.asked);
                break;
            }
            last = request.last;
            if last {
                break;
            }
        }
        tcp.write_all(&replies).await?;
        replies.clear();
        if let Some(asked) = upgraded {
            return Ok(Some((asked, input)));
        }
        if last || input.len() > MAX_HEAD {
            return Ok(None);
        }
        if input.is_empty() {
            // Thousands of idle connections are not to keep a buffer each.
            input = Vec::new();
        }
    }
}

/// Reads through the thread's buffer: how much it was.
fn read_more(
    tcp: &mut TcpStream,
    cx: &mut Context<'_>,
    input: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    READ.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(tcp).poll_read(cx, &mut buf))?;
        input.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
}

/// A WebSocket that echoes.
struct Echo {
    tcp: TcpStream,
    /// What is left of a read: part of a header.
    pending: Vec<u8>,
    /// What the client did not take yet; nothing is read meanwhile.
    unsent: Vec<u8>,
    frame: Frame,
}

/// Where in a frame the input stands.
struct Frame {
    key: [u8; 4],
    /// Bytes of payload that passed.
    passed: u64,
    /// Bytes of payload to come.
    left: u64,
    /// A pong nobody asked for.
    ignored: bool,
    /// A close frame: the last one.
    last: bool,
}

impl Echo {
    fn new(tcp: TcpStream) -> Self {
        let frame = Frame { key: [0; 4], passed: 0, left: 0, ignored: false, last: false };
        Self { tcp, pending: Vec::new(), unsent: Vec::new(), frame }
    }

    async fn run(mut self, early: Vec<u8>) -> io::Result<()> {
        let mut more = poll_fn(|cx| Poll::Ready(self.take(cx, &early))).await?;
        while more {
            if !self.unsent.is_empty() {
                self.tcp.write_all(&self.unsent).await?;
                self.unsent = Vec::new();
            }
            more = poll_fn(|cx| self.poll_turn(cx)).await?;
        }
        self.tcp.write_all(&self.unsent).await?;
        self.tcp.shutdown().await
    }

    /// Reads once and echoes that; false after a close frame or the end.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        READ.with_borrow_mut(|scratch| {
            // At most a part of a header.
            let old = self.pending.len();
            let mut buf = ReadBuf::new(&mut scratch[old..]);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf))?;
            let fresh = buf.filled().len();
            if fresh == 0 {
                return Poll::Ready(Ok(false));
            }
            scratch[..old].copy_from_slice(&self.pending);
            Poll::Ready(self.take(cx, &scratch[..old + fresh]))
        })
    }

    /// Echoes `input`; false after a close frame.
    fn take(&mut self, cx: &mut Context<'_>, input: &[u8]) -> io::Result<bool> {
        WRITE.with_borrow_mut(|out| {
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
    /// Appends the echo of `input` to `out`: how much of the input it was.
    fn echo(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let passing = self.left.min((input.len() - used) as u64);
            let payload = &input[used..used + passing as usize];
            used += payload.len();
            if !self.ignored {
                let start = out.len();
                out.extend_from_slice(payload);
                frame::apply_mask(&mut out[start..], self.key, self.passed);
            }
            self.passed += passing;
            self.left -= passing;
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
            passed: 0,
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

/// Pushes frames of zeros: `bytes` of payload, or until the client leaves.
async fn push(mut tcp: TcpStream, bytes: Option<u64>) -> io::Result<()> {
    let batch = batch();
    let frame = batch.len() / BATCH;
    let mut left = bytes.unwrap_or(u64::MAX);
    while left >= PUSHED as u64 {
        let frames = (left / PUSHED as u64).min(BATCH as u64);
        if !write_unless_left(&mut tcp, &batch[..frames as usize * frame]).await? {
            return Ok(());
        }
        left -= frames * PUSHED as u64;
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
    // Closing with unread bytes would reset the connection under the client's last reads.
    let mut rest = [0; 256];
    let _ = time::timeout(FAREWELL, async {
        while tcp.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    Ok(())
}

/// Writes all, or stops where the client says anything: all that it has to say here is goodbye.
async fn write_unless_left(tcp: &mut TcpStream, mut bytes: &[u8]) -> io::Result<bool> {
    poll_fn(|cx| {
        let mut said = [0; 16];
        if Pin::new(&mut *tcp).poll_read(cx, &mut ReadBuf::new(&mut said)).is_ready() {
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

/// Whole frames, one behind the other.
fn batch() -> &'static [u8] {
    static FRAMES: OnceLock<Vec<u8>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let mut frame = Vec::new();
        Header { fin: true, opcode: Opcode::Binary, mask: None, len: PUSHED as u64 }
            .write(&mut frame);
        frame.resize(frame.len() + PUSHED, 0);
        frame.repeat(BATCH)
    })
}

#[cfg(test)]
mod tests;
