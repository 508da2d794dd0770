//! Targets of commands: a backend, a pool or everything.

use super::CommandError;
use crate::{
    api::BackendTarget,
    config::{BackendConfig, Config, PoolConfig},
};

/// Maximum number of backends that a message names.
const MOST_NAMES: usize = 10;

/// Returns the name of a target in messages.
pub(in crate::control) fn target_name(target: &BackendTarget) -> String {
    match (&target.pool, &target.backend) {
        (None, _) => "everything".to_owned(),
        (Some(pool), None) => format!("pool {pool}"),
        (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
    }
}

/// Whether `wide` includes all of `narrow`.
pub(in crate::control) fn covers(wide: &BackendTarget, narrow: &BackendTarget) -> bool {
    let within = |wide: &Option<String>, narrow: &Option<String>| wide.is_none() || wide == narrow;
    within(&wide.pool, &narrow.pool) && within(&wide.backend, &narrow.backend)
}

/// Checks that a configuration has this target.
///
/// # Errors
/// The target is invalid, or the configuration does not have it.
pub(in crate::control) fn check_target(
    config: &Config,
    target: &BackendTarget,
) -> Result<(), CommandError> {
    match (&target.pool, &target.backend) {
        (None, None) => Ok(()),
        (None, Some(_)) => {
            Err(CommandError::Invalid("the name of a backend needs its pool too".to_owned()))
        }
        (Some(pool), None) => find_pool(config, pool).map(|_| ()),
        (Some(pool), Some(backend)) => find_backend(config, pool, backend).map(|_| ()),
    }
}

/// Returns the pool of this name.
///
/// # Errors
/// The configuration has no such pool.
pub(super) fn find_pool<'c>(
    config: &'c Config,
    pool: &str,
) -> Result<&'c PoolConfig, CommandError> {
    let known = config.pools.iter().find(|known| known.name == pool);
    known.ok_or_else(|| {
        let names: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
        CommandError::NotFound(format!("there is no pool {pool}; there are: {}", names.join(", ")))
    })
}

/// Returns the backend of this name.
///
/// # Errors
/// The configuration has no such pool or backend.
pub(super) fn find_backend<'c>(
    config: &'c Config,
    pool: &str,
    backend: &str,
) -> Result<&'c BackendConfig, CommandError> {
    let backends = &find_pool(config, pool)?.backends;
    let known = backends.iter().find(|known| known.name == backend);
    known.ok_or_else(|| {
        let mut names: Vec<&str> =
            backends.iter().map(|known| known.name.as_str()).take(MOST_NAMES).collect();
        if backends.len() > MOST_NAMES {
            names.push("…");
        }
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CommandError::NotFound(format!("pool {pool} has no backend {backend}; it has: {names}"))
    })
}
