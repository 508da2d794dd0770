//! `moorline plan FILE`: shows what a reload with a configuration would change.

use std::{
    fmt::Write as _,
    path::{self, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use http::Method;

use super::{
    client::Access,
    files,
    show::{self, Cell, Color, Column, Table, seconds},
};
use crate::api::{Change, ChangeKind, Plan, PlanRequest};

/// Arguments of `plan`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
This command changes nothing. The process reads the files that the configuration names (certificates, \
lists, keys), as for a reload; relative paths start at the folder of the configuration.

Examples:
  moorline plan new.toml
  envsubst < moorline.toml.in | moorline plan -
  moorline plan new.toml --json | jq .disconnected_tunnels
  moorline plan                     # the process's own file, as it is now")]
pub struct Args {
    /// The configuration to compare with; `-` reads standard input [default: the process's own file, as it is now]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the request and prints the reply.
    ///
    /// # Errors
    /// The file cannot be read or has errors, or the process cannot be reached.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let request = match &self.file {
            Some(file) => {
                let context = || format!("cannot read {}", file.display());
                let text = match file.as_os_str() == files::STANDARD_INPUT {
                    true => files::standard_input()?,
                    false => files::text(file)?,
                };
                let absolute = path::absolute(file).with_context(context)?;
                let path = absolute
                    .to_str()
                    .context("the path is not valid UTF-8; rename the file")?
                    .to_owned();
                PlanRequest { text: Some(text), path: Some(path) }
            }
            None => PlanRequest::default(),
        };
        let reply = self.access.request(Method::POST, "/v1/plan", Some(&request)).await?;
        reply.print(&self.access, |plan: &Plan| text(plan, Tense::Would));
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a plan is proposed or was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tense {
    /// Proposed.
    Would,
    /// Executed.
    Did,
}

/// Formats a plan.
pub(super) fn text(plan: &Plan, tense: Tense) -> String {
    let mut text =
        if plan.changes.is_empty() { String::new() } else { table(&plan.changes) + "\n" };
    if plan.empty {
        text.push_str(match tense {
            Tense::Would => "nothing would change",
            Tense::Did => "nothing has changed",
        });
        return text;
    }
    let (tunnels, sessions) = (plan.disconnected_tunnels, plan.disconnected_sessions);
    let verb = match (tense, sessions) {
        (Tense::Would, _) => "would be",
        (Tense::Did, 1) => "is",
        (Tense::Did, _) => "are",
    };
    if tunnels == 0 && sessions == 0 {
        let _ = write!(text, "no session {} disconnected", verb.replace("are", "is"));
        return text;
    }
    let _ = write!(text, "{} {verb} disconnected", show::sessions(sessions, tunnels));
    if let Some(by) = plan.by {
        let _ = match by {
            0.0 => write!(text, ", at once"),
            by => write!(text, ", the last within {}", seconds(by)),
        };
    }
    text
}

fn table(changes: &[Change]) -> String {
    let mut table = Table::new(&[
        Column::text(""),
        Column::text("WHAT"),
        Column::name("NAME", 16),
        Column::number("SESSIONS"),
        Column::number("TUNNELS"),
        Column::text("WITHIN"),
        Column::note("EFFECT"),
    ]);
    for change in changes {
        let color = match change.how {
            ChangeKind::Added => Color::Good,
            ChangeKind::Removed => Color::Bad,
            ChangeKind::Changed => Color::Warning,
            ChangeKind::Kept => Color::Default,
        };
        table.row([
            Cell::colored(change.how.label(), color),
            change.what.label().into(),
            change.name.as_str().into(),
            nonzero(change.sessions).into(),
            nonzero(change.tunnels).into(),
            change.by.map(seconds).unwrap_or_default().into(),
            change.detail.as_str().into(),
        ]);
    }
    table.text()
}

/// Formats a number; 0 is left blank.
fn nonzero(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ChangedThing;

    #[test]
    fn a_plan_counts_disconnected_sessions_and_has_their_deadline() {
        let removed = Change {
            what: ChangedThing::Backend,
            how: ChangeKind::Removed,
            name: "chat/blue-1".to_owned(),
            detail: "drained".to_owned(),
            tunnels: 1,
            sessions: 30,
            by: Some(300.0),
        };
        let plan = Plan {
            empty: false,
            changes: vec![removed],
            disconnected_tunnels: 1,
            disconnected_sessions: 30,
            by: Some(300.0),
        };
        let expected = "         WHAT     NAME         SESSIONS  TUNNELS  WITHIN  EFFECT\n\
                        removed  backend  chat/blue-1        30        1  5m      drained\n\n\
                        30 sessions (1 tunnel, 29 polling) would be disconnected, the last within 5m";
        assert_eq!(text(&plan, Tense::Would), expected);
    }

    #[test]
    fn a_plan_without_changes_or_disconnects_says_so() {
        let nothing = Plan { empty: true, ..Plan::default() };
        assert_eq!(text(&nothing, Tense::Would), "nothing would change");
        assert_eq!(text(&nothing, Tense::Did), "nothing has changed");
        assert_eq!(text(&Plan::default(), Tense::Did), "no session is disconnected");
        assert_eq!(text(&Plan::default(), Tense::Would), "no session would be disconnected");
    }
}
