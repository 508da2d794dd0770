//! Changes to the running process: reloads, discovery, health, drains, commands, handoff and shutdown.
//!
//! One task, [`ControlTask`], makes all changes, in the order of the requests in its channel. So two changes
//! never interleave. Only this task writes the snapshot, and the data path always reads one whole
//! configuration.
//!
//! From an edited file to a running configuration:
//!
//! 1. **load** reads the files.
//! 2. **check** validates them, and yields a [`Config`] or every fault.
//! 3. **plan** compares the configuration with the running one. It counts the sessions that would be
//!    disconnected, and rejects the change if they are more than the limit.
//! 4. **apply** makes the configuration effective with one swap of the snapshot, or changes nothing.
//!
//! A **reload** is the operator's action: all four, then a log line and a count. What sources of backends find
//! and what commands change is kept in an overlay; a new overlay is planned and applied on the same file.

mod apply;
mod commands;
mod connectors;
mod discovery;
mod drain;
mod explain;
pub mod handle;
mod handoff;
mod health;
mod heap;
mod held;
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
mod resources;
mod sessions;
mod start;
mod upkeep;
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
    task::{JoinSet, spawn_blocking},
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
    heap::HeapRelease,
    listeners::Listeners,
    on_down::OnDown,
    overlay::Overlay,
    rebalance::Rebalancer,
    reload::{ReloadCause, Reloads},
    report::StartTime,
    resolve::{NameResolver, ResolvedNames},
    resources::Resources,
    upkeep::{HOUSEKEEPING, Upkeep},
    watch::Watcher,
};
use crate::{
    acme,
    api::ReloadState,
    config::{self, Config},
    net::tls::{self, TicketKeys},
    observe::{AccessLog, LogEnd},
    shared::SharedState,
    sticky::CookieKeys,
    systemd::Notifier,
    upstream::Backend,
};

/// Pause between two attempts to cut what is left at the end of a shutdown.
const CUT_AGAIN: Duration = Duration::from_millis(100);

/// Makes all changes to the process. Holds everything that outlives a configuration.
pub struct ControlTask {
    proxy: Arc<SharedState>,
    /// The configuration of the file.
    file_config: Config,
    /// The effective configuration: the file's, with the overlay.
    config: Config,
    /// Removed pools that still have backends, as they were configured.
    removed_pools: Vec<config::PoolConfig>,
    overlay: Overlay,
    discovery: Discovery,
    resolver: Arc<NameResolver>,
    /// The configuration file; `None`: the process runs from flags.
    file: Option<PathBuf>,
    watcher: Option<Watcher>,
    /// When the process started to serve.
    started: StartTime,
    /// The outcome of the last reload.
    reload: Option<ReloadState>,
    reloads: Reloads,
    upkeep: Upkeep,
    heap: HeapRelease,
    keys: CookieKeys,
    tickets: TicketKeys,
    listeners: Listeners,
    /// Every live backend, including removed backends that drain.
    backends: Vec<Arc<Backend>>,
    /// Probes by backend serial.
    probes: HashMap<u64, Probing>,
    drains: Drains,
    rebalance: Rebalancer,
    on_down: OnDown,
    handoff: HandoffState,
    acme: acme::ManagedCertificates,
    /// Access logs that were replaced and may still write their last lines.
    old_logs: Vec<LogEnd>,
    /// The process shuts down and accepts nothing.
    shutting_down: bool,
    /// Notifies the service manager.
    notifier: Notifier,
}

/// A request to the control task.
#[derive(Debug)]
pub enum ControlRequest {
    /// Plan and apply this configuration of the file.
    Apply(Box<Config>, oneshot::Sender<Result<Changes, CommandError>>),
    /// SIGHUP: reopen the access log and reload.
    Hangup,
    /// A pool's source has given another answer, or failed.
    Discovered {
        /// The pool.
        pool: String,
        /// Its backends, or why the answer is not valid.
        outcome: Result<Vec<config::BackendConfig>, SourceError>,
        /// Addresses of the names among these backends.
        names: ResolvedNames,
    },
    /// Run an operator's command or query.
    Command(ControlCommand),
    /// Shut down. The reply follows when every connection has ended or was cut.
    Shutdown(oneshot::Sender<()>),
}

impl ControlTask {
    /// Serves requests until a shutdown or a handoff.
    pub(crate) async fn run(
        mut self,
        file: Option<PathBuf>,
        mut requests: mpsc::Receiver<ControlRequest>,
        again: mpsc::WeakSender<ControlRequest>,
    ) {
        self.file = file;
        self.discovery.report_to(again);
        self.discovery.follow(&self.file_config.pools, |pool| self.overlay.last_good(pool));
        if self.file.is_some() {
            self.watcher = Some(Watcher::new(self.file_config.reload));
            // The file may have changed between the first load and the first watch.
            self.request_reload(ReloadCause::Start, None, None);
        }
        self.acme.start();
        self.notifier.ready();
        let mut alive = Notifier::watchdog().map(tokio::time::interval);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(ControlRequest::Shutdown(reply)) => {
                        self.shut_down(&mut requests).await;
                        let _ = reply.send(());
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
                () = changed(self.watcher.as_ref()) => {
                    self.request_reload(ReloadCause::FileChange, None, None);
                }
                event = self.reloads.event() => self.handle_reload_event(event).await,
                () = tick(&mut alive) => self.notifier.alive(),
                () = self.upkeep.due() => self.run_upkeep(),
            }
        }
    }

    /// Serves any request except a shutdown.
    async fn serve(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Hangup => {
                #[cfg(debug_assertions)]
                stall_on_request();
                self.reopen_logs();
                self.request_reload(ReloadCause::Signal, None, None);
                if self.file.is_none() {
                    self.acme.retry();
                }
            }
            ControlRequest::Apply(config, reply) => {
                let planned = self.plan_file(*config);
                let failed = |error: apply::ApplyError| CommandError::Failed(error.to_string());
                let outcome = self.apply(planned, Resources::default()).await;
                let _ = reply.send(outcome.map_err(failed));
            }
            ControlRequest::Discovered { pool, outcome, names } => {
                self.discovered(pool, outcome, names).await;
            }
            ControlRequest::Command(command) => self.run_command(command).await,
            ControlRequest::Shutdown(reply) => drop(reply),
        }
    }

    /// Reopens the log files after a rotation. A slow disk does not delay the control task.
    fn reopen_logs(&self) {
        let log = self.proxy.log.load_full();
        spawn_blocking(move || {
            tls::reopen_key_logs();
            if let Err(error) = log.reopen() {
                tracing::error!(%error, "cannot reopen the access log; writing to the old file");
            }
        });
    }

    /// Writes new access-log lines to `log`. The old log writes its last lines by itself.
    fn replace_log(&mut self, log: AccessLog) {
        self.old_logs.retain(|end| !end.is_reached());
        self.old_logs.extend(self.proxy.log.load().end());
        self.proxy.log.store(Arc::new(log));
    }

    /// Plans and applies the answer of a pool's source.
    async fn discovered(
        &mut self,
        pool: String,
        outcome: Result<Vec<config::BackendConfig>, SourceError>,
        names: ResolvedNames,
    ) {
        let has_source = |known: &config::PoolConfig| known.name == pool && known.source.is_some();
        if !self.file_config.pools.iter().any(has_source) {
            // A reload has removed the source since the answer was sent.
            return;
        }
        let mut overlay = self.overlay.clone();
        let name = pool.clone();
        if !overlay.record_answer(pool, outcome) {
            self.overlay = overlay;
            return;
        }
        let planned = self.plan_overlay(overlay);
        match self.apply(planned, Resources { names, ..Resources::default() }).await {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                tracing::info!(pool = name, %changes, "the backends of the pool's source have changed")
            }
            Err(error) => {
                tracing::error!(pool = name, %error, "cannot apply the backends of the pool's source; the old backends stay")
            }
        }
    }

    /// Shuts down: accepts no connections, lets requests and tunnels end, and cuts the rest at the deadline.
    async fn shut_down(&mut self, requests: &mut mpsc::Receiver<ControlRequest>) {
        self.handoff.cancel().await;
        // Dropping the requests reports that the process shuts down.
        self.reloads = Reloads::default();
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
        let deadline_passed = loop {
            tokio::select! {
                () = self.listeners.idle() => break false,
                () = &mut closes => break true,
                Some(request) = requests.recv() => self.answer_during_shutdown(request),
                _ = housekeeping.tick() => self.run_housekeeping(),
            }
        };
        if deadline_passed {
            self.cut().await;
        }
        self.finish_shutdown().await;
    }

    /// Answers status queries until the end. Dropping any other request reports that the process shuts down.
    fn answer_during_shutdown(&self, request: ControlRequest) {
        if let ControlRequest::Command(ControlCommand::Status(reply)) = request {
            let _ = reply.send(Ok(self.status()));
        }
    }

    /// Stops probes and writes out the access logs.
    async fn finish_shutdown(&mut self) {
        self.probes.values().for_each(Probing::stop);
        if let Ok(off) = AccessLog::open(&config::AccessLogConfig::Off, Default::default()) {
            self.replace_log(off);
        }
        let mut writing = JoinSet::new();
        for end in self.old_logs.drain(..) {
            writing.spawn_blocking(move || end.wait());
        }
        writing.join_all().await;
    }
}

/// Resolves when a watched file has changed; never without a watcher.
async fn changed(watcher: Option<&Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

/// Resolves at `at`; never if it is `None`.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Lets tests observe a control task that is stuck. Not in release builds.
#[cfg(debug_assertions)]
fn stall_on_request() {
    if std::env::var_os("MOORLINE_TEST_STALL_CONTROL").is_some() {
        tracing::info!("the control task is stuck");
        std::thread::sleep(Duration::from_secs(2));
        tracing::info!("the control task continues");
    }
}

/// Resolves at the next tick; never without an interval.
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
