//! Which backend owns a session: sid → backend, for all pools, learned from backends' replies only.
//!
//! The key is the pool and the sid, both compared; the hash is keyed, so that no client can choose
//! sids that collide. The table outlives configurations. An entry is 96 bytes and 5 to 11 of index,
//! a sid of more than 22 bytes comes on top; a million sessions are about 125 MB.
//!
//! **Lifetime.** An entry lives for one lifetime after its last use. While tunnels of its session are
//! open it cannot expire; after the last one it lives for one more lifetime, since a client whose
//! upgrade failed goes on polling.
//!
//! **Counting.** A session counts once on its backend, as long as its entry lives or a tunnel is
//! open. After its last tunnel it does not count, since most sessions end with their tunnel, until
//! it is found again.
//!
//! **Bounds.** Where the table is full, each new session drives one out: of eight entries drawn at
//! random from the same shard the one nearest its expiry (small tables: from the next shard that has
//! any). That is cheap and needs no order among entries, which are otherwise reordered by every use.
//! Its owner search can find the session again. Held entries go last, and their sessions stay counted.
//!
//! **Handing on.** Another process gets the table slice by slice, and what is learned meanwhile through
//! a tap; see [`hand`].
//!
//! **Locks.** 64 shards with a lock each, held for one lookup or 256 entries of a sweep.
//!
//! Time is passed in; a `now` before the table was made counts as that moment.

mod entry;
mod handoff;
mod sessions;
mod shard;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use entry::Entry;
pub use handoff::{Cursor, Learned};
pub use sessions::{Session, SessionId};
use shard::Shard;
use tokio::sync::mpsc;

use super::recent_sessions::Key;
use crate::{
    config,
    upstream::{Backend, Hold},
};

const SHARDS: usize = 64;

/// Sweeps until each shard was visited.
const ROUND: usize = 4;

/// Sid → backend.
pub struct Table {
    shards: [Slot; SHARDS],
    hasher: RandomState,
    start: Instant,
    /// The latest time anyone passed in, in milliseconds since `start`: a tunnel's end knows no other.
    clock: AtomicU64,
    length: AtomicUsize,
    max: AtomicUsize,
    max_sid_bytes: AtomicUsize,
    next_sweep: AtomicUsize,
    /// Whoever wants to hear what is learned.
    tap: ArcSwapOption<mpsc::Sender<Learned>>,
}

/// The client that opens a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opener {
    /// How its handshake named it.
    pub key: Option<Key>,
    /// Its address.
    pub address: Option<IpAddr>,
}

/// A shard on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Slot(Mutex<Shard>);

/// Where a session is.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its backend, in whatever state that is.
    pub backend: Arc<Backend>,
    /// As it was learned: how long the session may be silent, and so how long a poll may be held.
    pub lifetime: Duration,
    /// Whether it was let go, so that it is as good as dead.
    pub let_go: bool,
    /// The client that opened it, as its handshake named it; `None`: another process saw the handshake,
    /// or clients are not recognised in this pool.
    pub client: Option<Key>,
}

/// An open tunnel of a session: while it lives, the session's entry cannot expire, and the session
/// counts once however many of them there are.
#[must_use = "the session is held only while this lives"]
pub struct SessionHold {
    table: Arc<Table>,
    place: Place,
    hold: Option<Arc<Hold>>,
}

/// Where a key belongs.
#[derive(Clone, Copy)]
struct Place {
    shard: usize,
    tag: u32,
}

impl Table {
    /// An empty table; memory is taken as it fills.
    pub fn new(limits: &config::Sessions) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Slot::default()),
            hasher: RandomState::new(),
            start: Instant::now(),
            clock: AtomicU64::new(0),
            length: AtomicUsize::new(0),
            max: AtomicUsize::new(limits.max),
            max_sid_bytes: AtomicUsize::new(limits.max_sid_bytes),
            next_sweep: AtomicUsize::new(0),
            tap: ArcSwapOption::empty(),
        })
    }

    /// Changes the bounds. Where there are more entries than now allowed, evicts until there are not:
    /// the one operation here whose cost grows with the table, for a reload to pay.
    pub fn resize(&self, limits: &config::Sessions) {
        self.max.store(limits.max, Relaxed);
        self.max_sid_bytes.store(limits.max_sid_bytes, Relaxed);
        let mut shard = 0;
        while self.len() > limits.max && self.evict_after(shard) {
            shard = (shard + 1) % SHARDS;
        }
    }

    /// Remembers that a backend opened this session, in the backend's own pool, and counts it there.
    ///
    /// A session that is known already is renewed, and moved where it is on another backend. False
    /// where it cannot be remembered: its sid is empty or too long, or the table has no room at all.
    pub fn learn(
        &self,
        sid: &str,
        backend: &Arc<Backend>,
        lifetime: Duration,
        now: Instant,
    ) -> bool {
        self.learn_from(Opener::default(), sid, backend, lifetime, now)
    }

    /// Like [`learn`](Self::learn), and remembers the client that opened the session.
    pub fn learn_from(
        &self,
        opener: Opener,
        sid: &str,
        backend: &Arc<Backend>,
        lifetime: Duration,
        now: Instant,
    ) -> bool {
        let Opener { key: client, address } = opener;
        if !self.takes(sid) {
            return false;
        }
        let now = self.tick(now);
        let millis = millis(lifetime);
        let place = self.place(backend.pool(), sid);
        let mut shard = self.lock(place.shard);
        let mut moved = None;
        if let Some(entry) = shard.find(place.tag, backend.pool(), sid) {
            if ptr::eq(&**entry.backend(), &**backend) && !entry.is_let_go() {
                entry.renew(millis, now);
                entry.set_client(client);
                entry.set_origin(address, now);
                return true;
            }
            moved = shard.remove(place.tag, backend.pool(), sid);
            self.length.fetch_sub(1, Relaxed);
        }
        let mut entry = Entry::new(place.tag, sid, backend, millis, now);
        entry.set_client(client);
        entry.set_origin(address, now);
        self.insert(shard, place, entry, moved);
        self.tell(|| {
            let backend = Arc::clone(backend);
            Learned { sid: sid.into(), backend, lifetime, left: lifetime, client }
        });
        true
    }

    /// Notes that a session without a tunnel was closed by one of its sides: it does not count any more.
    /// Its entry stays until it expires, for requests that are still on their way.
    pub fn close(&self, pool: &str, sid: &str) {
        let place = self.place(pool, sid);
        let counted = self.lock(place.shard).find(place.tag, pool, sid).and_then(Entry::close);
        drop(counted);
    }

    /// The session's backend. Counts as a use: renews the entry, and counts the session again where
    /// its last tunnel's end had uncounted it.
    pub fn find(&self, pool: &str, sid: &str, now: Instant) -> Option<Known> {
        self.use_live(pool, sid, now, |entry, now| {
            entry.renew(entry.lifetime(), now);
            Known::from(&*entry)
        })
    }

    /// The session's backend, without counting as a use.
    pub fn peek(&self, pool: &str, sid: &str, now: Instant) -> Option<Known> {
        let now = self.tick(now);
        let place = self.place(pool, sid);
        let mut shard = self.lock(place.shard);
        let entry = shard.find(place.tag, pool, sid).filter(|entry| !entry.is_expired(now))?;
        Some(Known::from(&*entry))
    }

    /// Forgets a session. Tunnels that hold it go on, and count it on until they end.
    pub fn forget(&self, pool: &str, sid: &str) {
        let place = self.place(pool, sid);
        let gone = self.lock(place.shard).remove(place.tag, pool, sid);
        self.length.fetch_sub(usize::from(gone.is_some()), Relaxed);
    }

    /// Forgets all sessions of a backend, and says how many. Looks at every entry.
    pub fn forget_backend(&self, backend: &Backend) -> usize {
        (0..SHARDS).map(|at| self.prune(at, |entry| ptr::eq(&**entry.backend(), backend))).sum()
    }

    /// Holds a session for as long as a tunnel of it is open; `None` where it is not known.
    pub fn hold(self: &Arc<Self>, pool: &str, sid: &str, now: Instant) -> Option<SessionHold> {
        let hold = self.use_live(pool, sid, now, Entry::hold)?;
        let place = self.place(pool, sid);
        Some(SessionHold { table: Arc::clone(self), place, hold: Some(hold) })
    }

    /// Removes what expired in a quarter of the shards, the next quarter at each call, and says how
    /// many. To be called every second.
    pub fn sweep(&self, now: Instant) -> usize {
        let now = self.tick(now);
        let shards = SHARDS / ROUND;
        let first = self.next_sweep.fetch_add(shards, Relaxed) % SHARDS;
        let expired = |at| {
            let expired = self.prune(at, |entry| entry.is_expired(now));
            self.lock(at).shrink();
            expired
        };
        (first..first + shards).map(expired).sum()
    }

    /// Sessions remembered.
    pub fn len(&self) -> usize {
        self.length.load(Relaxed)
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory taken, with what is reserved and without the allocator's own.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + (0..SHARDS).map(|at| self.lock(at).bytes()).sum::<usize>()
    }

    /// Runs an action on an entry that is alive; one that is not is removed.
    fn use_live<R>(
        &self,
        pool: &str,
        sid: &str,
        now: Instant,
        action: impl FnOnce(&mut Entry, u64) -> R,
    ) -> Option<R> {
        let now = self.tick(now);
        let place = self.place(pool, sid);
        let mut shard = self.lock(place.shard);
        let entry = shard.find(place.tag, pool, sid)?;
        if !entry.is_expired(now) {
            return Some(action(entry, now));
        }
        let expired = shard.remove(place.tag, pool, sid);
        drop(shard);
        self.length.fetch_sub(usize::from(expired.is_some()), Relaxed);
        None
    }

    /// Whether a session by this name can be remembered at all.
    fn takes(&self, sid: &str) -> bool {
        let fits = !sid.is_empty() && sid.len() <= self.max_sid_bytes.load(Relaxed);
        fits && self.max.load(Relaxed) > 0
    }

    /// Adds an entry whose key is not there, and drives another one out where the table is full;
    /// `moved` was taken out of the shard for it.
    fn insert(
        &self,
        mut shard: MutexGuard<'_, Shard>,
        place: Place,
        entry: Entry,
        moved: Option<Entry>,
    ) {
        let mut evicted = moved;
        let mut full = self.length.fetch_add(1, Relaxed) >= self.max.load(Relaxed);
        if full && evicted.is_none() {
            evicted = shard.evict();
            if evicted.is_some() {
                self.length.fetch_sub(1, Relaxed);
                full = false;
            }
        }
        shard.insert(entry);
        drop(shard);
        drop(evicted);
        if full {
            self.evict_after(place.shard);
        }
    }

    /// Evicts from the first shard after this one that has any; false where none has.
    fn evict_after(&self, shard: usize) -> bool {
        let evicted = (1..=SHARDS).find_map(|step| self.lock((shard + step) % SHARDS).evict());
        self.length.fetch_sub(usize::from(evicted.is_some()), Relaxed);
        evicted.is_some()
    }

    /// Removes from a shard what is gone, with the lock free for others now and then.
    fn prune(&self, shard: usize, gone: impl Fn(&Entry) -> bool) -> usize {
        let (mut end, mut total) = (usize::MAX, 0);
        while end > 0 {
            let taken = self.lock(shard).prune(&mut end, &gone);
            self.length.fetch_sub(taken.len(), Relaxed);
            total += taken.len();
        }
        total
    }

    fn place(&self, pool: &str, sid: &str) -> Place {
        Self::place_of(self.hash(pool, sid))
    }

    fn place_of(hash: u64) -> Place {
        Place { shard: (hash >> 32) as usize % SHARDS, tag: hash as u32 }
    }

    /// Keyed, so that nobody can choose or guess it.
    fn hash(&self, pool: &str, sid: &str) -> u64 {
        self.hasher.hash_one((pool, sid))
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        // No step within a shard leaves it half done where it could panic.
        self.shards[shard % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds from the table's start to `now`, which becomes the clock's time if it is later.
    fn tick(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX / 2);
        if since > self.clock.load(Relaxed) {
            self.clock.fetch_max(since, Relaxed);
        }
        since
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl From<&Entry> for Known {
    fn from(entry: &Entry) -> Self {
        Self {
            backend: Arc::clone(entry.backend()),
            lifetime: Duration::from_millis(entry.lifetime().into()),
            let_go: entry.is_let_go(),
            client: entry.client(),
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Drop for SessionHold {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let now = self.table.clock.load(Relaxed);
        let mut shard = self.table.lock(self.place.shard);
        let entry = shard.find_by(self.place.tag, |entry| entry.is_held_by(&hold));
        // Under the lock, so that of two that end at once exactly one is the last.
        let last = Arc::into_inner(hold);
        if let (Some(_), Some(entry)) = (&last, entry) {
            entry.release(now);
        }
        drop(shard);
        drop(last);
    }
}

impl fmt::Debug for SessionHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionHold").field(&self.hold).finish()
    }
}
