//! `moorline status`: shows the state of the running process and its parts.

use std::{fmt::Write as _, process::ExitCode};

use super::{
    backends,
    client::Access,
    show::{self, Cell, Color, Column, Table, counted, paint, plain},
};
use crate::api::{
    BackendCondition, BackendState, CertificateState, ListenerState, PoolState, ProcessState,
    Status,
};

/// Maximum number of backends of a pool whose failures are shown.
const MAX_REASONS: usize = 3;

/// Arguments of `status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline status
  moorline status --json | jq .tunnels
  moorline status --api http://10.0.0.1:9091 --token-file token")]
pub struct Args {
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the request and prints the reply.
    ///
    /// # Errors
    /// The process cannot be reached or does not reply.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.access.get::<Status>("/v1/status").await?.print(&self.access, text);
        Ok(ExitCode::SUCCESS)
    }
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let (state, color) = match status.state {
        ProcessState::Serving => ("serving", Color::Good),
        ProcessState::Draining => ("draining", Color::Warning),
        ProcessState::Stopping => ("stopping", Color::Warning),
    };
    let (version, up) = (plain(&status.version), show::seconds(status.uptime));
    let state = paint(state, color);
    let _ = writeln!(text, "Moorline {version}, process {}, {state}, up {up}", status.pid);
    let _ = writeln!(
        text,
        "{}, {}",
        counted(status.connections, "connection"),
        show::sessions(status.sessions, status.tunnels)
    );
    if let Some(drain) = &status.drain {
        let _ = writeln!(text, "draining: {}", show::drain(drain));
    }
    for predecessor in &status.predecessors {
        let left = show::drain(&predecessor.drain);
        let _ = writeln!(text, "predecessor process {} shuts down: {left}", predecessor.pid);
    }
    match status.reload.as_ref().map(|reload| (ago(reload.at), &reload.error)) {
        None => text.push_str("last reload: none yet\n"),
        Some((ago, None)) => {
            let _ = writeln!(text, "last reload {ago}");
        }
        Some((ago, Some(error))) => {
            let rejected = paint("rejected", Color::Bad);
            let _ = writeln!(text, "last reload {rejected} {ago}:\n{}", show::escaped_lines(error));
        }
    }
    let _ = write!(text, "\n{}\n{}", listeners(status), pools(&status.pools));
    text
}

fn ago(then: f64) -> String {
    format!("{} ago", show::seconds(show::unix_now() - then))
}

fn listeners(status: &Status) -> String {
    let columns = [
        Column::name("LISTENER", 8),
        Column::text("PROTOCOL"),
        Column::name("ADDRESSES", 21),
        Column::note("CERTIFICATES"),
    ];
    let mut table = Table::new(&columns);
    for listener in &status.listeners {
        let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        let (name, protocol) = (listener.name.as_str(), listener.protocol.as_str());
        let mut addresses = addresses.into_iter();
        let first = addresses.next().unwrap_or_default();
        table.row([name.into(), protocol.into(), first.into(), certificates(listener)]);
        for more in addresses {
            table.row(["".into(), "".into(), more.into(), "".into()]);
        }
    }
    table.text()
}

/// Formats the certificates with names and remaining validity, or the error if there is none.
fn certificates(listener: &ListenerState) -> Cell {
    let valid = |certificate: &CertificateState| {
        let names = certificate.names.join(" ");
        match certificate.expires.map(|at| at - show::unix_now()) {
            Some(left) if left > 0.0 => format!("{names} for {}", show::seconds(left)),
            Some(_) => format!("{names} EXPIRED"),
            None => names,
        }
    };
    let all: Vec<String> = listener.certificates.iter().map(valid).collect();
    match &listener.certificate_error {
        Some(error) if all.is_empty() => {
            Cell::colored(&format!("none: {}", plain(error)), Color::Bad)
        }
        Some(_) => Cell::colored(&format!("{}; renewal fails", all.join(", ")), Color::Warning),
        None => all.join(", ").into(),
    }
}

fn pools(pools: &[PoolState]) -> String {
    let mut table = Table::new(&[
        Column::name("POOL", 6),
        Column::text("BALANCE"),
        Column::text("BACKENDS FROM"),
        Column::number("UP"),
        Column::number("SESSIONS"),
        Column::number("TUNNELS"),
        Column::note("NOTE"),
    ]);
    for pool in pools {
        let sum = |of: fn(&BackendState) -> u64| -> u64 { pool.backends.iter().map(of).sum() };
        let takes = |state| {
            matches!(
                state,
                BackendCondition::Up | BackendCondition::SlowStart | BackendCondition::Standby
            )
        };
        let up = pool.backends.iter().filter(|backend| takes(backend.state)).count();
        let leaves = |backend: &&BackendState| backend.state == BackendCondition::Leaving;
        let leaving = pool.backends.iter().filter(leaves).count();
        let all = pool.backends.len() - leaving;
        let color = match up {
            _ if pool.removed => Color::Warning,
            0 => Color::Bad,
            up if up < all => Color::Warning,
            _ => Color::Good,
        };
        table.row([
            pool.name.as_str().into(),
            pool.balance.as_str().into(),
            pool.source.as_str().into(),
            Cell::colored(&format!("{up}/{all}"), color),
            sum(|backend| backend.sessions).into(),
            sum(|backend| backend.tunnels).into(),
            note(pool, leaving),
        ]);
    }
    table.text()
}

/// Formats errors of the source, failures of backends, and the number of removed backends.
fn note(pool: &PoolState, leaving: usize) -> Cell {
    let mut parts: Vec<String> = pool.source_error.iter().cloned().collect();
    let down = pool.backends.iter().filter_map(|backend| {
        let reason = backend.reason.as_ref()?;
        Some(format!("{} is {}: {reason}", backend.name, backends::state_label(backend.state).0))
    });
    let down: Vec<String> = down.collect();
    let more = down.len().saturating_sub(MAX_REASONS);
    parts.extend(down.into_iter().take(MAX_REASONS));
    if more > 0 {
        parts.push(format!("{more} more: see `moorline backends`"));
    }
    let bad = !parts.is_empty();
    if pool.removed {
        parts.push("removed".to_owned());
    }
    if leaving > 0 {
        parts.push(format!("{leaving} leaving"));
    }
    Cell::colored(&parts.join("; "), if bad { Color::Bad } else { Color::Default })
}
