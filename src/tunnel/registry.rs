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

use super::close::CloseReason;

/// Shards by backend serial: tunnels of different backends rarely meet in one lock.
pub const SHARDS: usize = 16;

/// Below so many tunnels no memory is given back.
const KEPT: usize = 64;

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
    order: AtomicU8,
}

const CUT: u8 = 0x80;

/// Tunnels of one backend.
#[derive(Debug, Default)]
struct BackendTunnels {
    framed: TunnelList,
    unframed: TunnelList,
}

/// Those of one kind.
#[derive(Debug, Default)]
struct TunnelList {
    entries: Vec<TunnelSlot>,
    /// So many, the first, have no order.
    free: usize,
}

#[derive(Debug)]
struct TunnelSlot {
    id: TunnelId,
    handle: Arc<TunnelHandle>,
}

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
            order: AtomicU8::new(0),
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

impl BackendTunnels {
    fn of(&mut self, framed: bool) -> &mut TunnelList {
        if framed { &mut self.framed } else { &mut self.unframed }
    }

    fn both(&mut self) -> [&mut TunnelList; 2] {
        [&mut self.framed, &mut self.unframed]
    }

    fn len(&self) -> usize {
        self.framed.entries.len() + self.unframed.entries.len()
    }

    fn free(&self) -> usize {
        self.framed.free + self.unframed.free
    }

    /// As of [`TunnelList::draw`], of both kinds.
    fn draw(&mut self, count: usize) -> Vec<Arc<TunnelHandle>> {
        let count = count.min(self.free());
        let draw = |_| {
            let at = fastrand::usize(..self.free());
            let framed = self.framed.free;
            if at < framed { self.framed.take(at) } else { self.unframed.take(at - framed) }
        };
        (0..count).map(draw).collect()
    }
}

impl TunnelList {
    /// Takes those without an order that are named.
    fn take_those(&mut self, named: impl Fn(TunnelId) -> bool, taken: &mut Vec<Arc<TunnelHandle>>) {
        // Backwards: what moves into a gap comes from behind, and was seen already.
        for at in (0..self.free).rev() {
            if named(self.entries[at].id) {
                taken.push(self.take(at));
            }
        }
    }

    /// The one of this name, and whether it had no order.
    fn take_one(&mut self, id: TunnelId) -> Option<(Arc<TunnelHandle>, bool)> {
        let at = self.entries.iter().position(|slot| slot.id == id)?;
        if at < self.free {
            return Some((self.take(at), true));
        }
        Some((Arc::clone(&self.entries[at].handle), false))
    }

    /// All of them. Each must be given an order.
    fn order_all(&mut self) -> Vec<Arc<TunnelHandle>> {
        self.free = 0;
        self.entries.iter().map(|slot| Arc::clone(&slot.handle)).collect()
    }

    fn insert(&mut self, slot: TunnelSlot) {
        let last = self.entries.len();
        // More would not fit into any memory.
        slot.handle.at.store(last as u32, Ordering::Relaxed);
        self.entries.push(slot);
        self.swap(last, self.free);
        self.free += 1;
    }

    fn remove(&mut self, mut at: usize) {
        if at < self.free {
            self.free -= 1;
            self.swap(at, self.free);
            at = self.free;
        }
        self.swap(at, self.entries.len() - 1);
        self.entries.pop();
        if self.entries.capacity() > KEPT && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to((self.entries.len() * 2).max(KEPT));
        }
    }

    /// Draws `count` at random, or all there are, from those that have no order. Each must be given
    /// one.
    fn draw(&mut self, count: usize) -> Vec<Arc<TunnelHandle>> {
        (0..count.min(self.free)).map(|_| self.take(fastrand::usize(..self.free))).collect()
    }

    /// Moves one to those that have an order.
    fn take(&mut self, at: usize) -> Arc<TunnelHandle> {
        self.free -= 1;
        self.swap(at, self.free);
        Arc::clone(&self.entries[self.free].handle)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.entries.swap(a, b);
        for at in [a, b] {
            self.entries[at].handle.at.store(at as u32, Ordering::Relaxed);
        }
    }
}

impl TunnelTicket {
    /// Whether the tunnel was entered as one that has frames.
    pub(super) fn is_framed(&self) -> bool {
        self.handle.framed
    }

    /// The order, if there is one; a later one wakes the task.
    pub(super) fn order(&self, cx: &mut Context<'_>) -> Option<TunnelCommand> {
        let order = self.handle.order();
        if matches!(order, Some(TunnelCommand::Cut(_))) {
            return order;
        }
        self.handle.waker.register(cx.waker());
        // Between the look above and the registration one may have come.
        self.handle.order()
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
        self.order.fetch_or(order, Ordering::AcqRel);
        self.waker.wake();
    }

    fn order(&self) -> Option<TunnelCommand> {
        let packed = self.order.load(Ordering::Acquire);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: &str = "192.0.2.1:4711";

    fn enter(registry: &Arc<TunnelRegistry>, backend: u64) -> TunnelTicket {
        registry.enter(backend, CLIENT.parse().unwrap(), true)
    }

    fn enter_unframed(registry: &Arc<TunnelRegistry>, backend: u64) -> TunnelTicket {
        registry.enter(backend, CLIENT.parse().unwrap(), false)
    }

    fn order(ticket: &TunnelTicket) -> Option<TunnelCommand> {
        ticket.handle.order()
    }

    #[test]
    fn a_tunnel_costs_a_registry_little() {
        assert!(
            size_of::<TunnelHandle>() <= 64
                && size_of::<TunnelSlot>() <= 16
                && size_of::<TunnelTicket>() <= 24
        );
    }

    #[test]
    fn those_without_frames_are_closed_by_drains_and_never_to_level() {
        let registry = Arc::new(TunnelRegistry::default());
        let framed: Vec<TunnelTicket> = (0..10).map(|_| enter(&registry, 3)).collect();
        let unframed: Vec<TunnelTicket> = (0..30).map(|_| enter_unframed(&registry, 3)).collect();
        assert_eq!((registry.of(3), registry.staying(3), registry.closable(3)), (40, 40, 10));
        assert_eq!(registry.close(3, 25, CloseReason::Rebalanced), 10);
        assert!(framed.iter().all(|ticket| order(ticket).is_some()));
        assert!(unframed.iter().all(|ticket| order(ticket).is_none()));
        drop(framed);
        let _more: Vec<TunnelTicket> = (0..10).map(|_| enter(&registry, 3)).collect();
        assert_eq!(registry.close(3, 20, CloseReason::Drained), 20);
        let ordered = unframed.iter().filter(|ticket| order(ticket).is_some()).count();
        assert!((5..=20).contains(&ordered), "drawn from both: {ordered}");
        assert_eq!((registry.staying(3), registry.cut(3)), (20, 40));
        let framed = registry.list(3, 10).iter().filter(|listed| listed.framed).count();
        assert_eq!((framed, registry.list(3, 50).len()), (5, 40), "neither hides the other");
        drop(unframed);
        assert_eq!((registry.of(3), registry.list(3, 50).len()), (10, 10));
    }

    #[test]
    fn a_few_are_drawn_at_random_and_none_twice() {
        let registry = Arc::new(TunnelRegistry::default());
        let tickets: Vec<TunnelTicket> = (0..100).map(|_| enter(&registry, 3)).collect();
        let _other = enter(&registry, 4);
        assert_eq!(registry.close(3, 30, CloseReason::Rebalanced), 30);
        assert_eq!((registry.of(3), registry.staying(3), registry.all_staying()), (100, 70, 71));
        let ordered = |reason| {
            let wanted = Some(TunnelCommand::Close(reason));
            tickets.iter().filter(|ticket| order(ticket) == wanted).count()
        };
        assert_eq!(ordered(CloseReason::Rebalanced), 30);
        let first = tickets.iter().take(30);
        assert!(first.filter(|t| order(t).is_some()).count() < 30, "not the oldest ones");
        assert_eq!(registry.close(3, 100, CloseReason::Drained), 70);
        assert_eq!((ordered(CloseReason::Rebalanced), ordered(CloseReason::Drained)), (30, 70));
        assert_eq!(registry.close(3, 1, CloseReason::Drained), 0);
        assert_eq!(registry.close(5, 1, CloseReason::Drained), 0);
        drop(tickets);
        assert_eq!((registry.of(3), registry.len()), (0, 1));
    }

    #[test]
    fn over_all_backends_each_gives_its_share() {
        let registry = Arc::new(TunnelRegistry::default());
        let _many: Vec<TunnelTicket> = (0..90).map(|_| enter(&registry, 1)).collect();
        let _few: Vec<TunnelTicket> = (0..10).map(|_| enter(&registry, 2)).collect();
        assert_eq!(registry.close_any(50, CloseReason::Drained), 50);
        assert!((44..=46).contains(&registry.staying(1)), "{}", registry.staying(1));
        assert_eq!(registry.close_any(usize::MAX / 2, CloseReason::Drained), 50);
        assert_eq!(registry.close_any(1, CloseReason::Drained), 0);
    }

    #[test]
    fn a_cut_keeps_the_reason_of_an_earlier_close() {
        let registry = Arc::new(TunnelRegistry::default());
        let (closed, open) = (enter(&registry, 1), enter(&registry, 1));
        let id = registry.list(1, 9).iter().map(|listed| listed.id).min().unwrap();
        assert!(registry.close_one(id, CloseReason::Operator));
        assert_eq!(order(&closed), Some(TunnelCommand::Close(CloseReason::Operator)));
        assert_eq!(order(&open), None);
        assert_eq!(registry.cut_all(), 2);
        assert_eq!(order(&closed), Some(TunnelCommand::Cut(Some(CloseReason::Operator))));
        assert_eq!(order(&open), Some(TunnelCommand::Cut(None)));
        drop(closed);
        assert!(!registry.close_one(id, CloseReason::Operator));
    }

    #[tokio::test(start_paused = true)]
    async fn those_are_listed_with_client_and_age() {
        let registry = Arc::new(TunnelRegistry::default());
        let _tickets: Vec<TunnelTicket> = (0..5).map(|_| enter(&registry, 1)).collect();
        tokio::time::advance(Duration::from_secs(7)).await;
        let listed = registry.list(1, 3);
        assert_eq!((listed.len(), registry.list(2, 3).len()), (3, 0));
        for tunnel in listed {
            assert_eq!((tunnel.backend, tunnel.client), (1, CLIENT.parse().unwrap()));
            assert_eq!(tunnel.age.as_secs_f64().round() as u64, 7);
            assert_eq!(tunnel.id.to_string().parse(), Ok(tunnel.id));
        }
        for text in ["", "t", "x1", "t+1", "t11111111111111111"] {
            assert_eq!(text.parse::<TunnelId>(), Err(()), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_ones_go_each_at_its_own_time_within_the_last_tenth() {
        let registry = Arc::new(TunnelRegistry::default());
        let _old: Vec<TunnelTicket> = (0..1000).map(|_| enter(&registry, 1)).collect();
        let _spared = enter(&registry, 1 + SHARDS as u64);
        let limit = AgeLimit { limit: Duration::from_secs(100), since: Instant::now() };
        let limit = |backend| (backend == 1).then_some(limit);
        let close = || registry.close_aged(1, limit);
        tokio::time::advance(Duration::from_secs(89)).await;
        let _young = enter(&registry, 1);
        assert_eq!((close(), registry.close_aged(2, limit)), (0, 0));
        let mut total = 0;
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let closed = close();
            assert!(total == 0 || (50..150).contains(&closed), "{closed}");
            total += closed;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(total + close(), 1000);
        assert_eq!(registry.staying(1), 1, "the young one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_comes_late_closes_nobody_at_once() {
        let registry = Arc::new(TunnelRegistry::default());
        let _old: Vec<TunnelTicket> = (0..1000).map(|_| enter(&registry, 1)).collect();
        tokio::time::advance(Duration::from_secs(7 * 86_400)).await;
        let limit = AgeLimit { limit: Duration::from_secs(100), since: Instant::now() };
        let mut total = registry.close_aged(1, |_| Some(limit));
        assert_eq!(total, 0);
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let closed = registry.close_aged(1, |_| Some(limit));
            assert!((50..150).contains(&closed), "{closed}");
            total += closed;
        }
        assert_eq!(total, 1000);
    }

    #[test]
    fn who_is_named_twice_is_cut() {
        let registry = Arc::new(TunnelRegistry::default());
        let (ticket, other) = (enter(&registry, 1), enter(&registry, 1));
        let id = registry.list(1, 9).iter().map(|listed| listed.id).min().unwrap();
        assert!(registry.close_one(id, CloseReason::Operator));
        assert_eq!(order(&ticket), Some(TunnelCommand::Close(CloseReason::Operator)));
        assert!(registry.close_one(id, CloseReason::Operator));
        assert_eq!(order(&ticket), Some(TunnelCommand::Cut(Some(CloseReason::Operator))));
        assert_eq!((order(&other), registry.staying(1)), (None, 1));
    }

    proptest! {
        #[test]
        fn whatever_happens_each_entry_is_found(
            steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 1..200),
        ) {
            let registry = Arc::new(TunnelRegistry::default());
            let mut tickets: Vec<TunnelTicket> = Vec::new();
            for (step, index) in steps {
                match step {
                    0 | 1 => tickets.push(enter(&registry, 1)),
                    2 => {
                        registry.close(1, 1, CloseReason::Drained);
                    }
                    _ if tickets.is_empty() => {}
                    _ => drop(tickets.swap_remove(index.index(tickets.len()))),
                }
                let free = tickets.iter().filter(|ticket| order(ticket).is_none()).count();
                prop_assert_eq!((registry.of(1), registry.staying(1)), (tickets.len(), free));
                let shard = registry.shard(1);
                let slots = shard.get(&1).map_or(&[][..], |member| &member.framed.entries);
                for (at, slot) in slots.iter().enumerate() {
                    prop_assert_eq!(slot.handle.at.load(Ordering::Relaxed) as usize, at);
                    prop_assert_eq!(slot.handle.order().is_none(), at < free);
                }
            }
        }
    }
}
