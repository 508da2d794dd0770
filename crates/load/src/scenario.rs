//! What a run is to do: the meaning of flags and files, free of how they were typed.
//!
//! Owns the closed sets that the rest of the harness matches on; where people type their values, the
//! docs of those are the help text. A scenario is checked: it can be run.

pub(crate) mod capacity;
mod check;
pub(crate) mod file;
pub(crate) mod options;
mod target;
mod timetable;
mod values;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

/// A checked scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Where clients connect.
    pub(crate) target: Target,
    /// How they trust a TLS target.
    pub(crate) tls: Tls,
    /// What kind of client they are.
    pub(crate) client: ClientKind,
    /// Engine.IO protocol, for the kinds that speak it.
    pub(crate) protocol: Protocol,
    /// Whether each client keeps the cookies that it is given.
    pub(crate) cookies: bool,
    /// Sent with every request and upgrade.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// How many clients.
    pub(crate) clients: u32,
    /// When each of them arrives.
    pub(crate) arrival: Arrival,
    /// From the last arrival to the end of the run.
    pub(crate) hold: Duration,
    /// What each of them says.
    pub(crate) messages: Messages,
    /// How often one of the clients speaks to all of them; `None`: never.
    pub(crate) broadcast_every: Option<Duration>,
    /// Whether lost clients come back as a real client does (1–5 s, jitter 0.5).
    pub(crate) reconnect: bool,
    /// Deadline of a connection attempt, of an answer and of a silent server's heartbeat grace.
    pub(crate) timeout: Duration,
    /// How many loopback addresses clients connect from; 1 leaves the choice to the kernel.
    pub(crate) sources: u32,
    /// How many threads drive the clients.
    pub(crate) threads: usize,
    /// What happens meanwhile.
    pub(crate) course: Course,
    /// Processes whose CPU time and memory are reported: the front door's.
    pub(crate) cost_of: Vec<u32>,
    /// What must hold at the end.
    pub(crate) limits: Limits,
    /// What is written at the end, and whether the live view is drawn.
    pub(crate) outputs: Outputs,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As typed.
    pub(crate) url: String,
    /// `https` or `wss`.
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// Explicit or the scheme's own.
    pub(crate) port: u16,
    /// `Host` field: with the port where it is not the scheme's own.
    pub(crate) authority: String,
    /// Absolute path, `/socket.io/` where a Socket.IO target named none.
    pub(crate) path: String,
    /// Query without `?`; empty where there is none.
    pub(crate) query: String,
    /// What the host resolved to when the run was checked; at least one.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// How a TLS target is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Any certificate will do.
    pub(crate) insecure: bool,
    /// PEM file of authorities; the system's where there is none.
    pub(crate) ca: Option<PathBuf>,
    /// Whether sessions are resumed; off makes every handshake a full one.
    pub(crate) resume: bool,
}

/// What kind of client.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientKind {
    /// Socket.IO as real clients do: handshake by polling, then WebSocket
    PollingUpgrade,
    /// Socket.IO over WebSocket only
    #[value(name = "websocket")]
    #[serde(rename = "websocket")]
    WebSocket,
    /// Socket.IO over polling only
    Polling,
    /// Plain WebSocket to a server that echoes
    Ws,
    /// Plain WebSocket that downloads as fast as it can, from `node --echo`
    Bulk,
    /// HTTP/1.1 requests over a kept-alive connection
    Http,
    /// A connection and its TLS handshake, nothing more
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
    /// So many a second, evenly but for the few that arrive together.
    Rate(f64),
    /// Over this time, in the same way.
    Ramp(Duration),
}

/// What each client says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Messages {
    /// When it speaks.
    pub(crate) pace: Pace,
    /// How many messages until it leaves; `None`: until the run ends.
    pub(crate) count: Option<u64>,
    /// Whether a new client takes the place of one that left.
    pub(crate) repeat: bool,
    /// Bytes of a payload, without its packaging.
    pub(crate) size: usize,
    /// What the payload is.
    pub(crate) payload: Payload,
    /// Socket.IO event.
    pub(crate) event: String,
    /// What answers it.
    pub(crate) answer: Answer,
}

/// When a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Not at all.
    Silent,
    /// Every so often whatever the answers do: latency counts from the intended time.
    Every(Duration),
    /// So long after each answer; zero is as fast as the target can.
    Think(Duration),
}

/// What a payload is.
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

/// What answers a Socket.IO message.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Its acknowledgement, with the payload as its first argument
    Ack,
    /// The same event with the payload
    Echo,
    /// Nothing
    #[value(name = "none")]
    #[serde(rename = "none")]
    Nothing,
}

/// What happens while clients talk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Course {
    /// Nothing.
    Steady,
    /// Another program says it, through standard input, and ends the run with that.
    Led,
    /// All clients drop at once and return.
    Herd(Herd),
    /// Nodes are replaced one by one.
    Deploy(Deploy),
    /// Nodes are hurt on a timetable.
    Chaos(Chaos),
}

/// All clients drop at once and return.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Herd {
    /// From the last arrival to the first drop.
    pub(crate) after: Duration,
    /// How many times.
    pub(crate) times: u32,
    /// From one drop to the next.
    pub(crate) every: Duration,
    /// The returns are spread evenly over this time; zero is all at once.
    pub(crate) within: Duration,
}

/// Nodes that the harness starts and whose addresses it writes to the proxy's list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fleet {
    /// How many nodes.
    pub(crate) nodes: u16,
    /// The proxy's backend list: an address a line.
    pub(crate) backends_file: PathBuf,
}

/// A rolling deploy: one node after the other is replaced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Deploy {
    /// The nodes.
    pub(crate) fleet: Fleet,
    /// From the last arrival to the first replacement.
    pub(crate) after: Duration,
    /// From the removal of a node from the list to its end.
    pub(crate) drain: Duration,
    /// From the end of a node to the next replacement.
    pub(crate) pause: Duration,
    /// Admin socket of the Moorline in front; `None`: the usual ones are tried.
    pub(crate) socket: Option<PathBuf>,
}

/// Nodes are hurt on a timetable.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chaos {
    /// The nodes.
    pub(crate) fleet: Fleet,
    /// In order of time.
    pub(crate) events: Vec<ChaosEvent>,
}

/// One line of the timetable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChaosEvent {
    /// From the last arrival.
    pub(crate) at: Duration,
    /// Which node, counted from 0.
    pub(crate) node: u16,
    /// What happens to it.
    pub(crate) harm: Harm,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Its process is killed, and started again on the same address after this time.
    Kill {
        /// `None`: it stays dead.
        back_after: Option<Duration>,
    },
    /// Its process stands still for this time: connections open, no answers.
    Hang(Duration),
    /// All its connections are reset; it goes on.
    Reset,
}

/// What must hold at the end; `None`: not asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Largest 99th percentile of message latency.
    pub(crate) max_p99: Option<Duration>,
    /// Most errors of all kinds.
    pub(crate) max_errors: Option<u64>,
    /// Most `{"code":1}` replies.
    pub(crate) max_code1: Option<u64>,
    /// Most disconnects, without those of nodes that the run itself has killed, hung or reset.
    pub(crate) max_disconnects: Option<u64>,
    /// Most answers from a node that is not the session's.
    pub(crate) max_misrouted: Option<u64>,
}

/// What is shown and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    /// Raw figures.
    pub(crate) json: Option<PathBuf>,
    /// The report page.
    pub(crate) html: Option<PathBuf>,
    /// Neither live view nor summary.
    pub(crate) quiet: bool,
}
