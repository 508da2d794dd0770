//! Backends that were given by name.
//!
//! Names are resolved when a backend is added, again every half minute and at each reload. The last
//! good addresses stay in use while a name does not resolve.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    config::{Admin, reaches},
    upstream::Backend,
};

/// How long a reload, or the start, waits for names. What is not resolved by then follows.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most addresses that one name gives; the rest is ignored.
const MAX_ADDRESSES: usize = 16;

/// Finds backends' addresses. Where operators are served there are none, whoever says so: that is not
/// reached through public traffic.
#[derive(Debug)]
pub(super) struct NameResolver {
    /// As it was bound; another one takes a restart.
    admin: Admin,
    /// The backends that were told to be where operators are served, by serial.
    told: Mutex<HashSet<u64>>,
    /// Where this process listens for clients.
    own: Mutex<Vec<SocketAddr>>,
}

impl NameResolver {
    pub(super) fn new(admin: Admin) -> Arc<Self> {
        Arc::new(Self { admin, told: Mutex::default(), own: Mutex::default() })
    }

    /// Takes note of where this process listens for clients from now on.
    pub(super) fn listens(&self, own: Vec<SocketAddr>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// Notes whether a backend is this process itself, and logs that.
    fn note_loop(&self, backend: &Backend, addresses: &[SocketAddr]) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let found = addresses.iter().find(|address| own.iter().any(|own| reaches(*own, **address)));
        let Some(address) = found else {
            backend.set_loop(false);
            return;
        };
        if !backend.set_loop(true) {
            let (pool, name) = (backend.pool(), backend.name());
            tracing::error!(
                pool,
                backend = name,
                "the backend's address {address} is a listener of this proxy; requests to it get 508; \
                 correct the name or the source that gives this address"
            );
        }
    }

    /// Resolves the names among `backends` that have no address yet.
    pub(super) async fn first(self: &Arc<Self>, backends: &[Arc<Backend>]) {
        let mut lookups = JoinSet::new();
        for backend in backends {
            match backend.address().literal() {
                Some(address) => {
                    self.note_loop(backend, &[address]);
                    backend.set_addresses(self.allowed(backend, vec![address]));
                }
                None if backend.addresses().is_empty() => {
                    lookups.spawn(Arc::clone(self).look_up(Arc::clone(backend)));
                }
                None => {}
            }
        }
        if timeout(PATIENCE, async { while lookups.join_next().await.is_some() {} }).await.is_err()
        {
            tracing::warn!("backends' names take long to resolve; serving without those");
            lookups.detach_all();
        }
    }

    /// Resolves every name again, beside everything else.
    pub(super) fn again(self: &Arc<Self>, backends: &[Arc<Backend>]) {
        self.told().retain(|told| backends.iter().any(|backend| backend.serial() == *told));
        for backend in backends {
            match backend.address().literal() {
                // A reload may have put a listener there.
                Some(address) => self.note_loop(backend, &[address]),
                None => _ = tokio::spawn(Arc::clone(self).look_up(Arc::clone(backend))),
            }
        }
    }

    async fn look_up(self: Arc<Self>, backend: Arc<Backend>) {
        let address = backend.address();
        let (pool, name) = (backend.pool(), backend.name());
        match tokio::net::lookup_host((address.host.as_str(), address.port)).await {
            Ok(found) => {
                let found = self.allowed(&backend, found.take(MAX_ADDRESSES).collect());
                let found = in_order(found, &backend.addresses());
                self.note_loop(&backend, &found);
                if !found.is_empty() && found != backend.addresses() {
                    tracing::info!(pool, backend = name, addresses = ?found, "backend resolved");
                    backend.set_addresses(found);
                    // Kept connections lead to where the name pointed before.
                    backend.idle().clear();
                }
            }
            Err(error) => {
                let kept = backend.addresses().len();
                tracing::warn!(
                    pool,
                    backend = name,
                    %error,
                    kept,
                    "backend's name does not resolve"
                );
            }
        }
    }

    /// Those of a backend's addresses where no operators are served.
    fn allowed(&self, backend: &Backend, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let all = addresses.len();
        addresses.retain(|address| !self.admin.is_at(*address));
        if addresses.len() == all {
            self.told().remove(&backend.serial());
        } else if self.told().insert(backend.serial()) {
            let (pool, name, address) = (backend.pool(), backend.name(), backend.address());
            tracing::warn!(
                pool,
                backend = name,
                "{address} is an address of `admin`; this address is not used"
            );
        }
        addresses
    }

    fn told(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolvers rotate a name's addresses, but a session is on one of them: the address in use stays the
/// first for as long as the name has it.
fn in_order(mut found: Vec<SocketAddr>, before: &[SocketAddr]) -> Arc<[SocketAddr]> {
    found.sort_unstable();
    found.dedup();
    if let Some(place) = before.first().and_then(|first| found.iter().position(|f| f == first)) {
        found[..=place].rotate_right(1);
    }
    found.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_in_use_stays_the_first_while_the_name_has_it() {
        let [a, b, c] = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|a| a.parse().unwrap());
        assert_eq!(*in_order(vec![c, a, b, a], &[]), [a, b, c]);
        assert_eq!(*in_order(vec![a, b, c], &[b, a]), [b, a, c]);
        assert_eq!(*in_order(vec![a, c], &[b, a]), [a, c]);
    }
}
