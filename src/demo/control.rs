//! Orders that the page gives: drains, kills and replacements of nodes, and a reload.
//!
//! Orders leave through a channel to whoever owns the proxy, which this module does not know. Only the page
//! itself can give them, on the machine that the demo runs on: a request needs the token that the page was
//! served with, an origin and a host of the loopback, and a client address of the loopback.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// Carries the page's token.
const TOKEN: &str = "x-demo-token";
/// Orders that may wait for the one before them.
const WAITING: usize = 16;

/// Something that the page asks for; names are those of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// How the nodes are.
    Look,
    /// Take no new session on a node, and move those that it has.
    Drain(String),
    /// End a drain.
    Undrain(String),
    /// End a node without a word.
    Kill(String),
    /// Start a node in the place of another one, which drains.
    Replace(String),
    /// Put the configuration in force again.
    Reload,
}

/// An order, and where its answer goes: how the nodes are then, or why it is not carried out.
#[derive(Debug)]
pub struct DemoRequest {
    /// What is asked for.
    pub order: Order,
    /// Takes the answer.
    pub answer: oneshot::Sender<Result<OrderReport, String>>,
}

/// How the nodes are.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OrderReport {
    /// What the order has done, in a sentence or two; empty where nothing was ordered.
    pub done: String,
    /// The nodes of the pool, those that leave it included.
    pub nodes: Vec<NodeState>,
    /// Drains the first of them from a terminal; `None`: the process has no admin socket.
    pub drain_command: Option<String>,
    /// Puts a proxy before the reader's own nodes.
    pub proxy_command: String,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// `up`, `slow-start`, `draining`, `drained`, `leaving`, `down`, `ejected` or `killed`.
    pub state: String,
    /// Live sessions.
    pub sessions: u64,
    /// Whether it is the only one that takes new sessions.
    pub last: bool,
}

/// Takes the page's orders.
#[derive(Debug)]
pub(super) struct Desk {
    token: String,
    orders: mpsc::Sender<DemoRequest>,
}

impl Desk {
    /// A desk, and where its orders arrive.
    pub(super) fn new(token: String) -> (Self, mpsc::Receiver<DemoRequest>) {
        let (orders, received) = mpsc::channel(WAITING);
        (Self { token, orders }, received)
    }

    /// The page, with the token.
    pub(super) fn page(&self) -> Bytes {
        Bytes::from(include_str!("page.html").replace("{{token}}", &self.token))
    }

    /// Answers a request for `/demo/ORDER`.
    pub(super) async fn answer<B>(
        &self,
        order: &str,
        request: &Request<B>,
    ) -> Response<Full<Bytes>> {
        let node = || {
            let query = request.uri().query().unwrap_or_default();
            query.strip_prefix("node=").unwrap_or_default().to_owned()
        };
        let (method, order) = match order {
            "nodes" => (Method::GET, Order::Look),
            "drain" => (Method::POST, Order::Drain(node())),
            "undrain" => (Method::POST, Order::Undrain(node())),
            "kill" => (Method::POST, Order::Kill(node())),
            "replace" => (Method::POST, Order::Replace(node())),
            "reload" => (Method::POST, Order::Reload),
            _ => return failed(StatusCode::NOT_FOUND, "there is no such order"),
        };
        if *request.method() != method {
            return failed(StatusCode::METHOD_NOT_ALLOWED, "another method is needed");
        }
        if let Err(why) = self.allows(request.headers(), method == Method::POST) {
            return failed(StatusCode::FORBIDDEN, why);
        }
        let (answer, outcome) = oneshot::channel();
        let stopping = "the demo is stopping";
        if self.orders.send(DemoRequest { order, answer }).await.is_err() {
            return failed(StatusCode::SERVICE_UNAVAILABLE, stopping);
        }
        match outcome.await {
            Ok(Ok(answer)) => json(StatusCode::OK, &answer),
            Ok(Err(why)) => failed(StatusCode::CONFLICT, &why),
            Err(_) => failed(StatusCode::SERVICE_UNAVAILABLE, stopping),
        }
    }

    /// Whether the page itself asks, from this machine.
    fn allows(&self, headers: &HeaderMap, orders: bool) -> Result<(), &'static str> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let local = text("x-forwarded-for").is_none_or(|client| {
            let client = client.rsplit(',').next().unwrap_or_default().trim();
            client.parse().is_ok_and(|client: IpAddr| client.to_canonical().is_loopback())
        });
        let host = text("host").unwrap_or_default();
        if !local || !is_loopback(host) {
            return Err("nodes can be changed only from the machine that the demo runs on");
        }
        let own = |origin: &str| origin.strip_prefix("https://") == Some(host);
        let foreign = text("sec-fetch-site").is_some_and(|site| site != "same-origin");
        // Browsers send no origin with a GET to their own.
        if foreign || text("origin").map_or(orders, |origin| !own(origin)) {
            return Err("only the demo's own page can change nodes");
        }
        match text(TOKEN) {
            Some(token) if token == self.token => Ok(()),
            _ => Err("the demo was restarted: load the page again"),
        }
    }
}

/// Whether a `Host` is one of the loopback's.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
}

fn failed(status: StatusCode, error: &str) -> Response<Full<Bytes>> {
    json(status, &Failed { error })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
