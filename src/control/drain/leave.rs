//! The drain of a backend that has left the configuration.

use std::sync::Arc;

use super::{DrainEnd, Drains};
use crate::{api::BackendTarget, config::DrainConfig, shared::SharedState, upstream::Backend};

impl Drains {
    /// Drains a backend that the configuration no longer has; whether that begins now. While the
    /// configuration has the same address elsewhere, the sessions go on. `terms` count from the moment
    /// when it has not.
    pub(in crate::control) fn leave(
        &mut self,
        backend: &Arc<Backend>,
        proxy: &Arc<SharedState>,
        terms: DrainConfig,
        goes_on_as: Option<BackendTarget>,
    ) -> bool {
        let serial = backend.serial();
        let before = self.running.get_mut(&serial).filter(|running| running.end == DrainEnd::Goes);
        let begins = before.is_none();
        if let Some(running) = before {
            let was_spared = std::mem::replace(&mut running.goes_on_as, goes_on_as.clone());
            if was_spared.is_some() == goes_on_as.is_some() {
                return false;
            }
        }
        let (pool, name) = (backend.pool(), backend.name());
        match &goes_on_as {
            Some(other) => {
                tracing::info!(pool, backend = name, %other, "backend left; its sessions go on as other");
            }
            None if !begins => {
                let within = humantime::format_duration(terms.within);
                tracing::info!(pool, backend = name, %within, "address has left the configuration too; backend drains");
            }
            None => {}
        }
        self.start(backend, proxy, goes_on_as.is_none().then_some(terms), DrainEnd::Goes);
        if let Some(running) = self.running.get_mut(&serial) {
            running.goes_on_as = goes_on_as;
        }
        begins
    }

    /// Drains a backend that has left by an order for the one as which it goes on: both are one node.
    /// `terms` are those of the order; `None`: there is none, or nothing is to be closed.
    pub(in crate::control) fn leave_as_ordered(
        &mut self,
        backend: &Arc<Backend>,
        proxy: &Arc<SharedState>,
        terms: Option<DrainConfig>,
    ) {
        let goes_on_as = self.goes_on_as(backend.serial()).cloned();
        self.start(backend, proxy, terms, DrainEnd::Goes);
        if let Some(running) = self.running.get_mut(&backend.serial()) {
            running.goes_on_as = goes_on_as;
        }
    }

    /// Under which name the configuration has the address of a backend that has left it.
    pub(in crate::control) fn goes_on_as(&self, serial: u64) -> Option<&BackendTarget> {
        self.running.get(&serial)?.goes_on_as.as_ref()
    }
}
