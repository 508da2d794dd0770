//! `moorline sessions`: lists, finds and closes sessions.

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use http::Method;

use super::{
    client::{Access, NO_BODY, segment},
    number,
    show::{self, Column, Table, counted, plain},
    target,
};
use crate::api::{
    BackendTarget, Closed, FindRequest, SessionKind, SessionList, SessionState, Whereabouts,
};

/// Maximum size of a session id on standard input, in bytes.
const MAX_SID: u64 = 64 << 10;

/// Arguments of `sessions`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
A session id is a secret: a client that has it can use the session. `find -` reads the id from standard \
input, so that it is neither in the process list nor in the shell history.

Examples:
  moorline sessions chat --limit 20
  moorline sessions chat/blue-2 --json
  moorline sessions find - < sid.txt
  moorline sessions close t1f               # the id is in the first column of the list"
)]
pub struct Args {
    /// Command; without it, sessions are listed
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
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

/// Commands about sessions.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SessionsCommand {
    /// Show which backend a session id belongs to; exit code 1 if it is unknown
    Find {
        /// The id, as clients send it in `sid=`; `-` reads it from standard input
        sid: String,
    },
    /// Close a tunnel between two messages, or forget a polling session
    ///
    /// If the client does not read the Close frame within 30 seconds, the tunnel is cut. A second close of
    /// the tunnel cuts it at once.
    Close {
        /// The id in the first column of `moorline sessions`
        id: String,
    },
}

impl Args {
    /// Sends the request and prints the reply.
    ///
    /// # Errors
    /// The process cannot be reached or rejects the request.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, target, limit, access } = self;
        match command {
            None => {
                let path = list_path(&target.unwrap_or_default(), limit);
                access.get::<SessionList>(&path).await?.print(&access, list_text);
            }
            Some(SessionsCommand::Find { sid }) => {
                let request = FindRequest { sid: read_sid(sid)? };
                let path = "/v1/sessions/find";
                let reply =
                    access.request::<Whereabouts>(Method::POST, path, Some(&request)).await?;
                reply.print(&access, |found| match found.found.len() {
                    0 => "unknown session id".to_owned(),
                    _ => table(&found.found),
                });
                if reply.value.found.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Some(SessionsCommand::Close { id }) => {
                let path = format!("/v1/sessions/{}", segment(&id));
                let reply = access.request::<Closed>(Method::DELETE, &path, NO_BODY).await?;
                reply.print(&access, |closed| format!("closed {}", plain(&closed.closed)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the id; `-` reads it from standard input.
fn read_sid(sid: String) -> anyhow::Result<String> {
    if sid != "-" {
        return Ok(sid);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_SID).read_to_string(&mut text);
    read.context("cannot read standard input")?;
    match text.trim() {
        "" => {
            bail!("standard input has no session id; pass it as `moorline sessions find - < FILE`")
        }
        sid => Ok(sid.to_owned()),
    }
}

fn list_path(target: &BackendTarget, limit: u32) -> String {
    let mut path = format!("/v1/sessions?limit={limit}");
    for (name, value) in [("pool", &target.pool), ("backend", &target.backend)] {
        if let Some(value) = value {
            let _ = write!(path, "&{name}={}", segment(value));
        }
    }
    path
}

fn list_text(sessions: &SessionList) -> String {
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
