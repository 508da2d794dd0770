//! All open tunnels by backend, to find, close and cut them.
//!
//! Locks are taken when a tunnel opens, ends or gets a command, never for a byte. The tunnels of a
//! backend are in one vector: first those without a command, then those with one. Drawing tunnels at
//! random and counting the rest therefore costs the same for any number of tunnels. Tunnels without
//! frames have a separate vector, because they cannot be closed between two frames.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

mod lists;

use self::lists::{BackendTunnels, TunnelList, TunnelSlot};
use super::reason::CloseReason;

/// Number of shards, by backend serial: tunnels of different backends rarely share a lock.
pub const SHARDS: usize = 16;

/// All open tunnels of a process.
#[derive(Debug)]
pub struct TunnelRegistry {
    shards: [Mutex<HashMap<u64, BackendTunnels>>; SHARDS],
    open: AtomicUsize,
    start: Instant,
    /// Id of the newest tunnel.
    newest: AtomicU64,
}

/// Identifies a tunnel among all tunnels that this process has or had.
///
/// The value is the microsecond of the tunnel's start since the start of the registry, or the next
/// free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(u64);

/// An open tunnel, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTunnel {
    /// Id of the tunnel.
    pub id: TunnelId,
    /// Serial of the backend.
    pub backend: u64,
    /// Address of the client.
    pub client: SocketAddr,
    /// Whether the tunnel has frames; layer 4 streams have none.
    pub framed: bool,
    /// Time since the tunnel was opened.
    pub age: Duration,
}

/// Maximum age of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeLimit {
    /// Maximum age.
    pub limit: Duration,
    /// When the limit took effect.
    pub since: Instant,
}

/// Registration of a tunnel, removed when dropped.
#[derive(Debug)]
pub struct TunnelTicket {
    registry: Arc<TunnelRegistry>,
    handle: Arc<TunnelHandle>,
    backend: u64,
}

/// Closes one tunnel, as long as it is open.
#[derive(Clone, Debug)]
pub struct TunnelCloser {
    registry: Arc<TunnelRegistry>,
    handle: Arc<TunnelHandle>,
    backend: u64,
}

impl TunnelCloser {
    /// Closes the tunnel between two frames, with this status; false if it has ended or has a command already.
    pub fn close(&self, reason: CloseReason, status: u16) -> bool {
        let mut shard = self.registry.shard(self.backend);
        let Some(member) = shard.get_mut(&self.backend) else { return false };
        let tunnels = member.of(self.handle.framed);
        let at = self.handle.at.load(Ordering::Relaxed) as usize;
        let is_ours = |slot: &TunnelSlot| Arc::ptr_eq(&slot.handle, &self.handle);
        if at >= tunnels.free || !tunnels.entries.get(at).is_some_and(is_ours) {
            return false;
        }
        let handle = tunnels.take(at);
        drop(shard);
        handle.close_status.store(status, Ordering::Relaxed);
        handle.give(reason.code());
        true
    }
}

/// Command of the registry to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TunnelCommand {
    /// Close at the next frame boundary.
    Close(CloseReason),
    /// End at once; with the reason of an earlier command, if there was one.
    Cut(Option<CloseReason>),
}

/// State that a tunnel shares with its registration.
#[derive(Debug)]
struct TunnelHandle {
    waker: AtomicWaker,
    client: SocketAddr,
    /// Whether the tunnel has frames, which determines its vector.
    framed: bool,
    /// Index in the vector; changed only under the lock of the shard.
    at: AtomicU32,
    /// Status of the Close frame; 0: that of the reason.
    close_status: AtomicU16,
    /// A packed [`TunnelCommand`]: the code of the reason, and [`CUT`]; 0: none.
    command: AtomicU8,
}

const CUT: u8 = 0x80;

impl Default for TunnelRegistry {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            open: AtomicUsize::new(0),
            start: Instant::now(),
            newest: AtomicU64::new(0),
        }
    }
}

impl TunnelRegistry {
    /// Registers a client's tunnel to the backend with this serial. `framed`: the tunnel can be
    /// closed between two frames.
    pub fn enter(self: &Arc<Self>, backend: u64, client: SocketAddr, framed: bool) -> TunnelTicket {
        let handle = Arc::new(TunnelHandle {
            waker: AtomicWaker::new(),
            client,
            framed,
            at: AtomicU32::new(0),
            close_status: AtomicU16::new(0),
            command: AtomicU8::new(0),
        });
        let slot = TunnelSlot { id: self.name(), handle: Arc::clone(&handle) };
        self.shard(backend).entry(backend).or_default().of(framed).insert(slot);
        self.open.fetch_add(1, Ordering::Relaxed);
        TunnelTicket { registry: Arc::clone(self), handle, backend }
    }

    /// Number of open tunnels.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of open tunnels to one backend.
    pub fn of(&self, backend: u64) -> usize {
        self.shard(backend).get(&backend).map_or(0, BackendTunnels::len)
    }

    /// Number of open tunnels to one backend without a command to end.
    pub fn staying(&self, backend: u64) -> usize {
        self.shard(backend).get(&backend).map_or(0, BackendTunnels::free)
    }

    /// Number of open tunnels to one backend without a command that can be closed between two
    /// frames.
    pub fn closable(&self, backend: u64) -> usize {
        self.shard(backend).get(&backend).map_or(0, |member| member.framed.free)
    }

    /// Number of open tunnels without a command, over all backends.
    pub fn all_staying(&self) -> usize {
        self.backends().into_iter().map(|(_, staying)| staying).sum()
    }

    /// Lists up to `limit` tunnels to one backend, alternating between framed and unframed.
    pub fn list(&self, backend: u64, limit: usize) -> Vec<OpenTunnel> {
        let now = self.now();
        let shard = self.shard(backend);
        let Some(member) = shard.get(&backend) else { return Vec::new() };
        let (framed, unframed) = (&member.framed.entries, &member.unframed.entries);
        let turns = 0..framed.len().max(unframed.len());
        let slots = turns.flat_map(|at| [framed.get(at), unframed.get(at)]).flatten();
        let listed = slots.take(limit).map(|TunnelSlot { id, handle }| OpenTunnel {
            id: *id,
            backend,
            client: handle.client,
            framed: handle.framed,
            age: Duration::from_micros(now.saturating_sub(id.0)),
        });
        listed.collect()
    }

    /// Closes up to `count` tunnels to one backend, drawn at random from those without a command,
    /// and returns their number. Rebalancing closes framed tunnels only.
    pub fn close(&self, backend: u64, count: usize, reason: CloseReason) -> usize {
        let drawn = match self.shard(backend).get_mut(&backend) {
            Some(member) if reason == CloseReason::Rebalanced => member.framed.draw(count),
            Some(member) => member.draw(count),
            None => return 0,
        };
        command_all(&drawn, reason)
    }

    /// Closes up to `count` tunnels over all backends, from each about its share.
    pub fn close_any(&self, count: usize, reason: CloseReason) -> usize {
        let backends = self.backends();
        let mut total: usize = backends.iter().map(|(_, staying)| staying).sum();
        let mut left = count;
        for (backend, staying) in backends {
            if left == 0 || staying == 0 {
                continue;
            }
            // Rounded at random, so that the last tunnel of a backend does not wait for all others.
            let share = (left.min(total) * staying + fastrand::usize(..total)) / total;
            total -= staying;
            left -= self.close(backend, share.min(left), reason);
        }
        count - left
    }

    /// Closes one tunnel; false if there is no tunnel with this id. Cuts a tunnel that already has a
    /// command: the operator does not want to wait for its client.
    pub fn close_one(&self, id: TunnelId, reason: CloseReason) -> bool {
        let found = self.shards.iter().find_map(|shard| {
            let mut shard = lock(shard);
            shard
                .values_mut()
                .flat_map(BackendTunnels::both)
                .find_map(|tunnels| tunnels.take_one(id))
        });
        let Some((handle, was_free)) = found else { return false };
        handle.give(if was_free { reason.code() } else { CUT });
        true
    }

    /// Closes the tunnels of one shard that have reached their age limit, and returns their number.
    /// Each tunnel's limit is reduced by a fixed share of its last tenth. Tunnels that are too old
    /// when a limit takes effect are closed within a tenth of it.
    pub fn close_aged(&self, shard: usize, limit: impl Fn(u64) -> Option<AgeLimit>) -> usize {
        let now = self.now();
        let mut overdue = Vec::new();
        for (&backend, member) in lock(&self.shards[shard % SHARDS]).iter_mut() {
            let Some(AgeLimit { limit, since }) = limit(backend) else { continue };
            let limit = micros(limit);
            let since = micros(since.saturating_duration_since(self.start));
            let is_due = |id: TunnelId| {
                let last = id.0.saturating_add(limit).max(since.saturating_add(limit / 10));
                now >= last - id.part_of(limit / 10)
            };
            for tunnels in member.both() {
                tunnels.take_those(is_due, &mut overdue);
            }
        }
        command_all(&overdue, CloseReason::Aged)
    }

    /// Cuts every tunnel to one backend and returns their number.
    pub fn cut(&self, backend: u64) -> usize {
        let all: Vec<Arc<TunnelHandle>> = match self.shard(backend).get_mut(&backend) {
            Some(member) => member.both().into_iter().flat_map(TunnelList::command_all).collect(),
            None => return 0,
        };
        all.iter().for_each(|handle| handle.give(CUT));
        all.len()
    }

    /// Cuts every tunnel and returns their number.
    pub fn cut_all(&self) -> usize {
        self.backends().into_iter().map(|(backend, _)| self.cut(backend)).sum()
    }

    /// Every backend with tunnels, and the number of those without a command.
    fn backends(&self) -> Vec<(u64, usize)> {
        let mut backends = Vec::new();
        for shard in &self.shards {
            backends.extend(lock(shard).iter().map(|(&backend, member)| (backend, member.free())));
        }
        backends
    }

    fn name(&self) -> TunnelId {
        let now = self.now();
        let next = |newest: u64| now.max(newest + 1);
        let before = self
            .newest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |newest| Some(next(newest)));
        TunnelId(before.map_or(now, next))
    }

    /// Microseconds since the start of the registry.
    fn now(&self) -> u64 {
        micros(self.start.elapsed())
    }

    fn shard(&self, backend: u64) -> MutexGuard<'_, HashMap<u64, BackendTunnels>> {
        lock(&self.shards[backend as usize % SHARDS])
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A panic leaves the map intact: no critical section can end halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Commands tunnels to close, without holding a lock: their tasks may run at once.
fn command_all(drawn: &[Arc<TunnelHandle>], reason: CloseReason) -> usize {
    drawn.iter().for_each(|handle| handle.give(reason.code()));
    drawn.len()
}

impl TunnelTicket {
    /// Returns what closes this tunnel.
    pub fn closer(&self) -> TunnelCloser {
        let (registry, handle) = (Arc::clone(&self.registry), Arc::clone(&self.handle));
        TunnelCloser { registry, handle, backend: self.backend }
    }

    /// Status of the Close frame; 0: that of the reason.
    pub(super) fn close_status(&self) -> u16 {
        self.handle.close_status.load(Ordering::Relaxed)
    }

    /// Whether the tunnel was registered as framed.
    pub(super) fn is_framed(&self) -> bool {
        self.handle.framed
    }

    /// Returns the command, if there is one; a later command wakes the task.
    pub(super) fn command(&self, cx: &mut Context<'_>) -> Option<TunnelCommand> {
        let order = self.handle.command();
        if matches!(order, Some(TunnelCommand::Cut(_))) {
            return order;
        }
        self.handle.waker.register(cx.waker());
        // A command may have arrived before the waker was registered.
        self.handle.command()
    }
}

impl Drop for TunnelTicket {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(self.backend);
        if let Some(member) = shard.get_mut(&self.backend) {
            let at = self.handle.at.load(Ordering::Relaxed) as usize;
            member.of(self.handle.framed).remove(at);
            if member.len() == 0 {
                shard.remove(&self.backend);
            }
        }
        self.registry.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TunnelHandle {
    /// Adds a packed command.
    fn give(&self, order: u8) {
        self.command.fetch_or(order, Ordering::AcqRel);
        self.waker.wake();
    }

    fn command(&self) -> Option<TunnelCommand> {
        let packed = self.command.load(Ordering::Acquire);
        let reason = CloseReason::of_code(packed & !CUT);
        if packed & CUT != 0 {
            Some(TunnelCommand::Cut(reason))
        } else {
            reason.map(TunnelCommand::Close)
        }
    }
}

impl TunnelId {
    /// Returns a fixed part of `whole` for this tunnel, less than `whole`.
    fn part_of(self, whole: u64) -> u64 {
        // Fibonacci hashing spreads consecutive ids evenly.
        let hash = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(hash) * u128::from(whole)) >> 64) as u64
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:x}", self.0)
    }
}

impl FromStr for TunnelId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix('t').filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        digits.and_then(|d| u64::from_str_radix(d, 16).ok()).map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests;
