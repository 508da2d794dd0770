//! The rows of the page, and the flags of the load generator for each.

mod occupied;

use crate::{
    peer::{ListenerKind, Scene, Work},
    results::Better,
};

/// Rows that the same loads measure.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    /// The method, as shown on the page.
    pub(crate) method: String,
    pub(crate) loads: Vec<Load>,
}

/// One load on a new proxy process.
pub(crate) struct Load {
    /// Start of the rows' titles: "TLS, 64 B".
    pub(crate) title: &'static str,
    pub(crate) listener: ListenerKind,
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    pub(crate) scene: Scene,
    /// Whether `--quick` includes the load.
    pub(crate) quick: bool,
}

pub(crate) enum Kind {
    /// Active clients, and the figures of their run.
    Flow { flags: &'static str, figures: &'static [Figure] },
    /// Clients that occupy the proxy.
    Held(Held),
    /// The same requests through one worker and through two.
    Workers { flags: &'static str },
}

/// Clients that occupy the proxy: one run for each of their numbers, each with a new proxy.
pub(crate) struct Held {
    pub(crate) flags: &'static str,
    pub(crate) counts: &'static [u64],
    /// The numbers of a run with `--quick`.
    pub(crate) quick: &'static [u64],
    /// Arrivals per second.
    pub(crate) arrivals: u64,
    /// Time from the last connection to the end, in seconds.
    pub(crate) hold: u64,
    /// What is shown of the memory that is kept after the last number of clients.
    pub(crate) kept: Kept,
}

/// Figures of the memory that a proxy keeps after its clients left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// None; instead, the memory of each more client.
    Nothing,
    /// The share of the growth.
    Share,
    /// The share, and KiB for each client that has left.
    ShareAndEach,
}

/// A figure of a run.
#[derive(Clone, Copy)]
pub(crate) enum Figure {
    /// CPU microseconds of the proxy for each.
    Cpu(Unit),
    /// CPU seconds of the proxy for each GiB that the clients received.
    CpuPerGib,
    /// Number per second.
    Rate(Unit),
    /// 99th percentile of latency from the intended time, in microseconds; with the rate, as text.
    P99(&'static str),
    /// The share of its core that the proxy used.
    Busy,
}

/// The unit of work that is counted.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Answered requests.
    Request,
    /// Echoed messages.
    Message,
    /// TLS handshakes.
    Handshake,
    /// WebSockets from connect to close, with a message.
    Connection,
    /// Socket.IO sessions.
    Session,
}

/// All groups, in the order of the page.
pub(crate) fn groups() -> Vec<Group> {
    vec![
        http(),
        echo(),
        bulk(),
        occupied::idle(),
        setup(),
        session(),
        layer4(),
        occupied::polls(),
        occupied::kept_alive(),
        occupied::slow_readers(),
        occupied::workers(),
        gateway(),
    ]
}

const fn flow(
    title: &'static str,
    listener: ListenerKind,
    path: &'static str,
    flags: &'static str,
    figures: &'static [Figure],
) -> Load {
    let kind = Kind::Flow { flags, figures };
    Load { title, listener, path, kind, scene: Scene::Http, quick: true }
}

impl Load {
    /// Titles of the rows, except for what is kept and for the second worker.
    pub(crate) fn rows(&self) -> Vec<String> {
        let title = self.title;
        match &self.kind {
            Kind::Flow { figures, .. } => {
                figures.iter().map(|figure| format!("{title}: {}", figure.title())).collect()
            }
            Kind::Held(held) => {
                held.counts.iter().map(|count| format!("{title}, {count}: KiB each")).collect()
            }
            Kind::Workers { .. } => vec![format!("{title}: CPU µs per request")],
        }
    }

    const fn not_quick(mut self) -> Self {
        self.quick = false;
        self
    }

    const fn filters(mut self, work: Work) -> Self {
        self.scene = Scene::Gateway(work);
        self
    }

    const fn streams(mut self, splice: bool) -> Self {
        self.scene = Scene::Layer4 { splice };
        self
    }
}

fn http() -> Group {
    const BUSY: &str = "--client http --clients 50 --think 0ms";
    const PACED: &str = "--client http --clients 50 --every 12500us";
    const FIGURES: &[Figure] =
        &[Figure::Cpu(Unit::Request), Figure::Rate(Unit::Request), Figure::Busy];
    const LATENCY: &[Figure] = &[Figure::P99("at 4,000 requests/s")];
    Group {
        title: "1. HTTP/1.1, kept alive, small response",
        method:
            "50 connections. CPU and requests/s: the next request follows the answer; load and \
                 origin share a core, so they are the limit if the proxy's core is not full. \
                 p99: 4,000 requests/s, counted from the time each was due."
                .to_owned(),
        loads: vec![
            flow("plain", ListenerKind::Plain, "/", BUSY, FIGURES),
            flow("TLS", ListenerKind::Tls, "/", BUSY, FIGURES),
            flow("plain", ListenerKind::Plain, "/", PACED, LATENCY),
            flow("TLS", ListenerKind::Tls, "/", PACED, LATENCY),
        ],
    }
}

fn echo() -> Group {
    const BUSY: &str = "--client ws --clients 100 --payload binary --think 0ms --size 64";
    const BUSY_BIG: &str = "--client ws --clients 100 --payload binary --think 0ms --size 4096";
    const PACED: &str = "--client ws --clients 100 --payload binary --every 20ms --size 64";
    const PACED_BIG: &str = "--client ws --clients 100 --payload binary --every 20ms --size 4096";
    const FIGURES: &[Figure] =
        &[Figure::Cpu(Unit::Message), Figure::Rate(Unit::Message), Figure::Busy];
    const LATENCY: &[Figure] = &[Figure::P99("at 5,000 messages/s")];
    Group {
        title: "2. WebSocket echo",
        method: "100 sockets; a message goes there and back. CPU and messages/s: the next one \
                 follows the echo. p99: 5,000 messages/s, counted from the time each was due."
            .to_owned(),
        loads: vec![
            flow("plain, 64 B", ListenerKind::Plain, "/", BUSY, FIGURES),
            flow("TLS, 64 B", ListenerKind::Tls, "/", BUSY, FIGURES),
            flow("plain, 4 KiB", ListenerKind::Plain, "/", BUSY_BIG, FIGURES),
            flow("TLS, 4 KiB", ListenerKind::Tls, "/", BUSY_BIG, FIGURES),
            flow("plain, 64 B", ListenerKind::Plain, "/", PACED, LATENCY),
            flow("TLS, 64 B", ListenerKind::Tls, "/", PACED, LATENCY),
            flow("plain, 4 KiB", ListenerKind::Plain, "/", PACED_BIG, LATENCY).not_quick(),
            flow("TLS, 4 KiB", ListenerKind::Tls, "/", PACED_BIG, LATENCY).not_quick(),
        ],
    }
}

fn bulk() -> Group {
    const FLAGS: &str = "--client bulk --clients 4";
    const FIGURES: &[Figure] = &[Figure::CpuPerGib];
    Group {
        title: "3. Bulk through 4 tunnels",
        method: "Binary messages of 64 KiB from the origin to 4 WebSockets, as fast as they go."
            .to_owned(),
        loads: vec![
            flow("plain", ListenerKind::Plain, "/", FLAGS, FIGURES),
            flow("TLS", ListenerKind::Tls, "/", FLAGS, FIGURES),
        ],
    }
}

fn setup() -> Group {
    const FULL: &str = "--client connect --clients 16 --think 0ms --no-resume";
    const RESUMED: &str = "--client connect --clients 16 --think 0ms";
    const UPGRADE: &str = "--client ws --clients 16 --messages 1 --repeat --think 0ms";
    const HANDSHAKE: &[Figure] = &[Figure::Cpu(Unit::Handshake), Figure::Rate(Unit::Handshake)];
    const CONNECTION: &[Figure] = &[Figure::Cpu(Unit::Connection), Figure::Rate(Unit::Connection)];
    Group {
        title: "5. Setting up connections",
        method: "Handshakes: TCP connect, TLS 1.3 with X25519, close; no request. Upgrades: \
                 connect, upgrade, one message there and back, close; each by a new client, so that over \
                 TLS its handshake is a full one. 16 at a time.".to_owned(),
        loads: vec![
            flow("full, ECDSA P-256", ListenerKind::Tls, "/", FULL, HANDSHAKE),
            flow("resumed", ListenerKind::Tls, "/", RESUMED, HANDSHAKE),
            flow("full, RSA 2048", ListenerKind::Rsa, "/", FULL, HANDSHAKE),
            flow("upgrade, plain", ListenerKind::Plain, "/", UPGRADE, CONNECTION),
            flow("upgrade, TLS", ListenerKind::Tls, "/", UPGRADE, CONNECTION),
        ],
    }
}

fn session() -> Group {
    const BUSY: &str =
        "--client polling-upgrade --cookies --clients 16 --messages 10 --repeat --think 0ms";
    const PACED: &str =
        "--client polling-upgrade --cookies --clients 100 --messages 10 --repeat --every 50ms";
    const FIGURES: &[Figure] = &[Figure::Cpu(Unit::Session), Figure::Rate(Unit::Session)];
    const LATENCY: &[Figure] = &[Figure::P99("of a message, 100 sessions at a time")];
    Group {
        title: "6. A whole Socket.IO session",
        method:
            "Handshake, poll, connect, upgrade, 10 acknowledged messages, close, on 3 nodes, by \
                 clients that keep cookies, each from a different address. p99: each of 100 \
                 sessions sends every 50 ms."
                .to_owned(),
        loads: vec![
            flow("plain", ListenerKind::Plain, "/socket.io/", BUSY, FIGURES),
            flow("TLS", ListenerKind::Tls, "/socket.io/", BUSY, FIGURES),
            flow("plain", ListenerKind::Plain, "/socket.io/", PACED, LATENCY).not_quick(),
            flow("TLS", ListenerKind::Tls, "/socket.io/", PACED, LATENCY).not_quick(),
        ],
    }
}

fn layer4() -> Group {
    const CONNECT: &str = "--client http --clients 16 --messages 1 --repeat --think 0ms";
    const HANDSHAKES: &str = "--client connect --clients 16 --think 0ms --no-resume";
    const BULK: &str = "--client bulk --clients 4";
    const ECHO: &str = "--client ws --clients 100 --payload binary --think 0ms --size 4096";
    const CONNECTION: &[Figure] = &[Figure::Cpu(Unit::Connection), Figure::Rate(Unit::Connection)];
    const HANDSHAKE: &[Figure] = &[Figure::Cpu(Unit::Handshake), Figure::Rate(Unit::Handshake)];
    const MESSAGE: &[Figure] = &[Figure::Cpu(Unit::Message)];
    const GIB: &[Figure] = &[Figure::CpuPerGib];
    Group {
        title: "9. Layer 4",
        method: "TCP, TLS that ends at the proxy, and TLS that is passed on by the name in the \
                 ClientHello, to the same origin. Connections: connect, one small request and its \
                 answer, close. Handshakes: connect, full handshake with ECDSA P-256, close; passed \
                 ones end at an origin that shares the load's core. 16 at a time. Bulk: 64 KiB at a \
                 time to 4 clients. HAProxy and Moorline splice bulk in the clear, nginx and Caddy \
                 do not.".to_owned(),
        loads: vec![
            flow("TCP, connection", ListenerKind::Plain, "/", CONNECT, CONNECTION).streams(true),
            flow("TCP, 4 KiB there and back", ListenerKind::Plain, "/", ECHO, MESSAGE)
                .streams(true),
            flow("TCP, bulk", ListenerKind::Plain, "/", BULK, GIB).streams(true),
            flow("TCP, bulk without splice", ListenerKind::Plain, "/", BULK, GIB).streams(false),
            flow("TLS, handshake", ListenerKind::Tls, "/", HANDSHAKES, HANDSHAKE).streams(true),
            flow("TLS, bulk", ListenerKind::Tls, "/", BULK, GIB).streams(true),
            flow("passed by name, handshake", ListenerKind::Passed, "/", HANDSHAKES, HANDSHAKE)
                .streams(true),
            flow("passed by name, bulk", ListenerKind::Passed, "/", BULK, GIB).streams(true),
        ],
    }
}

fn gateway() -> Group {
    const BUSY: &str = "--client http --clients 50 --think 0ms";
    const GZIP: &str = "--client http --clients 50 --think 0ms --header accept-encoding:gzip";
    const FIGURES: &[Figure] =
        &[Figure::Cpu(Unit::Request), Figure::Rate(Unit::Request), Figure::Busy];
    let row = |title, path, flags, work| {
        flow(title, ListenerKind::Plain, path, flags, FIGURES).filters(work)
    };
    Group {
        title: "14. Gateway",
        method: "50 connections; the next request follows the answer. A stored response of 9 bytes; a file of 16 KiB; the \
                 same file, compressed by gzip at level 1 for each request; a request about which another server is \
                 asked first. nginx keeps stored responses in files, the others in memory. HAProxy and Envoy read the file \
                 when they start. HAProxy compresses only what servers send, and asks no other server; Debian's Caddy \
                 stores no responses. Envoy is of PyPI."
            .to_owned(),
        loads: vec![
            row("cache hit", "/cached", BUSY, Work::Cache),
            row("static file", "/files/page.html", BUSY, Work::Files),
            row("gzip", "/gzip/page.html", GZIP, Work::Compress),
            row("auth_request", "/protected", BUSY, Work::Authentication),
        ],
    }
}

/// Prints the titles of all groups and loads, to choose words for `--only`.
pub(crate) fn list() {
    for group in groups() {
        println!("{}", group.title);
        group.loads.iter().flat_map(Load::rows).for_each(|row| println!("    {row}"));
    }
}

impl Figure {
    /// End of the row's title.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Cpu(unit) => format!("CPU µs per {}", unit.name()),
            Self::CpuPerGib => "CPU s per GiB".to_owned(),
            Self::Rate(unit) => format!("{}s/s", unit.name()),
            Self::P99(under) => format!("p99 µs {under}"),
            Self::Busy => "% of the core used".to_owned(),
        }
    }

    pub(crate) fn better(self) -> Better {
        match self {
            Self::Cpu(_) | Self::CpuPerGib | Self::P99(_) => Better::Less,
            Self::Rate(_) => Better::More,
            Self::Busy => Better::Neither,
        }
    }
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Message => "message",
            Self::Handshake => "handshake",
            Self::Connection => "connection",
            Self::Session => "session",
        }
    }
}
