//! Remembers recently ended sessions, to recognize clients that reconnect without a cookie.
//!
//! Socket.IO can replay missed packets to a client that was briefly disconnected, but only on the node of its
//! session. Most clients other than browsers keep no cookies, but they present the same address and user agent. Each
//! ended session is therefore recorded under a keyed hash of pool, address and user agent of its handshake; later
//! requests of one client may have a different user agent, or none.
//!
//! A new session with the same hash goes to the backend of the latest recorded ending, unless the result is
//! ambiguous: many clients can share an address. Endings on several backends within a few seconds of each other are
//! ambiguous and are not used. An older unused ending does not count against a newer one: its client has most likely
//! left for good. Each return, also by cookie, consumes one ending, so that of a crowd behind one address no more
//! clients return than left. A failed return consumes nothing: its client will try again.
//!
//! A fixed number of endings is kept, and the oldest are overwritten. No text is stored. All ages are measured with a
//! clock passed in by the caller.

use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_secret};

/// Bounds lock contention and the number of endings inspected per lookup.
const SHARDS: usize = 64;

/// Endings per shard: 65,536 in total, in 1.5 MiB. A lookup scans one shard, which takes a microsecond.
const PER_SHARD: usize = 1024;

/// Endings on different backends within this time are ambiguous. A Socket.IO client that lost its connection retries
/// within 1.5 s, and within 5 s after each failed attempt.
const TOGETHER: Duration = Duration::from_secs(5);

/// Maximum key size that the hash uses.
const SECRET: usize = 192;

/// Recent endings, shared by all pools.
pub struct RecentSessions {
    secret: ArcSwap<[u8; SECRET]>,
    shards: Box<[Mutex<VecDeque<RecordedEnding>>]>,
    /// Receives each ending once it is set.
    listener: OnceLock<EndingListener>,
}

type EndingListener = Box<dyn Fn(SessionEnding) + Send + Sync>;

/// Identifies a client of a pool. Meaningless without the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKey(NonZeroU64);

#[derive(Clone, Copy)]
struct RecordedEnding {
    key: ClientKey,
    /// [`Backend::tag`](crate::upstream::Backend::tag).
    backend: u64,
    at: Instant,
}

/// An ended session, in the form sent to another process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct SessionEnding {
    /// The client; meaningless without the secret.
    pub key: u64,
    /// The backend: [`Backend::tag`](crate::upstream::Backend::tag).
    pub backend: u64,
    /// Time since the end, in milliseconds.
    pub age: u64,
}

/// All recorded endings, in the form sent to another process.
#[derive(Clone, Deserialize, Serialize)]
pub struct RecentSessionsExport {
    /// Secret that the keys are computed with.
    pub secret: Vec<u8>,
    /// Endings, oldest first for each client.
    pub endings: Vec<SessionEnding>,
}

/// A return in progress. If it fails, the ending that it consumed is restored, so that the client is recognized when
/// it tries again.
#[must_use = "the ending comes back when this is dropped"]
pub struct PendingReturn {
    memory: Arc<RecentSessions>,
    ending: Option<RecordedEnding>,
}

impl ClientKey {
    /// Returns the key with these bits, as computed by another process with the same secret; 0 becomes 1.
    pub fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the bits, for another process.
    pub fn bits(self) -> u64 {
        self.0.get()
    }
}

/// Previous backend of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// The backend with this tag.
    On(u64),
    /// Several backends at about the same time: it may be several clients.
    Ambiguous,
    /// No recent ending of this client.
    Unknown,
}

impl RecentSessions {
    /// Creates an empty store with a new secret.
    pub fn new() -> Arc<Self> {
        let mut secret = [0; SECRET];
        // Serving without randomness from the kernel is not acceptable in general; keys made with a weaker secret are
        // still meaningless to others.
        if aws_lc_rs::rand::fill(&mut secret).is_err() {
            secret.fill_with(|| fastrand::u8(..));
        }
        Arc::new(Self {
            secret: ArcSwap::from_pointee(secret),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            listener: OnceLock::new(),
        })
    }

    /// Returns the key of a client of `pool`.
    pub fn key(&self, pool: &str, client: IpAddr, agent: &[u8]) -> ClientKey {
        let secret = self.secret.load();
        let client = match client {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut whole = [0; 32];
        whole[..16].copy_from_slice(&client.octets());
        whole[16..24].copy_from_slice(&xxh3_64(pool.as_bytes()).to_le_bytes());
        whole[24..].copy_from_slice(&xxh3_64_with_secret(agent, &**secret).to_le_bytes());
        ClientKey::from_bits(xxh3_64_with_secret(&whole, &**secret))
    }

    /// Records that a session of this client ended on the backend with this tag.
    pub fn record(&self, key: ClientKey, backend: u64, now: Instant) {
        self.keep(RecordedEnding { key, backend, at: now });
        if let Some(listener) = self.listener.get() {
            listener(SessionEnding { key: key.bits(), backend, age: 0 });
        }
    }

    /// Returns the backend of this client's latest session that ended within `window`, unless sessions that ended at
    /// about the same time disagree.
    pub fn recall(&self, key: ClientKey, window: Duration, now: Instant) -> Recalled {
        let shard = self.shard(key);
        let of_late = || shard.iter().filter(|recorded| recorded.is(key, window, now));
        let Some(last) = of_late().max_by_key(|recorded| recorded.at) else {
            return Recalled::Unknown;
        };
        let disagrees = |recorded: &RecordedEnding| {
            recorded.backend != last.backend && last.at.duration_since(recorded.at) <= TOGETHER
        };
        match of_late().any(disagrees) {
            true => Recalled::Ambiguous,
            false => Recalled::On(last.backend),
        }
    }

    /// Consumes the latest ending on this backend for a returning client, provided that the return succeeds. Returns
    /// `None` if there is no ending, or a concurrent return consumed it.
    pub fn consume(
        self: &Arc<Self>,
        key: ClientKey,
        backend: u64,
        window: Duration,
        now: Instant,
    ) -> Option<PendingReturn> {
        let mut shard = self.shard(key);
        let is_it = |recorded: &RecordedEnding| {
            recorded.backend == backend && recorded.is(key, window, now)
        };
        let endings = shard.iter().enumerate().filter(|(_, recorded)| is_it(recorded));
        let (at, _) = endings.max_by_key(|(_, recorded)| recorded.at)?;
        let ending = shard.remove(at);
        drop(shard);
        Some(PendingReturn { memory: Arc::clone(self), ending })
    }

    /// Returns all endings, for a process that takes over.
    pub fn export(&self, now: Instant) -> RecentSessionsExport {
        let mut endings = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            endings.extend(shard.iter().map(|recorded| recorded.exported(now)));
        }
        RecentSessionsExport { secret: self.secret.load().to_vec(), endings }
    }

    /// Imports the endings of another process; call it before anything is recorded. Returns false if the secret is
    /// invalid; nothing is imported then.
    pub fn import(&self, export: RecentSessionsExport, now: Instant) -> bool {
        let Ok(secret) = <[u8; SECRET]>::try_from(export.secret.as_slice()) else { return false };
        self.secret.store(Arc::new(secret));
        for ending in export.endings {
            self.learn(ending, now);
        }
        true
    }

    /// Records an ending reported by another process with the same secret.
    pub fn learn(&self, ending: SessionEnding, now: Instant) {
        // An ending from before this machine booted cannot be represented and is too old to matter.
        if let Some(at) = now.checked_sub(Duration::from_millis(ending.age)) {
            self.keep(RecordedEnding {
                key: ClientKey::from_bits(ending.key),
                backend: ending.backend,
                at,
            });
        }
    }

    /// Reports every later ending to `listener`; only the first listener is kept.
    pub fn set_listener(&self, listener: impl Fn(SessionEnding) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    fn keep(&self, recorded: RecordedEnding) {
        let mut shard = self.shard(recorded.key);
        if shard.len() >= PER_SHARD {
            shard.pop_front();
        }
        shard.push_back(recorded);
    }

    fn shard(&self, key: ClientKey) -> MutexGuard<'_, VecDeque<RecordedEnding>> {
        let shard = &self.shards[key.bits() as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingReturn {
    /// Confirms that the client has a session again.
    pub fn succeeded(mut self) {
        self.ending = None;
    }
}

impl Drop for PendingReturn {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            self.memory.keep(ending);
        }
    }
}

impl fmt::Debug for PendingReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReturn").finish_non_exhaustive()
    }
}

impl fmt::Debug for RecentSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentSessions").finish_non_exhaustive()
    }
}

impl fmt::Debug for RecentSessionsExport {
    /// Shows the number of endings, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentSessionsExport")
            .field("endings", &self.endings.len())
            .finish_non_exhaustive()
    }
}

impl RecordedEnding {
    fn is(&self, key: ClientKey, window: Duration, now: Instant) -> bool {
        self.key == key && now.saturating_duration_since(self.at) <= window
    }

    fn exported(&self, now: Instant) -> SessionEnding {
        let age = now.saturating_duration_since(self.at).as_millis();
        SessionEnding {
            key: self.key.bits(),
            backend: self.backend,
            age: u64::try_from(age).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests;
