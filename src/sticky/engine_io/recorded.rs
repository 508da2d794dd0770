//! What real servers answered, as recorded in `tests/fixtures/engine_io` by `record.cjs` there.
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
fn every_handshake_opens_its_session() {
    // Handshakes that no client makes, and whose reply none could read.
    let unreadable = ["v1-jsonp-no-b64"];
    let mut seen = 0;
    for it in recorded() {
        let opened = if it.status == 101 { open_frame(&it.body) } else { open_packet(&it.body) };
        if it.status >= 400 || unreadable.contains(&it.name.as_str()) {
            assert_eq!(opened, None, "{}", it.name);
            continue;
        }
        let open = opened.unwrap_or_else(|| panic!("{} is not understood", it.name));
        let (interval, timeout) = match it.name.as_str() {
            "v4-short-pings" => (300, 200),
            name if name.starts_with("v1-") => (25_000, 60_000),
            _ => (25_000, 20_000),
        };
        assert_eq!(open.ping_interval, Duration::from_millis(interval), "{}", it.name);
        assert_eq!(open.ping_timeout, Duration::from_millis(timeout), "{}", it.name);
        if it.name.contains("strange-sid") {
            assert!(
                open.sid.starts_with("nöt \"20\" \\ ch\u{2028}rs😀"),
                "{}: {}",
                it.name,
                open.sid
            );
        } else {
            assert_eq!(open.sid.len(), 20, "{}: {}", it.name, open.sid);
        }
        seen += 1;
    }
    assert!(seen > 40, "only {seen} handshakes");
}

#[test]
fn unknown_sids_and_nothing_else_are_taken_for_unknown_sids() {
    let mut seen = 0;
    for it in recorded() {
        // python-engineio words a POST without a sid like one with an unknown sid.
        let expected = it.name.contains("unknown-sid") || it.name == "python-bad-handshake-method";
        let found = is_unknown_sid(it.content_type.as_deref(), &it.body);
        assert_eq!(found, expected, "{}", it.name);
        assert!(!expected || it.status == 400, "{}", it.name);
        seen += usize::from(found);
    }
    assert!(seen > 15, "only {seen} refusals");
}

#[test]
fn every_recorded_request_is_recognised() {
    for it in recorded() {
        let asked = query(it.target.split_once('?').unwrap().1);
        if it.name == "v4-no-protocol" {
            assert_eq!(asked, None);
            continue;
        }
        let asked = asked.unwrap_or_else(|| panic!("{} is not recognised", it.name));
        assert_eq!(asked.sid.is_some(), it.target.contains("sid="), "{}", it.name);
        assert_eq!(asked.jsonp.is_some(), it.name.contains("jsonp"), "{}", it.name);
        assert_eq!(asked.protocol == Protocol::V4, it.target.contains("EIO=4"), "{}", it.name);
    }
}
