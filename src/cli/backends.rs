//! `moorline backends`: who is in the pools, and changes to that until restart.

use std::{fmt::Write as _, process::ExitCode};

use http::Method;

use super::{
    client::{Access, NOTHING, segment},
    number,
    show::{self, Cell, Column, Ink, Table, plain},
};
use crate::api::{BackendCondition, BackendOrigin, BackendState, NewBackend, NewWeight, Pools};

/// Seconds for which the last failed check of a backend that is up is shown.
const RECENT: f64 = 3600.0;

/// Arguments of `backends`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Changes made here last until the process restarts; `moorline plan` shows what a reload makes of them.

Examples:
  moorline backends
  moorline backends add chat 10.0.0.13:3000 --name blue-3 --weight 2
  moorline backends weight chat blue-3 1
  moorline backends remove chat blue-3")]
pub struct Args {
    /// What to do; without a command, every backend is listed
    #[command(subcommand)]
    pub command: Option<BackendsCommand>,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

/// What to do with backends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum BackendsCommand {
    /// Add a backend to a pool
    Add {
        /// The pool
        pool: String,
        /// Host and port
        #[arg(value_name = "ADDR")]
        address: String,
        /// Name of the backend [default: its address]
        #[arg(long)]
        name: Option<String>,
        /// Share of new sessions relative to the others
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::within(1_u32, 65_535))]
        weight: Option<u32>,
    },
    /// Drain and remove a backend that was added here
    Remove {
        /// The pool
        pool: String,
        /// The backend
        backend: String,
    },
    /// Change the weight of a backend
    Weight {
        /// The pool
        pool: String,
        /// The backend
        backend: String,
        /// Share of new sessions relative to the others
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = number::within(1_u32, 65_535))]
        weight: u32,
    },
}

impl Args {
    /// Asks or orders, and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer, or why it was refused.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, access } = self;
        match command {
            None => access.get::<Pools>("/v1/pools").await?.print(&access, all),
            Some(BackendsCommand::Add { pool, address, name, weight }) => {
                let new = NewBackend { address, name, weight };
                let path = format!("/v1/pools/{}/backends", segment(&pool));
                let answer = access.ask(Method::POST, &path, Some(&new)).await?;
                answer.print(&access, |added| format!("{} is added, until restart", named(added)));
            }
            Some(BackendsCommand::Remove { pool, backend }) => {
                let path = path(&pool, &backend);
                let answer = access.ask(Method::DELETE, &path, NOTHING).await?;
                answer.print(&access, removed);
            }
            Some(BackendsCommand::Weight { pool, backend, weight }) => {
                let path = path(&pool, &backend);
                let answer = access.ask(Method::PATCH, &path, Some(&NewWeight { weight })).await?;
                answer.print(&access, |now: &BackendState| {
                    format!("{} has weight {}, until restart", named(now), now.weight)
                });
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn path(pool: &str, backend: &str) -> String {
    format!("/v1/pools/{}/backends/{}", segment(pool), segment(backend))
}

fn removed(backend: &BackendState) -> String {
    let mut text = format!("{} is removed", named(backend));
    if let Some(drain) = &backend.drain {
        let _ = write!(text, ": {}", show::drain(drain));
    }
    text
}

/// `pool/backend`.
pub(super) fn named(backend: &BackendState) -> String {
    plain(&format!("{}/{}", backend.pool, backend.name))
}

fn all(pools: &Pools) -> String {
    let backends: Vec<&BackendState> = pools.pools.iter().flat_map(|p| &p.backends).collect();
    let mut text = table(&backends);
    for pool in &pools.pools {
        if let Some(why) = &pool.source_error {
            let _ = write!(text, "\n{}: {}\n", plain(&pool.name), show::lines(why));
        }
    }
    text
}

/// Backends, one a row. Addresses are never cut: where there is no room for a column of them, they are
/// among the notes.
pub(super) fn table(backends: &[&BackendState]) -> String {
    let beside = rows(backends, true);
    if beside.fits() { beside.text() } else { rows(backends, false).text() }
}

fn rows(backends: &[&BackendState], with_addresses: bool) -> Table {
    let mut table = Table::new(&[
        Column::name("POOL", 6),
        Column::name("BACKEND", 8),
        Column::text("ADDRESS"),
        Column::text("STATE"),
        Column::number("WEIGHT"),
        Column::number("SESSIONS"),
        Column::number("TUNNELS"),
        Column::number("REQUESTS"),
        Column::note("NOTE"),
    ]);
    for backend in backends {
        let address = if backend.address == backend.name { "" } else { &backend.address };
        let (state, ink) = condition(backend.state);
        let mut notes = notes(backend);
        if !with_addresses && !address.is_empty() {
            notes.insert(0, format!("at {address}"));
        }
        table.row([
            backend.pool.as_str().into(),
            backend.name.as_str().into(),
            if with_addresses { address } else { "" }.into(),
            Cell::inked(state, ink),
            u64::from(backend.weight).into(),
            backend.sessions.into(),
            backend.tunnels.into(),
            backend.requests.into(),
            notes.join("; ").into(),
        ]);
    }
    table
}

/// A state in words.
pub(super) fn condition(state: BackendCondition) -> (&'static str, Ink) {
    match state {
        BackendCondition::Leaving => ("leaving", Ink::Note),
        BackendCondition::Drained => ("drained", Ink::Note),
        BackendCondition::Draining => ("draining", Ink::Note),
        BackendCondition::Down => ("down", Ink::Bad),
        BackendCondition::Ejected => ("ejected", Ink::Bad),
        BackendCondition::SlowStart => ("slow start", Ink::Good),
        BackendCondition::Up => ("up", Ink::Good),
    }
}

/// What the columns do not say: where it is from, unless from the file, and what its state means.
fn notes(backend: &BackendState) -> Vec<String> {
    let mut parts = Vec::new();
    match backend.origin {
        BackendOrigin::Configured => {}
        BackendOrigin::Discovered => parts.push("from discovery".to_owned()),
        BackendOrigin::Added => parts.push("added by order, until restart".to_owned()),
    }
    let since = show::seconds(show::unix_now() - backend.since);
    match (backend.state, &backend.reason) {
        (BackendCondition::SlowStart, _) => {
            parts.push(format!("{:.0} % of its weight", backend.ramp * 100.0));
        }
        (BackendCondition::Ejected, Some(why)) => parts.push(why.clone()),
        (_, Some(why)) => parts.push(format!("down for {since}: {why}")),
        (_, None) => {}
    }
    let failure = backend.last_failure.as_ref().map(|last| (show::unix_now() - last.at, last));
    if let (BackendCondition::Up | BackendCondition::SlowStart, Some((ago, failure))) =
        (backend.state, failure)
        && ago < RECENT
    {
        let ago = show::seconds(ago);
        parts.push(format!("up for {since}; last failed check {ago} ago: {}", failure.reason));
    }
    if let Some(other) = &backend.goes_on_as {
        parts.push(format!("goes on as {other}"));
    }
    if let Some(drain) = &backend.drain {
        parts.push(show::drain(drain));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{CheckFailureInfo, DrainState};

    fn backend() -> BackendState {
        BackendState {
            pool: "chat".to_owned(),
            name: "blue".to_owned(),
            address: "10.0.0.1:80".to_owned(),
            origin: BackendOrigin::Configured,
            state: BackendCondition::Up,
            weight: 1,
            ramp: 1.0,
            sessions: 0,
            tunnels: 0,
            requests: 0,
            since: 0.0,
            reason: None,
            last_failure: None,
            goes_on_as: None,
            drain: None,
        }
    }

    #[test]
    fn a_backend_that_is_down_says_why_and_for_how_long() {
        let reason = "HTTP probe GET /healthz: expected 2xx, got 404".to_owned();
        let since = show::unix_now() - 125.0;
        let failure = CheckFailureInfo { at: show::unix_now() - 59.5, reason: reason.clone() };
        let last_failure = Some(failure);
        let up = BackendState { since, last_failure, ..backend() };
        let down = BackendState {
            state: BackendCondition::Down,
            reason: Some(reason.clone()),
            ..up.clone()
        };
        assert_eq!(notes(&down), [format!("down for 2m 6s: {reason}")]);
        assert_eq!(notes(&up), [format!("up for 2m 6s; last failed check 1m ago: {reason}")]);
        assert!(notes(&backend()).is_empty());
    }

    #[test]
    fn a_backend_that_has_left_says_where_its_sessions_go_on() {
        let left = BackendState {
            state: BackendCondition::Leaving,
            goes_on_as: Some("green/blue".to_owned()),
            drain: Some(DrainState {
                since: 0.0,
                seconds_left: None,
                seconds_to_closes: None,
                sockets_left: 2,
                sessions_left: 2,
            }),
            ..backend()
        };
        let said = ["goes on as green/blue", "2 sessions (2 tunnels) left, no deadline"];
        assert_eq!(notes(&left), said);
    }

    #[test]
    fn a_full_row_fits_a_terminal() {
        let full = BackendState {
            pool: "a-pool-with-a-long-name".to_owned(),
            name: "a-backend-with-a-long-name-17".to_owned(),
            address: "[2001:db8:0:1:2:3:4:5]:3000".to_owned(),
            state: BackendCondition::SlowStart,
            weight: 65_535,
            sessions: 1_000_000,
            tunnels: 1_000_000,
            requests: 1_000_000,
            ..backend()
        };
        let text = table(&[&full, &backend()]);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains(&format!("at {}", full.address)), "{text}");
    }
}
