//! What resumption needs to remember, for every listener of a process.

use std::sync::Arc;

use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};

use super::TicketKey;
use crate::{
    config::SharedKeys,
    net::tickets::{Context, Keys, Ticketer},
};

/// Sessions kept for TLS 1.2 clients without ticket support; everyone else brings a ticket.
const CACHED_SESSIONS: usize = 4096;

/// The ticket keys and the session cache. Make one per process and hand it to every listener. Own
/// keys roll every 6 hours and are accepted for 12; given ones are in force until they are exchanged.
#[derive(Clone, Debug)]
pub struct TicketKeys {
    keys: Arc<Keys>,
    cache: Arc<dyn StoresServerSessions>,
}

impl TicketKeys {
    /// Those given; where none are, those of the process before this one, as
    /// [`export`](Self::export) gave them, or own ones. The cache, for clients without tickets, begins
    /// empty.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(keys: &SharedKeys, handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        let cache = ServerSessionMemoryCache::new(CACHED_SESSIONS);
        Ok(Self { keys: Arc::new(Keys::new(keys, handed)?), cache })
    }

    /// Goes on by these, on every listener at once. Own keys stay where there are any already.
    ///
    /// # Errors
    /// No randomness; then nothing has changed.
    pub fn exchange(&self, keys: &SharedKeys) -> Result<(), rustls::Error> {
        self.keys.exchange(keys)
    }

    /// Own ticket keys, for the next process; none where they are given.
    pub fn export(&self) -> Vec<TicketKey> {
        self.keys.export()
    }

    pub(super) fn tickets(&self, context: Context) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer::new(Arc::clone(&self.keys), context))
    }

    pub(super) fn cache(&self, context: Context) -> Arc<dyn StoresServerSessions> {
        Arc::new(Cache { shared: Arc::clone(&self.cache), context })
    }
}

/// The part of the cache that is of one context.
#[derive(Debug)]
struct Cache {
    shared: Arc<dyn StoresServerSessions>,
    context: Context,
}

impl Cache {
    /// Session ids have up to 32 bytes, of the client's choice where it asks; the context goes first
    /// and has one length, or none.
    fn key(&self, id: &[u8]) -> Vec<u8> {
        let context = self.context.as_bytes();
        [&[context.len() as u8], context, id].concat()
    }
}

impl StoresServerSessions for Cache {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.shared.put(self.key(&id), session)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.shared.get(&self.key(id))
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.shared.take(&self.key(id))
    }

    fn can_cache(&self) -> bool {
        self.shared.can_cache()
    }
}
