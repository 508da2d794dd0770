//! A configuration's view of several backends: how one is chosen, and how often a choice may be
//! tried again.
//!
//! A pool is immutable but for what its selector derives from the backends. A reload makes a new
//! one around the same backends, which moves their seats: from then on the old pool is told nothing
//! more, still picks for those few requests that have it, and its choices grow stale harmlessly.

use std::{cell::OnceCell, fmt, sync::Arc, time::Instant};

use super::{
    backend::{Backend, Seat},
    balance::Selector,
    budget::Budget,
    quorum::Quorum,
};
use crate::config;

/// Interchangeable backends with their policy.
pub struct Pool {
    config: config::Pool,
    backends: Vec<Arc<Backend>>,
    selector: Arc<Selector>,
    quorum: Arc<Quorum>,
    budget: Budget,
}

impl Pool {
    /// A pool of these backends, each of which takes its seat here. `config.backends` is not looked
    /// at: whoever reloads knows which backends are kept.
    pub fn new(config: config::Pool, backends: Vec<Arc<Backend>>) -> Arc<Self> {
        let loads = backends.iter().map(|backend| (backend.name(), Arc::clone(backend.load())));
        let selector = Arc::new(Selector::new(config.balance, loads));
        let loads = backends.iter().map(|backend| Arc::clone(backend.load())).collect();
        let quorum = Arc::new(Quorum::new(&config, loads, Arc::clone(&selector)));
        // Where all are new nobody is: a process that starts must not give all of them a tenth.
        let serves = backends.iter().any(|backend| backend.is_seated());
        for (index, backend) in (0..).zip(&backends) {
            backend.limit(&config.limits);
            if serves && !backend.is_seated() {
                backend.defer();
            }
            let (selector, quorum) = (Arc::clone(&selector), Arc::clone(&quorum));
            backend.sit(Seat { selector, quorum, index });
        }
        // What changed before the backends knew of this selector.
        selector.rebuild();
        let budget = Budget::new(Instant::now());
        let pool = Arc::new(Self { config, backends, selector, quorum, budget });
        pool.tend(Instant::now());
        pool
    }

    /// What the pool was made from.
    pub fn config(&self) -> &config::Pool {
        &self.config
    }

    /// Name in the file, and in logs and metrics.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its backends, in configuration order.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The backend that should take the next session, by the pool's policy; `None` where every one
    /// that takes new sessions is among `tried`. `source` is the client's address for source-hash,
    /// in whatever bytes always stand for it.
    pub fn pick(&self, source: &[u8], tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        // Empty but for retries, and then not allocated.
        let mut tried: Vec<u32> = tried.iter().filter_map(|backend| self.index(backend)).collect();
        tried.sort_unstable();
        tried.dedup();
        let picked = self.selector.pick(source, &tried);
        let index = match picked {
            Some(index) if self.backends[index as usize].takes_new() => Some(index),
            // An old pool's choice may have gone down unnoticed.
            _ if self.selector.is_replaced() => self.scan(&tried),
            _ => picked,
        };
        index.map(|index| Arc::clone(&self.backends[index as usize]))
    }

    /// The backend that the next [`pick`](Self::pick) would bring, without taking a turn; `None` where
    /// none takes new sessions, or where it is left to chance.
    pub fn preview(&self, source: &[u8]) -> Option<&Arc<Backend>> {
        let index = self.selector.preview(source)?;
        self.backends.get(index as usize).filter(|backend| backend.takes_new())
    }

    /// Whether somebody would take a new session, had it a connection to spare.
    pub fn is_full(&self) -> bool {
        self.backends.iter().any(|backend| backend.is_only_full())
    }

    /// Lets in again whose ejection is over, lets grow who is growing, and looks anew whether health
    /// counts. To be called every [`TEND`](super::TEND) or so while this is the newest pool.
    pub fn tend(&self, now: Instant) {
        let level = OnceCell::new();
        for backend in &self.backends {
            if backend.tend(&level, now) {
                tracing::info!(pool = self.name(), backend = backend.name(), "let in again");
            }
        }
        self.quorum.review();
    }

    /// Whether the budget allows one more retry, which is then spent.
    pub fn retry_allowed(&self) -> bool {
        self.budget.withdraw(Instant::now())
    }

    /// Counts a request towards the retry budget.
    pub fn note_request(&self) {
        self.budget.note_request(Instant::now());
    }

    fn index(&self, backend: &Arc<Backend>) -> Option<u32> {
        backend.index_in(&self.selector).or_else(|| {
            let index = self.backends.iter().position(|other| Arc::ptr_eq(other, backend))?;
            u32::try_from(index).ok()
        })
    }

    fn scan(&self, tried: &[u32]) -> Option<u32> {
        (0..)
            .zip(&self.backends)
            .find(|(index, backend)| backend.takes_new() && !tried.contains(index))
            .map(|(index, _)| index)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.config.name)
            .field("backends", &self.backends)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::Pool;
    use crate::{
        config::{self, Address, Balance, Reuse},
        upstream::{Backend, Hold, Life},
    };

    const ALL: [Balance; 4] =
        [Balance::LeastSessions, Balance::RoundRobin, Balance::P2c, Balance::SourceHash];

    fn backend(name: &str, weight: u32) -> config::Backend {
        let address = Address { host: "127.0.0.1".to_owned(), port: 3000 };
        config::Backend { name: name.to_owned(), address, weight }
    }

    fn live(weights: &[u32]) -> Vec<Arc<Backend>> {
        let backends = weights.iter().enumerate();
        backends
            .map(|(i, &weight)| {
                Backend::new("p", &backend(&format!("b{i}"), weight), &Reuse::default())
            })
            .collect()
    }

    fn pool(balance: Balance, backends: &[Arc<Backend>]) -> Arc<Pool> {
        let mut config = config::Pool::new("p", Vec::new());
        config.balance = balance;
        Pool::new(config, backends.to_vec())
    }

    fn fill(pool: &Pool, sessions: usize) -> Vec<Hold> {
        (0..sessions).map(|_| pool.pick(b"", &[]).unwrap().hold()).collect()
    }

    fn sessions(backends: &[Arc<Backend>]) -> Vec<usize> {
        backends.iter().map(|backend| backend.sessions()).collect()
    }

    #[test]
    fn every_policy_skips_what_takes_no_new_session() {
        for balance in ALL {
            let backends = live(&[1, 2, 3, 4]);
            let pool = pool(balance, &backends);
            backends[0].mark(false, 1, 1);
            backends[2].set_life(Life::Draining);
            for source in 0..200u32 {
                let picked = pool.pick(&source.to_le_bytes(), &[]).unwrap();
                assert!(picked.name() == "b1" || picked.name() == "b3", "{balance:?}");
            }
            let tried = [Arc::clone(&backends[1])];
            assert_eq!(pool.pick(b"x", &tried).unwrap().name(), "b3", "{balance:?}");
            let tried = [Arc::clone(&backends[1]), Arc::clone(&backends[3])];
            assert!(pool.pick(b"x", &tried).is_none(), "{balance:?}");
        }
    }

    #[test]
    fn every_policy_has_nobody_where_all_are_down_and_finds_who_comes_back() {
        for balance in ALL {
            let backends = live(&[1, 1, 1]);
            let pool = pool(balance, &backends);
            for backend in &backends {
                backend.mark(false, 1, 1);
            }
            assert!(pool.pick(b"x", &[]).is_none(), "{balance:?}");
            backends[1].mark(true, 1, 1);
            assert_eq!(pool.pick(b"x", &[]).unwrap().name(), "b1", "{balance:?}");
        }
    }

    #[test]
    fn one_tried_twice_is_left_out_once() {
        for balance in ALL {
            let backends = live(&[1, 5, 1]);
            let pool = pool(balance, &backends);
            let tried = [1, 0, 1, 1].map(|index: usize| Arc::clone(&backends[index]));
            assert_eq!(pool.pick(b"x", &tried).unwrap().name(), "b2", "{balance:?}");
        }
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        for balance in ALL {
            assert!(pool(balance, &[]).pick(b"x", &[]).is_none(), "{balance:?}");
        }
    }

    #[test]
    fn sessions_spread_exactly_by_weight() {
        let backends = live(&[1, 2, 3]);
        let pool = pool(Balance::LeastSessions, &backends);
        let holds = fill(&pool, 600);
        assert_eq!(sessions(&backends), [100, 200, 300]);
        drop(holds);
        assert_eq!(sessions(&backends), [0, 0, 0]);
    }

    #[test]
    fn a_new_weight_counts_from_the_next_pick() {
        let backends = live(&[1, 1]);
        let pool = pool(Balance::LeastSessions, &backends);
        let _holds = fill(&pool, 100);
        assert_eq!(sessions(&backends), [50, 50]);
        backends[0].set_weight(3);
        let _more = fill(&pool, 100);
        assert_eq!(sessions(&backends), [150, 50]);
    }

    #[test]
    fn sessions_and_health_survive_a_new_pool() {
        for balance in ALL {
            let backends = live(&[1, 1, 1]);
            let old = pool(balance, &backends);
            let _holds: Vec<_> = (0..5).map(|_| backends[0].hold()).collect();
            backends[1].mark(false, 1, 1);
            let new = pool(balance, &backends);
            let tried = [Arc::clone(&backends[0])];
            assert_eq!(new.pick(b"x", &tried).unwrap().name(), "b2", "{balance:?}");
            assert_eq!(backends[0].sessions(), 5);

            // The old one is told nothing more, and still does not name the dead.
            backends[2].mark(false, 1, 1);
            for _ in 0..10 {
                assert_eq!(old.pick(b"x", &[]).unwrap().name(), "b0", "{balance:?}");
            }
            assert!(old.pick(b"x", &tried).is_none(), "{balance:?}");
        }
    }

    #[test]
    fn the_budget_ends_retries() {
        let pool = pool(Balance::RoundRobin, &live(&[1]));
        let start = Instant::now();
        let allowed = (0..1000).take_while(|_| pool.retry_allowed()).count();
        let seconds = start.elapsed().as_secs() as usize + 1;
        assert!((10..=10 * seconds).contains(&allowed), "{allowed}");
        (0..50).for_each(|_| pool.note_request());
        assert!(pool.retry_allowed());
    }
}
