//! Rounds in which the proxies take turns, load by load.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    load::{self, LoadOptions},
    origin::Origin,
    peer::{Peer, Scene},
    process::Cores,
    results::{Better, Results, grouped},
    rows::{self, Group, Kind, Load},
};

/// Arrivals of silent clients per second.
const ARRIVALS: u64 = 1000;

/// The proxies that take turns, and the options of the run.
pub(crate) struct Turns<'a> {
    pub(crate) peers: &'a [Peer],
    pub(crate) cores: &'a Cores,
    pub(crate) origin: &'a Origin,
    pub(crate) only: Option<&'a str>,
    pub(crate) quick: bool,
}

/// A figure with its row.
type Value = (String, Better, f64);

impl Turns<'_> {
    /// Measures one round of all rows.
    pub(crate) fn take(&self, results: &mut Results, round: &str) -> anyhow::Result<()> {
        for group in rows::groups() {
            for load in group.loads.iter().filter(|load| load.quick || !self.quick) {
                if !self.wanted(group.title, load.title) {
                    continue;
                }
                for (column, peer) in self.peers.iter().enumerate() {
                    if peer.family.template(load.scene).is_none() {
                        self.book_none(results, &group, column, load);
                        continue;
                    }
                    eprintln!("{round}: {}, {}: {}", group.title, load.title, peer.title);
                    let measured = self.measure(peer, load).or_else(|error| {
                        // A hiccup of the machine must not cost half an hour.
                        eprintln!("repeated because of an error: {error:#}");
                        self.measure(peer, load)
                    });
                    let under = || format!("{} under {}, {}", peer.title, group.title, load.title);
                    self.book(results, &group, column, measured.with_context(under)?);
                }
            }
        }
        Ok(())
    }

    /// Names of the columns.
    pub(crate) fn columns(&self) -> Vec<String> {
        self.peers.iter().map(|peer| peer.title.clone()).collect()
    }

    /// Whether `--only` includes these rows.
    pub(crate) fn wanted(&self, group: &str, title: &str) -> bool {
        let named = |word: &str| {
            let word = word.to_lowercase();
            group.to_lowercase().contains(&word) || title.to_lowercase().contains(&word)
        };
        self.only.is_none_or(named)
    }

    fn book(&self, results: &mut Results, group: &Group, column: usize, values: Vec<Value>) {
        let table = results.table(group.title, group.method, &self.columns());
        for (title, better, value) in values {
            table.add(&title, better, column, value);
        }
    }

    /// Records that a proxy does not support the load.
    fn book_none(&self, results: &mut Results, group: &Group, column: usize, load: &Load) {
        let Kind::Flow { figures, .. } = load.kind else { return };
        let table = results.table(group.title, group.method, &self.columns());
        for figure in figures {
            let title = format!("{}: {}", load.title, figure.title());
            table.cannot(&title, figure.better(), column, "has no layer 4");
        }
    }

    fn measure(&self, peer: &Peer, load: &Load) -> anyhow::Result<Vec<Value>> {
        let (flags, figures) = match load.kind {
            Kind::Idle => return self.idle(peer, load),
            Kind::Flow { flags, figures } => (flags, figures),
        };
        let proxy = peer.start(self.cores, self.origin, load.scene)?;
        let (ramp, hold) = if self.quick { (50, 1000) } else { (200, 3000) };
        let options = LoadOptions {
            listener: load.listener,
            path: load.path,
            flags,
            ramp: Duration::from_millis(ramp),
            hold: Duration::from_millis(hold),
        };
        let report = load::run(&proxy, &options)?;
        let row = |figure: &rows::Figure| {
            let title = format!("{}: {}", load.title, figure.title());
            Ok((title, figure.better(), report.figure(*figure)?))
        };
        figures.iter().map(row).collect()
    }

    /// KiB for each idle socket, by number of sockets, and for each one more than in the run before.
    fn idle(&self, peer: &Peer, load: &Load) -> anyhow::Result<Vec<Value>> {
        let counts: &[u64] = if self.quick { &rows::IDLE_QUICK } else { &rows::IDLE };
        let mut values = Vec::new();
        let mut last: Option<(u64, f64)> = None;
        for &count in counts {
            let proxy = peer.start(self.cores, self.origin, Scene::Http)?;
            let flags = format!("--client ws --silent --clients {count}");
            let options = LoadOptions {
                listener: load.listener,
                path: load.path,
                flags: &flags,
                ramp: Duration::from_millis(1000 * count / ARRIVALS),
                // A slow proxy may still have some to accept.
                hold: Duration::from_secs(if self.quick { 1 } else { 3 }),
            };
            let grown = load::run(&proxy, &options)?.growth(count)?;
            let many = grouped(count);
            let title = format!("{}, {many}: KiB each", load.title);
            values.push((title, Better::Less, grown / 1024.0 / count as f64));
            if let Some((fewer, less)) = last {
                let title =
                    format!("{}, {} to {many}: KiB for each more", load.title, grouped(fewer));
                let each = (grown - less) / 1024.0 / (count - fewer) as f64;
                values.push((title, Better::Less, each));
            }
            last = Some((count, grown));
        }
        Ok(values)
    }
}
