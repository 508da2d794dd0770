//! What picking looks at: a backend's counters, weight and state, as plain atomics.
//!
//! Apart from [`Backend`](super::Backend) so that the selectors see this and nothing else, and so
//! that a selector kept by an old pool pins a few words and not a backend.
//!
//! Every operation is sequentially consistent: the selectors' proof that no change is lost (see
//! [`super::balance::tournament`]) rests on one order of all of them.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Whether a backend may be given sessions, as far as the configuration decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// In the configuration.
    Serving,
    /// Removed from it: takes no new session, keeps those it has.
    Draining,
    /// Removed, and its drain deadline is over or nothing is left on it.
    Gone,
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It passed `rise` checks in a row.
    Up,
    /// It failed `fall` checks in a row.
    Down,
}

/// Counters, weight and state of one backend.
#[derive(Debug)]
pub struct Load {
    sessions: AtomicU32,
    requests: AtomicU32,
    weight: AtomicU32,
    /// A [`State`], packed.
    state: AtomicU32,
}

/// Bit 0: down. Bits 1–2: [`Life`]. The rest: results in a row that speak against the present health.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u32);

impl State {
    const DOWN: u32 = 1;
    const LIFE: u32 = 0b110;
    const STREAK: u32 = 3;

    fn is_up(self) -> bool {
        self.0 & Self::DOWN == 0
    }

    fn life(self) -> Life {
        match (self.0 & Self::LIFE) >> 1 {
            0 => Life::Serving,
            1 => Life::Draining,
            _ => Life::Gone,
        }
    }

    fn with_life(self, life: Life) -> Self {
        let bits = match life {
            Life::Serving => 0,
            Life::Draining => 1,
            Life::Gone => 2,
        };
        Self(self.0 & !Self::LIFE | bits << 1)
    }

    /// After one more check; the transition where it completes the row.
    fn after(self, healthy: bool, rise: u32, fall: u32) -> (Self, Option<Transition>) {
        let settled = self.0 & (Self::DOWN | Self::LIFE);
        if healthy == self.is_up() {
            return (Self(settled), None);
        }
        let streak = (self.0 >> Self::STREAK) + 1;
        match (healthy, streak >= if healthy { rise } else { fall }) {
            (true, true) => (Self(settled & !Self::DOWN), Some(Transition::Up)),
            (false, true) => (Self(settled | Self::DOWN), Some(Transition::Down)),
            // Clamped, so that an endless row cannot reach the other bits.
            (_, false) => {
                (Self(settled | streak.min(u32::MAX >> Self::STREAK) << Self::STREAK), None)
            }
        }
    }
}

impl Load {
    /// Nothing on it, up and serving; a weight of 0 counts as 1.
    pub fn new(weight: u32) -> Self {
        Self {
            sessions: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            weight: AtomicU32::new(weight.max(1)),
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

    /// Share of new sessions, at least 1.
    pub fn weight(&self) -> u32 {
        self.weight.load(SeqCst)
    }

    /// Whether it is healthy.
    pub fn is_up(&self) -> bool {
        self.state().is_up()
    }

    /// Whether the configuration still wants it.
    pub fn life(&self) -> Life {
        self.state().life()
    }

    /// Whether a new session may go here: up and serving.
    pub fn takes_new(&self) -> bool {
        let state = self.state();
        state.is_up() && state.life() == Life::Serving
    }

    /// Whether a session that is here may stay: up and not gone.
    pub fn keeps_sessions(&self) -> bool {
        let state = self.state();
        state.is_up() && state.life() != Life::Gone
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
        let weight = weight.max(1);
        self.weight.swap(weight, SeqCst) != weight
    }

    /// Whether that changed anything.
    pub(super) fn set_life(&self, life: Life) -> bool {
        self.state.update_with(|state| (state.with_life(life), ())).0.life() != life
    }

    /// Counts one check; the transition is returned to exactly one of several concurrent callers.
    pub(super) fn mark(&self, healthy: bool, rise: u32, fall: u32) -> Option<Transition> {
        self.state.update_with(|state| state.after(healthy, rise, fall)).1
    }

    fn state(&self) -> State {
        State(self.state.load(SeqCst))
    }
}

trait UpdateWith {
    /// Replaces the state by what `change` makes of it; the state before, and the change's verdict.
    fn update_with<T>(&self, change: impl Fn(State) -> (State, T)) -> (State, T);
}

impl UpdateWith for AtomicU32 {
    fn update_with<T>(&self, change: impl Fn(State) -> (State, T)) -> (State, T) {
        let mut before = self.load(SeqCst);
        loop {
            let (after, verdict) = change(State(before));
            match self.compare_exchange_weak(before, after.0, SeqCst, SeqCst) {
                Ok(_) => return (State(before), verdict),
                Err(now) => before = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Life, Load, Transition};

    #[test]
    fn starts_up_and_serving() {
        let load = Load::new(0);
        assert!(load.takes_new() && load.keeps_sessions());
        assert_eq!((load.weight(), load.sessions(), load.requests()), (1, 0, 0));
    }

    #[test]
    fn goes_down_after_fall_failures_in_a_row_and_up_after_rise_successes() {
        let load = Load::new(1);
        let marks = |results: &[bool]| -> Vec<Option<Transition>> {
            results.iter().map(|&healthy| load.mark(healthy, 2, 3)).collect()
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
        assert_eq!(load.mark(false, 1, 0), Some(Transition::Down));
        assert_eq!(load.mark(true, 1, 1), Some(Transition::Up));
    }

    #[test]
    fn health_and_life_are_independent() {
        let load = Load::new(1);
        assert!(load.set_life(Life::Draining));
        assert!(!load.set_life(Life::Draining));
        assert!(!load.takes_new() && load.keeps_sessions());
        assert_eq!(load.mark(false, 1, 1), Some(Transition::Down));
        assert_eq!(load.life(), Life::Draining);
        assert!(!load.keeps_sessions());
        assert!(load.set_life(Life::Serving));
        assert!(!load.takes_new());
        assert_eq!(load.mark(true, 1, 1), Some(Transition::Up));
        assert!(load.takes_new());
        assert!(load.set_life(Life::Gone));
        assert!(!load.keeps_sessions());
    }

    #[test]
    fn a_transition_is_seen_by_one_of_many() {
        let load = Load::new(1);
        let downs: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..100).filter(|_| load.mark(false, 1, 150).is_some()).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(downs, 1);
    }
}
