//! Pools whose backends come from DNS: a real name server whose zone changes, and a fake one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpListener;

use crate::{
    configuration::assert_serves,
    support::{
        Backend, Proxy, Raw, backend,
        dns::{self, NameServer, QUESTION_NAME, ZONE},
        eventually, message, websocket,
    },
};

/// Starts backends on one port of several loopback addresses, like the addresses of one name.
pub(crate) async fn backends_on_one_port<const N: usize>(
    names: [&'static str; N],
) -> (u16, [Backend; N]) {
    'port: loop {
        let first = TcpListener::bind("127.0.0.11:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut listeners = vec![first];
        for host in 12..11 + N {
            match TcpListener::bind((Ipv4Addr::new(127, 0, 0, host as u8), port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'port,
            }
        }
        let mut listeners = listeners.into_iter();
        return (port, names.map(|name| Backend::on(listeners.next().unwrap(), node(name))));
    }
}

/// A backend script: answers requests with its name and echoes WebSocket bytes.
pub(crate) fn node(name: &'static str) -> backend::Script {
    backend::script(move |peer| async move {
        while let Some(request) = peer.head().await {
            if request.header("upgrade").is_none() {
                peer.send(message::ok(name)).await;
                continue;
            }
            peer.send(websocket::switching(&request)).await;
            let mut sent = 0;
            while !peer.is_ended() {
                let rest = peer.rest();
                if rest.len() > sent {
                    peer.send(&rest[sent..]).await;
                    sent = rest.len();
                } else {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    })
}

/// A `dns` source with this resolver and a short interval.
pub(crate) fn by_name(server: SocketAddr, port: u16) -> String {
    format!(
        "{{ dns = \"chat.{ZONE}:{port}\", resolver = \"{server}\", min_ttl = \"100ms\", \
         max_ttl = \"200ms\" }}"
    )
}

async fn proxy_by_name(server: SocketAddr, port: u16) -> Proxy {
    Proxy::with(|settings| {
        settings.pool("backends", &by_name(server, port)).pool("balance", "\"round-robin\"");
        settings.top("drain", "\"1s\"");
    })
    .await
}

/// Sends a request. Returns the name of the backend that answers, or the error status.
pub(crate) async fn answering_backend(proxy: &Proxy) -> String {
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    if reply.status() == 200 { reply.text() } else { reply.status().to_string() }
}

/// Waits until requests are answered by all of these backends and by no other.
pub(crate) async fn assert_answered_by(proxy: &Proxy, names: &[&str]) {
    let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
    loop {
        let mut seen = Vec::new();
        for _ in 0..4 * names.len() {
            seen.push(answering_backend(proxy).await);
        }
        let complete = names.iter().all(|name| seen.iter().any(|seen| seen == name));
        if complete && seen.iter().all(|seen| names.contains(&seen.as_str())) {
            return;
        }
        let stderr = proxy.stderr_text();
        assert!(tokio::time::Instant::now() < deadline, "{names:?}, not {seen:?}\n{stderr}");
    }
}

/// Number of lines on standard error that contain `needle`.
pub(crate) fn count_lines(proxy: &Proxy, needle: &str) -> usize {
    proxy.stderr().iter().filter(|line| line.contains(needle)).count()
}

pub(crate) const SOURCE_FAILS: &str = "the pool's source fails";
pub(crate) const SOURCE_RECOVERS: &str = "the pool's source answers again";

#[tokio::test]
async fn changed_addresses_of_a_name_do_not_disturb_clients() {
    let (port, [a, b, c]) = backends_on_one_port(["a", "b", "c"]).await;
    let mut server = NameServer::start("chat 0 A 127.0.0.11\nchat 0 A 127.0.0.12").await;
    let proxy = proxy_by_name(server.address, port).await;
    assert_answered_by(&proxy, &["a", "b"]).await;

    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(websocket::request("/chat", "")).await;
        assert_eq!(client.response().await.status(), 101);
        clients.push(client);
    }
    // Requests continue during the changes, and each succeeds.
    let (web, failures) = (proxy.web(), Arc::new(Mutex::new(Vec::new())));
    let (noted, asked) = (Arc::clone(&failures), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    let load = tokio::spawn(async move {
        loop {
            let reply = Raw::ask(web, message::get("/load", "Connection: close\r\n")).await;
            if reply.status() != 200 {
                noted.lock().unwrap().push(reply.status());
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });

    server.set("chat 0 A 127.0.0.11\nchat 0 A 127.0.0.12\nchat 0 A 127.0.0.13").await;
    assert_answered_by(&proxy, &["a", "b", "c"]).await;
    server.set("chat 0 A 127.0.0.12\nchat 0 A 127.0.0.13").await;
    assert_answered_by(&proxy, &["b", "c"]).await;
    // Tunnels to the removed backend continue.
    for client in &mut clients {
        client.send("still here").await;
        assert_eq!(client.exact(10).await, b"still here");
    }
    let before = asked.load(Ordering::Relaxed);
    eventually("more load", || asked.load(Ordering::Relaxed) > before + 5).await;
    load.abort();
    assert_eq!(*failures.lock().unwrap(), [0u16; 0]);
    let tunnels = [&a, &b, &c]
        .map(|node| node.requests().iter().filter(|request| request.target() == "/chat").count());
    assert_eq!(tunnels, [4, 4, 0]);
    drop((clients, a, b, c));
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    proxy.finish().await;
}

#[tokio::test]
async fn ipv4_and_ipv6_addresses_of_a_name_are_backends() {
    let v6 = TcpListener::bind("[::1]:0").await.unwrap();
    let port = v6.local_addr().unwrap().port();
    let v4 = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (six, four) = (Backend::on(v6, node("six")), Backend::on(v4, node("four")));
    let server = NameServer::start("chat 0 A 127.0.0.1\nchat 0 AAAA ::1").await;
    let proxy = proxy_by_name(server.address, port).await;
    assert_answered_by(&proxy, &["four", "six"]).await;
    drop((six, four));
    proxy.finish().await;
}

pub(crate) const PARTLY_UNUSED: &str = "part of the source's answer is not used";

#[tokio::test]
async fn fault_087_last_good_addresses_are_kept() {
    let (port, [a, b]) = backends_on_one_port(["a", "b"]).await;
    let (one, both) = ("chat 0 A 127.0.0.11", "chat 0 A 127.0.0.11\nchat 0 A 127.0.0.12");
    let mut server = NameServer::start(one).await;
    let proxy = proxy_by_name(server.address, port).await;
    assert_answered_by(&proxy, &["a"]).await;
    let failures = [
        ("NXDOMAIN", "other 0 A 127.0.0.12"),
        ("empty", "chat 0 TXT \"no address\""),
        ("alias of itself", "chat 0 CNAME loop\nloop 0 CNAME chat"),
        ("unusable addresses", "chat 0 A 0.0.0.0\nchat 0 A 224.0.0.1"),
        ("SERVFAIL: too many records for one answer", &many(10_000)),
    ];
    let mut rounds = 0;
    for (what, records) in failures {
        server.set(records).await;
        rounds += 1;
        eventually(what, || count_lines(&proxy, SOURCE_FAILS) == rounds).await;
        assert_answered_by(&proxy, &["a"]).await;
        server.set(both).await;
        eventually(what, || count_lines(&proxy, SOURCE_RECOVERS) == rounds).await;
        assert_answered_by(&proxy, &["a", "b"]).await;
        server.set(one).await;
        assert_answered_by(&proxy, &["a"]).await;
    }
    for broken in [false, true] {
        server.kill();
        if broken {
            server.up_broken().await;
        }
        rounds += 1;
        eventually("the source fails", || count_lines(&proxy, SOURCE_FAILS) == rounds).await;
        assert_answered_by(&proxy, &["a"]).await;
        if broken {
            server.kill();
        }
        server.up(both).await;
        assert_answered_by(&proxy, &["a", "b"]).await;
        server.set(one).await;
        assert_answered_by(&proxy, &["a"]).await;
    }
    drop((a, b));
    proxy.finish().await;
}

/// Records with `count` addresses of `chat`, one of which is the address of backend `a`.
fn many(count: usize) -> String {
    let address =
        |n: usize| format!("chat 0 A 127.{}.{}.{}", n / 65_025, n / 255 % 255, n % 255 + 1);
    let mut records = vec!["chat 0 A 127.0.0.11".to_owned()];
    records.extend((1..count).map(|n| address(n + 1000)));
    records.join("\n")
}

#[tokio::test]
async fn at_most_1024_addresses_of_a_name_are_used() {
    let server = NameServer::start(&many(3000)).await;
    let proxy = proxy_by_name(server.address, 9).await;
    proxy
        .wait_for_stderr("the limit", |line| line.contains("only 1024 of 3000 backends are used"))
        .await;
    let up = "moorline_backend_up{";
    proxy.wait_for_metric("1024 backends", up, |count| count == 1024.0).await;
    // Further queries do not repeat the warning.
    let mut rounds = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..3 {
        rounds.tick().await;
    }
    assert_eq!(count_lines(&proxy, "backends are used"), 1);
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_087_answers_that_do_not_match_the_question() {
    let (port, [a]) = backends_on_one_port(["a"]).await;
    let stage = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let (now, count) = (Arc::clone(&stage), Arc::clone(&asked));
    let (address, fake_server) = dns::fake_server(move |question| {
        count.fetch_add(1, Ordering::SeqCst);
        let other: &[u8] = b"\x05other\x04test\x00";
        match now.load(Ordering::SeqCst) {
            0 => dns::answer_with_addresses(question, &[(QUESTION_NAME, [127, 0, 0, 11])]),
            // Wrong answers: another name, no usable address, another query id, not a DNS message.
            1 => dns::answer_with_addresses(question, &[(other, [127, 0, 0, 12])]),
            2 => dns::answer_with_addresses(question, &[(QUESTION_NAME, [0, 0, 0, 0])]),
            3 => {
                let mut answer =
                    dns::answer_with_addresses(question, &[(QUESTION_NAME, [127, 0, 0, 12])]);
                answer[0] ^= 0xff;
                answer
            }
            _ => b"\xff\xff\xff\xff no message".to_vec(),
        }
    });
    let proxy = proxy_by_name(address, port).await;
    assert_answered_by(&proxy, &["a"]).await;
    for wrong in 1..=4 {
        stage.store(wrong, Ordering::SeqCst);
        eventually("the source fails", || count_lines(&proxy, SOURCE_FAILS) == wrong).await;
        let before = asked.load(Ordering::SeqCst);
        eventually("more queries", || asked.load(Ordering::SeqCst) > before + 2).await;
        assert_eq!(
            count_lines(&proxy, SOURCE_FAILS),
            wrong,
            "logged once: {}",
            proxy.stderr_text()
        );
        assert_answered_by(&proxy, &["a"]).await;
        stage.store(0, Ordering::SeqCst);
        eventually("the source recovers", || count_lines(&proxy, SOURCE_RECOVERS) == wrong).await;
    }
    fake_server.abort();
    drop(a);
    proxy.finish().await;
}

#[tokio::test]
async fn a_start_does_not_wait_for_a_silent_server() {
    let (port, [a]) = backends_on_one_port(["a"]).await;
    let silent = std::net::UdpSocket::bind(dns::free_port()).unwrap();
    let address = silent.local_addr().unwrap();
    let proxy = proxy_by_name(address, port).await;
    assert_eq!(answering_backend(&proxy).await, "503");
    drop(silent);
    let mut server = NameServer::down(address);
    server.up("chat 0 A 127.0.0.11").await;
    assert_answered_by(&proxy, &["a"]).await;
    drop(a);
    proxy.finish().await;
}

#[tokio::test]
async fn a_reload_changes_the_source_of_backends() {
    let (port, [a, b]) = backends_on_one_port(["a", "b"]).await;
    let server = NameServer::start("chat 0 A 127.0.0.12").await;
    let mut proxy = Proxy::for_backends(&[a.address]).await;
    assert_serves(&proxy, "a").await;
    proxy
        .reload(|settings| {
            settings.pool("backends", &by_name(server.address, port));
        })
        .await;
    assert_answered_by(&proxy, &["b"]).await;
    proxy
        .reload(|settings| {
            settings.backends(&[a.address]);
        })
        .await;
    assert_answered_by(&proxy, &["a"]).await;
    drop((a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_a_source_cannot_add_the_admin_listener() {
    let (port, [a]) = backends_on_one_port(["a"]).await;
    let server = NameServer::start("chat 0 A 127.0.0.11\nchat 0 A 127.0.0.1").await;
    let proxy = Proxy::with(|settings| {
        settings.pool("backends", &by_name(server.address, port));
        settings.top("admin", &format!("\"127.0.0.1:{port}\""));
    })
    .await;
    proxy.wait_for_stderr("the refusal", |line| line.contains("is an address of `admin`")).await;
    assert_answered_by(&proxy, &["a"]).await;
    drop(a);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_a_name_cannot_resolve_to_the_admin_listener() {
    let a = Backend::start(node("a")).await;
    let admin = dns::free_port();
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[a.address]).pool("balance", "\"round-robin\"");
        settings.top("admin", &format!("\"{admin}\""));
    })
    .await;
    let refusal = "is an address of `admin`";
    let named = format!("localhost:{}", admin.port());
    proxy.command(&["backends", "add", "app", &named]).await.done();
    eventually("the refusal is logged", || count_lines(&proxy, refusal) == 1).await;
    assert_no_metrics(&proxy).await;
    // The old address still counts: `admin` changes only with a restart.
    proxy
        .reload(|settings| {
            let backends = format!("[\"{}\", \"{admin}\"]", a.address);
            settings.pool("backends", &backends).top("admin", "\"127.0.0.1:1\"");
        })
        .await;
    eventually("the second refusal is logged", || count_lines(&proxy, refusal) == 2).await;
    assert_no_metrics(&proxy).await;
    // Further reloads do not repeat the message.
    for _ in 0..2 {
        proxy.hangup();
    }
    assert_no_metrics(&proxy).await;
    assert_eq!(count_lines(&proxy, refusal), 2, "{}", proxy.stderr_text());
    drop(a);
    proxy.finish().await;
}

async fn assert_no_metrics(proxy: &Proxy) {
    for _ in 0..12 {
        let reply = Raw::ask(proxy.web(), message::get("/metrics", "Connection: close\r\n")).await;
        assert!(!reply.text().contains("moorline_"), "{}", reply.text());
    }
}
