//! The access log: one JSON line for each stream, written when it has ended.
//!
//! A [`Record`] is made when the request's header is there and kept by the stream, for as long as a
//! tunnel lives: it is small, and it never holds a secret, because secrets are removed before
//! anything is stored. [`End`] is what only the end can tell. Every string is escaped to the last
//! control character, so that a line is a line whatever a client sent. Writing never waits; see
//! [`sink`](super::sink).

use std::{
    cell::RefCell,
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};

use super::{names, names::ChosenBy, redact::redact, sink::Sink};
use crate::{
    config,
    error::{Kind, Termination},
};

/// Longest of each text that is kept, in bytes; a client must not decide what a tunnel costs.
const MAX_ID: usize = 128;
const MAX_HOST: usize = 255;
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 2048;
/// Put where a path was cut.
const CUT: char = '…';
/// A duration that has not been measured.
const UNKNOWN: u32 = u32::MAX;

/// What is known of a stream when its request's header is there.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The request id.
    pub id: &'a str,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: SocketAddr,
    /// The listener's name.
    pub listener: &'a Arc<str>,
    /// Whether the client came over TLS.
    pub tls: bool,
    /// The host asked for; empty where none was named.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query as the client sent them; secrets are removed here.
    pub target: &'a str,
}

/// A stream's line in the making.
///
/// Kept by every idle tunnel, hence one allocation for all texts and microseconds in 32 bits.
#[derive(Debug)]
pub struct Record {
    /// The backend's name, once one is chosen.
    pub backend: Option<Arc<str>>,
    listener: Arc<str>,
    /// Id, host, method and path one after the other; `cuts` are where the first three end.
    texts: Box<str>,
    at: SystemTime,
    started: Instant,
    client: SocketAddr,
    cuts: [u16; 3],
    /// The status sent to the client; 0: none.
    pub status: u16,
    /// In microseconds from the start.
    first_byte: u32,
    /// In microseconds.
    connect: u32,
    /// How the backend was chosen.
    pub chosen_by: ChosenBy,
    tls: bool,
    /// Whether it became a tunnel.
    pub tunnel: bool,
}

impl Record {
    /// A stream that begins now.
    pub fn new(start: Start<'_>) -> Self {
        thread_local!(static TEXTS: RefCell<String> = const { RefCell::new(String::new()) });
        let (texts, cuts) = TEXTS.with_borrow_mut(|texts| {
            texts.clear();
            let cuts = [(start.id, MAX_ID), (start.host, MAX_HOST), (start.method, MAX_METHOD)]
                .map(|(text, most)| {
                    texts.push_str(&text[..text.floor_char_boundary(most)]);
                    texts.len() as u16
                });
            push_path(texts, start.target);
            (Box::from(texts.as_str()), cuts)
        });
        Self {
            backend: None,
            listener: start.listener.clone(),
            texts,
            at: SystemTime::now(),
            started: Instant::now(),
            client: start.client,
            cuts,
            status: 0,
            first_byte: UNKNOWN,
            connect: UNKNOWN,
            chosen_by: ChosenBy::None,
            tls: start.tls,
            tunnel: false,
        }
    }

    /// Notes how long connecting took, all tries together.
    pub fn connect_took(&mut self, time: Duration) {
        self.connect = micros(time);
    }

    /// Notes that the response's first byte came now; only the first call counts.
    pub fn first_byte_seen(&mut self) {
        if self.first_byte == UNKNOWN {
            self.first_byte = micros(self.started.elapsed());
        }
    }

    /// The request id.
    pub fn id(&self) -> &str {
        &self.texts[..self.cut(0)]
    }

    /// The host asked for.
    pub fn host(&self) -> &str {
        &self.texts[self.cut(0)..self.cut(1)]
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.texts[self.cut(1)..self.cut(2)]
    }

    /// Path and query, without secrets.
    pub fn path(&self) -> &str {
        &self.texts[self.cut(2)..]
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn cut(&self, n: usize) -> usize {
        usize::from(self.cuts[n])
    }
}

/// What only the end of a stream can tell.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// How it ended.
    pub termination: Termination,
    /// Body or tunnel bytes from the client.
    pub bytes_in: u64,
    /// Body or tunnel bytes to the client.
    pub bytes_out: u64,
    /// What happened, in a sentence; a refused request's reason stands in where it is missing.
    pub error: Option<&'a str>,
}

impl End<'_> {
    /// An end without bytes or a sentence.
    pub fn new(termination: Termination) -> Self {
        Self { termination, bytes_in: 0, bytes_out: 0, error: None }
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    /// The sink, and the file's path where it is one; `None`: nowhere.
    sink: Option<(Sink, Option<PathBuf>)>,
}

impl AccessLog {
    /// Opens the sink; a file is created where it is missing and appended to where not. Lines that
    /// get lost are counted in `dropped`, which may live on over several logs.
    ///
    /// Dropping the log writes out what is left, which takes up to two seconds where the sink is
    /// stuck: not to be done on a thread that serves.
    ///
    /// # Errors
    /// The file cannot be opened; the text names it.
    pub fn open(config: &config::AccessLog, dropped: Counter) -> io::Result<Self> {
        let sink = match config {
            config::AccessLog::Off => None,
            config::AccessLog::Stdout => {
                // The descriptor itself: std's own buffer would write line by line.
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                Some((Sink::new(stdout.into(), dropped)?, None))
            }
            config::AccessLog::File(path) => {
                Some((Sink::new(open_file(path)?, dropped)?, Some(path.clone())))
            }
        };
        Ok(Self { sink })
    }

    /// Writes the stream's line. Never waits and never fails: a line that finds no room is counted.
    pub fn write(&self, record: &Record, end: &End<'_>) {
        thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let Some((sink, _)) = &self.sink else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            let mut json = serde_json::Serializer::with_formatter(&mut *line, Escaping);
            // Cannot fail: a Vec takes everything, and all keys are strings.
            if Line::new(record, end).serialize(&mut json).is_ok() {
                line.push(b'\n');
                sink.push(line);
            }
        });
    }

    /// Opens the file anew, for a log rotation that has renamed it. Nothing to do for other sinks.
    ///
    /// # Errors
    /// The file cannot be opened; the old one is then written to as before.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some((sink, Some(path))) = &self.sink {
            sink.replace(open_file(path)?);
        }
        Ok(())
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.sink.as_ref().map_or(0, |(sink, _)| sink.lost())
    }
}

fn open_file(path: &Path) -> io::Result<std::fs::File> {
    // Who may read the log sees client addresses: not everybody.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("access log {}: {error}", path.display()))
    })
}

fn push_path(texts: &mut String, target: &str) {
    let start = texts.len();
    redact(target, texts);
    if texts.len() - start > MAX_PATH {
        texts.truncate(texts.floor_char_boundary(start + MAX_PATH));
        texts.push(CUT);
    }
}

fn micros(time: Duration) -> u32 {
    // 71 minutes and more all look alike.
    u32::try_from(time.as_micros()).map_or(UNKNOWN - 1, |micros| micros.min(UNKNOWN - 1))
}

/// The keys of a line, in order.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: SystemTime,
    id: &'a str,
    client: SocketAddr,
    listener: &'a str,
    tls: bool,
    host: &'a str,
    method: &'a str,
    path: &'a str,
    status: Option<u16>,
    backend: Option<&'a str>,
    chosen_by: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    connect_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    duration_ms: f64,
    termination: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(record: &'a Record, end: &End<'a>) -> Self {
        let reason = match end.termination {
            Termination::Failed(_, _, Kind::BadRequest(reason)) => Some(reason),
            _ => None,
        };
        let measured = |micros: u32| (micros != UNKNOWN).then(|| f64::from(micros) / 1000.0);
        Self {
            ts: record.at,
            id: record.id(),
            client: record.client,
            listener: &record.listener,
            tls: record.tls,
            host: record.host(),
            method: record.method(),
            path: record.path(),
            status: (record.status != 0).then_some(record.status),
            backend: record.backend.as_deref(),
            chosen_by: record.chosen_by.label(),
            bytes_in: end.bytes_in,
            bytes_out: end.bytes_out,
            connect_ms: measured(record.connect),
            first_byte_ms: measured(record.first_byte),
            duration_ms: record.elapsed().as_micros() as f64 / 1000.0,
            termination: names::termination(&end.termination),
            kind: if record.tunnel { "tunnel" } else { "http" },
            error: end.error.or(reason),
        }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// JSON that escapes DEL and the C1 control characters too, which JSON itself would let pass and
/// some terminals obey.
struct Escaping;

impl serde_json::ser::Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Both begin with a byte that is rare: C1 is 0xC2 and another byte in UTF-8.
        if !fragment.bytes().any(|byte| byte == 0x7f || byte == 0xc2) {
            return writer.write_all(fragment.as_bytes());
        }
        for piece in fragment.split_inclusive(char::is_control) {
            match piece.char_indices().next_back().filter(|(_, last)| last.is_control()) {
                Some((at, control)) => {
                    writer.write_all(&piece.as_bytes()[..at])?;
                    write!(writer, "\\u{:04x}", u32::from(control))?;
                }
                None => writer.write_all(piece.as_bytes())?,
            }
        }
        Ok(())
    }
}
