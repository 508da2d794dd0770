use std::time::Duration;

use super::*;
use crate::{
    config::{BackendSource, Dns, PoolConfig},
    upstream::Backend as Live,
};

fn backend(address: &str) -> BackendConfig {
    BackendConfig {
        name: address.to_owned(),
        address: address.parse().unwrap(),
        weight: 1,
        backup: false,
    }
}

fn config(pools: &[(&str, &[&str])]) -> Config {
    let mut config = Config::new(Vec::new(), PoolConfig::new("x", Vec::new()));
    let pool = |(name, list): &(&str, &[&str])| {
        PoolConfig::new(*name, list.iter().map(|address| backend(address)).collect())
    };
    config.pools = pools.iter().map(pool).collect();
    config
}

fn target(pool: Option<&str>, backend: Option<&str>) -> BackendTarget {
    BackendTarget { pool: pool.map(str::to_owned), backend: backend.map(str::to_owned) }
}

fn new(address: &str) -> NewBackend {
    NewBackend { address: address.to_owned(), name: None, weight: None, backup: false }
}

fn names(config: &Config) -> Vec<&str> {
    config.pools[0].backends.iter().map(|backend| backend.name.as_str()).collect()
}

#[test]
fn layers_come_after_the_backends_of_the_file() {
    let mut file_config = config(&[("chat", &["10.0.0.1:80"])]);
    file_config.pools[0].source = Some(BackendSource::Dns(Dns {
        name: "chat.test".to_owned(),
        port: 80,
        resolver: None,
        min_ttl: Duration::ZERO,
        max_ttl: Duration::ZERO,
    }));
    let mut overlay = Overlay::default();
    let found = vec![backend("10.0.0.1:80"), backend("10.0.0.2:80")];
    assert!(overlay.record_answer("chat".to_owned(), Ok(found.clone())));
    assert!(!overlay.record_answer("chat".to_owned(), Ok(found)));
    overlay.add(&overlay.effective(&file_config), "chat", &new("10.0.0.3:80")).unwrap();
    overlay.set_weight(&overlay.effective(&file_config), "chat", "10.0.0.2:80", 7).unwrap();
    let effective = overlay.effective(&file_config);
    assert_eq!(names(&effective), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(effective.pools[0].backends[1].weight, 7);
    let expected = [BackendOrigin::Configured, BackendOrigin::Discovered, BackendOrigin::Added];
    assert_eq!(origins(&mut overlay, &file_config), expected);
}

/// Returns the origins of the first pool's effective backends.
fn origins(overlay: &mut Overlay, file_config: &Config) -> Vec<BackendOrigin> {
    let pool = overlay.effective(file_config).pools.remove(0);
    let live = pool.backends.iter().map(|b| Live::new(&pool.name, b, &pool.reuse));
    let live: Vec<_> = live.collect();
    overlay.update_origins(file_config, live.iter().map(AsRef::as_ref));
    let origin = |b: &BackendConfig| overlay.origin(&pool.name, &b.name, &b.address);
    pool.backends.iter().map(origin).collect()
}

#[test]
fn a_failed_answer_keeps_the_last_valid_one() {
    let mut overlay = Overlay::default();
    overlay.record_answer("chat".to_owned(), Ok(vec![backend("10.0.0.2:80")]));
    assert!(!overlay.record_answer("chat".to_owned(), Err(SourceError::Empty)));
    assert_eq!(overlay.source_error("chat"), Some("the answer contains no backend"));
    assert_eq!(overlay.discovered["chat"].backends.len(), 1);
}

#[test]
fn invalid_commands_are_rejected() {
    let file_config = config(&[("chat", &["10.0.0.1:80"])]);
    let mut overlay = Overlay::default();
    let fails = |result: Result<String, CommandError>, wanted: fn(String) -> CommandError| {
        let error = result.unwrap_err();
        assert_eq!(error, wanted(error.to_string()));
    };
    fails(overlay.add(&file_config, "chta", &new("10.0.0.2:80")), CommandError::NotFound);
    fails(overlay.add(&file_config, "chat", &new("10.0.0.1:80")), CommandError::Conflict);
    fails(overlay.add(&file_config, "chat", &new("10.0.0.2")), CommandError::Invalid);
    let heavy = NewBackend { weight: Some(0), ..new("10.0.0.2:80") };
    fails(overlay.add(&file_config, "chat", &heavy), CommandError::Invalid);
    let mut own = file_config.clone();
    own.admin.metrics = "127.0.0.1:9090".parse().ok();
    fails(overlay.add(&own, "chat", &new("127.0.0.1:9090")), CommandError::Invalid);
    let unit = |result: Result<(), CommandError>| result.map(|()| String::new());
    fails(
        unit(overlay.remove(&file_config, &file_config, "chat", "10.0.0.1:80")),
        CommandError::Conflict,
    );
    fails(
        unit(overlay.remove(&file_config, &file_config, "chat", "10.0.0.9:80")),
        CommandError::NotFound,
    );
    fails(
        unit(overlay.set_weight(&file_config, "chat", "10.0.0.1:80", 70_000)),
        CommandError::Invalid,
    );
    fails(
        unit(overlay.drain(&file_config, target(Some("chat"), Some("x")), None)),
        CommandError::NotFound,
    );
    fails(unit(overlay.drain(&file_config, target(None, Some("x")), None)), CommandError::Invalid);
    fails(unit(overlay.undrain(&file_config, &target(Some("chat"), None))), CommandError::Conflict);
    fails(
        unit(overlay.undrain(&file_config, &target(Some("chat"), Some("x")))),
        CommandError::NotFound,
    );
}

#[test]
fn a_second_drain_is_rejected_and_a_wider_drain_replaces_it() {
    let file_config = config(&[("chat", &["10.0.0.1:80", "10.0.0.2:80"])]);
    let one = || target(Some("chat"), Some("10.0.0.1:80"));
    let pool = || target(Some("chat"), None);
    let mut overlay = Overlay::default();
    overlay.drain(&file_config, one(), None).unwrap();
    assert!(matches!(overlay.drain(&file_config, one(), None), Err(CommandError::Conflict(_))));
    assert!(overlay.drain_of("chat", "10.0.0.2:80").is_none());
    let terms = DrainConfig::within(Duration::from_secs(10));
    overlay.drain(&file_config, pool(), Some(terms)).unwrap();
    assert_eq!(overlay.drain_of("chat", "10.0.0.1:80").unwrap().terms, Some(terms));
    let narrower = overlay.undrain(&file_config, &one()).unwrap_err();
    assert!(narrower.to_string().contains("as a part of pool chat"), "{narrower}");
    overlay.drain(&file_config, target(None, None), None).unwrap();
    assert!(overlay.drains_all());
    overlay.undrain(&file_config, &target(None, None)).unwrap();
    assert!(overlay.drain_of("chat", "10.0.0.1:80").is_none());
}

#[test]
fn effects_on_missing_backends_can_be_undone() {
    let (with, without) = (config(&[("chat", &["10.0.0.1:80"])]), config(&[("chat", &[])]));
    let mut overlay = Overlay::default();
    let one = target(Some("chat"), Some("10.0.0.1:80"));
    overlay.drain(&with, one.clone(), None).unwrap();
    overlay.undrain(&without, &one).unwrap();
    // A backend that a source has found since then shadows the added one.
    overlay.add(&without, "chat", &new("10.0.0.9:80")).unwrap();
    let shadowed = config(&[("chat", &["10.0.0.1:80"])]);
    overlay.remove(&shadowed, &shadowed, "chat", "10.0.0.9:80").unwrap();
    assert_eq!(names(&overlay.effective(&shadowed)), ["10.0.0.1:80"]);
}

#[test]
fn a_reload_keeps_effects_on_pools_that_still_exist() {
    let file_config = config(&[("chat", &["10.0.0.1:80"]), ("old", &["10.0.1.1:80"])]);
    let mut overlay = Overlay::default();
    for (pool, address) in
        [("chat", "10.0.0.2:80"), ("chat", "10.0.0.3:80"), ("old", "10.0.1.2:80")]
    {
        overlay.add(&file_config, pool, &new(address)).unwrap();
    }
    overlay.drain(&file_config, target(Some("old"), None), None).unwrap();
    let next = config(&[("chat", &["10.0.0.1:80", "10.0.0.2:80"])]);
    let changes = overlay.changes_by(&next);
    let kept = |name: &str| changes.iter().find(|change| change.name == name).unwrap().kept;
    assert!(!kept("chat/10.0.0.2:80") && kept("chat/10.0.0.3:80") && !kept("pool old"));
    overlay.prune(&next);
    assert_eq!(names(&overlay.effective(&next)), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    let expected = [BackendOrigin::Configured, BackendOrigin::Configured, BackendOrigin::Added];
    assert_eq!(origins(&mut overlay, &next), expected);
}
