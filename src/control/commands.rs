//! Runs operators' commands in the control task. A command plans and applies another
//! [`Overlay`], or changes nothing and returns an error.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::sync::oneshot;

use super::{
    CommandError, ControlTask,
    drain::DrainEnd,
    explain,
    leaving::has,
    overlay::{self, Overlay},
    reload::ReloadCause,
    resolve::ResolvedNames,
    resources::Resources,
};
use crate::{
    api::{
        BackendState, BackendTarget, DrainTerms, ExplainRequest, Explanation, NewBackend, Plan,
        ReloadRequest, Status, UpgradeRequest, Upgraded,
    },
    config::{self, Config},
    upstream::{Backend, Lifecycle},
};

/// Maximum of a drain's times in seconds, as for the durations of the file.
const LONGEST_DRAIN: f64 = 400.0 * 86_400.0;

/// Receives the reply of a command.
pub(super) type ReplySender<T> = oneshot::Sender<Result<T, CommandError>>;

/// A command or query for the control task.
#[derive(Debug)]
pub enum ControlCommand {
    /// Return the state of the process.
    Status(ReplySender<Status>),
    /// Add a backend, whose name was looked up, to a pool.
    Add(String, NewBackend, ResolvedNames, ReplySender<BackendState>),
    /// Remove an added backend from a pool.
    Remove(String, String, ReplySender<BackendState>),
    /// Set the weight of a backend of a pool.
    Weight(String, String, u32, ReplySender<BackendState>),
    /// Start a drain.
    Drain(BackendTarget, DrainTerms, ReplySender<Vec<BackendState>>),
    /// End a drain.
    Undrain(BackendTarget, ReplySender<Vec<BackendState>>),
    /// Reload the file.
    Reload(ReloadRequest, ReplySender<Plan>),
    /// Plan this configuration of the file.
    Plan(Box<Config>, ReplySender<Plan>),
    /// Explain which backend a request would go to.
    Explain(ExplainRequest, ReplySender<Explanation>),
    /// Return the effective configuration.
    Config(ReplySender<Box<Config>>),
    /// Hand over to a new binary. The reply follows when the new process serves or has failed.
    Upgrade(UpgradeRequest, ReplySender<Upgraded>),
}

impl ControlTask {
    /// Runs a command and sends its reply.
    pub(super) async fn run_command(&mut self, command: ControlCommand) {
        let Some(command) = self.reject_during_handoff(command) else { return };
        // A failed send means that the client has gone away.
        match command {
            ControlCommand::Status(reply) => drop(reply.send(Ok(self.status()))),
            ControlCommand::Add(pool, new, names, reply) => {
                drop(reply.send(self.add(&pool, &new, names).await));
            }
            ControlCommand::Remove(pool, name, reply) => {
                drop(reply.send(self.remove(&pool, &name).await));
            }
            ControlCommand::Weight(pool, name, weight, reply) => {
                drop(reply.send(self.set_weight(&pool, &name, weight).await));
            }
            ControlCommand::Drain(target, terms, reply) => {
                drop(reply.send(self.drain(target, terms).await));
            }
            ControlCommand::Undrain(target, reply) => {
                drop(reply.send(self.undrain(&target).await));
            }
            ControlCommand::Reload(request, reply) => {
                self.request_reload(ReloadCause::Command, request.max_disconnects, Some(reply));
            }
            ControlCommand::Plan(file_config, reply) => {
                drop(reply.send(Ok(self.plan_file(*file_config).plan)));
            }
            ControlCommand::Explain(request, reply) => {
                let outcome = explain::explain(&self.proxy, &request, &self.listener_states());
                let invalid =
                    |error: explain::ExplainError| CommandError::Invalid(error.to_string());
                drop(reply.send(outcome.map_err(invalid)));
            }
            ControlCommand::Upgrade(request, reply) => self.upgrade(&request, reply),
            ControlCommand::Config(reply) => drop(reply.send(Ok(Box::new(self.config.clone())))),
        }
    }

    async fn add(
        &mut self,
        pool: &str,
        new: &NewBackend,
        names: ResolvedNames,
    ) -> Result<BackendState, CommandError> {
        let mut overlay = self.overlay.clone();
        let name = overlay.add(&self.config, pool, new)?;
        let planned = self.plan_overlay(overlay);
        let resources = Resources { names, ..Resources::default() };
        let outcome = self.apply(planned, resources).await;
        outcome.map_err(|error| CommandError::Failed(error.to_string()))?;
        self.backend_state(pool, &name)
    }

    async fn remove(&mut self, pool: &str, name: &str) -> Result<BackendState, CommandError> {
        let mut overlay = self.overlay.clone();
        overlay.remove(&self.file_config, &self.config, pool, name)?;
        self.apply_overlay(overlay).await?;
        self.backend_state(pool, name)
    }

    async fn set_weight(
        &mut self,
        pool: &str,
        name: &str,
        weight: u32,
    ) -> Result<BackendState, CommandError> {
        let mut overlay = self.overlay.clone();
        overlay.set_weight(&self.config, pool, name, weight)?;
        self.apply_overlay(overlay).await?;
        self.backend_state(pool, name)
    }

    async fn drain(
        &mut self,
        target: BackendTarget,
        terms: DrainTerms,
    ) -> Result<Vec<BackendState>, CommandError> {
        let terms = drain_config(terms)?;
        let mut overlay = self.overlay.clone();
        overlay.drain(&self.config, target.clone(), terms)?;
        self.apply_overlay(overlay).await?;
        // A node drains as a whole: removed backends with its address drain too.
        let removed = self.backends.iter().filter(|backend| {
            let other = self.drains.continues_as(backend.serial());
            !self.is_empty(backend) && other.is_some_and(|other| overlay::covers(&target, other))
        });
        let mut states = self.states(&target);
        for state in removed.map(|backend| self.state_of(backend)) {
            if !states.iter().any(|known| (&known.pool, &known.name) == (&state.pool, &state.name))
            {
                states.push(state);
            }
        }
        Ok(states)
    }

    /// Ends drains. Returns the backends that no longer drain.
    async fn undrain(&mut self, target: &BackendTarget) -> Result<Vec<BackendState>, CommandError> {
        let mut overlay = self.overlay.clone();
        overlay.undrain(&self.config, target)?;
        let drains = |control: &Self, backend: &Backend| {
            control.drains.end_of(backend.serial()) == Some(DrainEnd::Stay)
        };
        let before: Vec<_> =
            self.backends.iter().filter(|backend| drains(self, backend)).cloned().collect();
        self.apply_overlay(overlay).await?;
        let ended = before.iter().filter(|backend| !drains(self, backend));
        Ok(ended.map(|backend| self.state_of(backend)).collect())
    }

    /// Plans and applies another overlay.
    async fn apply_overlay(&mut self, overlay: Overlay) -> Result<(), CommandError> {
        let planned = self.plan_overlay(overlay);
        let outcome = self.apply(planned, Resources::default()).await;
        outcome.map(|_| ()).map_err(|error| CommandError::Failed(error.to_string()))
    }

    /// Starts and ends the drains of backends as the overlay requests.
    pub(super) async fn apply_drains(&mut self) {
        for backend in &self.backends {
            if !has(&self.config, backend) {
                if let Some(other) = self.drains.continues_as(backend.serial()) {
                    let requested = self.overlay.drain_covering(other);
                    let terms = requested.and_then(|requested| requested.terms);
                    self.drains.drain_with_same_address(backend, &self.proxy, terms);
                }
                continue;
            }
            match self.overlay.drain_of(backend.pool(), backend.name()) {
                Some(requested) => {
                    self.drains.start(backend, &self.proxy, requested.terms, DrainEnd::Stay);
                }
                None => {
                    self.drains.cancel(backend.serial(), DrainEnd::Stay).await;
                    backend.set_lifecycle(Lifecycle::Serving);
                }
            }
        }
        self.proxy.not_ready.store(self.overlay.drains_all(), Ordering::Release);
        self.send_directives();
    }

    fn backend_state(&self, pool: &str, name: &str) -> Result<BackendState, CommandError> {
        let target = BackendTarget { pool: Some(pool.to_owned()), backend: Some(name.to_owned()) };
        let missing = || {
            let name = overlay::target_name(&target);
            CommandError::NotFound(format!("there is no backend {name} any more"))
        };
        self.states(&target).pop().ok_or_else(missing)
    }
}

/// Checks the terms of a drain. `None`: no deadline.
fn drain_config(terms: DrainTerms) -> Result<Option<config::DrainConfig>, CommandError> {
    let span = |name: &str, seconds: f64| match (0.0..=LONGEST_DRAIN).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(CommandError::Invalid(format!(
            "`{name}` must be from 0 to {LONGEST_DRAIN} seconds"
        ))),
    };
    let Some(within) = terms.within else {
        return match terms.spread {
            None => Ok(None),
            Some(_) => Err(CommandError::Invalid(
                "`spread` has no effect without a deadline; set `within` too".to_owned(),
            )),
        };
    };
    let mut drain = config::DrainConfig::within(span("within", within)?);
    if let Some(spread) = terms.spread {
        drain.spread = span("spread", spread)?;
    }
    match drain.spread <= drain.within {
        true => Ok(Some(drain)),
        false => Err(CommandError::Invalid(format!(
            "`spread` ({}) is longer than `within` ({}); set a shorter `spread`",
            humantime::format_duration(drain.spread),
            humantime::format_duration(drain.within)
        ))),
    }
}
