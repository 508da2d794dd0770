//! A backend that handles sessions like an Engine.IO 4 server.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpListener;

use super::{Backend, Message, Raw, backend, message, websocket};

/// A node; each response has its name in `X-Node`.
pub(crate) struct Node {
    /// The recording backend.
    pub(crate) backend: Backend,
    /// Its name.
    pub(crate) name: &'static str,
    state: Arc<State>,
}

struct State {
    name: &'static str,
    /// Sids of the sessions of this node.
    known: Mutex<HashSet<String>>,
    /// Sid for the next handshake, in place of a numbered one.
    next: Mutex<Option<String>>,
    count: Mutex<usize>,
    /// Whether the node reads requests without answering them.
    hung: AtomicBool,
    /// `pingInterval` and `pingTimeout` in milliseconds.
    ping: (u32, u32),
    /// Further header lines of a handshake's reply, each ended by CRLF.
    fields: &'static str,
}

/// A node's sessions, without its connections.
pub(crate) struct NodeSessions(Arc<State>);

/// The script of the node: waits while the node hangs, then answers.
fn serve(state: &Arc<State>) -> backend::Script {
    let shared = Arc::clone(state);
    backend::script(move |peer| {
        let state = Arc::clone(&shared);
        async move {
            while let Some(request) = peer.request().await {
                while state.hung.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let upgrades = request.header("upgrade") == Some("websocket");
                let known = state.is_known(&request);
                if upgrades && (known || sid(&request).is_none()) {
                    peer.send(websocket::switching(&request)).await;
                    peer.ended().await;
                    return;
                }
                peer.send(state.answer(&request, upgrades)).await;
            }
        }
    })
}

/// Body of the reply to a request of an unknown session.
const UNKNOWN: &str = "{\"code\":1,\"message\":\"Session ID unknown\"}";

impl Node {
    /// Starts a node with the default heartbeat of Socket.IO.
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::with_ping(name, (25_000, 20_000), "").await
    }

    /// Starts a node with `pingInterval` and `pingTimeout` in milliseconds, and further header lines in replies to
    /// handshakes.
    pub(crate) async fn with_ping(
        name: &'static str,
        ping: (u32, u32),
        fields: &'static str,
    ) -> Self {
        let state = Arc::new(State {
            name,
            known: Mutex::default(),
            next: Mutex::default(),
            count: Mutex::default(),
            hung: AtomicBool::new(false),
            ping,
            fields,
        });
        Self { backend: Backend::start(serve(&state)).await, name, state }
    }

    /// Starts the node again on this listener, with its earlier sessions.
    pub(crate) fn restart(sessions: &NodeSessions, listener: TcpListener) -> Self {
        let NodeSessions(state) = sessions;
        let backend = Backend::on(listener, serve(state));
        Self { backend, name: state.name, state: Arc::clone(state) }
    }

    /// The sessions of the node, for [`Node::restart`].
    pub(crate) fn sessions(&self) -> NodeSessions {
        NodeSessions(Arc::clone(&self.state))
    }

    /// Reads requests and answers none, health probes included, until [`Node::wake`].
    pub(crate) fn hang(&self) {
        self.state.hung.store(true, Ordering::SeqCst);
    }

    /// Ends the hang: answers the requests that arrived meanwhile.
    pub(crate) fn wake(&self) {
        self.state.hung.store(false, Ordering::SeqCst);
    }

    /// Gives the next handshake this sid.
    pub(crate) fn next_sid(&self, sid: &str) {
        *self.state.next.lock().unwrap() = Some(sid.to_owned());
    }

    /// Adds a session without a handshake.
    pub(crate) fn add_session(&self, sid: &str) {
        self.state.known.lock().unwrap().insert(sid.to_owned());
    }

    /// Number of requests with this sid.
    pub(crate) fn request_count(&self, of: &str) -> usize {
        let requests = self.backend.requests();
        requests.iter().filter(|request| sid(request).as_deref() == Some(of)).count()
    }
}

impl State {
    fn is_known(&self, request: &Message) -> bool {
        sid(request).is_some_and(|sid| self.known.lock().unwrap().contains(&sid))
    }

    fn answer(&self, request: &Message, upgrades: bool) -> Vec<u8> {
        let node = format!("X-Node: {}\r\n", self.name);
        match sid(request) {
            None => {
                let json = format!("{node}Content-Type: text/plain\r\n{}", self.fields);
                message::reply("200 OK", &json, &self.open())
            }
            Some(_) if self.is_known(request) => message::reply("200 OK", &node, "6"),
            Some(_) if upgrades => {
                let html = format!("{node}Content-Type: text/html\r\nConnection: close\r\n");
                message::reply("400 Bad Request", &html, "Session ID unknown")
            }
            Some(_) => {
                let json = format!("{node}Content-Type: application/json\r\n");
                message::reply("400 Bad Request", &json, UNKNOWN)
            }
        }
    }

    fn open(&self) -> String {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        let numbered = || format!("{}-session-{:010}", self.name, *count);
        let sid = self.next.lock().unwrap().take().unwrap_or_else(numbered);
        self.known.lock().unwrap().insert(sid.clone());
        let (interval, timeout) = self.ping;
        format!(
            "0{{\"sid\":\"{sid}\",\"upgrades\":[\"websocket\"],\"pingInterval\":{interval},\
             \"pingTimeout\":{timeout},\"maxPayload\":1000000}}"
        )
    }
}

/// The sid in a request's query.
fn sid(request: &Message) -> Option<String> {
    let (_, query) = request.target().split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("sid=")).map(str::to_owned)
}

/// Result of a handshake.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The session's id.
    pub(crate) sid: String,
    /// The node's name.
    pub(crate) node: String,
    /// `name=value` of the affinity cookie, if the reply sets one.
    pub(crate) cookie: Option<String>,
    /// The whole reply.
    pub(crate) reply: Message,
}

/// Target of a polling handshake; `t` identifies the request in logs.
pub(crate) fn handshake_target(t: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&t={t}")
}

/// Target of a poll.
pub(crate) fn poll_target(sid: &str, t: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&t={t}&sid={sid}")
}

/// Opens a session by polling; `headers` are further header lines, each ended by CRLF.
pub(crate) async fn handshake(client: &mut Raw, t: &str, headers: &str) -> Session {
    client.send(message::get(&handshake_target(t), headers)).await;
    let reply = client.response().await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let text = reply.text();
    let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let node = reply.header("x-node").unwrap_or_default().to_owned();
    let pair = |value: &str| value.split(';').next().unwrap().to_owned();
    let cookies = reply.all("set-cookie");
    let cookie = cookies.iter().find(|value| value.starts_with("moorline-")).map(|v| pair(v));
    Session { sid, node, cookie, reply }
}

/// Sends one poll of a session and returns the reply.
pub(crate) async fn poll(client: &mut Raw, sid: &str, t: &str, headers: &str) -> Message {
    client.send(message::get(&poll_target(sid, t), headers)).await;
    client.response().await
}

/// The header line that sends a cookie back.
pub(crate) fn cookie_field(pair: &str) -> String {
    format!("Cookie: other=1; {pair}\r\n")
}
