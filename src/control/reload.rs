//! A reload: load → check → plan → apply, then log and count. On an error nothing changes.
//!
//! - **load** reads the configuration file, and **check** validates it and yields a [`Config`]
//!   ([`config::check`](crate::config::check)). Both run in one blocking task, since only the check finds the
//!   files that must be loaded too.
//! - **plan** compares the configuration with the running one, and rejects it if it would disconnect too many
//!   sessions ([`plan`]).
//! - **apply** makes the plan effective with one swap of the snapshot, or changes nothing
//!   ([`apply`](super::apply)).
//!
//! Discovery and commands change the overlay. They need no load and no check: they plan and apply.

use std::{fmt, path::PathBuf, time::Duration};

use tokio::{task::JoinError, time::timeout};

use super::{
    CommandError, ControlTask,
    apply::{ApplyError, Changes},
    plan::{self, LimitExceeded},
    unix_now,
    watch::{WatchedFiles, Watcher},
};
use crate::{
    api::{Plan, ReloadState},
    config::{
        Config,
        check::{self, Faults},
    },
};

/// Longest time to load the files of a configuration. A file may be a pipe or on a disk that does not
/// respond, and a shutdown must not wait for it.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What caused a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReloadCause {
    /// The process has just started.
    Start,
    /// A watched file has changed.
    FileChange,
    /// SIGHUP.
    Signal,
    /// A command, which gets the outcome as its reply.
    Command,
}

/// Why a reload has changed nothing.
#[derive(Debug)]
pub(super) enum ReloadError {
    /// The process runs from flags, without a file.
    NoFile,
    /// Loading the files took too long.
    TimedOut(PathBuf),
    /// The task that loads the files failed.
    Load(JoinError),
    /// The configuration has faults.
    Faults(Faults),
    /// The reload would disconnect too many sessions.
    Limit(LimitExceeded),
    /// The configuration could not be applied.
    Apply(ApplyError),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str(
                "this process runs from flags, not from a file; there is nothing to reload",
            ),
            Self::TimedOut(path) => write!(
                f,
                "{}: reading the file and the files that it names takes too long; is one of them on a slow \
                 disk?",
                path.display()
            ),
            Self::Load(error) => write!(f, "{error}"),
            Self::Faults(faults) => write!(f, "{faults}"),
            Self::Limit(exceeded) => write!(f, "{exceeded}"),
            Self::Apply(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ReloadError {}

impl From<LimitExceeded> for ReloadError {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::Limit(exceeded)
    }
}

impl From<ApplyError> for ReloadError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error)
    }
}

impl From<ReloadError> for CommandError {
    fn from(error: ReloadError) -> Self {
        let text = error.to_string();
        match error {
            ReloadError::NoFile => Self::Invalid(text),
            ReloadError::Limit(_) => Self::Conflict(text),
            ReloadError::TimedOut(_)
            | ReloadError::Load(_)
            | ReloadError::Faults(_)
            | ReloadError::Apply(_) => Self::Failed(text),
        }
    }
}

impl ControlTask {
    /// Reloads the file, and keeps the service manager informed. No effect without a file.
    pub(super) async fn reload_and_notify(&mut self, cause: ReloadCause) {
        if self.file.is_some() {
            self.notifier.reloading();
            let _ = self.reload(cause, None).await;
            self.notifier.ready();
        }
    }

    /// Loads, checks, plans and applies the file, then logs and counts the reload. `max_disconnects`
    /// overrides the limit of the running configuration.
    ///
    /// # Errors
    /// The reload was rejected; nothing has changed.
    pub(super) async fn reload(
        &mut self,
        cause: ReloadCause,
        max_disconnects: Option<u64>,
    ) -> Result<Plan, ReloadError> {
        if self.file.is_none() {
            return Err(ReloadError::NoFile);
        }
        let outcome = self.load_and_apply(max_disconnects).await;
        match &outcome {
            Ok((changes, plan)) => log_reload(changes, plan),
            Err(_) if cause == ReloadCause::Command => {}
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    "reload rejected; the running configuration is unchanged: {}",
                    error.trim_end()
                );
            }
        }
        let requested = matches!(cause, ReloadCause::Signal | ReloadCause::Command);
        let unchanged = matches!(&outcome, Ok((changes, _)) if changes.is_empty());
        // A check for changes that finds none does not count as a reload.
        if requested || !unchanged {
            self.count_reload(unchanged, outcome.as_ref().err());
        }
        self.resolver.resolve_all(&self.backends);
        outcome.map(|(_, plan)| plan)
    }

    async fn load_and_apply(
        &mut self,
        max_disconnects: Option<u64>,
    ) -> Result<(Changes, Plan), ReloadError> {
        let config = self.load_and_check().await?;
        let max = max_disconnects.or(self.file_config.reload.max_disconnects);
        let planned = self.plan_file(config).limit_disconnects(max)?;
        let plan = planned.plan.clone();
        let changes = self.apply(planned).await?;
        Ok((changes, plan))
    }

    /// Loads and checks the file. The files that were read are watched from then on.
    async fn load_and_check(&mut self) -> Result<Config, ReloadError> {
        let Some(path) = self.file.clone() else { return Err(ReloadError::NoFile) };
        let files = self.watcher.as_ref().map(Watcher::files);
        let (watched, shown) = (files.clone(), path.clone());
        // A slow disk must not delay a request.
        let mut loading = tokio::task::spawn_blocking(move || {
            let check = || check::load(&path).check();
            match files {
                Some(files) => files.watch_checked(check),
                None => check().outcome,
            }
        });
        match timeout(LOAD_TIMEOUT, &mut loading).await {
            Ok(checked) => {
                watched.inspect(WatchedFiles::was_in_time);
                checked.map_err(ReloadError::Load)?.map_err(ReloadError::Faults)
            }
            Err(_) => {
                // The watcher takes these contents as known, but they are not applied.
                tokio::spawn(async move {
                    if loading.await.is_ok() {
                        watched.inspect(WatchedFiles::was_late);
                    }
                });
                Err(ReloadError::TimedOut(shown))
            }
        }
    }

    fn count_reload(&mut self, unchanged: bool, error: Option<&ReloadError>) {
        let metrics = &self.proxy.metrics;
        match error {
            Some(_) => _ = metrics.reloads_refused.inc(),
            None if unchanged => {}
            None => _ = metrics.reloads_ok.inc(),
        }
        self.reload =
            Some(ReloadState { at: unix_now(), error: error.map(ReloadError::to_string) });
    }
}

fn log_reload(changes: &Changes, plan: &Plan) {
    match changes.is_empty() {
        true => tracing::debug!("reloaded: nothing changed"),
        false => tracing::info!(changes = plan::summary(plan), "reloaded"),
    }
}
