//! A file or a standard stream that accepts lines without making the caller wait.
//!
//! Lines are copied to a bounded buffer. A separate thread swaps the buffer for an empty one and
//! writes it out at once. The access log is written at most every [`LINGER`]: a busy proxy pays one
//! system call for many lines, and no wake-up for most. The process log is written at once. The lock
//! is held for a copy or a swap, never during a write. If the buffer is full or the write fails,
//! lines are dropped and counted. After an incomplete write, the next batch starts on a new line.
//!
//! Dropping a sink does not wait: its thread writes what is left and ends. [`LogEnd`] waits for that.

use std::{
    fs::File,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;

/// Maximum number of bytes that wait for a slow sink; about 20,000 lines.
const LIMIT: usize = 8 << 20;
/// Size from which a batch is written without waiting for more lines.
const BATCH: usize = 64 << 10;
/// Capacity that a buffer keeps after a batch.
const KEEP: usize = 256 << 10;
/// How long the first line of a batch waits for more lines.
const LINGER: Duration = Duration::from_millis(50);
/// How long the end of the process waits until everything is written.
pub(super) const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// Pause before a retry on a descriptor that another process made non-blocking.
const RETRY: Duration = Duration::from_millis(10);
/// Minimum interval of warnings about a failing sink.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What a sink is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkPurpose {
    /// One line for each stream.
    AccessLog,
    /// Events of the process, on standard error.
    ProcessLog,
}

/// The sending side.
#[derive(Debug)]
pub(super) struct LogSink(Arc<SinkState>);

/// Waits until a sink has been dropped and its lines are written.
#[derive(Debug)]
pub struct LogEnd(Arc<SinkState>);

#[derive(Debug)]
struct SinkState {
    queue: Mutex<LineQueue>,
    /// Wakes the thread: there is something to write, or the sink closes.
    work: Condvar,
    /// Wakes a flush: everything has been written.
    done: Condvar,
    lost: Counter,
}

#[derive(Debug, Default)]
struct LineQueue {
    lines: Vec<u8>,
    /// Replaces the current file before the next batch.
    next: Option<File>,
    /// The thread is writing a batch.
    writing: bool,
    /// A flush waits: write without waiting for more lines.
    hurry: bool,
    closing: bool,
    done: bool,
}

impl SinkPurpose {
    /// Name of the thread.
    fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "access-log",
            Self::ProcessLog => "process-log",
        }
    }

    /// How long the first line of a batch waits for more lines.
    fn linger(self) -> Duration {
        match self {
            Self::AccessLog => LINGER,
            Self::ProcessLog => Duration::ZERO,
        }
    }
}

impl LogSink {
    /// Starts the thread that writes to `file`; dropped lines are counted in `lost`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn new(purpose: SinkPurpose, file: File, lost: Counter) -> io::Result<Self> {
        let shared = Arc::new(SinkState::new(lost));
        let worker =
            SinkWriter { purpose, shared: shared.clone(), file, torn: false, complained: None };
        let thread = thread::Builder::new().name(purpose.name().to_owned());
        thread.spawn(move || worker.run())?;
        Ok(Self(shared))
    }

    /// Adds one line, including its newline, or counts it as dropped.
    pub(super) fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        let before = queue.lines.len();
        let after = before + line.len();
        if after > LIMIT {
            drop(queue);
            self.0.lost.inc();
            return;
        }
        queue.lines.extend_from_slice(line);
        drop(queue);
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.0.work.notify_one();
        }
    }

    /// Writes everything from now on to `file`.
    pub(super) fn replace(&self, file: File) {
        self.0.lock().next = Some(file);
        self.0.work.notify_one();
    }

    /// Blocks until every line is written, for at most `within`.
    pub(super) fn flush(&self, within: Duration) {
        let mut queue = self.0.lock();
        queue.hurry = true;
        self.0.work.notify_one();
        self.0.wait(queue, within, |queue| !queue.lines.is_empty() || queue.writing);
    }

    /// Returns a handle that waits for the end of this sink.
    pub(super) fn end(&self) -> LogEnd {
        LogEnd(Arc::clone(&self.0))
    }

    /// Number of dropped lines.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.get()
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        self.0.lock().closing = true;
        self.0.work.notify_one();
    }
}

impl LogEnd {
    /// Whether the sink was dropped and its lines are written.
    pub fn is_reached(&self) -> bool {
        self.0.lock().done
    }

    /// Blocks until the sink was dropped and its lines are written, for at most two seconds. A thread
    /// that is stuck in a write is abandoned.
    pub fn wait(&self) {
        self.0.wait(self.0.lock(), FLUSH_WITHIN, |queue| !queue.done);
    }
}

impl SinkState {
    fn new(lost: Counter) -> Self {
        Self { queue: Mutex::default(), work: Condvar::new(), done: Condvar::new(), lost }
    }

    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        // No critical section can end halfway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(
        &self,
        queue: MutexGuard<'_, LineQueue>,
        within: Duration,
        pending: impl FnMut(&mut LineQueue) -> bool,
    ) {
        drop(self.done.wait_timeout_while(queue, within, pending));
    }
}

struct SinkWriter {
    purpose: SinkPurpose,
    shared: Arc<SinkState>,
    file: File,
    /// The last write ended within a line.
    torn: bool,
    complained: Option<Instant>,
}

impl SinkWriter {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let open = self.wait(&mut batch);
            if !batch.is_empty() {
                self.write(&batch);
            }
            batch.clear();
            batch.shrink_to(KEEP);
            let mut queue = self.shared.lock();
            queue.writing = false;
            queue.done = !open;
            drop(queue);
            self.shared.done.notify_all();
            if !open {
                break;
            }
        }
    }

    /// Swaps the empty `batch` for the waiting lines; false once no more lines can come.
    fn wait(&mut self, batch: &mut Vec<u8>) -> bool {
        let shared = self.shared.clone();
        let asleep =
            |q: &mut LineQueue| q.lines.is_empty() && q.next.is_none() && !q.closing && !q.hurry;
        let queue = shared.work.wait_while(shared.lock(), asleep);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        let linger = self.purpose.linger();
        if !linger.is_zero() {
            let gathering = |q: &mut LineQueue| {
                q.lines.len() < BATCH && q.next.is_none() && !q.closing && !q.hurry
            };
            let gathered = shared.work.wait_timeout_while(queue, linger, gathering);
            (queue, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        }

        mem::swap(&mut queue.lines, batch);
        (queue.writing, queue.hurry) = (true, false);
        if let Some(file) = queue.next.take() {
            self.file = file;
            self.torn = false;
        }
        !queue.closing
    }

    /// Writes whole lines as far as the operating system accepts them, and counts the rest.
    fn write(&mut self, batch: &[u8]) {
        if self.torn && self.write_all(b"\n").0 == 0 {
            self.lose(batch, None);
            return;
        }
        let (written, error) = self.write_all(batch);
        self.torn = written > 0 && batch[written - 1] != b'\n';
        if let Some(error) = error {
            self.lose(&batch[written..], Some(&error));
        }
    }

    /// Writes the bytes; returns how many were written, and the error that stopped it.
    fn write_all(&mut self, bytes: &[u8]) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    fn lose(&mut self, rest: &[u8], error: Option<&io::Error>) {
        let lines = rest.iter().filter(|&&byte| byte == b'\n').count();
        self.shared.lost.inc_by(lines as u64);
        if self.purpose == SinkPurpose::ProcessLog {
            // The warning would go to the same sink.
            return;
        }
        let now = Instant::now();
        let silent = |then| now.duration_since(then) < COMPLAIN_EVERY;
        if self.complained.is_some_and(silent) {
            return;
        }
        self.complained = Some(now);
        let error = error.map(tracing::field::display);
        tracing::warn!(
            error,
            lost = self.shared.lost.get(),
            "access-log lines are dropped; check the disk or the reader of the log"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::OwnedFd};

    use super::*;

    fn pipe() -> (io::PipeReader, File) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, File::from(OwnedFd::from(writer)))
    }

    /// Drops the sink and waits until its lines are written.
    fn finish(sink: LogSink) {
        let end = sink.end();
        drop(sink);
        end.wait();
        assert!(end.is_reached());
    }

    #[test]
    fn a_drop_writes_what_was_pushed() {
        let (mut reader, file) = pipe();
        let sink = LogSink::new(SinkPurpose::AccessLog, file, Counter::default()).unwrap();
        for n in 0..1000 {
            sink.push(format!("line {n}\n").as_bytes());
        }
        finish(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1000);
        assert_eq!((lines[0], lines[999]), ("line 0", "line 999"));
    }

    #[test]
    fn a_line_is_written_without_a_drop() {
        let (mut reader, file) = pipe();
        let sink = LogSink::new(SinkPurpose::AccessLog, file, Counter::default()).unwrap();
        sink.push(b"now\n");
        let mut got = [0; 4];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"now\n");
    }

    #[test]
    fn a_blocked_sink_drops_lines_and_blocks_no_caller() {
        let (reader, file) = pipe();
        let lost = Counter::default();
        let sink = LogSink::new(SinkPurpose::AccessLog, file, lost.clone()).unwrap();
        let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
        // Without a reader, the pipe and both buffers fill up, and the rest is dropped.
        let lines = 4 * LIMIT / line.len();
        for _ in 0..lines {
            sink.push(&line);
        }
        assert!(sink.lost() > 0);
        assert!(sink.lost() < lines as u64);
        let end = sink.end();
        let started = Instant::now();
        drop(sink);
        assert!(started.elapsed() < FLUSH_WITHIN / 2, "the drop waited for the reader");
        assert!(!end.is_reached());
        drop(reader);
        end.wait();
        // Once the reader is gone, writes fail and are counted, too.
        let taken = lines as u64 - lost.get();
        assert!(taken * line.len() as u64 <= 1 << 20, "{taken} lines");
    }

    #[test]
    fn a_flush_writes_what_was_pushed_and_does_not_wait_for_a_stuck_reader() {
        for purpose in [SinkPurpose::AccessLog, SinkPurpose::ProcessLog] {
            let (mut reader, file) = pipe();
            let sink = LogSink::new(purpose, file, Counter::default()).unwrap();
            sink.flush(FLUSH_WITHIN);
            sink.push(b"last\n");
            sink.flush(FLUSH_WITHIN);
            let mut got = [0; 5];
            assert_eq!(rustix::io::ioctl_fionread(&reader).unwrap(), 5, "not written yet");
            reader.read_exact(&mut got).unwrap();
            sink.push(&vec![b'x'; 1 << 20]);
            sink.flush(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_full_disk_drops_and_counts_lines() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let lost = Counter::default();
        let sink = LogSink::new(SinkPurpose::AccessLog, full, lost.clone()).unwrap();
        sink.push(b"one\n");
        sink.push(b"two\n");
        finish(sink);
        assert_eq!(lost.get(), 2);
    }

    #[test]
    fn a_line_after_an_incomplete_one_starts_on_a_new_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = File::create(&path).unwrap();
        let shared = Arc::new(SinkState::new(Counter::default()));
        let mut worker = SinkWriter {
            purpose: SinkPurpose::AccessLog,
            shared,
            file,
            torn: true,
            complained: None,
        };
        worker.write(b"whole\n");
        worker.write(b"half");
        worker.write(b"whole again\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "\nwhole\nhalf\nwhole again\n");
        assert!(!worker.torn);
        assert_eq!(worker.shared.lost.get(), 0);
    }
}
