//! Input of the balance policies: a backend's counters, weight and state, as plain atomics.
//!
//! This is separate from [`Backend`](super::Backend), so that the selectors depend on nothing else, and
//! so that a selector of an old pool keeps a few words in memory and not a whole backend.
//!
//! Every operation is sequentially consistent: the selectors' proof that no change is lost (see
//! `balance::tree`) needs a total order of all operations.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// Whether the operator and the configuration allow sessions on a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// In the configuration, and not drained.
    Serving,
    /// Removed from the configuration, or drained by a command: takes no new sessions, keeps its own.
    Draining,
    /// Removed from the configuration, and its drain has ended.
    Evicted,
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The backend passed `rise` checks in a row.
    Up,
    /// The backend failed `fall` checks in a row.
    Down,
}

/// Shares that a whole weight is divided into. During slow start, only some of them count.
pub const FULL_SHARE: u32 = 64;

/// Largest weight; 16 bits, so that the product of an effective weight and any count fits in 64 bits.
const MAX_WEIGHT: u32 = 0xffff;

/// Counters, weight and state of one backend.
#[derive(Debug)]
pub struct Load {
    sessions: AtomicU32,
    requests: AtomicU32,
    /// Bits 0–7: how many of its [`FULL_SHARE`] shares count now. 8–31: the configured weight. One word,
    /// so that a change of one part cannot undo a change of the other.
    weight: AtomicU32,
    /// Sessions that are added to its own during slow start, when backends are compared.
    handicap: AtomicU32,
    /// A [`LoadState`], packed.
    state: AtomicU32,
    /// Whether the backend is a backup of the others.
    backup: AtomicBool,
}

/// Bits 1–2: [`Lifecycle`]. From bit 8 on: number of consecutive check results against the present
/// health. The other bits are named below.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LoadState(u32);

impl LoadState {
    /// Its checks fail.
    const DOWN: u32 = 1;
    const LIFECYCLE: u32 = 0b110;
    /// Ejected for failures under traffic.
    const EJECTED: u32 = 1 << 3;
    /// Too few backends of its pool are healthy: `DOWN` and `EJECTED` do not count.
    const HEALTH_IGNORED: u32 = 1 << 4;
    /// All connections of its limit are in use.
    const FULL: u32 = 1 << 5;
    /// A backup that is not needed: another backend of its pool can take new sessions.
    const STANDBY: u32 = 1 << 6;
    const STREAK: u32 = 8;

    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    fn with(self, bit: u32, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }

    fn is_up(self) -> bool {
        !self.has(Self::DOWN)
    }

    fn is_healthy(self) -> bool {
        !self.has(Self::DOWN | Self::EJECTED)
    }

    fn accepts_new(self) -> bool {
        self.lifecycle() == Lifecycle::Serving
            && !self.has(Self::FULL | Self::STANDBY)
            && (self.is_healthy() || self.has(Self::HEALTH_IGNORED))
    }

    fn keeps_sessions(self) -> bool {
        self.lifecycle() != Lifecycle::Evicted && (self.is_up() || self.has(Self::HEALTH_IGNORED))
    }

    fn lifecycle(self) -> Lifecycle {
        match (self.0 & Self::LIFECYCLE) >> 1 {
            0 => Lifecycle::Serving,
            1 => Lifecycle::Draining,
            _ => Lifecycle::Evicted,
        }
    }

    fn with_lifecycle(self, lifecycle: Lifecycle) -> Self {
        let bits = match lifecycle {
            Lifecycle::Serving => 0,
            Lifecycle::Draining => 1,
            Lifecycle::Evicted => 2,
        };
        let state = Self(self.0 & !Self::LIFECYCLE | bits << 1);
        // The panic threshold covers serving backends only.
        if lifecycle == Lifecycle::Serving {
            state
        } else {
            state.with(Self::HEALTH_IGNORED, false)
        }
    }

    /// Returns the state after one more check, and the transition if the check causes one.
    fn after(self, healthy: bool, rise: u32, fall: u32) -> (Self, Option<Transition>) {
        let base = Self(self.0 & ((1 << Self::STREAK) - 1));
        if healthy == self.is_up() {
            return (base, None);
        }
        let streak = (self.0 >> Self::STREAK) + 1;
        match (healthy, streak >= if healthy { rise } else { fall }) {
            (true, true) => (base.with(Self::DOWN, false), Some(Transition::Up)),
            (false, true) => (base.with(Self::DOWN, true), Some(Transition::Down)),
            // Clamped, so that the counter cannot overflow.
            (_, false) => {
                let streak = streak.min(u32::MAX >> Self::STREAK);
                (Self(base.0 | streak << Self::STREAK), None)
            }
        }
    }
}

impl Load {
    /// Creates the load of a backend that is up, serves and has no sessions. The weight is limited to
    /// 1–65,535.
    pub fn new(weight: u32) -> Self {
        Self {
            sessions: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            weight: AtomicU32::new(weight.clamp(1, MAX_WEIGHT) << 8 | FULL_SHARE),
            handicap: AtomicU32::new(0),
            state: AtomicU32::new(0),
            backup: AtomicBool::new(false),
        }
    }

    /// Live sessions and tunnels.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(SeqCst)
    }

    /// Requests in flight.
    pub fn requests(&self) -> u32 {
        self.requests.load(SeqCst)
    }

    /// Configured share of new sessions, at least 1.
    pub fn weight(&self) -> u32 {
        self.weight.load(SeqCst) >> 8
    }

    /// How many of its [`FULL_SHARE`] shares count now, at least 1.
    pub fn share(&self) -> u32 {
        self.weight.load(SeqCst) & 0xff
    }

    /// The weight that counts now, in shares: [`weight`](Self::weight) × [`share`](Self::share), below 2²².
    pub fn effective_weight(&self) -> u32 {
        let word = self.weight.load(SeqCst);
        (word >> 8) * (word & 0xff)
    }

    /// Number of sessions for comparisons between backends: its own, plus the handicap of slow start.
    pub fn fullness(&self) -> u64 {
        u64::from(self.sessions()) + u64::from(self.handicap.load(SeqCst))
    }

    /// Whether its health checks succeed.
    pub fn is_up(&self) -> bool {
        self.state().is_up()
    }

    /// Whether the backend is ejected for failures under traffic.
    pub fn is_ejected(&self) -> bool {
        self.state().has(LoadState::EJECTED)
    }

    /// Whether the backend is up and not ejected.
    pub fn is_healthy(&self) -> bool {
        self.state().is_healthy()
    }

    /// Whether its health is ignored because too few backends of its pool are healthy.
    pub fn is_health_ignored(&self) -> bool {
        self.state().has(LoadState::HEALTH_IGNORED)
    }

    /// Whether the backend is a backup of the others.
    pub fn is_backup(&self) -> bool {
        self.backup.load(SeqCst)
    }

    /// Whether the backend is a backup that is not needed now.
    pub fn is_standby(&self) -> bool {
        self.state().has(LoadState::STANDBY)
    }

    /// Whether the backend can take new sessions, apart from its connection limit and from being a backup.
    pub fn is_available(&self) -> bool {
        self.state().with(LoadState::FULL | LoadState::STANDBY, false).accepts_new()
    }

    /// Whether the backend is a backup that could take a request that has failed elsewhere.
    pub fn can_stand_in(&self) -> bool {
        let state = self.state();
        state.has(LoadState::STANDBY) && state.with(LoadState::STANDBY, false).accepts_new()
    }

    /// Whether all connections of its limit are in use.
    pub fn is_full(&self) -> bool {
        self.state().has(LoadState::FULL)
    }

    /// Whether the backend serves, drains or has been evicted.
    pub fn lifecycle(&self) -> Lifecycle {
        self.state().lifecycle()
    }

    /// Whether a new session may go here: serving, not full, and healthy unless health is ignored.
    pub fn accepts_new(&self) -> bool {
        self.state().accepts_new()
    }

    /// Whether the connection limit is the only reason against new sessions.
    pub fn is_only_full(&self) -> bool {
        let state = self.state();
        state.has(LoadState::FULL) && state.with(LoadState::FULL, false).accepts_new()
    }

    /// Whether sessions may stay here: not evicted, and up unless health is ignored.
    pub fn keeps_sessions(&self) -> bool {
        self.state().keeps_sessions()
    }

    pub(super) fn add_session(&self) {
        self.sessions.fetch_add(1, SeqCst);
    }

    pub(super) fn remove_session(&self) {
        self.sessions.fetch_sub(1, SeqCst);
    }

    pub(super) fn add_request(&self) {
        self.requests.fetch_add(1, SeqCst);
    }

    pub(super) fn remove_request(&self) {
        self.requests.fetch_sub(1, SeqCst);
    }

    /// Sets the weight. Returns whether it changed.
    pub(super) fn set_weight(&self, weight: u32) -> bool {
        let weight = weight.clamp(1, MAX_WEIGHT) << 8;
        let change = |word: u32| Some(weight | word & 0xff);
        self.weight.fetch_update(SeqCst, SeqCst, change).is_ok_and(|word| word & !0xff != weight)
    }

    /// Sets how many shares of the weight count, and the handicap in sessions. Returns whether
    /// something changed.
    pub(super) fn set_ramp(&self, share: u32, handicap: u32) -> bool {
        let share = share.clamp(1, FULL_SHARE);
        let handicap_changed = self.handicap.swap(handicap, SeqCst) != handicap;
        let change = |word: u32| Some(word & !0xff | share);
        let word = self.weight.fetch_update(SeqCst, SeqCst, change);
        word.is_ok_and(|word| word & 0xff != share) || handicap_changed
    }

    /// Ejects the backend or ends the ejection. Returns whether this changed the state.
    pub(super) fn set_ejected(&self, ejected: bool) -> bool {
        self.set(LoadState::EJECTED, ejected)
    }

    /// Sets whether its health is ignored; only while the backend serves. Returns whether this changed
    /// the state.
    pub(super) fn set_health_ignored(&self, ignored: bool) -> bool {
        let change = |state: LoadState| {
            let after = state.with(
                LoadState::HEALTH_IGNORED,
                ignored && state.lifecycle() == Lifecycle::Serving,
            );
            (after, after != state)
        };
        self.state.update_with(change).1
    }

    pub(super) fn set_backup(&self, backup: bool) {
        self.backup.store(backup, SeqCst);
    }

    /// Sets whether the backend is a backup that is not needed. Returns whether this changed the state.
    pub(super) fn set_standby(&self, standby: bool) -> bool {
        self.set(LoadState::STANDBY, standby)
    }

    /// Sets whether all connections are in use. Returns whether this changed the state.
    pub(super) fn set_full(&self, full: bool) -> bool {
        self.set(LoadState::FULL, full)
    }

    /// Sets the lifecycle. Returns whether it changed.
    pub(super) fn set_lifecycle(&self, lifecycle: Lifecycle) -> bool {
        self.state.update_with(|state| (state.with_lifecycle(lifecycle), ())).0.lifecycle()
            != lifecycle
    }

    fn set(&self, bit: u32, on: bool) -> bool {
        self.state.update_with(|state| (state.with(bit, on), ())).0.has(bit) != on
    }

    /// Counts one check. Exactly one of several concurrent callers gets the transition.
    pub(super) fn record_check(&self, healthy: bool, rise: u32, fall: u32) -> Option<Transition> {
        self.state.update_with(|state| state.after(healthy, rise, fall)).1
    }

    fn state(&self) -> LoadState {
        LoadState(self.state.load(SeqCst))
    }
}

trait UpdateWith {
    /// Applies `change` to the state. Returns the state before, and the second result of `change`.
    fn update_with<T>(&self, change: impl Fn(LoadState) -> (LoadState, T)) -> (LoadState, T);
}

impl UpdateWith for AtomicU32 {
    fn update_with<T>(&self, change: impl Fn(LoadState) -> (LoadState, T)) -> (LoadState, T) {
        let mut before = self.load(SeqCst);
        loop {
            let (after, result) = change(LoadState(before));
            match self.compare_exchange_weak(before, after.0, SeqCst, SeqCst) {
                Ok(_) => return (LoadState(before), result),
                Err(now) => before = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lifecycle, Load, Transition};

    #[test]
    fn a_new_backend_is_up_and_serving() {
        let load = Load::new(0);
        assert!(load.accepts_new() && load.keeps_sessions());
        assert_eq!((load.weight(), load.sessions(), load.requests()), (1, 0, 0));
    }

    #[test]
    fn goes_down_after_fall_failures_in_a_row_and_up_after_rise_successes() {
        let load = Load::new(1);
        let marks = |results: &[bool]| -> Vec<Option<Transition>> {
            results.iter().map(|&healthy| load.record_check(healthy, 2, 3)).collect()
        };
        assert_eq!(marks(&[false, false, true, false, false]), [None; 5]);
        assert!(load.is_up());
        assert_eq!(marks(&[false, false]), [Some(Transition::Down), None]);
        assert!(!load.is_up());
        assert_eq!(marks(&[true, false, true]), [None; 3]);
        assert_eq!(marks(&[true, true]), [Some(Transition::Up), None]);
        assert!(load.is_up());
    }

    #[test]
    fn thresholds_of_zero_and_one_change_at_once() {
        let load = Load::new(1);
        assert_eq!(load.record_check(false, 1, 0), Some(Transition::Down));
        assert_eq!(load.record_check(true, 1, 1), Some(Transition::Up));
    }

    #[test]
    fn health_and_lifecycle_are_independent() {
        let load = Load::new(1);
        assert!(load.set_lifecycle(Lifecycle::Draining));
        assert!(!load.set_lifecycle(Lifecycle::Draining));
        assert!(!load.accepts_new() && load.keeps_sessions());
        assert_eq!(load.record_check(false, 1, 1), Some(Transition::Down));
        assert_eq!(load.lifecycle(), Lifecycle::Draining);
        assert!(!load.keeps_sessions());
        assert!(load.set_lifecycle(Lifecycle::Serving));
        assert!(!load.accepts_new());
        assert_eq!(load.record_check(true, 1, 1), Some(Transition::Up));
        assert!(load.accepts_new());
        assert!(load.set_lifecycle(Lifecycle::Evicted));
        assert!(!load.keeps_sessions());
    }

    #[test]
    fn health_counts_again_when_a_backend_drains() {
        let load = Load::new(1);
        load.record_check(false, 1, 1);
        assert!(load.set_health_ignored(true) && !load.set_health_ignored(true));
        assert!(load.accepts_new() && load.keeps_sessions());
        load.set_lifecycle(Lifecycle::Draining);
        assert!(!load.keeps_sessions() && !load.set_health_ignored(true));
        assert!(!load.keeps_sessions());
    }

    #[test]
    fn a_backup_that_is_not_needed_keeps_its_sessions() {
        let load = Load::new(1);
        load.set_backup(true);
        assert!(load.is_backup() && load.accepts_new());
        assert!(load.set_standby(true) && !load.set_standby(true));
        assert!(!load.accepts_new() && load.keeps_sessions() && load.is_available());
        load.set_full(true);
        assert!(!load.is_only_full());
        assert!(load.set_standby(false) && load.is_only_full());
    }

    #[test]
    fn one_of_several_threads_gets_the_transition() {
        let load = Load::new(1);
        let downs: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100).filter(|_| load.record_check(false, 1, 150).is_some()).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(downs, 1);
    }
}
