//! The drain of a backend that has left the configuration.

use std::sync::Arc;

use super::{DrainEnd, Drains};
use crate::{api::BackendTarget, config::DrainConfig, shared::SharedState, upstream::Backend};

impl Drains {
    /// Drains a backend that has left the configuration; returns whether the drain begins now. While another
    /// backend of the configuration has the same address (`continues_as`), nothing is closed; the deadline of
    /// `config` counts from the time when that backend has left too.
    pub(in crate::control) fn leave(
        &mut self,
        backend: &Arc<Backend>,
        proxy: &Arc<SharedState>,
        config: DrainConfig,
        continues_as: Option<BackendTarget>,
    ) -> bool {
        let serial = backend.serial();
        let running =
            self.running.get_mut(&serial).filter(|running| running.end == DrainEnd::Remove);
        let begins = running.is_none();
        if let Some(running) = running {
            let previous = std::mem::replace(&mut running.continues_as, continues_as.clone());
            if previous.is_some() == continues_as.is_some() {
                return false;
            }
        }
        let (pool, name) = (backend.pool(), backend.name());
        match &continues_as {
            Some(other) => {
                tracing::info!(pool, backend = name, %other, "backend left the configuration; its sessions stay, because `other` has its address");
            }
            None if !begins => {
                let within = humantime::format_duration(config.within);
                tracing::info!(pool, backend = name, %within, "the backend's address left the configuration too; backend drains");
            }
            None => {}
        }
        self.start(backend, proxy, continues_as.is_none().then_some(config), DrainEnd::Remove);
        if let Some(running) = self.running.get_mut(&serial) {
            running.continues_as = continues_as;
        }
        begins
    }

    /// Drains a backend that has left the configuration together with the backend that has its address: both
    /// are one server. `config` is that of the operator's drain; `None`: there is no such drain, or it
    /// closes nothing.
    pub(in crate::control) fn drain_with_same_address(
        &mut self,
        backend: &Arc<Backend>,
        proxy: &Arc<SharedState>,
        config: Option<DrainConfig>,
    ) {
        let continues_as = self.continues_as(backend.serial()).cloned();
        self.start(backend, proxy, config, DrainEnd::Remove);
        if let Some(running) = self.running.get_mut(&backend.serial()) {
            running.continues_as = continues_as;
        }
    }

    /// Returns the backend of the configuration that has the address of a removed backend.
    pub(in crate::control) fn continues_as(&self, serial: u64) -> Option<&BackendTarget> {
        self.running.get(&serial)?.continues_as.as_ref()
    }
}
