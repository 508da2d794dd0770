//! State for session resumption, shared by all listeners of a process.

use std::sync::Arc;

use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};

use super::TicketKey;
use crate::{
    config::SharedKeys,
    net::tickets::{KeyRing, TicketContext, Ticketer},
};

/// Sessions cached for TLS 1.2 clients without ticket support; other clients present a ticket.
const CACHED_SESSIONS: usize = 4096;

/// Ticket keys and session cache. Create one per process and share it with every listener. Generated keys rotate
/// every 6 hours and are accepted for 12; configured keys stay in use until they are replaced.
#[derive(Clone, Debug)]
pub struct TicketKeys {
    keys: Arc<KeyRing>,
    cache: Arc<dyn StoresServerSessions>,
}

impl TicketKeys {
    /// Uses configured keys; without them the keys of the previous process, as returned by
    /// [`export`](Self::export), or generated keys. The cache for clients without tickets starts empty.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(keys: &SharedKeys, handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        let cache = ServerSessionMemoryCache::new(CACHED_SESSIONS);
        Ok(Self { keys: Arc::new(KeyRing::new(keys, handed)?), cache })
    }

    /// Replaces the keys on every listener at once. Generated keys stay if they are already in use.
    ///
    /// # Errors
    /// No randomness; the keys stay unchanged.
    pub fn exchange(&self, keys: &SharedKeys) -> Result<(), rustls::Error> {
        self.keys.exchange(keys)
    }

    /// Returns generated ticket keys for the next process; empty if keys are configured.
    pub fn export(&self) -> Vec<TicketKey> {
        self.keys.export()
    }

    pub(super) fn tickets(&self, context: TicketContext) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer::new(Arc::clone(&self.keys), context))
    }

    pub(super) fn cache(&self, context: TicketContext) -> Arc<dyn StoresServerSessions> {
        Arc::new(ContextCache { shared: Arc::clone(&self.cache), context })
    }
}

/// A view of the cache restricted to one context.
#[derive(Debug)]
struct ContextCache {
    shared: Arc<dyn StoresServerSessions>,
    context: TicketContext,
}

impl ContextCache {
    /// Prefixes a session id with the context. Ids have up to 32 bytes, which the client may choose; the length of the
    /// context comes first, so the encoding is unambiguous.
    fn key(&self, id: &[u8]) -> Vec<u8> {
        let context = self.context.as_bytes();
        [&[context.len() as u8], context, id].concat()
    }
}

impl StoresServerSessions for ContextCache {
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
