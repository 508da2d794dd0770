//! Replies of real servers, recorded in `tests/fixtures/engine_io` by `record.cjs` there.
//!
//! Each line of `index.tsv` names a body with its status, content type and request.

use std::{fs, path::PathBuf, time::Duration};

use super::*;

struct Recorded {
    name: String,
    status: u16,
    content_type: Option<String>,
    target: String,
    body: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine_io");
    let index = fs::read_to_string(folder.join("index.tsv")).unwrap();
    let all: Vec<_> = index
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            Recorded {
                name: fields[0].to_owned(),
                status: fields[1].parse().unwrap(),
                content_type: Some(fields[2].to_owned()).filter(|value| value != "-"),
                target: fields[3].split(' ').nth(1).unwrap().to_owned(),
                body: fs::read(folder.join(fields[0]).with_extension("body")).unwrap(),
            }
        })
        .collect();
    assert!(all.len() > 70, "only {} recordings", all.len());
    all
}

#[test]
fn every_recorded_handshake_opens_its_session() {
    // Handshakes that real clients never make and whose reply they could not read.
    let unreadable = ["v1-jsonp-no-b64"];
    let mut seen = 0;
    for recorded in recorded() {
        let opened = if recorded.status == 101 {
            open_frame(&recorded.body)
        } else {
            open_packet(&recorded.body)
        };
        if recorded.status >= 400 || unreadable.contains(&recorded.name.as_str()) {
            assert_eq!(opened, None, "{}", recorded.name);
            continue;
        }
        let open = opened.unwrap_or_else(|| panic!("{} is not recognized", recorded.name));
        let (interval, timeout) = match recorded.name.as_str() {
            "v4-short-pings" => (300, 200),
            name if name.starts_with("v1-") => (25_000, 60_000),
            _ => (25_000, 20_000),
        };
        assert_eq!(open.ping_interval, Duration::from_millis(interval), "{}", recorded.name);
        assert_eq!(open.ping_timeout, Duration::from_millis(timeout), "{}", recorded.name);
        if recorded.name.contains("strange-sid") {
            assert!(
                open.sid.starts_with("nöt \"20\" \\ ch\u{2028}rs😀"),
                "{}: {}",
                recorded.name,
                open.sid
            );
        } else {
            assert_eq!(open.sid.len(), 20, "{}: {}", recorded.name, open.sid);
        }
        seen += 1;
    }
    assert!(seen > 40, "only {seen} handshakes");
}

#[test]
fn only_unknown_sid_replies_are_recognized_as_such() {
    let mut seen = 0;
    for recorded in recorded() {
        // python-engineio answers a POST without a sid like one with an unknown sid.
        let expected =
            recorded.name.contains("unknown-sid") || recorded.name == "python-bad-handshake-method";
        let found = is_unknown_sid(recorded.content_type.as_deref(), &recorded.body);
        assert_eq!(found, expected, "{}", recorded.name);
        assert!(!expected || recorded.status == 400, "{}", recorded.name);
        seen += usize::from(found);
    }
    assert!(seen > 15, "only {seen} error replies");
}

#[test]
fn every_recorded_request_is_recognized() {
    for recorded in recorded() {
        let query = query(recorded.target.split_once('?').unwrap().1);
        if recorded.name == "v4-no-protocol" {
            assert_eq!(query, None);
            continue;
        }
        let query = query.unwrap_or_else(|| panic!("{} is not recognized", recorded.name));
        assert_eq!(query.sid.is_some(), recorded.target.contains("sid="), "{}", recorded.name);
        assert_eq!(query.jsonp.is_some(), recorded.name.contains("jsonp"), "{}", recorded.name);
        assert_eq!(
            query.protocol == EngineIoVersion::V4,
            recorded.target.contains("EIO=4"),
            "{}",
            recorded.name
        );
    }
}
