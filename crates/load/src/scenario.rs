//! What a run does: the validated meaning of flags and scenario files.
//!
//! Owns the enums that the rest of the harness matches on. The doc comments of the enums that users type are
//! help texts.

pub(crate) mod capacity;
mod chaos_event;
mod check;
pub(crate) mod file;
pub(crate) mod options;
mod target;
mod values;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

/// A validated scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Where clients connect.
    pub(crate) target: Target,
    /// How clients verify the certificate of a TLS target.
    pub(crate) tls: Tls,
    /// Kind of client.
    pub(crate) client: ClientKind,
    /// Engine.IO protocol of Socket.IO clients.
    pub(crate) protocol: Protocol,
    /// Whether each client stores the cookies that the server sets.
    pub(crate) cookies: bool,
    /// Sent with every request and upgrade.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Number of clients.
    pub(crate) clients: u32,
    /// When the clients arrive.
    pub(crate) arrival: Arrival,
    /// Time from the last arrival to the end of the run.
    pub(crate) hold: Duration,
    /// What each client sends.
    pub(crate) messages: Messages,
    /// Interval at which one client broadcasts to all; `None`: no broadcasts.
    pub(crate) broadcast_every: Option<Duration>,
    /// Whether clients reconnect after a loss as real clients do (1–5 s, jitter 0.5).
    pub(crate) reconnect: bool,
    /// Deadline of a connection attempt and of an answer, and the extra time that a heartbeat may take.
    pub(crate) timeout: Duration,
    /// Whether a polling client sends its requests one after the other over one connection.
    pub(crate) single_connection: bool,
    /// Bytes per second that HTTP clients read of a reply; `None`: as fast as they arrive.
    pub(crate) read_rate: Option<usize>,
    /// Number of loopback addresses that clients connect from; 1: the kernel chooses the address.
    pub(crate) sources: u32,
    /// Number of threads that run clients.
    pub(crate) threads: usize,
    /// What happens while the clients are connected.
    pub(crate) mode: Mode,
    /// Processes whose CPU time and memory are reported, usually the proxy.
    pub(crate) cost_of: Vec<u32>,
    /// The assertions at the end.
    pub(crate) limits: Limits,
    /// Files that are written, and whether the live view is shown.
    pub(crate) outputs: Outputs,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As given.
    pub(crate) url: String,
    /// `https` or `wss`.
    pub(crate) tls: bool,
    /// Host name or address, without brackets.
    pub(crate) host: String,
    /// Given or default port.
    pub(crate) port: u16,
    /// `Host` field: with the port unless it is the default of the scheme.
    pub(crate) authority: String,
    /// Absolute path; `/socket.io/` by default for Socket.IO.
    pub(crate) path: String,
    /// Query without `?`; may be empty.
    pub(crate) query: String,
    /// Addresses of the host, resolved once at the start; at least one.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// How clients verify the certificate of a TLS target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Accept any certificate.
    pub(crate) insecure: bool,
    /// PEM file of certificate authorities; `None`: those of the system.
    pub(crate) ca: Option<PathBuf>,
    /// Whether TLS sessions are resumed. Without this, each handshake is a full one.
    pub(crate) resume: bool,
}

/// Kind of client.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientKind {
    /// Socket.IO as real clients do: handshake by polling, then an upgrade to WebSocket
    PollingUpgrade,
    /// Socket.IO over WebSocket only
    #[value(name = "websocket")]
    #[serde(rename = "websocket")]
    WebSocket,
    /// Socket.IO over polling only
    Polling,
    /// Plain WebSocket to an echo server
    Ws,
    /// Plain WebSocket that downloads as fast as possible, from `node --echo`
    Bulk,
    /// HTTP/1.1 requests over a persistent connection
    Http,
    /// A connection and its TLS handshake only
    Connect,
}

/// Engine.IO protocol revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `EIO=3`: Socket.IO 2.x.
    V3,
    /// `EIO=4`: Socket.IO 3.x and 4.x.
    V4,
}

/// When clients arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrival {
    /// A number per second, evenly except for the few that arrive together.
    Rate(f64),
    /// All within this time, evenly except for the few that arrive together.
    Ramp(Duration),
}

/// What each client sends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Messages {
    /// When the client sends.
    pub(crate) pace: Pace,
    /// Number of messages after which the client ends; `None`: at the end of the run.
    pub(crate) count: Option<u64>,
    /// Whether a new client replaces a client that has ended.
    pub(crate) repeat: bool,
    /// Whether the client stays connected after its last message.
    pub(crate) stay: bool,
    /// Bytes of a payload, without its encoding.
    pub(crate) size: usize,
    /// Type of the payload.
    pub(crate) payload: Payload,
    /// Name of the Socket.IO event.
    pub(crate) event: String,
    /// What the server answers.
    pub(crate) answer: Answer,
}

/// When a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Never.
    Silent,
    /// At this interval, whatever the answers do: latency counts from the intended time.
    Every(Duration),
    /// This long after each answer; zero: as fast as the target answers.
    Think(Duration),
}

/// Type of a payload.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Payload {
    /// A string
    Text,
    /// An object with a string in it; text on plain WebSocket
    Json,
    /// Bytes
    Binary,
}

/// What the server answers to a Socket.IO message.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// An acknowledgement, with the payload as its first argument
    Ack,
    /// The same event with the payload
    Echo,
    /// No answer
    #[value(name = "none")]
    #[serde(rename = "none")]
    Nothing,
}

/// What happens while the clients are connected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Nothing.
    Steady,
    /// Another program sends commands on standard input; the end of the input ends the run.
    Controlled,
    /// All clients disconnect at once and reconnect.
    Herd(Herd),
    /// Nodes are replaced one by one.
    Deploy(Deploy),
    /// Nodes are killed, hung or reset at given times.
    Chaos(Chaos),
}

/// All clients disconnect at once and reconnect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Herd {
    /// Time from the last arrival to the first disconnect.
    pub(crate) after: Duration,
    /// Number of disconnects.
    pub(crate) times: u32,
    /// Time from one disconnect to the next.
    pub(crate) every: Duration,
    /// The reconnects are spread evenly over this time; zero: all at once.
    pub(crate) within: Duration,
}

/// Nodes that the run starts, with the backend list of the proxy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fleet {
    /// Number of nodes.
    pub(crate) nodes: u16,
    /// The proxy's backend list: one address per line.
    pub(crate) backends_file: PathBuf,
}

/// A rolling deploy: nodes are replaced one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Deploy {
    /// The nodes.
    pub(crate) fleet: Fleet,
    /// Time from the last arrival to the first replacement.
    pub(crate) after: Duration,
    /// Time from the removal of a node from the list to its stop.
    pub(crate) drain: Duration,
    /// Time from the stop of a node to the next replacement.
    pub(crate) pause: Duration,
    /// Admin socket of the Moorline in front; `None`: try the default sockets.
    pub(crate) socket: Option<PathBuf>,
}

/// Nodes are killed, hung or reset at given times.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chaos {
    /// The nodes.
    pub(crate) fleet: Fleet,
    /// In order of time.
    pub(crate) events: Vec<ChaosEvent>,
}

/// One event of a chaos run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChaosEvent {
    /// Time after the last arrival.
    pub(crate) at: Duration,
    /// Index of the node, from 0.
    pub(crate) node: u16,
    /// What is done to the node.
    pub(crate) fault: NodeFault,
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeFault {
    /// The process is killed, and started again on the same address after `back_after`.
    Kill {
        /// `None`: it is not started again.
        back_after: Option<Duration>,
    },
    /// The process is stopped (SIGSTOP) for this time: connections stay open, without answers.
    Hang(Duration),
    /// All connections are reset; the node continues.
    Reset,
}

/// Assertions at the end of a run; `None`: not checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Maximum 99th percentile of the message latency.
    pub(crate) max_p99: Option<Duration>,
    /// Maximum errors of all kinds.
    pub(crate) max_errors: Option<u64>,
    /// Maximum `{"code":1}` replies.
    pub(crate) max_code1: Option<u64>,
    /// Maximum disconnects, without those of nodes that the run itself has killed, hung or reset.
    pub(crate) max_disconnects: Option<u64>,
    /// Maximum answers from a node that does not own the session.
    pub(crate) max_misrouted: Option<u64>,
}

/// Live view and files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    /// JSON file.
    pub(crate) json: Option<PathBuf>,
    /// HTML file.
    pub(crate) html: Option<PathBuf>,
    /// Neither live view nor summary.
    pub(crate) quiet: bool,
}
