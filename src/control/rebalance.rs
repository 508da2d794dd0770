//! Shedding tunnels from backends that have more than their share, and those that are too old.
//!
//! A pool's tunnels are counted now and then. Where a backend that takes new sessions has more than
//! its share by weight, the excess is closed at the pool's rate; while it sheds, a cookie for it is
//! not followed, so that its clients come back elsewhere. They need some seconds for that: until then
//! they count as if they were here, or those that stay would look too many in turn. A pool that is no
//! nearer to level after several rounds is one whose balance policy brings the same clients to the
//! same backends: it is left alone until its backends change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    config,
    http::proxy::Proxy,
    tunnel::{Reason, SHARDS},
    upstream::Backend,
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
pub(super) struct Rebalance {
    pools: HashMap<String, Leveling>,
    shard: usize,
    before: Option<Instant>,
}

/// A backend that takes new sessions, as leveling sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    serial: u64,
    weight: u32,
    tunnels: usize,
}

/// One pool's way to level.
#[derive(Debug, Default)]
struct Leveling {
    /// Who there was, with which weight.
    members: Vec<(u64, u32)>,
    round: Option<Round>,
    /// Excess at the beginning of the round before, where the pool has not been level since.
    last: Option<usize>,
    futile: u32,
    credit: f64,
}

/// From an excess to when its clients must be back.
#[derive(Clone, Copy, Debug)]
struct Round {
    excess: usize,
    left: usize,
    /// Tunnels at its beginning: those on their way back count.
    total: usize,
    shed: Instant,
}

impl Rebalance {
    /// Sheds what is due in every pool.
    pub(super) fn tick(
        &mut self,
        pools: &[config::Pool],
        backends: &[Arc<Backend>],
        proxy: &Proxy,
    ) {
        let now = Instant::now();
        let elapsed = self.before.replace(now).map_or(TICK, |before| now - before);
        self.pools.retain(|name, _| {
            pools.iter().any(|pool| pool.name == *name && pool.rebalance.is_some())
        });
        for pool in pools {
            let ours = || backends.iter().filter(|backend| backend.pool() == pool.name);
            let Some(terms) = pool.rebalance else {
                ours().for_each(|backend| backend.set_shedding(false));
                continue;
            };
            let sides: Vec<Side> = ours()
                .filter(|backend| backend.takes_new() || backend.is_only_full())
                .map(|backend| Side {
                    serial: backend.serial(),
                    weight: backend.shares(),
                    tunnels: proxy.tunnels.staying(backend.serial()),
                })
                .collect();
            let leveling = self.pools.entry(pool.name.clone()).or_default();
            let quota = elapsed.as_secs_f64() / terms.rate.interval().as_secs_f64();
            let shed = leveling.step(&sides, quota, now);
            for &(serial, count) in &shed {
                proxy.tunnels.close(serial, count, Reason::Rebalanced);
            }
            let sheds = leveling.sheds();
            for backend in ours() {
                let heavy = shed.iter().any(|&(serial, _)| serial == backend.serial());
                backend.set_shedding(sheds && (heavy || backend.sheds()));
            }
        }
    }

    /// Closes the tunnels that are older than their pool allows, in a part of the registry at a time.
    pub(super) fn close_aged(
        &mut self,
        pools: &[config::Pool],
        backends: &[Arc<Backend>],
        proxy: &Proxy,
    ) {
        let limit = |backend: &Backend| {
            pools.iter().find(|pool| pool.name == backend.pool())?.max_connection_age
        };
        let limits: HashMap<u64, Duration> = backends
            .iter()
            .filter_map(|backend| Some((backend.serial(), limit(backend)?)))
            .collect();
        if limits.is_empty() {
            return;
        }
        for _ in 0..SHARDS / AGE_ROUND {
            proxy.tunnels.close_aged(self.shard, |serial| limits.get(&serial).copied());
            self.shard = (self.shard + 1) % SHARDS;
        }
    }
}

impl Leveling {
    /// How many to close now, by backend; `quota` is how many the rate allows since the step before.
    fn step(&mut self, sides: &[Side], quota: f64, now: Instant) -> Vec<(u64, usize)> {
        let members: Vec<(u64, u32)> = sides.iter().map(|s| (s.serial, s.weight)).collect();
        if self.members != members {
            // Those on their way back still are.
            if let Some(round) = &mut self.round {
                round.left = usize::MAX;
            }
            (self.members, self.last, self.futile) = (members, None, 0);
        }
        let here = sides.iter().map(|side| side.tunnels).sum();
        if let Some(round) = self.round
            && now - round.shed >= RETURN
        {
            self.last = Some(round.excess);
            self.round = None;
        }
        let total = self.round.map_or(here, |round| round.total.max(here));
        let excess = excess(sides, total);
        let sum: usize = excess.iter().map(|&(_, count)| count).sum();
        if sum == 0 {
            if self.round.is_none() {
                (self.last, self.futile) = (None, 0);
            }
            return Vec::new();
        }
        if self.round.is_none() && !self.begin(sum, total, now) {
            return Vec::new();
        }
        let Some(round) = &mut self.round else { return Vec::new() };
        // No more than a burst of one step, however long there was nothing to do.
        self.credit = (self.credit + quota).min(quota.max(1.0));
        let count = (self.credit as usize).min(sum).min(round.left);
        if count == 0 {
            return Vec::new();
        }
        self.credit -= count as f64;
        round.left -= count;
        round.shed = now;
        shares(&excess, sum, count)
    }

    /// Begins a round, where it is not futile.
    fn begin(&mut self, excess: usize, total: usize, now: Instant) -> bool {
        self.futile =
            if self.last.is_some_and(|last| excess >= last) { self.futile + 1 } else { 0 };
        if self.futile >= FUTILE {
            return false;
        }
        self.round = Some(Round { excess, left: excess, total, shed: now });
        true
    }

    /// Whether some are closed, or on their way back.
    fn sheds(&self) -> bool {
        self.round.is_some()
    }
}

/// What each backend has beyond its share, rounded up, of so many tunnels.
fn excess(sides: &[Side], total: usize) -> Vec<(u64, usize)> {
    let weights: u64 = sides.iter().map(|side| u64::from(side.weight)).sum();
    let share =
        |side: &Side| (total as u64 * u64::from(side.weight)).div_ceil(weights.max(1)) as usize;
    let beyond = sides.iter().map(|side| (side.serial, side.tunnels.saturating_sub(share(side))));
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
    struct Fleet {
        sides: Vec<Side>,
        leveling: Leveling,
        returning: Vec<Instant>,
        now: Instant,
        closed: usize,
    }

    impl Fleet {
        fn new(tunnels: &[usize]) -> Self {
            let sides =
                (1..).zip(tunnels).map(|(serial, &tunnels)| Side { serial, weight: 1, tunnels });
            Self {
                sides: sides.collect(),
                leveling: Leveling::default(),
                returning: Vec::new(),
                now: Instant::now(),
                closed: 0,
            }
        }

        fn run(&mut self, seconds: u64, per_second: f64, choose: impl Fn(&[Side]) -> usize) {
            for _ in 0..seconds * 4 {
                self.now += TICK;
                let quota = per_second * TICK.as_secs_f64();
                for (serial, count) in self.leveling.step(&self.sides, quota, self.now) {
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
        }

        fn tunnels(&self) -> Vec<usize> {
            self.sides.iter().map(|side| side.tunnels).collect()
        }
    }

    fn fewest(sides: &[Side]) -> usize {
        let at = 0..sides.len();
        at.min_by_key(|&at| sides[at].tunnels * 1000 / sides[at].weight as usize).unwrap()
    }

    #[test]
    fn a_pool_levels_and_then_is_left_alone() {
        for rate in [5.0, 50.0, 5_000.0] {
            let mut fleet = Fleet::new(&[300, 300, 0]);
            fleet.run(120, rate, fewest);
            assert_eq!((fleet.tunnels(), fleet.closed), (vec![200, 200, 200], 200), "at {rate}");
            fleet.run(3_600, rate, fewest);
            assert_eq!(fleet.closed, 200);
        }
    }

    #[test]
    fn it_keeps_to_its_rate() {
        let mut fleet = Fleet::new(&[1_000, 0]);
        fleet.run(10, 20.0, fewest);
        assert!((190..=201).contains(&fleet.closed), "{}", fleet.closed);
        let mut slow = Fleet::new(&[10, 0]);
        slow.run(20, 0.2, fewest);
        assert!((3..=4).contains(&slow.closed), "{}", slow.closed);
    }

    #[test]
    fn a_pool_within_one_is_level() {
        for tunnels in [&[3, 2][..], &[1, 0], &[4, 4, 3], &[0, 0], &[7]] {
            let mut fleet = Fleet::new(tunnels);
            fleet.run(60, 100.0, fewest);
            assert_eq!(fleet.closed, 0, "{tunnels:?}");
        }
    }

    #[test]
    fn shares_are_by_weight() {
        let mut fleet = Fleet::new(&[400, 0]);
        fleet.sides[1].weight = 3;
        fleet.run(120, 100.0, fewest);
        assert_eq!(fleet.tunnels(), [100, 300]);
        // In slow start it is given what its weight allows, and more as that grows.
        let mut fleet = Fleet::new(&[400, 0]);
        fleet.sides[0].weight = 9;
        fleet.run(30, 100.0, fewest);
        assert_eq!(fleet.tunnels(), [360, 40]);
        fleet.sides[1].weight = 9;
        fleet.run(60, 100.0, fewest);
        assert_eq!(fleet.tunnels(), [200, 200]);
    }

    #[test]
    fn clients_that_always_return_to_the_same_backend_are_let_be() {
        let mut fleet = Fleet::new(&[100, 0]);
        fleet.run(600, 100.0, |_| 0);
        assert_eq!(fleet.closed, 150, "{FUTILE} rounds");
        // Another backend is a new chance.
        fleet.sides.push(Side { serial: 3, weight: 1, tunnels: 0 });
        fleet.run(120, 100.0, fewest);
        assert!(fleet.tunnels().iter().all(|&count| count <= 34), "{:?}", fleet.tunnels());
    }
}
