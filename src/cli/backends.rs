//! `moorline backends`: lists backends, and adds, removes or weights them until restart.

use std::{fmt::Write as _, process::ExitCode};

use http::Method;

use super::{
    client::{Access, NO_BODY, segment},
    number,
    show::{self, Cell, Color, Column, Table, plain},
};
use crate::api::{BackendCondition, BackendOrigin, BackendState, NewBackend, NewWeight, Pools};

/// Seconds for which a failed check is shown after the backend came up again.
const RECENT: f64 = 3600.0;

/// Arguments of `backends`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Changes made here last until the process restarts; `moorline plan` shows how a reload affects them.

Examples:
  moorline backends
  moorline backends add chat 10.0.0.13:3000 --name blue-3 --weight 2
  moorline backends weight chat blue-3 1
  moorline backends remove chat blue-3")]
pub struct Args {
    /// Change to make; without a command, all backends are listed
    #[command(subcommand)]
    pub command: Option<BackendsCommand>,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

/// Commands about backends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum BackendsCommand {
    /// Add a backend to a pool
    Add {
        /// The pool
        pool: String,
        /// Host and port, or unix:PATH
        #[arg(value_name = "ADDR")]
        address: String,
        /// Name of the backend [default: its address]
        #[arg(long)]
        name: Option<String>,
        /// Share of new sessions relative to the others
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::within(1_u32, 65_535))]
        weight: Option<u32>,
        /// Use the backend only while no other backend of the pool is available
        #[arg(long)]
        backup: bool,
    },
    /// Drain and remove a backend that was added with `backends add`
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
    /// Sends the request and prints the reply.
    ///
    /// # Errors
    /// The process cannot be reached or rejects the request.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, access } = self;
        match command {
            None => access.get::<Pools>("/v1/pools").await?.print(&access, list_text),
            Some(BackendsCommand::Add { pool, address, name, weight, backup }) => {
                let new = NewBackend { address, name, weight, backup };
                let path = format!("/v1/pools/{}/backends", segment(&pool));
                let reply = access.request(Method::POST, &path, Some(&new)).await?;
                reply.print(&access, |added| format!("added {} until restart", full_name(added)));
            }
            Some(BackendsCommand::Remove { pool, backend }) => {
                let path = path(&pool, &backend);
                let reply = access.request(Method::DELETE, &path, NO_BODY).await?;
                reply.print(&access, removed_text);
            }
            Some(BackendsCommand::Weight { pool, backend, weight }) => {
                let path = path(&pool, &backend);
                let reply =
                    access.request(Method::PATCH, &path, Some(&NewWeight { weight })).await?;
                reply.print(&access, |now: &BackendState| {
                    format!("{} has weight {} until restart", full_name(now), now.weight)
                });
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn path(pool: &str, backend: &str) -> String {
    format!("/v1/pools/{}/backends/{}", segment(pool), segment(backend))
}

fn removed_text(backend: &BackendState) -> String {
    let mut text = format!("removed {}", full_name(backend));
    if let Some(drain) = &backend.drain {
        let _ = write!(text, ": {}", show::drain(drain));
    }
    text
}

/// Returns `pool/backend`.
pub(super) fn full_name(backend: &BackendState) -> String {
    plain(&format!("{}/{}", backend.pool, backend.name))
}

fn list_text(pools: &Pools) -> String {
    let backends: Vec<&BackendState> = pools.pools.iter().flat_map(|p| &p.backends).collect();
    let mut text = table(&backends);
    for pool in &pools.pools {
        if let Some(why) = &pool.source_error {
            let _ = write!(text, "\n{}: {}\n", plain(&pool.name), show::escaped_lines(why));
        }
    }
    text
}

/// Formats backends as a table. Addresses are never shortened: if a column for them does not fit, they
/// are part of the notes.
pub(super) fn table(backends: &[&BackendState]) -> String {
    let with_addresses = rows(backends, true);
    if with_addresses.fits() { with_addresses.text() } else { rows(backends, false).text() }
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
        let (state, color) = state_label(backend.state);
        let mut notes = notes(backend);
        if !with_addresses && !address.is_empty() {
            notes.insert(0, format!("at {address}"));
        }
        table.row([
            backend.pool.as_str().into(),
            backend.name.as_str().into(),
            if with_addresses { address } else { "" }.into(),
            Cell::colored(state, color),
            u64::from(backend.weight).into(),
            backend.sessions.into(),
            backend.tunnels.into(),
            backend.requests.into(),
            notes.join("; ").into(),
        ]);
    }
    table
}

/// Returns the label and color of a state.
pub(super) fn state_label(state: BackendCondition) -> (&'static str, Color) {
    match state {
        BackendCondition::Leaving => ("leaving", Color::Warning),
        BackendCondition::Drained => ("drained", Color::Warning),
        BackendCondition::Draining => ("draining", Color::Warning),
        BackendCondition::Down => ("down", Color::Bad),
        BackendCondition::Ejected => ("ejected", Color::Bad),
        BackendCondition::Standby => ("standby", Color::Good),
        BackendCondition::SlowStart => ("slow start", Color::Good),
        BackendCondition::Up => ("up", Color::Good),
    }
}

/// Returns notes on the origin and state of a backend.
fn notes(backend: &BackendState) -> Vec<String> {
    let mut parts = Vec::new();
    match backend.origin {
        BackendOrigin::Configured => {}
        BackendOrigin::Discovered => parts.push("from discovery".to_owned()),
        BackendOrigin::Added => parts.push("added by a command until restart".to_owned()),
    }
    if backend.backup && backend.state != BackendCondition::Standby {
        parts.push("backup".to_owned());
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
    if let Some(other) = &backend.continues_as {
        parts.push(format!("sessions continue as {other}"));
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
            backup: false,
            ramp: 1.0,
            sessions: 0,
            tunnels: 0,
            requests: 0,
            since: 0.0,
            reason: None,
            last_failure: None,
            continues_as: None,
            drain: None,
        }
    }

    #[test]
    fn notes_of_a_backend_that_is_down_have_reason_and_duration() {
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
    fn notes_of_a_removed_backend_name_where_its_sessions_continue() {
        let removed = BackendState {
            state: BackendCondition::Leaving,
            continues_as: Some("green/blue".to_owned()),
            drain: Some(DrainState {
                since: 0.0,
                seconds_left: None,
                seconds_to_closes: None,
                sockets_left: 2,
                sessions_left: 2,
            }),
            ..backend()
        };
        let expected =
            ["sessions continue as green/blue", "2 sessions (2 tunnels) left, no deadline"];
        assert_eq!(notes(&removed), expected);
    }

    #[test]
    fn the_widest_row_fits_80_columns() {
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
