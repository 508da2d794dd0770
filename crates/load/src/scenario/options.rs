//! What was typed: the flags of a command and the keys of a scenario file, which are the same.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Deserialize;

use super::{
    Answer, ClientKind, Payload,
    values::{Rate, Size, Span},
};

/// Flags and keys of every run. A flag beats the file's key.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Options {
    /// Where to connect: http, https, ws or wss; a path other than /socket.io/ is taken as it is
    pub(crate) url: Option<String>,

    /// What kind of client each one is [default: polling-upgrade]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Clients")]
    pub(crate) client: Option<ClientKind>,
    /// How many clients [default: 100]
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub(crate) clients: Option<u32>,
    /// How many arrive a second [default: 100]
    #[arg(long, value_name = "RATE", conflicts_with = "ramp", help_heading = "Clients")]
    pub(crate) rate: Option<Rate>,
    /// Time over which all arrive, instead of a rate
    #[arg(long, value_name = "DURATION", help_heading = "Clients")]
    pub(crate) ramp: Option<Span>,
    /// From the last arrival to the end [default: 30s, or as long as the course takes]
    #[arg(long, value_name = "DURATION", help_heading = "Clients")]
    pub(crate) hold: Option<Span>,
    /// Engine.IO protocol: 4 for Socket.IO 3 and 4, 3 for Socket.IO 2 [default: 4]
    #[arg(long, value_name = "3|4", help_heading = "Clients")]
    pub(crate) eio: Option<u8>,
    /// Keep the cookies that the server sets, as a browser does
    #[arg(long, help_heading = "Clients")]
    pub(crate) cookies: bool,
    /// Stay away after a lost connection, instead of returning after 1 to 5 s as real clients do
    #[arg(long, help_heading = "Clients")]
    pub(crate) no_reconnect: bool,
    /// Longest wait for a connection or an answer [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Clients")]
    pub(crate) timeout: Option<Span>,

    /// Send a message every so often, whatever the answers do [default: 10s; http: 1s]
    #[arg(long, value_name = "DURATION", conflicts_with = "think", help_heading = "Messages")]
    pub(crate) every: Option<Span>,
    /// Send the next message so long after the answer; 0 is as fast as the server can
    #[arg(long, value_name = "DURATION", help_heading = "Messages")]
    pub(crate) think: Option<Span>,
    /// Stay silent: connect, answer heartbeats, hold
    #[arg(long, conflicts_with_all = ["every", "think"], help_heading = "Messages")]
    pub(crate) silent: bool,
    /// Leave after so many answered messages
    #[arg(long, value_name = "N", help_heading = "Messages")]
    pub(crate) messages: Option<u64>,
    /// A new client takes the place of each that has left
    #[arg(long, help_heading = "Messages")]
    pub(crate) repeat: bool,
    /// Bytes of a payload: 64, 4KiB… [default: 64]
    #[arg(long, value_name = "SIZE", help_heading = "Messages")]
    pub(crate) size: Option<Size>,
    /// What a payload is [default: text]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Messages")]
    pub(crate) payload: Option<Payload>,
    /// Socket.IO event to send [default: echo]
    #[arg(long, value_name = "NAME", help_heading = "Messages")]
    pub(crate) event: Option<String>,
    /// What answers an event: its acknowledgement, the same event, or nothing [default: ack]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Messages")]
    pub(crate) answer: Option<Answer>,
    /// One client tells all of them something so often (event "all", see `node`)
    #[arg(long, value_name = "DURATION", help_heading = "Messages")]
    pub(crate) broadcast_every: Option<Span>,

    /// Take any certificate
    #[arg(long, conflicts_with = "ca", help_heading = "Connections")]
    pub(crate) insecure: bool,
    /// Trust the authorities of this PEM file, and no others
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    pub(crate) ca: Option<PathBuf>,
    /// Make every TLS handshake a full one
    #[arg(long, help_heading = "Connections")]
    pub(crate) no_resume: bool,
    /// Send this with every request ("Name: value"); repeatable
    #[arg(long = "header", value_name = "FIELD", help_heading = "Connections")]
    #[serde(rename = "header")]
    pub(crate) headers: Vec<String>,
    /// Connect from so many addresses of 127.0.0.0/8 [default: as many as the ports ask for]
    #[arg(long, value_name = "N", help_heading = "Connections")]
    pub(crate) sources: Option<u32>,
    /// Threads that drive clients [default: as many as the load asks for, at most one for each core]
    #[arg(long, value_name = "N", help_heading = "Connections")]
    pub(crate) threads: Option<usize>,

    /// Measure what this process spends (the front door's); repeatable
    #[arg(long, value_name = "PID", help_heading = "Report")]
    pub(crate) cost_of: Vec<u32>,
    /// Write the raw figures
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report page
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) html: Option<PathBuf>,
    /// Show neither progress nor summary
    #[arg(long, help_heading = "Report")]
    pub(crate) quiet: bool,

    /// Fail where the 99th percentile of message latency is longer
    #[arg(long, value_name = "DURATION", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_p99: Option<Span>,
    /// Fail where there were more errors, of all kinds
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_errors: Option<u64>,
    /// Fail where more replies said that a session is unknown (code 1)
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_code1: Option<u64>,
    /// Fail where more clients lost a connection, those left on a node at the end of its drain included
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_disconnects: Option<u64>,
    /// Fail where more answers came from a node that is not the session's; nodes tell their names with X-Node
    #[arg(long, value_name = "N", help_heading = "Assertions (exit code 1)")]
    pub(crate) max_misrouted: Option<u64>,

    /// The command `led`.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) led: bool,
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
    /// From the last arrival to the first drop [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Herd")]
    pub(crate) after: Option<Span>,
    /// How many times all drop [default: 1]
    #[arg(long, value_name = "N", help_heading = "Herd")]
    pub(crate) times: Option<u32>,
    /// From one drop to the next [default: 30s]
    #[arg(long = "drop-every", value_name = "DURATION", help_heading = "Herd")]
    pub(crate) drop_every: Option<Span>,
    /// The returns are spread over this time [default: 0, all at once]
    #[arg(long, value_name = "DURATION", help_heading = "Herd")]
    pub(crate) within: Option<Span>,
}

/// Flags of `deploy`, keys of `[deploy]`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DeployOptions {
    /// How many nodes to start and replace [default: 3]
    #[arg(long, value_name = "N", help_heading = "Deploy")]
    pub(crate) nodes: Option<u16>,
    /// The proxy's backend list, an address a line, which is rewritten for each step
    #[arg(long, value_name = "FILE", help_heading = "Deploy")]
    pub(crate) backends_file: Option<PathBuf>,
    /// From the last arrival to the first replacement [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Deploy")]
    pub(crate) after: Option<Span>,
    /// From a node's removal from the list to its end [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Deploy")]
    pub(crate) drain: Option<Span>,
    /// Admin socket of the Moorline in front, whose drain is compared with --drain [default: the usual ones]
    #[arg(long, value_name = "PATH", help_heading = "Deploy")]
    pub(crate) socket: Option<PathBuf>,
    /// From a node's end to the next replacement [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Deploy")]
    pub(crate) pause: Option<Span>,
}

/// Flags of `chaos`, keys of `[chaos]`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ChaosOptions {
    /// How many nodes to start [default: 3]
    #[arg(long, value_name = "N", help_heading = "Chaos")]
    pub(crate) nodes: Option<u16>,
    /// The proxy's backend list, an address a line, which is written once
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
    /// How many Socket.IO nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) nodes: u16,
    /// Where the first listens; the others take the ports after it, with port 0 any free ones
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3001")]
    pub(crate) listen: SocketAddr,
    /// Serve an echo origin here too: HTTP, WebSocket echo, bulk download
    #[arg(long, value_name = "ADDR")]
    pub(crate) echo: Option<SocketAddr>,
    /// Write the nodes' addresses to this file, a line each, for a proxy to read
    #[arg(long, value_name = "FILE")]
    pub(crate) backends_file: Option<PathBuf>,
    /// How often a node asks whether its clients are there (`pingInterval`)
    #[arg(long, value_name = "DURATION", default_value = "25s")]
    pub(crate) ping_interval: Span,
    /// How long it waits for their answer (`pingTimeout`)
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) ping_timeout: Span,
    /// Name of the only node.
    #[arg(long, hide = true)]
    pub(crate) name: Option<String>,
    /// Take commands from standard input, and end with it: for nodes that a run starts itself.
    #[arg(long, hide = true)]
    pub(crate) until_eof: bool,
}

impl Options {
    /// These, and where they say nothing, `file`'s.
    pub(crate) fn over(self, file: Self) -> Self {
        let spoken = self.every.is_some() || self.think.is_some() || self.silent;
        let arrival = self.rate.is_some() || self.ramp.is_some();
        let trust = self.insecure || self.ca.is_some();
        let list = |ours: Vec<_>, theirs| if ours.is_empty() { theirs } else { ours };
        Self {
            url: self.url.or(file.url),
            client: self.client.or(file.client),
            clients: self.clients.or(file.clients),
            // Where one of two keys that exclude each other was typed, the file's other is void.
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
            size: self.size.or(file.size),
            payload: self.payload.or(file.payload),
            event: self.event.or(file.event),
            answer: self.answer.or(file.answer),
            broadcast_every: self.broadcast_every.or(file.broadcast_every),
            insecure: self.insecure || (file.insecure && !trust),
            ca: self.ca.or(file.ca.filter(|_| !trust)),
            no_resume: self.no_resume || file.no_resume,
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
            led: self.led || file.led,
            herd: self.herd.or(file.herd),
            deploy: self.deploy.or(file.deploy),
            chaos: self.chaos.or(file.chaos),
        }
    }
}
