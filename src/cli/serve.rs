//! Starts a process and runs it until it ends: the common part of `run`, `proxy` and `demo`.

use std::{
    env,
    fmt::Write as _,
    io::Write as _,
    path::{self, Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::limit;
use crate::{
    app::{App, ProcessHandle, RunningProcess},
    config::{self, AccessLogConfig, BackendSource, Config, ListenerProtocol, ProbeConfig},
    handoff::{HandoffChannel, Launch, LaunchError},
    observe::log,
    runtimes::Workers,
    systemd,
    tunnel::splice,
};

/// How long a SIGHUP waits for further ones, so that many signals cause few reloads.
const HANGUP_DELAY: Duration = Duration::from_millis(50);

/// Returns a text for the terminal. Called once with the running process.
pub(super) type Greeting<'a> = Box<dyn FnOnce(&RunningProcess) -> String + 'a>;

/// What to serve.
pub(super) struct Service<'a, L> {
    /// Returns the configuration.
    pub(super) load: L,
    /// The configuration file, which is watched.
    pub(super) file: Option<PathBuf>,
    /// Starts work beside the running proxy, and returns a text for the terminal.
    pub(super) greeting: Option<Greeting<'a>>,
    /// Why this process cannot be handed over to another; `None`: it can.
    pub(super) stays: Option<&'static str>,
    /// The runtime that runs the connections.
    pub(super) workers: Workers,
}

/// Signals that shut down the process. Handlers are installed first, because an unhandled signal ends
/// the process at once.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Binds, or takes over from the process that has started this one. Prints the addresses and a greeting,
/// serves until SIGTERM or SIGINT, then shuts down. A second signal exits at once.
///
/// # Errors
/// The process could not start.
pub(super) async fn serve<L>(service: Service<'_, L>) -> anyhow::Result<ExitCode>
where
    L: FnOnce() -> anyhow::Result<Config>,
{
    let mut signals = Signals::new()?;
    if env::var_os("MOORLINE_SPLICE").is_some_and(|value| value == "off") {
        splice::forbid();
    }
    limit::raise();
    // Install the handlers before the process announces itself.
    let hangups = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let upgrades = signal(SignalKind::user_defined2()).context("cannot handle SIGUSR2")?;
    let launch = match service.stays.or_else(alone) {
        None => Launch::own(),
        Some(reason) => Err(LaunchError::NotSupported(reason)),
    };
    let (mut app, summary) = tokio::select! {
        begun = begin(service.load, service.workers) => begun?,
        () = signals.stop() => return Ok(ExitCode::FAILURE),
    };
    tokio::select! {
        accepting = app.accept() => accepting?,
        // Connections may have been accepted already: shut down gracefully.
        () = signals.stop() => return shut_down(app.start(service.file, launch), signals).await,
    }
    log::announce(&banner(&app, &summary, service.file.as_deref()));
    let mut running = app.start(service.file, launch);
    if let Some(greeting) = service.greeting {
        // A closed standard output is not a reason to stop.
        let _ = writeln!(std::io::stdout(), "{}", greeting(&running));
    }
    let hangups = tokio::spawn(handle_hangups(hangups, running.remote()));
    tokio::spawn(handle_upgrades(upgrades, running.remote()));
    tokio::select! {
        () = signals.stop() => {}
        ended = running.ended() => {
            ended.context("the control task failed")?;
            running.admin_idle().await;
            return Ok(ExitCode::SUCCESS);
        }
    }
    hangups.abort();
    shut_down(running, signals).await
}

/// Shuts down; a second signal exits at once.
async fn shut_down(running: RunningProcess, mut signals: Signals) -> anyhow::Result<ExitCode> {
    tokio::select! {
        () = running.shut_down() => Ok(ExitCode::SUCCESS),
        () = signals.stop() => Ok(ExitCode::FAILURE),
    }
}

/// Why a process cannot be handed over that others live and die with.
fn alone() -> Option<&'static str> {
    let first = std::process::id() == 1;
    first.then_some(
        "this process is the first of its container (PID 1): the container ends with it; start another \
         container instead",
    )
}

/// What the banner shows of the configuration.
struct Summary {
    /// Listener names, each with its URL scheme.
    schemes: Vec<(String, &'static str)>,
    /// A line for each pool.
    pools: Vec<String>,
    access_log: String,
}

impl Summary {
    fn of(config: &Config) -> Self {
        let schemes = config.listeners.iter().map(|l| (l.name.clone(), scheme(&l.protocol)));
        let access_log = match &config.access_log {
            AccessLogConfig::Off => "off".to_owned(),
            AccessLogConfig::Stdout => "standard output".to_owned(),
            AccessLogConfig::File(path) => path.display().to_string(),
        };
        let pools = config.pools.iter().map(pool).collect();
        Self { schemes: schemes.collect(), pools, access_log }
    }
}

/// Does everything up to the first connection. A process that takes over accepts after this.
async fn begin(
    load: impl FnOnce() -> anyhow::Result<Config>,
    workers: Workers,
) -> anyhow::Result<(App, Summary)> {
    let Some(handed) = HandoffChannel::from_stdin()? else {
        // `passed` changes the environment; no other thread reads it yet.
        let given = systemd::passed();
        let config = load()?;
        let summary = Summary::of(&config);
        return Ok((App::bind(config, given, workers).await?, summary));
    };
    let joining = handed.receive().await.context("cannot take over from the old process")?;
    match load() {
        Ok(config) => {
            let summary = Summary::of(&config);
            Ok((App::take_over(config, joining, workers).await?, summary))
        }
        Err(error) => {
            joining.fail(&format!("{error:#}")).await;
            Err(error)
        }
    }
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot handle SIGINT")?,
        })
    }

    /// Resolves at SIGTERM or SIGINT. Cancel-safe.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Starts an upgrade at each SIGUSR2. The control task logs failures.
async fn handle_upgrades(mut signals: Signal, remote: ProcessHandle) {
    while signals.recv().await.is_some() {
        let remote = remote.clone();
        tokio::spawn(async move { remote.upgrade().await });
    }
}

/// Reloads at each SIGHUP.
async fn handle_hangups(mut hangups: Signal, remote: ProcessHandle) {
    while hangups.recv().await.is_some() {
        // Signals that arrive in the meantime are merged into one.
        tokio::time::sleep(HANGUP_DELAY).await;
        remote.hang_up().await;
    }
}

/// Returns the banner: one fact per line; the last line is `ready`.
fn banner(app: &App, summary: &Summary, file: Option<&Path>) -> String {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let mut text = format!("Moorline {version}, process {pid}, ");
    let _ = match file.map(|file| path::absolute(file).unwrap_or_else(|_| file.to_owned())) {
        Some(file) => writeln!(text, "configuration {}", file.display()),
        None => writeln!(text, "configuration from flags"),
    };
    for (name, address) in app.addresses() {
        let scheme = summary.schemes.iter().find(|(of, _)| *of == name).map_or("http", |(_, s)| s);
        let _ = writeln!(text, "listening on {scheme}://{address} ({name})");
    }
    for pool in &summary.pools {
        let _ = writeln!(text, "{pool}");
    }
    let admin = app.admin();
    if let Some(address) = admin.metrics_address() {
        let _ = writeln!(text, "metrics on http://{address}/metrics");
    }
    if let Some(path) = admin.path() {
        let _ = writeln!(text, "admin API on {}", path.display());
    }
    if let Some(address) = admin.remote_address() {
        let _ = writeln!(text, "admin API on http://{address}");
    }
    let _ = writeln!(text, "access log: {}; this log: standard error", summary.access_log);
    text.push_str("ready");
    text
}

fn pool(pool: &config::PoolConfig) -> String {
    let backends = match &pool.source {
        Some(BackendSource::Dns(dns)) => format!("backends from dns {}:{}", dns.name, dns.port),
        Some(BackendSource::Srv(dns)) => format!("backends from srv {}", dns.name),
        Some(BackendSource::Http(list)) => {
            format!("backends from {}", config::url_without_secrets(&list.url))
        }
        None if pool.backends.len() == 1 => "1 backend".to_owned(),
        None => format!("{} backends", pool.backends.len()),
    };
    let probe = match &pool.health.probe {
        ProbeConfig::Off => "no health check".to_owned(),
        ProbeConfig::Tcp => "health check tcp".to_owned(),
        ProbeConfig::Http { path, .. } => format!("health check http {path}"),
        ProbeConfig::EngineIo { path, .. } => format!("health check engine.io {path}"),
        ProbeConfig::WebSocket { path, .. } => format!("health check websocket {path}"),
    };
    format!("pool {}: {backends}, {}, {probe}", pool.name, pool.balance.name())
}

fn scheme(protocol: &ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https(_) => "https",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => "tls",
    }
}
