//! Every open tunnel by its backend, so that one can be found, closed and cut.
//!
//! Locks are taken when a tunnel opens, ends or is given an order, never for a byte. A backend's
//! tunnels lie in one vector, those that have no order yet before those that have one: drawing some
//! at random and counting what is left cost the same however many there are. Those without frames have
//! a vector of their own, as there is nowhere to close them without harm.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

mod lists;

use self::lists::{BackendTunnels, TunnelList, TunnelSlot};
use super::close::CloseReason;

/// Shards by backend serial: tunnels of different backends rarely meet in one lock.
pub const SHARDS: usize = 16;

/// All open tunnels of a process.
#[derive(Debug)]
pub struct TunnelRegistry {
    shards: [Mutex<HashMap<u64, BackendTunnels>>; SHARDS],
    open: AtomicUsize,
    start: Instant,
    /// The newest tunnel's birth.
    newest: AtomicU64,
}

/// Names a tunnel among all that this process has or had.
///
/// It is the microsecond of its birth since the registry's own, or the next that was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(u64);

/// An open tunnel, as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTunnel {
    /// Its name.
    pub id: TunnelId,
    /// Serial of its backend.
    pub backend: u64,
    /// The client's address.
    pub client: SocketAddr,
    /// Whether it has frames; one of layer 4 has none.
    pub framed: bool,
    /// Time since it was opened.
    pub age: Duration,
}

/// How old tunnels may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeLimit {
    /// So old at most.
    pub limit: Duration,
    /// Since when that has been so.
    pub since: Instant,
}

/// A tunnel's entry, removed when it is dropped.
#[derive(Debug)]
pub struct TunnelTicket {
    registry: Arc<TunnelRegistry>,
    handle: Arc<TunnelHandle>,
    backend: u64,
}

/// What a registry tells a tunnel to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TunnelCommand {
    /// Close at the next frame boundary.
    Close(CloseReason),
    /// End at once; for the reason of an earlier order, if there was one.
    Cut(Option<CloseReason>),
}

/// What a tunnel and its entry share.
#[derive(Debug)]
struct TunnelHandle {
    waker: AtomicWaker,
    client: SocketAddr,
    /// Whether it has frames, and so which vector it is in.
    framed: bool,
    /// Where its entry is; changed under the shard's lock only.
    at: AtomicU32,
    /// An [`TunnelCommand`], packed: the reason's code, and [`CUT`]; 0: none.
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
    /// Enters a client's tunnel to the backend with this serial; `framed`: it can be closed between two
    /// frames.
    pub fn enter(self: &Arc<Self>, backend: u64, client: SocketAddr, framed: bool) -> TunnelTicket {
        let handle = Arc::new(TunnelHandle {
            waker: AtomicWaker::new(),
            client,
            framed,
            at: AtomicU32::new(0),
            command: AtomicU8::new(0),
        });
        let slot = TunnelSlot { id: self.name(), handle: Arc::clone(&handle) };
        self.shard(backend).entry(backend).or_default().of(framed).insert(slot);
        self.open.fetch_add(1, Ordering::Relaxed);
        TunnelTicket { registry: Arc::clone(self), handle, backend }
    }

    /// Open tunnels.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Open tunnels to one backend.
    pub fn of(&self, backend: u64) -> usize {
        self.shard(backend).get(&backend).map_or(0, BackendTunnels::len)
    }

    /// Open tunnels to one backend that have no order to end yet.
    pub fn staying(&self, backend: u64) -> usize {
        self.shard(backend).get(&backend).map_or(0, BackendTunnels::free)
    }

    /// The same of those that can be closed between two frames.
    pub fn closable(&self, backend: u64) -> usize {
        self.shard(backend).get(&backend).map_or(0, |member| member.framed.free)
    }

    /// The same over all backends.
    pub fn all_staying(&self) -> usize {
        self.backends().into_iter().map(|(_, staying)| staying).sum()
    }

    /// Some tunnels to one backend, `limit` at most, of both kinds in turn.
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

    /// Closes as many as `count` tunnels to one backend, drawn at random from those that have no
    /// order yet, and says how many there were. Only those with frames are closed to level backends.
    pub fn close(&self, backend: u64, count: usize, reason: CloseReason) -> usize {
        let drawn = match self.shard(backend).get_mut(&backend) {
            Some(member) if reason == CloseReason::Rebalanced => member.framed.draw(count),
            Some(member) => member.draw(count),
            None => return 0,
        };
        order_all(&drawn, reason)
    }

    /// The same over all backends, from each about its share.
    pub fn close_any(&self, count: usize, reason: CloseReason) -> usize {
        let backends = self.backends();
        let mut total: usize = backends.iter().map(|(_, staying)| staying).sum();
        let mut left = count;
        for (backend, staying) in backends {
            if left == 0 || staying == 0 {
                continue;
            }
            // Rounded by chance, so that nobody's last one waits for all others'.
            let share = (left.min(total) * staying + fastrand::usize(..total)) / total;
            total -= staying;
            left -= self.close(backend, share.min(left), reason);
        }
        count - left
    }

    /// Closes one tunnel; false where there is none of that name. One that has an order already is
    /// cut: whoever names it then does not want to wait for its client.
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

    /// Closes the tunnels of one shard that are older than their backend's limit less a part of its
    /// tenth that is each tunnel's own, and says how many there were. Those that a limit finds too old
    /// already have their turns over a tenth of it from then on.
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
        order_all(&overdue, CloseReason::Aged)
    }

    /// Cuts every tunnel to one backend and says how many there were.
    pub fn cut(&self, backend: u64) -> usize {
        let all: Vec<Arc<TunnelHandle>> = match self.shard(backend).get_mut(&backend) {
            Some(member) => member.both().into_iter().flat_map(TunnelList::order_all).collect(),
            None => return 0,
        };
        all.iter().for_each(|handle| handle.give(CUT));
        all.len()
    }

    /// Cuts every tunnel and says how many there were.
    pub fn cut_all(&self) -> usize {
        self.backends().into_iter().map(|(backend, _)| self.cut(backend)).sum()
    }

    /// Every backend that has tunnels, and how many of those have no order.
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

    /// Microseconds since the start.
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

/// A panic elsewhere leaves the map as it was: no critical section can end halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Orders tunnels to close, outside of any lock: their tasks may run at once.
fn order_all(drawn: &[Arc<TunnelHandle>], reason: CloseReason) -> usize {
    drawn.iter().for_each(|handle| handle.give(reason.code()));
    drawn.len()
}

impl TunnelTicket {
    /// Whether the tunnel was entered as one that has frames.
    pub(super) fn is_framed(&self) -> bool {
        self.handle.framed
    }

    /// The order, if there is one; a later one wakes the task.
    pub(super) fn command(&self, cx: &mut Context<'_>) -> Option<TunnelCommand> {
        let order = self.handle.command();
        if matches!(order, Some(TunnelCommand::Cut(_))) {
            return order;
        }
        self.handle.waker.register(cx.waker());
        // Between the look above and the registration one may have come.
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
    /// Adds to the order, packed.
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
    /// A part of `whole`, less than all of it, that is always the same for this tunnel.
    fn part_of(self, whole: u64) -> u64 {
        // Fibonacci hashing: births that follow each other are spread evenly.
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
