//! One live backend: counters, health, idle connections, and its membership in a pool's selector.
//!
//! A backend is its pool, name and address. Whatever else changes, a reload keeps the same
//! `Arc<Backend>`, so that sessions, health and tunnels survive. It sits in one selector at a time,
//! that of its newest pool; each change that picking depends on is told to that membership at once.

mod connections;
mod guards;

use std::{
    cell::OnceCell,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
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
    outlier::EjectionReason,
    panic_threshold::PanicThreshold,
    recovery::Recovery,
    responsiveness::Responsiveness,
    reuse::IdlePool,
};
use crate::config;

pub use self::guards::{AdmissionTurn, ConnectionGuard, PendingGuard, RequestGuard, SessionGuard};
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
    loops: AtomicBool,
    membership: ArcSwapOption<Membership>,
}

/// Where a backend sits: a selector and its index there, which is that in the threshold as well.
pub(super) struct Membership {
    pub(super) selector: Arc<Selector>,
    pub(super) threshold: Arc<PanicThreshold>,
    pub(super) index: u32,
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
    /// A backend that is up, serves, and is seated nowhere. Its addresses are known where it has a
    /// literal one, and else empty until [`set_addresses`](Self::set_addresses).
    pub fn new(pool: &str, config: &config::BackendConfig, reuse: &config::Reuse) -> Arc<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let addresses: Arc<[SocketAddr]> = config.address.literal().into_iter().collect();
        Arc::new(Self {
            pool: pool.to_owned(),
            name: Arc::from(config.name.as_str()),
            address: config.address.clone(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            // Spaces and line ends are in no name and no address.
            tag: xxh3_64(format!("{pool}\n{}\n{}", config.name, config.address).as_bytes()),
            load: Arc::new(Load::new(config.weight)),
            addresses: ArcSwapAny::new(Arc::new(addresses)),
            idle: IdlePool::new(reuse),
            connections: Connections::new(),
            schedule: Schedule::new(Instant::now()),
            recovery: Recovery::new(Instant::now()),
            down_since: Mutex::new(None),
            responsiveness: Responsiveness::new(Instant::now()),
            diagnosis: Diagnosis::new(),
            shedding: AtomicBool::new(false),
            loops: AtomicBool::new(false),
            membership: ArcSwapOption::empty(),
        })
    }

    /// Whether this is the live form of `config` in the pool of that name.
    pub fn is(&self, pool: &str, config: &config::BackendConfig) -> bool {
        self.pool == pool && *self.name == config.name && self.address == config.address
    }

    /// Takes over what may change on a live backend: its weight and its connections' bounds.
    pub fn adopt(&self, config: &config::BackendConfig, reuse: &config::Reuse) {
        self.set_weight(config.weight);
        self.idle.limit(reuse);
    }

    /// Name in its pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, to keep.
    pub fn label(&self) -> &Arc<str> {
        &self.name
    }

    /// Name of its pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Where it listens, as configured.
    pub fn address(&self) -> &config::Address {
        &self.address
    }

    /// A number that no other backend of this process has or had.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Stands for its pool, name and address, in other processes too.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Share of new sessions relative to its neighbours; at least 1.
    pub fn weight(&self) -> u32 {
        self.load.weight()
    }

    /// Changes the weight; 0 counts as 1.
    pub fn set_weight(&self, weight: u32) {
        if self.load.set_weight(weight) {
            self.notify_selector(Selector::state_changed);
        }
    }

    /// The weight in force, in parts of one: full weights times the same number, and less of it while
    /// it grows.
    pub fn effective_weight(&self) -> u32 {
        self.load.effective_weight()
    }

    /// Part of its weight that is in force, up to 1: less while it grows after it came back.
    pub fn ramp(&self) -> f64 {
        f64::from(self.load.share()) / f64::from(FULL_SHARE)
    }

    /// Socket addresses to try, in order; empty where its name has not been resolved.
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.addresses.load())
    }

    /// Replaces the socket addresses, after its name was resolved.
    pub fn set_addresses(&self, addresses: impl Into<Arc<[SocketAddr]>>) {
        self.addresses.store(Arc::new(addresses.into()));
    }

    /// Whether one of its addresses is where this process itself listens: nothing is sent there.
    pub fn is_loop(&self) -> bool {
        self.loops.load(Ordering::Relaxed)
    }

    /// Notes whether one of its addresses is where this process itself listens. Whether it was noted
    /// before.
    pub fn set_loop(&self, loops: bool) -> bool {
        self.loops.swap(loops, Ordering::Relaxed)
    }

    /// Whether its checks succeed.
    pub fn is_up(&self) -> bool {
        self.load.is_up()
    }

    /// Since when it has been down; `None` while it is up.
    pub fn down_since(&self) -> Option<Instant> {
        *self.down_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is down or ejected, and since when.
    pub fn diagnosis(&self) -> &Diagnosis {
        &self.diagnosis
    }

    /// Whether the configuration still wants it.
    pub fn lifecycle(&self) -> Lifecycle {
        self.load.lifecycle()
    }

    /// Changes what the configuration wants. `Gone` drops the idle connections and leaves the
    /// selector; to serve again after that it needs a new pool around it.
    pub fn set_lifecycle(&self, lifecycle: Lifecycle) {
        if !self.load.set_lifecycle(lifecycle) {
            return;
        }
        self.notify_selector(Selector::state_changed);
        self.open_or_close_idle();
        if lifecycle == Lifecycle::Evicted {
            self.membership.store(None);
        }
    }

    /// Whether it is left out for its failures under traffic.
    pub fn is_ejected(&self) -> bool {
        self.load.is_ejected()
    }

    /// When it is let in again; `None`: it is not ejected.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.recovery.ejected_until()
    }

    /// Whether its health is ignored, for want of healthy ones in its pool.
    pub fn is_health_ignored(&self) -> bool {
        self.load.is_health_ignored()
    }

    /// Whether only its connections, all in use, keep new sessions from it.
    pub fn is_only_full(&self) -> bool {
        self.load.is_only_full()
    }

    /// Whether a new session may go here: serving, healthy and with a connection to spare.
    pub fn accepts_new(&self) -> bool {
        self.load.accepts_new()
    }

    /// Whether it can be asked about sessions that it may have: up and not gone. A session that is known
    /// to be here is not bound to this: its requests come here until the backend is gone.
    pub fn keeps_sessions(&self) -> bool {
        self.load.keeps_sessions()
    }

    /// Whether it has more tunnels than its share and is being relieved of some, so that those that
    /// return by a cookie go elsewhere.
    pub fn is_shedding(&self) -> bool {
        self.shedding.load(Ordering::Relaxed)
    }

    /// Changes that.
    pub fn set_shedding(&self, sheds: bool) {
        self.shedding.store(sheds, Ordering::Relaxed);
    }

    /// Counts one check, a probe or a connect. It goes up after `rise` successes in a row and down
    /// after `fall` failures; the transition is returned once. Going down drops the idle
    /// connections.
    pub fn record_check(&self, healthy: bool, rise: u32, fall: u32) -> Option<Transition> {
        // A success matters here only to a backend that is down: what failed before it must not
        // keep the backend down. While the backend is up, traffic may find what probes do not.
        if !healthy || !self.is_up() {
            self.responsiveness.checked(Instant::now());
        }
        let transition = self.load.record_check(healthy, rise, fall)?;
        self.diagnosis.changed();
        if let Some(membership) = self.membership.load().as_ref() {
            self.recovery.health_changed(&self.load, &membership.threshold, Instant::now());
        }
        self.notify_selector(Selector::state_changed);
        if let Some(membership) = self.membership.load().as_ref() {
            membership.threshold.review();
        }
        self.open_or_close_idle();
        // What is so now, not what this call brought about: another transition may have overtaken it.
        let mut since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if self.is_up() { None } else { since.or_else(|| Some(Instant::now())) };
        Some(transition)
    }

    /// Counts a failure under traffic of an attempt that began at `began` as a failed check. Failures
    /// that overlap in time count once.
    pub fn record_failure(&self, began: Instant, rise: u32, fall: u32) -> Option<Transition> {
        if !self.responsiveness.counts(began, Instant::now()) {
            return None;
        }
        self.record_check(false, rise, fall)
    }

    /// Notes that an attempt that began at `began` got no answer.
    pub fn record_no_response(&self, began: Instant) {
        self.responsiveness.begins(began);
    }

    /// Notes that it has answered.
    pub fn record_response(&self) {
        self.responsiveness.ends(Instant::now());
    }

    /// Notes that its host accepts connections, which says nothing of the process behind.
    pub fn record_connect(&self) {
        self.responsiveness.reached();
    }

    /// Whether it was silent from `from`, on all connections, until shortly before `to`.
    pub fn was_unresponsive(&self, from: Instant, to: Instant) -> bool {
        self.responsiveness.lasted(from, to)
    }

    /// When the first attempt began since which it has not answered; `None`: it has.
    pub fn unresponsive_since(&self) -> Option<Instant> {
        self.responsiveness.since()
    }

    /// Counts an answer under traffic, or that there was none; why it is ejected, where that did it.
    pub fn record_outcome(&self, failed: bool) -> Option<EjectionReason> {
        let membership = self.membership.load();
        let membership = membership.as_ref()?;
        membership.threshold.outlier()?;
        self.recovery.note(
            failed,
            (&self.load, &membership.threshold, membership.index),
            Instant::now(),
        )
    }

    /// Live sessions and tunnels.
    pub fn sessions(&self) -> usize {
        self.load.sessions() as usize
    }

    /// Counts one session or tunnel, until the guard is dropped.
    ///
    /// A session is only known once its handshake was answered. Whoever picks a backend for a new
    /// one should hold it from the pick to that moment: a thousand clients that come back at once
    /// would else all be sent to the one that had the fewest.
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

    /// Asks to open a new session here, not later than `until`.
    pub fn admit(&self, settings: &config::Admission, until: Instant) -> AdmissionOutcome<'_> {
        match self.schedule.ask(settings, Instant::now(), until) {
            ScheduleDecision::Now => AdmissionOutcome::Admitted,
            ScheduleDecision::At(at, moment) => {
                AdmissionOutcome::Queued(AdmissionTurn { backend: self, at, moment })
            }
            ScheduleDecision::Refused(wait) => {
                AdmissionOutcome::Rejected(retry_after(wait, fastrand::f64()))
            }
        }
    }

    /// New sessions that wait to be admitted.
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

    /// Moves to a membership in a new selector. Changes before this moment are not told there: see
    /// [`Selector::rebuild`].
    pub(super) fn join(&self, membership: Membership) {
        let before = self.membership.swap(Some(Arc::new(membership)));
        // Pairs with the fence in `notify_selector`.
        fence(Ordering::SeqCst);
        if let Some(before) = before {
            before.selector.set_replaced();
        }
    }

    /// Its index in `selector`, where it still sits there.
    pub(super) fn index_in(&self, selector: &Arc<Selector>) -> Option<u32> {
        let membership = self.membership.load();
        membership
            .as_ref()
            .filter(|membership| Arc::ptr_eq(&membership.selector, selector))
            .map(|membership| membership.index)
    }

    /// It is new to others that serve already: it grows from the moment that it is first tended.
    pub(super) fn start_slowly(&self) {
        self.recovery.start_slowly(&self.load);
    }

    /// Whether it has ever had a membership, and not been sent away since.
    pub(super) fn is_in_pool(&self) -> bool {
        self.membership.load().is_some()
    }

    /// Lets it grow, and in again where its time is over; whether that happened now.
    pub(super) fn tick(&self, level: &OnceCell<Option<f64>>, now: Instant) -> bool {
        let membership = self.membership.load();
        let Some(membership) = membership.as_ref() else { return false };
        let (changed, back) = self.recovery.tick(&self.load, &membership.threshold, level, now);
        if changed {
            self.notify_selector(if back {
                Selector::state_changed
            } else {
                Selector::share_changed
            });
        }
        if membership.threshold.has_minimum() {
            // Whether its sessions may stay can have changed with the others' health.
            self.open_or_close_idle();
        }
        back
    }

    fn notify_selector(&self, change: fn(&Selector, u32)) {
        // Either this sees a new membership, or the rebuild after seating sees the change before this.
        fence(Ordering::SeqCst);
        if let Some(membership) = self.membership.load().as_ref() {
            change(&membership.selector, membership.index);
        }
    }

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
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Backend, Lifecycle, RequestGuard, SessionGuard, Transition};
    use crate::{
        config::{self, Address, Reuse},
        upstream::reuse::Reusable,
    };

    struct TestConnection;

    impl Reusable for TestConnection {
        fn is_open(&self) -> bool {
            true
        }
    }

    fn config(host: &str) -> config::BackendConfig {
        let address = Address { host: host.to_owned(), port: 3000 };
        config::BackendConfig { name: "b".to_owned(), address, weight: 2 }
    }

    fn backend() -> Arc<Backend> {
        Backend::new("p", &config("127.0.0.1"), &Reuse::default())
    }

    fn put(backend: &Backend) {
        backend.idle().put(Box::new(TestConnection), Duration::from_secs(3600));
    }

    #[test]
    fn is_known_by_pool_name_and_address_and_not_by_weight() {
        let backend = backend();
        let mut same = config("127.0.0.1");
        same.weight = 9;
        assert!(backend.is("p", &same));
        assert!(!backend.is("q", &same));
        assert!(!backend.is("p", &config("127.0.0.2")));
        same.name = "c".to_owned();
        assert!(!backend.is("p", &same));
        assert_ne!(backend.serial(), super::tests::backend().serial());
    }

    #[test]
    fn a_literal_address_needs_no_resolver() {
        let addresses = backend().addresses();
        assert_eq!(addresses[..], ["127.0.0.1:3000".parse().unwrap()]);
        let named = Backend::new("p", &config("node.test"), &Reuse::default());
        assert!(named.addresses().is_empty());
        named.set_addresses(vec!["[::1]:3000".parse().unwrap()]);
        assert_eq!(named.addresses().len(), 1);
    }

    #[test]
    fn guards_count_while_they_live_and_cost_a_pointer() {
        let backend = backend();
        let (first, second, request) = (backend.hold(), backend.hold(), backend.request());
        assert_eq!((backend.sessions(), backend.requests()), (2, 1));
        drop((first, request));
        assert_eq!((backend.sessions(), backend.requests()), (1, 0));
        assert!(Arc::ptr_eq(second.backend(), &backend));
        assert_eq!(size_of::<SessionGuard>(), size_of::<usize>());
        assert_eq!(size_of::<RequestGuard>(), size_of::<usize>());
    }

    #[test]
    fn going_down_drops_the_idle_connections_and_keeps_none() {
        let backend = backend();
        put(&backend);
        assert_eq!(backend.record_check(false, 1, 2), None);
        assert_eq!((backend.idle().len(), backend.down_since()), (1, None));
        assert_eq!(backend.record_check(false, 1, 2), Some(Transition::Down));
        put(&backend);
        assert!(backend.idle().is_empty());
        assert!(backend.down_since().is_some());
        assert_eq!(backend.record_check(true, 1, 2), Some(Transition::Up));
        put(&backend);
        assert_eq!((backend.idle().len(), backend.down_since()), (1, None));
    }

    #[test]
    fn a_draining_backend_keeps_its_connections_and_a_gone_one_none() {
        let backend = backend();
        put(&backend);
        backend.set_lifecycle(Lifecycle::Draining);
        put(&backend);
        assert_eq!((backend.idle().len(), backend.keeps_sessions()), (2, true));
        backend.set_lifecycle(Lifecycle::Evicted);
        put(&backend);
        assert!(backend.idle().is_empty());
        assert_eq!((backend.lifecycle(), backend.keeps_sessions()), (Lifecycle::Evicted, false));
    }

    #[test]
    fn no_connection_stays_behind_on_a_backend_that_went_down() {
        for _ in 0..200 {
            let backend = backend();
            std::thread::scope(|scope| {
                scope.spawn(|| (0..20).for_each(|_| put(&backend)));
                scope.spawn(|| backend.record_check(false, 1, 1));
            });
            assert!(!backend.is_up());
            assert!(backend.idle().is_empty());
        }
    }

    #[test]
    fn adopting_changes_what_may_change() {
        let backend = backend();
        put(&backend);
        let mut config = config("127.0.0.1");
        config.weight = 0;
        let reuse = Reuse { max_idle: 0, ..Reuse::default() };
        backend.adopt(&config, &reuse);
        assert_eq!((backend.weight(), backend.idle().len()), (1, 0));
    }
}
