//! Names that resolve in one address family only. For the other family, the server refuses, fails or does not
//! answer, like dnsmasq with and without an upstream server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::net::TcpListener;

use crate::{
    discovery::{PARTLY_UNUSED, SOURCE_FAILS, assert_answered_by, by_name, count_lines, node},
    support::{Backend, Proxy, Raw, dns, dnsmasq::Dnsmasq, eventually, message::Message},
};

/// Two backends on one port, one in each address family.
async fn pair() -> (u16, Backend, Backend) {
    loop {
        let six = TcpListener::bind("[::1]:0").await.unwrap();
        let port = six.local_addr().unwrap().port();
        if let Ok(four) = TcpListener::bind(("127.0.0.1", port)).await {
            return (port, Backend::on(four, node("four")), Backend::on(six, node("six")));
        }
    }
}

/// A route for `NAME.app.test` and its pool, with a `dns` or `srv` source.
fn pool(name: &str, kind: &str, source: &str, resolver: SocketAddr) -> String {
    format!(
        "[[routes]]\nhost = \"{name}.app.test\"\npool = \"{name}\"\n[pools.{name}]\n\
         backends = {{ {kind} = \"{source}\", resolver = \"{resolver}\", min_ttl = \"100ms\" }}\n\
         health = {{ probe = \"off\" }}\n"
    )
}

async fn ask(proxy: &Proxy, host: &str) -> Message {
    let head = format!("GET / HTTP/1.1\r\nHost: {host}.app.test\r\nConnection: close\r\n\r\n");
    Raw::ask(proxy.web(), head).await
}

/// Runs dnsmasq with names that each have one address family, and asserts that every pool gets its backend.
/// Questions for the other family go to `upstream`. `None`: dnsmasq refuses them.
async fn assert_one_family_is_enough(upstream: Option<SocketAddr>) {
    let (port, four, six) = pair().await;
    let mut options = vec![
        "--host-record=four.test,127.0.0.1".to_owned(),
        "--host-record=six.test,::1".to_owned(),
        format!("--srv-host=_four._tcp.test,four.test,{port}"),
        format!("--srv-host=_six._tcp.test,six.test,{port}"),
    ];
    options.extend(upstream.map(|server| format!("--server=127.0.0.1#{}", server.port())));
    let server = Dnsmasq::start(&options).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[four.address]);
        for family in ["four", "six"] {
            let name = format!("{family}.test:{port}");
            settings.table(&pool(&format!("dns-{family}"), "dns", &name, server.address));
            let name = format!("_{family}._tcp.test");
            settings.table(&pool(&format!("srv-{family}"), "srv", &name, server.address));
        }
    })
    .await;
    for family in ["four", "six"] {
        for kind in ["dns", "srv"] {
            let reply = ask(&proxy, &format!("{kind}-{family}")).await;
            assert_eq!(reply.text(), family, "{kind}: {}", proxy.stderr_text());
        }
    }
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    drop((four, six));
    proxy.finish().await;
}

/// The same with an upstream server that answers every question with this code and no record.
async fn assert_one_family_is_enough_if_upstream_answers(code: u8) {
    let (upstream, task) = dns::fake_server(move |question| dns::answer(question, code, &[]));
    assert_one_family_is_enough(Some(upstream)).await;
    task.abort();
}

#[tokio::test]
async fn a_refused_family_does_not_affect_the_other() {
    assert_one_family_is_enough(None).await;
}

#[tokio::test]
async fn a_family_with_servfail_does_not_affect_the_other() {
    assert_one_family_is_enough_if_upstream_answers(dns::SERVFAIL).await;
}

#[tokio::test]
async fn a_family_with_nxdomain_does_not_affect_the_other() {
    assert_one_family_is_enough_if_upstream_answers(dns::NXDOMAIN).await;
}

#[tokio::test]
async fn a_family_without_records_does_not_affect_the_other() {
    assert_one_family_is_enough_if_upstream_answers(0).await;
}

#[tokio::test]
async fn an_unanswered_family_does_not_affect_the_other() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_one_family_is_enough(Some(silent.local_addr().unwrap())).await;
}

#[tokio::test]
async fn a_family_that_fails_keeps_its_last_good_addresses() {
    let (port, four, six) = pair().await;
    let stage = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let (now, count) = (Arc::clone(&stage), Arc::clone(&asked));
    let (address, task) = dns::fake_server(move |question| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut loopback = [0; 16];
        loopback[15] = 1;
        let v4 = (dns::QUESTION_NAME, dns::A, 0, vec![127, 0, 0, 1]);
        let v6 = (dns::QUESTION_NAME, dns::AAAA, 0, loopback.to_vec());
        match (dns::asked(question).1, now.load(Ordering::SeqCst)) {
            (dns::A, 0 | 1) => dns::answer(question, 0, &[v4]),
            (dns::AAAA, 0 | 2) => dns::answer(question, 0, &[v6]),
            _ => dns::answer(question, dns::REFUSED, &[]),
        }
    });
    let proxy = Proxy::with(|settings| {
        settings.pool("backends", &by_name(address, port)).pool("balance", "\"round-robin\"");
    })
    .await;
    assert_answered_by(&proxy, &["four", "six"]).await;
    let wait_for_questions = || async {
        let before = asked.load(Ordering::SeqCst);
        eventually("more questions", || asked.load(Ordering::SeqCst) > before + 8).await;
    };
    for (failing, family) in [(1, "AAAA"), (2, "A")] {
        stage.store(failing, Ordering::SeqCst);
        let needle = format!("the {family} lookup failed");
        eventually("the failure is reported", || count_lines(&proxy, &needle) == 1).await;
        wait_for_questions().await;
        assert_answered_by(&proxy, &["four", "six"]).await;
        assert_eq!(
            (count_lines(&proxy, PARTLY_UNUSED), count_lines(&proxy, SOURCE_FAILS)),
            (failing, 0)
        );
    }
    // The source fails only if both families fail.
    stage.store(3, Ordering::SeqCst);
    eventually("the source fails", || count_lines(&proxy, SOURCE_FAILS) == 1).await;
    wait_for_questions().await;
    assert_answered_by(&proxy, &["four", "six"]).await;
    task.abort();
    drop((four, six));
    proxy.finish().await;
}

#[tokio::test]
async fn a_start_waits_a_bounded_time_for_a_silent_family_of_many_targets() {
    const TARGETS: u16 = 40;
    let (address, task) = dns::fake_server(|question| match dns::asked(question).1 {
        dns::SRV => {
            let service = |port: u16| {
                let head = [0u16, 1, port + 1].into_iter().flat_map(u16::to_be_bytes);
                let target = format!("\x03t{:02}\x04test\x00", port).into_bytes();
                (dns::QUESTION_NAME, dns::SRV, 0, head.chain(target).collect())
            };
            let services: Vec<_> = (0..TARGETS).map(service).collect();
            dns::answer(question, 0, &services)
        }
        dns::A => {
            let (name, _) = dns::asked(question);
            let last = String::from_utf8_lossy(&name[2..4]).parse::<u8>().unwrap();
            dns::answer(question, 0, &[(dns::QUESTION_NAME, dns::A, 0, vec![127, 0, 1, last + 1])])
        }
        _ => Vec::new(),
    });
    let proxy = Proxy::with(|settings| {
        let source = format!("{{ srv = \"_chat._tcp.test\", resolver = \"{address}\" }}");
        settings.pool("backends", &source).pool("health", "{ probe = \"off\" }");
    })
    .await;
    // The pool has all backends at the start: the first answer arrived in time.
    let pool = proxy.api().get("/v1/pools/app").await;
    let backends = pool["backends"].as_array().unwrap();
    assert_eq!(backends.len(), usize::from(TARGETS), "{}", proxy.stderr_text());
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0);
    task.abort();
    proxy.finish().await;
}
