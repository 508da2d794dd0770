//! Pools whose backends are found: by a real name server whose zone changes, by lists over HTTP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpListener;

use crate::{
    configuration::assert_serves,
    support::{
        Backend, Proxy, Raw, backend,
        dns::{self, NameServer, SAME, ZONE},
        eventually, message,
        proxy::Setup,
        tls::Certificate,
        wait_for, websocket,
    },
};

/// One port on several addresses of the loopback, as the addresses of one name have it.
async fn fleet<const N: usize>(names: [&'static str; N]) -> (u16, [Backend; N]) {
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

/// Says its name to requests, and sends back what comes over a WebSocket.
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

/// The `backends` of a name at this server, asked ten times a second.
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

/// Who answers one request.
async fn answerer(proxy: &Proxy) -> String {
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    if reply.status() == 200 { reply.text() } else { reply.status().to_string() }
}

/// Waits until requests are answered by exactly these, in turns.
pub(crate) async fn assert_answerers(proxy: &Proxy, names: &[&str]) {
    let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
    loop {
        let mut seen = Vec::new();
        for _ in 0..4 * names.len() {
            seen.push(answerer(proxy).await);
        }
        let complete = names.iter().all(|name| seen.iter().any(|seen| seen == name));
        if complete && seen.iter().all(|seen| names.contains(&seen.as_str())) {
            return;
        }
        let said = proxy.stderr_text();
        assert!(tokio::time::Instant::now() < deadline, "{names:?}, not {seen:?}\n{said}");
    }
}

/// How many lines on standard error have this in them.
pub(crate) fn told(proxy: &Proxy, needle: &str) -> usize {
    proxy.stderr().iter().filter(|line| line.contains(needle)).count()
}

pub(crate) const FAILS: &str = "the pool's source fails";
const AGAIN: &str = "the pool's source answers again";

#[tokio::test]
async fn a_name_s_addresses_come_and_go_while_clients_talk() {
    let (port, [a, b, c]) = fleet(["a", "b", "c"]).await;
    let mut server = NameServer::start("chat 0 A 127.0.0.11\nchat 0 A 127.0.0.12").await;
    let proxy = proxy_by_name(server.address, port).await;
    assert_answerers(&proxy, &["a", "b"]).await;

    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(websocket::request("/chat", "")).await;
        assert_eq!(client.response().await.status(), 101);
        clients.push(client);
    }
    // Requests go on all the while, and each has an answer.
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
    assert_answerers(&proxy, &["a", "b", "c"]).await;
    server.set("chat 0 A 127.0.0.12\nchat 0 A 127.0.0.13").await;
    assert_answerers(&proxy, &["b", "c"]).await;
    // Who was on the removed one talks on.
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
    assert_eq!(told(&proxy, FAILS), 0, "{}", proxy.stderr_text());
    proxy.finish().await;
}

#[tokio::test]
async fn both_families_of_a_name_are_backends() {
    let v6 = TcpListener::bind("[::1]:0").await.unwrap();
    let port = v6.local_addr().unwrap().port();
    let v4 = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (six, four) = (Backend::on(v6, node("six")), Backend::on(v4, node("four")));
    let server = NameServer::start("chat 0 A 127.0.0.1\nchat 0 AAAA ::1").await;
    let proxy = proxy_by_name(server.address, port).await;
    assert_answerers(&proxy, &["four", "six"]).await;
    drop((six, four));
    proxy.finish().await;
}

#[tokio::test]
async fn services_bring_targets_ports_and_weights() {
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
    assert_answerers(&proxy, &["a", "b"]).await;
    // A weight of 0 is the least there is; the worse priority is not used.
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(answerer(&proxy).await);
    }
    let count = |name: &str| answers.iter().filter(|answer| *answer == name).count();
    assert_eq!((count("a"), count("b"), count("c")), (6, 2, 0), "{answers:?}");
    // By the names of their targets.
    for name in names.unwrap() {
        proxy.wait_for_log(&name, |line| line["backend"] == name.as_str()).await;
    }
    // A service that moves to another port is another one.
    server
        .set(&format!("{hosts}\n_chat._tcp 0 SRV 10 1 {pa} one\n_chat._tcp 0 SRV 10 1 {pc} two"))
        .await;
    assert_answerers(&proxy, &["a", "c"]).await;
    // One target without an address takes nothing from the others.
    server
        .set(&format!("{hosts}\n_chat._tcp 0 SRV 10 1 {pb} two\n_chat._tcp 0 SRV 10 1 {pc} gone"))
        .await;
    assert_answerers(&proxy, &["b"]).await;
    assert_eq!(told(&proxy, "gone.fleet.test has no address"), 1, "{}", proxy.stderr_text());
    drop((a, b, c));
    proxy.finish().await;
}

/// A name server with a service of two targets, on 127.0.0.11 and 127.0.0.12, which hold for an hour;
/// the second one's address cannot be had while `fails`.
fn half_a_service(port: u16, fails: Arc<AtomicBool>) -> (SocketAddr, tokio::task::AbortHandle) {
    const ONE: &[u8] = b"\x03one\x04test\x00";
    const TWO: &[u8] = b"\x03two\x04test\x00";
    dns::liar(move |question| {
        let service = |target: &[u8]| {
            let head = [0u16, 1, port].into_iter().flat_map(u16::to_be_bytes);
            (SAME, dns::SRV, 3600, head.chain(target.iter().copied()).collect())
        };
        let address = |last| vec![(SAME, dns::A, 3600, vec![127, 0, 0, last])];
        let (name, kind) = dns::asked(question);
        // The resolver may mix cases.
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

const AMISS: &str = "part of the source's answer is not used";

#[tokio::test]
async fn fault_087_a_target_without_an_answer_stays_after_an_upgrade() {
    let (port, [a, b]) = fleet(["a", "b"]).await;
    let fails = Arc::new(AtomicBool::new(false));
    let (server, task) = half_a_service(port, Arc::clone(&fails));
    let mut proxy = proxy_by_service(server).await;
    assert_answerers(&proxy, &["a", "b"]).await;
    fails.store(true, Ordering::SeqCst);
    proxy.upgrade().await;
    proxy.wait_for_stderr("the trouble", |line| line.contains(AMISS)).await;
    assert_answerers(&proxy, &["a", "b"]).await;
    assert_eq!(told(&proxy, "removed"), 0, "{}", proxy.stderr_text());
    task.abort();
    drop((a, b));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_target_without_an_answer_is_asked_for_again_soon() {
    let (port, [a, b]) = fleet(["a", "b"]).await;
    let fails = Arc::new(AtomicBool::new(true));
    let (server, task) = half_a_service(port, Arc::clone(&fails));
    let proxy = proxy_by_service(server).await;
    assert_answerers(&proxy, &["a"]).await;
    // Long before what is known of the others ends.
    fails.store(false, Ordering::SeqCst);
    assert_answerers(&proxy, &["a", "b"]).await;
    assert_eq!(told(&proxy, AMISS), 1, "{}", proxy.stderr_text());
    task.abort();
    drop((a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_087_last_good_addresses_are_kept() {
    let (port, [a, b]) = fleet(["a", "b"]).await;
    let (one, both) = ("chat 0 A 127.0.0.11", "chat 0 A 127.0.0.11\nchat 0 A 127.0.0.12");
    let mut server = NameServer::start(one).await;
    let proxy = proxy_by_name(server.address, port).await;
    assert_answerers(&proxy, &["a"]).await;
    let troubles = [
        ("NXDOMAIN", "other 0 A 127.0.0.12"),
        ("empty", "chat 0 TXT \"no address\""),
        ("alias of itself", "chat 0 CNAME loop\nloop 0 CNAME chat"),
        ("no server's address", "chat 0 A 0.0.0.0\nchat 0 A 224.0.0.1"),
        ("SERVFAIL: too many for any answer", &many(10_000)),
    ];
    let mut rounds = 0;
    for (what, records) in troubles {
        server.set(records).await;
        rounds += 1;
        eventually(what, || told(&proxy, FAILS) == rounds).await;
        assert_answerers(&proxy, &["a"]).await;
        server.set(both).await;
        eventually(what, || told(&proxy, AGAIN) == rounds).await;
        assert_answerers(&proxy, &["a", "b"]).await;
        server.set(one).await;
        assert_answerers(&proxy, &["a"]).await;
    }
    for broken in [false, true] {
        server.kill();
        if broken {
            server.up_broken().await;
        }
        rounds += 1;
        eventually("the server is missed", || told(&proxy, FAILS) == rounds).await;
        assert_answerers(&proxy, &["a"]).await;
        if broken {
            server.kill();
        }
        server.up(both).await;
        assert_answerers(&proxy, &["a", "b"]).await;
        server.set(one).await;
        assert_answerers(&proxy, &["a"]).await;
    }
    drop((a, b));
    proxy.finish().await;
}

/// So many addresses of `chat`, one of which is `a`'s.
fn many(count: usize) -> String {
    let address =
        |n: usize| format!("chat 0 A 127.{}.{}.{}", n / 65_025, n / 255 % 255, n % 255 + 1);
    let mut records = vec!["chat 0 A 127.0.0.11".to_owned()];
    records.extend((1..count).map(|n| address(n + 1000)));
    records.join("\n")
}

#[tokio::test]
async fn of_too_many_addresses_over_tcp_1024_are_taken() {
    let server = NameServer::start(&many(3000)).await;
    let proxy = proxy_by_name(server.address, 9).await;
    proxy
        .wait_for_stderr("the bound", |line| line.contains("only 1024 of 3000 backends are used"))
        .await;
    let up = "moorline_backend_up{";
    proxy.wait_for_metric("1024 backends", up, |count| count == 1024.0).await;
    // Asked again and again, told once.
    let mut rounds = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..3 {
        rounds.tick().await;
    }
    assert_eq!(told(&proxy, "backends are used"), 1);
    assert_eq!(told(&proxy, FAILS), 0);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_087_a_server_that_lies() {
    let (port, [a]) = fleet(["a"]).await;
    let stage = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let (now, count) = (Arc::clone(&stage), Arc::clone(&asked));
    let (address, liar) = dns::liar(move |question| {
        count.fetch_add(1, Ordering::SeqCst);
        let other: &[u8] = b"\x05other\x04test\x00";
        match now.load(Ordering::SeqCst) {
            0 => dns::answer_to(question, &[(SAME, [127, 0, 0, 11])]),
            // Of another name; of nobody; to another question; no message at all.
            1 => dns::answer_to(question, &[(other, [127, 0, 0, 12])]),
            2 => dns::answer_to(question, &[(SAME, [0, 0, 0, 0])]),
            3 => {
                let mut answer = dns::answer_to(question, &[(SAME, [127, 0, 0, 12])]);
                answer[0] ^= 0xff;
                answer
            }
            _ => b"\xff\xff\xff\xff no message".to_vec(),
        }
    });
    let proxy = proxy_by_name(address, port).await;
    assert_answerers(&proxy, &["a"]).await;
    for lie in 1..=4 {
        stage.store(lie, Ordering::SeqCst);
        eventually("the lie is seen", || told(&proxy, FAILS) == lie).await;
        let before = asked.load(Ordering::SeqCst);
        eventually("the server is asked again", || asked.load(Ordering::SeqCst) > before + 2).await;
        assert_eq!(told(&proxy, FAILS), lie, "told once: {}", proxy.stderr_text());
        assert_answerers(&proxy, &["a"]).await;
        stage.store(0, Ordering::SeqCst);
        eventually("it is honest again", || told(&proxy, AGAIN) == lie).await;
    }
    liar.abort();
    drop(a);
    proxy.finish().await;
}

#[tokio::test]
async fn a_start_does_not_wait_for_a_silent_server() {
    let (port, [a]) = fleet(["a"]).await;
    let silent = std::net::UdpSocket::bind(dns::free_port()).unwrap();
    let address = silent.local_addr().unwrap();
    let proxy = proxy_by_name(address, port).await;
    assert_eq!(answerer(&proxy).await, "503");
    drop(silent);
    let mut server = NameServer::down(address);
    server.up("chat 0 A 127.0.0.11").await;
    assert_answerers(&proxy, &["a"]).await;
    drop(a);
    proxy.finish().await;
}

#[tokio::test]
async fn a_reload_changes_where_backends_come_from() {
    let (port, [a, b]) = fleet(["a", "b"]).await;
    let server = NameServer::start("chat 0 A 127.0.0.12").await;
    let mut proxy = Proxy::for_backends(&[a.address]).await;
    assert_serves(&proxy, "a").await;
    proxy
        .reload(|settings| {
            settings.pool("backends", &by_name(server.address, port));
        })
        .await;
    assert_answerers(&proxy, &["b"]).await;
    proxy
        .reload(|settings| {
            settings.backends(&[a.address]);
        })
        .await;
    assert_answerers(&proxy, &["a"]).await;
    drop((a, b));
    proxy.finish().await;
}

/// A list that a test changes, and how often it was asked for.
struct List {
    backend: Backend,
    reply: Arc<Mutex<Vec<u8>>>,
}

impl List {
    async fn start(reply: Vec<u8>) -> Self {
        let reply = Arc::new(Mutex::new(reply));
        let said = Arc::clone(&reply);
        let backend = Backend::answering(move |_| said.lock().unwrap().clone()).await;
        Self { backend, reply }
    }

    fn say(&self, reply: Vec<u8>) {
        *self.reply.lock().unwrap() = reply;
    }

    fn source(&self) -> String {
        let address = self.backend.address;
        format!(
            "{{ http = \"http://{address}/nodes?up\", interval = \"500ms\", timeout = \"500ms\" }}"
        )
    }
}

async fn proxy_by_list(source: &str) -> Proxy {
    Proxy::with(|settings| {
        settings.pool("backends", source).pool("balance", "\"round-robin\"");
    })
    .await
}

#[tokio::test]
async fn a_list_over_http_is_asked_for_again_and_again() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let list = List::start(message::ok(&format!("[\"{}\"]", a.address))).await;
    let proxy = proxy_by_list(&list.source()).await;
    assert_answerers(&proxy, &["a"]).await;
    let request = list.backend.requests()[0].clone();
    assert_eq!(request.target(), "/nodes?up");
    assert_eq!(request.header("host"), Some(list.backend.address.to_string().as_str()));
    list.say(message::ok(&format!(
        "{{\"backends\": [{{\"address\": \"{}\", \"name\": \"second\", \"weight\": 2}}]}}",
        b.address
    )));
    assert_answerers(&proxy, &["b"]).await;
    proxy.wait_for_log("its name", |line| line["backend"] == "second").await;
    // What Consul says of a service; its address is its node's where it has none of its own.
    let consul = format!(
        "[{{\"Node\": {{\"Node\": \"n1\", \"Address\": \"127.0.0.1\"}}, \"Service\": {{\"ID\": \"chat-1\", \
          \"Service\": \"chat\", \"Address\": \"\", \"Port\": {}, \"Weights\": {{\"Passing\": 1}}}}, \
          \"Checks\": []}}]",
        a.address.port()
    );
    list.say(message::ok(&consul));
    assert_answerers(&proxy, &["a"]).await;
    proxy.wait_for_log("its id", |line| line["backend"] == "chat-1@n1").await;
    // The server has nothing new to say.
    list.say(message::reply("200 OK", "ETag: \"v1\"\r\n", &format!("[\"{}\"]", b.address)));
    assert_answerers(&proxy, &["b"]).await;
    list.say(message::reply("304 Not Modified", "ETag: \"v1\"\r\n", ""));
    let asks = |request: &message::Message| request.header("if-none-match") == Some("\"v1\"");
    eventually("it is asked by the tag", || {
        list.backend.requests().iter().filter(|request| asks(request)).count() > 2
    })
    .await;
    assert_answerers(&proxy, &["b"]).await;
    assert_eq!(told(&proxy, FAILS), 0, "{}", proxy.stderr_text());
    drop((a, b, list));
    proxy.finish().await;
}

#[tokio::test]
async fn an_entry_of_a_list_that_cannot_be_used_takes_nothing_from_the_others() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let list = List::start(message::ok(&format!("[\"{}\", 7]", a.address))).await;
    let proxy = proxy_by_list(&list.source()).await;
    assert_answerers(&proxy, &["a"]).await;
    let line = proxy.wait_for_stderr("the trouble", |line| line.contains(AMISS)).await;
    assert!(line.contains("entry 2 is not used"), "{line}");
    list.say(message::ok(&format!("[\"nowhere\", \"{}\", \"{}\"]", a.address, b.address)));
    assert_answerers(&proxy, &["a", "b"]).await;
    assert_eq!(told(&proxy, FAILS), 0, "{}", proxy.stderr_text());
    drop((a, b, list));
    proxy.finish().await;
}

#[tokio::test]
async fn services_behind_an_alias_are_found() {
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
    assert_answerers(&proxy, &["a"]).await;
    // The alias moves, by one more alias.
    server
        .set(&format!(
            "_chat._tcp 0 CNAME _next._tcp\n_next._tcp 0 CNAME _green._tcp\n\
             _green._tcp 0 SRV 10 1 {pb} one\none 0 A 127.0.0.1"
        ))
        .await;
    assert_answerers(&proxy, &["b"]).await;
    assert_eq!(told(&proxy, FAILS), 0, "{}", proxy.stderr_text());
    // An alias of itself ends.
    server.set("_chat._tcp 0 CNAME _loop._tcp\n_loop._tcp 0 CNAME _chat._tcp").await;
    eventually("the loop is reported", || told(&proxy, FAILS) == 1).await;
    assert_answerers(&proxy, &["b"]).await;
    drop((a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_087_a_list_that_fails_changes_nothing() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let (one, other) = (format!("[\"{}\"]", a.address), format!("[\"{}\"]", b.address));
    let list = List::start(message::ok(&one)).await;
    let proxy = proxy_by_list(&list.source()).await;
    assert_answerers(&proxy, &["a"]).await;
    let huge = format!("[\"{}\"{}]", b.address, " ".repeat(1 << 20));
    let elsewhere = format!("Location: http://{}/\r\n", list.backend.address);
    let troubles = [
        (message::reply("500 Oops", "", &other), "expected status 200, got 500"),
        (message::reply("302 Found", &elsewhere, &other), "redirects are not followed"),
        (message::ok(&huge), "longer than 1 MiB"),
        (message::ok("[7, \"127.0.0.1\"]"), "entry 1 is not used"),
        (message::ok("<html>"), "not JSON"),
        (message::ok("[]"), "no backend"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec(), "end of file"),
        (b"no HTTP\r\n\r\n".to_vec(), FAILS),
        (Vec::new(), FAILS),
    ];
    for (rounds, (reply, why)) in troubles.into_iter().enumerate() {
        list.say(reply);
        let line = wait_for(why, || {
            proxy.stderr().into_iter().filter(|line| line.contains(FAILS)).nth(rounds)
        })
        .await;
        assert!(line.contains(why), "{why}: {line}");
        assert_answerers(&proxy, &["a"]).await;
        list.say(message::ok(&one));
        eventually(why, || told(&proxy, AGAIN) == rounds + 1).await;
    }
    drop((a, b, list));
    proxy.finish().await;
}

#[tokio::test]
async fn a_list_that_dribbles_ends_at_the_deadline() {
    let slow = Backend::start(backend::script(|peer| async move {
        if peer.request().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n[").await;
            while !peer.is_ended() {
                peer.send(" ").await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }))
    .await;
    let source = format!("{{ http = \"http://{}/\", interval = \"300ms\" }}", slow.address);
    let proxy = proxy_by_list(&source).await;
    let line = proxy.wait_for_stderr("the failure", |line| line.contains(FAILS)).await;
    assert!(line.contains("no complete answer in time"), "{line}");
    slow.ended(0).await;
    drop(slow);
    proxy.finish().await;
}

#[tokio::test]
async fn ten_thousand_backends_of_a_list_are_bounded() {
    let all: Vec<String> =
        (0..10_000).map(|n| format!("\"127.1.{}.{}:9\"", n / 250, n % 250 + 1)).collect();
    let list = List::start(message::ok(&format!("[{}]", all.join(",")))).await;
    let source = list.source().replace("timeout = \"500ms\"", "timeout = \"5s\"");
    let proxy = proxy_by_list(&source.replace("interval = \"500ms\"", "interval = \"5s\"")).await;
    proxy
        .wait_for_stderr("the bound", |line| line.contains("only 1024 of 10000 backends are used"))
        .await;
    let up = "moorline_backend_up{";
    proxy.wait_for_metric("1024 backends", up, |count| count == 1024.0).await;
    drop(list);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_no_source_leads_to_the_operators_door() {
    let (port, [a]) = fleet(["a"]).await;
    let server = NameServer::start("chat 0 A 127.0.0.11\nchat 0 A 127.0.0.1").await;
    let proxy = Proxy::with(|settings| {
        settings.pool("backends", &by_name(server.address, port));
        settings.top("admin", &format!("\"127.0.0.1:{port}\""));
    })
    .await;
    proxy.wait_for_stderr("the refusal", |line| line.contains("is where `admin` listens")).await;
    assert_answerers(&proxy, &["a"]).await;
    drop(a);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_127_no_name_leads_to_the_operators_door() {
    let a = Backend::start(node("a")).await;
    let door = dns::free_port();
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[a.address]).pool("balance", "\"round-robin\"");
        settings.top("admin", &format!("\"{door}\""));
    })
    .await;
    let refusal = "is where `admin` listens";
    let named = format!("localhost:{}", door.port());
    proxy.command(&["backends", "add", "app", &named]).await.done();
    eventually("it is told", || told(&proxy, refusal) == 1).await;
    assert_no_metrics(&proxy).await;
    // It still is, whatever the file says: where operators are served changes with a restart.
    proxy
        .reload(|settings| {
            let backends = format!("[\"{}\", \"{door}\"]", a.address);
            settings.pool("backends", &backends).top("admin", "\"127.0.0.1:1\"");
        })
        .await;
    eventually("that is told, too", || told(&proxy, refusal) == 2).await;
    assert_no_metrics(&proxy).await;
    // Named again and again, told once.
    for _ in 0..2 {
        proxy.hangup();
    }
    assert_no_metrics(&proxy).await;
    assert_eq!(told(&proxy, refusal), 2, "{}", proxy.stderr_text());
    drop(a);
    proxy.finish().await;
}

async fn assert_no_metrics(proxy: &Proxy) {
    for _ in 0..12 {
        let reply = Raw::ask(proxy.web(), message::get("/metrics", "Connection: close\r\n")).await;
        assert!(!reply.text().contains("moorline_"), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_list_over_https_needs_a_certificate_that_the_system_trusts() {
    let a = Backend::start(node("a")).await;
    let list = List::start(message::ok(&format!("[\"{}\"]", a.address))).await;
    // A proxy of our own serves the list over TLS.
    let setup = Setup::new();
    let certificate = Certificate::make(setup.directory(), "localhost");
    let setting = certificate.setting();
    let front = setup
        .with(|settings| {
            settings.backends(&[list.backend.address]);
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {setting}\n"
            ));
        })
        .start()
        .await;
    let port = front.listener("secure").port();
    let source = format!("{{ http = \"https://localhost:{port}/nodes\", interval = \"300ms\" }}");
    let trusting = Setup::new().env("SSL_CERT_FILE", certificate.cert.display().to_string());
    let trusting = trusting.with(|settings| {
        settings.pool("backends", &source);
    });
    let trusting = trusting.start().await;
    assert_answerers(&trusting, &["a"]).await;
    trusting.finish().await;
    let wary = proxy_by_list(&source).await;
    let line = wary.wait_for_stderr("the refusal", |line| line.contains(FAILS)).await;
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(answerer(&wary).await, "503");
    wary.finish().await;
    drop((a, list));
    front.finish().await;
}
