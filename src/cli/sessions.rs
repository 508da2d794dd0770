//! `moorline sessions`: who is connected where, where one session is, and an end to one.

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use http::Method;

use super::{
    client::{Access, NOTHING, segment},
    number,
    show::{self, Column, Table, counted, plain},
    target,
};
use crate::api::{
    BackendTarget, Closed, FindRequest, SessionKind, SessionList, SessionState, Whereabouts,
};

/// Longest session id that is read from standard input.
const LONGEST: u64 = 64 << 10;

/// Arguments of `sessions`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Whoever has a session id can use the session: `find -` reads the id from standard input, so that neither \
the list of processes nor the shell's history shows it.

Examples:
  moorline sessions chat --limit 20
  moorline sessions chat/blue-2 --json
  moorline sessions find - < sid.txt
  moorline sessions close t1f               # the id is in the first column of the list"
)]
pub struct Args {
    /// What to do; without it, sessions are listed
    #[command(subcommand)]
    pub command: Option<SessionsCommand>,
    /// List the sessions of this pool or backend only
    #[arg(value_name = "POOL[/BACKEND]", value_parser = target::parse)]
    pub target: Option<BackendTarget>,
    /// Maximum number of sessions to list
    #[arg(
        long, value_name = "N", default_value_t = 100, allow_negative_numbers = true,
        value_parser = number::within(1_u32, 10_000)
    )]
    pub limit: u32,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

/// What to do with sessions.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SessionsCommand {
    /// Show which backend a session id belongs to; exit code 1 if it is unknown
    Find {
        /// The id, as clients send it in `sid=`; `-` reads it from standard input
        sid: String,
    },
    /// Close a tunnel between two messages, or forget a polling session
    ///
    /// A client that does not read the close within 30 seconds is cut. Closing the same tunnel a second time
    /// cuts it at once.
    Close {
        /// The id in the first column of `moorline sessions`
        id: String,
    },
}

impl Args {
    /// Asks or orders, and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer, or why it was refused.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, target, limit, access } = self;
        match command {
            None => {
                let path = list_path(&target.unwrap_or_default(), limit);
                access.get::<SessionList>(&path).await?.print(&access, list);
            }
            Some(SessionsCommand::Find { sid }) => {
                let order = FindRequest { sid: given(sid)? };
                let path = "/v1/sessions/find";
                let answer = access.ask::<Whereabouts>(Method::POST, path, Some(&order)).await?;
                answer.print(&access, |found| match found.found.len() {
                    0 => "no pool knows it".to_owned(),
                    _ => table(&found.found),
                });
                if answer.value.found.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Some(SessionsCommand::Close { id }) => {
                let path = format!("/v1/sessions/{}", segment(&id));
                let answer = access.ask::<Closed>(Method::DELETE, &path, NOTHING).await?;
                answer.print(&access, |closed| format!("{} is closed", plain(&closed.closed)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The id, or what standard input has of one.
fn given(sid: String) -> anyhow::Result<String> {
    if sid != "-" {
        return Ok(sid);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    read.context("cannot read standard input")?;
    match text.trim() {
        "" => {
            bail!("standard input has no session id; pass it as `moorline sessions find - < FILE`")
        }
        sid => Ok(sid.to_owned()),
    }
}

fn list_path(of: &BackendTarget, limit: u32) -> String {
    let mut path = format!("/v1/sessions?limit={limit}");
    for (name, value) in [("pool", &of.pool), ("backend", &of.backend)] {
        if let Some(value) = value {
            let _ = write!(path, "&{name}={}", segment(value));
        }
    }
    path
}

fn list(sessions: &SessionList) -> String {
    let shown = sessions.sessions.len() as u64;
    if sessions.total == 0 {
        return "no sessions".to_owned();
    }
    let mut text = table(&sessions.sessions);
    if shown < sessions.total {
        let all = counted(sessions.total, "session");
        let _ = write!(text, "\n{shown} of {all}; --limit shows more");
    }
    text
}

fn table(sessions: &[SessionState]) -> String {
    let mut table = Table::new(&[
        Column::text("ID"),
        Column::name("POOL", 6),
        Column::name("BACKEND", 8),
        Column::text("KIND"),
        Column::name("CLIENT", 15),
        Column::text("AGE"),
    ]);
    for session in sessions {
        let kind = match session.kind {
            SessionKind::Tunnel => "tunnel",
            SessionKind::Stream => "stream",
            SessionKind::Polling => "polling",
        };
        table.row([
            session.id.as_str().into(),
            session.pool.as_str().into(),
            session.backend.as_str().into(),
            kind.into(),
            session.client.as_deref().unwrap_or_default().into(),
            session.age.map(show::seconds).unwrap_or_default().into(),
        ]);
    }
    table.text()
}
