//! State that the nodes share: users per node, recent messages, and a feed of events.
//!
//! Invariant: message ids are in the order of the feed, because both are assigned under one lock. The
//! bus has no sockets: each node reads the feed and sends the events to its own users.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::sync::broadcast;

/// Number of recent messages that a new user gets.
const RECENT: usize = 30;
/// Number of events that a node may lag behind before it loses some.
const FEED: usize = 256;

/// One chat message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Message {
    /// Number of the message over all nodes, from 1. A page that reconnects skips messages that it has
    /// shown.
    pub(super) id: u64,
    /// Name of the sender.
    pub(super) from: String,
    /// The text.
    pub(super) text: String,
    /// Name of the node that the sender is connected to.
    pub(super) node: String,
    /// Unix time in milliseconds.
    pub(super) at: u64,
}

/// Number of users on a node.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Crowd {
    /// Name of the node.
    pub(super) node: String,
    /// Connected users.
    pub(super) people: usize,
}

/// An event that every node receives.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A user sent a message.
    Said(Arc<Message>),
    /// A user connected or disconnected; counts of all nodes, in order.
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
    /// Number of messages so far.
    count: u64,
}

impl Bus {
    /// Creates an empty room without nodes.
    pub(super) fn new() -> Self {
        let room = Room { crowds: Vec::new(), recent: VecDeque::new(), count: 0 };
        Self { room: Mutex::new(room), feed: broadcast::Sender::new(FEED) }
    }

    /// Adds a node.
    pub(super) fn add(&self, node: &str) {
        self.change(|crowds| crowds.push(Crowd { node: node.to_owned(), people: 0 }));
    }

    /// Removes a node that has ended.
    pub(super) fn remove(&self, node: &str) {
        self.change(|crowds| crowds.retain(|crowd| crowd.node != node));
    }

    /// Subscribes to events from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.feed.subscribe()
    }

    /// Publishes a message of a user of this node.
    pub(super) fn say(&self, node: &str, from: String, text: String) {
        let mut room = self.room();
        let node = node.to_owned();
        room.count += 1;
        let message = Arc::new(Message { id: room.count, from, text, node, at: now() });
        if room.recent.len() == RECENT {
            room.recent.pop_front();
        }
        room.recent.push_back(Arc::clone(&message));
        self.publish(Event::Said(message));
    }

    /// Counts a user on this node until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>, node: &Arc<str>) -> Presence {
        self.count(node, |people| people + 1);
        Presence { bus: Arc::clone(self), node: Arc::clone(node) }
    }

    /// Returns the number of users on each node.
    pub(super) fn crowds(&self) -> Vec<Crowd> {
        self.room().crowds.clone()
    }

    /// Returns the last messages, oldest first.
    pub(super) fn recent(&self) -> Vec<Message> {
        self.room().recent.iter().map(|m| Message::clone(m)).collect()
    }

    /// Changes the number of users on a node, unless the node has ended.
    fn count(&self, node: &str, update: impl FnOnce(usize) -> usize) {
        self.change(|crowds| {
            if let Some(crowd) = crowds.iter_mut().find(|crowd| crowd.node == node) {
                crowd.people = update(crowd.people);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Crowd>)) {
        let mut room = self.room();
        change(&mut room.crowds);
        let crowds = room.crowds.as_slice().into();
        self.publish(Event::Crowds(crowds));
    }

    fn publish(&self, event: Event) {
        // Fails only if no node has subscribed.
        let _ = self.feed.send(event);
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one user on a node until it is dropped.
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
