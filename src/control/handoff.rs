//! Handoff to a new binary: the control task's part.
//!
//! A command starts the handoff, which runs in its own task until the new process accepts. Then this
//! process shuts down. During the handoff the control task works as usual. The new process reads the
//! configuration again when it begins to serve, so that a reload in between is not lost. Changes by
//! operators would be lost, and are rejected during the handoff.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{interval, timeout},
};

use super::{
    CUT_AGAIN, CommandError, ControlCommand, ControlRequest, ControlTask, HOUSEKEEPING,
    listeners::Listeners,
    overlay::{Overlay, covers},
    predecessors::held_tunnels,
    reload::Reloads,
};
use crate::{
    api::{BackendTarget, DrainState, Predecessor, UpgradeRequest, Upgraded},
    config::{self, Address, Config, DrainConfig},
    handoff::{
        BackendDirective, BackendIdentity, BackendRecord, HandoffError, HandoffOffer, Launch,
        LaunchError, PredecessorState, Predecessors, Secrets, Successor, SuccessorFeed, Values,
    },
    net::inherited::Purpose,
    upstream::Backend,
};

/// How often this process sends its state to the new one.
const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a shutdown waits for the end of a new process whose start it cancels.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Name of the value with the overlay: discovered backends and operators' changes.
const OVERLAY: &str = "overlay";

/// Name of the value with the recent sessions.
const MEMORY: &str = "memory";

/// The channel for the reply to an upgrade command.
type UpgradeReply = oneshot::Sender<Result<Upgraded, CommandError>>;

/// Descriptors of listening sockets with their purpose.
type SocketCopies = io::Result<Vec<(Purpose, OwnedFd)>>;

/// Access to the admin sockets, which the control task does not own.
pub(crate) struct AdminSocketHooks {
    /// Duplicates the descriptors for another process.
    pub(crate) copies: Box<dyn Fn() -> SocketCopies + Send>,
    /// Stops accepting on the sockets; another process accepts on them.
    pub(crate) release: Box<dyn Fn() + Send>,
}

/// The task that exchanges messages with the new process until this one ends.
struct SuccessorTask {
    feed: JoinHandle<()>,
    /// What to do with the tunnels in this process.
    directives: watch::Receiver<Vec<BackendDirective>>,
    end: oneshot::Sender<()>,
}

/// What a handoff needs, and the handoff in progress.
pub(super) struct HandoffState {
    /// How to start the new process, or why an upgrade is not possible.
    launch: Result<Launch, LaunchError>,
    admin_sockets: Option<AdminSocketHooks>,
    in_progress: Option<(JoinHandle<Result<Successor, HandoffError>>, UpgradeReply)>,
    pub(super) predecessors: Predecessors,
}

impl Default for HandoffState {
    fn default() -> Self {
        Self {
            launch: Err(LaunchError::NotSupported("this process does not support upgrades")),
            admin_sockets: None,
            in_progress: None,
            predecessors: Predecessors::default(),
        }
    }
}

impl HandoffState {
    /// Waits for the end of the handoff in progress; pending if there is none. Cancel-safe.
    pub(super) async fn finished(&mut self) -> (Result<Successor, HandoffError>, UpgradeReply) {
        let Some((task, _)) = &mut self.in_progress else { return std::future::pending().await };
        let outcome = task.await;
        let Some((_, answer)) = self.in_progress.take() else {
            return std::future::pending().await;
        };
        let failed =
            |error: tokio::task::JoinError| Err(HandoffError::Channel(io::Error::other(error)));
        (outcome.unwrap_or_else(failed), answer)
    }

    /// Cancels the handoff in progress and ends the new process.
    pub(super) async fn cancel(&mut self) {
        if let Some((task, answer)) = self.in_progress.take() {
            task.abort();
            // Dropping the task kills the new process; the end of this process would not wait for that. A start
            // of the program that hangs must not delay the shutdown.
            let _ = timeout(CANCEL_TIMEOUT, task).await;
            let _ = answer.send(Err(CommandError::ShuttingDown));
        }
    }
}

impl ControlTask {
    /// Sets how to start the next process, or why an upgrade is not possible.
    pub(crate) fn enable_handoff(
        &mut self,
        launch: Result<Launch, LaunchError>,
        admin_sockets: AdminSocketHooks,
    ) {
        self.handoff.launch = launch;
        self.handoff.admin_sockets = Some(admin_sockets);
    }

    /// The processes that this one has taken over from.
    pub(crate) fn predecessors(&self) -> &Predecessors {
        &self.handoff.predecessors
    }

    /// Rejects a command that changes backends during a handoff, because the new process would not know of
    /// the change. Returns any other command.
    pub(super) fn reject_during_handoff(&self, command: ControlCommand) -> Option<ControlCommand> {
        if self.handoff.in_progress.is_none() {
            return Some(command);
        }
        let busy = || {
            CommandError::Conflict(
                "an upgrade is in progress; try again when it has ended".to_owned(),
            )
        };
        match command {
            ControlCommand::Add(_, _, _, answer) | ControlCommand::Remove(_, _, answer) => {
                drop(answer.send(Err(busy())))
            }
            ControlCommand::Weight(_, _, _, answer) => drop(answer.send(Err(busy()))),
            ControlCommand::Drain(_, _, answer) => drop(answer.send(Err(busy()))),
            ControlCommand::Undrain(_, answer) => drop(answer.send(Err(busy()))),
            other => return Some(other),
        }
        None
    }

    /// Starts the handoff to a new process. `answer` gets the result.
    pub(super) fn upgrade(&mut self, request: &UpgradeRequest, answer: UpgradeReply) {
        match self.offer(request) {
            Ok(offer) => {
                let program = offer.program.as_deref().unwrap_or(offer.launch.program());
                tracing::info!(program = %program.display(), "upgrade begins");
                self.handoff.in_progress = Some((tokio::spawn(offer.run()), answer));
            }
            Err(error) => {
                tracing::error!(%error, "upgrade rejected");
                let _ = answer.send(Err(error));
            }
        }
    }

    fn offer(&self, request: &UpgradeRequest) -> Result<HandoffOffer, CommandError> {
        if self.handoff.in_progress.is_some() {
            return Err(CommandError::Conflict("an upgrade is already in progress".to_owned()));
        }
        let unavailable = |error: LaunchError| CommandError::Conflict(error.to_string());
        let launch = self.handoff.launch.clone().map_err(unavailable)?;
        let program = request.binary.as_ref().map(PathBuf::from);
        if let Some(relative) = program.as_ref().filter(|program| !program.is_absolute()) {
            let shown = relative.display();
            return Err(CommandError::Invalid(format!(
                "{shown}: the path of the binary must be absolute"
            )));
        }
        let failed = |error: io::Error| {
            CommandError::Failed(format!("cannot duplicate the listening sockets: {error}"))
        };
        let mut sockets = self.listeners.copies().map_err(failed)?;
        if let Some(admin_sockets) = &self.handoff.admin_sockets {
            sockets.extend((admin_sockets.copies)().map_err(failed)?);
        }
        Ok(HandoffOffer {
            launch,
            program,
            ready: self.config.upgrade.ready,
            sockets,
            secrets: Secrets::of(&self.keys, &self.tickets),
            backends: self.backends.clone(),
            values: self.values(),
            late_values: self.late_values(),
            sids: Arc::clone(&self.proxy.sids),
        })
    }

    /// Returns the values that the new process needs before it applies its configuration.
    fn values(&self) -> Values {
        let overlay = self.overlay.export(|target, drain| self.remaining_drain(target, drain));
        vec![(OVERLAY.to_owned(), overlay)]
    }

    /// Returns the settings for the rest of an operator's drain: the new process starts the drain again.
    fn remaining_drain(&self, target: &BackendTarget, drain: DrainConfig) -> DrainConfig {
        let covered = |backend: &&Arc<Backend>| {
            let (pool, name) = (backend.pool().to_owned(), backend.name().to_owned());
            covers(target, &BackendTarget { pool: Some(pool), backend: Some(name) })
        };
        let state = |backend: &Arc<Backend>| self.drains.state(backend, &self.proxy)?.seconds_left;
        let left = self.backends.iter().filter(covered).find_map(state);
        let within = left.map_or(drain.within, Duration::from_secs_f64);
        DrainConfig { within, spread: drain.spread.min(within) }
    }

    /// Reads the overlay of the old process.
    pub(super) fn inherited_overlay(values: Values) -> Overlay {
        let mut overlay = Overlay::default();
        for (name, value) in values {
            if name != OVERLAY {
                tracing::warn!(name, "ignoring an unknown value from the old process");
                continue;
            }
            match Overlay::import(value) {
                Ok(carried) => overlay = carried,
                Err(error) => tracing::warn!(
                    %error,
                    "cannot read the old process's discovered backends and operators' changes; repeat \
                     changes made through the API"
                ),
            }
        }
        overlay
    }

    /// Returns the values that the new process needs before it accepts. They are read together with the
    /// sessions.
    fn late_values(&self) -> Box<dyn FnOnce() -> Values + Send + Sync> {
        let memory = Arc::clone(&self.proxy.memory);
        Box::new(move || {
            let memory = serde_json::to_value(memory.export(std::time::Instant::now()));
            memory.map(|memory| vec![(MEMORY.to_owned(), memory)]).unwrap_or_default()
        })
    }

    /// Restores the [`late_values`](Self::late_values) of the old process.
    pub(crate) fn restore_late_values(&mut self, values: Values) {
        for (name, value) in values {
            let export = (name == MEMORY).then(|| serde_json::from_value(value).ok()).flatten();
            let now = std::time::Instant::now();
            if !export.is_some_and(|export| self.proxy.memory.import(export, now)) {
                tracing::warn!(name, "ignoring an invalid value from the old process");
            }
        }
    }

    /// Restores the backends of the old process, in pools that `config` has.
    pub(super) fn restore_backends(
        records: &[BackendRecord],
        config: &Config,
    ) -> Vec<Arc<Backend>> {
        let restore = |record: &BackendRecord| {
            let BackendIdentity { pool, name, host, port } = &record.identity;
            let pool = config.pools.iter().find(|known| known.name == *pool)?;
            let address = Address { host: host.clone(), port: *port };
            let backend_config = config::BackendConfig {
                name: name.clone(),
                address,
                weight: record.weight,
                backup: false,
            };
            let backend = Backend::new(&pool.name, &backend_config, &pool.reuse);
            let literal = backend_config.address.literal().map(|address| vec![address]);
            let mut addresses = literal.unwrap_or_else(|| record.addresses.clone());
            // The admin address may be a new one.
            addresses.retain(|address| !config.admin.is_at(*address));
            backend.set_addresses(addresses);
            if !record.up {
                backend.record_check(false, 1, 1);
            }
            Some(backend)
        };
        records.iter().filter_map(restore).collect()
    }

    /// Handles the end of a handoff and answers the upgrade command. Returns the process that took over;
    /// `None`: this process continues to serve.
    pub(super) fn handoff_finished(
        &mut self,
        outcome: Result<Successor, HandoffError>,
        answer: UpgradeReply,
    ) -> Option<Successor> {
        match outcome {
            Ok(mut successor) => {
                successor.keep();
                let pid = successor.pid();
                tracing::info!(pid, "the new process serves; this one is shutting down");
                self.listeners.close_after_response();
                self.acme.stop();
                self.proxy.not_ready.store(true, Ordering::Release);
                if let Some(admin_sockets) = &self.handoff.admin_sockets {
                    (admin_sockets.release)();
                }
                self.notifier.hand_over(pid);
                let _ = answer.send(Ok(Upgraded { pid }));
                Some(successor)
            }
            Err(error) => {
                tracing::error!(%error, "upgrade failed; this process continues to serve");
                let _ = answer.send(Err(CommandError::Failed(error.to_string())));
                None
            }
        }
    }

    /// Shuts this process down after a handoff: waits for its requests and tunnels until the deadline of
    /// `[upgrade]`, or of a shutdown if one is requested meanwhile.
    pub(super) async fn shut_down_after_handoff(
        &mut self,
        mut successor: Successor,
        requests: &mut mpsc::Receiver<ControlRequest>,
    ) {
        successor.release().await;
        self.reloads = Reloads::default();
        self.shutting_down = true;
        let (shutdown, proxy) = (Arc::clone(self.drains.shutdown()), Arc::clone(&self.proxy));
        shutdown.begin(self.config.upgrade.drain);
        let mut closes = pin!(shutdown.close_tunnels(&proxy));
        let SuccessorTask { mut feed, mut directives, end } = self.start_feed(successor);
        let mut shutdowns = Vec::new();
        let mut housekeeping = interval(HOUSEKEEPING);
        loop {
            tokio::select! {
                () = empty(&self.listeners, &self.handoff.predecessors, shutdowns.is_empty()) => break,
                () = &mut closes => {
                    self.cut().await;
                    break;
                }
                Some(request) = requests.recv() => match request {
                    ControlRequest::Shutdown(answer) => {
                        shutdown.begin(self.config.drain);
                        self.listeners.finish();
                        shutdowns.push(answer);
                    }
                    ControlRequest::Hangup => self.reopen_logs(),
                    // Dropping the request answers that the process is shutting down.
                    _ => {}
                },
                Ok(()) = directives.changed() => {
                    let directives = directives.borrow_and_update().clone();
                    self.apply_directives(directives).await;
                }
                _ = housekeeping.tick() => self.run_housekeeping(),
            }
        }
        let _ = end.send(());
        if timeout(STATE_INTERVAL, &mut feed).await.is_err() {
            feed.abort();
        }
        self.finish_shutdown().await;
        tracing::info!("no connection is left; this process ends");
        for answer in shutdowns {
            let _ = answer.send(());
        }
    }

    /// Starts the task that exchanges messages with the new process.
    fn start_feed(&self, successor: Successor) -> SuccessorTask {
        let (end, ended) = oneshot::channel();
        let (sender, directives) = watch::channel(Vec::new());
        let feed = SuccessorFeed {
            interval: STATE_INTERVAL,
            state: self.state_source(),
            memory: Arc::clone(&self.proxy.memory),
            directives: sender,
            ended,
        };
        SuccessorTask { feed: tokio::spawn(successor.run(feed)), directives, end }
    }

    /// Returns a function that reads the progress of this process and its predecessors.
    fn state_source(&self) -> impl Fn() -> PredecessorState + Send + use<> {
        let (proxy, shutdown) = (Arc::clone(&self.proxy), Arc::clone(self.drains.shutdown()));
        let (backends, predecessors) = (self.backends.clone(), self.handoff.predecessors.clone());
        move || {
            let own = shutdown.state(&proxy).map(|state| Predecessor {
                pid: std::process::id(),
                // The new process has the polling sessions.
                drain: DrainState { sessions_left: state.sockets_left, ..state },
            });
            PredecessorState {
                processes: own.into_iter().chain(predecessors.list()).collect(),
                tunnels: held_tunnels(&backends, &proxy, &predecessors),
            }
        }
    }

    /// Cuts the remaining connections and tunnels.
    pub(super) async fn cut(&mut self) {
        let tunnels = self.proxy.tunnels.cut_all();
        tracing::warn!(tunnels, "the drain deadline has passed; cutting the remaining connections");
        self.listeners.force();
        // A WebSocket upgrade may have completed after the cut.
        while timeout(CUT_AGAIN, self.listeners.idle()).await.is_err() {
            self.proxy.tunnels.cut_all();
        }
    }
}

/// Resolves when this process has no connection left and, if `wait_for_predecessors`, the predecessors have
/// ended: this process passes their messages on. Cancel-safe.
async fn empty(listeners: &Listeners, predecessors: &Predecessors, wait_for_predecessors: bool) {
    listeners.idle().await;
    if wait_for_predecessors {
        predecessors.ended().await;
    }
}
