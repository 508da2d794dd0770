//! Requests on idle connections that the backend closes at the same time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::post;
use crate::support::{
    Backend, Proxy, Raw, backend, eventually,
    message::{self, Message},
    node::handshake,
};

/// A backend that closes connections after this idle time without announcing it, and the number of connections
/// closed so far.
async fn closing_when_idle(limit: Duration) -> (Backend, Arc<AtomicUsize>) {
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

/// Sends emits of a session in rounds, all of one round at once, so that each leaves an idle connection. The
/// next round follows after the idle limit of the backend, plus or minus `spread`.
/// Returns the number of failed emits.
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

/// A proxy with these `reuse` settings, and an open session on the backend.
async fn proxy_with_session(node: &Backend, reuse: &str) -> Proxy {
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.address]).pool("reuse", reuse);
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    assert_eq!(handshake(&mut client, "open", "").await.sid, "one");
    proxy
}

#[tokio::test]
async fn no_emit_is_lost_when_the_backend_closes_idle_connections() {
    // Two seconds is the default of gunicorn. Tested with the default settings, and with those meant for Node.js.
    let times = (Duration::from_secs(2), Duration::from_millis(60));
    let (node, _) = closing_when_idle(times.0).await;
    let default = proxy_with_session(&node, "{}").await;
    let longer = proxy_with_session(&node, "{ idle_timeout = \"4s\" }").await;
    let lost = |proxy: &Proxy| timed_emits(proxy.web(), 200, times);
    assert_eq!(tokio::join!(lost(&default), lost(&longer)), (0, 0), "emits lost");
    drop(node);
    default.finish().await;
    longer.finish().await;
}

#[tokio::test]
async fn the_idle_limit_of_a_backend_is_learned_from_its_closes() {
    let limit = Duration::from_millis(600);
    let (node, closes) = closing_when_idle(limit).await;
    let proxy = proxy_with_session(&node, "{ idle_timeout = \"4s\" }").await;
    // The proxy learns the limit from two closes; each request leaves an idle connection.
    for n in 1..=2 {
        eventually("an idle connection is closed", || closes.load(Ordering::SeqCst) >= n).await;
        assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 200);
    }
    let lost = timed_emits(proxy.web(), 40, (limit, Duration::from_millis(60))).await;
    assert_eq!(lost, 0);
    drop(node);
    proxy.finish().await;
}

/// A node that hangs: meanwhile it reads nothing. After the hang it resets connections that were idle at its
/// beginning, without reading what arrived on them.
struct HangingNode {
    backend: Backend,
    hung: Arc<AtomicBool>,
    /// Number of POSTs read.
    read: Arc<AtomicUsize>,
    /// Number of idle connections during the hang.
    parked: Arc<AtomicUsize>,
}

impl HangingNode {
    /// `announces`: responses have `Keep-Alive: timeout=2`.
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
                        // After a hang Node.js runs its timers before it reads its sockets.
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

    /// Sends an emit on an idle connection during a hang, and returns the status of the response.
    async fn emit_during_hang(&self, proxy: &Proxy, hang: Duration) -> u16 {
        self.send_during_hang(proxy, hang, post("one", "emit")).await.status()
    }

    /// Sends a request that contains `emit"]` on an idle connection during a hang.
    async fn send_during_hang(&self, proxy: &Proxy, hang: Duration, request: Vec<u8>) -> Message {
        let mut client = Raw::connect(proxy.web()).await;
        assert_eq!(handshake(&mut client, "open", "").await.sid, "one");
        self.hung.store(true, Ordering::SeqCst);
        eventually("the node hangs", || self.parked.load(Ordering::SeqCst) > 0).await;
        let connections = self.backend.connections();
        client.send(request).await;
        eventually("the emit is at the node", || self.backend.saw("emit\"]")).await;
        assert_eq!(
            self.backend.connections(),
            connections,
            "the emit was sent on a new connection"
        );
        tokio::time::sleep(hang).await;
        self.hung.store(false, Ordering::SeqCst);
        client.response().await
    }
}

#[tokio::test]
async fn an_emit_on_a_connection_that_the_node_closes_unread_is_retried() {
    let node = HangingNode::start(true).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
    })
    .await;
    assert_eq!(node.emit_during_hang(&proxy, Duration::from_secs(4)).await, 200);
    assert_eq!(node.read.load(Ordering::SeqCst), 1, "read once");
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn an_emit_that_the_node_may_have_read_is_not_retried() {
    // The connection was idle for less than the announced timeout, or no timeout was announced.
    for (announces, hang) in [(true, 300), (false, 4_000)] {
        let node = HangingNode::start(announces).await;
        let proxy = Proxy::with(|settings| {
            settings.backends(&[node.backend.address]);
        })
        .await;
        assert_eq!(node.emit_during_hang(&proxy, Duration::from_millis(hang)).await, 502);
        assert_eq!(node.read.load(Ordering::SeqCst), 0);
        drop(node);
        proxy.finish().await;
    }
}

/// The head of a POST of the session, with this field for its length.
fn post_head(length: &str) -> String {
    format!(
        "POST /socket.io/?EIO=4&transport=polling&sid=one HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_chunked_emit_is_sent_again_with_a_length_and_its_data_is_never_framing() {
    let node = HangingNode::start(true).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
    })
    .await;
    let data = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\nemit\"]";
    let head = post_head("Transfer-Encoding: chunked");
    let request = format!("{head}{:x}\r\n{data}\r\n0\r\n\r\n", data.len());
    let reply = node.send_during_hang(&proxy, Duration::from_secs(4), request.into_bytes()).await;
    assert_eq!((reply.status(), node.read.load(Ordering::SeqCst)), (200, 1));
    let requests = node.backend.requests();
    assert!(requests.iter().all(|request| request.target() != "/smuggled"), "{requests:?}");
    let sent = requests.iter().find(|request| request.method() == "POST").unwrap();
    assert_eq!(sent.text(), data);
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn a_partial_emit_that_the_node_closes_unread_ends_its_connection() {
    let node = HangingNode::start(true).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]);
    })
    .await;
    let request = format!("{}emit\"]", post_head("Content-Length: 100"));
    let reply = node.send_during_hang(&proxy, Duration::from_secs(4), request.into_bytes()).await;
    assert_eq!((reply.status(), reply.header("connection")), (502, Some("close")));
    drop(node);
    proxy.finish().await;
}
