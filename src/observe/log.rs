//! The process log: text on standard error, one event after the other.
//!
//! A server logs from the threads that serve connections, so its lines go through a bounded queue to a
//! thread that writes them ([`queue`]); a reader of standard error that is stuck delays no connection.
//! Lines without room are dropped and counted. The end of the process and a panic write what is queued.
//! Other commands write directly.
//!
//! tracing-subscriber escapes characters that control a terminal (ESC, BEL, C1 …) but not line
//! breaks in messages and displayed fields. Both are handled here. In field values, every control
//! character is escaped. A message may have several lines, for example for configuration errors;
//! each further line begins with ` | `, so that no text can imitate an event.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    fmt::{self, Debug, Write},
    io::{self, IsTerminal},
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    sync::{LazyLock, OnceLock},
    thread,
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use tracing::{Level, Subscriber, field::Field, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        MakeWriter,
        format::{self, Writer},
        time::FormatTime,
    },
};

use super::sink::{FLUSH_WITHIN, LogSink, SinkPurpose};

/// How long a panic waits until its message is written.
const PANIC_FLUSH: Duration = Duration::from_millis(100);

/// Prefix of the further lines of a message.
const CONTINUED: &str = "\n  | ";

/// Appearance of log lines.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// Use colors: standard error is a terminal, and `NO_COLOR` is not set.
    ansi: bool,
    /// Write times: not for the journal, which adds its own.
    times: bool,
}

static STYLE: LazyLock<Style> = LazyLock::new(|| {
    // https://no-color.org: set and not empty.
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style { ansi: io::stderr().is_terminal() && !no_color, times: !is_journal() }
});

/// The queue of lines; not set: lines are written directly.
static QUEUE: OnceLock<LogSink> = OnceLock::new();

/// Number of lines that had no room in the queue, or could not be written.
static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Writes the queued lines when it is dropped, for at most two seconds.
#[derive(Debug)]
#[must_use = "dropping it ends the wait for the last lines"]
pub struct FlushAtExit(());

/// Queues the lines of a server from now on, also the messages of panics. Without a free descriptor or
/// thread, lines are written directly.
pub fn queue() -> FlushAtExit {
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let sink = stderr
        .and_then(|stderr| LogSink::new(SinkPurpose::ProcessLog, stderr.into(), DROPPED.clone()));
    if let Ok(sink) = sink
        && QUEUE.set(sink).is_ok()
    {
        panic::set_hook(Box::new(log_panic));
    }
    FlushAtExit(())
}

/// Counts dropped lines.
pub(super) fn dropped() -> Counter {
    DROPPED.clone()
}

impl Drop for FlushAtExit {
    fn drop(&mut self) {
        flush(FLUSH_WITHIN);
    }
}

fn flush(within: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(within);
    }
}

/// Logs a panic, whatever `RUST_LOG` says. `RUST_BACKTRACE` adds a backtrace, as usual.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let mut text = format!("thread '{}' {info}", thread.name().unwrap_or("<unnamed>"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = write!(text, "\nstack backtrace:\n{backtrace}");
    }
    let text = text.replace(|c: char| c.is_control() && c != '\n', "?");
    fatal(text.trim_end());
    // The panic may end the process. A reader that is stuck must not hold up this thread for long.
    flush(PANIC_FLUSH);
}

/// Standard error, or its queue.
#[derive(Clone, Copy)]
struct LogWriter;

impl io::Write for LogWriter {
    /// Takes whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(bytes),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging. `RUST_LOG` sets the level, by default `info`. Has no effect if logging was
/// started before.
pub fn init() {
    let filter = filter(&env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default());
    let _ = match *STYLE {
        Style { ansi, times: true } => {
            tracing::subscriber::set_global_default(subscriber(|| LogWriter, ansi, filter))
        }
        Style { ansi, times: false } => {
            tracing::subscriber::set_global_default(timeless(|| LogWriter, ansi, filter))
        }
    };
}

/// Prints lines that look like log lines, whatever `RUST_LOG` says. Writes them together, because two
/// processes share standard error during an upgrade. Ignores errors: a closed pipe must not stop the
/// process.
pub fn announce(text: &str) {
    let lines: String = text.lines().map(|line| styled(*STYLE, Level::INFO, line)).collect();
    let _ = io::Write::write_all(&mut LogWriter, lines.as_bytes());
}

/// Prints why the process ends, as a log line, whatever `RUST_LOG` says.
pub fn fatal(text: &str) {
    let line = styled(*STYLE, Level::ERROR, &text.replace('\n', CONTINUED));
    let _ = io::Write::write_all(&mut LogWriter, line.as_bytes());
}

/// Formats a line as the subscriber would.
fn styled(style: Style, level: Level, line: &str) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let ink = if level == Level::ERROR { "31" } else { "32" };
    let time = match style {
        Style { times: false, .. } => String::new(),
        Style { ansi: true, .. } => format!("\x1b[2m{time}\x1b[0m "),
        Style { ansi: false, .. } => format!("{time} "),
    };
    match style.ansi {
        true => format!("{time}\x1b[{ink}m{level:>5}\x1b[0m {line}\n"),
        false => format!("{time}{level:>5} {line}\n"),
    }
}

/// Whether standard error leads to systemd's journal: `JOURNAL_STREAM` contains its device and inode
/// (systemd.exec(5)).
fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Times in UTC with milliseconds.
struct Stamp;

impl FormatTime for Stamp {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

/// Parses directives, with `info` as the default; invalid directives are skipped with a note on
/// standard error.
fn filter(directives: &str) -> EnvFilter {
    EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(directives)
}

fn subscriber<W>(writer: W, ansi: bool, filter: EnvFilter) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(ansi)
        .with_target(false)
        .with_timer(Stamp)
        .fmt_fields(format::debug_fn(field).delimited(" "))
        .finish()
}

/// Creates a subscriber without times.
fn timeless<W>(writer: W, ansi: bool, filter: EnvFilter) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(ansi)
        .with_target(false)
        .without_time()
        .fmt_fields(format::debug_fn(field).delimited(" "))
        .finish()
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() == "message" {
        return write!(Escape { writer, line_break: CONTINUED }, "{value:?}");
    }
    write!(writer, "{}=", field.name())?;
    write!(Escape { writer, line_break: "\\n" }, "{value:?}")
}

/// Writes text with its control characters escaped.
struct Escape<'a, 'w> {
    writer: &'a mut Writer<'w>,
    line_break: &'static str,
}

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            let Some(control) = piece.chars().next_back().filter(|last| last.is_control()) else {
                self.writer.write_str(piece)?;
                continue;
            };
            self.writer.write_str(&piece[..piece.len() - control.len_utf8()])?;
            match control {
                '\n' => self.writer.write_str(self.line_break)?,
                _ => write!(self.writer, "{}", control.escape_default())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects log output.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(ansi: bool, directives: &str, events: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = subscriber(move || writer.clone(), ansi, filter(directives));
        tracing::subscriber::with_default(subscriber, events);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_time_level_message_and_fields() {
        let text = logged(false, "", || tracing::info!(port = 80, name = "a b", "bound"));
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(rest, " INFO bound port=80 name=\"a b\"\n");
    }

    #[test]
    fn an_announced_line_looks_like_a_logged_one() {
        let shape = |text: &str| {
            let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
            text.chars().map(digit).collect::<String>()
        };
        for ansi in [false, true] {
            let logged = logged(ansi, "", || tracing::info!("ready"));
            let announced = styled(Style { ansi, times: true }, Level::INFO, "ready");
            assert_eq!(shape(&logged), shape(&announced));
        }
        assert_eq!(styled(Style { ansi: false, times: false }, Level::INFO, "x"), " INFO x\n");
    }

    #[test]
    fn logged_text_can_neither_control_a_terminal_nor_forge_a_line() {
        let evil = "\x1b[2J\x07\u{9b}31m\x7f\r\n2026-01-01T00:00:00Z  INFO all is well\t.";
        let text = logged(false, "", || {
            tracing::warn!(shown = %evil, debugged = evil, "a message: {evil}");
        });
        let stray = |c: &char| c.is_control() && *c != '\n';
        assert_eq!(text.chars().find(stray), None, "{text:?}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        assert!(lines[1].starts_with("  | 2026-01-01"), "{text:?}");
        assert!(lines[1].contains("shown=\\u{1b}[2J\\u{7}\\u{9b}31m"), "{text:?}");
        assert!(lines[1].contains("\\r\\n2026-01-01"), "{text:?}");
    }

    #[test]
    fn only_the_log_itself_uses_colors() {
        let text = logged(true, "", || tracing::error!(host = %"\x1b[31m", "x"));
        assert!(text.contains('\x1b'), "no colors in {text:?}");
        assert!(text.contains("host=\\u{1b}[31m"), "{text:?}");
    }

    #[test]
    fn info_is_the_default_and_directives_replace_it() {
        let events = || {
            tracing::debug!("fine");
            tracing::info!("plain");
        };
        assert!(!logged(false, "", events).contains("fine"));
        assert!(logged(false, "", events).contains("plain"));
        assert!(logged(false, "debug", events).contains("fine"));
        assert_eq!(logged(false, "off", events), "");
        assert_eq!(logged(false, "hyper=info", events), "");
        assert!(logged(false, "hyper=error,moorline=debug", events).contains("fine"));
    }

    #[test]
    fn further_lines_of_a_message_are_marked() {
        let text = logged(false, "", || tracing::error!("refused\n 3 | x = 1\n   | ^"));
        assert!(text.ends_with("ERROR refused\n  |  3 | x = 1\n  |    | ^\n"), "{text:?}");
    }
}
