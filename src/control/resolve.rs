//! Resolves the names of backends: when a backend is added, every half minute, and at each reload.
//!
//! While a name does not resolve, the last good addresses stay in use. The names of new backends are looked
//! up before the control task adds the backends ([`ResolvedNames`]), so that this task never waits for DNS.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    config::{Address, Admin, reaches},
    upstream::Backend,
};

/// Longest time that new backends wait for their names. Slow names are looked up again in the background.
const FIRST_LOOKUP: Duration = Duration::from_secs(3);

/// Maximum number of addresses of one name; further addresses are ignored.
const MAX_ADDRESSES: usize = 16;

/// Addresses of names that were looked up. Names without an answer are missing.
#[derive(Clone, Debug, Default)]
pub struct ResolvedNames(HashMap<Address, Vec<SocketAddr>>);

impl ResolvedNames {
    /// Looks up the names among these addresses, for at most three seconds.
    pub(super) async fn look_up(addresses: impl IntoIterator<Item = Address>) -> Self {
        let mut lookups = JoinSet::new();
        let names = addresses.into_iter().filter(Address::has_name);
        for address in names.collect::<HashSet<_>>() {
            lookups.spawn(async move {
                let found = look_up(&address).await;
                (address, found)
            });
        }
        let mut names = HashMap::new();
        let all = async {
            while let Some(looked_up) = lookups.join_next().await {
                if let Ok((address, Ok(found))) = looked_up {
                    names.insert(address, found);
                }
            }
        };
        if timeout(FIRST_LOOKUP, all).await.is_err() {
            tracing::warn!(
                "names of backends take long to resolve; serving without these backends until then"
            );
        }
        Self(names)
    }
}

async fn look_up(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await?;
    Ok(found.take(MAX_ADDRESSES).collect())
}

/// Finds the addresses of backends. An address of the admin API is never used, so that public traffic
/// cannot reach it.
#[derive(Debug)]
pub(super) struct NameResolver {
    /// The admin addresses that were bound at the start.
    admin: Admin,
    /// Serials of backends for which an admin address was reported.
    reported: Mutex<HashSet<u64>>,
    /// Addresses of this process's listeners.
    own: Mutex<Vec<SocketAddr>>,
}

impl NameResolver {
    pub(super) fn new(admin: Admin) -> Arc<Self> {
        Arc::new(Self { admin, reported: Mutex::default(), own: Mutex::default() })
    }

    /// Sets the addresses of this process's listeners.
    pub(super) fn set_own_addresses(&self, own: Vec<SocketAddr>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// Detects and logs a backend whose address is a listener of this process.
    fn detect_loop(&self, backend: &Backend, addresses: &[SocketAddr]) {
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

    /// Sets the addresses of backends that have none yet. Names that are not in `names` are looked up in the
    /// background.
    pub(super) fn resolve_new(self: &Arc<Self>, backends: &[Arc<Backend>], names: &ResolvedNames) {
        for backend in backends {
            let address = backend.address();
            match (address.literal(), names.0.get(address)) {
                (Some(address), _) => {
                    self.detect_loop(backend, &[address]);
                    backend.set_addresses(self.allowed(backend, vec![address]));
                }
                (None, _) if !address.has_name() || !backend.addresses().is_empty() => {}
                (None, Some(found)) => self.record(backend, found.clone()),
                (None, None) => _ = tokio::spawn(Arc::clone(self).look_up(Arc::clone(backend))),
            }
        }
    }

    /// Resolves every name again, in the background.
    pub(super) fn resolve_all(self: &Arc<Self>, backends: &[Arc<Backend>]) {
        self.reported().retain(|serial| backends.iter().any(|backend| backend.serial() == *serial));
        for backend in backends {
            match backend.address().literal() {
                // A reload may have added a listener at this address.
                Some(address) => self.detect_loop(backend, &[address]),
                None if !backend.address().has_name() => {}
                None => _ = tokio::spawn(Arc::clone(self).look_up(Arc::clone(backend))),
            }
        }
    }

    async fn look_up(self: Arc<Self>, backend: Arc<Backend>) {
        let address = backend.address();
        let (pool, name) = (backend.pool(), backend.name());
        match look_up(address).await {
            Ok(found) => self.record(&backend, found),
            Err(error) => {
                let kept = backend.addresses().len();
                tracing::warn!(
                    pool,
                    backend = name,
                    %error,
                    kept,
                    "the name of the backend does not resolve"
                );
            }
        }
    }

    /// Uses the addresses that were found for the name of a backend.
    fn record(&self, backend: &Backend, found: Vec<SocketAddr>) {
        let found = self.allowed(backend, found);
        let found = in_order(found, &backend.addresses());
        self.detect_loop(backend, &found);
        if !found.is_empty() && found != backend.addresses() {
            let (pool, name) = (backend.pool(), backend.name());
            tracing::info!(pool, backend = name, addresses = ?found, "backend resolved");
            backend.set_addresses(found);
            // Idle connections lead to the old addresses.
            backend.idle().clear();
        }
    }

    /// Removes admin addresses from the addresses of a backend.
    fn allowed(&self, backend: &Backend, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let all = addresses.len();
        addresses.retain(|address| !self.admin.is_at(*address));
        if addresses.len() == all {
            self.reported().remove(&backend.serial());
        } else if self.reported().insert(backend.serial()) {
            let (pool, name, address) = (backend.pool(), backend.name(), backend.address());
            tracing::warn!(
                pool,
                backend = name,
                "{address} is an address of `admin`; this address is not used"
            );
        }
        addresses
    }

    fn reported(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts the addresses, and keeps the address in use first as long as the name has it: resolvers rotate
/// addresses, but a session stays on one.
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
    fn the_address_in_use_stays_first_while_the_name_has_it() {
        let [a, b, c] = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|a| a.parse().unwrap());
        assert_eq!(*in_order(vec![c, a, b, a], &[]), [a, b, c]);
        assert_eq!(*in_order(vec![a, b, c], &[b, a]), [b, a, c]);
        assert_eq!(*in_order(vec![a, c], &[b, a]), [a, c]);
    }
}
