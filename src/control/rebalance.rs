//! Shedding tunnels from backends that have more than their share, and those that are too old.
//!
//! A pool's tunnels are counted now and then. Where a backend that takes new sessions has more than
//! its share by weight, the excess is closed at the pool's rate; while it sheds, a cookie for it is
//! not followed, so that its clients come back elsewhere. They need some seconds for that: until then
//! they count as if they were here, or those that stay would look too many in turn. A pool that is no
//! nearer to level after several rounds is one whose clients always come to the same backends: it is
//! left alone until its backends change.
//!
//! Health and slow start change what is a share while a round is under way. They add to it what they
//! add to the excess and nothing else, so that every round ends. A backend that grows into its weight
//! gives up nothing: what it has kept is its own as soon as it has grown.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    config,
    shared::SharedState,
    tunnel::{AgeLimit, CloseReason, SHARDS},
    upstream::{Backend, Lifecycle},
};

/// Period of looking at pools and ages.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Ticks within which every tunnel's age is looked at once.
const AGE_ROUND: usize = 4;

/// How long clients that were closed may need to come back: Socket.IO's wait up to 5 s times 1.5.
const RETURN: Duration = Duration::from_secs(10);

/// Rounds without progress after which a pool is left alone.
const FUTILE: u32 = 3;

/// What is under way, by pool.
#[derive(Debug, Default)]
pub(super) struct Rebalancer {
    pools: HashMap<String, Leveling>,
    /// How old the tunnels of each pool may become, where that is limited.
    ages: HashMap<String, AgeLimit>,
    shard: usize,
    before: Option<Instant>,
}

/// A backend that takes new sessions, as leveling sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BackendShare {
    serial: u64,
    /// The weight in force.
    weight: u32,
    /// Whether that is less than the configured one.
    grows: bool,
    tunnels: usize,
}

/// One pool's way to level.
#[derive(Debug, Default)]
struct Leveling {
    /// Whom the configuration wants, with which weight.
    members: Vec<(u64, u32)>,
    /// Who took new sessions a step before.
    sides: Vec<BackendShare>,
    round: Option<RebalanceRound>,
    /// What the excess was before the last round, by the weights that are in force now; `None` where
    /// the pool has been level since.
    last: Option<usize>,
    futile: u32,
    credit: f64,
}

/// From an excess to when its clients must be back.
#[derive(Clone, Copy, Debug)]
struct RebalanceRound {
    /// What it began with, by the weights that are in force now; `None` where others than were there
    /// then may take it, so that it proves nothing.
    excess: Option<usize>,
    /// How many of them are still to be closed. Once none is, it only waits.
    left: usize,
    /// Tunnels at its beginning: those on their way back count.
    total: usize,
    /// When there last were some to be closed.
    shed: Instant,
}

impl Rebalancer {
    /// Sheds what is due in every pool.
    pub(super) fn tick(
        &mut self,
        pools: &[config::PoolConfig],
        backends: &[Arc<Backend>],
        proxy: &SharedState,
    ) {
        let now = Instant::now();
        // After a halt nobody is closed for the time that it took.
        let elapsed = self.before.replace(now).map_or(TICK, |before| now - before).min(2 * TICK);
        self.pools.retain(|name, _| {
            pools.iter().any(|pool| pool.name == *name && pool.rebalance.is_some())
        });
        for pool in pools {
            let ours = || backends.iter().filter(|backend| backend.pool() == pool.name);
            let Some(terms) = pool.rebalance else {
                ours().for_each(|backend| backend.set_shedding(false));
                continue;
            };
            let members = ours()
                .filter(|backend| backend.lifecycle() == Lifecycle::Serving)
                .map(|backend| (backend.serial(), backend.weight()))
                .collect();
            let sides = ours()
                .filter(|backend| backend.accepts_new() || backend.is_only_full())
                .map(|backend| BackendShare {
                    serial: backend.serial(),
                    weight: backend.effective_weight(),
                    grows: backend.ramp() < 1.0,
                    tunnels: proxy.tunnels.closable(backend.serial()),
                })
                .collect();
            let leveling = self.pools.entry(pool.name.clone()).or_default();
            let quota = elapsed.as_secs_f64() / terms.rate.interval().as_secs_f64();
            leveling.note(members, sides);
            let shed = leveling.step(quota, now);
            for &(serial, count) in &shed {
                proxy.tunnels.close(serial, count, CloseReason::Rebalanced);
            }
            let sheds = leveling.sheds();
            for backend in ours() {
                let heavy = shed.iter().any(|&(serial, _)| serial == backend.serial());
                backend.set_shedding(sheds && (heavy || backend.is_shedding()));
            }
        }
    }

    /// Closes the tunnels that are older than their pool allows, in a part of the registry at a time.
    pub(super) fn close_aged(
        &mut self,
        pools: &[config::PoolConfig],
        backends: &[Arc<Backend>],
        proxy: &SharedState,
    ) {
        let since = Instant::now();
        let limited = pools.iter().filter_map(|pool| {
            let limit = pool.max_connection_age?;
            let before = self.ages.remove(&pool.name).filter(|before| before.limit == limit);
            Some((pool.name.clone(), before.unwrap_or(AgeLimit { limit, since })))
        });
        self.ages = limited.collect();
        if self.ages.is_empty() {
            return;
        }
        let limit =
            |backend: &Arc<Backend>| Some((backend.serial(), *self.ages.get(backend.pool())?));
        let limits: HashMap<u64, AgeLimit> = backends.iter().filter_map(limit).collect();
        for _ in 0..SHARDS / AGE_ROUND {
            proxy.tunnels.close_aged(self.shard, |serial| limits.get(&serial).copied());
            self.shard = (self.shard + 1) % SHARDS;
        }
    }
}

impl Leveling {
    /// Takes note of who there is.
    fn note(&mut self, members: Vec<(u64, u32)>, sides: Vec<BackendShare>) {
        let other_terms = {
            let terms = |side: &BackendShare| (side.serial, side.weight, side.grows);
            !sides.iter().map(terms).eq(self.sides.iter().map(terms))
        };
        if other_terms {
            // The same tunnels by the terms before and after: the rest is what clients did.
            let mut before = std::mem::take(&mut self.sides);
            for old in &mut before {
                let now = sides.iter().find(|side| side.serial == old.serial);
                old.tunnels = now.map_or(old.tunnels, |side| side.tunnels);
            }
            let change = |count: usize| {
                (count + self.excess(&sides).1).saturating_sub(self.excess(&before).1)
            };
            let last = self.last.map(change);
            let round = self.round.map(|round| RebalanceRound {
                excess: round.excess.map(change),
                left: if round.left > 0 { change(round.left) } else { 0 },
                ..round
            });
            (self.last, self.round) = (last, round);
        }
        self.sides = sides;
        if self.members != members {
            if let Some(round) = &mut self.round {
                round.excess = None;
            }
            (self.members, self.last, self.futile) = (members, None, 0);
        }
    }

    /// How many to close now, by backend; `quota` is how many the rate allows since the step before.
    fn step(&mut self, quota: f64, now: Instant) -> Vec<(u64, usize)> {
        if let Some(round) = self.round
            && now - round.shed >= RETURN
        {
            self.last = round.excess;
            self.round = None;
        }
        let (excess, sum) = self.excess(&self.sides);
        if sum == 0 {
            if self.round.is_none() && self.is_whole() {
                (self.last, self.futile) = (None, 0);
            }
            return Vec::new();
        }
        if self.round.is_none() && !self.begin(sum, now) {
            return Vec::new();
        }
        let Some(round) = self.round.as_mut().filter(|round| round.left > 0) else {
            return Vec::new();
        };
        round.shed = now;
        // No more than a burst of one step, however long there was nothing to do.
        self.credit = (self.credit + quota).min(quota.max(1.0));
        let count = (self.credit as usize).min(sum).min(round.left);
        self.credit -= count as f64;
        round.left -= count;
        shares(&excess, sum, count)
    }

    /// Begins a round, where it is not futile.
    fn begin(&mut self, excess: usize, now: Instant) -> bool {
        let stands = self.last.is_some_and(|last| excess >= last);
        self.futile = if stands { self.futile.saturating_add(1) } else { 0 };
        if self.futile >= FUTILE {
            return false;
        }
        let total = tunnels(&self.sides);
        self.round = Some(RebalanceRound { excess: Some(excess), left: excess, total, shed: now });
        true
    }

    /// What each of these has beyond its share, and how much that is together.
    fn excess(&self, sides: &[BackendShare]) -> (Vec<(u64, usize)>, usize) {
        let here = tunnels(sides);
        let excess = excess(sides, self.round.map_or(here, |round| round.total.max(here)));
        let sum = excess.iter().map(|&(_, count)| count).sum();
        (excess, sum)
    }

    /// Whether everybody whom the configuration wants is there, with the whole of its weight.
    fn is_whole(&self) -> bool {
        self.sides.len() == self.members.len() && !self.sides.iter().any(|side| side.grows)
    }

    /// Whether some are closed, or on their way back.
    fn sheds(&self) -> bool {
        self.round.is_some()
    }
}

fn tunnels(sides: &[BackendShare]) -> usize {
    sides.iter().map(|side| side.tunnels).sum()
}

/// What each backend has beyond its share, rounded up, of so many tunnels. One that grows has nothing
/// beyond: what it held before is its own by the weight that it will have.
fn excess(sides: &[BackendShare], total: usize) -> Vec<(u64, usize)> {
    let weights: u64 = sides.iter().map(|side| u64::from(side.weight)).sum();
    let share = |side: &BackendShare| {
        (total as u64 * u64::from(side.weight)).div_ceil(weights.max(1)) as usize
    };
    let settled = sides.iter().filter(|side| !side.grows);
    let beyond = settled.map(|side| (side.serial, side.tunnels.saturating_sub(share(side))));
    beyond.filter(|&(_, count)| count > 0).collect()
}

/// `count` of an excess of `sum`, from each backend its part.
fn shares(excess: &[(u64, usize)], mut sum: usize, mut count: usize) -> Vec<(u64, usize)> {
    let mut shares = Vec::new();
    for &(serial, beyond) in excess {
        let part = (count * beyond).div_ceil(sum.max(1)).min(count);
        (sum, count) = (sum - beyond, count - part);
        if part > 0 {
            shares.push((serial, part));
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Backends whose clients come back three seconds after they were closed, to where `choose` says.
    struct SimulatedPool {
        sides: Vec<BackendShare>,
        /// Who takes nothing.
        down: Option<u64>,
        leveling: Leveling,
        returning: Vec<Instant>,
        now: Instant,
        closed: usize,
    }

    impl SimulatedPool {
        fn new(tunnels: &[usize]) -> Self {
            Self {
                sides: (1..).zip(tunnels).map(|(serial, &tunnels)| side(serial, tunnels)).collect(),
                down: None,
                leveling: Leveling::default(),
                returning: Vec::new(),
                now: Instant::now(),
                closed: 0,
            }
        }

        fn run(
            &mut self,
            seconds: u64,
            per_second: f64,
            choose: impl Fn(&[BackendShare]) -> usize,
        ) {
            for _ in 0..seconds * 4 {
                self.tick(per_second, &choose);
            }
        }

        fn tick(&mut self, per_second: f64, choose: impl Fn(&[BackendShare]) -> usize) {
            self.now += TICK;
            let members = self.sides.iter().map(|side| (side.serial, 1)).collect();
            let up = self.sides.iter().filter(|side| Some(side.serial) != self.down);
            let up = up.copied().collect();
            self.leveling.note(members, up);
            for (serial, count) in self.leveling.step(per_second * TICK.as_secs_f64(), self.now) {
                self.sides[serial as usize - 1].tunnels -= count;
                self.closed += count;
                let back = self.now + Duration::from_secs(3);
                self.returning.extend(std::iter::repeat_n(back, count));
            }
            while self.returning.first().is_some_and(|&back| back <= self.now) {
                self.returning.remove(0);
                let to = choose(&self.sides);
                self.sides[to].tunnels += 1;
            }
        }

        /// The third backend grows into the weight that the others have, within `seconds`.
        fn grow(
            &mut self,
            seconds: u64,
            per_second: f64,
            choose: impl Fn(&[BackendShare]) -> usize,
        ) {
            self.sides.iter_mut().for_each(|side| side.weight = 64);
            for tick in 0..seconds * 4 {
                let weight = 6 + (58 * tick / (seconds * 4)) as u32;
                (self.sides[2].weight, self.sides[2].grows) = (weight, true);
                self.tick(per_second, &choose);
            }
            (self.sides[2].weight, self.sides[2].grows) = (64, false);
        }

        fn tunnels(&self) -> Vec<usize> {
            self.sides.iter().map(|side| side.tunnels).collect()
        }
    }

    fn side(serial: u64, tunnels: usize) -> BackendShare {
        BackendShare { serial, weight: 1, grows: false, tunnels }
    }

    fn fewest(sides: &[BackendShare]) -> usize {
        let at = 0..sides.len();
        at.min_by_key(|&at| sides[at].tunnels * 1000 / sides[at].weight as usize).unwrap()
    }

    #[test]
    fn a_pool_levels_and_then_is_left_alone() {
        for rate in [5.0, 50.0, 5_000.0] {
            let mut fleet = SimulatedPool::new(&[300, 300, 0]);
            fleet.run(120, rate, fewest);
            assert_eq!((fleet.tunnels(), fleet.closed), (vec![200, 200, 200], 200), "at {rate}");
            fleet.run(3_600, rate, fewest);
            assert_eq!(fleet.closed, 200);
        }
    }

    #[test]
    fn it_keeps_to_its_rate() {
        let mut fleet = SimulatedPool::new(&[1_000, 0]);
        fleet.run(10, 20.0, fewest);
        assert!((190..=201).contains(&fleet.closed), "{}", fleet.closed);
        let mut slow = SimulatedPool::new(&[10, 0]);
        slow.run(20, 0.2, fewest);
        assert!((3..=4).contains(&slow.closed), "{}", slow.closed);
    }

    #[test]
    fn a_pool_within_one_is_level() {
        for tunnels in [&[3, 2][..], &[1, 0], &[4, 4, 3], &[0, 0], &[7]] {
            let mut fleet = SimulatedPool::new(tunnels);
            fleet.run(60, 100.0, fewest);
            assert_eq!(fleet.closed, 0, "{tunnels:?}");
        }
    }

    #[test]
    fn shares_are_by_weight() {
        let mut fleet = SimulatedPool::new(&[400, 0]);
        fleet.sides[1].weight = 3;
        fleet.run(120, 100.0, fewest);
        assert_eq!(fleet.tunnels(), [100, 300]);
        // In slow start it is given what its weight allows, and more as that grows.
        let mut fleet = SimulatedPool::new(&[400, 0]);
        fleet.sides[0].weight = 9;
        fleet.run(30, 100.0, fewest);
        assert_eq!(fleet.tunnels(), [360, 40]);
        fleet.sides[1].weight = 9;
        fleet.run(60, 100.0, fewest);
        assert_eq!(fleet.tunnels(), [200, 200]);
    }

    #[test]
    fn clients_that_always_return_to_the_same_backend_are_let_be() {
        let mut fleet = SimulatedPool::new(&[100, 0]);
        fleet.run(600, 100.0, |_| 0);
        assert_eq!(fleet.closed, 150, "{FUTILE} rounds");
        // Another backend is a new chance.
        fleet.sides.push(side(3, 0));
        fleet.run(120, 100.0, fewest);
        assert!(fleet.tunnels().iter().all(|&count| count <= 34), "{:?}", fleet.tunnels());
    }

    #[test]
    fn a_change_during_a_round_does_not_make_it_endless() {
        let mut fleet = SimulatedPool::new(&[100, 0]);
        fleet.run(5, 100.0, |_| 0);
        fleet.sides.push(side(3, 0));
        fleet.run(3_600, 100.0, |_| 0);
        assert_eq!(fleet.closed, 50 + FUTILE as usize * 66);
        // While it sheds: at 5 per second there are 25 left then.
        let mut fleet = SimulatedPool::new(&[100, 0]);
        fleet.run(5, 5.0, fewest);
        fleet.sides.push(side(3, 0));
        fleet.run(60, 5.0, fewest);
        let tunnels = fleet.tunnels();
        assert!(tunnels.iter().all(|&count| count <= 34), "{tunnels:?}");
        assert!(fleet.closed <= 90, "{}", fleet.closed);
    }

    #[test]
    fn a_backend_that_comes_and_goes_is_no_new_chance() {
        let mut fleet = SimulatedPool::new(&[100, 0]);
        for turn in 0..400 {
            fleet.down = (turn % 2 == 1).then_some(2);
            fleet.run(8, 100.0, |_| 0);
        }
        assert!(fleet.closed <= (FUTILE as usize + 1) * 50, "{}", fleet.closed);
    }

    #[test]
    fn a_backend_that_returns_keeps_what_it_has() {
        let mut fleet = SimulatedPool::new(&[100, 100, 100]);
        fleet.grow(30, 50.0, fewest);
        fleet.run(60, 50.0, fewest);
        assert_eq!((fleet.tunnels(), fleet.closed), (vec![100; 3], 0));
    }

    #[test]
    fn a_backend_that_grows_gets_its_part_step_by_step_and_each_tunnel_moves_once() {
        for seconds in [10, 60, 600] {
            let mut fleet = SimulatedPool::new(&[150, 150, 0]);
            fleet.grow(seconds, 50.0, fewest);
            fleet.run(60, 50.0, fewest);
            assert_eq!(fleet.tunnels(), [100; 3], "{seconds} s");
            assert!(fleet.closed <= 110, "{seconds} s: {}", fleet.closed);
        }
        // And those that always return are closed some times, not all the time.
        let mut fleet = SimulatedPool::new(&[150, 150, 0]);
        for _ in 0..20 {
            let least = |sides: &[BackendShare]| usize::from(sides[1].tunnels < sides[0].tunnels);
            fleet.grow(30, 50.0, least);
            fleet.run(60, 50.0, least);
        }
        assert!(fleet.closed <= 100 * (FUTILE as usize + 1), "{}", fleet.closed);
    }

    #[test]
    fn a_slow_rate_is_no_futile_one() {
        let mut fleet = SimulatedPool::new(&[10, 0]);
        fleet.run(600, 1.0 / 60.0, fewest);
        assert_eq!(fleet.tunnels(), [5, 5]);
    }
}
