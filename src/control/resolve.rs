//! Backends that were given by name.
//!
//! Names are resolved when a backend is added, again every half minute and at each reload. The last
//! good addresses stay in use while a name does not resolve.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use crate::upstream::Backend;

/// How long a reload, or the start, waits for names. What is not resolved by then follows.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most addresses that one name gives; the rest is ignored.
const MAX_ADDRESSES: usize = 16;

/// Resolves the names among `backends` that have no address yet.
pub(super) async fn first(backends: &[Arc<Backend>]) {
    let mut lookups = JoinSet::new();
    for backend in backends.iter().filter(|backend| backend.addresses().is_empty()) {
        lookups.spawn(look_up(Arc::clone(backend)));
    }
    if timeout(PATIENCE, async { while lookups.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("backends' names take long to resolve; serving without those");
        lookups.detach_all();
    }
}

/// Resolves every name again, beside everything else.
pub(super) fn again(backends: &[Arc<Backend>]) {
    for backend in backends.iter().filter(|backend| backend.address().literal().is_none()) {
        tokio::spawn(look_up(Arc::clone(backend)));
    }
}

async fn look_up(backend: Arc<Backend>) {
    let address = backend.address();
    let (pool, name) = (backend.pool(), backend.name());
    match tokio::net::lookup_host((address.host.as_str(), address.port)).await {
        Ok(found) => {
            let found = in_order(found.take(MAX_ADDRESSES).collect(), &backend.addresses());
            if !found.is_empty() && found != backend.addresses() {
                tracing::info!(pool, backend = name, addresses = ?found, "backend resolved");
                backend.set_addresses(found);
                // Kept connections lead to where the name pointed before.
                backend.idle().clear();
            }
        }
        Err(error) => {
            let kept = backend.addresses().len();
            tracing::warn!(pool, backend = name, %error, kept, "backend's name does not resolve");
        }
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
