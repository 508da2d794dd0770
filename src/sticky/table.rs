//! Maps session ids to backends, for all pools. Entries are learned from replies of backends only.
//!
//! The key consists of pool and sid, both compared; the hash is keyed, so that clients cannot choose colliding sids.
//! The table outlives configurations. An entry takes 96 bytes plus 5 to 11 bytes of index, and a sid of more than 22
//! bytes is stored separately; a million sessions take about 125 MB.
//!
//! **Lifetime.** An entry lives for one lifetime after its last use. It cannot expire while the session has an open
//! tunnel. After the last tunnel it lives for one more lifetime, because a client whose upgrade failed continues to
//! poll.
//!
//! **Counting.** A session counts once on its backend, while its entry exists or a tunnel is open. After its last
//! tunnel it does not count until it is used again, because most sessions end with their tunnel.
//!
//! **Bounds.** When the table is full, each new session discards an entry: of eight random entries in its shard, the
//! one nearest its expiry (small tables: in the next non-empty shard). This is cheap and needs no order among entries,
//! which every use would change. An owner search can find the discarded session again. Held entries are discarded
//! last, and their sessions stay counted.
//!
//! **Handoff.** Another process receives the table slice by slice, and sessions learned meanwhile through a tap; see
//! [`handoff`].
//!
//! **Locks.** 64 shards with one lock each, held for one lookup or 256 entries of a sweep. Scans of the whole table
//! yield to other tasks after 4096 entries.
//!
//! The caller passes the time; a `now` before the creation of the table counts as that moment.

mod entry;
mod handoff;
mod hold;
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
use entry::SessionEntry;
pub use handoff::{Cursor, Learned};
pub use hold::SessionHold;
pub use sessions::{SessionId, SessionSummary};
use shard::Shard;
use tokio::{sync::mpsc, task::yield_now};

use super::recent_sessions::ClientKey;
use crate::{config, upstream::Backend};

const SHARDS: usize = 64;

/// Slices that a scan visits before it lets other tasks run: 4096 entries, less than a millisecond.
const BATCH: usize = 16;

/// Entries that [`SessionTable::resize`] discards before it lets other tasks run.
const DISCARDED: usize = 1024;

/// Sweeps until every shard has been visited.
const ROUND: usize = 4;

/// The table of all sessions.
pub struct SessionTable {
    shards: [PaddedShard; SHARDS],
    hasher: RandomState,
    start: Instant,
    /// Latest time passed in, in milliseconds since `start`; used when a tunnel ends.
    clock: AtomicU64,
    length: AtomicUsize,
    max: AtomicUsize,
    max_sid_bytes: AtomicUsize,
    next_sweep: AtomicUsize,
    /// Receives every learned session, if set.
    tap: ArcSwapOption<mpsc::Sender<Learned>>,
}

/// The client that opens a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opener {
    /// Identity of the client at its handshake.
    pub key: Option<ClientKey>,
    /// Address of the client.
    pub address: Option<IpAddr>,
}

/// A shard on its own cache lines.
#[derive(Default)]
#[repr(align(128))]
struct PaddedShard(Mutex<Shard>);

/// A session in the table.
#[derive(Clone, Debug)]
pub struct KnownSession {
    /// Backend of the session, in any state.
    pub backend: Arc<Backend>,
    /// Lifetime learned from the backend: maximum silence of the session, and so the maximum time a poll may be held.
    pub lifetime: Duration,
    /// Whether the session was discarded, and must be answered as unknown.
    pub evicted: bool,
    /// The client that opened the session, as identified at its handshake; `None` if another process saw the
    /// handshake, or clients are not recognized in this pool.
    pub client: Option<ClientKey>,
}

/// Location of a key.
#[derive(Clone, Copy)]
struct EntryLocation {
    shard: usize,
    tag: u32,
}

impl SessionTable {
    /// Creates an empty table; memory grows as it fills.
    pub fn new(limits: &config::SessionsConfig) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| PaddedShard::default()),
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

    /// Changes the limits at once, and then discards entries above the new maximum. The table may be large: other tasks
    /// run in between.
    pub async fn resize(&self, limits: &config::SessionsConfig) {
        self.max.store(limits.max, Relaxed);
        self.max_sid_bytes.store(limits.max_sid_bytes, Relaxed);
        for discarded in 0.. {
            if self.len() <= limits.max || !self.discard_after(discarded % SHARDS) {
                return;
            }
            if discarded % DISCARDED == DISCARDED - 1 {
                yield_now().await;
            }
        }
    }

    /// Records that a backend opened this session in its pool, and counts the session there.
    ///
    /// A known session is renewed, and moved if it is on another backend. Returns false if the session cannot be
    /// recorded: its sid is empty or too long, or the table has no room.
    pub fn learn(
        &self,
        sid: &str,
        backend: &Arc<Backend>,
        lifetime: Duration,
        now: Instant,
    ) -> bool {
        self.learn_from(Opener::default(), sid, backend, lifetime, now)
    }

    /// Like [`learn`](Self::learn), and also records the client that opened the session.
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
        let location = self.location(backend.pool(), sid);
        let mut shard = self.lock(location.shard);
        let mut moved = None;
        if let Some(entry) = shard.find(location.tag, backend.pool(), sid) {
            if ptr::eq(&**entry.backend(), &**backend) && !entry.is_evicted() {
                entry.renew(millis, now);
                entry.set_client(client);
                entry.set_origin(address, now);
                return true;
            }
            moved = shard.remove(location.tag, backend.pool(), sid);
            self.length.fetch_sub(1, Relaxed);
        }
        let mut entry = SessionEntry::new(location.tag, sid, backend, millis, now);
        entry.set_client(client);
        entry.set_origin(address, now);
        self.insert(shard, location, entry, moved);
        self.send_to_tap(|| {
            let backend = Arc::clone(backend);
            Learned { sid: sid.into(), backend, lifetime, left: lifetime, client }
        });
        true
    }

    /// Records that a session without a tunnel was closed by either side: it no longer counts. Its entry stays until it
    /// expires, for requests still in flight.
    pub fn close(&self, pool: &str, sid: &str) {
        let location = self.location(pool, sid);
        let counted =
            self.lock(location.shard).find(location.tag, pool, sid).and_then(SessionEntry::close);
        drop(counted);
    }

    /// Returns the session. Counts as a use: renews the entry, and counts the session again if the end of its last
    /// tunnel had stopped that.
    pub fn find(&self, pool: &str, sid: &str, now: Instant) -> Option<KnownSession> {
        self.use_live(pool, sid, now, |entry, now| {
            entry.renew(entry.lifetime(), now);
            KnownSession::from(&*entry)
        })
    }

    /// Returns the session without counting as a use.
    pub fn peek(&self, pool: &str, sid: &str, now: Instant) -> Option<KnownSession> {
        let now = self.tick(now);
        let location = self.location(pool, sid);
        let mut shard = self.lock(location.shard);
        let entry = shard.find(location.tag, pool, sid).filter(|entry| !entry.is_expired(now))?;
        Some(KnownSession::from(&*entry))
    }

    /// Forgets a session. Its open tunnels continue and keep it counted until they end.
    pub fn forget(&self, pool: &str, sid: &str) {
        let location = self.location(pool, sid);
        let gone = self.lock(location.shard).remove(location.tag, pool, sid);
        self.length.fetch_sub(usize::from(gone.is_some()), Relaxed);
    }

    /// Forgets all sessions of a backend and returns their number. Visits every entry, in batches: other tasks
    /// run in between.
    pub async fn forget_backend(&self, backend: &Backend) -> usize {
        let mut total = 0;
        for shard in 0..SHARDS {
            let mut end = usize::MAX;
            while end > 0 {
                total +=
                    self.prune_batch(shard, &mut end, |entry| ptr::eq(&**entry.backend(), backend));
                yield_now().await;
            }
        }
        total
    }

    /// Holds a session while a tunnel is open; `None` if the session is unknown.
    pub fn hold(self: &Arc<Self>, pool: &str, sid: &str, now: Instant) -> Option<SessionHold> {
        let hold = self.use_live(pool, sid, now, SessionEntry::hold)?;
        let location = self.location(pool, sid);
        Some(SessionHold { table: Arc::clone(self), location, hold: Some(hold) })
    }

    /// Removes expired entries from a quarter of the shards, the next quarter on each call. Returns their number. Call
    /// every second.
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

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.length.load(Relaxed)
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use in bytes, including reserved capacity, excluding allocator overhead.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + (0..SHARDS).map(|at| self.lock(at).bytes()).sum::<usize>()
    }

    /// Runs an action on an entry if it is alive; removes an expired entry.
    fn use_live<R>(
        &self,
        pool: &str,
        sid: &str,
        now: Instant,
        action: impl FnOnce(&mut SessionEntry, u64) -> R,
    ) -> Option<R> {
        let now = self.tick(now);
        let location = self.location(pool, sid);
        let mut shard = self.lock(location.shard);
        let entry = shard.find(location.tag, pool, sid)?;
        if !entry.is_expired(now) {
            return Some(action(entry, now));
        }
        let expired = shard.remove(location.tag, pool, sid);
        drop(shard);
        self.length.fetch_sub(usize::from(expired.is_some()), Relaxed);
        None
    }

    /// Whether a session with this sid can be recorded at all.
    fn takes(&self, sid: &str) -> bool {
        let fits = !sid.is_empty() && sid.len() <= self.max_sid_bytes.load(Relaxed);
        fits && self.max.load(Relaxed) > 0
    }

    /// Adds an entry whose key is not in the table, and discards another if the table is full. `moved` was removed from
    /// the shard for it.
    fn insert(
        &self,
        mut shard: MutexGuard<'_, Shard>,
        location: EntryLocation,
        entry: SessionEntry,
        moved: Option<SessionEntry>,
    ) {
        let mut discarded = moved;
        let mut full = self.length.fetch_add(1, Relaxed) >= self.max.load(Relaxed);
        if full && discarded.is_none() {
            discarded = shard.discard();
            if discarded.is_some() {
                self.length.fetch_sub(1, Relaxed);
                full = false;
            }
        }
        shard.insert(entry);
        drop(shard);
        drop(discarded);
        if full {
            self.discard_after(location.shard);
        }
    }

    /// Discards an entry from the first non-empty shard after this one; false if all are empty.
    fn discard_after(&self, shard: usize) -> bool {
        let discarded = (1..=SHARDS).find_map(|step| self.lock((shard + step) % SHARDS).discard());
        self.length.fetch_sub(usize::from(discarded.is_some()), Relaxed);
        discarded.is_some()
    }

    /// Removes the entries for which `gone` is true from a shard, releasing the lock now and then.
    fn prune(&self, shard: usize, gone: impl Fn(&SessionEntry) -> bool) -> usize {
        let (mut end, mut total) = (usize::MAX, 0);
        while end > 0 {
            total += self.prune_batch(shard, &mut end, &gone);
        }
        total
    }

    /// Like [`prune`](Self::prune), for the next [`BATCH`] slices before `end`, which moves to their start.
    fn prune_batch(
        &self,
        shard: usize,
        end: &mut usize,
        gone: impl Fn(&SessionEntry) -> bool,
    ) -> usize {
        let mut total = 0;
        for _ in 0..BATCH {
            let taken = self.lock(shard).prune(end, &gone);
            self.length.fetch_sub(taken.len(), Relaxed);
            total += taken.len();
            if *end == 0 {
                break;
            }
        }
        total
    }

    fn location(&self, pool: &str, sid: &str) -> EntryLocation {
        Self::location_of(self.hash(pool, sid))
    }

    fn location_of(hash: u64) -> EntryLocation {
        EntryLocation { shard: (hash >> 32) as usize % SHARDS, tag: hash as u32 }
    }

    /// Keyed, so that clients cannot choose or guess the value.
    fn hash(&self, pool: &str, sid: &str) -> u64 {
        self.hasher.hash_one((pool, sid))
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        // No operation on a shard can panic halfway, so a poisoned lock is safe to use.
        self.shards[shard % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `now` in milliseconds since the start, and advances the clock.
    fn tick(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX / 2);
        if since > self.clock.load(Relaxed) {
            self.clock.fetch_max(since, Relaxed);
        }
        since
    }
}

/// Runs a scan to its end.
#[cfg(test)]
pub(crate) fn finish<T>(scan: impl Future<Output = T>) -> T {
    let mut scan = std::pin::pin!(scan);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = scan.as_mut().poll(&mut context) {
            return value;
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl From<&SessionEntry> for KnownSession {
    fn from(entry: &SessionEntry) -> Self {
        Self {
            backend: Arc::clone(entry.backend()),
            lifetime: Duration::from_millis(entry.lifetime().into()),
            evicted: entry.is_evicted(),
            client: entry.client(),
        }
    }
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTable").field("len", &self.len()).finish_non_exhaustive()
    }
}
