use std::time::Duration;

use super::*;
use crate::config::{ListenerProtocol, RouteTo};

fn backend(address: &str) -> BackendConfig {
    BackendConfig {
        name: address.to_owned(),
        address: address.parse().unwrap(),
        weight: 1,
        backup: false,
    }
}

fn config(addresses: &[&str]) -> Config {
    let backends = addresses.iter().map(|address| backend(address)).collect();
    let listener =
        ListenerConfig::new("web", vec!["127.0.0.1:80".parse().unwrap()], ListenerProtocol::Http);
    Config::new(vec![listener], PoolConfig::new("chat", backends))
}

fn compare(now: &Config, next: &Config) -> Plan {
    plan(now, next, &[], &[], |_, _| HeldCount { tunnels: 2, sessions: 5 }, |_, _| false)
}

fn names(plan: &Plan) -> Vec<(ChangedThing, ChangeKind, &str)> {
    plan.changes.iter().map(|c| (c.what, c.how, c.name.as_str())).collect()
}

#[test]
fn equal_configurations_have_an_empty_plan() {
    let config = config(&["10.0.0.1:80"]);
    let plan = compare(&config, &config);
    assert!(plan.empty && plan.changes.is_empty());
}

#[test]
fn a_removed_backend_disconnects_its_sessions_at_its_deadline() {
    let now = config(&["10.0.0.1:80", "10.0.0.2:80"]);
    let plan = compare(&now, &config(&["10.0.0.1:80", "10.0.0.3:80"]));
    assert_eq!(
        names(&plan),
        [
            (ChangedThing::Backend, ChangeKind::Removed, "chat/10.0.0.2:80"),
            (ChangedThing::Backend, ChangeKind::Added, "chat/10.0.0.3:80"),
        ]
    );
    assert_eq!((plan.disconnected_tunnels, plan.disconnected_sessions), (2, 5));
    assert_eq!(plan.by, Some(300.0));
}

#[test]
fn a_renamed_backend_disconnects_no_session() {
    let now = config(&["10.0.0.1:80"]);
    let mut next = now.clone();
    next.pools[0].backends[0].name = "blue".to_owned();
    let plan = compare(&now, &next);
    assert_eq!((plan.empty, plan.disconnected_sessions, plan.by), (false, 0, None));
    assert_eq!(plan.changes[0].detail, "sessions continue as chat/blue: 5 sessions");
}

#[test]
fn a_retained_backend_is_counted_once_its_address_is_removed() {
    let retained = RetainedBackend {
        pool: "old".to_owned(),
        backend: backend("10.0.0.1:80"),
        held: HeldCount { tunnels: 3, sessions: 4 },
        drain: DrainConfig::within(Duration::from_secs(60)),
    };
    let none = |_: &str, _: &BackendConfig| HeldCount::default();
    let now = config(&["10.0.0.1:80", "10.0.0.2:80"]);
    let compare =
        |next: &Config| plan(&now, next, &[], std::slice::from_ref(&retained), none, |_, _| false);
    let kept = compare(&config(&["10.0.0.1:80"]));
    assert_eq!((kept.changes.len(), kept.disconnected_sessions), (1, 0));
    let removed = compare(&config(&["10.0.0.2:80"]));
    assert_eq!(removed.changes[1].name, "old/10.0.0.1:80");
    assert_eq!((removed.disconnected_tunnels, removed.disconnected_sessions), (3, 4));
    assert_eq!(removed.by, Some(60.0));
}

#[test]
fn a_removed_pool_removes_its_backends() {
    let now = config(&["10.0.0.1:80"]);
    let mut next = config(&["10.0.0.9:80"]);
    next.pools[0].name = "other".to_owned();
    next.routes[0].target = RouteTo::Pool("other".to_owned());
    let plan = compare(&now, &next);
    assert_eq!(
        names(&plan),
        [
            (ChangedThing::Route, ChangeKind::Changed, "/"),
            (ChangedThing::Pool, ChangeKind::Removed, "chat"),
            (ChangedThing::Backend, ChangeKind::Removed, "chat/10.0.0.1:80"),
            (ChangedThing::Pool, ChangeKind::Added, "other"),
        ]
    );
    assert_eq!(plan.disconnected_sessions, 5);
}

#[test]
fn a_change_lists_the_settings_that_differ() {
    let now = config(&["10.0.0.1:80"]);
    let mut next = now.clone();
    next.pools[0].slow_start = Duration::from_secs(1);
    next.listeners[0].bind = vec!["127.0.0.1:81".parse().unwrap()];
    next.access_log = crate::config::AccessLogConfig::Off;
    let plan = compare(&now, &next);
    let details: Vec<&str> = plan.changes.iter().map(|c| c.detail.as_str()).collect();
    assert_eq!(details, ["from 127.0.0.1:80 to 127.0.0.1:81", "slow_start", ""]);
}

#[test]
fn a_summary_lists_what_changed_and_how() {
    let now = config(&["10.0.0.1:80"]);
    let mut next = now.clone();
    next.pools.push(PoolConfig::new("other", Vec::new()));
    next.routes[0].target = RouteTo::Pool("other".to_owned());
    next.pools[0].slow_start = Duration::from_secs(1);
    let text = summary(&compare(&now, &next));
    let expected = "route / changed: from pool chat to pool other; pool chat changed: slow_start; \
                    pool other added: 0 backends";
    assert_eq!(text, expected);
    let many: Vec<String> = (1..100).map(|n| format!("10.0.0.{n}:80")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(summary(&compare(&now, &config(&many))).ends_with("; and 78 more"));
    assert_eq!(summary(&compare(&now, &now)), "other settings");
}

#[test]
fn backends_of_a_source_that_is_replaced_are_at_risk() {
    let now = config(&["10.0.0.1:80", "10.0.0.2:80"]);
    let mut next = now.clone();
    next.pools[0].slow_start = Duration::from_secs(1);
    let held = |_: &str, _: &BackendConfig| HeldCount { tunnels: 2, sessions: 5 };
    let discovered = |_: &str, backend: &BackendConfig| backend.name == "10.0.0.2:80";
    let plan = plan(&now, &next, &[], &[], held, discovered);
    let named: Vec<&str> = plan.changes.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(named, ["chat", "chat/10.0.0.2:80"]);
    assert_eq!((plan.disconnected_sessions, plan.by), (5, Some(300.0)));
}

#[test]
fn kept_commands_are_listed_in_an_empty_plan() {
    let config = config(&["10.0.0.1:80"]);
    let overlay_change =
        OverlayChange { name: "chat/x".to_owned(), detail: "until restart", kept: true };
    let plan =
        plan(&config, &config, &[overlay_change], &[], |_, _| HeldCount::default(), |_, _| false);
    assert!(plan.empty);
    assert_eq!(names(&plan), [(ChangedThing::Backend, ChangeKind::Kept, "chat/x")]);
}
