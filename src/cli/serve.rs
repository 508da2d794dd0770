//! From a configuration to an exit code: what `run` and `proxy` have in common.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    admin::Sockets,
    app::{App, Remote},
    config::{Config, Protocol},
};

/// How long a SIGHUP waits for company: a storm of them is few reloads.
const GATHER: Duration = Duration::from_millis(50);

/// Binds, prints the addresses and a greeting, serves until SIGTERM or SIGINT, drains. A second signal exits at
/// once.
///
/// # Errors
/// What kept it from starting.
pub(super) async fn serve(
    config: Config,
    file: Option<PathBuf>,
    greeting: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    // Before anybody can know that we are there: unhandled, a SIGHUP ends the process.
    let hangups = signal(SignalKind::hangup()).context("SIGHUP cannot be handled")?;
    let schemes: Vec<(String, &str)> =
        config.listeners.iter().map(|l| (l.name.clone(), scheme(&l.protocol))).collect();
    let app = App::bind(config).await?;
    announce(&app.addresses(), &schemes, app.admin());
    if let Some(greeting) = greeting {
        // Nobody need read it: a closed pipe is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{greeting}");
    }
    let running = app.start(file);
    let hangups = tokio::spawn(hang_ups(hangups, running.remote()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    hangups.abort();
    tokio::select! {
        () = running.drain() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

async fn hang_ups(mut hangups: Signal, remote: Remote) {
    while hangups.recv().await.is_some() {
        // Those that come meanwhile become one.
        tokio::time::sleep(GATHER).await;
        remote.hang_up().await;
    }
}

/// One line an address, then `ready`: connections are accepted from here on.
fn announce(addresses: &[(String, SocketAddr)], schemes: &[(String, &str)], admin: &Sockets) {
    let mut err = std::io::stderr().lock();
    for (name, address) in addresses {
        let scheme = schemes.iter().find(|(of, _)| of == name).map_or("http", |(_, s)| s);
        let _ = writeln!(err, "listening on {scheme}://{address} ({name})");
    }
    if let Some(address) = admin.metrics_address() {
        let _ = writeln!(err, "metrics on http://{address}/metrics");
    }
    if let Some(path) = admin.path() {
        let _ = writeln!(err, "admin API on {}", path.display());
    }
    if let Some(address) = admin.remote_address() {
        let _ = writeln!(err, "admin API on http://{address}");
    }
    let _ = writeln!(err, "ready");
}

fn scheme(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Https { .. } => "https",
    }
}
