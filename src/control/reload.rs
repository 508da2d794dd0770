//! Reading the configuration file again and putting it in force.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    CommandError, ControlTask,
    apply::Changes,
    plan, unix_now,
    watch::{WatchedFiles, Watcher},
};
use crate::{
    api::{Plan, ReloadState},
    config::{Config, check},
};

/// Longest time that reading the configuration's files may take: one may be a pipe, or on a disk that
/// is gone, and a signal to stop must not wait behind it.
pub(super) const LOAD: Duration = Duration::from_secs(10);

/// Why the file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReloadCause {
    /// The process has just started.
    Start,
    /// A watched file has changed.
    Change,
    /// An operator wants it.
    Command,
}

impl ControlTask {
    /// Reads the file and applies it, and the service manager knows.
    pub(super) async fn reload(&mut self, cause: ReloadCause) {
        if self.file.is_some() {
            self.notifier.reloading();
            self.read_again(cause).await;
            self.notifier.ready();
        }
    }

    /// Reads the file and applies it. A faulty one is told, with every fault, and changes nothing.
    pub(super) async fn read_again(&mut self, cause: ReloadCause) {
        let outcome = match self.read().await {
            Ok(config) => self.put_in(config, None).await,
            Err(faults) => Err(CommandError::Failed(faults)),
        };
        let outcome = outcome.map_err(|denied| denied.to_string());
        let nothing = outcome.as_ref().map(|(changes, _)| changes.is_empty());
        // What nobody ordered and what changes nothing is no reload.
        if cause == ReloadCause::Command || nothing != Ok(true) {
            self.note_reload(nothing);
        }
        match outcome {
            Ok((changes, plan)) => log_reload(&changes, &plan),
            Err(faults) => {
                tracing::error!(
                    "reload refused; the configuration in force stays: {}",
                    faults.trim_end()
                );
            }
        }
        self.resolver.again(&self.backends);
    }

    /// The file as it is now, checked. Its files are watched from then on, by new watches.
    pub(super) async fn read(&mut self) -> Result<Config, String> {
        let Some(path) = self.file.clone() else {
            return Err(
                "this process runs from flags, so that there is no file to reload".to_owned()
            );
        };
        let shown = path.display().to_string();
        // Files are read outside the runtime: a slow disk must not delay a request.
        let files = self.watcher.as_ref().map(Watcher::files);
        let watched = files.clone();
        let mut loading = tokio::task::spawn_blocking(move || match files {
            Some(files) => files.watch_checked(|| check::load(&path).check()),
            None => check::file(&path),
        });
        match timeout(LOAD, &mut loading).await {
            Ok(loaded) => {
                watched.inspect(WatchedFiles::was_in_time);
                loaded.map_err(|error| error.to_string())?.map_err(|faults| faults.to_string())
            }
            Err(_) => {
                // The watches take what it reads as known, although nobody applies it.
                tokio::spawn(async move {
                    if loading.await.is_ok() {
                        watched.inspect(WatchedFiles::was_late);
                    }
                });
                Err(format!(
                    "{shown}: reading the file and the files that it names takes too long; is one of them on a slow disk?"
                ))
            }
        }
    }

    /// Applies what the file says, unless more sessions would be disconnected than `most`, or than the
    /// configuration in force allows.
    pub(super) async fn put_in(
        &mut self,
        file_config: Config,
        most: Option<u64>,
    ) -> Result<(Changes, Plan), CommandError> {
        let plan = self.plan_for(&file_config);
        let would = plan.disconnected_sessions;
        if let Some(most) =
            most.or(self.file_config.reload.max_disconnects).filter(|most| would > *most)
        {
            let plural = if would == 1 { "" } else { "s" };
            let tunnels = plan.disconnected_tunnels;
            return Err(CommandError::Conflict(format!(
                "refused: the reload would disconnect {would} session{plural} ({tunnels} with a \
                 tunnel), and at most {most} may be disconnected"
            )));
        }
        match self.apply(file_config).await {
            Ok(changes) => Ok((changes, plan)),
            Err(error) => Err(CommandError::Failed(error.to_string())),
        }
    }

    pub(super) fn note_reload(&mut self, outcome: Result<bool, &String>) {
        let metrics = &self.proxy.metrics;
        let error = match outcome {
            Ok(true) => None,
            Ok(false) => {
                metrics.reloads_ok.inc();
                None
            }
            Err(faults) => {
                metrics.reloads_refused.inc();
                Some(faults.clone())
            }
        };
        self.reload = Some(ReloadState { at: unix_now(), error });
    }
}

/// Logs what a reload has changed.
pub(super) fn log_reload(changes: &Changes, plan: &Plan) {
    match changes.is_empty() {
        true => tracing::debug!("reloaded: nothing changed"),
        false => tracing::info!(changes = plan::summary(plan), "reloaded"),
    }
}
