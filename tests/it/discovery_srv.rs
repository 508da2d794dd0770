//! Pools whose backends come from SRV records.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    discovery::{
        PARTLY_UNUSED, SOURCE_FAILS, answering_backend, assert_answered_by, backends_on_one_port,
        count_lines, node,
    },
    support::{
        Backend, Proxy,
        dns::{self, NameServer, QUESTION_NAME, ZONE},
        eventually,
    },
};

#[tokio::test]
async fn srv_records_give_targets_ports_and_weights() {
    let [a, b, c] = [
        Backend::start(node("a")).await,
        Backend::start(node("b")).await,
        Backend::start(node("c")).await,
    ];
    let [pa, pb, pc] = [&a, &b, &c].map(|backend| backend.address.port());
    let hosts = "one 0 A 127.0.0.1\ntwo 0 A 127.0.0.1";
    let mut server = NameServer::start(&format!(
        "{hosts}\n_chat._tcp 0 SRV 10 3 {pa} one\n_chat._tcp 0 SRV 10 0 {pb} two\n\
         _chat._tcp 0 SRV 20 100 {pc} two"
    ))
    .await;
    let (address, mut names) = (server.address, None);
    let proxy = Proxy::with(|settings| {
        let source = format!(
            "{{ srv = \"_chat._tcp.{ZONE}\", resolver = \"{address}\", min_ttl = \"100ms\" }}"
        );
        settings.pool("backends", &source).pool("balance", "\"round-robin\"");
        names = Some([format!("one.{ZONE}:{pa}"), format!("two.{ZONE}:{pb}")]);
    })
    .await;
    assert_answered_by(&proxy, &["a", "b"]).await;
    // A weight of 0 is the smallest weight. Records with a lower priority are not used.
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(answering_backend(&proxy).await);
    }
    let count = |name: &str| answers.iter().filter(|answer| *answer == name).count();
    assert_eq!((count("a"), count("b"), count("c")), (6, 2, 0), "{answers:?}");
    // Backends are named after their targets.
    for name in names.unwrap() {
        proxy.wait_for_log(&name, |line| line["backend"] == name.as_str()).await;
    }
    // A target on another port is another backend.
    server
        .set(&format!("{hosts}\n_chat._tcp 0 SRV 10 1 {pa} one\n_chat._tcp 0 SRV 10 1 {pc} two"))
        .await;
    assert_answered_by(&proxy, &["a", "c"]).await;
    // A target without an address does not affect the others.
    server
        .set(&format!("{hosts}\n_chat._tcp 0 SRV 10 1 {pb} two\n_chat._tcp 0 SRV 10 1 {pc} gone"))
        .await;
    assert_answered_by(&proxy, &["b"]).await;
    assert_eq!(count_lines(&proxy, "gone.fleet.test has no address"), 1, "{}", proxy.stderr_text());
    drop((a, b, c));
    proxy.finish().await;
}

/// A fake name server with a service of two targets, on 127.0.0.11 and 127.0.0.12, with a TTL of an hour. While
/// `fails` is set, the address of the second target gets SERVFAIL.
fn service_of_two_targets(
    port: u16,
    fails: Arc<AtomicBool>,
) -> (SocketAddr, tokio::task::AbortHandle) {
    const ONE: &[u8] = b"\x03one\x04test\x00";
    const TWO: &[u8] = b"\x03two\x04test\x00";
    dns::fake_server(move |question| {
        let service = |target: &[u8]| {
            let head = [0u16, 1, port].into_iter().flat_map(u16::to_be_bytes);
            (QUESTION_NAME, dns::SRV, 3600, head.chain(target.iter().copied()).collect())
        };
        let address = |last| vec![(QUESTION_NAME, dns::A, 3600, vec![127, 0, 0, last])];
        let (name, kind) = dns::asked(question);
        // The resolver may randomize the case.
        match (name.to_ascii_lowercase().as_slice(), kind) {
            (_, dns::SRV) => dns::answer(question, 0, &[service(ONE), service(TWO)]),
            (TWO, _) if fails.load(Ordering::SeqCst) => dns::answer(question, dns::SERVFAIL, &[]),
            (ONE, dns::A) => dns::answer(question, 0, &address(11)),
            (TWO, dns::A) => dns::answer(question, 0, &address(12)),
            _ => dns::answer(question, 0, &[]),
        }
    })
}

async fn proxy_by_service(server: SocketAddr) -> Proxy {
    Proxy::with(|settings| {
        let source = format!(
            "{{ srv = \"_chat._tcp.test\", resolver = \"{server}\", min_ttl = \"100ms\" }}"
        );
        settings.pool("backends", &source).pool("balance", "\"round-robin\"");
    })
    .await
}

#[tokio::test]
async fn fault_087_a_target_without_an_answer_is_kept_after_an_upgrade() {
    let (port, [a, b]) = backends_on_one_port(["a", "b"]).await;
    let fails = Arc::new(AtomicBool::new(false));
    let (server, task) = service_of_two_targets(port, Arc::clone(&fails));
    let mut proxy = proxy_by_service(server).await;
    assert_answered_by(&proxy, &["a", "b"]).await;
    fails.store(true, Ordering::SeqCst);
    proxy.upgrade().await;
    proxy.wait_for_stderr("the warning", |line| line.contains(PARTLY_UNUSED)).await;
    assert_answered_by(&proxy, &["a", "b"]).await;
    assert_eq!(count_lines(&proxy, "removed"), 0, "{}", proxy.stderr_text());
    task.abort();
    drop((a, b));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_target_without_an_answer_is_queried_again_soon() {
    let (port, [a, b]) = backends_on_one_port(["a", "b"]).await;
    let fails = Arc::new(AtomicBool::new(true));
    let (server, task) = service_of_two_targets(port, Arc::clone(&fails));
    let proxy = proxy_by_service(server).await;
    assert_answered_by(&proxy, &["a"]).await;
    // Long before the TTL of the other records ends.
    fails.store(false, Ordering::SeqCst);
    assert_answered_by(&proxy, &["a", "b"]).await;
    assert_eq!(count_lines(&proxy, PARTLY_UNUSED), 1, "{}", proxy.stderr_text());
    task.abort();
    drop((a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn srv_records_behind_a_cname_are_used() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let [pa, pb] = [&a, &b].map(|backend| backend.address.port());
    let mut server = NameServer::start(&format!(
        "_chat._tcp 0 CNAME _blue._tcp\n_blue._tcp 0 SRV 10 1 {pa} one\none 0 A 127.0.0.1"
    ))
    .await;
    let address = server.address;
    let proxy = Proxy::with(|settings| {
        let source = format!(
            "{{ srv = \"_chat._tcp.{ZONE}\", resolver = \"{address}\", min_ttl = \"100ms\" }}"
        );
        settings.pool("backends", &source).pool("balance", "\"round-robin\"");
    })
    .await;
    assert_answered_by(&proxy, &["a"]).await;
    // The alias changes and leads to another alias.
    server
        .set(&format!(
            "_chat._tcp 0 CNAME _next._tcp\n_next._tcp 0 CNAME _green._tcp\n\
             _green._tcp 0 SRV 10 1 {pb} one\none 0 A 127.0.0.1"
        ))
        .await;
    assert_answered_by(&proxy, &["b"]).await;
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    // A loop of aliases is an error.
    server.set("_chat._tcp 0 CNAME _loop._tcp\n_loop._tcp 0 CNAME _chat._tcp").await;
    eventually("the loop is reported", || count_lines(&proxy, SOURCE_FAILS) == 1).await;
    assert_answered_by(&proxy, &["b"]).await;
    drop((a, b));
    proxy.finish().await;
}
