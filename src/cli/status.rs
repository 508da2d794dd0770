//! `moorline status`: the running process and everything in it, at a glance.

use std::{fmt::Write as _, process::ExitCode};

use super::{
    client::Access,
    show::{self, Cell, Column, Ink, Table, counted, paint, plain},
};
use crate::admin::api::{
    BackendCondition, CertificateState, ListenerState, PoolState, ProcessState, Status,
};

/// Arguments of `status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline status
  moorline status --json | jq .tunnels
  moorline status --api http://10.0.0.1:9091 --token-file token")]
pub struct Args {
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Asks and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.access.get::<Status>("/v1/status").await?.print(&self.access, words);
        Ok(ExitCode::SUCCESS)
    }
}

fn words(status: &Status) -> String {
    let mut text = String::new();
    let (state, ink) = match status.state {
        ProcessState::Serving => ("serving", Ink::Good),
        ProcessState::Draining => ("draining", Ink::Note),
        ProcessState::Stopping => ("stopping", Ink::Note),
    };
    let (version, up) = (plain(&status.version), show::seconds(status.uptime));
    let state = paint(state, ink);
    let _ = writeln!(text, "Moorline {version}, process {}, {state}, up {up}", status.pid);
    let _ = writeln!(
        text,
        "{}, {}, {}",
        counted(status.connections, "connection"),
        counted(status.tunnels, "tunnel"),
        counted(status.sessions, "session")
    );
    if let Some(drain) = &status.drain {
        let _ = writeln!(text, "draining: {}", show::drain(drain));
    }
    for before in &status.predecessors {
        let left = show::drain(&before.drain);
        let _ = writeln!(text, "process {}, before this one, drains: {left}", before.pid);
    }
    if let Some(reload) = &status.reload {
        let ago = ago(reload.at);
        match &reload.error {
            None => {
                let _ = writeln!(text, "last reload {ago}");
            }
            Some(why) => {
                let refused = paint("refused", Ink::Bad);
                let _ = writeln!(text, "last reload {refused} {ago}:\n{}", show::lines(why));
            }
        }
    }
    let _ = write!(text, "\n{}\n{}", listeners(status), pools(&status.pools));
    text
}

fn ago(then: f64) -> String {
    format!("{} ago", show::seconds(unix_now() - then))
}

fn unix_now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

fn listeners(status: &Status) -> String {
    let columns = [
        Column::text("LISTENER"),
        Column::text("PROTOCOL"),
        Column::text("ADDRESSES"),
        Column::text("CERTIFICATES"),
    ];
    let mut table = Table::new(&columns);
    for listener in &status.listeners {
        let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        let (name, protocol) = (listener.name.as_str(), listener.protocol.as_str());
        let addresses = addresses.join(", ");
        table.row([name.into(), protocol.into(), addresses.into(), certificates(listener)]);
    }
    table.text()
}

/// Names, and how long each certificate is valid; or why there is none.
fn certificates(listener: &ListenerState) -> Cell {
    let valid = |certificate: &CertificateState| {
        let names = certificate.names.join(" ");
        match certificate.expires.map(|at| at - unix_now()) {
            Some(left) if left > 0.0 => format!("{names} for {}", show::seconds(left)),
            Some(_) => format!("{names} EXPIRED"),
            None => names,
        }
    };
    let all: Vec<String> = listener.certificates.iter().map(valid).collect();
    match &listener.certificate_error {
        Some(why) if all.is_empty() => Cell::inked(&format!("none: {}", plain(why)), Ink::Bad),
        Some(_) => Cell::inked(&format!("{}; renewing it fails", all.join(", ")), Ink::Note),
        None => all.join(", ").into(),
    }
}

fn pools(pools: &[PoolState]) -> String {
    let mut table = Table::new(&[
        Column::text("POOL"),
        Column::text("BALANCE"),
        Column::text("BACKENDS FROM"),
        Column::number("UP"),
        Column::number("SESSIONS"),
        Column::number("TUNNELS"),
        Column::text("NOTE"),
    ]);
    for pool in pools {
        let sum = |of: fn(&crate::admin::api::BackendState) -> u64| -> u64 {
            pool.backends.iter().map(of).sum()
        };
        let takes = |state| matches!(state, BackendCondition::Up | BackendCondition::SlowStart);
        let up = pool.backends.iter().filter(|backend| takes(backend.state)).count();
        let ink = match up {
            0 => Ink::Bad,
            up if up < pool.backends.len() => Ink::Note,
            _ => Ink::Good,
        };
        table.row([
            pool.name.as_str().into(),
            pool.balance.as_str().into(),
            pool.source.as_str().into(),
            Cell::inked(&format!("{up}/{}", pool.backends.len()), ink),
            sum(|backend| backend.sessions).into(),
            sum(|backend| backend.tunnels).into(),
            Cell::inked(pool.source_error.as_deref().unwrap_or_default(), Ink::Bad),
        ]);
    }
    table.text()
}
