//! Actions of the page: drain, kill or replace a node, and reload.
//!
//! Actions are sent through a channel to the owner of the proxy. Only the page itself can request them, on
//! the machine that the demo runs on: a request needs the token of the page, an origin and a host of the
//! loopback, and a client address of the loopback.

use std::{error::Error, fmt, net::IpAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// Header with the token of the page.
const TOKEN: &str = "x-demo-token";
/// Maximum number of waiting requests.
const MAX_WAITING: usize = 16;

/// An action of the page; the names are names of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DemoAction {
    /// Show the state of the nodes.
    Show,
    /// Drain a node: it takes no new sessions, and its sessions move to other nodes.
    Drain(String),
    /// End a drain.
    Undrain(String),
    /// Kill a node: its connections are reset.
    Kill(String),
    /// Replace a node by a new one, and drain the old node.
    Replace(String),
    /// Apply the configuration again.
    Reload,
}

/// A request for an action.
#[derive(Debug)]
pub struct DemoRequest {
    /// The action.
    pub action: DemoAction,
    /// Takes the result.
    pub reply: oneshot::Sender<Result<ActionReport, ActionError>>,
}

/// Why an action failed. The page shows the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionError {
    /// No node has this name.
    UnknownNode(String),
    /// The node is not running.
    NotRunning(String),
    /// The node is already being replaced.
    BeingReplaced(String),
    /// The node is the last one that takes sessions.
    LastNode(String),
    /// The new node cannot start.
    NotStarted {
        /// Name of the new node.
        node: String,
        /// Error of the operating system.
        error: String,
    },
    /// The proxy rejected a command.
    Rejected(String),
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNode(node) => write!(f, "there is no node {node:?}"),
            Self::NotRunning(node) => write!(f, "{node} is not running"),
            Self::BeingReplaced(node) => write!(f, "{node} is already being replaced"),
            Self::LastNode(node) => {
                write!(f, "{node} is the last node that takes sessions, and it serves this page")
            }
            Self::NotStarted { node, error } => write!(f, "{node} cannot start: {error}"),
            Self::Rejected(text) => f.write_str(text),
        }
    }
}

impl Error for ActionError {}

/// Result of an action, and the state of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ActionReport {
    /// Text that describes the effect of the action; empty for [`DemoAction::Show`].
    pub done: String,
    /// The nodes of the pool, including removed nodes that still hold sessions.
    pub nodes: Vec<NodeState>,
    /// Command that drains the first node; `None`: the process has no admin socket.
    pub drain_command: Option<String>,
    /// Command that starts a proxy for the reader's own nodes.
    pub proxy_command: String,
}

/// State of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeState {
    /// Name.
    pub name: String,
    /// `up`, `slow-start`, `draining`, `drained`, `leaving`, `down`, `ejected` or `killed`.
    pub state: String,
    /// Live sessions.
    pub sessions: u64,
    /// Whether it is the only node that takes new sessions.
    pub last: bool,
}

/// Handles the page's requests for actions.
#[derive(Debug)]
pub(super) struct ActionHandler {
    token: String,
    requests: mpsc::Sender<DemoRequest>,
}

impl ActionHandler {
    /// Creates a handler and the receiver of its requests.
    pub(super) fn new(token: String) -> (Self, mpsc::Receiver<DemoRequest>) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        (Self { token, requests }, receiver)
    }

    /// Returns the page with the token.
    pub(super) fn page(&self) -> Bytes {
        Bytes::from(include_str!("page.html").replace("{{token}}", &self.token))
    }

    /// Handles a request for `/demo/ACTION`.
    pub(super) async fn answer<B>(
        &self,
        action: &str,
        request: &Request<B>,
    ) -> Response<Full<Bytes>> {
        let node = || {
            let query = request.uri().query().unwrap_or_default();
            query.strip_prefix("node=").unwrap_or_default().to_owned()
        };
        let (method, action) = match action {
            "nodes" => (Method::GET, DemoAction::Show),
            "drain" => (Method::POST, DemoAction::Drain(node())),
            "undrain" => (Method::POST, DemoAction::Undrain(node())),
            "kill" => (Method::POST, DemoAction::Kill(node())),
            "replace" => (Method::POST, DemoAction::Replace(node())),
            "reload" => (Method::POST, DemoAction::Reload),
            _ => return failed(StatusCode::NOT_FOUND, "unknown action"),
        };
        if *request.method() != method {
            return failed(StatusCode::METHOD_NOT_ALLOWED, "wrong method");
        }
        if let Err(reason) = self.allows(request.headers(), method == Method::POST) {
            return failed(StatusCode::FORBIDDEN, reason);
        }
        let (reply, result) = oneshot::channel();
        let stopping = "the demo is stopping";
        if self.requests.send(DemoRequest { action, reply }).await.is_err() {
            return failed(StatusCode::SERVICE_UNAVAILABLE, stopping);
        }
        match result.await {
            Ok(Ok(report)) => json(StatusCode::OK, &report),
            Ok(Err(error)) => failed(StatusCode::CONFLICT, &error.to_string()),
            Err(_) => failed(StatusCode::SERVICE_UNAVAILABLE, stopping),
        }
    }

    /// Checks that the page itself sent the request, from this machine.
    fn allows(&self, headers: &HeaderMap, changes: bool) -> Result<(), &'static str> {
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
        // Browsers send no `Origin` with a same-origin GET.
        if foreign || text("origin").map_or(changes, |origin| !own(origin)) {
            return Err("only the demo's own page can change nodes");
        }
        match text(TOKEN) {
            Some(token) if token == self.token => Ok(()),
            _ => Err("the demo was restarted: load the page again"),
        }
    }
}

/// Whether a `Host` is a name or address of the loopback.
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
