//! What each stage cost, as a table that is printed, left in `target/tests` and asserted.

use std::{env, fmt::Write as _, fs, path::PathBuf, time::Duration};

use super::site::Site;
use crate::support::controlled::ClientStatus;

const HEAD: &str = "| Stage | Clients | Sessions lost that need not have been | Code-1 replies \
                    caused by us | Broken frames | Moved, or lost with their node | Time to converge |\n\
                    | --- | --- | ---: | ---: | ---: | ---: | ---: |\n";

/// All stages so far.
#[derive(Default)]
pub(super) struct Table {
    text: String,
    faults: Vec<String>,
}

/// Whose sessions a stage may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spares {
    /// Nobody's: a session that we move is one that we have lost.
    Everybody,
    /// Those of nodes that go, or have more than their share: each comes back by itself, once.
    OthersThanMoved,
    /// Those of a node that is hurt, which may have to try more than once.
    OthersThanHurt,
}

/// Whether a stage is to be run: all are, unless `MOORLINE_STAGES` names some by words of their titles.
fn wanted(title: &str) -> bool {
    let named = |words: String| words.split(',').any(|word| title.contains(word.trim()));
    env::var("MOORLINE_STAGES").map_or(true, named)
}

impl Table {
    /// Runs a stage, which tells how long it took to converge, waits until all is at rest, and books it.
    pub(super) async fn stage(
        &mut self,
        site: &mut Site,
        title: &str,
        spares: Spares,
        change: impl AsyncFnOnce(&mut Site) -> Duration,
    ) {
        if !wanted(title) {
            return;
        }
        eprintln!("{title}");
        let mut before = Vec::new();
        for party in &mut site.parties {
            before.push(party.look().await);
        }
        let took = change(site).await;
        for (party, before) in site.parties.iter_mut().zip(&before) {
            let now = party.settled().await - before;
            self.book(title, party.title, spares, &now, took);
        }
    }

    fn book(&mut self, title: &str, who: &str, spares: Spares, now: &ClientStatus, took: Duration) {
        let totals = now.totals;
        let ended = totals.moved + totals.node_gone;
        let (lost, moved) = match spares {
            Spares::Everybody => (totals.disconnects + ended, 0),
            Spares::OthersThanMoved | Spares::OthersThanHurt => (totals.disconnects, ended),
        };
        let code1 = now.of_kind("code1");
        let broken = now.of_kind("protocol") + now.of_kind("wrong_echo");
        let took = took.as_secs_f64();
        let row =
            format!("| {title} | {who} | {lost} | {code1} | {broken} | {moved} | {took:.1} s |\n");
        let once = match spares {
            Spares::Everybody | Spares::OthersThanMoved => totals.connects == ended,
            Spares::OthersThanHurt => true,
        };
        if (lost, totals.errors, totals.misrouted, once) != (0, 0, 0, true) {
            self.faults.push(format!("{row}{now:?}"));
        }
        eprint!("{row}");
        self.text.push_str(&row);
    }

    /// Prints the table and leaves it as a file; then asserts the zeros.
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
