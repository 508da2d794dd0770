//! A backend that has left the configuration: it takes no new session and keeps the ones it has,
//! until they end or its deadline passes.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, interval};

use crate::{
    http::proxy::Proxy,
    upstream::{Backend, Life},
};

/// How often a retiring backend is looked at. Nobody waits for its end but the books.
const LOOK: Duration = Duration::from_millis(250);

/// A backend may hold sessions that this process has never heard of, from before a restart or through
/// another proxy. Clients that are alive show them within a poll.
const LINGER: Duration = Duration::from_secs(60);

/// Waits for the backend's sessions and tunnels, cuts what is left at the deadline, and takes it out
/// of service. Aborted where the backend is wanted again.
pub(super) fn retire(
    backend: Arc<Backend>,
    proxy: &Arc<Proxy>,
    deadline: Duration,
) -> impl Future<Output = ()> + Send + use<> {
    let proxy = Arc::clone(proxy);
    async move {
        let (pool, name) = (backend.pool().to_owned(), backend.name().to_owned());
        tracing::info!(pool, backend = name, sessions = backend.sessions(), "backend retires");
        let start = Instant::now();
        let until = start + deadline;
        let linger = start + deadline.min(LINGER);
        let mut look = interval(LOOK);
        loop {
            let now = Instant::now();
            let idle = now >= linger && !is_used(&backend, &proxy);
            // Renamed or moved to another pool, it serves on: its sessions need not end.
            if idle || (now >= until && !is_elsewhere(&backend, &proxy)) {
                break;
            }
            tokio::select! {
                _ = look.tick() => {}
                () = tokio::time::sleep_until(until), if now < until => {}
            }
        }
        backend.set_life(Life::Gone);
        let sessions = proxy.sids.forget_backend(&backend);
        let tunnels = proxy.tunnels.cut(backend.serial());
        tracing::info!(
            pool,
            backend = name,
            sessions,
            tunnels,
            "backend retired; cut what was left"
        );
    }
}

/// Whether the configuration in force has the same address under another name or in another pool.
fn is_elsewhere(backend: &Backend, proxy: &Proxy) -> bool {
    let snapshot = proxy.snapshot.load();
    let mut all = snapshot.pools.iter().flat_map(|pool| pool.upstream.backends());
    all.any(|other| other.address() == backend.address())
}

fn is_used(backend: &Backend, proxy: &Proxy) -> bool {
    backend.sessions() > 0 || backend.requests() > 0 || proxy.tunnels.of(backend.serial()) > 0
}
