//! The target of a command: `POOL`, `POOL/BACKEND` or `--all`.

use std::fmt;

use crate::api::BackendTarget;

/// Arguments that select the target of a command.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct TargetArgs {
    /// A pool, or one backend of the pool
    #[arg(value_name = "POOL[/BACKEND]", value_parser = parse)]
    pub target: Option<BackendTarget>,
    /// All backends of all pools
    #[arg(long)]
    pub all: bool,
}

impl TargetArgs {
    /// Returns the target; with `--all`, all backends.
    pub(super) fn into_target(self) -> BackendTarget {
        self.target.unwrap_or_default()
    }
}

/// A text that is neither `POOL` nor `POOL/BACKEND`.
#[derive(Debug)]
pub(super) struct InvalidTarget;

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write it as POOL or POOL/BACKEND, for example chat/blue-2")
    }
}

impl std::error::Error for InvalidTarget {}

/// Parses `POOL` or `POOL/BACKEND`.
pub(super) fn parse(typed: &str) -> Result<BackendTarget, InvalidTarget> {
    let (pool, backend) = match typed.split_once('/') {
        Some((pool, backend)) => (pool, Some(backend)),
        None => (typed, None),
    };
    if pool.is_empty() || backend == Some("") {
        return Err(InvalidTarget);
    }
    Ok(BackendTarget { pool: Some(pool.to_owned()), backend: backend.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_pools_or_backends() {
        assert_eq!(parse("chat").unwrap().to_string(), "chat");
        let target = parse("chat/[::1]:3000").unwrap();
        assert_eq!(target.backend.as_deref(), Some("[::1]:3000"));
        for bad in ["", "/", "/x", "chat/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
