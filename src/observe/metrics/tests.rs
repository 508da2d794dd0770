use super::*;
use crate::error::{FailureKind, Phase, Side};

fn text(metrics: &Metrics) -> String {
    metrics.encode(std::iter::empty(), std::iter::empty(), std::iter::empty())
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| other == line)
}

#[test]
fn streams_are_counted_by_listener_and_termination() {
    let metrics = Metrics::new();
    let web = metrics.listener("web");
    let refused = Termination::Failed(Side::Backend, Phase::Connect, FailureKind::Refused);
    web.ended(&Termination::Complete, ChosenBy::Sid, 10, 20);
    web.ended(&Termination::Complete, ChosenBy::Balance, 1, 2);
    web.ended(&refused, ChosenBy::Balance, 0, 0);
    let text = text(&metrics);
    let streams = "moorline_streams_total{listener=\"web\",termination=";
    assert!(has(&text, &format!("{streams}\"complete\"}} 2")), "{text}");
    assert!(has(&text, &format!("{streams}\"backend_connect_refused\"}} 1")));
    assert_eq!(text.matches(streams).count(), 2, "terminations without streams are omitted");
    assert!(has(&text, "moorline_chosen_total{listener=\"web\",by=\"balance\"} 2"));
    assert!(has(&text, "moorline_bytes_total{listener=\"web\",direction=\"out\"} 22"));
}

#[test]
fn guards_count_open_connections_and_tunnels() {
    let metrics = Metrics::new();
    let web = metrics.listener("web");
    let (first, second) = (web.accept(), web.accept());
    let tunnel = web.tunnel();
    web.handshake(true);
    let open = text(&metrics);
    assert!(has(&open, "moorline_connections{listener=\"web\"} 2"), "{open}");
    assert!(has(&open, "moorline_tunnels{listener=\"web\"} 1"));
    assert!(has(&open, "moorline_tls_handshakes_total{listener=\"web\",session=\"resumed\"} 1"));
    drop((first, second, tunnel));
    let closed = text(&metrics);
    assert!(has(&closed, "moorline_connections{listener=\"web\"} 0"));
    assert!(has(&closed, "moorline_tunnels{listener=\"web\"} 0"));
    assert!(has(&closed, "moorline_accepted_total{listener=\"web\"} 2"));
}

#[test]
fn a_listener_keeps_its_counters_across_reloads() {
    let metrics = Metrics::new();
    let before = metrics.listener("web");
    let after = metrics.listener("web");
    assert!(Arc::ptr_eq(&before, &after));
    assert!(!Arc::ptr_eq(&before, &metrics.listener("secure")));
}

#[test]
fn backends_are_read_at_each_scrape() {
    let metrics = Metrics::new();
    let sample = BackendSample {
        pool: "chat".to_owned(),
        name: "10.0.0.1:3000".to_owned(),
        up: true,
        draining: false,
        sessions: 7,
        requests: 3,
        idle: 2,
        ejected: true,
        ramp: 0.5,
        connections: 5,
        pending: 4,
        waiting: 9,
    };
    let labels = "{pool=\"chat\",backend=\"10.0.0.1:3000\"}";
    let text = metrics.encode([sample.clone()].into_iter(), std::iter::empty(), std::iter::empty());
    for (name, value) in [
        ("up", "1"),
        ("draining", "0"),
        ("ejected", "1"),
        ("weight_share", "0.5"),
        ("sessions", "7"),
        ("requests", "3"),
        ("idle_connections", "2"),
        ("connections", "5"),
        ("pending_requests", "4"),
        ("waiting_sessions", "9"),
    ] {
        assert!(has(&text, &format!("moorline_backend_{name}{labels} {value}")), "{text}");
    }
    let gone = metrics.encode(std::iter::empty(), std::iter::empty(), std::iter::empty());
    assert!(!gone.contains(labels), "a removed backend has no metrics");
}

#[test]
fn the_text_is_a_valid_exposition() {
    let metrics = Metrics::new();
    metrics.reloads_ok.inc();
    metrics.owner_unknown.inc();
    metrics.access_log_dropped.inc_by(3);
    metrics.listener("a\"b\\c\nd");
    let text = text(&metrics);
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);
    assert!(has(&text, "moorline_reloads_total{result=\"ok\"} 1"));
    assert!(has(&text, "moorline_reloads_total{result=\"refused\"} 0"));
    assert!(has(&text, "moorline_owner_searches_total{result=\"unknown\"} 1"));
    assert!(has(&text, "moorline_access_log_dropped_total 3"));
    assert!(has(&text, "moorline_accepted_total{listener=\"a\\\"b\\\\c\\nd\"} 0"));
    let typed: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let mut unique = typed.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(typed.len(), unique.len());
    let ours = |line: &str| line.starts_with('#') || line.starts_with("moorline_");
    assert!(text.lines().all(ours));
}
