//! Operators' orders, carried out by the control task: each changes the [`Overlay`](super::Overlay)
//! and puts the outcome in force, or changes nothing and says why.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    CommandError, ControlTask,
    count::HeldCount,
    drain::DrainEnd,
    explain,
    leaving::has,
    overlay::{self, Overlay},
    plan,
    reload::log_reload,
};
use crate::{
    api::{
        BackendOrigin, BackendState, BackendTarget, DrainTerms, ExplainRequest, Explanation,
        NewBackend, Plan, ReloadRequest, Status, UpgradeRequest, Upgraded,
    },
    config::{self, Config},
    upstream::{Backend, Lifecycle},
};

/// Longest drain that can be ordered: as long as any duration of the file.
const LONGEST: f64 = 400.0 * 86_400.0;

/// Where an order's outcome goes.
type ReplySender<T> = oneshot::Sender<Result<T, CommandError>>;

/// An order, or a question that only the control task can answer.
#[derive(Debug)]
pub enum ControlCommand {
    /// Everything in the process.
    Status(ReplySender<Status>),
    /// Add a backend to a pool.
    Add(String, NewBackend, ReplySender<BackendState>),
    /// Take an added backend out of a pool.
    Remove(String, String, ReplySender<BackendState>),
    /// Give a backend of a pool another weight.
    Weight(String, String, u32, ReplySender<BackendState>),
    /// Drain.
    Drain(BackendTarget, DrainTerms, ReplySender<Vec<BackendState>>),
    /// Drain no more.
    Undrain(BackendTarget, ReplySender<Vec<BackendState>>),
    /// Read the file and put it in force.
    Reload(ReloadRequest, ReplySender<Plan>),
    /// Say what putting this in force would do.
    Plan(Box<Config>, ReplySender<Plan>),
    /// Say who would serve a request.
    Explain(ExplainRequest, ReplySender<Explanation>),
    /// The configuration in force.
    Config(ReplySender<Box<Config>>),
    /// Hand over to a new binary; answered once that one serves, or has failed to.
    Upgrade(UpgradeRequest, ReplySender<Upgraded>),
}

impl ControlTask {
    /// Carries an order out. Nobody need wait for the outcome any more.
    pub(super) async fn run_command(&mut self, order: ControlCommand) {
        let Some(order) = self.reject_during_handoff(order) else { return };
        match order {
            ControlCommand::Status(answer) => drop(answer.send(Ok(self.status()))),
            ControlCommand::Add(pool, new, answer) => {
                drop(answer.send(self.add(&pool, &new).await))
            }
            ControlCommand::Remove(pool, name, answer) => {
                drop(answer.send(self.remove(&pool, &name).await))
            }
            ControlCommand::Weight(pool, name, weight, answer) => {
                drop(answer.send(self.give_weight(&pool, &name, weight).await));
            }
            ControlCommand::Drain(what, how, answer) => {
                drop(answer.send(self.drain(what, how).await))
            }
            ControlCommand::Undrain(what, answer) => drop(answer.send(self.undrain(&what).await)),
            ControlCommand::Reload(order, answer) => {
                drop(answer.send(self.reload_as_ordered(order).await))
            }
            ControlCommand::Plan(file_config, answer) => {
                drop(answer.send(Ok(self.plan_for(&file_config))))
            }
            ControlCommand::Explain(order, answer) => {
                let outcome = explain::explain(&self.proxy, &order, &self.listener_states());
                let invalid =
                    |error: explain::ExplainError| CommandError::Invalid(error.to_string());
                drop(answer.send(outcome.map_err(invalid)));
            }
            ControlCommand::Upgrade(order, answer) => self.upgrade(&order, answer),
            ControlCommand::Config(answer) => drop(answer.send(Ok(Box::new(self.config.clone())))),
        }
    }

    async fn add(&mut self, pool: &str, new: &NewBackend) -> Result<BackendState, CommandError> {
        let mut overlay = self.overlay.clone();
        let name = overlay.add(&self.config, pool, new)?;
        self.lay(overlay).await?;
        self.backend_state(pool, &name)
    }

    async fn remove(&mut self, pool: &str, name: &str) -> Result<BackendState, CommandError> {
        let mut overlay = self.overlay.clone();
        overlay.remove(&self.file_config, &self.config, pool, name)?;
        self.lay(overlay).await?;
        self.backend_state(pool, name)
    }

    async fn give_weight(
        &mut self,
        pool: &str,
        name: &str,
        weight: u32,
    ) -> Result<BackendState, CommandError> {
        let mut overlay = self.overlay.clone();
        overlay.set_weight(&self.config, pool, name, weight)?;
        self.lay(overlay).await?;
        self.backend_state(pool, name)
    }

    /// Puts other layers in force.
    async fn lay(&mut self, overlay: Overlay) -> Result<(), CommandError> {
        let outcome = self.compose(self.file_config.clone(), overlay).await;
        outcome.map(|_| ()).map_err(|error| CommandError::Failed(error.to_string()))
    }

    async fn drain(
        &mut self,
        what: BackendTarget,
        how: DrainTerms,
    ) -> Result<Vec<BackendState>, CommandError> {
        let terms = terms(how)?;
        self.overlay.drain(&self.config, what.clone(), terms)?;
        self.apply_drains().await;
        // A node drains as a whole, also what it holds under names that it has lost.
        let left = self.backends.iter().filter(|backend| {
            let other = self.drains.goes_on_as(backend.serial());
            !self.is_empty(backend) && other.is_some_and(|other| overlay::covers(&what, other))
        });
        let mut states = self.states(&what);
        for state in left.map(|backend| self.state_of(backend)) {
            if !states.iter().any(|known| (&known.pool, &known.name) == (&state.pool, &state.name))
            {
                states.push(state);
            }
        }
        Ok(states)
    }

    /// Ends drains by order; those that no longer drain.
    async fn undrain(&mut self, what: &BackendTarget) -> Result<Vec<BackendState>, CommandError> {
        self.overlay.undrain(&self.config, what)?;
        let drained = |control: &Self, backend: &Backend| {
            control.drains.end_of(backend.serial()) == Some(DrainEnd::Stay)
        };
        let before: Vec<_> =
            self.backends.iter().filter(|backend| drained(self, backend)).cloned().collect();
        self.apply_drains().await;
        let ended = before.iter().filter(|backend| !drained(self, backend));
        Ok(ended.map(|backend| self.state_of(backend)).collect())
    }

    /// Brings the backends into the state that the ordered drains ask for.
    pub(super) async fn apply_drains(&mut self) {
        for backend in &self.backends {
            if !has(&self.config, backend) {
                if let Some(other) = self.drains.goes_on_as(backend.serial()) {
                    let ordered = self.overlay.drain_over(other);
                    let terms = ordered.and_then(|ordered| ordered.terms);
                    self.drains.drain_with_replica(backend, &self.proxy, terms);
                }
                continue;
            }
            let ordered = self.overlay.drain_of(backend.pool(), backend.name());
            match ordered {
                Some(ordered) => {
                    self.drains.start(backend, &self.proxy, ordered.terms, DrainEnd::Stay);
                }
                None => {
                    self.drains.cancel(backend.serial(), DrainEnd::Stay).await;
                    backend.set_lifecycle(Lifecycle::Serving);
                }
            }
        }
        let all = self.overlay.drains_all();
        self.proxy.not_ready.store(all, std::sync::atomic::Ordering::Release);
        self.send_directives();
    }

    /// What a reload by order did. Refused, it changes nothing.
    async fn reload_as_ordered(&mut self, order: ReloadRequest) -> Result<Plan, CommandError> {
        if self.file.is_none() {
            let wrong = "this process runs from flags, not from a file; there is nothing to reload";
            return Err(CommandError::Invalid(wrong.to_owned()));
        }
        let outcome = self.reload_within(order.max_disconnects).await;
        let noted = match &outcome {
            Ok(plan) => Ok(plan.empty),
            Err(denied) => Err(denied.to_string()),
        };
        self.note_reload(noted.as_ref().map(|empty| *empty));
        self.resolver.again(&self.backends);
        self.acme.retry();
        outcome
    }

    async fn reload_within(&mut self, most: Option<u64>) -> Result<Plan, CommandError> {
        let file_config = self.read().await.map_err(CommandError::Failed)?;
        let (changes, plan) = self.put_in(file_config, most).await?;
        log_reload(&changes, &plan);
        Ok(plan)
    }

    pub(super) fn plan_for(&self, file_config: &Config) -> Plan {
        let mut overlay = self.overlay.clone();
        let overlay_changes = overlay.overlay_change(file_config);
        overlay.settle(file_config);
        let next = overlay.over(file_config);
        let held = |pool: &str, backend: &config::BackendConfig| self.held(pool, backend);
        let at_risk = |pool: &str, backend: &config::BackendConfig| {
            let source = |config: &Config| {
                config.pools.iter().find(|known| known.name == pool)?.source.clone()
            };
            let origin = self.overlay.origin(pool, &backend.name, &backend.address);
            let found = origin == BackendOrigin::Discovered;
            found && source(&self.file_config) != source(file_config)
        };
        plan::plan(&self.config, &next, &overlay_changes, &self.spared(), held, at_risk)
    }

    /// What would be lost with a backend.
    fn held(&self, pool: &str, backend: &config::BackendConfig) -> HeldCount {
        let live = self.backends.iter().find(|live| live.is(pool, backend));
        live.map_or_else(HeldCount::default, |live| self.count(live))
    }

    /// Backends that have left, and whose sessions go on.
    fn spared(&self) -> Vec<plan::RetainedBackend> {
        let spared = self.backends.iter().filter_map(|backend| {
            self.drains.goes_on_as(backend.serial())?;
            Some(plan::RetainedBackend {
                pool: backend.pool().to_owned(),
                backend: config::BackendConfig {
                    name: backend.name().to_owned(),
                    address: backend.address().clone(),
                    weight: backend.weight(),
                },
                held: self.count(backend),
                terms: self.drain_config(backend)?,
            })
        });
        spared.collect()
    }

    fn backend_state(&self, pool: &str, name: &str) -> Result<BackendState, CommandError> {
        let what = BackendTarget { pool: Some(pool.to_owned()), backend: Some(name.to_owned()) };
        let gone = || CommandError::NotFound(format!("{} is gone", overlay::spoken(&what)));
        self.states(&what).pop().ok_or_else(gone)
    }
}

/// What an order means as terms.
fn terms(how: DrainTerms) -> Result<Option<config::DrainConfig>, CommandError> {
    let span = |name: &str, seconds: f64| match seconds.is_finite()
        && (0.0..=LONGEST).contains(&seconds)
    {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(CommandError::Invalid(format!("`{name}` is from 0 to {LONGEST} seconds"))),
    };
    let Some(within) = how.within else {
        return match how.spread {
            None => Ok(None),
            Some(_) => Err(CommandError::Invalid(
                "`spread` has no effect without a deadline; set `within` too".to_owned(),
            )),
        };
    };
    let mut terms = config::DrainConfig::within(span("within", within)?);
    if let Some(spread) = how.spread {
        terms.spread = span("spread", spread)?;
    }
    match terms.spread <= terms.within {
        true => Ok(Some(terms)),
        false => Err(CommandError::Invalid(format!(
            "`spread` ({}) is longer than `within` ({}); set a shorter `spread`",
            humantime::format_duration(terms.spread),
            humantime::format_duration(terms.within)
        ))),
    }
}
