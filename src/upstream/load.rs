//! What picking looks at: a backend's counters, weight and state, as plain atomics.
//!
//! Apart from [`Backend`](super::Backend) so that the selectors see this and nothing else, and so
//! that a selector kept by an old pool pins a few words and not a backend.
//!
//! Every operation is sequentially consistent: the selectors' proof that no change is lost (see
//! `balance::tournament`) rests on one order of all of them.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Whether a backend may be given sessions, as far as the configuration decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// In the configuration.
    Serving,
    /// Removed from it, or drained by order: takes no new session, keeps those it has.
    Draining,
    /// One that drained, and its deadline is over or nothing is left on it.
    Evicted,
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It passed `rise` checks in a row.
    Up,
    /// It failed `fall` checks in a row.
    Down,
}

/// Shares of a weight: one that is wholly in force has this many.
pub const FULL_SHARE: u32 = 64;

/// Largest weight; 16 bits, so that a weight in shares times any count fits in 64.
const HEAVIEST: u32 = 0xffff;

/// Counters, weight and state of one backend.
#[derive(Debug)]
pub struct Load {
    sessions: AtomicU32,
    requests: AtomicU32,
    /// Bits 0–7: how many of its [`FULL_SHARE`] are in force. 8–31: the configured weight. One word, so
    /// that who changes the one cannot undo a change of the other.
    weight: AtomicU32,
    /// Sessions it is taken to have beside its own.
    handicap: AtomicU32,
    /// A [`LoadState`], packed.
    state: AtomicU32,
}

/// Bits 1–2: [`Lifecycle`]. From bit 8 on: results in a row that speak against the present health. The others
/// are named below.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LoadState(u32);

impl LoadState {
    /// Its checks fail.
    const DOWN: u32 = 1;
    const LIFECYCLE: u32 = 0b110;
    /// Left out for what it did under traffic.
    const EJECTED: u32 = 1 << 3;
    /// Too few of its pool are healthy: `DOWN` and `EJECTED` do not count.
    const HEALTH_IGNORED: u32 = 1 << 4;
    /// Every connection that it may have is in use.
    const FULL: u32 = 1 << 5;
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
            && !self.has(Self::FULL)
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
        // Who leaves is not needed: nothing makes up for its health any more.
        if lifecycle == Lifecycle::Serving {
            state
        } else {
            state.with(Self::HEALTH_IGNORED, false)
        }
    }

    /// After one more check; the transition where it completes the row.
    fn after(self, healthy: bool, rise: u32, fall: u32) -> (Self, Option<Transition>) {
        let settled = Self(self.0 & ((1 << Self::STREAK) - 1));
        if healthy == self.is_up() {
            return (settled, None);
        }
        let streak = (self.0 >> Self::STREAK) + 1;
        match (healthy, streak >= if healthy { rise } else { fall }) {
            (true, true) => (settled.with(Self::DOWN, false), Some(Transition::Up)),
            (false, true) => (settled.with(Self::DOWN, true), Some(Transition::Down)),
            // Clamped, so that an endless row cannot reach the other bits.
            (_, false) => {
                let streak = streak.min(u32::MAX >> Self::STREAK);
                (Self(settled.0 | streak << Self::STREAK), None)
            }
        }
    }
}

impl Load {
    /// Nothing on it, up and serving; a weight of 0 counts as 1, one above 65,535 as that.
    pub fn new(weight: u32) -> Self {
        Self {
            sessions: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            weight: AtomicU32::new(weight.clamp(1, HEAVIEST) << 8 | FULL_SHARE),
            handicap: AtomicU32::new(0),
            state: AtomicU32::new(0),
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

    /// How many of its [`FULL_SHARE`] shares are in force, at least 1.
    pub fn share(&self) -> u32 {
        self.weight.load(SeqCst) & 0xff
    }

    /// The weight in force, in shares: [`weight`](Self::weight) × [`share`](Self::share), below 2²².
    pub fn effective_weight(&self) -> u32 {
        let word = self.weight.load(SeqCst);
        (word >> 8) * (word & 0xff)
    }

    /// Sessions as far as choosing by their number is concerned: its own, and those that a backend
    /// which is growing is taken to have besides.
    pub fn fullness(&self) -> u64 {
        u64::from(self.sessions()) + u64::from(self.handicap.load(SeqCst))
    }

    /// Whether its checks succeed.
    pub fn is_up(&self) -> bool {
        self.state().is_up()
    }

    /// Whether it was left out for its failures under traffic.
    pub fn is_ejected(&self) -> bool {
        self.state().has(LoadState::EJECTED)
    }

    /// Whether it is up and not ejected.
    pub fn is_healthy(&self) -> bool {
        self.state().is_healthy()
    }

    /// Whether its health is ignored, for want of healthy ones in its pool.
    pub fn is_health_ignored(&self) -> bool {
        self.state().has(LoadState::HEALTH_IGNORED)
    }

    /// Whether every connection that it may have is in use.
    pub fn is_full(&self) -> bool {
        self.state().has(LoadState::FULL)
    }

    /// Whether the configuration still wants it.
    pub fn lifecycle(&self) -> Lifecycle {
        self.state().lifecycle()
    }

    /// Whether a new session may go here: serving, not full, and healthy or needed all the same.
    pub fn accepts_new(&self) -> bool {
        self.state().accepts_new()
    }

    /// Whether a new session could go here, had it a connection to spare.
    pub fn is_only_full(&self) -> bool {
        let state = self.state();
        state.has(LoadState::FULL) && state.with(LoadState::FULL, false).accepts_new()
    }

    /// Whether a session that is here may stay: not gone, and up or needed all the same.
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

    /// Whether that changed anything.
    pub(super) fn set_weight(&self, weight: u32) -> bool {
        let weight = weight.clamp(1, HEAVIEST) << 8;
        let change = |word: u32| Some(weight | word & 0xff);
        self.weight.fetch_update(SeqCst, SeqCst, change).is_ok_and(|word| word & !0xff != weight)
    }

    /// Puts a part of the weight in force, and takes it to have so many sessions more; whether that
    /// changed anything.
    pub(super) fn set_growth(&self, share: u32, handicap: u32) -> bool {
        let share = share.clamp(1, FULL_SHARE);
        let handicap_changed = self.handicap.swap(handicap, SeqCst) != handicap;
        let change = |word: u32| Some(word & !0xff | share);
        let word = self.weight.fetch_update(SeqCst, SeqCst, change);
        word.is_ok_and(|word| word & 0xff != share) || handicap_changed
    }

    /// Whether that changed anything.
    pub(super) fn set_ejected(&self, ejected: bool) -> bool {
        self.set(LoadState::EJECTED, ejected)
    }

    /// Ignores its health or not; never that of one that leaves. Whether that changed anything.
    pub(super) fn set_health_ignored(&self, overridden: bool) -> bool {
        let change = |state: LoadState| {
            let after = state.with(
                LoadState::HEALTH_IGNORED,
                overridden && state.lifecycle() == Lifecycle::Serving,
            );
            (after, after != state)
        };
        self.state.update_with(change).1
    }

    /// Whether that changed anything.
    pub(super) fn set_full(&self, full: bool) -> bool {
        self.set(LoadState::FULL, full)
    }

    /// Whether that changed anything.
    pub(super) fn set_lifecycle(&self, lifecycle: Lifecycle) -> bool {
        self.state.update_with(|state| (state.with_lifecycle(lifecycle), ())).0.lifecycle()
            != lifecycle
    }

    fn set(&self, bit: u32, on: bool) -> bool {
        self.state.update_with(|state| (state.with(bit, on), ())).0.has(bit) != on
    }

    /// Counts one check; the transition is returned to exactly one of several concurrent callers.
    pub(super) fn record_check(&self, healthy: bool, rise: u32, fall: u32) -> Option<Transition> {
        self.state.update_with(|state| state.after(healthy, rise, fall)).1
    }

    fn state(&self) -> LoadState {
        LoadState(self.state.load(SeqCst))
    }
}

trait UpdateWith {
    /// Replaces the state by what `change` makes of it; the state before, and the change's verdict.
    fn update_with<T>(&self, change: impl Fn(LoadState) -> (LoadState, T)) -> (LoadState, T);
}

impl UpdateWith for AtomicU32 {
    fn update_with<T>(&self, change: impl Fn(LoadState) -> (LoadState, T)) -> (LoadState, T) {
        let mut before = self.load(SeqCst);
        loop {
            let (after, verdict) = change(LoadState(before));
            match self.compare_exchange_weak(before, after.0, SeqCst, SeqCst) {
                Ok(_) => return (LoadState(before), verdict),
                Err(now) => before = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lifecycle, Load, Transition};

    #[test]
    fn starts_up_and_serving() {
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
    fn health_and_life_are_independent() {
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
    fn who_leaves_is_judged_by_its_health_again() {
        let load = Load::new(1);
        load.record_check(false, 1, 1);
        assert!(load.set_health_ignored(true) && !load.set_health_ignored(true));
        assert!(load.accepts_new() && load.keeps_sessions());
        load.set_lifecycle(Lifecycle::Draining);
        assert!(!load.keeps_sessions() && !load.set_health_ignored(true));
        assert!(!load.keeps_sessions());
    }

    #[test]
    fn a_transition_is_seen_by_one_of_many() {
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
