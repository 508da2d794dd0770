//! Tests of a node with real sockets and plain HTTP.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use tokio::task::JoinHandle;

use super::*;
use crate::net::{Connector, Http, Kind, Message, Reply};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A running node.
struct Running {
    connector: Arc<Connector>,
    connections: Arc<Connections>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A polling session on a node.
struct Session {
    http: Http,
    path: String,
    /// Received packets that were not returned yet.
    waiting: Vec<String>,
}

impl Running {
    async fn start(name: &str) -> Self {
        let heartbeat =
            Heartbeat { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };
        let connections = Arc::new(Connections::default());
        let node = Node::new(name, heartbeat, Arc::clone(&connections)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = Connector::plain(listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(node.run(listener, stop.clone()));
        Self { connector, connections, stop, task }
    }

    async fn get(&self, path: &str) -> Reply {
        let mut http = self.connector.dialer(0).http().await.unwrap();
        http.send(Method::GET, path, &HeaderMap::new(), Bytes::new()).await.unwrap()
    }

    /// Opens a session with Engine.IO 4 and connects to the main namespace.
    async fn session(&self) -> Session {
        let path = "/socket.io/?EIO=4&transport=polling";
        let reply = self.get(path).await;
        let body = std::str::from_utf8(&reply.body).unwrap();
        let open: serde_json::Value = serde_json::from_str(&body[1..]).unwrap();
        let path = format!("{path}&sid={}", open["sid"].as_str().unwrap());
        let http = self.connector.dialer(0).http().await.unwrap();
        let mut session = Session { http, path, waiting: Vec::new() };
        session.post("40").await;
        assert!(session.next().await.starts_with("40{"));
        session
    }
}

impl Session {
    async fn post(&mut self, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let fields = HeaderMap::new();
        let sent = self.http.send(Method::POST, &self.path, &fields, body).await;
        assert_eq!(sent.unwrap().status, StatusCode::OK);
    }

    /// Returns the next packet except pings.
    async fn next(&mut self) -> String {
        while self.waiting.is_empty() {
            let fields = HeaderMap::new();
            let poll = self.http.send(Method::GET, &self.path, &fields, Bytes::new());
            let reply = timeout(TIMEOUT, poll).await.unwrap().unwrap();
            let body = std::str::from_utf8(&reply.body).unwrap();
            // Pings come at any time; they are not answered.
            let packets = body.split('\u{1e}').filter(|packet| *packet != "2");
            self.waiting = packets.map(str::to_owned).collect();
        }
        self.waiting.remove(0)
    }
}

#[tokio::test]
async fn name_is_in_every_reply_and_in_an_event() {
    let node = Running::start("node-7").await;
    let mut session = node.session().await;
    assert_eq!(session.next().await, r#"42["node","node-7"]"#);

    let unknown = "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA";
    for (path, status) in [("/", 200), ("/socket.io/", 400), (unknown, 400)] {
        let reply = node.get(path).await;
        assert_eq!(reply.status.as_u16(), status, "{path}");
        assert_eq!(reply.headers["x-node"], "node-7", "{path}");
    }
    let path = "/socket.io/?EIO=4&transport=websocket";
    let (mut socket, headers) =
        node.connector.dialer(0).websocket(path, &HeaderMap::new()).await.unwrap();
    assert_eq!(headers["x-node"], "node-7");
    let opened = timeout(TIMEOUT, socket.next()).await.unwrap();
    assert!(matches!(opened, Ok(Message::Text(text)) if text.starts_with("0{")));
}

#[tokio::test]
async fn node_supports_engine_io_3() {
    let node = Running::start("old").await;
    let reply = node.get("/socket.io/?EIO=3&transport=polling").await;
    let body = std::str::from_utf8(&reply.body).unwrap();
    let (length, packet) = body.split_once(':').unwrap();
    assert!(packet.starts_with("0{") && packet.len() >= length.parse().unwrap(), "{body}");
}

#[tokio::test]
async fn events_are_echoed_unchanged() {
    let node = Running::start("a").await;
    let mut session = node.session().await;
    session.next().await;
    let arguments = r#"{"z":1,"a":[true,null,-1,1.5,"\u001f"]},"text",18446744073709551615"#;
    session.post(&format!(r#"42["said",{arguments}]"#)).await;
    assert_eq!(session.next().await, format!(r#"42["said",{arguments}]"#));
    session.post(&format!(r#"427["said",{arguments}]"#)).await;
    assert_eq!(session.next().await, format!("437[{arguments}]"));
    session.post(r#"428["nothing"]"#).await;
    assert_eq!(session.next().await, "438[]");
}

#[tokio::test]
async fn binary_events_are_echoed_unchanged() {
    let node = Running::start("a").await;
    let mut session = node.session().await;
    session.next().await;
    let placeholders = r#"{"_placeholder":true,"num":0},{"in":[{"_placeholder":true,"num":1}]}"#;
    session.post(&format!("452-[\"said\",{placeholders}]\u{1e}bAQID\u{1e}bBA==")).await;
    assert_eq!(session.next().await, format!("452-[\"said\",{placeholders}]"));
    assert_eq!([session.next().await, session.next().await], ["bAQID", "bBA=="]);
    session.post(&format!("452-3[\"said\",{placeholders}]\u{1e}bAQID\u{1e}bBA==")).await;
    assert_eq!(session.next().await, format!("462-3[{placeholders}]"));
    assert_eq!([session.next().await, session.next().await], ["bAQID", "bBA=="]);
}

#[tokio::test]
async fn event_all_is_sent_to_all_clients() {
    let node = Running::start("a").await;
    let (mut one, mut other) = (node.session().await, node.session().await);
    one.next().await;
    other.next().await;
    one.post(r#"42["all",123,"x"]"#).await;
    assert_eq!(one.next().await, r#"42["all",123,"x"]"#);
    assert_eq!(other.next().await, r#"42["all",123,"x"]"#);
}

#[tokio::test]
async fn stop_closes_connections() {
    let node = Running::start("a").await;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let (mut socket, _) =
        node.connector.dialer(0).websocket(path, &HeaderMap::new()).await.unwrap();
    timeout(TIMEOUT, socket.next()).await.unwrap().unwrap();
    socket.send(Kind::Text, b"40").await.unwrap();
    let connected = async {
        while !matches!(socket.next().await.unwrap(), Message::Text(text) if text.starts_with("40{"))
        {
        }
    };
    timeout(TIMEOUT, connected).await.unwrap();
    node.stop.cancel();
    let close = async {
        loop {
            match socket.next().await {
                Ok(Message::Text(_)) => {}
                end => return end,
            }
        }
    };
    let close = timeout(TIMEOUT, close).await.unwrap();
    assert!(matches!(close, Ok(Message::Close(_))), "{close:?}");
    timeout(TIMEOUT, node.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn reset_ends_open_connections_and_accepts_new_ones() {
    let node = Running::start("a").await;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let (mut socket, _) =
        node.connector.dialer(0).websocket(path, &HeaderMap::new()).await.unwrap();
    timeout(TIMEOUT, socket.next()).await.unwrap().unwrap();
    node.connections.reset();
    let failure = timeout(TIMEOUT, socket.next()).await.unwrap().unwrap_err();
    assert!(failure.to_string().contains("reset"), "{failure}");
    assert_eq!(node.get("/").await.status, StatusCode::OK);
}
