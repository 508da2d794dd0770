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
        tls_info: Some(&Arc::default()),
        host,
        method: "GET",
        target,
        redaction: None,
    })
}

fn log(directory: &TempDir) -> (AccessLog, PathBuf) {
    let path = directory.path().join("access.log");
    let config = config::AccessLogConfig::File(path.clone());
    (AccessLog::open(&config, Counter::default()).unwrap(), path)
}

/// Drops the log and waits until its lines are written.
fn finish(log: AccessLog) {
    let end = log.end().unwrap();
    drop(log);
    end.wait();
}

/// Returns the line that `write` creates.
fn line(record: &StreamRecord, end: &StreamEnd<'_>) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (log, path) = log(&directory);
    log.write(record, end);
    finish(log);
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_line_has_all_keys_in_order() {
    let mut record = record("chat.example.com", "/socket.io/?EIO=4&sid=s3cr3t");
    record.status = 200;
    record.backend = Some("blue-1".into());
    record.chosen_by = ChosenBy::Sid;
    record.connect_took(Duration::from_micros(1234));
    record.first_byte_seen(std::time::Instant::now());
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
fn unknown_values_are_null() {
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
fn the_error_is_a_text_or_the_reason_of_the_rejection() {
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
fn no_client_can_control_a_terminal_or_forge_a_line() {
    let evil = "\x1b[31m\r\n{\"forged\":1}\u{9b}2J\x7fä\u{a0}\"\\\u{85}";
    let line = line(&record(evil, &format!("/{evil}")), &StreamEnd::new(Termination::Complete));
    assert_eq!(line.chars().filter(|c| c.is_control()).collect::<String>(), "\n");
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["host"], evil, "escaped, not lost");
    assert!(line.contains(r"\u009b2J\u007fä"), "{line}");
}

#[test]
fn lines_of_many_threads_stay_intact() {
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
    finish(log);
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
fn a_file_is_appended_to_and_reopened_after_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let rotated = directory.path().join("access.log.1");
    let (log, path) = log(&directory);
    let complete = StreamEnd::new(Termination::Complete);
    log.write(&record("before", "/"), &complete);
    finish(log);
    let log = AccessLog::open(&config::AccessLogConfig::File(path.clone()), Counter::default());
    let log = log.unwrap();
    fs::rename(&path, &rotated).unwrap();
    log.reopen().unwrap();
    log.write(&record("after", "/"), &complete);
    finish(log);
    assert!(fs::read_to_string(rotated).unwrap().contains("before"));
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("after") && !text.contains("before"));
}

#[test]
fn the_error_names_a_log_that_cannot_be_opened() {
    // A folder cannot be created below a file.
    let path = PathBuf::from("/dev/null/logs/access.log");
    let config = config::AccessLogConfig::File(path);
    let error = AccessLog::open(&config, Counter::default()).unwrap_err();
    assert!(error.to_string().contains("/dev/null/logs"), "{error}");
}

#[test]
fn a_disabled_log_writes_nothing() {
    let log = AccessLog::open(&config::AccessLogConfig::Off, Counter::default()).unwrap();
    log.write(&record("a", "/"), &StreamEnd::new(Termination::Complete));
    log.reopen().unwrap();
    assert_eq!(log.dropped(), 0);
}
