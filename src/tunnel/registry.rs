//! Every open tunnel by its backend, so that a drain can cut them.
//!
//! Locks are taken when a tunnel opens, ends or is cut, never for a byte.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use atomic_waker::AtomicWaker;
use slab::Slab;

use super::Order;

/// Shards by backend serial: tunnels of different backends rarely meet in one lock.
const SHARDS: usize = 16;

/// All open tunnels of a process.
#[derive(Debug, Default)]
pub struct Registry {
    shards: [Mutex<HashMap<u64, Slab<Order>>>; SHARDS],
    open: AtomicUsize,
}

/// A tunnel's entry, removed when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    registry: Arc<Registry>,
    order: Order,
    backend: u64,
    key: usize,
}

/// The tunnel's side of its entry.
#[derive(Debug, Default)]
pub(super) struct Handle {
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Registry {
    /// Enters a tunnel to the backend with this serial.
    pub fn enter(self: &Arc<Self>, backend: u64) -> Ticket {
        let order = Order::default();
        let key = self.shard(backend).entry(backend).or_default().insert(Arc::clone(&order));
        self.open.fetch_add(1, Ordering::Relaxed);
        Ticket { registry: Arc::clone(self), order, backend, key }
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
        self.shard(backend).get(&backend).map_or(0, Slab::len)
    }

    /// Cuts every tunnel to one backend and says how many there were.
    pub fn cut(&self, backend: u64) -> usize {
        let orders: Vec<Order> = match self.shard(backend).get(&backend) {
            Some(tunnels) => tunnels.iter().map(|(_, order)| Arc::clone(order)).collect(),
            None => return 0,
        };
        orders.iter().for_each(|order| order.cut());
        orders.len()
    }

    /// Cuts every tunnel and says how many there were.
    pub fn cut_all(&self) -> usize {
        let mut backends = Vec::new();
        for shard in &self.shards {
            backends.extend(lock(shard).keys().copied());
        }
        backends.into_iter().map(|backend| self.cut(backend)).sum()
    }

    fn shard(&self, backend: u64) -> MutexGuard<'_, HashMap<u64, Slab<Order>>> {
        lock(&self.shards[backend as usize % SHARDS])
    }
}

/// A panic elsewhere leaves the map as it was: each critical section is one operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ticket {
    /// Ready once the tunnel is to be cut; wakes the task then.
    pub(super) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.order.cut.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.order.waker.register(cx.waker());
        // Between the look above and the registration the order may have come.
        if self.order.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(self.backend);
        if let Some(tunnels) = shard.get_mut(&self.backend) {
            tunnels.try_remove(self.key);
            if tunnels.is_empty() {
                shard.remove(&self.backend);
            }
        }
        self.registry.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handle {
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}
