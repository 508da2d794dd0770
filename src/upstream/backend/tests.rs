//! Identity, guards, and which idle connections a backend keeps.

use std::{sync::Arc, task::Context, time::Duration};

use super::{Backend, Lifecycle, RequestGuard, SessionGuard, Transition};
use crate::{
    config::{self, Address, Reuse},
    upstream::reuse::Reusable,
};

struct TestConnection;

impl Reusable for TestConnection {
    fn is_open(&mut self, _: &mut Context<'_>) -> bool {
        true
    }
}

fn config(host: &str) -> config::BackendConfig {
    let address = Address { host: host.to_owned(), port: 3000 };
    config::BackendConfig { name: "b".to_owned(), address, weight: 2, backup: false }
}

fn backend() -> Arc<Backend> {
    Backend::new("p", &config("127.0.0.1"), &Reuse::default())
}

fn put(backend: &Backend) {
    backend.idle().put(Box::new(TestConnection), Duration::from_secs(3600));
}

#[test]
fn a_backend_is_identified_by_pool_name_and_address() {
    let backend = backend();
    let mut same = config("127.0.0.1");
    same.weight = 9;
    assert!(backend.is("p", &same));
    assert!(!backend.is("q", &same));
    assert!(!backend.is("p", &config("127.0.0.2")));
    same.name = "c".to_owned();
    assert!(!backend.is("p", &same));
    assert_ne!(backend.serial(), self::backend().serial());
}

#[test]
fn a_literal_address_needs_no_resolver() {
    let addresses = backend().addresses();
    assert_eq!(addresses[..], ["127.0.0.1:3000".parse().unwrap()]);
    let named = Backend::new("p", &config("node.test"), &Reuse::default());
    assert!(named.addresses().is_empty());
    named.set_addresses(vec!["[::1]:3000".parse().unwrap()]);
    assert_eq!(named.addresses().len(), 1);
}

#[test]
fn guards_count_while_they_live_and_have_the_size_of_a_pointer() {
    let backend = backend();
    let (first, second, request) = (backend.hold(), backend.hold(), backend.request());
    assert_eq!((backend.sessions(), backend.requests()), (2, 1));
    drop((first, request));
    assert_eq!((backend.sessions(), backend.requests()), (1, 0));
    assert!(Arc::ptr_eq(second.backend(), &backend));
    assert_eq!(size_of::<SessionGuard>(), size_of::<usize>());
    assert_eq!(size_of::<RequestGuard>(), size_of::<usize>());
}

#[test]
fn going_down_drops_idle_connections_and_keeps_none() {
    let backend = backend();
    put(&backend);
    assert_eq!(backend.record_check(false, 1, 2), None);
    assert_eq!((backend.idle().len(), backend.down_since()), (1, None));
    assert_eq!(backend.record_check(false, 1, 2), Some(Transition::Down));
    put(&backend);
    assert!(backend.idle().is_empty());
    assert!(backend.down_since().is_some());
    assert_eq!(backend.record_check(true, 1, 2), Some(Transition::Up));
    put(&backend);
    assert_eq!((backend.idle().len(), backend.down_since()), (1, None));
}

#[test]
fn a_draining_backend_keeps_idle_connections_and_an_evicted_one_does_not() {
    let backend = backend();
    put(&backend);
    backend.set_lifecycle(Lifecycle::Draining);
    put(&backend);
    assert_eq!((backend.idle().len(), backend.keeps_sessions()), (2, true));
    backend.set_lifecycle(Lifecycle::Evicted);
    put(&backend);
    assert!(backend.idle().is_empty());
    assert_eq!((backend.lifecycle(), backend.keeps_sessions()), (Lifecycle::Evicted, false));
}

#[test]
fn no_idle_connection_remains_on_a_backend_that_went_down() {
    for _ in 0..200 {
        let backend = backend();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|_| put(&backend)));
            scope.spawn(|| backend.record_check(false, 1, 1));
        });
        assert!(!backend.is_up());
        assert!(backend.idle().is_empty());
    }
}

#[test]
fn adopt_changes_weight_and_connection_limits() {
    let backend = backend();
    put(&backend);
    let mut config = config("127.0.0.1");
    config.weight = 0;
    let reuse = Reuse { max_idle: 0, ..Reuse::default() };
    backend.adopt(&config, &reuse);
    assert_eq!((backend.weight(), backend.idle().len()), (1, 0));
}
