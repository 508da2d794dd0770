//! Open tunnels of one backend, sorted by whether they have a command to end.

use std::sync::{Arc, atomic::Ordering};

use super::{TunnelHandle, TunnelId};

/// Number of tunnels below which no memory is released.
const KEPT: usize = 64;

/// Tunnels of one backend.
#[derive(Debug, Default)]
pub(super) struct BackendTunnels {
    pub(super) framed: TunnelList,
    pub(super) unframed: TunnelList,
}

/// Tunnels with or without frames.
#[derive(Debug, Default)]
pub(super) struct TunnelList {
    pub(super) entries: Vec<TunnelSlot>,
    /// The first `free` entries have no command.
    pub(super) free: usize,
}

#[derive(Debug)]
pub(super) struct TunnelSlot {
    pub(super) id: TunnelId,
    pub(super) handle: Arc<TunnelHandle>,
}

impl BackendTunnels {
    pub(super) fn of(&mut self, framed: bool) -> &mut TunnelList {
        if framed { &mut self.framed } else { &mut self.unframed }
    }

    pub(super) fn both(&mut self) -> [&mut TunnelList; 2] {
        [&mut self.framed, &mut self.unframed]
    }

    pub(super) fn len(&self) -> usize {
        self.framed.entries.len() + self.unframed.entries.len()
    }

    pub(super) fn free(&self) -> usize {
        self.framed.free + self.unframed.free
    }

    /// Draws tunnels of both kinds; see [`TunnelList::draw`].
    pub(super) fn draw(&mut self, count: usize) -> Vec<Arc<TunnelHandle>> {
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
    /// Takes the tunnels without a command that `named` accepts.
    pub(super) fn take_those(
        &mut self,
        named: impl Fn(TunnelId) -> bool,
        taken: &mut Vec<Arc<TunnelHandle>>,
    ) {
        // Backwards: an entry that moves into a gap comes from behind and was already checked.
        for at in (0..self.free).rev() {
            if named(self.entries[at].id) {
                taken.push(self.take(at));
            }
        }
    }

    /// Takes the tunnel with this id; also returns whether it had no command.
    pub(super) fn take_one(&mut self, id: TunnelId) -> Option<(Arc<TunnelHandle>, bool)> {
        let at = self.entries.iter().position(|slot| slot.id == id)?;
        if at < self.free {
            return Some((self.take(at), true));
        }
        Some((Arc::clone(&self.entries[at].handle), false))
    }

    /// Takes all tunnels. The caller must give each a command.
    pub(super) fn command_all(&mut self) -> Vec<Arc<TunnelHandle>> {
        self.free = 0;
        self.entries.iter().map(|slot| Arc::clone(&slot.handle)).collect()
    }

    pub(super) fn insert(&mut self, slot: TunnelSlot) {
        let last = self.entries.len();
        // More than u32::MAX entries do not fit into memory.
        slot.handle.at.store(last as u32, Ordering::Relaxed);
        self.entries.push(slot);
        self.swap(last, self.free);
        self.free += 1;
    }

    pub(super) fn remove(&mut self, mut at: usize) {
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

    /// Draws up to `count` tunnels at random from those without a command. The caller must give each
    /// a command.
    pub(super) fn draw(&mut self, count: usize) -> Vec<Arc<TunnelHandle>> {
        (0..count.min(self.free)).map(|_| self.take(fastrand::usize(..self.free))).collect()
    }

    /// Moves one tunnel to those with a command.
    pub(super) fn take(&mut self, at: usize) -> Arc<TunnelHandle> {
        self.free -= 1;
        self.swap(at, self.free);
        Arc::clone(&self.entries[self.free].handle)
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        self.entries.swap(a, b);
        for at in [a, b] {
            self.entries[at].handle.at.store(at as u32, Ordering::Relaxed);
        }
    }
}
