//! What discovery and commands change in the file's configuration.
//!
//! An overlay lasts until the process ends. A reload keeps what belongs to a pool that still exists. Pure:
//! no code here looks at live backends.

mod export;
mod origins;
mod target;

use std::collections::HashMap;

pub(super) use self::target::{check_target, covers, target_name};
use self::{
    origins::Origins,
    target::{find_backend, find_pool},
};
use super::{CommandError, discovery::error::SourceError};
use crate::{
    api::{BackendOrigin, BackendTarget, NewBackend},
    config::{self, BackendConfig, Config, DrainConfig, HEAVIEST, MOST_BACKENDS, valid_name},
};

/// The layers over the file's configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    /// By pool.
    discovered: HashMap<String, DiscoveredBackends>,
    /// Backends added by command, by pool.
    added: HashMap<String, Vec<BackendConfig>>,
    /// Weights set by command, by pool and backend.
    weights: HashMap<(String, String), u32>,
    /// Drains started by command. No drain covers another.
    drains: Vec<RequestedDrain>,
    /// Which layer named each live backend.
    origins: Origins,
}

/// What a pool's source has found.
#[derive(Clone, Debug, Default)]
struct DiscoveredBackends {
    /// The last valid answer.
    backends: Vec<BackendConfig>,
    /// Why the newest answer was not valid.
    error: Option<String>,
}

/// A drain that a command has started.
#[derive(Clone, Debug)]
pub(super) struct RequestedDrain {
    target: BackendTarget,
    /// `None`: no deadline; nothing is closed.
    pub(super) terms: Option<DrainConfig>,
}

/// What a reload does to the effect of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OverlayChange {
    /// The target of the command: `pool/backend`, or something wider.
    pub(super) name: String,
    /// The effect, in a few words.
    pub(super) detail: &'static str,
    /// Whether the effect is kept.
    pub(super) kept: bool,
}

impl Overlay {
    /// Returns the effective configuration: the file's, with these layers.
    pub(super) fn effective(&self, file_config: &Config) -> Config {
        let mut config = file_config.clone();
        for pool in &mut config.pools {
            if pool.source.is_some()
                && let Some(discovered) = self.discovered.get(&pool.name)
            {
                append_missing(&mut pool.backends, &discovered.backends);
            }
            if let Some(added) = self.added.get(&pool.name) {
                append_missing(&mut pool.backends, added);
            }
            for backend in &mut pool.backends {
                let key = (pool.name.clone(), backend.name.clone());
                backend.weight = self.weights.get(&key).copied().unwrap_or(backend.weight);
            }
        }
        config
    }

    /// Removes what does not fit this file: everything of pools that it does not have, and added backends
    /// that it names itself.
    pub(super) fn prune(&mut self, file_config: &Config) {
        let pool = |name: &str| file_config.pools.iter().find(|pool| pool.name == name);
        self.discovered.retain(|name, _| pool(name).is_some_and(|pool| pool.source.is_some()));
        self.added.retain(|name, added| {
            let Some(pool) = pool(name) else { return false };
            added.retain(|new| !pool.backends.iter().any(|backend| collides(backend, new)));
            !added.is_empty()
        });
        self.weights.retain(|(name, _), _| pool(name).is_some());
        self.drains
            .retain(|drain| drain.target.pool.as_deref().is_none_or(|name| pool(name).is_some()));
    }

    /// Records a source's answer. Returns whether the backends have changed.
    pub(super) fn record_answer(
        &mut self,
        pool: String,
        outcome: Result<Vec<BackendConfig>, SourceError>,
    ) -> bool {
        let known = self.discovered.entry(pool).or_default();
        match outcome {
            Ok(backends) => {
                known.error = None;
                let changed = known.backends != backends;
                known.backends = backends;
                changed
            }
            Err(error) => {
                known.error = Some(error.to_string());
                false
            }
        }
    }

    /// Returns the last valid answer of a pool's source.
    pub(super) fn last_good(&self, pool: &str) -> &[BackendConfig] {
        self.discovered.get(pool).map_or(&[], |known| &known.backends)
    }

    /// Returns why a source's newest answer was not valid.
    pub(super) fn source_error(&self, pool: &str) -> Option<&str> {
        self.discovered.get(pool)?.error.as_deref()
    }

    /// Adds a backend to a pool of the effective configuration. Returns its name.
    ///
    /// # Errors
    /// The pool does not exist, it already has the backend, or the new backend is invalid.
    pub(super) fn add(
        &mut self,
        config: &Config,
        pool: &str,
        new: &NewBackend,
    ) -> Result<String, CommandError> {
        let pool = find_pool(config, pool)?;
        let invalid = |wrong: config::check::InvalidValue| CommandError::Invalid(wrong.to_string());
        let address: config::Address = new.address.parse().map_err(invalid)?;
        if address.literal().is_some_and(|address| config.admin.is_at(address)) {
            let wrong = format!("{address} is an address of `admin`");
            return Err(CommandError::Invalid(wrong));
        }
        if address.unix_path().is_some_and(|path| config.admin.is_at_path(path)) {
            return Err(CommandError::Invalid(format!("{address} is the socket of `admin`")));
        }
        if let Some(listener) = config.listeners.iter().find(|own| own.is_at(&address)) {
            let wrong = format!("{address} is an address of listener {}", listener.name);
            return Err(CommandError::Invalid(wrong));
        }
        let name = new.name.clone().unwrap_or_else(|| new.address.clone());
        valid_name(&name).map_err(invalid)?;
        let weight = check_weight(new.weight.unwrap_or(1))?;
        let backup = new.backup;
        let new = BackendConfig { name, address, weight, backup };
        if let Some(known) = pool.backends.iter().find(|known| collides(known, &new)) {
            let (pool, known, address) = (&pool.name, &known.name, &known.address);
            return Err(CommandError::Conflict(format!(
                "pool {pool} already has the backend {known} ({address})"
            )));
        }
        if pool.backends.len() >= MOST_BACKENDS {
            return Err(CommandError::Conflict(format!(
                "a pool has at most {MOST_BACKENDS} backends"
            )));
        }
        self.added.entry(pool.name.clone()).or_default().push(new.clone());
        Ok(new.name)
    }

    /// Removes an added backend.
    ///
    /// # Errors
    /// The backend does not exist, or was not added by command.
    pub(super) fn remove(
        &mut self,
        file_config: &Config,
        config: &Config,
        pool: &str,
        backend: &str,
    ) -> Result<(), CommandError> {
        let is_it = |known: &BackendConfig| known.name == backend;
        if !self.added.get(pool).is_some_and(|added| added.iter().any(is_it)) {
            let known = find_backend(config, pool, backend)?;
            let origin = match self.origin(pool, backend, &known.address) {
                BackendOrigin::Discovered => "the pool's source",
                BackendOrigin::Configured | BackendOrigin::Added => "the configuration",
            };
            return Err(CommandError::Conflict(format!(
                "{pool}/{backend} comes from {origin}; only backends added by command can be removed; \
                 drain it instead"
            )));
        }
        if let Some(added) = self.added.get_mut(pool) {
            added.retain(|known| known.name != backend);
        }
        // If the file or the source names the backend too, it stays, with its weight and drain.
        let remaining = self.effective(file_config);
        if remaining.pools.iter().any(|p| p.name == pool && p.backends.iter().any(is_it)) {
            return Ok(());
        }
        self.weights.remove(&(pool.to_owned(), backend.to_owned()));
        let own = BackendTarget { pool: Some(pool.to_owned()), backend: Some(backend.to_owned()) };
        self.drains.retain(|drain| drain.target != own);
        Ok(())
    }

    /// Sets the weight of a backend.
    ///
    /// # Errors
    /// The backend does not exist, or the weight is out of range.
    pub(super) fn set_weight(
        &mut self,
        config: &Config,
        pool: &str,
        backend: &str,
        weight: u32,
    ) -> Result<(), CommandError> {
        find_backend(config, pool, backend)?;
        let weight = check_weight(weight)?;
        self.weights.insert((pool.to_owned(), backend.to_owned()), weight);
        Ok(())
    }

    /// Starts a drain.
    ///
    /// # Errors
    /// The target does not exist, or is already draining.
    pub(super) fn drain(
        &mut self,
        config: &Config,
        target: BackendTarget,
        terms: Option<DrainConfig>,
    ) -> Result<(), CommandError> {
        check_target(config, &target)?;
        if let Some(known) = self.drain_covering(&target) {
            let known = target_name(&known.target);
            return Err(CommandError::Conflict(format!(
                "{known} is already draining; undrain it first"
            )));
        }
        // A wider drain replaces the narrower ones.
        self.drains.retain(|known| !covers(&target, &known.target));
        self.drains.push(RequestedDrain { target, terms });
        Ok(())
    }

    /// Ends drains that commands have started.
    ///
    /// # Errors
    /// The target does not exist, is not draining, or drains as a part of a wider target.
    pub(super) fn undrain(
        &mut self,
        config: &Config,
        target: &BackendTarget,
    ) -> Result<(), CommandError> {
        // This also works while discovery does not find the backend.
        let before = self.drains.len();
        self.drains.retain(|known| !covers(target, &known.target));
        if self.drains.len() < before {
            return Ok(());
        }
        check_target(config, target)?;
        let name = target_name(target);
        Err(CommandError::Conflict(match self.drain_covering(target) {
            Some(wider) => {
                let wider = target_name(&wider.target);
                format!("{name} drains as a part of {wider}; undrain {wider}")
            }
            None => format!("{name} is not draining"),
        }))
    }

    /// Returns the drain that covers a backend.
    pub(super) fn drain_of(&self, pool: &str, backend: &str) -> Option<&RequestedDrain> {
        let own = BackendTarget { pool: Some(pool.to_owned()), backend: Some(backend.to_owned()) };
        self.drain_covering(&own)
    }

    /// Returns the drain that covers a target.
    pub(super) fn drain_covering(&self, target: &BackendTarget) -> Option<&RequestedDrain> {
        self.drains.iter().find(|known| covers(&known.target, target))
    }

    /// Whether all backends drain by command.
    pub(super) fn drains_all(&self) -> bool {
        self.drains.iter().any(|known| known.target.pool.is_none())
    }

    /// Returns what a reload of this file does to the effects of commands.
    pub(super) fn changes_by(&self, file_config: &Config) -> Vec<OverlayChange> {
        let mut after = self.clone();
        after.prune(file_config);
        let mut changes = Vec::new();
        let mut push = |name, kept, if_kept, if_removed| {
            let detail = if kept { if_kept } else { if_removed };
            changes.push(OverlayChange { name, detail, kept });
        };
        for (pool, added) in &self.added {
            let removed = match file_config.pools.iter().any(|known| known.name == *pool) {
                true => "was added by command; now the file names it",
                false => "was added by command; its pool is removed",
            };
            for backend in added {
                let kept = after.added.get(pool).is_some_and(|list| list.contains(backend));
                let name = format!("{pool}/{}", backend.name);
                push(name, kept, "added by command, until restart", removed);
            }
        }
        let removed = "its pool is removed";
        for key in self.weights.keys() {
            let name = format!("{}/{}", key.0, key.1);
            let kept = after.weights.contains_key(key);
            push(name, kept, "weight set by command, until restart", removed);
        }
        for RequestedDrain { target, .. } in &self.drains {
            let kept = after.drains.iter().any(|known| known.target == *target);
            push(target_name(target), kept, "drains by command, until restart", removed);
        }
        changes.sort_by(|one, other| one.name.cmp(&other.name));
        changes
    }
}

fn check_weight(weight: u32) -> Result<u32, CommandError> {
    match (1..=HEAVIEST).contains(&weight) {
        true => Ok(weight),
        false => Err(CommandError::Invalid(format!("a weight must be from 1 to {HEAVIEST}"))),
    }
}

/// Appends the backends whose name and address are both new.
fn append_missing(backends: &mut Vec<BackendConfig>, more: &[BackendConfig]) {
    for new in more {
        if !backends.iter().any(|known| collides(known, new)) {
            backends.push(new.clone());
        }
    }
}

fn collides(one: &BackendConfig, other: &BackendConfig) -> bool {
    one.name == other.name || one.address == other.address
}

#[cfg(test)]
mod tests;
