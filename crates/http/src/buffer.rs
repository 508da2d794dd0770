//! Buffers that connections borrow while bytes move.
//!
//! Each thread keeps a few free buffers. A connection takes one when it polls its socket, and gives it back if
//! nothing arrived: an idle connection owns no buffer. A buffer that grew beyond its usual size is not kept.

use std::{
    cell::RefCell,
    fmt, io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of a buffer for a head, in bytes.
pub const HEAD_SIZE: usize = 8 * 1024;

/// Size of a buffer for a body that moves in bulk, in bytes.
pub const BULK_SIZE: usize = 64 * 1024;

/// Free buffers for heads that a thread keeps: 256 KiB.
const MOST_FREE_HEADS: usize = 32;

/// Free buffers for bulk that a thread keeps: 512 KiB. A thread that moves many bodies at the same time allocates the
/// rest; this costs little beside the copy of 64 KiB.
const MOST_FREE_BULK: usize = 8;

thread_local! {
    static FREE_HEADS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static FREE_BULK: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read and not yet consumed, and room for more. At most 4 GiB.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: u32,
    end: u32,
    /// Bytes at the end of the room that a read leaves free.
    behind: u32,
}

/// Requests in progress hold several.
const _: () = assert!(size_of::<Option<Buffer>>() <= 32);

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Buffer {
    /// Takes an empty buffer of [`HEAD_SIZE`] bytes.
    pub fn new() -> Self {
        Self::take(HEAD_SIZE)
    }

    /// Takes an empty buffer of [`BULK_SIZE`] bytes.
    pub fn bulk() -> Self {
        Self::take(BULK_SIZE)
    }

    fn take(size: usize) -> Self {
        let free = match size {
            HEAD_SIZE => FREE_HEADS.with_borrow_mut(Vec::pop),
            _ => FREE_BULK.with_borrow_mut(Vec::pop),
        };
        let bytes = free.unwrap_or_else(|| vec![0; size].into());
        Self { bytes, start: 0, end: 0, behind: 0 }
    }

    /// Creates a buffer with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut buffer = Self::new();
        buffer.push(bytes);
        buffer
    }

    /// Returns the bytes.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.range()]
    }

    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Returns the bytes, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.bytes[range]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether no room is left behind the bytes.
    pub fn is_full(&self) -> bool {
        (self.end + self.behind) as usize >= self.bytes.len()
    }

    /// Size of the room for all bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Removes `count` bytes from the beginning.
    pub fn consume(&mut self, count: usize) {
        self.start += self.len().min(count) as u32;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.start + self.len().min(len) as u32;
    }

    /// Removes all bytes.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Moves the bytes from `at` on into a buffer of their own; `None` if there are none.
    pub fn split_off(&mut self, at: usize) -> Option<Self> {
        let rest = self.filled().get(at..).filter(|rest| !rest.is_empty())?;
        let rest = Self::of(rest);
        self.truncate(at);
        Some(rest)
    }

    /// Appends bytes; makes room for them if necessary.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.end as usize;
        self.bytes[end..end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u32;
    }

    /// Appends a number in decimal digits.
    pub fn push_number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return self.push(&digits[at..]);
            }
        }
    }

    /// Makes room for `count` more bytes.
    pub fn reserve(&mut self, count: usize) {
        if self.bytes.len() - self.end as usize >= count {
            return;
        }
        self.grow(count);
    }

    fn grow(&mut self, count: usize) {
        self.compact();
        let needed = self.end as usize + count;
        if needed > self.bytes.len() {
            assert!(u32::try_from(needed).is_ok(), "a buffer holds at most 4 GiB");
            let mut grown = vec![0; needed.next_power_of_two()];
            grown[..self.len()].copy_from_slice(self.filled());
            self.bytes = grown.into();
        }
    }

    /// Returns the room behind the bytes, to be written to; [`commit`](Self::commit) adds what was written.
    pub fn room_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end as usize..]
    }

    /// Adds `count` bytes that were written to the [room](Self::room_mut).
    pub fn commit(&mut self, count: usize) {
        self.end = (self.end as usize + count).min(self.bytes.len()) as u32;
    }

    /// Leaves room before and behind the bytes to come; the buffer must be empty.
    pub(crate) fn leave_room(&mut self, before: u32, behind: u32) {
        debug_assert!(self.is_empty(), "bytes would be lost");
        (self.start, self.end) = (before, before);
        self.behind = behind;
    }

    /// Puts bytes before the others; false if the room before them is too small.
    pub(crate) fn push_front(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = (self.start as usize).checked_sub(bytes.len()) else { return false };
        self.bytes[start..self.start as usize].copy_from_slice(bytes);
        self.start = start as u32;
        true
    }

    /// Moves the bytes to the beginning of the room.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.range(), 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Reads once from `source` into the room behind the bytes, which must not be full. Returns the number of
    /// bytes read; 0 at the end of the input.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(!self.is_full(), "a read into a full buffer looks like the end of the input");
        let most = self.bytes.len() - self.behind as usize;
        let mut room = ReadBuf::new(&mut self.bytes[self.end as usize..most]);
        ready!(Pin::new(source).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read as u32;
        Poll::Ready(Ok(read))
    }

    /// Writes the bytes to `sink` until none is left.
    pub fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = ready!(Pin::new(&mut *sink).poll_write(cx, self.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let (free, most) = match self.bytes.len() {
            HEAD_SIZE => (&FREE_HEADS, MOST_FREE_HEADS),
            BULK_SIZE => (&FREE_BULK, MOST_FREE_BULK),
            _ => return,
        };
        let bytes = std::mem::take(&mut self.bytes);
        // Fails only while the thread ends.
        let _ = free.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < most {
                free.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_consumed_in_order_and_room_is_reused() {
        let mut buffer = Buffer::of(b"abcdef");
        buffer.consume(2);
        assert_eq!(buffer.filled(), b"cdef");
        let rest = buffer.split_off(1).unwrap();
        assert_eq!((buffer.filled(), rest.filled()), (&b"c"[..], &b"def"[..]));
        assert!(buffer.split_off(1).is_none());
        buffer.push(&[b'x'; HEAD_SIZE]);
        assert_eq!(buffer.len(), HEAD_SIZE + 1);
        assert!(buffer.filled().starts_with(b"cx"));
        buffer.consume(HEAD_SIZE + 1);
        assert!(buffer.is_empty());
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        let mut buffer = Buffer::new();
        for number in [0, 7, 10, 65_535, u64::MAX] {
            buffer.clear();
            buffer.push_number(number);
            assert_eq!(buffer.filled(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_dropped_buffer_is_used_again_if_it_has_the_usual_size() {
        let mut large = Buffer::new();
        large.reserve(HEAD_SIZE + 1);
        drop(large);
        assert!(FREE_HEADS.with_borrow(Vec::is_empty));
        drop(Buffer::of(b"x"));
        assert_eq!(FREE_HEADS.with_borrow(Vec::len), 1);
        assert!(Buffer::new().is_empty());
        let many: Vec<_> =
            (0..2 * MOST_FREE_HEADS).flat_map(|_| [Buffer::new(), Buffer::bulk()]).collect();
        drop(many);
        assert_eq!(FREE_HEADS.with_borrow(Vec::len), MOST_FREE_HEADS);
        assert_eq!(FREE_BULK.with_borrow(Vec::len), MOST_FREE_BULK);
    }
}
