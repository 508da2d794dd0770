//! Lists and evicts sessions, for operators and drains.
//!
//! An evicted session stays in the table until its entry expires, as a tombstone: its next request is answered as
//! unknown, instead of by an owner search that would find it on its backend.

use std::{
    fmt,
    net::IpAddr,
    ptr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::yield_now;

use super::{
    BATCH, ROUND, SHARDS, SessionTable,
    entry::{SessionEntry, SessionOrigin},
};
use crate::upstream::Backend;

/// Number of entries from which a table is not scanned completely to find a few.
const LARGE: usize = 32 * 1024;

/// Identifies a session of this table while it is known. Reveals nothing about the sid: it is a hash under a key of
/// this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

/// A known session.
#[derive(Clone, Debug)]
pub struct SessionSummary {
    /// Identifier for operators.
    pub id: SessionId,
    /// Backend of the session.
    pub backend: Arc<Backend>,
    /// Whether it has an open tunnel.
    pub tunnel: bool,
    /// Address of the client that opened it; `None` if only another process knew it.
    pub client: Option<IpAddr>,
    /// Time since it was opened, or found by an owner search; `None` if only another process knew it.
    pub age: Option<Duration>,
}

impl SessionTable {
    /// Returns up to `limit` polling sessions of a backend. Visits every entry if there are fewer.
    pub fn polling(&self, backend: &Backend, limit: usize) -> Vec<SessionSummary> {
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            let mut end = usize::MAX;
            while end > 0 && found.len() < limit {
                let mut shard = self.lock(shard);
                let ours = shard.slice(&mut end).iter().filter(|entry| is_polling(entry, backend));
                found.extend(ours.take(limit - found.len()).map(|entry| self.session(entry)));
            }
        }
        found
    }

    /// Returns the session with this sid in each of these pools.
    pub fn whereabouts<'p>(
        &self,
        pools: impl IntoIterator<Item = &'p str>,
        sid: &str,
        now: Instant,
    ) -> Vec<SessionSummary> {
        let now = self.tick(now);
        let look = |pool: &str| {
            let location = self.location(pool, sid);
            let mut shard = self.lock(location.shard);
            let entry = shard.find(location.tag, pool, sid)?;
            (!entry.is_expired(now) && !entry.is_evicted()).then(|| self.session(entry))
        };
        pools.into_iter().filter_map(look).collect()
    }

    /// Evicts one session; false if there is no polling session with this id.
    pub fn evict_one(&self, SessionId(hash): SessionId) -> bool {
        let location = Self::location_of(hash);
        let mut shard = self.lock(location.shard);
        let is = |entry: &SessionEntry| entry.polls() && self.hash_of(entry) == hash;
        let Some(entry) = shard.find_by(location.tag, is) else { return false };
        let counted = entry.evict();
        drop(shard);
        counted.is_some()
    }

    /// Evicts up to `count` polling sessions of a backend and returns their number. One call scans a quarter of a large
    /// table, from a random position; without a limit it scans all of it. Scans in batches: other tasks run in between.
    pub async fn evict_polling(&self, backend: &Backend, count: usize) -> usize {
        let all = count == usize::MAX || self.len() < LARGE;
        let shards = if all { SHARDS } else { SHARDS / ROUND };
        let first = fastrand::usize(..SHARDS);
        let mut gone = 0;
        for shard in first..first + shards {
            let mut end = usize::MAX;
            while end > 0 && gone < count {
                gone += self.evict_batch(backend, count - gone, shard, &mut end);
                yield_now().await;
            }
        }
        gone
    }

    /// Evicts up to `count` polling sessions of a backend in the next [`BATCH`] slices of a shard before `end`, which
    /// moves to their start.
    fn evict_batch(&self, backend: &Backend, count: usize, shard: usize, end: &mut usize) -> usize {
        let mut gone = 0;
        for _ in 0..BATCH {
            let mut shard = self.lock(shard);
            let ours = shard.slice(end).iter_mut().filter(|entry| is_polling(entry, backend));
            let holds: Vec<_> = ours.take(count - gone).filter_map(SessionEntry::evict).collect();
            drop(shard);
            gone += holds.len();
            if *end == 0 || gone == count {
                break;
            }
        }
        gone
    }

    fn session(&self, entry: &SessionEntry) -> SessionSummary {
        let SessionOrigin { address: client, since } = entry.origin();
        let now = self.tick(Instant::now()) / 1000 + 1;
        let age = since.map(|since| Duration::from_secs(now.saturating_sub(since.get().into())));
        SessionSummary {
            id: SessionId(self.hash_of(entry)),
            backend: Arc::clone(entry.backend()),
            tunnel: entry.is_held(),
            client,
            age,
        }
    }

    fn hash_of(&self, entry: &SessionEntry) -> u64 {
        self.hash(entry.backend().pool(), entry.sid())
    }
}

fn is_polling(entry: &SessionEntry, backend: &Backend) -> bool {
    entry.polls() && ptr::eq(&**entry.backend(), backend)
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:016x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix('s').filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        digits.and_then(|d| u64::from_str_radix(d, 16).ok()).map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::{super::finish, *};
    use crate::config::{self, Address};

    const LIFETIME: Duration = Duration::from_secs(45);

    fn scene(sessions: usize) -> (Arc<SessionTable>, Arc<Backend>, Arc<Backend>, Instant) {
        let (table, now) = (SessionTable::new(&config::SessionsConfig::default()), Instant::now());
        let [ours, other] = [1, 2].map(|port| {
            let address = Address { host: "127.0.0.1".to_owned(), port };
            let config =
                config::BackendConfig { name: port.to_string(), address, weight: 1, backup: false };
            Backend::new("chat", &config, &config::Reuse::default())
        });
        for n in 0..sessions {
            assert!(table.learn(&format!("ours-{n}"), &ours, LIFETIME, now));
            assert!(table.learn(&format!("other-{n}"), &other, LIFETIME, now));
        }
        (table, ours, other, now)
    }

    #[test]
    fn evicted_sessions_stay_evicted_until_they_expire() {
        let (table, ours, other, now) = scene(2_000);
        let _tunnel = table.hold("chat", "ours-0", now).unwrap();
        let gone = finish(table.evict_polling(&ours, 100));
        assert_eq!((gone, ours.sessions(), other.sessions()), (100, 1_900, 2_000));
        assert_eq!(
            finish(table.evict_polling(&ours, usize::MAX)),
            1_899,
            "all except the one with a tunnel"
        );
        assert_eq!(finish(table.evict_polling(&ours, usize::MAX)), 0);
        // A use neither revives nor prolongs the session.
        let later = now + LIFETIME / 2;
        assert!(table.find("chat", "ours-7", later).unwrap().evicted);
        assert!(!table.find("chat", "ours-0", later).unwrap().evicted);
        assert!(table.find("chat", "ours-7", now + LIFETIME * 11 / 10).is_none());
        assert_eq!(ours.sessions(), 1);
        // A new session with the same sid does.
        assert!(table.learn("ours-8", &ours, LIFETIME, now));
        assert!(!table.find("chat", "ours-8", now).unwrap().evicted);
        assert_eq!(ours.sessions(), 2);
    }

    #[tokio::test]
    async fn scans_let_other_tasks_run() {
        let (table, ours, other, _) = scene(20_000);
        let turns = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&turns);
        // On one thread, this task runs only while the scan yields.
        let counter = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Relaxed);
                yield_now().await;
            }
        });
        assert_eq!(table.evict_polling(&ours, usize::MAX).await, 20_000);
        let during_eviction = turns.swap(0, Relaxed);
        assert_eq!(table.forget_backend(&other).await, 20_000);
        let during_forgetting = turns.load(Relaxed);
        assert!(during_eviction >= SHARDS / 2 && during_forgetting >= SHARDS / 2);
        counter.abort();
    }

    #[test]
    fn session_ids_do_not_reveal_sids() {
        let (table, ours, _, now) = scene(50);
        let _tunnel = table.hold("chat", "ours-0", now).unwrap();
        assert_eq!((table.polling(&ours, 10).len(), table.polling(&ours, 99).len()), (10, 49));
        for session in table.polling(&ours, 99) {
            assert!(Arc::ptr_eq(&session.backend, &ours) && !session.tunnel);
            let shown = session.id.to_string();
            assert!(!shown.contains("ours") && shown.parse() == Ok(session.id));
        }
        let found = table.whereabouts(["chat", "other"], "ours-7", now);
        assert_eq!(found.len(), 1);
        assert!(table.whereabouts(["chat"], "ours-0", now)[0].tunnel);
        assert!(table.whereabouts(["chat"], "theirs", now).is_empty());
        // The id evicts the session.
        let id = found[0].id;
        assert!(table.polling(&ours, 99).iter().any(|session| session.id == id));
        assert!(table.evict_one(id) && !table.evict_one(id));
        assert!(table.whereabouts(["chat"], "ours-7", now).is_empty());
        assert_eq!(ours.sessions(), 49);
        assert_eq!("s".parse::<SessionId>(), Err(()));
    }
}
