//! Bulk data between two plain sockets, moved by the kernel with `splice(2)` from socket to pipe to
//! socket, without a copy through this process.
//!
//! A direction with enough traffic (`Bulk`) moves its bytes through a pipe that exists for one
//! poll of its tunnel, like the thread's copy buffer. The pipe stays with the direction only if the
//! writer takes less than the pipe holds, until the pipe is empty. An idle tunnel therefore has no
//! descriptors besides its sockets, and the process at most `MOST_PIPES` pipes; without a free
//! pipe, bytes are copied. Creating and closing a pipe takes 2.5 µs; copying 64 KiB takes 20 µs more
//! than splicing it. A pool of pipes would save the 2.5 µs at the cost of idle descriptors.
//!
//! The result of splice alone decides nothing:
//!
//! - If no bytes arrive, this may be EOF, no data for now, or urgent data, at which the kernel
//!   stops: the copy loop reads on and finds out.
//! - If the kernel refuses to splice (`EINVAL` and the like), the copy loop takes over for good;
//!   bytes left in the pipe go first.
//!
//! Built on `rustix` and the readiness of tokio's sockets. The crate `tokio-splice2` has a future
//! for a whole transfer, which holds a pipe for the whole time. The tunnel needs single steps, so
//! that timeouts, commands and ends stay in one place.

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

use super::direction::{CopyError, Direction};
use crate::net::stream::ByteStream;

/// Size of a pipe in bytes: as many pages as a full pipe may hold.
const ROOM: usize = 256 * 1024;

/// Maximum number of pipes of the process, two descriptors each. Blocked bytes in them occupy kernel
/// memory, up to [`ROOM`] each.
const MOST_PIPES: usize = 128;

/// Amount that a direction must have moved, beyond small messages.
const BULKY: u32 = 256 * 1024;

/// Minimum size of a read that makes a direction bulkier: below, three system calls cost more than
/// the copy.
const WORTHWHILE: u32 = 16 * 1024;

static FORBIDDEN: AtomicBool = AtomicBool::new(false);
static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// An empty pipe for the next round of this poll.
    static SPARE: Cell<Option<Pipe>> = const { Cell::new(None) };
}

#[cfg(test)]
thread_local! {
    /// Bytes moved from a pipe to a socket.
    static SPLICED: Cell<u64> = const { Cell::new(0) };
}

/// Disables splicing in the whole process.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Closes the spare pipe at the end of a tunnel's poll.
pub(super) fn end_poll() {
    SPARE.set(None);
}

/// Measures how bulky a direction is: a bucket that each read fills with its bytes, and that leaks
/// [`WORTHWHILE`] per read. Its capacity is twice the threshold, so that a flow that turns into
/// messages is copied again after a few of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bulk(u32);

/// A pipe and the number of bytes in it.
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
    /// Takes the spare pipe or creates one; `None` if the process has too many, or no descriptors.
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
        // Past the user's limit of pages, the pipe keeps its default size.
        let _ = fcntl_setpipe_size(&entry, ROOM);
        Some(Self { exit, entry, filled: 0 })
    }

    /// Leaves the pipe to the next round.
    fn give_back(self) {
        debug_assert_eq!(self.filled, 0, "the pipe still holds bytes of a direction");
        SPARE.set(Some(self));
    }

    /// Fills the empty pipe from the reader. 0 may mean EOF, no data, or urgent data: the kernel
    /// stops there and returns `EAGAIN` until it has been read. 0 therefore does not mean that the
    /// socket is empty.
    fn fill(&mut self, reader: &TcpStream) -> io::Result<usize> {
        self.filled = match splice(reader, None, &self.entry, None, ROOM, SpliceFlags::NONBLOCK) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            taken => taken?,
        };
        Ok(self.filled)
    }

    /// Writes the pipe's bytes to the writer, once; returns how many were written.
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

    /// Reads the pipe's bytes into memory.
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
    /// Reads once and writes the bytes, by splice or by copy.
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

    /// Moves one pipe of bytes; false if that is not possible and the bytes must be copied.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        reader: &TcpStream,
        writer: &TcpStream,
    ) -> Poll<Result<bool, CopyError>> {
        // A poll that was caused by the other direction must not cost a pipe.
        if reader.poll_read_ready(cx).is_pending() {
            return Poll::Ready(Ok(false));
        }
        let Some(mut pipe) = Pipe::take() else {
            // Tried again only after as many bytes have moved.
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

    /// Writes the bytes of the pipe that stayed with this direction, if there is one.
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

    /// Copies from here on, beginning with the bytes in the pipe.
    fn give_up(&mut self, pipe: Pipe) -> io::Result<()> {
        self.bulk = Bulk::NEVER;
        self.rest = pipe.drain()?;
        Ok(())
    }
}

/// Whether the error means that the kernel cannot splice here, not that the socket has failed.
fn is_refused(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| refusals.contains(&error))
}

#[cfg(test)]
mod tests;
