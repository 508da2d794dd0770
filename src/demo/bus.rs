//! What the nodes share: who is on which node, what was said, and a feed that tells every node.
//!
//! Invariant: a message's id and its place in the feed agree, for both are given under one lock.
//! Knows no sockets: a node reads the feed and passes it on to its own users.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::sync::broadcast;

/// Messages kept for those who come later: enough to show that there is a conversation.
const RECENT: usize = 30;
/// Events that a node may lag behind before it misses some; a demo's nodes never do.
const FEED: usize = 256;

/// One chat message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Message {
    /// Counts from 1 over all nodes; a page that reconnects knows by it what it has shown.
    pub(super) id: u64,
    /// Name that the sender goes by.
    pub(super) from: String,
    /// What was said.
    pub(super) text: String,
    /// Name of the node that took it from its sender.
    pub(super) node: String,
    /// Milliseconds since the Unix epoch.
    pub(super) at: u64,
}

/// How many people are on a node.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Crowd {
    /// The node's name.
    pub(super) node: String,
    /// Connected users.
    pub(super) people: usize,
}

/// What every node hears.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Somebody said something, somewhere.
    Said(Arc<Message>),
    /// Somebody came or went; all nodes, in order.
    Crowds(Arc<[Crowd]>),
}

/// The shared state and its feed.
#[derive(Debug)]
pub(super) struct Bus {
    room: Mutex<Room>,
    feed: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Room {
    crowds: Vec<Crowd>,
    recent: VecDeque<Arc<Message>>,
    said: u64,
}

impl Bus {
    /// An empty room without a node.
    pub(super) fn new() -> Self {
        let room = Room { crowds: Vec::new(), recent: VecDeque::new(), said: 0 };
        Self { room: Mutex::new(room), feed: broadcast::Sender::new(FEED) }
    }

    /// One node more.
    pub(super) fn add(&self, node: &str) {
        self.change(|crowds| crowds.push(Crowd { node: node.to_owned(), people: 0 }));
    }

    /// A node has ended.
    pub(super) fn remove(&self, node: &str) {
        self.change(|crowds| crowds.retain(|crowd| crowd.node != node));
    }

    /// Everything from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.feed.subscribe()
    }

    /// Says something in the name of a user of this node.
    pub(super) fn say(&self, node: &str, from: String, text: String) {
        let mut room = self.room();
        let node = node.to_owned();
        room.said += 1;
        let message = Arc::new(Message { id: room.said, from, text, node, at: now() });
        if room.recent.len() == RECENT {
            room.recent.pop_front();
        }
        room.recent.push_back(Arc::clone(&message));
        self.tell(Event::Said(message));
    }

    /// One user more on this node, until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>, node: &Arc<str>) -> Presence {
        self.count(node, |people| people + 1);
        Presence { bus: Arc::clone(self), node: Arc::clone(node) }
    }

    /// How many people are on each node.
    pub(super) fn crowds(&self) -> Vec<Crowd> {
        self.room().crowds.clone()
    }

    /// The last messages, oldest first.
    pub(super) fn recent(&self) -> Vec<Message> {
        self.room().recent.iter().map(|m| Message::clone(m)).collect()
    }

    /// Changes how many people are on a node; nothing, where the node has ended.
    fn count(&self, node: &str, by: impl FnOnce(usize) -> usize) {
        self.change(|crowds| {
            if let Some(crowd) = crowds.iter_mut().find(|crowd| crowd.node == node) {
                crowd.people = by(crowd.people);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Crowd>)) {
        let mut room = self.room();
        change(&mut room.crowds);
        let crowds = room.crowds.as_slice().into();
        self.tell(Event::Crowds(crowds));
    }

    fn tell(&self, event: Event) {
        // Fails only while no node listens, and then nobody is there to be told.
        let _ = self.feed.send(event);
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user's stay on a node.
#[derive(Debug)]
pub(super) struct Presence {
    bus: Arc<Bus>,
    node: Arc<str>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.bus.count(&self.node, |people| people.saturating_sub(1));
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
