//! Sessions of nodes that are hung, slow, unreachable, back again, or dead.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{
    Backend, Blackhole, Message, Node, Proxy, Raw, backend, eventually, message,
    node::{handshake, poll, poll_target},
    pair::Pair,
    websocket,
};

/// A probe that detects a hung node at once.
const HTTP_PROBE: &str =
    "{ probe = \"http\", interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 1 }";

const RETRIES: &str = "moorline_retries_total";

/// `moorline_backend_up` of one node.
fn up(node: &Node) -> String {
    format!("moorline_backend_up{{pool=\"app\",backend=\"{}\"}}", node.backend.address)
}

fn assert_code_1(reply: &Message) {
    assert_eq!(reply.status(), 400, "{}", reply.text());
    assert!(reply.text().contains("\"code\":1"), "{}", reply.text());
    assert!(reply.header("access-control-allow-origin").is_some(), "a browser cannot read it");
}

fn post(sid: &str, t: &str) -> Vec<u8> {
    message::post(&poll_target(sid, t), "Origin: http://app.test\r\n", "42[\"emit\"]")
}

#[tokio::test]
async fn known_sessions_wait_for_a_hung_node_that_is_down() {
    let pair = Pair::with(|settings| {
        settings.pool("health", HTTP_PROBE);
    })
    .await;
    let (polls, upgrades) = (pair.session_on("a").await, pair.session_on("a").await);
    let other = pair.session_on("b").await;
    pair.a.hang();
    pair.proxy.wait_for_metric("the hung node is down", &up(&pair.a), |up| up == 0.0).await;
    // A poll, a POST and an upgrade, each on a new connection.
    let mut waiting = [pair.client().await, pair.client().await, pair.client().await];
    let upgrade = format!("/socket.io/?EIO=4&transport=websocket&sid={}", upgrades.sid);
    waiting[0].send(message::get(&poll_target(&polls.sid, "poll"), "")).await;
    waiting[1].send(post(&polls.sid, "post")).await;
    waiting[2].send(websocket::request(&upgrade, "")).await;
    let arrived =
        || pair.a.request_count(&polls.sid) == 2 && pair.a.request_count(&upgrades.sid) == 1;
    eventually("all of them are at the hung node", arrived).await;
    // The other node is not affected, and gets the new sessions.
    let mut client = pair.client().await;
    assert_eq!(poll(&mut client, &other.sid, "other", "").await.status(), 200);
    for session in pair.spread("new", "").await {
        assert_eq!(session.node, "b");
    }
    pair.a.wake();
    for (client, status) in waiting.iter_mut().zip([200, 200, 101]) {
        let reply = client.response().await;
        assert_eq!(reply.status(), status, "{}", reply.text());
    }
    assert_eq!(
        (pair.a.request_count(&polls.sid), pair.a.request_count(&upgrades.sid)),
        (2, 1),
        "sent once each"
    );
    drop((client, waiting));
    pair.finish().await;
}

#[tokio::test]
async fn a_known_session_is_served_by_a_node_with_failing_health_checks() {
    // The health endpoint returns 503, but the sessions work.
    let node = Backend::answering(|request| match request.target() {
        "/healthz" => message::reply("503 Service Unavailable", "", ""),
        target if target.contains("sid=") => message::ok("6"),
        _ => message::ok("0{\"sid\":\"well\",\"pingInterval\":25000,\"pingTimeout\":20000}"),
    })
    .await;
    let health = HTTP_PROBE.replace("\"http\"", "\"http\", path = \"/healthz\"");
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[node.address]).pool("health", "{ probe = \"off\" }");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "open", "").await;
    proxy
        .reload(|settings| {
            settings.pool("health", &health);
        })
        .await;
    proxy.wait_for_metric("the node is down", "moorline_backend_up", |up| up == 0.0).await;
    for n in 0..3 {
        let reply = poll(&mut client, &session.sid, &format!("poll{n}"), "").await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_of_a_dead_node_are_ended_at_once() {
    for probe in ["{ probe = \"off\" }", HTTP_PROBE] {
        let pair = Pair::with(|settings| {
            // A kept connection that the node closes as it dies would fail the request on it.
            settings.pool("health", probe).pool("reuse", "{ max_idle = 0 }");
        })
        .await;
        let (first, second) = (pair.session_on("a").await, pair.session_on("a").await);
        let Pair { a, b, proxy } = pair;
        let is_up = up(&a);
        drop(a);
        let mut client = Raw::connect(proxy.web()).await;
        // Far below the 45 s that the session would live: the client's patience is shorter.
        let origin = "Origin: http://app.test\r\n";
        assert_code_1(&poll(&mut client, &first.sid, "first", origin).await);
        if probe == HTTP_PROBE {
            proxy.wait_for_metric("the dead node is down", &is_up, |up| up == 0.0).await;
        }
        client.send(post(&second.sid, "second")).await;
        assert_code_1(&client.response().await);
        drop((client, b));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn sessions_of_an_unreachable_node_wait_until_it_is_back() {
    let pair = Pair::with(|settings| {
        settings.pool("health", HTTP_PROBE).timeouts("connect = \"200ms\"");
    })
    .await;
    let sessions = [pair.session_on("a").await, pair.session_on("a").await];
    let Pair { a, b, proxy } = pair;
    let (is_up, node_sessions, address) = (up(&a), a.sessions(), a.backend.address);
    drop(a);
    let hole = Blackhole::at(address).await;
    proxy.wait_for_metric("the node is down", &is_up, |up| up == 0.0).await;
    let mut waiting = [Raw::connect(proxy.web()).await, Raw::connect(proxy.web()).await];
    waiting[0].send(message::get(&poll_target(&sessions[0].sid, "poll"), "")).await;
    waiting[1].send(post(&sessions[1].sid, "post")).await;
    // Longer than one connect may take, so that each of them has to be tried again.
    proxy.wait_for_metric("connects are tried again", RETRIES, |retries| retries >= 4.0).await;
    let a = Node::restart(&node_sessions, hole.accept_again());
    for client in &mut waiting {
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("a")), "{}", reply.text());
    }
    assert_eq!(
        (a.request_count(&sessions[0].sid), a.request_count(&sessions[1].sid)),
        (1, 1),
        "sent once each"
    );
    drop((waiting, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_ends_when_its_node_is_silent_for_longer_than_its_lifetime() {
    let lifetime = Duration::from_millis(900);
    let a = Node::with_ping("a", (500, 400), "").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[a.backend.address]).timeouts("connect = \"200ms\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "open", "").await;
    let address = a.backend.address;
    drop(a);
    let hole = Blackhole::at(address).await;
    let started = Instant::now();
    let origin = "Origin: http://app.test\r\n";
    assert_code_1(&poll(&mut client, &session.sid, "poll", origin).await);
    assert!(started.elapsed() >= lifetime, "given up after {:?}", started.elapsed());
    drop((client, hole));
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_wait_for_an_unreachable_node() {
    let a = Node::start("a").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[a.backend.address]).timeouts("connect = \"200ms\"");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "open", "").await;
    let (node_sessions, address) = (a.sessions(), a.backend.address);
    drop(a);
    let hole = Blackhole::at(address).await;
    let mut leaving = Raw::connect(proxy.web()).await;
    leaving.send(post(&session.sid, "leaves")).await;
    proxy.wait_for_metric("a connect is tried again", RETRIES, |retries| retries >= 1.0).await;
    leaving.finish().await;
    let left = |line: &Value| line["path"].as_str().is_some_and(|path| path.contains("t=leaves"));
    let line = proxy.wait_for_log("the line of the client that left", left).await;
    assert!(line["termination"].as_str().unwrap().starts_with("client_"), "{line}");
    let a = Node::restart(&node_sessions, hole.accept_again());
    assert_eq!(poll(&mut client, &session.sid, "stays", "").await.status(), 200);
    assert_eq!(a.request_count(&session.sid), 1, "the POST of the client that left was sent");
    drop((client, leaving, a));
    proxy.finish().await;
}

#[tokio::test]
async fn connects_that_time_out_together_count_once() {
    let live = Backend::replying("ok").await;
    let address = live.address;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[address]).timeouts("connect = \"400ms\"");
        settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 3 }");
    })
    .await;
    eventually("the first probe", || live.connections() > 0).await;
    drop(live);
    let hole = Blackhole::at(address).await;
    let web = proxy.web();
    let mut together = JoinSet::new();
    (0..20).for_each(|_| drop(together.spawn(Raw::ask(web, message::get("/", "")))));
    while let Some(reply) = together.join_next().await {
        assert_eq!(reply.unwrap().status(), 504);
    }
    assert_eq!(proxy.metric("moorline_backend_up").await, 1.0, "20 at once took it down");
    for _ in 0..2 {
        assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 504);
    }
    proxy.wait_for_metric("the third failure", "moorline_backend_up", |up| up == 0.0).await;
    drop(hole);
    proxy.finish().await;
}

/// A backend that closes each connection, without a word, once it has been idle for this long; and how
/// many it has closed.
async fn impatient(limit: Duration) -> (Backend, Arc<AtomicUsize>) {
    let closes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closes);
    let script = backend::script(move |peer| {
        let count = Arc::clone(&count);
        async move {
            while let Ok(Some(request)) = tokio::time::timeout(limit, peer.request()).await {
                let open = "0{\"sid\":\"one\",\"pingInterval\":25000,\"pingTimeout\":20000}";
                let is_known = request.target().contains("sid=");
                peer.send(message::ok(if is_known { "ok" } else { open })).await;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (Backend::start(script).await, closes)
}

/// Sends emits of a session in rounds, all of a round at once, so that each leaves an idle connection. From
/// one round to the next those become as old as the backend lets them, give or take `spread`.
/// Returns how many emits failed.
async fn timed_emits(
    web: SocketAddr,
    emits_at_once: usize,
    (limit, spread): (Duration, Duration),
) -> usize {
    let mut clients = Vec::new();
    for _ in 0..emits_at_once {
        clients.push(Raw::connect(web).await);
    }
    let mut lost = 0;
    for round in 0..ROUNDS {
        let mut emits = JoinSet::new();
        for mut client in clients.drain(..) {
            emits.spawn(async move {
                client.send(post("one", "emit")).await;
                let answered = client.response().await.status() == 200;
                (client, answered)
            });
        }
        while let Some(done) = emits.join_next().await {
            let (client, answered) = done.unwrap();
            lost += usize::from(!answered);
            clients.push(client);
        }
        tokio::time::sleep(limit - spread + 2 * spread * round / ROUNDS).await;
    }
    lost
}

const ROUNDS: u32 = 12;

/// A proxy in front of an impatient backend that has opened the session.
async fn before_impatient(node: &Backend, reuse: &str) -> Proxy {
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.address]).pool("reuse", reuse);
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    assert_eq!(handshake(&mut client, "open", "").await.sid, "one");
    proxy
}

#[tokio::test]
async fn no_emit_meets_the_close_of_a_backend_that_closes_idle_connections() {
    // As gunicorn does, by default; once with the default settings, once with what is meant for a Node.
    let times = (Duration::from_secs(2), Duration::from_millis(60));
    let (node, _) = impatient(times.0).await;
    let default = before_impatient(&node, "{}").await;
    let longer = before_impatient(&node, "{ idle_timeout = \"4s\" }").await;
    let (webs, emits) = ([default.web(), longer.web()], |web| timed_emits(web, 200, times));
    assert_eq!(tokio::join!(emits(webs[0]), emits(webs[1])), (0, 0), "emits lost");
    drop(node);
    default.finish().await;
    longer.finish().await;
}

#[tokio::test]
async fn the_idle_limit_of_a_backend_is_learned_from_its_closes() {
    let limit = Duration::from_millis(600);
    let (node, closes) = impatient(limit).await;
    let proxy = before_impatient(&node, "{ idle_timeout = \"4s\" }").await;
    // Two closes show the limit: each of the requests leaves an idle connection to be closed.
    for n in 1..=2 {
        eventually("an idle connection is closed", || closes.load(Ordering::SeqCst) >= n).await;
        assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 200);
    }
    let lost = timed_emits(proxy.web(), 40, (limit, Duration::from_millis(60))).await;
    assert_eq!(lost, 0);
    drop(node);
    proxy.finish().await;
}

/// A tunnel of a session that polled first, on the node of this name.
async fn tunnel_by(pair: &Pair, node: &str) -> Raw {
    let session = pair.session_on(node).await;
    let mut client = pair.client().await;
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={}", session.sid);
    client.send(websocket::request(&target, "")).await;
    assert_eq!(client.response().await.status(), 101);
    client
}

/// Two nodes with this setting for tunnels, and a probe that a hung node fails.
async fn pair_with(on_down: &str) -> Pair {
    Pair::with(|settings| {
        settings.pool("health", HTTP_PROBE).pool("on_down", on_down);
    })
    .await
}

#[tokio::test]
async fn tunnels_of_a_node_that_is_down_are_closed_if_the_pool_is_set_to() {
    let pair = pair_with("{ close = \"400ms\" }").await;
    let session = pair.session_on("a").await;
    let (mut hung, mut other) = (Vec::new(), tunnel_by(&pair, "b").await);
    for _ in 0..4 {
        hung.push(tunnel_by(&pair, "a").await);
    }
    pair.a.hang();
    let close = websocket::close("backend down");
    for client in &mut hung {
        assert_eq!(client.exact(close.len()).await, close);
        client.send(websocket::CLOSE_REPLY).await;
        client.assert_closed().await;
    }
    let down = |line: &Value| line["termination"] == "backend_down";
    pair.proxy.wait_for_log("a closed tunnel's line", down).await;
    // The other node's tunnel stays, and so does the hung node's polling session.
    other.send("still").await;
    eventually("the tunnel's bytes at the node", || pair.b.backend.saw("still")).await;
    let mut client = pair.client().await;
    client.send(message::get(&poll_target(&session.sid, "poll"), "")).await;
    eventually("the poll is at the hung node", || pair.a.request_count(&session.sid) == 1).await;
    pair.a.wake();
    assert_eq!(client.response().await.status(), 200);
    drop((client, hung, other));
    pair.finish().await;
}

#[tokio::test]
async fn closing_the_tunnels_of_a_node_stops_when_the_node_is_up_again() {
    let pair = pair_with("{ close = \"20s\" }").await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(tunnel_by(&pair, "a").await);
    }
    pair.a.hang();
    let down = |line: &str| line.contains("closing its tunnels");
    pair.proxy.wait_for_stderr("closes begin", down).await;
    pair.proxy.wait_for_metric("the node is down", &up(&pair.a), |up| up == 0.0).await;
    pair.a.wake();
    pair.proxy.wait_for_metric("the node is up", &up(&pair.a), |up| up == 1.0).await;
    // Most of them have not had their turn, and can still be used.
    for (n, client) in clients.iter_mut().enumerate() {
        client.try_send(format!("still-{n:02}")).await;
    }
    let used = |n: &usize| pair.a.backend.saw(format!("still-{n:02}"));
    eventually("half of the tunnels are still used", || (0..40).filter(used).count() > 20).await;
    drop(clients);
    pair.finish().await;
}

#[tokio::test]
async fn tunnels_of_a_node_that_is_down_are_kept_by_default() {
    let pair = pair_with("\"keep\"").await;
    let mut client = tunnel_by(&pair, "a").await;
    pair.a.hang();
    pair.proxy.wait_for_metric("the node is down", &up(&pair.a), |up| up == 0.0).await;
    client.send("during").await;
    pair.a.wake();
    pair.proxy.wait_for_metric("the node is up", &up(&pair.a), |up| up == 1.0).await;
    client.send("after").await;
    eventually("the tunnel's bytes at the node", || pair.a.backend.saw("duringafter")).await;
    drop(client);
    pair.finish().await;
}

/// A node that closes connections which were idle for two seconds, as its answers say; it reads nothing
/// while it hangs, and what it was sent meanwhile on an idle connection it never reads.
struct Idler {
    backend: Backend,
    hung: Arc<AtomicBool>,
    /// POSTs that were read.
    read: Arc<AtomicUsize>,
    /// Idle connections that stand still.
    parked: Arc<AtomicUsize>,
}

impl Idler {
    async fn start(announces: bool) -> Self {
        let hung = Arc::new(AtomicBool::new(false));
        let (read, parked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = (Arc::clone(&hung), Arc::clone(&read), Arc::clone(&parked));
        let fields = if announces { "Keep-Alive: timeout=2\r\n" } else { "" };
        let script = backend::script(move |peer| {
            let (hung, read, parked) =
                (Arc::clone(&shared.0), Arc::clone(&shared.1), Arc::clone(&shared.2));
            async move {
                let mut is_idle = false;
                while !peer.is_ended() {
                    if hung.load(Ordering::SeqCst) {
                        parked.fetch_add(usize::from(is_idle), Ordering::SeqCst);
                        while hung.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        // Its timers come before its sockets.
                        if is_idle {
                            return peer.reset();
                        }
                    }
                    let next = tokio::time::timeout(Duration::from_millis(10), peer.request());
                    let Ok(Some(request)) = next.await else { continue };
                    let is_post = request.method() == "POST";
                    read.fetch_add(usize::from(is_post), Ordering::SeqCst);
                    let open = "0{\"sid\":\"one\",\"pingInterval\":25000,\"pingTimeout\":20000}";
                    let text = if is_post { "ok" } else { open };
                    peer.send(message::reply("200 OK", fields, text)).await;
                    is_idle = true;
                }
            }
        });
        Self { backend: Backend::start(script).await, hung, read, parked }
    }

    /// Sends an emit on an idle connection at the begin of a hang, and returns its result.
    async fn emit_into_a_hang(&self, proxy: &Proxy, hang: Duration) -> u16 {
        let mut client = Raw::connect(proxy.web()).await;
        assert_eq!(handshake(&mut client, "open", "").await.sid, "one");
        self.hung.store(true, Ordering::SeqCst);
        eventually("the node hangs", || self.parked.load(Ordering::SeqCst) > 0).await;
        let connections = self.backend.connections();
        client.send(post("one", "emit")).await;
        eventually("the emit is at the node", || self.backend.saw("emit\"]")).await;
        assert_eq!(self.backend.connections(), connections, "it was sent on a kept connection");
        tokio::time::sleep(hang).await;
        self.hung.store(false, Ordering::SeqCst);
        client.response().await.status()
    }
}

#[tokio::test]
async fn an_emit_that_a_hung_node_has_closed_unread_is_sent_again() {
    let node = Idler::start(true).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
    })
    .await;
    assert_eq!(node.emit_into_a_hang(&proxy, Duration::from_secs(4)).await, 200);
    assert_eq!(node.read.load(Ordering::SeqCst), 1, "read once");
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn an_emit_that_a_node_may_have_read_is_not_sent_again() {
    // The node has closed the connection before it could count as idle, or does not say when it would.
    for (announces, hang) in [(true, 300), (false, 4_000)] {
        let node = Idler::start(announces).await;
        let proxy = Proxy::with(|settings| {
            settings.backends(&[node.backend.address]);
        })
        .await;
        assert_eq!(node.emit_into_a_hang(&proxy, Duration::from_millis(hang)).await, 502);
        assert_eq!(node.read.load(Ordering::SeqCst), 0);
        drop(node);
        proxy.finish().await;
    }
}
