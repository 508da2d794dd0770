//! The memory of sessions that ended a moment ago: where a client that returns without a cookie was.
//!
//! Socket.IO can give a client that was away for a moment what it missed, but only on the node that it
//! was on. Most clients that are no browsers keep no cookies; what they bring again is their address and
//! their user agent. So each session that ends is noted with a keyed hash of the two and of its pool, as its
//! handshake brought them: the requests of one client can have different user agents, or none.
//!
//! A new session with the same hash goes to the backend of the ending that was noted last, if nothing
//! speaks against it: many clients can share an address. Endings on several backends within a few seconds
//! of each other are ambiguous, and none of them is followed. An older ending that no client has come back
//! to does not count against a newer one: its client has most likely left for good. Each return, by a
//! cookie too, uses up one ending, so that of a crowd behind one address no more come back than went. A
//! return that fails uses up nothing: its client will try again.
//!
//! A fixed number of endings is kept, the oldest make room; no text is. All ages count from the reading
//! of a clock that is handed in.

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

/// Bounds how long an ending waits for another, and how many are looked at for one.
const SHARDS: usize = 64;

/// Endings kept in a shard: 65,536 in all, in 1.5 MiB. A look goes through all of a shard, in a
/// microsecond.
const PER_SHARD: usize = 1024;

/// Endings on different backends within this time are ambiguous. A Socket.IO client that lost its
/// connection comes back within 1.5 s if it can, and within 5 s after each attempt that failed.
const TOGETHER: Duration = Duration::from_secs(5);

/// The longest that the hash makes use of.
const SECRET: usize = 192;

/// Endings of late. Shared by all pools.
pub struct Memory {
    secret: ArcSwap<[u8; SECRET]>,
    shards: Box<[Mutex<VecDeque<Noted>>]>,
    /// Told of each ending, once there is somebody to tell.
    heir: OnceLock<Heir>,
}

type Heir = Box<dyn Fn(Ending) + Send + Sync>;

/// A client of a pool, as far as it can be recognised. Of no use to who has not the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(NonZeroU64);

#[derive(Clone, Copy)]
struct Noted {
    key: Key,
    /// [`Backend::tag`](crate::upstream::Backend::tag).
    backend: u64,
    at: Instant,
}

/// One session that ended, for another process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// Who: of use only together with the secret.
    pub key: u64,
    /// Where: [`Backend::tag`](crate::upstream::Backend::tag).
    pub backend: u64,
    /// How long ago, in milliseconds.
    pub age: u64,
}

/// All that is remembered, for another process.
#[derive(Clone, Deserialize, Serialize)]
pub struct Export {
    /// What keys are made with.
    pub secret: Vec<u8>,
    /// The oldest first, for each client.
    pub endings: Vec<Ending>,
}

/// A return under way: the ending that it uses up comes back where it does not succeed, so that the
/// client is recognised when it tries again.
#[must_use = "the ending comes back when this is dropped"]
pub struct Return {
    memory: Arc<Memory>,
    ending: Option<Noted>,
}

impl Key {
    /// The key with these bits, as another process of the same secret has it; 0 is the key 1.
    pub fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// Its bits, for another process.
    pub fn bits(self) -> u64 {
        self.0.get()
    }
}

/// Where a client was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// On this backend.
    On(u64),
    /// On several at about the same time: it may be several clients.
    Ambiguous,
    /// Nobody of this kind left of late.
    Unknown,
}

impl Memory {
    /// Remembers nothing yet, and has a secret of its own.
    pub fn new() -> Arc<Self> {
        let mut secret = [0; SECRET];
        // Failing to get random bytes from the kernel is no state to serve in; keys made with a weaker
        // secret would still be of no use to anybody.
        if aws_lc_rs::rand::fill(&mut secret).is_err() {
            secret.fill_with(|| fastrand::u8(..));
        }
        Arc::new(Self {
            secret: ArcSwap::from_pointee(secret),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            heir: OnceLock::new(),
        })
    }

    /// The key of a client of `pool`.
    pub fn key(&self, pool: &str, client: IpAddr, agent: &[u8]) -> Key {
        let secret = self.secret.load();
        let client = match client {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut whole = [0; 32];
        whole[..16].copy_from_slice(&client.octets());
        whole[16..24].copy_from_slice(&xxh3_64(pool.as_bytes()).to_le_bytes());
        whole[24..].copy_from_slice(&xxh3_64_with_secret(agent, &**secret).to_le_bytes());
        Key::from_bits(xxh3_64_with_secret(&whole, &**secret))
    }

    /// A session of this client has ended on the backend with this tag.
    pub fn note(&self, key: Key, backend: u64, now: Instant) {
        self.keep(Noted { key, backend, at: now });
        if let Some(heir) = self.heir.get() {
            heir(Ending { key: key.bits(), backend, age: 0 });
        }
    }

    /// Where this client was by the last of its sessions that ended within `window`, if those that ended
    /// at about the same time agree.
    pub fn recall(&self, key: Key, window: Duration, now: Instant) -> Recalled {
        let shard = self.shard(key);
        let of_late = || shard.iter().filter(|noted| noted.is(key, window, now));
        let Some(last) = of_late().max_by_key(|noted| noted.at) else { return Recalled::Unknown };
        let disagrees = |noted: &Noted| {
            noted.backend != last.backend && last.at.duration_since(noted.at) <= TOGETHER
        };
        match of_late().any(disagrees) {
            true => Recalled::Ambiguous,
            false => Recalled::On(last.backend),
        }
    }

    /// The client comes back to this backend: the last ending there is used up, if it succeeds. `None`
    /// where there is none, or another was faster.
    pub fn use_up(
        self: &Arc<Self>,
        key: Key,
        backend: u64,
        window: Duration,
        now: Instant,
    ) -> Option<Return> {
        let mut shard = self.shard(key);
        let is_it = |noted: &Noted| noted.backend == backend && noted.is(key, window, now);
        let endings = shard.iter().enumerate().filter(|(_, noted)| is_it(noted));
        let (at, _) = endings.max_by_key(|(_, noted)| noted.at)?;
        let ending = shard.remove(at);
        drop(shard);
        Some(Return { memory: Arc::clone(self), ending })
    }

    /// Everything, for a process that takes over.
    pub fn export(&self, now: Instant) -> Export {
        let mut endings = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            endings.extend(shard.iter().map(|noted| noted.told(now)));
        }
        Export { secret: self.secret.load().to_vec(), endings }
    }

    /// Takes over what another process remembers; to be called before anything is noted here. False
    /// where the secret is none, and nothing is taken.
    pub fn import(&self, export: Export, now: Instant) -> bool {
        let Ok(secret) = <[u8; SECRET]>::try_from(export.secret.as_slice()) else { return false };
        self.secret.store(Arc::new(secret));
        for ending in export.endings {
            self.learn(ending, now);
        }
        true
    }

    /// One ending that another process with the same secret noted.
    pub fn learn(&self, ending: Ending, now: Instant) {
        // One from before this machine was started cannot be told, and is too old for any use.
        if let Some(at) = now.checked_sub(Duration::from_millis(ending.age)) {
            self.keep(Noted { key: Key::from_bits(ending.key), backend: ending.backend, at });
        }
    }

    /// Tells `heir` of every ending from now on; only the first one given is told.
    pub fn tell(&self, heir: impl Fn(Ending) + Send + Sync + 'static) {
        let _ = self.heir.set(Box::new(heir));
    }

    fn keep(&self, noted: Noted) {
        let mut shard = self.shard(noted.key);
        if shard.len() >= PER_SHARD {
            shard.pop_front();
        }
        shard.push_back(noted);
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, VecDeque<Noted>> {
        let shard = &self.shards[key.bits() as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Return {
    /// The client has a session again.
    pub fn succeeded(mut self) {
        self.ending = None;
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            self.memory.keep(ending);
        }
    }
}

impl fmt::Debug for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Return").finish_non_exhaustive()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl fmt::Debug for Export {
    /// Says how many, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("endings", &self.endings.len()).finish_non_exhaustive()
    }
}

impl Noted {
    fn is(&self, key: Key, window: Duration, now: Instant) -> bool {
        self.key == key && now.saturating_duration_since(self.at) <= window
    }

    fn told(&self, now: Instant) -> Ending {
        let age = now.saturating_duration_since(self.at).as_millis();
        Ending {
            key: self.key.bits(),
            backend: self.backend,
            age: u64::try_from(age).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);

    fn client(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn a_client_is_its_pool_address_and_agent() {
        let memory = Memory::new();
        let key = memory.key("chat", client(1), b"node");
        assert_eq!(memory.key("chat", client(1), b"node"), key);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(memory.key("chat", mapped, b"node"), key);
        for other in [
            memory.key("game", client(1), b"node"),
            memory.key("chat", client(2), b"node"),
            memory.key("chat", client(1), b"nodf"),
            Memory::new().key("chat", client(1), b"node"),
        ] {
            assert_ne!(other, key);
        }
    }

    #[test]
    fn each_return_uses_up_one_ending() {
        let (memory, now) = (Memory::new(), Instant::now());
        let key = memory.key("chat", client(1), b"");
        assert_eq!(memory.recall(key, WINDOW, now), Recalled::Unknown);
        memory.note(key, 7, now);
        memory.note(key, 7, now);
        for _ in 0..2 {
            assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(7));
            drop(memory.use_up(key, 7, WINDOW, now).unwrap());
            assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(7), "it failed");
            memory.use_up(key, 7, WINDOW, now).unwrap().succeeded();
        }
        assert!(memory.use_up(key, 7, WINDOW, now).is_none());
        assert_eq!(memory.recall(key, WINDOW, now), Recalled::Unknown);
    }

    #[test]
    fn two_backends_at_about_the_same_time_are_ambiguous() {
        let (memory, start) = (Memory::new(), Instant::now());
        let key = memory.key("chat", client(1), b"");
        memory.note(key, 7, start);
        let later = start + TOGETHER;
        memory.note(key, 8, later);
        for at in [later, start + WINDOW] {
            assert_eq!(memory.recall(key, WINDOW, at), Recalled::Ambiguous);
        }
        let after = start + WINDOW + Duration::from_millis(1);
        assert_eq!(memory.recall(key, WINDOW, after), Recalled::On(8));
        assert_eq!(memory.recall(key, WINDOW, start + WINDOW * 2), Recalled::Unknown);
    }

    #[test]
    fn an_ending_that_is_never_used_does_not_hide_a_newer_one() {
        let (memory, start) = (Memory::new(), Instant::now());
        let key = memory.key("chat", client(1), b"");
        memory.note(key, 7, start);
        for n in 1..5 {
            let now = start + 2 * TOGETHER * n;
            memory.note(key, 8, now);
            assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(8));
            memory.use_up(key, 8, WINDOW, now).unwrap().succeeded();
            assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(7));
        }
    }

    #[test]
    fn the_last_ending_is_used_up_first() {
        let (memory, start) = (Memory::new(), Instant::now());
        let key = memory.key("chat", client(1), b"");
        let later = start + WINDOW / 2;
        memory.note(key, 7, start);
        memory.note(key, 7, later);
        memory.use_up(key, 7, WINDOW, later).unwrap().succeeded();
        let after = start + WINDOW + Duration::from_millis(1);
        assert_eq!(memory.recall(key, WINDOW, after), Recalled::Unknown);
    }

    #[test]
    fn it_is_bounded_and_the_oldest_make_room() {
        let (memory, now) = (Memory::new(), Instant::now());
        let first = memory.key("chat", client(1), b"first");
        memory.note(first, 1, now);
        let mut last = first;
        for n in 0..200_000u32 {
            last = memory.key("chat", client(1), &n.to_le_bytes());
            memory.note(last, 2, now);
        }
        let kept = memory.export(now).endings.len();
        assert_eq!(kept, SHARDS * PER_SHARD);
        assert_eq!(memory.recall(first, WINDOW, now), Recalled::Unknown);
        assert_eq!(memory.recall(last, WINDOW, now), Recalled::On(2));
    }

    #[test]
    fn another_process_takes_it_over_and_hears_of_what_ends_later() {
        let (old, new, now) = (Memory::new(), Memory::new(), Instant::now());
        let key = old.key("chat", client(1), b"node");
        old.note(key, 7, now);
        let later = now + Duration::from_secs(60);
        let export = serde_json::to_string(&old.export(later)).unwrap();
        assert!(new.import(serde_json::from_str(&export).unwrap(), later));
        assert_eq!(new.key("chat", client(1), b"node"), key);
        assert_eq!(new.recall(key, WINDOW, later), Recalled::On(7));
        assert_eq!(new.recall(key, WINDOW, later + WINDOW), Recalled::Unknown, "it is older");

        let (heir, told) = (Arc::clone(&new), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&told);
        old.tell(move |ending| {
            count.fetch_add(1, SeqCst);
            heir.learn(ending, Instant::now());
        });
        let other = old.key("chat", client(2), b"node");
        old.note(other, 8, Instant::now());
        assert_eq!(told.load(SeqCst), 1);
        assert_eq!(new.recall(other, WINDOW, Instant::now()), Recalled::On(8));
        let none = Export { secret: vec![1; 3], endings: Vec::new() };
        assert!(!new.import(none, now));
    }

    proptest! {
        /// Against a plain list of endings.
        #[test]
        fn it_recalls_what_a_list_would(
            steps in prop::collection::vec((0..3u8, 0..3u64, 0..50u64, any::<bool>()), 1..100),
        ) {
            let (memory, start) = (Memory::new(), Instant::now());
            let mut model: Vec<(u8, u64, u64)> = Vec::new();
            let mut clock = 0;
            for (who, backend, pause, ends) in steps {
                clock += pause;
                let now = start + Duration::from_secs(clock);
                let key = memory.key("chat", client(who), b"");
                if ends {
                    memory.note(key, backend, now);
                    model.push((who, backend, clock));
                    continue;
                }
                let of_late = |it: &&(u8, u64, u64)| it.0 == who && clock - it.2 <= 120;
                // Of several at one time the one that was noted last.
                let last = model.iter().filter(of_late).max_by_key(|it| it.2).copied();
                let expected = match last {
                    None => Recalled::Unknown,
                    Some((_, on, at))
                        if model
                            .iter()
                            .filter(of_late)
                            .any(|it| it.1 != on && at - it.2 <= TOGETHER.as_secs()) =>
                    {
                        Recalled::Ambiguous
                    }
                    Some((_, on, _)) => Recalled::On(on),
                };
                prop_assert_eq!(memory.recall(key, WINDOW, now), expected);
                if let Recalled::On(backend) = expected {
                    memory.use_up(key, backend, WINDOW, now).unwrap().succeeded();
                    let is_it = |(_, it): &(usize, &(u8, u64, u64))| of_late(it) && it.1 == backend;
                    let last = model.iter().enumerate().filter(is_it).max_by_key(|(_, it)| it.2);
                    let (at, _) = last.unwrap();
                    model.remove(at);
                }
            }
        }
    }
}
