//! One live backend: counters, health, idle connections, and its membership in a pool's selector.
//!
//! A backend is identified by its pool, name and address. A reload that keeps these three keeps the
//! same `Arc<Backend>`, so that sessions, health and tunnels survive. A backend is a member of one
//! selector at a time, that of its newest pool, and reports each relevant change to it immediately.

mod connections;
mod guards;
mod health;
mod membership;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwapAny, ArcSwapOption};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    admission::{Schedule, ScheduleDecision, retry_after},
    balance::Selector,
    diagnosis::Diagnosis,
    limits::Connections,
    load::{FULL_SHARE, Load},
    recovery::Recovery,
    responsiveness::Responsiveness,
    reuse::IdlePool,
};
use crate::config;

pub use self::guards::{AdmissionTurn, ConnectionGuard, PendingGuard, RequestGuard, SessionGuard};
pub(super) use self::membership::Membership;
pub use super::load::{Lifecycle, Transition};

/// One live backend.
pub struct Backend {
    pool: String,
    name: Arc<str>,
    address: config::Address,
    serial: u64,
    tag: u64,
    load: Arc<Load>,
    addresses: ArcSwapAny<Arc<Arc<[SocketAddr]>>>,
    idle: IdlePool,
    connections: Connections,
    schedule: Schedule,
    recovery: Recovery,
    down_since: Mutex<Option<Instant>>,
    responsiveness: Responsiveness,
    diagnosis: Diagnosis,
    shedding: AtomicBool,
    is_loop: AtomicBool,
    membership: ArcSwapOption<Membership>,
}

/// Whether a backend admits a new session.
#[derive(Debug)]
pub enum AdmissionOutcome<'a> {
    /// The session may begin immediately.
    Admitted,
    /// The session may begin when its turn comes.
    Queued(AdmissionTurn<'a>),
    /// The session is rejected; seconds for `Retry-After`.
    Rejected(u32),
}

impl Backend {
    /// Creates a backend that is up, serves, and is in no pool. A literal address is known at once; a
    /// name has no addresses until [`set_addresses`](Self::set_addresses).
    pub fn new(pool: &str, config: &config::BackendConfig, reuse: &config::Reuse) -> Arc<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let addresses: Arc<[SocketAddr]> = config.address.literal().into_iter().collect();
        let load = Arc::new(Load::new(config.weight));
        load.set_backup(config.backup);
        Arc::new(Self {
            pool: pool.to_owned(),
            name: Arc::from(config.name.as_str()),
            address: config.address.clone(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            // Names and addresses contain neither spaces nor line ends.
            tag: xxh3_64(format!("{pool}\n{}\n{}", config.name, config.address).as_bytes()),
            load,
            addresses: ArcSwapAny::new(Arc::new(addresses)),
            idle: IdlePool::new(reuse),
            connections: Connections::new(),
            schedule: Schedule::new(Instant::now()),
            recovery: Recovery::new(Instant::now()),
            down_since: Mutex::new(None),
            responsiveness: Responsiveness::new(Instant::now()),
            diagnosis: Diagnosis::new(),
            shedding: AtomicBool::new(false),
            is_loop: AtomicBool::new(false),
            membership: ArcSwapOption::empty(),
        })
    }

    /// Whether `config` in the pool of that name describes this backend.
    pub fn is(&self, pool: &str, config: &config::BackendConfig) -> bool {
        self.pool == pool && *self.name == config.name && self.address == config.address
    }

    /// Applies the settings that can change on a live backend: its weight, whether it is a backup, and connection limits.
    pub fn adopt(&self, config: &config::BackendConfig, reuse: &config::Reuse) {
        self.set_weight(config.weight);
        self.load.set_backup(config.backup);
        self.idle.limit(reuse);
    }

    /// Name in its pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name in its pool, as a shared string.
    pub fn label(&self) -> &Arc<str> {
        &self.name
    }

    /// Name of its pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The configured address.
    pub fn address(&self) -> &config::Address {
        &self.address
    }

    /// Number that is unique in this process, also among removed backends.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Hash of pool, name and address; the same in every process.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Share of new sessions relative to the other backends of the pool; at least 1.
    pub fn weight(&self) -> u32 {
        self.load.weight()
    }

    /// Changes the weight; 0 counts as 1.
    pub fn set_weight(&self, weight: u32) {
        if self.load.set_weight(weight) {
            self.notify_selector(Selector::state_changed);
        }
    }

    /// Whether the backend takes new sessions only while no other one of its pool can.
    pub fn is_backup(&self) -> bool {
        self.load.is_backup()
    }

    /// Whether the backend is a backup that is not needed now.
    pub fn is_standby(&self) -> bool {
        self.load.is_standby()
    }

    /// Whether the backend is a backup that is not needed, but could take a request that has failed elsewhere.
    pub fn can_stand_in(&self) -> bool {
        self.load.can_stand_in()
    }

    /// The weight that counts now, multiplied by [`FULL_SHARE`]; lower during slow start.
    pub fn effective_weight(&self) -> u32 {
        self.load.effective_weight()
    }

    /// Part of the weight that counts now, up to 1; lower during slow start.
    pub fn ramp(&self) -> f64 {
        f64::from(self.load.share()) / f64::from(FULL_SHARE)
    }

    /// Socket addresses to try, in order; empty if the name has not been resolved.
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.addresses.load())
    }

    /// Replaces the socket addresses, after the name was resolved.
    pub fn set_addresses(&self, addresses: impl Into<Arc<[SocketAddr]>>) {
        self.addresses.store(Arc::new(addresses.into()));
    }

    /// Whether one of its addresses is a listener of this process; no request is sent there.
    pub fn is_loop(&self) -> bool {
        self.is_loop.load(Ordering::Relaxed)
    }

    /// Sets whether one of its addresses is a listener of this process. Returns the value before.
    pub fn set_loop(&self, is_loop: bool) -> bool {
        self.is_loop.swap(is_loop, Ordering::Relaxed)
    }

    /// Whether the backend serves, drains or has been evicted.
    pub fn lifecycle(&self) -> Lifecycle {
        self.load.lifecycle()
    }

    /// Changes the lifecycle. `Evicted` drops the idle connections and leaves the selector; to serve
    /// again after that, the backend needs a new pool.
    pub fn set_lifecycle(&self, lifecycle: Lifecycle) {
        if !self.load.set_lifecycle(lifecycle) {
            return;
        }
        self.notify_selector(Selector::state_changed);
        if let Some(membership) = self.membership.load().as_ref() {
            membership.threshold.evaluate();
        }
        self.open_or_close_idle();
        if lifecycle == Lifecycle::Evicted {
            self.membership.store(None);
        }
    }

    /// Whether the connection limit is the only reason against new sessions.
    pub fn is_only_full(&self) -> bool {
        self.load.is_only_full()
    }

    /// Whether a new session may go to this backend: it serves, is healthy and has a free connection.
    pub fn accepts_new(&self) -> bool {
        self.load.accepts_new()
    }

    /// Whether an owner search may include this backend: it is up and not evicted. Requests of sessions
    /// that are known to be here come here until the backend is evicted, whatever this returns.
    pub fn keeps_sessions(&self) -> bool {
        self.load.keeps_sessions()
    }

    /// Whether rebalancing moves tunnels away from this backend. Sessions that return with an affinity
    /// cookie then go to other backends.
    pub fn is_shedding(&self) -> bool {
        self.shedding.load(Ordering::Relaxed)
    }

    /// Sets whether rebalancing moves tunnels away from this backend.
    pub fn set_shedding(&self, sheds: bool) {
        self.shedding.store(sheds, Ordering::Relaxed);
    }

    /// Live sessions and tunnels.
    pub fn sessions(&self) -> usize {
        self.load.sessions() as usize
    }

    /// Counts one session or tunnel, until the guard is dropped.
    ///
    /// A session is known only after the response to its handshake. Callers that pick a backend for a
    /// new session should hold the guard from the pick on. Otherwise, if a thousand clients return at
    /// the same time, all of them go to the backend that had the fewest sessions.
    pub fn hold(self: &Arc<Self>) -> SessionGuard {
        self.load.add_session();
        self.notify_selector(Selector::load_changed);
        SessionGuard(Arc::clone(self))
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.load.requests() as usize
    }

    /// Counts one request, until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> RequestGuard {
        self.load.add_request();
        RequestGuard(Arc::clone(self))
    }

    /// Requests admission for a new session that begins no later than `until`.
    pub fn admit(&self, settings: &config::Admission, until: Instant) -> AdmissionOutcome<'_> {
        match self.schedule.reserve(settings, Instant::now(), until) {
            ScheduleDecision::Now => AdmissionOutcome::Admitted,
            ScheduleDecision::At(at, slot) => {
                AdmissionOutcome::Queued(AdmissionTurn { backend: self, at, slot })
            }
            ScheduleDecision::Rejected(wait) => {
                AdmissionOutcome::Rejected(retry_after(wait, fastrand::f64()))
            }
        }
    }

    /// New sessions that wait for admission.
    pub fn sessions_waiting(&self) -> usize {
        self.schedule.waiting()
    }

    /// Its idle connections.
    pub fn idle(&self) -> &IdlePool {
        &self.idle
    }

    pub(super) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Keeps idle connections only while the backend keeps sessions.
    fn open_or_close_idle(&self) {
        self.idle.set_open(|| self.keeps_sessions());
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("pool", &self.pool)
            .field("name", &self.name)
            .field("address", &self.address)
            .field("serial", &self.serial)
            .field("load", &self.load)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
