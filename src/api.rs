//! What the admin API says and is told: the shapes of `/v1`, shared by the server and the command
//! line, and described to others in `openapi.json`.
//!
//! Pure data. Times are seconds, as fractions; instants are Unix time in seconds. A session id is a
//! secret: it comes in where somebody asks for it, and never goes out; sessions are named by [`Id`]s.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// Description of the API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("api/openapi.json");

/// Names a tunnel or session in this process, for as long as it lives; of no use elsewhere.
pub type Id = String;

/// A process and everything in it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Of the binary.
    pub version: String,
    /// Of the process.
    pub pid: u32,
    /// Since its start.
    pub uptime: f64,
    /// What it does.
    pub state: ProcessState,
    /// How far it is from being empty, where it drains.
    pub drain: Option<DrainState>,
    /// Open connections of clients, whatever they carry.
    pub connections: u64,
    /// Open tunnels of all backends: WebSockets and streams of layer 4.
    pub tunnels: u64,
    /// Live sessions of all backends, those with a tunnel included.
    pub sessions: u64,
    /// Where it listens.
    pub listeners: Vec<ListenerState>,
    /// Where requests go.
    pub pools: Vec<PoolState>,
    /// The newest reload; `None`: there was none since the start.
    pub reload: Option<ReloadState>,
    /// Processes that this one has taken over from and that still hold connections.
    pub predecessors: Vec<Predecessor>,
}

/// What a process does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// Takes new sessions.
    Serving,
    /// Takes no new session.
    Draining,
    /// Is on its way out: accepts nothing any more.
    Stopping,
}

/// How far something is from being empty.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct DrainState {
    /// When it began.
    pub since: f64,
    /// Seconds to the deadline; `None`: it has none, and waits for as long as it takes.
    pub seconds_left: Option<f64>,
    /// Seconds until closes begin; 0 once they have.
    pub seconds_to_closes: Option<f64>,
    /// Open tunnels.
    pub sockets_left: u64,
    /// Live sessions, those with a tunnel included.
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
    /// What TLS is terminated by, at this moment.
    pub certificates: Vec<CertificateState>,
    /// Why the newest order of a certificate has failed, where it has.
    pub certificate_error: Option<String>,
}

/// A certificate that a listener serves by.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CertificateState {
    /// DNS names that it is for.
    pub names: Vec<String>,
    /// When it expires; `None`: that cannot be read.
    pub expires: Option<f64>,
}

/// A pool and its backends.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PoolState {
    /// Name in the file.
    pub name: String,
    /// How a backend is chosen, as written in the file.
    pub balance: String,
    /// Where backends come from: `configuration`, `dns`, `srv` or `http`.
    pub source: String,
    /// Why the source's last answer was of no use; the last good one is in force.
    pub source_error: Option<String>,
    /// Whether the configuration no longer has it; its backends are leaving.
    pub removed: bool,
    /// Those in the pool, then those that are leaving and are not empty.
    pub backends: Vec<BackendState>,
}

/// One backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendState {
    /// Name of its pool.
    pub pool: String,
    /// Its own name, unique in the pool.
    pub name: String,
    /// Where it listens, as configured.
    pub address: String,
    /// Who named it.
    pub origin: BackendOrigin,
    /// What new sessions think of it.
    pub state: BackendCondition,
    /// As configured or ordered.
    pub weight: u32,
    /// Share of the weight that is in force, 0 to 1: less than 1 in a slow start.
    pub ramp: f64,
    /// Live sessions, those with a tunnel included, with the tunnels of processes before this one.
    pub sessions: u64,
    /// Open tunnels, with those of processes before this one.
    pub tunnels: u64,
    /// Requests in flight.
    pub requests: u64,
    /// Unix time since which it has been up, or down.
    pub since: f64,
    /// Why it is down or ejected; `None`: it is neither.
    pub reason: Option<String>,
    /// The newest check that failed, also while it is up; `None`: none has.
    pub last_failure: Option<CheckFailureInfo>,
    /// Where it has left the configuration and its sessions go on: the backend with the same address, as
    /// `pool/backend`.
    pub goes_on_as: Option<String>,
    /// How far it is from being empty, where it drains.
    pub drain: Option<DrainState>,
}

/// A failed check of a backend: a health probe, or a request that it did not answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CheckFailureInfo {
    /// When, in Unix time.
    pub at: f64,
    /// What was expected, and what happened.
    pub reason: String,
}

/// Who named a backend.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendOrigin {
    /// The configuration or a list file that it names.
    Configured,
    /// The pool's source.
    Discovered,
    /// This API; until restart.
    Added,
}

/// What new sessions think of a backend; the first that applies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendCondition {
    /// On its way out of the configuration.
    Leaving,
    /// Drained by order, and empty.
    Drained,
    /// Drained by order, and not empty yet.
    Draining,
    /// Its probes fail.
    Down,
    /// Left out for its failures under traffic.
    Ejected,
    /// Takes new sessions, growing into its weight.
    SlowStart,
    /// Takes new sessions.
    Up,
}

/// How a reload went.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ReloadState {
    /// When.
    pub at: f64,
    /// Whether it was refused, and every fault then.
    pub error: Option<String>,
}

/// A process that handed over to this one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Predecessor {
    /// Its process id.
    pub pid: u32,
    /// What it still holds.
    pub drain: DrainState,
}

/// A backend to add to a pool until restart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Host and port.
    pub address: String,
    /// The address where none is given.
    #[serde(default)]
    pub name: Option<String>,
    /// 1 where none is given.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// A weight to give a backend until restart.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewWeight {
    /// 1 to 65535.
    pub weight: u32,
}

/// What to drain, and how.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainTerms {
    /// Seconds to the deadline; `None`: nothing is closed, it ends when everybody has left.
    #[serde(default)]
    pub within: Option<f64>,
    /// Seconds before the deadline over which closes are spread; half of `within` where none is given.
    #[serde(default)]
    pub spread: Option<f64>,
}

/// One or many backends: whom to drain or to undrain, or whose sessions to list.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackendTarget {
    /// The pool; `None`: every one.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in it; `None`: every one.
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

/// A [`BackendTarget`] and a [`DrainTerms`], as they come in one body.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in it; `None`: every one.
    #[serde(default)]
    pub backend: Option<String>,
    /// Every backend of every pool, in place of a pool.
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
    /// Whom, and how; `None`: it does not say whom.
    pub fn split(self) -> Option<(BackendTarget, DrainTerms)> {
        let how = DrainTerms { within: self.within, spread: self.spread };
        Some((whom(self.pool, self.backend, self.all)?, how))
    }
}

/// Whose drains to end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Undrain {
    /// The pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// The backend in it; `None`: every one.
    #[serde(default)]
    pub backend: Option<String>,
    /// Every backend of every pool, in place of a pool.
    #[serde(default)]
    pub all: bool,
}

impl Undrain {
    /// Whom; `None`: it does not say.
    pub fn target(self) -> Option<BackendTarget> {
        whom(self.pool, self.backend, self.all)
    }
}

/// Everything is only meant where that is said: a pool's name that got lost must not empty a fleet.
fn whom(pool: Option<String>, backend: Option<String>, all: bool) -> Option<BackendTarget> {
    (all == (pool.is_none() && backend.is_none())).then_some(BackendTarget { pool, backend })
}

/// All pools.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pools {
    /// In the order of the file.
    pub pools: Vec<PoolState>,
}

/// Those that an order concerned.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Backends {
    /// By pool, in the order of the file.
    pub backends: Vec<BackendState>,
}

/// A tunnel, a stream of layer 4, or a session that polls.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionState {
    /// To close it by.
    pub id: Id,
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend.
    pub backend: String,
    /// What it is.
    pub kind: SessionKind,
    /// The client's address; of a session that polls, without a port. `None`: another process opened it.
    pub client: Option<String>,
    /// Since the tunnel, stream or session was opened, or found by an owner search. `None`: another
    /// process opened it.
    pub age: Option<f64>,
}

/// What a session is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// An upgraded connection.
    Tunnel,
    /// A connection of layer 4.
    Stream,
    /// An Engine.IO session without a tunnel.
    Polling,
}

/// SessionList, at most as many as asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionList {
    /// All that there are.
    pub total: u64,
    /// Some of them.
    pub sessions: Vec<SessionState>,
}

/// Whose whereabouts are asked for.
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
    /// As it was named.
    pub closed: Id,
}

/// Where a session id is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Whereabouts {
    /// The pools that know it, each with the backend.
    pub found: Vec<SessionState>,
}

/// What applying a configuration would do, or did.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// Whether nothing would change at all.
    pub empty: bool,
    /// Each change, in the order of the file.
    pub changes: Vec<Change>,
    /// Tunnels that would be closed or cut.
    pub disconnected_tunnels: u64,
    /// SessionList that would be ended, those with a tunnel included.
    pub disconnected_sessions: u64,
    /// Seconds until the last of them is, where they are not left alone until then.
    pub by: Option<f64>,
}

/// One change of a plan.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Change {
    /// What is changed.
    pub what: ChangedThing,
    /// How.
    pub how: ChangeKind,
    /// Its name: a listener's, a route's host and path, a pool's, `pool/backend`, a setting's.
    pub name: String,
    /// What it means, in a few words.
    pub detail: String,
    /// Tunnels that would be closed or cut.
    pub tunnels: u64,
    /// SessionList that would be ended, those with a tunnel included.
    pub sessions: u64,
    /// Seconds until the last of them is.
    pub by: Option<f64>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, how, name, detail, .. } = self;
        write!(f, "{} {name} {}", what.label(), how.label())?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

/// What is changed.
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
    /// A setting outside of those.
    Setting,
}

impl ChangedThing {
    /// The word for it.
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
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Kept => "kept",
        }
    }
}

/// How something is changed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It stays and becomes another.
    Changed,
    /// It was ordered by this API, and is left as it is.
    Kept,
}

/// The file to read again and to put in force.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Refuse where more tunnels, streams and polling sessions would be disconnected.
    #[serde(default)]
    pub max_disconnects: Option<u64>,
}

/// A configuration's text, to plan.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The file's text; `None`: the file that the process runs by, as it is now.
    #[serde(default)]
    pub text: Option<String>,
    /// Where it is from: relative paths in it start at this one's folder. Absolute.
    #[serde(default)]
    pub path: Option<String>,
}

/// A request to explain.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// What the client asks for, `https://host[:port]/path?query`; `tcp://host:port` or `tls://name:port`
    /// for a stream of layer 4.
    pub url: String,
    /// `GET` where none is given.
    #[serde(default)]
    pub method: Option<String>,
    /// The `Cookie` header.
    #[serde(default)]
    pub cookie: Option<String>,
    /// The client's address, for `source-hash` and the memory of clients that return.
    #[serde(default)]
    pub client: Option<std::net::IpAddr>,
    /// The `User-Agent` header.
    #[serde(default)]
    pub user_agent: Option<String>,
    /// Whether it asks for a WebSocket; a `GET` with `transport=websocket` in its query always does.
    #[serde(default)]
    pub upgrade: bool,
}

/// Who would serve a request, and by which rule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// The listener; `None`: nobody listens there.
    pub listener: Option<String>,
    /// The route, as its host and path are written in the file.
    pub route: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// The backend; `None`: nobody, or whoever turns out to know the session.
    pub backend: Option<String>,
    /// The rule, by the name that the access log has for it in `chosen_by`.
    pub chosen_by: String,
    /// The status that the proxy answers with by itself; `None`: the backend answers.
    #[serde(default)]
    pub status: Option<u16>,
    /// The way to the decision, a sentence a step.
    pub steps: Vec<String>,
}

/// A refusal.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ApiError {
    /// Why, in a sentence; every fault of a configuration.
    pub error: String,
}

/// What an upgrade brought.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Upgraded {
    /// The new process.
    pub pid: u32,
}

/// The binary to hand over to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Its absolute path; the one that this process was started by where none is given.
    #[serde(default)]
    pub binary: Option<String>,
}
