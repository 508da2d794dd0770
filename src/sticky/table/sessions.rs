//! What operators and drains ask of the table: which sessions there are, and to let some go.
//!
//! A session that is let go stays in the table for as long as its entry would live, as a stone that
//! says so: its next request is answered that the session is unknown, in place of a search that would
//! find it where it was.

use std::{
    fmt,
    net::IpAddr,
    ptr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ROUND, SHARDS, Table,
    entry::{Entry, Origin},
};
use crate::upstream::Backend;

/// Entries from which on a table is not looked through as a whole for a few of them.
const LARGE: usize = 32 * 1024;

/// Names a session of this table for as long as it is known, and says nothing of its sid: it is a
/// hash under a key of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

/// A known session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Where it is.
    pub backend: Arc<Backend>,
    /// Whether a tunnel of it is open.
    pub tunnel: bool,
    /// Address of the client that opened it; `None`: another process knew that.
    pub client: Option<IpAddr>,
    /// Time since it was opened, or found by an owner search; `None`: another process knew that.
    pub age: Option<Duration>,
}

impl Table {
    /// Some polling sessions of a backend, `limit` at most. Looks at every entry where there are fewer.
    pub fn polling(&self, backend: &Backend, limit: usize) -> Vec<Session> {
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

    /// Where this sid is known, over these pools.
    pub fn whereabouts<'p>(
        &self,
        pools: impl IntoIterator<Item = &'p str>,
        sid: &str,
        now: Instant,
    ) -> Vec<Session> {
        let now = self.tick(now);
        let look = |pool: &str| {
            let place = self.place(pool, sid);
            let mut shard = self.lock(place.shard);
            let entry = shard.find(place.tag, pool, sid)?;
            (!entry.is_expired(now) && !entry.is_let_go()).then(|| self.session(entry))
        };
        pools.into_iter().filter_map(look).collect()
    }

    /// Lets one session go; false where there is no polling session of that name.
    pub fn let_one_go(&self, SessionId(hash): SessionId) -> bool {
        let place = Self::place_of(hash);
        let mut shard = self.lock(place.shard);
        let is = |entry: &Entry| entry.polls() && self.hash_of(entry) == hash;
        let Some(entry) = shard.find_by(place.tag, is) else { return false };
        let counted = entry.let_go();
        drop(shard);
        counted.is_some()
    }

    /// Lets up to `count` polling sessions of a backend go, and says how many. One call looks through
    /// a quarter of a large table, from anywhere on; where `count` has no limit, through all of it.
    pub fn let_go(&self, backend: &Backend, count: usize) -> usize {
        let all = count == usize::MAX || self.len() < LARGE;
        let shards = if all { SHARDS } else { SHARDS / ROUND };
        let first = fastrand::usize(..SHARDS);
        let mut gone = 0;
        for shard in first..first + shards {
            let mut end = usize::MAX;
            while end > 0 && gone < count {
                let mut shard = self.lock(shard);
                let ours =
                    shard.slice(&mut end).iter_mut().filter(|entry| is_polling(entry, backend));
                let holds: Vec<_> = ours.take(count - gone).filter_map(Entry::let_go).collect();
                drop(shard);
                gone += holds.len();
            }
        }
        gone
    }

    fn session(&self, entry: &Entry) -> Session {
        let Origin { address: client, since } = entry.origin();
        let now = self.tick(Instant::now()) / 1000 + 1;
        let age = since.map(|since| Duration::from_secs(now.saturating_sub(since.get().into())));
        Session {
            id: SessionId(self.hash_of(entry)),
            backend: Arc::clone(entry.backend()),
            tunnel: entry.is_held(),
            client,
            age,
        }
    }

    fn hash_of(&self, entry: &Entry) -> u64 {
        self.hash(entry.backend().pool(), entry.sid())
    }
}

fn is_polling(entry: &Entry, backend: &Backend) -> bool {
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
    use super::*;
    use crate::config::{self, Address};

    const LIFETIME: Duration = Duration::from_secs(45);

    fn scene(sessions: usize) -> (Arc<Table>, Arc<Backend>, Arc<Backend>, Instant) {
        let (table, now) = (Table::new(&config::Sessions::default()), Instant::now());
        let [ours, other] = [1, 2].map(|port| {
            let address = Address { host: "127.0.0.1".to_owned(), port };
            let config = config::Backend { name: port.to_string(), address, weight: 1 };
            Backend::new("chat", &config, &config::Reuse::default())
        });
        for n in 0..sessions {
            assert!(table.learn(&format!("ours-{n}"), &ours, LIFETIME, now));
            assert!(table.learn(&format!("other-{n}"), &other, LIFETIME, now));
        }
        (table, ours, other, now)
    }

    #[test]
    fn some_are_let_go_and_stay_so_until_they_expire() {
        let (table, ours, other, now) = scene(2_000);
        let _tunnel = table.hold("chat", "ours-0", now).unwrap();
        let gone = table.let_go(&ours, 100);
        assert_eq!((gone, ours.sessions(), other.sessions()), (100, 1_900, 2_000));
        assert_eq!(table.let_go(&ours, usize::MAX), 1_899, "all but the tunnel's");
        assert_eq!(table.let_go(&ours, usize::MAX), 0);
        // A use does not bring it back, nor prolong it.
        let later = now + LIFETIME / 2;
        assert!(table.find("chat", "ours-7", later).unwrap().let_go);
        assert!(!table.find("chat", "ours-0", later).unwrap().let_go);
        assert!(table.find("chat", "ours-7", now + LIFETIME * 11 / 10).is_none());
        assert_eq!(ours.sessions(), 1);
        // A new session of that sid does.
        assert!(table.learn("ours-8", &ours, LIFETIME, now));
        assert!(!table.find("chat", "ours-8", now).unwrap().let_go);
        assert_eq!(ours.sessions(), 2);
    }

    #[test]
    fn sessions_are_listed_by_names_that_do_not_tell_their_sids() {
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
        // By that name it is let go.
        let id = found[0].id;
        assert!(table.polling(&ours, 99).iter().any(|session| session.id == id));
        assert!(table.let_one_go(id) && !table.let_one_go(id));
        assert!(table.whereabouts(["chat"], "ours-7", now).is_empty());
        assert_eq!(ours.sessions(), 49);
        assert_eq!("s".parse::<SessionId>(), Err(()));
    }
}
