//! Types of the admin API `/v1`, shared by the server and the command line. `openapi.json` describes
//! them.
//!
//! Pure data. Durations are seconds with fractions; instants are Unix time in seconds. A session id is
//! a secret: requests may contain one, replies never do. Replies name sessions by [`Id`].

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// Description of the API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("api/openapi.json");

/// Id of a tunnel or session in this process, valid for its lifetime. Meaningless in another process.
pub type Id = String;

/// State of a process and all its parts.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime: f64,
    /// Whether the process serves, drains or stops.
    pub state: ProcessState,
    /// Progress of the drain, if the process drains.
    pub drain: Option<DrainState>,
    /// Open client connections of any kind.
    pub connections: u64,
    /// Open tunnels of all backends: WebSockets and layer-4 streams.
    pub tunnels: u64,
    /// Live sessions of all backends, including those with a tunnel.
    pub sessions: u64,
    /// The listeners.
    pub listeners: Vec<ListenerState>,
    /// The pools.
    pub pools: Vec<PoolState>,
    /// The newest reload; `None`: none since the start.
    pub reload: Option<ReloadState>,
    /// Processes that this one took over from and that still hold connections.
    pub predecessors: Vec<Predecessor>,
}

/// State of a process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// Takes new sessions.
    Serving,
    /// Takes no new session.
    Draining,
    /// Shuts down: accepts no new connections.
    Stopping,
}

/// Progress of a drain.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct DrainState {
    /// Start of the drain, in Unix time.
    pub since: f64,
    /// Seconds until the deadline; `None`: no deadline, the drain ends when the last session has
    /// ended.
    pub seconds_left: Option<f64>,
    /// Seconds until the drain begins to close tunnels; 0 once it has begun.
    pub seconds_to_closes: Option<f64>,
    /// Open tunnels.
    pub sockets_left: u64,
    /// Live sessions, including those with a tunnel.
    pub sessions_left: u64,
}

/// A named group of listening addresses.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ListenerState {
    /// Name in the file.
    pub name: String,
    /// `http` or `https`.
    pub protocol: String,
    /// Bound addresses.
    pub addresses: Vec<SocketAddr>,
    /// Certificates in use at this moment.
    pub certificates: Vec<CertificateState>,
    /// Why the newest certificate order failed; `None`: it did not fail.
    pub certificate_error: Option<String>,
}

/// A certificate that a listener uses.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CertificateState {
    /// DNS names in the certificate.
    pub names: Vec<String>,
    /// Expiry in Unix time; `None`: the date cannot be read.
    pub expires: Option<f64>,
}

/// A pool and its backends.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PoolState {
    /// Name in the file.
    pub name: String,
    /// Balance policy, as written in the file.
    pub balance: String,
    /// Source of the backends: `configuration`, `dns`, `srv` or `http`.
    pub source: String,
    /// Why the last answer of the source cannot be used; the last good answer stays in force.
    pub source_error: Option<String>,
    /// Whether the pool was removed from the configuration; its backends drain.
    pub removed: bool,
    /// Backends of the pool, then removed backends that still hold sessions.
    pub backends: Vec<BackendState>,
}

/// One backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendState {
    /// Name of its pool.
    pub pool: String,
    /// Name, unique in the pool.
    pub name: String,
    /// Address, as configured.
    pub address: String,
    /// Where the backend comes from.
    pub origin: BackendOrigin,
    /// State of the backend for new sessions.
    pub state: BackendCondition,
    /// Weight, as configured or set by command.
    pub weight: u32,
    /// Share of the weight in force, 0 to 1; less than 1 during a slow start.
    pub ramp: f64,
    /// Live sessions, including those with a tunnel and the tunnels of earlier processes.
    pub sessions: u64,
    /// Open tunnels, including those of earlier processes.
    pub tunnels: u64,
    /// Requests in flight.
    pub requests: u64,
    /// Unix time at which the backend came up or went down.
    pub since: f64,
    /// Why the backend is down or ejected; `None`: it is neither.
    pub reason: Option<String>,
    /// The newest failed check, also while the backend is up; `None`: no check has failed.
    pub last_failure: Option<CheckFailureInfo>,
    /// For a removed backend whose sessions continue: the configured backend with the same address, as
    /// `pool/backend`.
    pub goes_on_as: Option<String>,
    /// Progress of the drain, if the backend drains.
    pub drain: Option<DrainState>,
}

/// A failed check of a backend: a health probe, or a request without an answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CheckFailureInfo {
    /// Time of the check, in Unix time.
    pub at: f64,
    /// What was expected, and what happened.
    pub reason: String,
}

/// Where a backend comes from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendOrigin {
    /// The configuration or a list file that it names.
    Configured,
    /// The pool's source.
    Discovered,
    /// A command of this API; valid until restart.
    Added,
}

/// State of a backend for new sessions; the first that applies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendCondition {
    /// Removed from the configuration, and still holding sessions.
    Leaving,
    /// Drained by command, and empty.
    Drained,
    /// Drained by command, and not empty yet.
    Draining,
    /// Its health checks fail.
    Down,
    /// Ejected for its failures under traffic.
    Ejected,
    /// Takes new sessions, with a growing share of its weight.
    SlowStart,
    /// Takes new sessions.
    Up,
}

/// Result of a reload.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ReloadState {
    /// Time of the reload, in Unix time.
    pub at: f64,
    /// All errors, if the reload was rejected.
    pub error: Option<String>,
}

/// A process that handed over to this one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Predecessor {
    /// Its process id.
    pub pid: u32,
    /// What the process still holds.
    pub drain: DrainState,
}

/// A backend to add to a pool until restart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Host and port.
    pub address: String,
    /// Name; the address if omitted.
    #[serde(default)]
    pub name: Option<String>,
    /// Weight; 1 if omitted.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// A new weight for a backend, until restart.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewWeight {
    /// 1 to 65535.
    pub weight: u32,
}

/// Deadline and spread of a drain.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainTerms {
    /// Seconds until the deadline; `None`: no tunnel is closed, the drain ends when the last session
    /// has ended.
    #[serde(default)]
    pub within: Option<f64>,
    /// Seconds before the deadline over which closes are spread; half of `within` if omitted.
    #[serde(default)]
    pub spread: Option<f64>,
}

/// One or more backends: to drain or undrain, or to list the sessions of.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackendTarget {
    /// The pool; `None`: all pools.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in the pool; `None`: all backends.
    #[serde(default)]
    pub backend: Option<String>,
}

impl fmt::Display for BackendTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pool, &self.backend) {
            (None, _) => f.write_str("every pool"),
            (Some(pool), None) => f.write_str(pool),
            (Some(pool), Some(backend)) => write!(f, "{pool}/{backend}"),
        }
    }
}

/// A [`BackendTarget`] and [`DrainTerms`] in one body.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in the pool; `None`: all backends.
    #[serde(default)]
    pub backend: Option<String>,
    /// All backends of all pools, instead of one pool.
    #[serde(default)]
    pub all: bool,
    /// As in [`DrainTerms`].
    #[serde(default)]
    pub within: Option<f64>,
    /// As in [`DrainTerms`].
    #[serde(default)]
    pub spread: Option<f64>,
}

impl DrainRequest {
    /// Splits the body into target and terms; `None`: it names no target.
    pub fn split(self) -> Option<(BackendTarget, DrainTerms)> {
        let how = DrainTerms { within: self.within, spread: self.spread };
        Some((whom(self.pool, self.backend, self.all)?, how))
    }
}

/// The backends whose drains end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Undrain {
    /// The pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in the pool; `None`: all backends.
    #[serde(default)]
    pub backend: Option<String>,
    /// All backends of all pools, instead of one pool.
    #[serde(default)]
    pub all: bool,
}

impl Undrain {
    /// Returns the target; `None`: the body names none.
    pub fn target(self) -> Option<BackendTarget> {
        whom(self.pool, self.backend, self.all)
    }
}

/// All backends are meant only if `all` says so: a request that lost its pool name must not empty a
/// fleet.
fn whom(pool: Option<String>, backend: Option<String>, all: bool) -> Option<BackendTarget> {
    (all == (pool.is_none() && backend.is_none())).then_some(BackendTarget { pool, backend })
}

/// All pools.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pools {
    /// In the order of the file.
    pub pools: Vec<PoolState>,
}

/// The backends that a command changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Backends {
    /// By pool, in the order of the file.
    pub backends: Vec<BackendState>,
}

/// A tunnel, a layer-4 stream, or a polling session.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionState {
    /// Id, to close the session with.
    pub id: Id,
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend.
    pub backend: String,
    /// Kind of session.
    pub kind: SessionKind,
    /// Client address, without a port for a polling session. `None`: another process opened the
    /// session.
    pub client: Option<String>,
    /// Seconds since the session was opened, or was found by an owner search. `None`: another process
    /// opened it.
    pub age: Option<f64>,
}

/// Kind of a session.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// An upgraded connection.
    Tunnel,
    /// A layer-4 connection.
    Stream,
    /// An Engine.IO session without a tunnel.
    Polling,
}

/// A list of sessions, up to the requested limit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionList {
    /// Number of all sessions.
    pub total: u64,
    /// The listed sessions.
    pub sessions: Vec<SessionState>,
}

/// A session to find.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FindRequest {
    /// The session id, as clients send it in `sid=`.
    pub sid: String,
}

impl fmt::Debug for FindRequest {
    /// A session id is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindOrder").finish_non_exhaustive()
    }
}

/// What was closed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Closed {
    /// Id of the closed session.
    pub closed: Id,
}

/// Where a session id is known.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Whereabouts {
    /// The session in each pool that knows it.
    pub found: Vec<SessionState>,
}

/// What applying a configuration would change, or has changed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// Whether nothing changes.
    pub empty: bool,
    /// Each change, in the order of the file.
    pub changes: Vec<Change>,
    /// Number of tunnels that would be closed or cut.
    pub disconnected_tunnels: u64,
    /// Number of sessions that would end, including those with a tunnel.
    pub disconnected_sessions: u64,
    /// Seconds until the last session ends, if they do not end by themselves before.
    pub by: Option<f64>,
}

/// One change of a plan.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Change {
    /// What changes.
    pub what: ChangedThing,
    /// How it changes.
    pub how: ChangeKind,
    /// Name of the listener, pool or setting, host and path of the route, or `pool/backend`.
    pub name: String,
    /// Short description.
    pub detail: String,
    /// Number of tunnels that would be closed or cut.
    pub tunnels: u64,
    /// Number of sessions that would end, including those with a tunnel.
    pub sessions: u64,
    /// Seconds until the last session ends.
    pub by: Option<f64>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, how, name, detail, .. } = self;
        write!(f, "{} {name} {}", what.label(), how.label())?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

/// The part of the configuration that changes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangedThing {
    /// A listener.
    Listener,
    /// A route.
    Route,
    /// A pool.
    Pool,
    /// A backend.
    Backend,
    /// Another setting of the process.
    Setting,
}

impl ChangedThing {
    /// Name for display.
    pub fn label(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Pool => "pool",
            Self::Backend => "backend",
            Self::Setting => "setting",
        }
    }
}

impl ChangeKind {
    /// Name for display.
    pub fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Kept => "kept",
        }
    }
}

/// How a part of the configuration changes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// New in the configuration.
    Added,
    /// Removed.
    Removed,
    /// Kept, with other settings.
    Changed,
    /// Set by a command of this API, and kept.
    Kept,
}

/// Options of a reload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Reject the reload if it would disconnect more tunnels, streams and polling sessions.
    #[serde(default)]
    pub max_disconnects: Option<u64>,
}

/// A configuration to plan.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Text of the file; `None`: the file of the running process, as it is now.
    #[serde(default)]
    pub text: Option<String>,
    /// Absolute path of the file; relative paths in the text start at its directory.
    #[serde(default)]
    pub path: Option<String>,
}

/// A request to explain.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// URL that the client requests, `https://host[:port]/path?query`; `tcp://host:port` or
    /// `tls://name:port` for a layer-4 stream.
    pub url: String,
    /// Method; `GET` if omitted.
    #[serde(default)]
    pub method: Option<String>,
    /// The `Cookie` header.
    #[serde(default)]
    pub cookie: Option<String>,
    /// Client address, for `source-hash` and for recent sessions.
    #[serde(default)]
    pub client: Option<std::net::IpAddr>,
    /// The `User-Agent` header.
    #[serde(default)]
    pub user_agent: Option<String>,
    /// Whether the request asks for a WebSocket; a `GET` with `transport=websocket` in its query
    /// always does.
    #[serde(default)]
    pub upgrade: bool,
}

/// Which backend would get a request, and by which rule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// The listener; `None`: no listener accepts the connection.
    pub listener: Option<String>,
    /// The route: host and path as written in the file.
    pub route: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// The backend; `None`: no backend, or the one that turns out to know the session.
    pub backend: Option<String>,
    /// The rule, as in `chosen_by` of the access log.
    pub chosen_by: String,
    /// The status of the proxy's own reply; `None`: the backend answers.
    #[serde(default)]
    pub status: Option<u16>,
    /// The steps to the decision, one sentence each.
    pub steps: Vec<String>,
}

/// An error reply.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ApiError {
    /// The reason in one sentence, or all errors of a configuration.
    pub error: String,
}

/// Result of a binary upgrade.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Upgraded {
    /// Id of the new process.
    pub pid: u32,
}

/// The binary to hand over to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Absolute path of the binary; the binary of this process if omitted.
    #[serde(default)]
    pub binary: Option<String>,
}
