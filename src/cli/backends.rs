//! `moorline backends`: who is in the pools, and changes to that until restart.

use std::{fmt::Write as _, process::ExitCode};

use http::Method;

use super::{
    client::{Access, NOTHING, segment},
    show::{self, Cell, Column, Ink, Table, plain},
};
use crate::admin::api::{BackendCondition, BackendState, NewBackend, NewWeight, Origin, Pools};

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
    pub command: Option<Command>,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

/// What to do with backends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
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
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
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
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
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
            Some(Command::Add { pool, address, name, weight }) => {
                let new = NewBackend { address, name, weight };
                let path = format!("/v1/pools/{}/backends", segment(&pool));
                let answer = access.ask(Method::POST, &path, Some(&new)).await?;
                answer.print(&access, |added| format!("{} is added, until restart", named(added)));
            }
            Some(Command::Remove { pool, backend }) => {
                let path = path(&pool, &backend);
                let answer = access.ask(Method::DELETE, &path, NOTHING).await?;
                answer.print(&access, removed);
            }
            Some(Command::Weight { pool, backend, weight }) => {
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

/// Backends, one a row.
pub(super) fn table(backends: &[&BackendState]) -> String {
    let mut table = Table::new(&[
        Column::text("POOL"),
        Column::text("BACKEND"),
        Column::text("ADDRESS"),
        Column::text("STATE"),
        Column::number("WEIGHT"),
        Column::number("SESSIONS"),
        Column::number("TUNNELS"),
        Column::number("REQUESTS"),
        Column::text("FROM"),
        Column::text("NOTE"),
    ]);
    for backend in backends {
        let address = if backend.address == backend.name { "" } else { &backend.address };
        let (state, ink) = condition(backend.state);
        table.row([
            backend.pool.as_str().into(),
            backend.name.as_str().into(),
            address.into(),
            Cell::inked(state, ink),
            u64::from(backend.weight).into(),
            backend.sessions.into(),
            backend.tunnels.into(),
            backend.requests.into(),
            origin(backend.origin).into(),
            note(backend).into(),
        ]);
    }
    table.text()
}

fn condition(state: BackendCondition) -> (&'static str, Ink) {
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

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Configured => "the file",
        Origin::Discovered => "discovery",
        Origin::Added => "an order, until restart",
    }
}

fn note(backend: &BackendState) -> String {
    match &backend.drain {
        Some(drain) => show::drain(drain),
        None if backend.state == BackendCondition::SlowStart => {
            format!("{:.0} % of its weight", backend.ramp * 100.0)
        }
        None => String::new(),
    }
}
