//! Options: the flags of a command and the keys of a scenario file, which have the same names.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Deserialize;

use super::{
    Answer, ClientKind, Payload,
    values::{DurationArg, RateArg, SizeArg},
};

/// Flags and keys of every run. A flag overrides the key of the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Options {
    /// Target URL: http, https, ws or wss. Socket.IO clients use the path /socket.io/ unless the URL has one
    pub(crate) url: Option<String>,

    /// Kind of client [default: polling-upgrade]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Clients")]
    pub(crate) client: Option<ClientKind>,
    /// Number of clients [default: 100]
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub(crate) clients: Option<u32>,
    /// Clients that arrive per second [default: 100]
    #[arg(long, value_name = "RATE", conflicts_with = "ramp", help_heading = "Clients")]
    pub(crate) rate: Option<RateArg>,
    /// Time within which all clients arrive, instead of a rate
    #[arg(long, value_name = "DURATION", help_heading = "Clients")]
    pub(crate) ramp: Option<DurationArg>,
    /// Time from the last arrival to the end [default: 30s, or until 10s after the last event]
    #[arg(long, value_name = "DURATION", help_heading = "Clients")]
    pub(crate) hold: Option<DurationArg>,
    /// Engine.IO protocol: 4 for Socket.IO 3 and 4, 3 for Socket.IO 2 [default: 4]
    #[arg(long, value_name = "3|4", help_heading = "Clients")]
    pub(crate) eio: Option<u8>,
    /// Store the cookies that the server sets, as a browser does
    #[arg(long, help_heading = "Clients")]
    pub(crate) cookies: bool,
    /// Do not reconnect after a lost connection; by default, clients reconnect after 1 to 5 s, as real ones
    /// do
    #[arg(long, help_heading = "Clients")]
    pub(crate) no_reconnect: bool,
    /// Maximum time of a connection attempt, and of an answer [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Clients")]
    pub(crate) timeout: Option<DurationArg>,

    /// Send a message at this interval, whatever the answers do [default: 10s; http: 1s]
    #[arg(long, value_name = "DURATION", conflicts_with = "think", help_heading = "Messages")]
    pub(crate) every: Option<DurationArg>,
    /// Send the next message this long after the answer; 0: as fast as the server answers
    #[arg(long, value_name = "DURATION", help_heading = "Messages")]
    pub(crate) think: Option<DurationArg>,
    /// Send no messages: connect, answer heartbeats, stay connected
    #[arg(long, conflicts_with_all = ["every", "think"], help_heading = "Messages")]
    pub(crate) silent: bool,
    /// Disconnect after this number of answered messages
    #[arg(long, value_name = "N", help_heading = "Messages")]
    pub(crate) messages: Option<u64>,
    /// Replace each client that has ended by a new one
    #[arg(long, help_heading = "Messages")]
    pub(crate) repeat: bool,
    /// Stay connected after the last message, until the end of the run
    #[arg(long, requires = "messages", conflicts_with = "repeat", help_heading = "Messages")]
    pub(crate) stay: bool,
    /// Size of a payload: 64, 4KiB… [default: 64]
    #[arg(long, value_name = "SIZE", help_heading = "Messages")]
    pub(crate) size: Option<SizeArg>,
    /// Type of a payload [default: text]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Messages")]
    pub(crate) payload: Option<Payload>,
    /// Socket.IO event to send [default: echo]
    #[arg(long, value_name = "NAME", help_heading = "Messages")]
    pub(crate) event: Option<String>,
    /// Expected answer to an event: its acknowledgement, the same event, or none [default: ack]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Messages")]
    pub(crate) answer: Option<Answer>,
    /// Interval at which one client broadcasts to all (event "all", see `node`) [default: no broadcasts]
    #[arg(long, value_name = "DURATION", help_heading = "Messages")]
    pub(crate) broadcast_every: Option<DurationArg>,

    /// Accept any certificate
    #[arg(long, conflicts_with = "ca", help_heading = "Connections")]
    pub(crate) insecure: bool,
    /// Trust only the certificate authorities of this PEM file
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    pub(crate) ca: Option<PathBuf>,
    /// Do not resume TLS sessions: make each handshake a full one
    #[arg(long, help_heading = "Connections")]
    pub(crate) no_resume: bool,
    /// Silent polling clients use one connection: a POST is sent before the next poll, and the client leaves
    /// by closing the connection; by default, polls and POSTs have a connection each, as in real clients
    #[arg(long, help_heading = "Connections")]
    pub(crate) single_connection: bool,
    /// Bytes per second that an HTTP client reads of a reply, in segments of Ethernet and with no maximum time
    /// for the reply: 16KiB… [default: as fast as they arrive]
    #[arg(long, value_name = "SIZE", help_heading = "Connections")]
    pub(crate) read_rate: Option<SizeArg>,
    /// Send this header with every request ("Name: value"); repeatable
    #[arg(long = "header", value_name = "FIELD", help_heading = "Connections")]
    #[serde(rename = "header")]
    pub(crate) headers: Vec<String>,
    /// Number of addresses of 127.0.0.0/8 to connect from [default: as many as the number of ports requires]
    #[arg(long, value_name = "N", help_heading = "Connections")]
    pub(crate) sources: Option<u32>,
    /// Threads that run clients [default: as many as the load requires, at most one per core]
    #[arg(long, value_name = "N", help_heading = "Connections")]
    pub(crate) threads: Option<usize>,

    /// Measure CPU time and memory of this process, usually the proxy; repeatable
    #[arg(long, value_name = "PID", help_heading = "Report")]
    pub(crate) cost_of: Vec<u32>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as an HTML page
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) html: Option<PathBuf>,
    /// Show neither progress nor summary
    #[arg(long, help_heading = "Report")]
    pub(crate) quiet: bool,

    /// Fail if the 99th percentile of the message latency is longer
    #[arg(long, value_name = "DURATION", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_p99: Option<DurationArg>,
    /// Fail if there are more errors (of all kinds)
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_errors: Option<u64>,
    /// Fail if more replies say that a session is unknown (code 1)
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_code1: Option<u64>,
    /// Fail if more clients lose their connection; clients still on a node at the end of its drain count
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_disconnects: Option<u64>,
    /// Fail if more answers come from a node that does not own the session; needs nodes that send X-Node
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_misrouted: Option<u64>,

    /// Whether the command is `controlled`.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) controlled: bool,
    /// `[herd]` of a file.
    #[arg(skip)]
    pub(crate) herd: Option<HerdOptions>,
    /// `[deploy]` of a file.
    #[arg(skip)]
    pub(crate) deploy: Option<DeployOptions>,
    /// `[chaos]` of a file.
    #[arg(skip)]
    pub(crate) chaos: Option<ChaosOptions>,
}

/// Flags of `herd`, keys of `[herd]`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HerdOptions {
    /// Time from the last arrival to the first disconnect [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Herd")]
    pub(crate) after: Option<DurationArg>,
    /// Number of times that all clients disconnect [default: 1]
    #[arg(long, value_name = "N", help_heading = "Herd")]
    pub(crate) times: Option<u32>,
    /// Time from one disconnect to the next [default: 30s]
    #[arg(long = "drop-every", value_name = "DURATION", help_heading = "Herd")]
    pub(crate) drop_every: Option<DurationArg>,
    /// Time over which the reconnects are spread [default: 0, all at once]
    #[arg(long, value_name = "DURATION", help_heading = "Herd")]
    pub(crate) within: Option<DurationArg>,
}

/// Flags of `deploy`, keys of `[deploy]`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DeployOptions {
    /// Number of nodes to start and replace [default: 3]
    #[arg(long, value_name = "N", help_heading = "Deploy")]
    pub(crate) nodes: Option<u16>,
    /// The proxy's backend list, one address per line; the run rewrites it for each step
    #[arg(long, value_name = "FILE", help_heading = "Deploy")]
    pub(crate) backends_file: Option<PathBuf>,
    /// Time from the last arrival to the first replacement [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Deploy")]
    pub(crate) after: Option<DurationArg>,
    /// Time from the removal of a node from the list to its stop [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Deploy")]
    pub(crate) drain: Option<DurationArg>,
    /// Admin socket of the Moorline in front, whose drain is compared with --drain [default: the default
    /// sockets]
    #[arg(long, value_name = "PATH", help_heading = "Deploy")]
    pub(crate) socket: Option<PathBuf>,
    /// Time from the stop of a node to the next replacement [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Deploy")]
    pub(crate) pause: Option<DurationArg>,
}

/// Flags of `chaos`, keys of `[chaos]`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ChaosOptions {
    /// Number of nodes to start [default: 3]
    #[arg(long, value_name = "N", help_heading = "Chaos")]
    pub(crate) nodes: Option<u16>,
    /// The proxy's backend list, one address per line; the run writes it once
    #[arg(long, value_name = "FILE", help_heading = "Chaos")]
    pub(crate) backends_file: Option<PathBuf>,
    /// An event: '5s kill 1', '5s kill 1 back 3s', '10s hang 2 for 5s', '20s reset 0'; repeatable
    #[arg(long = "do", value_name = "EVENT", help_heading = "Chaos")]
    #[serde(rename = "do")]
    pub(crate) events: Vec<String>,
}

/// Flags of `node`.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeOptions {
    /// Number of Socket.IO nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) nodes: u16,
    /// Address of the first node; the others use the ports after it, or any free ports if the port is 0
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3001")]
    pub(crate) listen: SocketAddr,
    /// Also start an echo server at this address: HTTP, WebSocket echo, bulk download
    #[arg(long, value_name = "ADDR")]
    pub(crate) echo: Option<SocketAddr>,
    /// Write the addresses of the nodes to this file, one per line, for a proxy
    #[arg(long, value_name = "FILE")]
    pub(crate) backends_file: Option<PathBuf>,
    /// Interval of the heartbeats that a node sends (`pingInterval`)
    #[arg(long, value_name = "DURATION", default_value = "25s")]
    pub(crate) ping_interval: DurationArg,
    /// Maximum time until a client answers a heartbeat (`pingTimeout`)
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) ping_timeout: DurationArg,
    /// Name of the node, if there is only one.
    #[arg(long, hide = true)]
    pub(crate) name: Option<String>,
    /// Read commands from standard input, and end with it: for nodes that a run starts.
    #[arg(long, hide = true)]
    pub(crate) until_eof: bool,
}

impl Options {
    /// Returns these options, completed with those of `file`.
    pub(crate) fn over(self, file: Self) -> Self {
        let spoken = self.every.is_some() || self.think.is_some() || self.silent;
        let arrival = self.rate.is_some() || self.ramp.is_some();
        let trust = self.insecure || self.ca.is_some();
        let list = |ours: Vec<_>, theirs| if ours.is_empty() { theirs } else { ours };
        Self {
            url: self.url.or(file.url),
            client: self.client.or(file.client),
            clients: self.clients.or(file.clients),
            // A flag also overrides the key of the file that it excludes.
            rate: self.rate.or(file.rate.filter(|_| !arrival)),
            ramp: self.ramp.or(file.ramp.filter(|_| !arrival)),
            hold: self.hold.or(file.hold),
            eio: self.eio.or(file.eio),
            cookies: self.cookies || file.cookies,
            no_reconnect: self.no_reconnect || file.no_reconnect,
            timeout: self.timeout.or(file.timeout),
            every: self.every.or(file.every.filter(|_| !spoken)),
            think: self.think.or(file.think.filter(|_| !spoken)),
            silent: self.silent || (file.silent && !spoken),
            messages: self.messages.or(file.messages),
            repeat: self.repeat || file.repeat,
            stay: self.stay || file.stay,
            size: self.size.or(file.size),
            payload: self.payload.or(file.payload),
            event: self.event.or(file.event),
            answer: self.answer.or(file.answer),
            broadcast_every: self.broadcast_every.or(file.broadcast_every),
            insecure: self.insecure || (file.insecure && !trust),
            ca: self.ca.or(file.ca.filter(|_| !trust)),
            no_resume: self.no_resume || file.no_resume,
            single_connection: self.single_connection || file.single_connection,
            read_rate: self.read_rate.or(file.read_rate),
            headers: list(self.headers, file.headers),
            sources: self.sources.or(file.sources),
            threads: self.threads.or(file.threads),
            cost_of: if self.cost_of.is_empty() { file.cost_of } else { self.cost_of },
            json: self.json.or(file.json),
            html: self.html.or(file.html),
            quiet: self.quiet || file.quiet,
            max_p99: self.max_p99.or(file.max_p99),
            max_errors: self.max_errors.or(file.max_errors),
            max_code1: self.max_code1.or(file.max_code1),
            max_disconnects: self.max_disconnects.or(file.max_disconnects),
            max_misrouted: self.max_misrouted.or(file.max_misrouted),
            controlled: self.controlled || file.controlled,
            herd: self.herd.or(file.herd),
            deploy: self.deploy.or(file.deploy),
            chaos: self.chaos.or(file.chaos),
        }
    }
}
