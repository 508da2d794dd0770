//! Backends at Unix sockets.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener};

use crate::support::{
    Backend, End, Node, Raw, eventually, message,
    node::{handshake, poll},
    proxy::Setup,
    websocket::{self, tunnel},
};

/// A Unix socket whose connections go to a backend, until this is dropped. The path stays.
struct Socket {
    path: PathBuf,
    task: tokio::task::AbortHandle,
}

impl Socket {
    fn bind(path: PathBuf, backend: &Backend) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let to = backend.address;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut to = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { path, task: task.abort_handle() }
    }

    /// The address in the configuration.
    fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn setup(addresses: &[String], more: impl FnOnce(&mut crate::support::Settings)) -> Setup {
    Setup::new().with(|settings| {
        settings.pool("backends", &json!(addresses).to_string());
        more(settings);
    })
}

/// A folder for sockets, whose paths are short.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn path(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    Path::new(folder.path()).join(name)
}

#[tokio::test]
async fn requests_share_connections_and_tunnels_pass_bytes() {
    let (folder, backend) = (folder(), Backend::replying("unix").await);
    let socket = Socket::bind(path(&folder, "app.sock"), &backend);
    let proxy = setup(&[socket.address()], |_| {}).start().await;
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..3 {
        client.send(message::post("/", "", "body")).await;
        assert_eq!(client.response().await.text(), "unix");
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.requests()[0].header("host"), Some("app.test"));
    let line = proxy.wait_for_log("the request", |line| line["status"] == 200).await;
    assert_eq!(line["backend"], *socket.address());
    drop((client, backend, socket));
    proxy.finish().await;

    let backend = Backend::manual().await;
    let socket = Socket::bind(path(&folder, "tunnel.sock"), &backend);
    let proxy = setup(&[socket.address()], |_| {}).start().await;
    let (mut client, peer) = tunnel(&proxy, &backend).await;
    let sent = tokio::spawn({
        let peer = peer.clone();
        async move { peer.send(websocket::pattern(0, websocket::PIECE)).await }
    });
    assert_eq!(client.exact(websocket::PIECE).await, websocket::pattern(0, websocket::PIECE));
    sent.await.unwrap();
    client.send("from the client").await;
    peer.wait_for_rest(b"from the client").await;
    client.finish().await;
    peer.ended().await;
    peer.send("after").await;
    assert_eq!(client.exact(5).await, b"after");
    drop((client, peer, backend, socket));
    proxy.finish().await;
}

#[tokio::test]
async fn sessions_stay_on_their_socket_and_a_reload_keeps_it() {
    let folder = folder();
    let nodes = [Node::start("one").await, Node::start("two").await];
    let [one, two] = &nodes;
    let socket = Socket::bind(path(&folder, "one.sock"), &one.backend);
    let addresses = [socket.address(), two.backend.address.to_string()];
    let mut proxy = setup(&addresses, |_| {}).start().await;
    let mut client = Raw::connect(proxy.web()).await;
    let mut sessions = Vec::new();
    for number in 0..4 {
        sessions.push(handshake(&mut client, &format!("t{number}"), "").await);
    }
    let on_socket = sessions.iter().filter(|session| session.node == "one").count();
    assert_eq!(on_socket, 2);
    proxy.reload(|settings| _ = settings.pool("balance", "\"round-robin\"")).await;
    for session in &sessions {
        let reply = poll(&mut client, &session.sid, "poll", "").await;
        assert_eq!(reply.header("x-node"), Some(&*session.node));
    }
    let pools: Value = proxy.api().ask("GET", "/v1/pools", "").await.json();
    let state = &pools["pools"][0]["backends"][0];
    assert_eq!((&state["address"], &state["sessions"]), (&json!(socket.address()), &json!(2)));
    // Another path is another backend; the old one keeps its sessions.
    let moved = Socket::bind(path(&folder, "moved.sock"), &one.backend);
    let backends = json!([moved.address(), addresses[1]]).to_string();
    proxy.reload(|settings| _ = settings.pool("backends", &backends)).await;
    let session = sessions.iter().find(|session| session.node == "one").unwrap();
    assert_eq!(poll(&mut client, &session.sid, "poll", "").await.status(), 200);
    let pools: Value = proxy.api().ask("GET", "/v1/pools", "").await.json();
    assert_eq!(pools["pools"][0]["backends"][2]["state"], "leaving");
    drop((client, nodes, socket, moved));
    proxy.finish().await;
}

#[tokio::test]
async fn a_socket_without_a_process_is_down_until_one_listens() {
    let (folder, node) = (folder(), Node::start("node").await);
    let health = "{ probe = \"http\", interval = \"50ms\", rise = 1, fall = 1 }";
    let place = path(&folder, "app.sock");
    let address = format!("unix:{}", place.display());
    let proxy = setup(&[address], |settings| _ = settings.pool("health", health)).start().await;
    let down = |line: &str| line.contains("backend is down") && line.contains("connection refused");
    proxy.wait_for_stderr("no socket", down).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", "")).await;
    assert_eq!(client.response().await.status(), 503);
    let socket = Socket::bind(place.clone(), &node.backend);
    proxy.wait_for_stderr("the socket", |line| line.contains("backend is up")).await;
    let probe =
        node.backend.requests().into_iter().find(|request| request.target() == "/").unwrap();
    assert_eq!(probe.header("host"), Some("localhost"));
    let session = handshake(&mut client, "t", "").await;
    // The socket stays in the folder without its process.
    drop(socket);
    eventually("the end of the socket", || {
        std::os::unix::net::UnixStream::connect(&place).is_err()
    })
    .await;
    let reply = poll(&mut client, &session.sid, "lost", "").await;
    assert_eq!((reply.status(), reply.text().contains("\"code\":1")), (400, true));
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn the_api_adds_a_socket() {
    let folder = folder();
    let (first, added) = (Backend::replying("first").await, Backend::replying("added").await);
    let socket = Socket::bind(path(&folder, "app.sock"), &added);
    let setup = setup(&[first.address.to_string()], |settings| {
        settings.pool("balance", "\"round-robin\"");
    });
    let proxy = setup.start().await;
    let request = json!({ "address": socket.address(), "name": "added" }).to_string();
    let reply = proxy.api().ask("POST", "/v1/pools/app/backends", &request).await;
    assert_eq!(reply.json()["address"], *socket.address());
    let mut bodies = Vec::new();
    for _ in 0..2 {
        bodies.push(Raw::ask(proxy.web(), message::get("/", "")).await.text());
    }
    bodies.sort();
    assert_eq!(bodies, ["added", "first"]);
    let url = format!("http://app.test:{}/", proxy.web().port());
    let body = json!({ "url": url }).to_string();
    let reply: Value = proxy.api().ask("POST", "/v1/explain", &body).await.json();
    assert!(reply["steps"].to_string().contains("among 2 of 2 backends"), "{reply}");
    drop((first, added, socket));
    proxy.finish().await;
}

#[tokio::test]
async fn layer_4_streams_go_to_a_socket() {
    let (folder, backend) = (folder(), Backend::manual().await);
    let socket = Socket::bind(path(&folder, "app.sock"), &backend);
    let setup = setup(&[socket.address()], |settings| {
        settings
            .table("[listeners.raw]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npool = \"app\"\n");
        settings.pool("proxy_protocol", "\"v1\"");
    });
    let proxy = setup.start().await;
    let mut client = Raw::connect(proxy.listener("raw")).await;
    client.send("hello").await;
    let peer = backend.peer(0).await;
    eventually("the bytes", || backend.bytes(0).ends_with(b"\r\nhello")).await;
    assert!(backend.bytes(0).starts_with(b"PROXY TCP4 127.0.0.1 "));
    peer.send("back").await;
    assert_eq!(client.exact(4).await, b"back");
    client.finish().await;
    assert_eq!(peer.ended().await, End::Fin);
    drop((client, peer, backend, socket));
    proxy.finish().await;
}
