//! The access log: one JSON line for each stream, written when it has ended.
//!
//! What is in a line is gathered in a [`StreamRecord`]; this module knows how it is written. Every string
//! is escaped to the last control character, so that a line is a line whatever a client sent. Writing
//! never waits: a sink that is slow, full or gone costs lines, which are counted, and no stream.

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
    sink::LogSink,
};
use crate::{
    config,
    error::{FailureKind, Termination},
};

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    /// The sink, and the file's path where it is one; `None`: nowhere.
    sink: Option<(LogSink, Option<PathBuf>)>,
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
                Some((LogSink::new(stdout.into(), dropped)?, None))
            }
            config::AccessLog::File(path) => {
                Some((LogSink::new(open_file(path)?, dropped)?, Some(path.clone())))
            }
        };
        Ok(Self { sink })
    }

    /// Writes the stream's line. Never waits and never fails: a line that finds no room is counted.
    pub fn write(&self, record: &StreamRecord, end: &StreamEnd<'_>) {
        thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let Some((sink, _)) = &self.sink else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            let mut json = serde_json::Serializer::with_formatter(&mut *line, Escaping);
            // Cannot fail: a Vec takes everything, and all keys are strings.
            if LogLine::new(record, end).serialize(&mut json).is_ok() {
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

/// The keys of a line, in order.
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
        let secured = record.secured.as_deref();
        let measured = |micros: u32| (micros != UNKNOWN).then(|| f64::from(micros) / 1000.0);
        Self {
            ts: record.at,
            id: record.id(),
            client: record.client,
            listener: &record.listener,
            tls: secured.is_some(),
            tls_version: secured.and_then(|told| told.version).map(|(version, _)| version),
            sni: secured.and_then(|told| told.sni.as_deref()),
            alpn: secured.and_then(|told| told.alpn.as_deref()),
            client_cert: secured.and_then(|told| told.client.as_ref()).map(|told| &*told.subject),
            host: record.host(),
            method: record.method(),
            path: record.path(),
            status: (record.status != 0).then_some(record.status),
            route: record.way.as_ref().and_then(|way| way.route.as_deref()),
            pool: record.way.as_ref().map(|way| &*way.pool),
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

/// The year stays below 10000, past which the format has no notation.
fn rfc3339<S: Serializer>(millis: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    const YEAR_9999: u64 = 253_000_000_000_000;
    let time = UNIX_EPOCH + Duration::from_millis((*millis).min(YEAR_9999));
    serializer.collect_str(&humantime::format_rfc3339_millis(time))
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

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        error::{Phase, Side},
        observe::{ChosenBy, record::StreamStart},
    };

    fn record(host: &str, target: &str) -> StreamRecord {
        let (client, listener) = ("192.0.2.7:4711".parse().unwrap(), &"web".into());
        StreamRecord::new(StreamStart {
            id: "r-1",
            client,
            listener,
            secured: Some(&Arc::default()),
            host,
            method: "GET",
            target,
            redaction: None,
        })
    }

    fn log(directory: &TempDir) -> (AccessLog, PathBuf) {
        let path = directory.path().join("access.log");
        let config = config::AccessLog::File(path.clone());
        (AccessLog::open(&config, Counter::default()).unwrap(), path)
    }

    /// The line that `write` makes of these.
    fn line(record: &StreamRecord, end: &StreamEnd<'_>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = log(&directory);
        log.write(record, end);
        drop(log);
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_line_tells_everything_in_order() {
        let mut record = record("chat.example.com", "/socket.io/?EIO=4&sid=s3cr3t");
        record.status = 200;
        record.backend = Some("blue-1".into());
        record.chosen_by = ChosenBy::Sid;
        record.connect_took(Duration::from_micros(1234));
        record.first_byte_seen();
        let end = StreamEnd { bytes_in: 5, bytes_out: 70, ..StreamEnd::new(Termination::Complete) };
        let line = line(&record, &end);
        assert!(line.ends_with("}\n") && line.lines().count() == 1);
        let json: Value = serde_json::from_str(&line).unwrap();
        let ts = json["ts"].as_str().unwrap();
        assert_eq!(ts.len(), "2026-01-01T00:00:00.000Z".len());
        assert!(humantime::parse_rfc3339(ts).is_ok());
        let expected = [
            ("id", "\"r-1\""),
            ("client", "\"192.0.2.7:4711\""),
            ("listener", "\"web\""),
            ("tls", "true"),
            ("host", "\"chat.example.com\""),
            ("method", "\"GET\""),
            ("path", "\"/socket.io/?EIO=4&sid=-\""),
            ("status", "200"),
            ("backend", "\"blue-1\""),
            ("chosen_by", "\"sid\""),
            ("bytes_in", "5"),
            ("bytes_out", "70"),
            ("connect_ms", "1.234"),
            ("termination", "\"complete\""),
            ("kind", "\"http\""),
        ];
        let mut from = 0;
        for (key, value) in expected {
            let pair = format!("\"{key}\":{value}");
            let at = line[from..].find(&pair);
            from += at.unwrap_or_else(|| panic!("{pair} not after byte {from} of {line}"));
        }
        assert!(json["first_byte_ms"].as_f64().unwrap() <= json["duration_ms"].as_f64().unwrap());
        assert!(json.get("error").is_none());
    }

    #[test]
    fn what_is_not_known_is_null() {
        let mut record = record("", "*");
        record.form = StreamKind::Tunnel;
        let json: Value =
            serde_json::from_str(&line(&record, &StreamEnd::new(Termination::Drained))).unwrap();
        for key in ["status", "backend", "connect_ms", "first_byte_ms"] {
            assert_eq!(json[key], Value::Null, "{key}");
        }
        assert_eq!(json["kind"], "tunnel");
        assert_eq!(json["chosen_by"], "none");
        assert_eq!(json["termination"], "drained");
        assert_eq!(json["path"], "*");
    }

    #[test]
    fn an_error_is_a_sentence_or_the_refusal() {
        let record = record("a", "/");
        let refused = Termination::Failed(
            Side::Client,
            Phase::Request,
            FailureKind::BadRequest("two Host headers"),
        );
        let mut end = StreamEnd::new(refused);
        let error = |end: &StreamEnd<'_>| {
            let json: Value = serde_json::from_str(&line(&record, end)).unwrap();
            json["error"].as_str().unwrap().to_owned()
        };
        assert_eq!(error(&end), "two Host headers");
        end.error = Some("the socket broke");
        assert_eq!(error(&end), "the socket broke");
    }

    #[test]
    fn no_client_can_steer_a_terminal_or_make_a_line() {
        let evil = "\x1b[31m\r\n{\"forged\":1}\u{9b}2J\x7fä\u{a0}\"\\\u{85}";
        let line = line(&record(evil, &format!("/{evil}")), &StreamEnd::new(Termination::Complete));
        assert_eq!(line.chars().filter(|c| c.is_control()).collect::<String>(), "\n");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["host"], evil, "escaped, not lost");
        assert!(line.contains(r"\u009b2J\u007fä"), "{line}");
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = log(&directory);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..200 {
                        let record = record("host", &format!("/{thread}/{n}"));
                        log.write(&record, &StreamEnd::new(Termination::Complete));
                    }
                });
            }
        });
        assert_eq!(log.dropped(), 0);
        drop(log);
        let text = fs::read_to_string(path).unwrap();
        let mut paths: Vec<String> = text
            .lines()
            .map(|line| {
                let json: Value = serde_json::from_str(line).unwrap();
                json["path"].as_str().unwrap().to_owned()
            })
            .collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), 1600);
    }

    #[test]
    fn a_file_is_appended_to_and_opened_anew_after_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let rotated = directory.path().join("access.log.1");
        let (log, path) = log(&directory);
        let complete = StreamEnd::new(Termination::Complete);
        log.write(&record("before", "/"), &complete);
        drop(log);
        let log = AccessLog::open(&config::AccessLog::File(path.clone()), Counter::default());
        let log = log.unwrap();
        fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        log.write(&record("after", "/"), &complete);
        drop(log);
        assert!(fs::read_to_string(rotated).unwrap().contains("before"));
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("after") && !text.contains("before"));
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        // No folder can be made below a file.
        let path = PathBuf::from("/dev/null/logs/access.log");
        let config = config::AccessLog::File(path);
        let error = AccessLog::open(&config, Counter::default()).unwrap_err();
        assert!(error.to_string().contains("/dev/null/logs"), "{error}");
    }

    #[test]
    fn off_takes_everything_and_writes_nothing() {
        let log = AccessLog::open(&config::AccessLog::Off, Counter::default()).unwrap();
        log.write(&record("a", "/"), &StreamEnd::new(Termination::Complete));
        log.reopen().unwrap();
        assert_eq!(log.dropped(), 0);
    }
}
