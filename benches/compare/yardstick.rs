//! Compares the load generator with artillery: the cost of a client that connects, sends messages and leaves.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{
    HOME,
    harness::harness,
    process,
    results::{Better, Results},
    turns::Turns,
};

const TITLE: &str = "8. The load generator beside artillery";
const METHOD: &str = "1,000 Socket.IO clients over WebSocket arrive over 20 s, send the event `echo` ten times, once in \
     2 s, get it back each time, and leave; the same node for both, in turns. User + system time of all \
     of a tool's processes, start and report included, for each client; both at their own defaults \
     otherwise.";
const CLIENTS: u32 = 1000;
const ROW: &str = "CPU ms per client";

/// Measures one round, if artillery is installed.
pub(crate) fn take(turns: &Turns<'_>, results: &mut Results, round: &str) -> anyhow::Result<()> {
    let wanted = if turns.only.is_none() { !turns.quick } else { turns.wanted(TITLE, "") };
    if !wanted {
        return Ok(());
    }
    let Some((artillery, version)) = installed() else {
        println!("artillery is not installed: its row is skipped");
        return Ok(());
    };
    let columns = ["moorline-load".to_owned(), format!("artillery {version}")];
    let node = format!("http://{}", turns.origin.nodes[0]);
    for (column, tool) in columns.iter().enumerate() {
        eprintln!("{round}: {TITLE}: {tool}");
        let mut command = if column == 0 { ours(&node) } else { theirs(&artillery, &node) };
        let before = process::cpu_of_ended_children()?;
        let done = command.stdin(Stdio::null()).output()?;
        let spent = process::cpu_of_ended_children()? - before;
        let output = String::from_utf8_lossy(&done.stdout);
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{tool}: {output}{errors}");
        if column == 1 {
            check_summary(&output)?;
        }
        let each = spent.as_secs_f64() * 1e3 / f64::from(CLIENTS);
        results.table(TITLE, METHOD, &columns).add(ROW, Better::Less, column, each);
    }
    Ok(())
}

/// Path and version of the artillery that `benches/compare/run` has installed.
fn installed() -> Option<(PathBuf, String)> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compare/artillery/node_modules");
    let package = std::fs::read(folder.join("artillery/package.json")).ok()?;
    let package: serde_json::Value = serde_json::from_slice(&package).ok()?;
    Some((folder.join(".bin/artillery"), package.get("version")?.as_str()?.to_owned()))
}

fn ours(node: &str) -> Command {
    let mut command = Command::new(harness());
    command.args(["run", node, "--client", "websocket", "--clients", &CLIENTS.to_string()]);
    command.args(["--ramp", "20s", "--hold", "22s", "--messages", "10", "--every", "2s"]);
    command.args(["--answer", "echo", "--quiet"]);
    // Every client must succeed.
    command.args(["--max-errors", "0", "--max-disconnects", "0"]);
    command
}

fn theirs(artillery: &Path, node: &str) -> Command {
    let mut command = Command::new(artillery);
    command.args(["run", "--target", node]).arg(Path::new(HOME).join("artillery/clients.yml"));
    // Otherwise artillery reports each run to its vendor.
    command.env("ARTILLERY_DISABLE_TELEMETRY", "true");
    command
}

/// Checks in artillery's summary that every client succeeded.
fn check_summary(output: &str) -> anyhow::Result<()> {
    let (_, summary) =
        output.rsplit_once("Summary report").context("artillery printed no summary")?;
    for (name, wanted) in [("vusers.completed", CLIENTS), ("vusers.failed", 0)] {
        let line = summary.lines().find(|line| line.starts_with(name));
        let counted = line.and_then(|line| line.split([' ', '.']).rfind(|word| !word.is_empty()));
        ensure!(
            counted.unwrap_or("0") == wanted.to_string(),
            "artillery: {name} is not {wanted}: {output}"
        );
    }
    Ok(())
}
