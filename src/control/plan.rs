//! Plans: what applying a configuration would change, and how many sessions that would disconnect.
//!
//! [`compare`] finds the changes. A plan is made and applied without a pause in the control task, so that
//! the running configuration cannot change in between.

mod compare;

use std::fmt;

use self::compare::RetainedBackend;
pub(super) use self::compare::{backend_at, summary};
use super::{ControlTask, held::HeldCount, overlay::Overlay};
use crate::{
    api::{BackendOrigin, Plan},
    config::{self, Config},
};

/// A configuration that was compared with the running one and can be applied.
pub(super) struct PlannedConfig {
    /// The configuration of the file.
    pub(super) file_config: Config,
    /// What discovery and commands change in it.
    pub(super) overlay: Overlay,
    /// The effective configuration: the file's, with the overlay.
    pub(super) config: Config,
    /// What applying it changes.
    pub(super) plan: Plan,
}

/// A plan that would disconnect too many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitExceeded {
    sessions: u64,
    tunnels: u64,
    max: u64,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, tunnels, max } = self;
        let plural = if *sessions == 1 { "" } else { "s" };
        write!(
            f,
            "rejected: the reload would disconnect {sessions} session{plural} ({tunnels} with a tunnel), \
             and at most {max} may be disconnected"
        )
    }
}

impl std::error::Error for LimitExceeded {}

impl PlannedConfig {
    /// Rejects a plan that would disconnect more than `max` sessions; `None`: no limit.
    pub(super) fn limit_disconnects(self, max: Option<u64>) -> Result<Self, LimitExceeded> {
        let Plan { disconnected_sessions: sessions, disconnected_tunnels: tunnels, .. } = self.plan;
        match max {
            Some(max) if sessions > max => Err(LimitExceeded { sessions, tunnels, max }),
            _ => Ok(self),
        }
    }
}

impl ControlTask {
    /// Plans another configuration of the file. What discovery and commands have changed is kept where
    /// the new file still has the pool.
    pub(super) fn plan_file(&self, file_config: Config) -> PlannedConfig {
        let mut overlay = self.overlay.clone();
        overlay.prune(&file_config);
        self.compare(file_config, overlay)
    }

    /// Plans another overlay on the same file.
    pub(super) fn plan_overlay(&self, overlay: Overlay) -> PlannedConfig {
        self.compare(self.file_config.clone(), overlay)
    }

    fn compare(&self, file_config: Config, overlay: Overlay) -> PlannedConfig {
        let config = overlay.effective(&file_config);
        let held = |pool: &str, backend: &config::BackendConfig| {
            let live = self.backends.iter().find(|live| live.is(pool, backend));
            live.map_or_else(HeldCount::default, |live| self.held(live))
        };
        let at_risk = |pool: &str, backend: &config::BackendConfig| {
            let source = |config: &Config| {
                config.pools.iter().find(|known| known.name == pool)?.source.clone()
            };
            let origin = self.overlay.origin(pool, &backend.name, &backend.address);
            origin == BackendOrigin::Discovered && source(&self.file_config) != source(&file_config)
        };
        let commands = self.overlay.changes_by(&file_config);
        let retained = self.retained_backends();
        let plan = compare::plan(&self.config, &config, &commands, &retained, held, at_risk);
        PlannedConfig { file_config, overlay, config, plan }
    }

    /// Backends that were removed from the configuration and whose sessions continue.
    fn retained_backends(&self) -> Vec<RetainedBackend> {
        let retained = self.backends.iter().filter_map(|backend| {
            self.drains.continues_as(backend.serial())?;
            Some(RetainedBackend {
                pool: backend.pool().to_owned(),
                backend: config::BackendConfig {
                    name: backend.name().to_owned(),
                    address: backend.address().clone(),
                    weight: backend.weight(),
                    backup: backend.is_backup(),
                },
                held: self.held(backend),
                drain: self.drain_config(backend)?,
            })
        });
        retained.collect()
    }
}
