//! Handing over to a new binary, as the control task sees it: an order, a task of its own until the
//! new process accepts, and the end of this one.
//!
//! While it is under way everything else goes on; the new process reads the configuration anew when
//! it begins to serve, so that a reload in between is not lost. Operators' orders would be, and are
//! refused meanwhile.

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
    elsewhere::holdings,
    listeners::Listeners,
    overlay::{Overlay, covers},
};
use crate::{
    api::{BackendTarget, DrainState, Predecessor, UpgradeRequest, Upgraded},
    config::{self, Address, Config, DrainConfig},
    handoff::{
        BackendDirective, BackendRecord, HandoffError, HandoffOffer, Launch, PredecessorState,
        Predecessors, Secrets, Successor, SuccessorFeed, Values,
    },
    net::inherited::Purpose,
    upstream::Backend,
};

/// How often the new process is told how far this one is.
const TELL: Duration = Duration::from_secs(1);

/// Name of the layers upon the configuration, among what is handed over.
const OVERLAY: &str = "overlay";

/// The same of the memory of sessions that ended.
const MEMORY: &str = "memory";

/// Who waits for an upgrade.
type UpgradeReply = oneshot::Sender<Result<Upgraded, CommandError>>;

/// Descriptors of listening sockets, each with what it is for.
type SocketCopies = io::Result<Vec<(Purpose, OwnedFd)>>;

/// The sockets that are not the control task's own.
pub(crate) struct AdminSocketHooks {
    /// Descriptors of them, for another process.
    pub(crate) copies: Box<dyn Fn() -> SocketCopies + Send>,
    /// Leaves them to it.
    pub(crate) leave: Box<dyn Fn() + Send>,
}

/// The task that tells the new process on, until the end of this one.
struct SuccessorTask {
    telling: JoinHandle<()>,
    /// What is to become of the backends' tunnels here.
    directives: watch::Receiver<Vec<BackendDirective>>,
    end: oneshot::Sender<()>,
}

/// What is needed to hand over, and how far that is.
pub(super) struct HandoffState {
    /// How this process was started, or why it cannot be handed over.
    launch: Result<Launch, String>,
    fixtures: Option<AdminSocketHooks>,
    under_way: Option<(JoinHandle<Result<Successor, HandoffError>>, UpgradeReply)>,
    /// Those before this process.
    pub(super) predecessors: Predecessors,
}

impl Default for HandoffState {
    fn default() -> Self {
        Self {
            launch: Err("this process cannot be handed over".to_owned()),
            fixtures: None,
            under_way: None,
            predecessors: Predecessors::default(),
        }
    }
}

impl HandoffState {
    /// How an upgrade under way has ended; cancel-safe, and pending where there is none.
    pub(super) async fn made(&mut self) -> (Result<Successor, HandoffError>, UpgradeReply) {
        let Some((making, _)) = &mut self.under_way else { return std::future::pending().await };
        let outcome = making.await;
        let Some((_, answer)) = self.under_way.take() else { return std::future::pending().await };
        let lost = |error: tokio::task::JoinError| Err(HandoffError::Lost(io::Error::other(error)));
        (outcome.unwrap_or_else(lost), answer)
    }

    /// Ends an upgrade that is under way, and the process that it has started.
    pub(super) fn give_up(&mut self) {
        if let Some((making, answer)) = self.under_way.take() {
            making.abort();
            let _ = answer.send(Err(CommandError::ShuttingDown));
        }
    }
}

impl ControlTask {
    /// Makes this process one that can be handed over, or says why it is not.
    pub(crate) fn can_hand_over(
        &mut self,
        launch: Result<Launch, String>,
        fixtures: AdminSocketHooks,
    ) {
        self.handoff.launch = launch;
        self.handoff.fixtures = Some(fixtures);
    }

    /// Those that this process has taken over from.
    pub(crate) fn predecessors(&self) -> &Predecessors {
        &self.handoff.predecessors
    }

    /// The order, unless an upgrade is under way and it would change what is being handed over: on the
    /// new process it would be lost.
    pub(super) fn while_handing_over(&self, order: ControlCommand) -> Option<ControlCommand> {
        if self.handoff.under_way.is_none() {
            return Some(order);
        }
        let busy =
            || CommandError::Conflict("an upgrade is under way; try again after it".to_owned());
        match order {
            ControlCommand::Add(_, _, answer) | ControlCommand::Remove(_, _, answer) => {
                drop(answer.send(Err(busy())))
            }
            ControlCommand::Weight(_, _, _, answer) => drop(answer.send(Err(busy()))),
            ControlCommand::Drain(_, _, answer) => drop(answer.send(Err(busy()))),
            ControlCommand::Undrain(_, answer) => drop(answer.send(Err(busy()))),
            other => return Some(other),
        }
        None
    }

    /// Begins to hand over; `answer` hears how that went.
    pub(super) fn upgrade(&mut self, order: &UpgradeRequest, answer: UpgradeReply) {
        match self.offer(order) {
            Ok(offer) => {
                let program = offer.program.as_deref().unwrap_or(offer.launch.program());
                tracing::info!(program = %program.display(), "upgrade begins");
                self.handoff.under_way = Some((tokio::spawn(offer.make()), answer));
            }
            Err(denied) => {
                tracing::error!(why = %denied, "upgrade refused");
                let _ = answer.send(Err(denied));
            }
        }
    }

    fn offer(&self, order: &UpgradeRequest) -> Result<HandoffOffer, CommandError> {
        if self.handoff.under_way.is_some() {
            return Err(CommandError::Conflict("an upgrade is under way".to_owned()));
        }
        let launch = self.handoff.launch.clone().map_err(CommandError::Conflict)?;
        let program = order.binary.as_ref().map(PathBuf::from);
        if let Some(relative) = program.as_ref().filter(|program| !program.is_absolute()) {
            let shown = relative.display();
            return Err(CommandError::Invalid(format!(
                "{shown}: the path of a binary must be absolute"
            )));
        }
        let failed =
            |error: io::Error| CommandError::Failed(format!("sockets cannot be given: {error}"));
        let mut sockets = self.listeners.copies().map_err(failed)?;
        if let Some(fixtures) = &self.handoff.fixtures {
            sockets.extend((fixtures.copies)().map_err(failed)?);
        }
        Ok(HandoffOffer {
            launch,
            program,
            ready: self.config.upgrade.ready,
            sockets,
            secrets: Secrets::of(&self.keys, &self.tickets),
            backends: self.backends.clone(),
            values: self.values(),
            late: self.late_values(),
            sids: Arc::clone(&self.proxy.sids),
        })
    }

    /// What the new process needs before it puts its configuration in force, by name.
    fn values(&self) -> Values {
        let layers = self.overlay.carry(|what, terms| self.left_of(what, terms));
        vec![(OVERLAY.to_owned(), layers)]
    }

    /// What is left of an ordered drain: the new process begins it anew.
    fn left_of(&self, what: &BackendTarget, terms: DrainConfig) -> DrainConfig {
        let covered = |backend: &&Arc<Backend>| {
            let (pool, name) = (backend.pool().to_owned(), backend.name().to_owned());
            covers(what, &BackendTarget { pool: Some(pool), backend: Some(name) })
        };
        let state = |backend: &Arc<Backend>| self.drains.state(backend, &self.proxy)?.seconds_left;
        let left = self.backends.iter().filter(covered).find_map(state);
        let within = left.map_or(terms.within, Duration::from_secs_f64);
        DrainConfig { within, spread: terms.spread.min(within) }
    }

    /// The layers upon the configuration that the process before this one had.
    pub(super) fn inherited_overlay(values: Values) -> Overlay {
        let mut overlay = Overlay::default();
        for (name, value) in values {
            if name != OVERLAY {
                tracing::warn!(name, "the old process hands over something that is not known here");
                continue;
            }
            match Overlay::carried(value) {
                Ok(carried) => overlay = carried,
                Err(error) => tracing::warn!(%error, "the old process's orders are not understood"),
            }
        }
        overlay
    }

    /// What it is to remember before it accepts, by name; taken when the sessions are.
    fn late_values(&self) -> Box<dyn FnOnce() -> Values + Send + Sync> {
        let memory = Arc::clone(&self.proxy.memory);
        Box::new(move || {
            let memory = serde_json::to_value(memory.export(std::time::Instant::now()));
            memory.map(|memory| vec![(MEMORY.to_owned(), memory)]).unwrap_or_default()
        })
    }

    /// Takes over what the process before this one has sent as [`late_values`](Self::late_values).
    pub(crate) fn remember(&mut self, late: Values) {
        for (name, value) in late {
            let export = (name == MEMORY).then(|| serde_json::from_value(value).ok()).flatten();
            let now = std::time::Instant::now();
            if !export.is_some_and(|export| self.proxy.memory.import(export, now)) {
                tracing::warn!(name, "what the old process hands over is not understood");
            }
        }
    }

    /// Backends that lived in the process before this one, in pools that `config` has.
    pub(super) fn revive(records: &[BackendRecord], config: &Config) -> Vec<Arc<Backend>> {
        let revive = |record: &BackendRecord| {
            let who = &record.who;
            let pool = config.pools.iter().find(|pool| pool.name == who.pool)?;
            let address = Address { host: who.host.clone(), port: who.port };
            let known =
                config::BackendConfig { name: who.name.clone(), address, weight: record.weight };
            let backend = Backend::new(&who.pool, &known, &pool.reuse);
            let literal = known.address.literal().map(|address| vec![address]);
            let mut addresses = literal.unwrap_or_else(|| record.addresses.clone());
            // Operators may be served elsewhere now.
            addresses.retain(|address| !config.admin.is_at(*address));
            backend.set_addresses(addresses);
            if !record.up {
                backend.record_check(false, 1, 1);
            }
            Some(backend)
        };
        records.iter().filter_map(revive).collect()
    }

    /// An upgrade has ended: the process that took over, or nothing, and this one serves on.
    pub(super) fn made(
        &mut self,
        outcome: Result<Successor, HandoffError>,
        answer: UpgradeReply,
    ) -> Option<Successor> {
        match outcome {
            Ok(mut successor) => {
                successor.keep();
                let pid = successor.pid();
                tracing::info!(pid, "the new process serves; this one is shutting down");
                self.listeners.part();
                self.acme.stop();
                self.proxy.not_ready.store(true, Ordering::Release);
                if let Some(fixtures) = &self.handoff.fixtures {
                    (fixtures.leave)();
                }
                self.notifier.hand_over(pid);
                let _ = answer.send(Ok(Upgraded { pid }));
                Some(successor)
            }
            Err(failure) => {
                tracing::error!(why = %failure, "upgrade failed; this process serves on");
                let _ = answer.send(Err(CommandError::Failed(failure.to_string())));
                None
            }
        }
    }

    /// Empties this process, which accepts nothing any more: until the deadline of an upgrade's drain,
    /// or that of a stop where one is ordered.
    pub(super) async fn give_way(
        &mut self,
        mut successor: Successor,
        requests: &mut mpsc::Receiver<ControlRequest>,
    ) {
        successor.release().await;
        self.shutting_down = true;
        let (whole, proxy) = (Arc::clone(self.drains.whole()), Arc::clone(&self.proxy));
        whole.begin(self.config.upgrade.drain);
        let mut closes = pin!(whole.close(&proxy));
        let SuccessorTask { mut telling, mut directives, end } = self.talk(successor);
        let mut stops = Vec::new();
        let mut housekeeping = interval(HOUSEKEEPING);
        loop {
            tokio::select! {
                () = empty(&self.listeners, &self.handoff.predecessors, stops.is_empty()) => break,
                () = &mut closes => {
                    self.cut().await;
                    break;
                }
                Some(request) = requests.recv() => match request {
                    ControlRequest::Shutdown(answer) => {
                        whole.begin(self.config.drain);
                        self.listeners.finish();
                        stops.push(answer);
                    }
                    ControlRequest::Hangup => self.reopen_logs(),
                    // Whoever waits for an answer hears that the process is shutting down.
                    _ => {}
                },
                Ok(()) = directives.changed() => {
                    let directives = directives.borrow_and_update().clone();
                    self.follow(directives).await;
                }
                _ = housekeeping.tick() => self.run_housekeeping(),
            }
        }
        let _ = end.send(());
        if timeout(TELL, &mut telling).await.is_err() {
            telling.abort();
        }
        self.finish_shutdown();
        tracing::info!("empty; the new process serves alone");
        for answer in stops {
            let _ = answer.send(());
        }
    }

    /// Begins to tell the new process on, and to hear it.
    fn talk(&self, successor: Successor) -> SuccessorTask {
        let (end, over) = oneshot::channel();
        let (heard, directives) = watch::channel(Vec::new());
        let telling = SuccessorFeed {
            every: TELL,
            state: self.reporter(),
            memory: Arc::clone(&self.proxy.memory),
            directives: heard,
            over,
        };
        SuccessorTask { telling: tokio::spawn(successor.keep_told(telling)), directives, end }
    }

    /// Says how far this process is, and those before it.
    fn reporter(&self) -> impl Fn() -> PredecessorState + Send + use<> {
        let (proxy, whole) = (Arc::clone(&self.proxy), Arc::clone(self.drains.whole()));
        let (backends, before) = (self.backends.clone(), self.handoff.predecessors.clone());
        move || {
            let own = whole.state(&proxy).map(|state| Predecessor {
                pid: std::process::id(),
                // Sessions that poll have gone over.
                drain: DrainState { sessions_left: state.sockets_left, ..state },
            });
            PredecessorState {
                processes: own.into_iter().chain(before.list()).collect(),
                tunnels: holdings(&backends, &proxy, &before),
            }
        }
    }

    /// Cuts what is left, and all that comes of it.
    pub(super) async fn cut(&mut self) {
        let tunnels = self.proxy.tunnels.cut_all();
        tracing::warn!(tunnels, "the drain deadline has passed; cutting what is left");
        self.listeners.force();
        // An upgrade under way may have become a tunnel after the cut.
        while timeout(CUT_AGAIN, self.listeners.idle()).await.is_err() {
            self.proxy.tunnels.cut_all();
        }
    }
}

/// Resolves when nothing is left here, and nobody before this process has anything to tell on, where
/// that is waited for. Cancel-safe.
async fn empty(listeners: &Listeners, before: &Predecessors, patient: bool) {
    listeners.idle().await;
    if patient {
        before.gone().await;
    }
}
