//! The access log: one JSON line per stream, written when the stream has ended.
//!
//! A [`StreamRecord`] collects the data; this module formats it. All control characters are escaped,
//! so that a line stays one line whatever a client sends. Writing never waits: if the sink is slow,
//! full or gone, lines are dropped and counted.

use std::{
    cell::RefCell,
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};

use super::{
    names,
    record::{StreamEnd, StreamKind, StreamRecord, UNKNOWN},
    sink::{LogEnd, LogSink, SinkPurpose},
};
use crate::{
    config,
    error::{FailureKind, Termination},
};

/// Destination of the log lines.
#[derive(Debug)]
pub struct AccessLog {
    /// The sink, and its path if it is a file; `None`: off.
    sink: Option<(LogSink, Option<PathBuf>)>,
}

impl AccessLog {
    /// Opens the sink. Creates a missing file, and appends to an existing one. Dropped lines are
    /// counted in `dropped`, which may be shared by consecutive logs.
    ///
    /// Blocks while the system opens the file. Dropping the log does not block; [`end`](Self::end) waits
    /// until its lines are written.
    ///
    /// # Errors
    /// The file cannot be opened; the error names it.
    pub fn open(config: &config::AccessLogConfig, dropped: Counter) -> io::Result<Self> {
        let sink = match config {
            config::AccessLogConfig::Off => None,
            config::AccessLogConfig::Stdout => {
                // Uses the descriptor: std's buffer would write line by line.
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                Some((LogSink::new(SinkPurpose::AccessLog, stdout.into(), dropped)?, None))
            }
            config::AccessLogConfig::File(path) => {
                let file = open_file(path)?;
                let sink = LogSink::new(SinkPurpose::AccessLog, file, dropped)?;
                Some((sink, Some(path.clone())))
            }
        };
        Ok(Self { sink })
    }

    /// Writes the line of a stream. Never waits and never fails: a line without room is counted as
    /// dropped.
    pub fn write(&self, record: &StreamRecord, end: &StreamEnd<'_>) {
        thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let Some((sink, _)) = &self.sink else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            let mut json = serde_json::Serializer::with_formatter(&mut *line, Escaping);
            // Cannot fail: a Vec accepts all bytes, and all keys are strings.
            if LogLine::new(record, end).serialize(&mut json).is_ok() {
                line.push(b'\n');
                sink.push(line);
            }
        });
    }

    /// Reopens the file after a log rotation has renamed it. Does nothing for other sinks. Blocks while the
    /// system opens the file.
    ///
    /// # Errors
    /// The file cannot be opened; lines still go to the old one.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some((sink, Some(path))) = &self.sink {
            sink.replace(open_file(path)?);
        }
        Ok(())
    }

    /// Returns a handle that waits until this log was dropped and its lines are written; `None`: the log is
    /// off.
    pub fn end(&self) -> Option<LogEnd> {
        self.sink.as_ref().map(|(sink, _)| sink.end())
    }

    /// Number of dropped lines.
    pub fn dropped(&self) -> u64 {
        self.sink.as_ref().map_or(0, |(sink, _)| sink.lost())
    }
}

fn open_file(path: &Path) -> io::Result<std::fs::File> {
    // The log contains client addresses: not readable for everyone.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(|error| {
            let shown = folder.display();
            let text = format!(
                "cannot create the folder {shown} of the access log: {error}; run `install -d -o {} {shown}`",
                config::user_name(rustix::process::geteuid().as_raw())
            );
            io::Error::new(error.kind(), text)
        })?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot open the access log {}: {error}", path.display()),
        )
    })
}

/// Keys of a line, in order.
#[derive(Serialize)]
struct LogLine<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: u64,
    id: &'a str,
    client: SocketAddr,
    listener: &'a str,
    tls: bool,
    tls_version: Option<&'a str>,
    sni: Option<&'a str>,
    alpn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_cert: Option<&'a str>,
    host: &'a str,
    method: &'a str,
    path: &'a str,
    status: Option<u16>,
    route: Option<&'a str>,
    pool: Option<&'a str>,
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

impl<'a> LogLine<'a> {
    fn new(record: &'a StreamRecord, end: &StreamEnd<'a>) -> Self {
        let reason = match end.termination {
            Termination::Failed(_, _, FailureKind::BadRequest(reason)) => Some(reason),
            _ => None,
        };
        let tls_info = record.tls_info.as_deref();
        let measured = |micros: u32| (micros != UNKNOWN).then(|| f64::from(micros) / 1000.0);
        Self {
            ts: record.at,
            id: record.id(),
            client: record.client,
            listener: &record.listener,
            tls: tls_info.is_some(),
            tls_version: tls_info.and_then(|info| info.version).map(|(version, _)| version),
            sni: tls_info.and_then(|info| info.sni.as_deref()),
            alpn: tls_info.and_then(|info| info.alpn.as_deref()),
            client_cert: tls_info.and_then(|info| info.client.as_ref()).map(|info| &*info.subject),
            host: record.host(),
            method: record.method(),
            path: record.path(),
            status: (record.status != 0).then_some(record.status),
            route: record.route_label.as_ref().and_then(|route_label| route_label.route.as_deref()),
            pool: record.route_label.as_ref().and_then(|route_label| route_label.pool.as_deref()),
            backend: record.backend.as_deref(),
            chosen_by: record.chosen_by.label(),
            bytes_in: end.bytes_in,
            bytes_out: end.bytes_out,
            connect_ms: measured(record.connect),
            first_byte_ms: measured(record.first_byte),
            duration_ms: record.elapsed().as_micros() as f64 / 1000.0,
            termination: names::termination(&end.termination),
            kind: match record.form {
                StreamKind::Http => "http",
                StreamKind::Tunnel => "tunnel",
                StreamKind::Stream => "stream",
            },
            error: end.error.or(reason),
        }
    }
}

/// Formats a time; the format has no notation for years from 10000 on.
fn rfc3339<S: Serializer>(millis: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    const YEAR_9999: u64 = 253_000_000_000_000;
    let time = UNIX_EPOCH + Duration::from_millis((*millis).min(YEAR_9999));
    serializer.collect_str(&humantime::format_rfc3339_millis(time))
}

/// Formats JSON with DEL and C1 control characters escaped, too: JSON allows them, and some
/// terminals obey them.
struct Escaping;

impl serde_json::ser::Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Both begin with a rare byte: C1 is 0xC2 and another byte in UTF-8.
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

#[cfg(test)]
mod tests;
