//! Losses in each stage, as a table that is printed, written to `target/tests` and asserted.

use std::{env, fmt::Write as _, fs, path::PathBuf, time::Duration};

use super::site::Site;
use crate::support::controlled::ClientStatus;

const HEAD: &str = "| Stage | Clients | Sessions lost without need | `code 1` replies caused by Moorline \
                    | Broken frames | Moved, or lost with their node | Time to converge |\n\
                    | --- | --- | ---: | ---: | ---: | ---: | ---: |\n";

/// Results of the stages so far.
#[derive(Default)]
pub(super) struct Table {
    text: String,
    faults: Vec<String>,
}

/// Sessions that a stage may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllowedLoss {
    /// None. A moved session counts as lost.
    None,
    /// Sessions of removed or overloaded nodes. Each client reconnects once, by itself.
    OfMovedClients,
    /// Sessions of a failed node. Clients may need several attempts.
    OfFailedNode,
}

/// Whether to run a stage. `MOORLINE_STAGES` can select stages by parts of their titles, separated by commas.
fn wanted(title: &str) -> bool {
    let named = |words: String| words.split(',').any(|word| title.contains(word.trim()));
    env::var("MOORLINE_STAGES").map_or(true, named)
}

impl Table {
    /// Runs a stage, waits until all clients are settled, and records the result. `change` returns the time to
    /// converge.
    pub(super) async fn stage(
        &mut self,
        site: &mut Site,
        title: &str,
        allowed: AllowedLoss,
        change: impl AsyncFnOnce(&mut Site) -> Duration,
    ) {
        if !wanted(title) {
            return;
        }
        eprintln!("{title}");
        let mut before = Vec::new();
        for group in &mut site.groups {
            before.push(group.status().await);
        }
        let took = change(site).await;
        for (group, before) in site.groups.iter_mut().zip(&before) {
            let now = group.wait_until_settled().await - before;
            self.record(title, group.title, allowed, &now, took);
        }
    }

    fn record(
        &mut self,
        title: &str,
        clients: &str,
        allowed: AllowedLoss,
        now: &ClientStatus,
        took: Duration,
    ) {
        let totals = now.totals;
        let ended = totals.moved + totals.node_gone;
        let (lost, moved) = match allowed {
            AllowedLoss::None => (totals.disconnects + ended, 0),
            AllowedLoss::OfMovedClients | AllowedLoss::OfFailedNode => (totals.disconnects, ended),
        };
        let code1 = now.of_kind("code1");
        let broken = now.of_kind("protocol") + now.of_kind("wrong_echo");
        let took = took.as_secs_f64();
        let row = format!(
            "| {title} | {clients} | {lost} | {code1} | {broken} | {moved} | {took:.1} s |\n"
        );
        let once = match allowed {
            AllowedLoss::None | AllowedLoss::OfMovedClients => totals.connects == ended,
            AllowedLoss::OfFailedNode => true,
        };
        if (lost, totals.errors, totals.misrouted, once) != (0, 0, 0, true) {
            self.faults.push(format!("{row}{now:?}"));
        }
        eprint!("{row}");
        self.text.push_str(&row);
    }

    /// Prints the table, writes it to a file, and asserts that no session was lost without need.
    pub(super) fn finish(self) {
        let mut text = HEAD.to_owned();
        write!(text, "{}", self.text).unwrap();
        println!("\n{text}");
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("tests");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("continuity.md"), text).unwrap();
        assert!(self.faults.is_empty(), "{}", self.faults.join("\n"));
    }
}
