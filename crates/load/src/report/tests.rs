//! Checks the reports of an invented run.

use std::{collections::HashSet, env, fs, sync::Arc, time::Duration};

use roxmltree::{Document as Xml, ParsingOptions};

use super::{Outcome, assertions::judge, example, html, json::Document};
use crate::{
    scenario::{Limits, Mode, Outputs},
    stats::{ErrorKind, Record},
};

fn outcome() -> Outcome {
    Outcome::new(&example::scenario(), &example::record())
}

fn parsed(page: &str) -> Xml<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Xml::parse_with_options(page, options).expect("a well-formed page")
}

#[test]
fn json_figures_round_trip() {
    let outcome = outcome();
    let text = serde_json::to_string(&outcome.document).unwrap();
    let read: Document = serde_json::from_str(&text).unwrap();
    assert!(read == outcome.document);
}

#[test]
fn json_figures_suffice_for_a_comparison() {
    let document = serde_json::to_value(&outcome().document).unwrap();
    let moments: Vec<_> = document["checkpoints"].as_array().unwrap().iter().collect();
    let names: Vec<_> = moments.iter().map(|at| at["moment"].as_str().unwrap()).collect();
    assert_eq!(names, ["before", "steady_start", "steady_end", "after"]);
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let [from, to] = [moments[1], moments[2]];
    let cpu = |at: &serde_json::Value| {
        number(&at["usage"][0]["user_us"]) + number(&at["usage"][0]["system_us"])
    };
    let answered = number(&to["counters"]["answered"]) - number(&from["counters"]["answered"]);
    let each = number(&document["cost"]["steady"]["cpu_us_per_message"]);
    assert!((each - (cpu(to) - cpu(from)) / answered).abs() < 1e-6);
    assert_eq!(number(&document["cost"]["pss_per_connection_bytes"]), 9_600.0);
    let curve = document["latency"]["message"]["curve"].as_array().unwrap();
    let last = curve.last().unwrap();
    assert_eq!(last["quantile"], 1.0);
    assert_eq!(last["count"], document["latency"]["message"]["count"]);
    assert_eq!(last["value_us"], document["latency"]["message"]["max_us"]);
}

#[test]
fn page_is_self_contained_and_well_formed() {
    let page = html::page(&outcome().document).unwrap();
    // To inspect the page.
    if let Some(path) = env::var_os("MOORLINE_EXAMPLE_PAGE") {
        fs::write(path, &page).unwrap();
    }
    let xml = parsed(&page);
    let target = "https://chat.example:8443";
    for foreign in ["http://", "https://", "url(", "@import", "//cdn"] {
        assert!(!page.replace(target, "").contains(foreign), "{foreign}");
    }
    let mut ids = HashSet::new();
    for element in xml.descendants().filter(|node| node.is_element()) {
        let name = element.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object"].contains(&name), "{name}");
        for attribute in ["src", "href", "onload", "onclick", "style"] {
            assert!(!element.has_attribute(attribute), "{name} has {attribute}");
        }
        if let Some(id) = element.attribute("id") {
            assert!(ids.insert(id), "{id} is a duplicate id");
        }
    }
    for element in xml.descendants().filter(|node| node.has_attribute("aria-labelledby")) {
        let names = element.attribute("aria-labelledby").unwrap();
        assert!(names.split(' ').all(|id| ids.contains(id)), "{names}");
    }
}

#[test]
fn page_has_all_charts_with_text_and_figures() {
    let page = html::page(&outcome().document).unwrap();
    let xml = parsed(&page);
    let figures: Vec<_> = xml.descendants().filter(|node| node.has_tag_name("figure")).collect();
    let ids: Vec<_> = figures.iter().map(|figure| figure.attribute("id").unwrap()).collect();
    let expected = [
        "connected",
        "messages",
        "message-latency",
        "curves",
        "handshakes",
        "connect-latency",
        "errors",
        "nodes",
        "cpu",
        "memory",
    ];
    assert_eq!(ids, expected);
    for figure in &figures {
        let has = |tag: &str| figure.descendants().any(|node| node.has_tag_name(tag));
        let words = |tag: &str| {
            let mut found = figure.descendants().filter(|node| node.has_tag_name(tag));
            found.next().and_then(|node| node.text()).map_or(0, str::len)
        };
        assert!(words("title") > 5 && words("desc") > 20 && has("table"));
        let all = figure.descendants();
        let drawn = all.filter_map(|node| node.attribute("d")).collect::<Vec<_>>();
        assert!(drawn.iter().all(|path| !path.contains("NaN") && !path.contains("inf")));
        let marks = figure.descendants().filter(|node| node.has_tag_name("circle")).count();
        let over_time = figure.attribute("id") != Some("curves");
        assert_eq!(marks, if over_time { 3 } else { 0 });
    }
}

#[test]
fn page_escapes_text_from_servers() {
    let mut record = example::record();
    record.nodes[0].name = "<b>&\"node\"\u{1}".into();
    let page = html::page(&Outcome::new(&example::scenario(), &record).document).unwrap();
    assert!(!page.contains("<Bad Gateway>") && !page.contains("<b>"));
    assert!(parsed(&page).descendants().any(|node| {
        node.text().is_some_and(|text| text == "the upgrade was answered by 502 <Bad Gateway>")
    }));
}

#[test]
fn page_of_a_long_run_stays_small() {
    let mut record = example::record();
    let hours = (0..4 * 3_600_u64).map(|second| {
        let mut copy = (*record.seconds[20 + second as usize % 20]).clone();
        copy.at = Duration::from_secs(second + 1);
        Arc::new(copy)
    });
    record.seconds = hours.collect();
    record.length = Duration::from_secs(4 * 3_600);
    let page = html::page(&Outcome::new(&example::scenario(), &record).document).unwrap();
    parsed(&page);
    assert!(page.len() < 300_000, "{}", page.len());
}

#[test]
fn run_without_a_connection_has_page_and_summary() {
    let mut scenario = example::scenario();
    scenario.limits = Limits::default();
    scenario.mode = Mode::Steady;
    let record = crate::stats::Collector::new(Default::default()).record();
    let outcome = Outcome::new(&scenario, &record);
    assert!(outcome.passed());
    assert!(outcome.summary().contains("no client connected"));
    parsed(&html::page(&outcome.document).unwrap());
}

#[test]
fn summary_has_result_figures_and_samples() {
    let summary = outcome().summary();
    for expected in [
        "Failed: 1 of 5 checks.",
        "  ✓ there were no code 1 replies",
        "6,000 Socket.IO clients (polling, then an upgrade; Engine.IO 4) connect to",
        "upgrade_refused",
        "the upgrade was answered by 502 <Bad Gateway>",
        "node-6",
        "steady phase",
    ] {
        assert!(summary.contains(expected), "{expected}");
    }
    assert!(summary.lines().all(|line| !line.ends_with(' ')));
}

fn failures(limits: Limits, record: &Record) -> Vec<String> {
    let verdict = judge(&limits, false, record);
    assert_eq!(verdict.passed, Some(verdict.failures().is_empty()));
    verdict.failures().into_iter().map(str::to_owned).collect()
}

#[test]
fn each_limit_has_its_own_message() {
    let mut record = example::record();
    record.latencies.message.clear();
    record.latencies.message.record(Duration::from_millis(81));
    record.totals.errors = 3;
    record.errors[ErrorKind::Code1 as usize] = 1;
    record.totals.disconnects = 1_200;
    record.totals.misrouted = 2;
    let limits = Limits {
        max_p99: Some(Duration::from_millis(50)),
        max_errors: Some(2),
        max_code1: Some(0),
        max_disconnects: Some(1_000),
        max_misrouted: Some(1),
    };
    let expected = [
        "p99 of messages was 81 ms, more than the 50 ms allowed",
        "there were 3 errors, more than the 2 allowed",
        "there was 1 code 1 reply, none is allowed",
        "there were 1,200 disconnects, more than the 1,000 allowed",
        "there were 2 misrouted answers, more than the 1 allowed",
    ];
    assert_eq!(failures(limits, &record), expected);
}

#[test]
fn limit_without_a_measurement_fails() {
    let record = crate::stats::Collector::new(Default::default()).record();
    let limits = Limits {
        max_p99: Some(Duration::from_millis(50)),
        max_code1: Some(0),
        ..Limits::default()
    };
    let expected = [
        "no message was answered, so the p99 limit of 50 ms cannot be checked",
        "no client connected, so code 1 replies cannot be checked",
    ];
    assert_eq!(failures(limits, &record), expected);
}

#[test]
fn unanswered_messages_fail_a_count_limit() {
    let mut record = example::record();
    (record.totals.answered, record.totals.unanswered, record.totals.errors) = (0, 1_234, 0);
    let limits = Limits { max_errors: Some(0), ..Limits::default() };
    let expected = ["none of 1,234 messages was answered, so errors cannot be checked"];
    assert_eq!(failures(limits, &record), expected);
    let summary = Outcome::new(&example::scenario(), &record).summary();
    assert!(summary.contains("Unanswered") && summary.contains("1,234"), "{summary}");
}

#[test]
fn run_without_any_answer_fails_without_limits() {
    let mut record = example::record();
    (record.totals.sent, record.totals.answered) = (18, 0);
    let verdict = judge(&Limits::default(), true, &record);
    let expected = "none of 18 messages was answered: give an event that the server answers (--event), and \
                    how it does (--answer)";
    assert_eq!((verdict.passed, verdict.failures()), (Some(false), vec![expected]));
    assert_eq!(judge(&Limits::default(), false, &record).passed, None);
}

#[test]
fn run_without_any_connection_fails_without_limits() {
    let mut record = example::record();
    (record.totals.connects, record.totals.sent) = (0, 0);
    let verdict = judge(&Limits::default(), true, &record);
    assert_eq!((verdict.passed, verdict.failures()), (Some(false), vec!["no client connected"]));
}

#[test]
fn clients_left_on_a_drained_node_are_reported() {
    let mut record = example::record();
    (record.totals.disconnects, record.totals.undrained) = (60, 60);
    let limits = Limits { max_disconnects: Some(0), ..Limits::default() };
    let expected = [
        "there were 60 disconnects, none is allowed; 60 clients were still connected to a node at the end \
                     of its drain: give it more time (--drain) than the proxy takes to move its clients",
    ];
    assert_eq!(failures(limits, &record), expected);
}

#[test]
fn misrouting_limit_without_node_names_fails() {
    let mut record = example::record();
    record.totals.named = 0;
    let limits = || Limits { max_misrouted: Some(0), ..Limits::default() };
    let expected = ["no node sent its name, so misrouted answers cannot be checked"];
    assert_eq!(failures(limits(), &record), expected);
    record.totals.named = 1;
    assert_eq!(failures(limits(), &record), [""; 0]);
}

#[test]
fn unanswered_messages_count_for_p99() {
    let mut record = example::record();
    record.latencies.message.clear();
    let limits = || Limits { max_p99: Some(Duration::from_millis(50)), ..Limits::default() };
    for _ in 0..98 {
        record.latencies.message.record(Duration::from_millis(1));
    }
    record.totals.unanswered = 2;
    record.latencies.unanswered.record(Duration::from_millis(50));
    record.latencies.unanswered.record(Duration::from_millis(1));
    assert_eq!(failures(limits(), &record), [""; 0]);
    record.latencies.unanswered.clear();
    record.latencies.unanswered.record(Duration::from_secs(3));
    record.latencies.unanswered.record(Duration::from_secs(3));
    let expected =
        ["p99 of messages was at least 3 s, with 2 messages that had no answer at the end, \
         more than the 50 ms allowed"];
    assert_eq!(failures(limits(), &record), expected);
}

#[test]
fn limits_include_their_value() {
    let mut record = example::record();
    record.latencies.message.clear();
    record.latencies.message.record(Duration::from_micros(50));
    record.totals.errors = 2;
    let limits = Limits {
        max_p99: Some(Duration::from_micros(50)),
        max_errors: Some(2),
        ..Limits::default()
    };
    assert_eq!(failures(limits, &record), [""; 0]);
}

#[test]
fn files_are_written_or_an_error_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = Outputs {
        json: Some(folder.path().join("run.json")),
        html: Some(folder.path().join("run.html")),
        quiet: true,
    };
    outcome().write(&outputs).unwrap();
    let json = fs::read(folder.path().join("run.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Document>(&json).unwrap().totals.connects, 12_000);
    assert!(fs::read_to_string(folder.path().join("run.html")).unwrap().ends_with("</html>"));
    let nowhere = folder.path().join("no/such/folder.json");
    let unwritable = Outputs { json: Some(nowhere), ..Outputs::default() };
    let error = outcome().write(&unwritable).unwrap_err().to_string();
    assert!(error.contains("cannot write"));
}
