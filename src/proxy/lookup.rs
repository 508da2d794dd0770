//! The sessions that decide where a request goes, looked up for the data path.

use std::{sync::Arc, time::Instant};

use super::affinity::{self, Remembered, SessionLookup};
use crate::{
    shared::SharedState,
    snapshot::PoolSnapshot,
    sticky::{
        self, AffinityHints, Choice,
        recent_sessions::{ClientKey, PendingReturn},
    },
    upstream::Backend,
};

/// Looks sessions up for the data path: each lookup counts as a use.
pub(super) struct CountedLookup<'a> {
    pub(super) proxy: &'a SharedState,
    pub(super) pool: &'a PoolSnapshot,
    /// Key of the client among the recent sessions, if it is needed.
    pub(super) client_key: &'a mut Option<ClientKey>,
    /// The ended session that the client returns from.
    pub(super) returning: &'a mut Option<Box<PendingReturn>>,
}

impl CountedLookup<'_> {
    /// Consumes an ended session that the client may return from; false if there is none.
    fn consume_return(&mut self, tag: u64) -> bool {
        let window = self.pool.config().sticky.memory;
        let memory = &self.proxy.memory;
        let consumed =
            self.client_key.and_then(|key| memory.consume(key, tag, window, Instant::now()));
        *self.returning = consumed.map(Box::new);
        self.returning.is_some()
    }
}

impl SessionLookup for CountedLookup<'_> {
    fn session(&mut self, hints: AffinityHints<'_>) -> Choice {
        let (sids, pool) = (&self.proxy.sids, self.pool.upstream.name());
        let (choice, client) = sticky::choose_and_recognize(sids, pool, hints, Instant::now());
        // Use the key of the handshake: the default Node.js client sends polls with a user agent and
        // the upgrade without.
        if self.client_key.is_some() {
            *self.client_key = client.or(*self.client_key);
        }
        choice
    }

    fn recent(&mut self) -> Option<Arc<Backend>> {
        let metrics = &self.proxy.metrics;
        match affinity::recall(&self.proxy.memory, *self.client_key, self.pool) {
            Remembered::On(backend) => self.consume_return(backend.tag()).then(|| {
                metrics.memory_followed.inc();
                Arc::clone(backend)
            }),
            Remembered::Ambiguous => {
                metrics.memory_ambiguous.inc();
                None
            }
            Remembered::Closed | Remembered::Unknown => None,
        }
    }

    fn returns_to(&mut self, backend: &Backend) {
        self.consume_return(backend.tag());
    }
}
