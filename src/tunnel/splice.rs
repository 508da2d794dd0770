//! Bulk between two plain sockets, moved by the kernel: `splice(2)` from socket to pipe to socket, so
//! that no byte is copied into this process and out of it again.
//!
//! A direction that [`Bulk`] finds bulky moves what comes through a pipe that is there for one poll of
//! its tunnel, as the copy borrows the thread's buffer. Only where the writer takes less than the pipe
//! holds does the pipe stay with the direction, until it is empty. So an idle tunnel has no descriptors
//! beside its sockets, and a process [`MOST_PIPES`] pipes at most; who finds none copies. To make a pipe
//! and to close it takes 2.5 µs, where copying 64 KiB takes 20 more than splicing it: a pool that would
//! save that would hold descriptors for nobody.
//!
//! Nothing is decided on splice's word alone:
//!
//! - That nothing came may be the end, nothing for now, or urgent data, at which the kernel stops: the
//!   copy reads on, and knows.
//! - Where the kernel will not splice (`EINVAL` and the like), the copy takes over for good, with what
//!   is left in the pipe going first.
//!
//! Written on `rustix` and the readiness of tokio's sockets. The crate `tokio-splice2` brings a future
//! for a whole transfer, with a pipe of its own for as long as that lasts; the tunnel needs single
//! steps, so that pauses, orders and endings stay in one place.

use std::{
    cell::Cell,
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

use super::copy::{CopyError, Direction};
use crate::net::stream::ByteStream;

/// Room of a pipe in bytes: as many segments of a page as a full one may hold.
const ROOM: usize = 256 * 1024;

/// Pipes that all directions of the process may have at a time, two descriptors each. What is blocked
/// in them is kernel memory, up to [`ROOM`] each.
const MOST_PIPES: usize = 128;

/// How much a direction must have moved beyond what small messages move.
const BULKY: u32 = 256 * 1024;

/// What a read must bring for a direction to become bulkier by it: below this, three system calls cost
/// more than the copy does.
const WORTHWHILE: u32 = 16 * 1024;

static FORBIDDEN: AtomicBool = AtomicBool::new(false);
static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// An empty one, for the next round of this poll.
    static SPARE: Cell<Option<Pipe>> = const { Cell::new(None) };
}

#[cfg(test)]
thread_local! {
    /// Bytes that have left a pipe for a socket.
    static SPLICED: Cell<u64> = const { Cell::new(0) };
}

/// From now on everything is copied, in all of the process.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Closes what is left of pipes at the end of a tunnel's poll.
pub(super) fn end_poll() {
    SPARE.set(None);
}

/// How bulky a direction is: a bucket that each read fills by what it brought, and that leaks
/// [`WORTHWHILE`] at each. It holds twice what makes it bulky, so that a flow that turns into messages
/// is copied again after a few of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bulk(u32);

/// A pipe, and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    filled: usize,
}

impl Bulk {
    /// A direction that must not be spliced.
    pub(super) const NEVER: Self = Self(u32::MAX);

    pub(super) fn note(&mut self, read: usize) {
        if self.0 != Self::NEVER.0 {
            let read = u32::try_from(read).unwrap_or(u32::MAX);
            self.0 = self.0.saturating_add(read).saturating_sub(WORTHWHILE).min(2 * BULKY);
        }
    }

    pub(super) fn is_bulky(self) -> bool {
        (BULKY..=2 * BULKY).contains(&self.0)
    }
}

impl Pipe {
    /// One that is there, or a new one; `None` where there are too many, or no descriptors.
    fn take() -> Option<Self> {
        if let Some(pipe) = SPARE.take() {
            return Some(pipe);
        }
        if FORBIDDEN.load(Ordering::Relaxed) || PIPES.fetch_add(1, Ordering::Relaxed) >= MOST_PIPES
        {
            PIPES.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok((exit, entry)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
            PIPES.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        // Past the user's limit of pages a pipe stays as small as it is.
        let _ = fcntl_setpipe_size(&entry, ROOM);
        Some(Self { exit, entry, filled: 0 })
    }

    /// Leaves it to the next round.
    fn give_back(self) {
        debug_assert_eq!(self.filled, 0, "it belongs to a direction");
        SPARE.set(Some(self));
    }

    /// Fills it, which is empty, with what the reader has. 0 may be the end, nothing now, or urgent data:
    /// the kernel stops at that, and says `EAGAIN` for as long as nobody reads across it. So it does not
    /// tell that the socket is empty, and must not be taken for that.
    fn fill(&mut self, reader: &TcpStream) -> io::Result<usize> {
        self.filled = match splice(reader, None, &self.entry, None, ROOM, SpliceFlags::NONBLOCK) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            taken => taken?,
        };
        Ok(self.filled)
    }

    /// Empties it into the writer, once. Bytes that have gone.
    fn poll_empty(&mut self, cx: &mut Context<'_>, writer: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(writer.poll_write_ready(cx))?;
            let flags = SpliceFlags::NONBLOCK;
            let given = || Ok(splice(&self.exit, None, writer, None, self.filled, flags)?);
            match writer.try_io(Interest::WRITABLE, given) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(given) => {
                    self.filled -= given;
                    #[cfg(test)]
                    SPLICED.set(SPLICED.get() + given as u64);
                    return Poll::Ready(Ok(given));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// What is in it, into memory.
    fn drain(self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.filled];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::read(&self.exit, &mut bytes[read..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => read += more,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(bytes.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Direction {
    /// One read and the write of what it brought, by the kernel or by the copy.
    pub(super) fn poll_move<R: ByteStream, W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
    ) -> Poll<Result<(), CopyError>> {
        if self.bulk.is_bulky()
            && self.frames.is_lost()
            && let Some((reader, writer)) = reader.plain().zip(writer.plain())
            && ready!(self.poll_splice(cx, reader, writer))?
        {
            return Poll::Ready(Ok(()));
        }
        self.poll_copy(cx, reader, writer, scratch)
    }

    /// One round through a pipe. Whether that was possible; else the copy is to do it.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        reader: &TcpStream,
        writer: &TcpStream,
    ) -> Poll<Result<bool, CopyError>> {
        // A poll for the other direction's sake must not cost a pipe.
        if reader.poll_read_ready(cx).is_pending() {
            return Poll::Ready(Ok(false));
        }
        let Some(mut pipe) = Pipe::take() else {
            // Not tried again before as much again has moved.
            self.bulk = Bulk::default();
            return Poll::Ready(Ok(false));
        };
        match pipe.fill(reader) {
            Ok(1..) => {}
            Ok(_) => {
                pipe.give_back();
                return Poll::Ready(Ok(false));
            }
            Err(e) if is_refused(&e) => {
                self.bulk = Bulk::NEVER;
                return Poll::Ready(Ok(false));
            }
            Err(e) => return Poll::Ready(Err(CopyError::Read(e))),
        }
        self.bulk.note(pipe.filled);
        ready!(self.poll_emptied(cx, pipe, writer)).map_err(CopyError::Write)?;
        Poll::Ready(Ok(true))
    }

    /// Writes what the pipe holds that stayed with this direction, if one has.
    pub(super) fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        writer: Option<&TcpStream>,
    ) -> Poll<io::Result<()>> {
        match (self.held.take(), writer) {
            (None, _) => Poll::Ready(Ok(())),
            (Some(pipe), Some(writer)) => self.poll_emptied(cx, *pipe, writer),
            (Some(pipe), None) => Poll::Ready(self.give_up(*pipe)),
        }
    }

    fn poll_emptied(
        &mut self,
        cx: &mut Context<'_>,
        mut pipe: Pipe,
        writer: &TcpStream,
    ) -> Poll<io::Result<()>> {
        while pipe.filled > 0 {
            match pipe.poll_empty(cx, writer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(given)) => self.moved += given as u64,
                Poll::Ready(Err(e)) if is_refused(&e) => return Poll::Ready(self.give_up(pipe)),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.held = Some(Box::new(pipe));
                    return Poll::Pending;
                }
            }
        }
        pipe.give_back();
        Poll::Ready(Ok(()))
    }

    /// Copies from here on, what the pipe holds first.
    fn give_up(&mut self, pipe: Pipe) -> io::Result<()> {
        self.bulk = Bulk::NEVER;
        self.rest = pipe.drain()?;
        Ok(())
    }
}

/// Whether the kernel refuses to splice, and says nothing about the socket.
fn is_refused(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| refusals.contains(&error))
}

#[cfg(test)]
mod tests;
