//! A reload: load → check → plan → apply, then log and count. On an error nothing changes.
//!
//! - **load** reads the configuration file, and **check** validates it and yields a [`Config`]
//!   ([`config::check`](crate::config::check)). Both run in one blocking task, since only the check finds the
//!   files that must be loaded too. What takes long to get for this configuration is got there too
//!   ([`resources`](super::resources)).
//! - **plan** compares the configuration with the running one, and rejects it if it would disconnect too many
//!   sessions ([`plan`]).
//! - **apply** makes the plan effective with one swap of the snapshot, or changes nothing
//!   ([`apply`](super::apply)).
//!
//! The control task does not wait for load and check: it serves commands and signals meanwhile. One load runs
//! at a time. Requests that arrive during a load share the next one, because files may have changed after
//! this one has read them. A load that takes too long fails its requests, and is applied when it ends after
//! all: no edit is lost.
//!
//! Discovery and commands change the overlay. They need no load and no check: they plan and apply.

use std::{fmt, mem, path::PathBuf, time::Duration};

use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time::Instant,
};

use super::{
    CommandError, ControlTask,
    apply::{ApplyError, Changes},
    commands::ReplySender,
    plan::{self, LimitExceeded},
    resources::Resources,
    unix_now, until,
    watch::Watcher,
};
use crate::{
    api::{Plan, ReloadState},
    config::{
        Config,
        check::{self, Faults},
    },
};

/// Longest time that a request waits for the files of a configuration. A file may be a pipe or on a disk that
/// does not respond.
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

impl ReloadError {
    /// Returns the reply to a command.
    fn reply(&self) -> CommandError {
        let text = self.to_string();
        match self {
            Self::NoFile => CommandError::Invalid(text),
            Self::Limit(_) => CommandError::Conflict(text),
            Self::TimedOut(_) | Self::Load(_) | Self::Faults(_) | Self::Apply(_) => {
                CommandError::Failed(text)
            }
        }
    }
}

/// A loaded and checked configuration with its resources.
pub(super) struct LoadedConfig {
    config: Config,
    resources: Resources,
}

type LoadOutcome = Result<Box<LoadedConfig>, ReloadError>;

/// A request for a reload.
struct PendingReload {
    cause: ReloadCause,
    /// Overrides the limit of the running configuration.
    max_disconnects: Option<u64>,
    reply: Option<ReplySender<Plan>>,
    /// When the request fails if the files are not loaded.
    until: Instant,
}

/// The load in progress, and the requests for the next one.
#[derive(Default)]
pub(super) struct Reloads {
    running: Option<JoinHandle<LoadOutcome>>,
    /// Requests for the load in progress.
    current: Vec<PendingReload>,
    /// Requests for the next load.
    next: Vec<PendingReload>,
    /// A request for the next load has timed out. The files are still loaded again.
    again: bool,
}

/// What happened to a reload.
pub(super) enum ReloadEvent {
    /// The load in progress has ended.
    Loaded(LoadOutcome),
    /// A request has waited too long.
    TimedOut,
}

impl Reloads {
    /// Waits for the end of the load in progress, or until a request has waited too long. Cancel-safe.
    pub(super) async fn event(&mut self) -> ReloadEvent {
        let first = self.current.iter().chain(&self.next).map(|pending| pending.until).min();
        let Some(running) = &mut self.running else { return std::future::pending().await };
        tokio::select! {
            loaded = running => {
                self.running = None;
                ReloadEvent::Loaded(loaded.unwrap_or_else(|error| Err(ReloadError::Load(error))))
            }
            () = until(first) => ReloadEvent::TimedOut,
        }
    }

    /// Removes the requests that have waited too long.
    fn take_expired(&mut self, now: Instant) -> Vec<PendingReload> {
        let expired = |pending: &mut PendingReload| pending.until <= now;
        let mut taken: Vec<_> = self.current.extract_if(.., expired).collect();
        let later: Vec<_> = self.next.extract_if(.., expired).collect();
        self.again |= !later.is_empty();
        taken.extend(later);
        taken
    }
}

impl PendingReload {
    /// Whether the service manager gets to know of the reload.
    fn is_announced(&self) -> bool {
        matches!(self.cause, ReloadCause::FileChange | ReloadCause::Signal)
    }

    /// Whether an operator has requested the reload.
    fn is_requested(&self) -> bool {
        matches!(self.cause, ReloadCause::Signal | ReloadCause::Command)
    }

    fn answer(self, outcome: Result<Plan, CommandError>) {
        if let Some(reply) = self.reply {
            // A failed send means that the client has gone away.
            let _ = reply.send(outcome);
        }
    }
}

impl ControlTask {
    /// Requests a reload of the file. `max_disconnects` overrides the limit of the running configuration.
    pub(super) fn request_reload(
        &mut self,
        cause: ReloadCause,
        max_disconnects: Option<u64>,
        reply: Option<ReplySender<Plan>>,
    ) {
        let until = Instant::now() + LOAD_TIMEOUT;
        let pending = PendingReload { cause, max_disconnects, reply, until };
        if self.file.is_none() {
            pending.answer(Err(ReloadError::NoFile.reply()));
            return;
        }
        if self.reloads.running.is_none() {
            self.start_load(vec![pending]);
            return;
        }
        let known = self.reloads.next.iter().any(|known| known.cause == cause);
        if pending.reply.is_some() || !known {
            self.reloads.next.push(pending);
        }
    }

    /// Loads and checks the file in a separate task. The files that were read are watched from then on.
    fn start_load(&mut self, requests: Vec<PendingReload>) {
        let Some(path) = self.file.clone() else { return };
        if requests.iter().any(PendingReload::is_announced) {
            self.notifier.reloading();
        }
        self.reloads.current = requests;
        self.reloads.again = false;
        let (files, loader) = (self.watcher.as_ref().map(Watcher::files), self.resource_loader());
        let load = move || {
            let check = || check::load(&path).check();
            match files {
                Some(files) => files.watch_checked(check),
                None => check().outcome,
            }
        };
        self.reloads.running = Some(tokio::spawn(async move {
            let checked = spawn_blocking(load).await.map_err(ReloadError::Load)?;
            let config = checked.map_err(ReloadError::Faults)?;
            let resources = loader.load(&config).await?;
            Ok(Box::new(LoadedConfig { config, resources }))
        }));
    }

    /// Ends the reloads that this event concerns, and starts the next load if one was requested.
    pub(super) async fn handle_reload_event(&mut self, event: ReloadEvent) {
        let requests = match event {
            ReloadEvent::Loaded(_) => mem::take(&mut self.reloads.current),
            ReloadEvent::TimedOut => self.reloads.take_expired(Instant::now()),
        };
        let announced = requests.iter().any(PendingReload::is_announced);
        let retry = requests.iter().any(PendingReload::is_requested);
        match event {
            ReloadEvent::Loaded(Ok(loaded)) => self.finish_reloads(*loaded, requests).await,
            ReloadEvent::Loaded(Err(error)) => self.reject_reloads(&error, requests),
            ReloadEvent::TimedOut => {
                let path = self.file.clone().unwrap_or_default();
                self.reject_reloads(&ReloadError::TimedOut(path), requests);
            }
        }
        self.resolver.resolve_all(&self.backends);
        if retry {
            self.acme.retry();
        }
        if announced {
            self.notifier.ready();
        }
        let Reloads { running: None, next, again, .. } = &mut self.reloads else { return };
        if *again || !next.is_empty() {
            let next = mem::take(next);
            self.start_load(next);
        }
    }

    /// Plans and applies the loaded configuration for each of the requests.
    async fn finish_reloads(&mut self, loaded: LoadedConfig, mut requests: Vec<PendingReload>) {
        let LoadedConfig { config, mut resources } = loaded;
        if requests.is_empty() {
            // All of them have timed out. The files count as changed.
            let (cause, until) = (ReloadCause::FileChange, Instant::now());
            requests.push(PendingReload { cause, max_disconnects: None, reply: None, until });
        }
        for pending in requests {
            let resources = mem::take(&mut resources);
            let outcome = self.plan_and_apply(config.clone(), resources, &pending).await;
            match &outcome {
                Ok((changes, plan)) => log_reload(changes, plan),
                Err(error) if pending.cause != ReloadCause::Command => log_rejection(error),
                Err(_) => {}
            }
            let unchanged = matches!(&outcome, Ok((changes, _)) if changes.is_empty());
            // A check for changes that finds none does not count as a reload.
            if pending.is_requested() || !unchanged {
                self.count_reload(unchanged, outcome.as_ref().err());
            }
            pending.answer(outcome.map(|(_, plan)| plan).map_err(|error| error.reply()));
        }
    }

    async fn plan_and_apply(
        &mut self,
        config: Config,
        resources: Resources,
        pending: &PendingReload,
    ) -> Result<(Changes, Plan), ReloadError> {
        let max = pending.max_disconnects.or(self.file_config.reload.max_disconnects);
        let planned = self.plan_file(config).limit_disconnects(max)?;
        let plan = planned.plan.clone();
        let changes = self.apply(planned, resources).await?;
        Ok((changes, plan))
    }

    /// Reports an error to the requests, and logs and counts it once.
    fn reject_reloads(&mut self, error: &ReloadError, requests: Vec<PendingReload>) {
        let commands = !requests.is_empty()
            && requests.iter().all(|pending| pending.cause == ReloadCause::Command);
        if !commands {
            log_rejection(error);
        }
        self.count_reload(false, Some(error));
        for pending in requests {
            pending.answer(Err(error.reply()));
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

fn log_rejection(error: &ReloadError) {
    let error = error.to_string();
    tracing::error!(
        "reload rejected; the running configuration is unchanged: {}",
        error.trim_end()
    );
}
