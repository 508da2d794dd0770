//! What changes the running process: reloads, health, resolution, drains, housekeeping.
//!
//! One task owns all of it ([`ControlTask`]) and is told through a channel, so that two changes can never
//! interleave. It alone writes the snapshot; what the data path reads is always one whole
//! configuration. Checks come before the first effect: a refused change has none.

mod apply;
mod commands;
mod connectors;
mod count;
mod discovery;
mod drain;
mod explain;
pub mod handle;
mod handoff;
mod health;
mod leaving;
mod listeners;
mod on_down;
mod overlay;
mod plan;
mod policies;
mod predecessors;
mod rebalance;
mod reload;
mod report;
mod resolve;
mod sessions;
mod warnings;
mod watch;

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

pub(crate) use self::handoff::AdminSocketHooks;
pub use self::{
    apply::Changes,
    commands::ControlCommand,
    handle::{CommandError, ControlHandle},
};
use self::{
    discovery::{Discovery, error::SourceError},
    drain::Drains,
    handoff::HandoffState,
    health::Probing,
    listeners::Listeners,
    on_down::OnDown,
    overlay::Overlay,
    rebalance::Rebalancer,
    reload::ReloadCause,
    report::StartTime,
    resolve::NameResolver,
    watch::Watcher,
};
use crate::{
    acme,
    api::ReloadState,
    config::{self, Config},
    net::tls::{self, TicketKeys},
    observe::AccessLog,
    shared::SharedState,
    sticky::CookieKeys,
    systemd::Notifier,
    upstream::{self, Backend},
};

/// Period of the housekeeping: expired sids and idle connections go.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Period of resolving backends' names again; a reload does so at once.
const RESOLVE_AGAIN: Duration = Duration::from_secs(30);

/// Pause between cuts at the end of a drain.
const CUT_AGAIN: Duration = Duration::from_millis(100);

/// Everything that outlives a configuration.
pub struct ControlTask {
    proxy: Arc<SharedState>,
    /// What the file says.
    file_config: Config,
    /// What is in force: that with the layers upon it.
    config: Config,
    /// Pools that the configuration no longer has, as they were, while there are backends of them.
    removed_pools: Vec<config::PoolConfig>,
    overlay: Overlay,
    discovery: Discovery,
    resolver: Arc<NameResolver>,
    /// Where the configuration is read from; `None`: it came from flags.
    file: Option<PathBuf>,
    watcher: Option<Watcher>,
    /// When the process began to serve.
    since: StartTime,
    /// How the newest reload went.
    reload: Option<ReloadState>,
    keys: CookieKeys,
    tickets: TicketKeys,
    listeners: Listeners,
    /// Every live backend, those on their way out included.
    backends: Vec<Arc<Backend>>,
    /// Probes by backend serial.
    probes: HashMap<u64, Probing>,
    drains: Drains,
    rebalance: Rebalancer,
    on_down: OnDown,
    handoff: HandoffState,
    acme: acme::ManagedCertificates,
    /// On its way out: nothing is accepted any more.
    shutting_down: bool,
    /// Tells the service manager.
    notifier: Notifier,
}

/// Something for the control task to do.
#[derive(Debug)]
pub enum ControlRequest {
    /// A watched file has changed: read the configuration again and apply it.
    Changed,
    /// Apply this configuration.
    Apply(Box<Config>, oneshot::Sender<Result<Changes, String>>),
    /// Reopen the access log and reload: what SIGHUP means.
    Hangup,
    /// A pool's source has answered, or failed to.
    Discovered {
        /// The pool.
        pool: String,
        /// Its backends, or why there is no answer.
        outcome: Result<Vec<config::BackendConfig>, SourceError>,
    },
    /// Carry an operator's order out, or answer a question.
    Command(ControlCommand),
    /// Stop accepting and drain; answered when everything has ended or was cut.
    Shutdown(oneshot::Sender<()>),
}

impl ControlTask {
    /// The control loop; ends after a stop.
    pub(crate) async fn run(
        mut self,
        file: Option<PathBuf>,
        mut requests: mpsc::Receiver<ControlRequest>,
        again: mpsc::WeakSender<ControlRequest>,
    ) {
        self.file = file;
        self.discovery.report_to(again.clone());
        self.discovery.follow(&self.file_config.pools, |pool| self.overlay.last_good(pool));
        if self.file.is_some() {
            self.watcher = Some(Watcher::new(again, self.file_config.reload));
            // An edit between the first reading and the watch would go unseen.
            self.read_again(ReloadCause::Start).await;
        }
        self.acme.start();
        self.notifier.ready();
        let mut alive = Notifier::watchdog().map(tokio::time::interval);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut pools = tokio::time::interval(upstream::TICK_INTERVAL);
        let mut resolve = tokio::time::interval_at(Instant::now() + RESOLVE_AGAIN, RESOLVE_AGAIN);
        let mut rebalance = tokio::time::interval(rebalance::TICK);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(ControlRequest::Shutdown(answer)) => {
                        self.shut_down(&mut requests).await;
                        let _ = answer.send(());
                        return;
                    }
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                (outcome, answer) = self.handoff.finished() => {
                    if let Some(successor) = self.handoff_finished(outcome, answer) {
                        self.shut_down_after_handoff(successor, &mut requests).await;
                        return;
                    }
                }
                () = tick(&mut alive) => self.notifier.alive(),
                _ = housekeeping.tick() => self.run_housekeeping(),
                _ = pools.tick() => self.tick_pools(),
                _ = resolve.tick() => self.resolver.again(&self.backends),
                _ = rebalance.tick() => self.close_due_tunnels(),
            }
        }
    }

    /// Does what is asked, but for a stop.
    async fn serve(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Changed => self.reload(ReloadCause::Change).await,
            ControlRequest::Hangup => {
                self.reopen_logs();
                self.reload(ReloadCause::Command).await;
                self.acme.retry();
            }
            ControlRequest::Apply(config, answer) => {
                let outcome = self.apply(*config).await.map_err(|e| e.to_string());
                let _ = answer.send(outcome);
            }
            ControlRequest::Discovered { pool, outcome } => self.discovered(pool, outcome).await,
            ControlRequest::Command(order) => self.run_command(order).await,
            ControlRequest::Shutdown(answer) => drop(answer),
        }
    }

    fn reopen_logs(&self) {
        tls::reopen_key_logs();
        if let Err(error) = self.proxy.log.load().reopen() {
            tracing::error!(%error, "cannot reopen the access log; lines go to the old file");
        }
    }

    /// Puts what a source has found in force.
    async fn discovered(
        &mut self,
        pool: String,
        outcome: Result<Vec<config::BackendConfig>, SourceError>,
    ) {
        let asks = |known: &config::PoolConfig| known.name == pool && known.source.is_some();
        if !self.file_config.pools.iter().any(asks) {
            // It was queued before a reload that has taken the source away.
            return;
        }
        let mut overlay = self.overlay.clone();
        let name = pool.clone();
        if !overlay.found(pool, outcome) {
            self.overlay = overlay;
            return;
        }
        match self.compose(self.file_config.clone(), overlay).await {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => tracing::info!(pool = name, %changes, "the pool's source has changed"),
            Err(error) => {
                tracing::error!(pool = name, %error, "what the source says cannot be put in force")
            }
        }
    }

    /// Relieves backends of tunnels beyond their share, and everybody of those that are too old or whose
    /// backend is down.
    fn close_due_tunnels(&mut self) {
        self.rebalance.tick(&self.config.pools, &self.backends, &self.proxy);
        self.rebalance.close_aged(&self.config.pools, &self.backends, &self.proxy);
        self.on_down.tick(&self.config.pools, &self.backends, &self.proxy);
    }

    /// Lets backends grow into their weight, and in again after an ejection.
    fn tick_pools(&self) {
        let now = std::time::Instant::now();
        for pool in &self.proxy.snapshot.load().pools {
            pool.upstream.tick(now);
        }
    }

    fn run_housekeeping(&mut self) {
        let now = std::time::Instant::now();
        self.proxy.sids.sweep(now);
        for backend in &self.backends {
            backend.idle().sweep(now);
        }
        self.forget_removed();
        let (sessions, tunnels) = (self.proxy.sids.len(), self.proxy.tunnels.len());
        self.notifier.status(format_args!("{sessions} sessions, {tunnels} tunnels"));
    }

    /// Drains the whole process: no new connections, requests and tunnels until the deadline.
    async fn shut_down(&mut self, requests: &mut mpsc::Receiver<ControlRequest>) {
        self.handoff.cancel();
        self.acme.stop();
        self.notifier.stopping();
        self.shutting_down = true;
        let (config, shutdown) = (self.config.drain, Arc::clone(self.drains.shutdown()));
        self.proxy.not_ready.store(true, Ordering::Release);
        self.listeners.close_all();
        tracing::info!(deadline = ?config.within, tunnels = self.proxy.tunnels.len(), "shutting down");
        shutdown.begin(config);
        let proxy = Arc::clone(&self.proxy);
        let mut closes = pin!(shutdown.close_tunnels(&proxy));
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let over = loop {
            tokio::select! {
                () = self.listeners.idle() => break false,
                () = &mut closes => break true,
                Some(request) = requests.recv() => self.answer_during_shutdown(request),
                _ = housekeeping.tick() => self.run_housekeeping(),
            }
        };
        if over {
            self.cut().await;
        }
        self.finish_shutdown();
    }

    /// To the end, somebody may ask how far it is; whoever asks for anything else hears that the process
    /// is stopping.
    fn answer_during_shutdown(&self, request: ControlRequest) {
        if let ControlRequest::Command(ControlCommand::Status(answer)) = request {
            let _ = answer.send(Ok(self.status()));
        }
    }

    /// Ends what serves until the end.
    fn finish_shutdown(&mut self) {
        self.probes.values().for_each(Probing::stop);
        // Nobody writes any more: dropping the log writes out what it still holds.
        if let Ok(off) = AccessLog::open(&config::AccessLogConfig::Off, Default::default()) {
            self.proxy.log.store(Arc::new(off));
        }
    }
}

/// The next tick, where there are any.
async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Seconds since 1970.
fn unix_now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
