//! `moorline plan FILE`: what putting a configuration in force would do to the running process.

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
    show::{self, Cell, Column, Ink, Table, seconds},
};
use crate::api::{Change, ChangeKind, Plan, PlanRequest};

/// Arguments of `plan`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Nothing is changed. The process reads the files that the configuration names (certificates, lists, keys) \
as at a reload; relative paths start at the configuration's folder.

Examples:
  moorline plan new.toml
  envsubst < moorline.toml.in | moorline plan -
  moorline plan new.toml --json | jq .disconnected_tunnels
  moorline plan                     # the process's own file, as it is now")]
pub struct Args {
    /// The configuration to compare with; `-` reads standard input [default: the process's own file, as it is now]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Asks and prints.
    ///
    /// # Errors
    /// A sentence: why the file cannot be read, why there is no answer; every fault of the file.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let order = match &self.file {
            Some(file) => {
                let named = || format!("cannot read {}", file.display());
                let text = match file.as_os_str() == files::STANDARD_INPUT {
                    true => files::standard_input()?,
                    false => files::text(file)?,
                };
                let whole = path::absolute(file).with_context(named)?;
                let path = whole
                    .to_str()
                    .context("the path is not valid UTF-8; rename the file")?
                    .to_owned();
                PlanRequest { text: Some(text), path: Some(path) }
            }
            None => PlanRequest::default(),
        };
        let answer = self.access.ask(Method::POST, "/v1/plan", Some(&order)).await?;
        answer.print(&self.access, |plan: &Plan| words(plan, Tense::Would));
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a plan is one, or was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tense {
    /// It would be.
    Would,
    /// It was.
    Did,
}

/// A plan in words.
pub(super) fn words(plan: &Plan, tense: Tense) -> String {
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
        Column::note("WHAT IT MEANS"),
    ]);
    for change in changes {
        let ink = match change.how {
            ChangeKind::Added => Ink::Good,
            ChangeKind::Removed => Ink::Bad,
            ChangeKind::Changed => Ink::Note,
            ChangeKind::Kept => Ink::Plain,
        };
        table.row([
            Cell::inked(change.how.label(), ink),
            change.what.label().into(),
            change.name.as_str().into(),
            some(change.sessions).into(),
            some(change.tunnels).into(),
            change.by.map(seconds).unwrap_or_default().into(),
            change.detail.as_str().into(),
        ]);
    }
    table.text()
}

/// A number that is worth a place.
fn some(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ChangedThing;

    #[test]
    fn a_plan_says_who_is_disconnected_and_by_when() {
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
        let expected = "         WHAT     NAME         SESSIONS  TUNNELS  WITHIN  WHAT IT MEANS\n\
                        removed  backend  chat/blue-1        30        1  5m      drained\n\n\
                        30 sessions (1 tunnel, 29 polling) would be disconnected, the last within 5m";
        assert_eq!(words(&plan, Tense::Would), expected);
    }

    #[test]
    fn nothing_is_said_in_as_many_words() {
        let nothing = Plan { empty: true, ..Plan::default() };
        assert_eq!(words(&nothing, Tense::Would), "nothing would change");
        assert_eq!(words(&nothing, Tense::Did), "nothing has changed");
        assert_eq!(words(&Plan::default(), Tense::Did), "no session is disconnected");
        assert_eq!(words(&Plan::default(), Tense::Would), "no session would be disconnected");
    }
}
