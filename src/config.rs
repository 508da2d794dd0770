//! What a configuration means.
//!
//! [`Config`] is the checked form: names resolved, durations parsed, certificates loaded, defaults
//! filled in. It is built by [`check`] from what a user typed (`file`), or directly by a command
//! that needs no file. A `Config` needs no further validation.
//!
//! This module must not know any runtime module: nothing here listens, connects or spawns.

mod address;
mod admin;
mod backends;
mod bytes;
mod certs;
pub mod check;
mod content;
mod defaults;
mod drain;
mod environment;
mod error_pages;
mod fault;
mod file;
mod folders;
mod foreign;
mod health;
mod includes;
mod listeners;
mod machine;
mod merge;
mod names;
mod networks;
pub mod path;
mod places;
mod pools;
mod proxy_out;
mod reader;
mod resilience;
mod routes;
mod schema;
mod secrets;
mod secure;
mod source_map;
mod sources;
pub(crate) mod staple;
mod sticky;
mod syntax;
mod terms;
mod text;
mod tls;
mod value;
pub mod warnings;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rustls::sign::CertifiedKey;

pub(crate) use self::bytes::bytes as file_bytes;
pub use self::content::{Content, Reading};
pub use self::error_pages::{ErrorPage, ErrorPageEntry, ErrorPages, Placeholder, StatusPattern};
pub use self::fault::InvalidValue;
pub use self::places::ValuePlaces;
pub use self::proxy_out::{ProxyOut, Tlv, Tlvs};
pub(crate) use self::sources::url_without_secrets;
pub use self::terms::{
    Admin, AdminRemote, AdminSocket, Admission, BackendSource, Dns, DrainConfig, HeaderLimits,
    HttpSource, Limits, Outlier, Rate, RebalanceConfig, Reload, Upgrade,
};
pub use self::tls::{
    Acme, BackendTls, CertificateSource, ClientAuth, TlsConfig, TlsVersion, UnknownSni, suite_name,
};
pub(crate) use self::{
    address::bind as listen_address,
    address::reaches,
    admin::socket_path,
    backends::{HEAVIEST, MOST as MOST_BACKENDS},
    folders::user_name,
    includes::pattern_matches,
    names::valid as valid_name,
    schema::documented_default,
    sticky::{FORMER_NAME as FORMER_COOKIE_NAME, default_name as default_cookie_name},
};

/// The configuration of one process. Two equal configurations are interchangeable.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Sockets to accept on, in file order; names are unique.
    pub listeners: Vec<ListenerConfig>,
    /// Rules from host and path to a pool, in file order; no two have the same host and path.
    pub routes: Vec<RouteConfig>,
    /// Groups of interchangeable backends, in file order; names are unique.
    pub pools: Vec<PoolConfig>,
    /// Keys under which sticky cookies are made.
    pub cookie_keys: SharedKeys,
    /// Keys under which TLS sessions can be resumed.
    pub ticket_keys: SharedKeys,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// When backends get `Forwarded`.
    pub forwarded: Forwarded,
    /// Bounds of the sid table.
    pub sessions: SessionsConfig,
    /// Destination of the access log.
    pub access_log: AccessLogConfig,
    /// Parts of names of query parameters whose values are not logged, beside the built-in ones; after a
    /// `!` a whole name whose value is.
    pub redact: Vec<String>,
    /// How a stopping process drains its connections.
    pub drain: DrainConfig,
    /// How changes of the file take effect.
    pub reload: Reload,
    /// How a process hands over to a new binary.
    pub upgrade: Upgrade,
    /// HTML pages for errors that the proxy reports itself, on routes without a page for the error and
    /// for requests without a route; `None`: the built-in page.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// The admin API and the metrics.
    pub admin: Admin,
    /// Places of the values in the file; empty without a file.
    pub places: ValuePlaces,
    /// Files that cause a reload if they change: the configuration itself, backend lists, certificates, keys.
    pub watched: Vec<PathBuf>,
}

/// When backends get `Forwarded` (RFC 7239) beside `X-Forwarded-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// With requests of trusted peers that sent it.
    #[default]
    Pass,
    /// With every request.
    Always,
}

impl Forwarded {
    /// The setting's value in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Always => "always",
        }
    }
}

/// One named group of listening addresses that behave alike.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerConfig {
    /// Name in the file, and in logs and metrics.
    pub name: String,
    /// At least one address; port 0 asks the kernel for a free one.
    pub bind: Vec<SocketAddr>,
    /// The protocol of the connections.
    pub protocol: ListenerProtocol,
    /// Pool of the streams of a `tcp`, `tls` or `tls-passthrough` listener, always there for the first
    /// two; `None`: requests are routed, or what no rule of `passthrough` covers is refused.
    pub pool: Option<String>,
    /// Server names whose connections are passed on as they come, in file order; the first that covers
    /// a ClientHello counts.
    pub passthrough: Vec<PassthroughConfig>,
    /// Whether connections begin with a PROXY header; `None`: none is looked for.
    pub proxy_protocol: Option<ProxyIn>,
    /// How many connections one client address may have open at once, IPv6 by /64; `None`: any number.
    pub connections_per_address: Option<NonZeroU32>,
    /// Answer every request with a redirect instead of routing it.
    pub redirect: Option<Redirect>,
    /// Deadline of what comes before the first request or byte of the application: PROXY header and TLS
    /// handshake together, from accept.
    pub handshake_timeout: Duration,
    /// Deadline of a request's header, from its first byte. The first header of a connection counts from the
    /// accept or from the end of the TLS handshake.
    pub header_timeout: Duration,
    /// How long a connection is kept without a byte of another request.
    pub keep_alive: Duration,
    /// Limits of a request's header.
    pub header: HeaderLimits,
}

/// The protocol of a listener.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerProtocol {
    /// HTTP/1.x in the clear.
    Http,
    /// HTTP/1.1 over TLS.
    Https(TlsConfig),
    /// Anything: bytes to a pool.
    Tcp,
    /// TLS that is terminated here, and what is in it to a pool.
    Tls(TlsConfig),
    /// TLS that is not terminated here: its ClientHello decides on the pool.
    TlsPassthrough,
}

impl ListenerConfig {
    /// Whether a connection to this address reaches the listener.
    pub fn is_at(&self, address: &Address) -> bool {
        let candidates = match address.literal() {
            Some(literal) => vec![literal],
            // Every other name is looked up when the process runs.
            None if address.host == "localhost" || address.host.ends_with(".localhost") => {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                loopback.map(|ip| SocketAddr::new(ip, address.port)).to_vec()
            }
            None => Vec::new(),
        };
        candidates.iter().any(|candidate| self.bind.iter().any(|own| reaches(*own, *candidate)))
    }
}

impl ListenerProtocol {
    /// The name in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https(_) => "https",
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::TlsPassthrough => "tls-passthrough",
        }
    }

    /// The TLS settings, if TLS is terminated.
    pub fn tls(&self) -> Option<&TlsConfig> {
        match self {
            Self::Https(tls) | Self::Tls(tls) => Some(tls),
            Self::Http | Self::Tcp | Self::TlsPassthrough => None,
        }
    }

    /// The ACME settings, if the certificate is ordered.
    pub fn acme(&self) -> Option<&Acme> {
        match self.tls().map(|tls| &tls.certificates) {
            Some(CertificateSource::Acme(terms)) => Some(terms),
            _ => None,
        }
    }

    /// The protocols offered by ALPN, in order of preference.
    pub fn alpn(&self) -> Vec<&str> {
        match self {
            Self::Https(_) => vec!["http/1.1"],
            Self::Tls(tls) => tls.alpn.iter().map(String::as_str).collect(),
            Self::Http | Self::Tcp | Self::TlsPassthrough => Vec::new(),
        }
    }

    /// Whether requests are read here, and not only bytes.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http | Self::Https(_))
    }
}

/// Connections that are passed on without being decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughConfig {
    /// Server names that it covers, any of them; empty: every one, and none.
    pub sni: Vec<HostPattern>,
    /// Protocols of which the client has to offer one by ALPN; empty: whatever it offers.
    pub alpn: Vec<String>,
    /// Name of a pool in [`Config::pools`].
    pub pool: String,
}

impl PassthroughConfig {
    /// Whether it names this one, which is in lower case and without a final dot.
    pub fn names(&self, name: &str) -> bool {
        self.sni.iter().any(|pattern| pattern.covers(name))
    }
}

/// Peers that may name the client in a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyIn {
    /// Whether a connection without the header is closed.
    pub required: bool,
    /// Peers that may send one; at least one network.
    pub from: Vec<IpNet>,
}

impl ProxyIn {
    /// Whether a header from this peer is trusted.
    pub fn believes(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|network| network.contains(&peer))
    }
}

/// A certificate chain with its private key, known to belong together.
#[derive(Clone)]
pub struct Certificate {
    /// DNS names the leaf is valid for, lower case, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// Chain and signing key as rustls serves them.
    pub key: Arc<CertifiedKey>,
}

impl PartialEq for Certificate {
    /// Compares chain and staple; equal leaf certificates have equal keys.
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert && self.key.ocsp == other.key.ocsp
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Target of a redirecting listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// 308 to the same host and path over https.
    Https {
        /// Port to name in the target; `None`: 443, which is left out.
        port: Option<u16>,
    },
}

/// One rule from a request's host and path to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Which hosts it covers.
    pub host: HostPattern,
    /// Path prefix, on segment boundaries; starts with `/`.
    pub path: String,
    /// Name of a pool in [`Config::pools`].
    pub pool: String,
    /// Names of the listeners that use the route; empty: every listener.
    pub listeners: Vec<String>,
    /// HTML pages for errors that the proxy reports itself.
    pub error_pages: Option<Arc<ErrorPages>>,
}

impl fmt::Display for RouteConfig {
    /// Host and path, and the listeners if the route is not for all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Any => f.write_str(&self.path)?,
            HostPattern::Exact(name) => write!(f, "{name}{}", self.path)?,
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}{}", self.path)?,
        }
        match &self.listeners[..] {
            [] => Ok(()),
            listeners => write!(f, " on {}", listeners.join(", ")),
        }
    }
}

/// Hosts that a route covers; names are lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This name only.
    Exact(String),
    /// Any name with at least one label before this suffix: `*.example.com` is stored as `example.com`.
    Wildcard(String),
}

impl HostPattern {
    /// Whether this name is one of its; in lower case, without port and final dot.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => name == exact,
            Self::Wildcard(suffix) => {
                let labels = name.strip_suffix(suffix.as_str()).and_then(|l| l.strip_suffix('.'));
                labels.is_some_and(|labels| !labels.is_empty())
            }
        }
    }
}

/// Interchangeable backends and how they are used.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// Name in the file, and in logs and metrics.
    pub name: String,
    /// The backends, inline and from files; names are unique within the pool. Empty only if a
    /// backend list file is empty, or if a source provides the backends.
    pub backends: Vec<BackendConfig>,
    /// What brings backends while the process runs; `None`: the configuration has them all.
    pub source: Option<BackendSource>,
    /// How a backend is chosen for a new session.
    pub balance: Balance,
    /// How backends are probed.
    pub health: HealthConfig,
    /// How sessions are kept on their backend.
    pub sticky: Sticky,
    /// Deadlines per phase.
    pub timeouts: Timeouts,
    /// Bounds of the kept-alive connections to each backend.
    pub reuse: Reuse,
    /// How a removed or drained backend is emptied of the sessions it has.
    pub drain: DrainConfig,
    /// Over how long a backend that is new or has come back grows into its full weight; zero: at once.
    pub slow_start: Duration,
    /// When a backend that fails under traffic is left out; `None`: never.
    pub outlier: Option<Outlier>,
    /// Percent of the backends: where fewer are healthy, health is ignored and all are used; 0: never.
    pub healthy_minimum: u8,
    /// What one backend is given at once, at most.
    pub limits: Limits,
    /// How many new sessions a backend is given in a time; `None`: as many as come.
    pub admission: Option<Admission>,
    /// How tunnels are shed from backends that have more than their share; `None`: never.
    pub rebalance: Option<RebalanceConfig>,
    /// How long a tunnel lives at most, minus up to a tenth at random; `None`: unlimited.
    pub max_connection_age: Option<Duration>,
    /// Over how long the tunnels of a backend that is down are closed; `None`: they are kept.
    pub on_down: Option<Duration>,
    /// TLS settings of connections to the backends; `None`: no TLS.
    pub tls: Option<BackendTls>,
    /// Which PROXY header connections to the backends begin with; `None`: none does.
    pub proxy_protocol: Option<ProxyOut>,
    /// Limits of a response's header.
    pub response_header: HeaderLimits,
    /// Paths below which a backend may hold a request for as long as it likes.
    pub long_polls: Vec<String>,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendConfig {
    /// Given name; the address as typed where none was given.
    pub name: String,
    /// Its address.
    pub address: Address,
    /// Share of new sessions relative to its neighbours; at least 1.
    pub weight: u32,
}

/// Host and port; the host is an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// IPv4, IPv6 (without brackets) or a DNS name in lower case.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl Address {
    /// The socket address, if the host is an IP address.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a backend is chosen for a client without affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Fewest live sessions and tunnels for its weight.
    #[default]
    LeastSessions,
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two drawn at random by weight.
    P2c,
    /// By the client's address, so that a client returns to its backend while it is there.
    SourceHash,
}

impl Balance {
    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeastSessions => "least-sessions",
            Self::RoundRobin => "round-robin",
            Self::P2c => "p2c",
            Self::SourceHash => "source-hash",
        }
    }
}

/// How backends are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What a probe does.
    pub probe: ProbeConfig,
    /// Time between probes of one backend, ±10 % jitter.
    pub interval: Duration,
    /// Deadline of one probe, from connect to verdict.
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures, of probes or of connects, that take it down.
    pub fall: u32,
}

/// What a health probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeConfig {
    /// Nothing: a backend is always up.
    Off,
    /// Open a TCP connection.
    Tcp,
    /// `GET` a path and look at the status.
    Http {
        /// Path and query, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
        /// Statuses that count as healthy, inclusive.
        status: (u16, u16),
    },
    /// An Engine.IO session from its beginning to its end: handshake, upgrade probe, close. Finds a dead
    /// event loop that an HTTP 200 hides.
    EngineIo {
        /// Path, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
    },
    /// A WebSocket handshake: a valid 101, then a Close.
    WebSocket {
        /// Path and query, starting with `/`.
        path: String,
        /// `Host` header; `None`: the backend's address.
        host: Option<String>,
    },
}

/// How sessions are kept on their backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Follow Engine.IO session ids.
    pub engine_io: bool,
    /// Backends asked, one after the other, for an unknown sid; 0: none, the first one's answer stands.
    pub owner_search: usize,
    /// The sticky cookie; `None`: not set and not read.
    pub cookie: Option<Cookie>,
    /// How long a client without a cookie is remembered after its session ended, by its address and
    /// user agent, so that it returns to its backend; zero: not at all.
    pub memory: Duration,
}

/// Attributes of the sticky cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Cookie name, an RFC 6265 token; by default made from the pool's name.
    pub name: String,
    /// `SameSite`; `None`: `None` for a cross-site request over TLS, else `Lax`.
    pub same_site: Option<SameSite>,
    /// `Secure`; `None`: if the client uses TLS.
    pub secure: Option<bool>,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `Partitioned` (CHIPS); implies `Secure`.
    pub partitioned: bool,
    /// `Max-Age`; `None`: until the browser closes.
    pub lifetime: Option<Duration>,
    /// Which replies set it.
    pub set_on: SetOn,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Sent on same-site requests only.
    Strict,
    /// Sent on same-site requests and top-level navigation.
    Lax,
    /// Sent always; browsers want `Secure` with it.
    None,
}

/// Which replies set the sticky cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetOn {
    /// Engine.IO handshakes and WebSocket upgrades.
    #[default]
    Handshake,
    /// Every reply to a client that has none, for applications with affinity needs of their own.
    Always,
}

/// Deadlines per phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection to a backend, each try.
    pub connect: Duration,
    /// From the last byte of the request to the end of the response's header. An Engine.IO poll's is never
    /// shorter than its session's own `pingInterval + pingTimeout`; other long polls have
    /// [`stream_idle`](Self::stream_idle) instead.
    pub response_header: Duration,
    /// Longest pause within a body, in either direction.
    pub body_idle: Duration,
    /// Longest silence of an event stream, and longest time that a long poll is held; `None`: unlimited.
    pub stream_idle: Option<Duration>,
    /// Longest pause in a tunnel; `None`: unlimited.
    pub tunnel_idle: Option<Duration>,
    /// Longest pause in a tunnel of which one side has ended its direction.
    pub half_closed: Duration,
}

/// Bounds of the kept-alive connections to each backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Most connections kept while idle.
    pub max_idle: usize,
    /// Most HTTP connections at all, tunnels not counted; `None`: unlimited.
    pub max_total: Option<usize>,
    /// How long one is kept while idle.
    pub idle_timeout: Duration,
}

/// Bounds of the sid table, over all pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionsConfig {
    /// Most sids remembered; past it, for each new one, the one nearest its expiry of a few drawn
    /// at random goes.
    pub max: usize,
    /// Longest sid that is remembered, in bytes after percent-decoding.
    pub max_sid_bytes: usize,
}

/// Destination of the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogConfig {
    /// No access log.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// Keys that several proxies may share; the first makes, all are accepted.
#[derive(Clone, PartialEq, Eq)]
pub enum SharedKeys {
    /// From a file or the environment: at least one, each at least 32 bytes.
    Given(Vec<Vec<u8>>),
    /// Made at start: a restart forgets it and no other proxy knows it.
    Made,
}

impl fmt::Debug for SharedKeys {
    /// Shows the number of keys, never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(keys) => write!(f, "Given({} keys)", keys.len()),
            Self::Made => f.write_str("Made"),
        }
    }
}
