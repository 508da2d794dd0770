//! Rounds in which the proxies take turns, load by load.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    load::{self, LoadOptions, Report},
    only,
    origin::Origin,
    peer::{Family, Peer, Scene},
    process::Cores,
    results::{Better, Results},
    rows::{self, Figure, Group, Kind, Load, Unit},
};

/// The proxies that take turns, and the options of the run.
pub(crate) struct Turns<'a> {
    pub(crate) peers: &'a [Peer],
    pub(crate) cores: &'a Cores,
    pub(crate) origin: &'a Origin,
    pub(crate) only: Option<&'a str>,
    pub(crate) quick: bool,
}

/// Figures with the titles of their rows; `None`: the measurement failed.
pub(crate) type Figures = Vec<(String, Better, Option<f64>)>;

impl Turns<'_> {
    /// Measures one round of all rows.
    pub(crate) fn take(&self, results: &mut Results, round: &str) -> anyhow::Result<()> {
        for group in rows::groups() {
            for load in group.loads.iter().filter(|load| load.quick || !self.quick) {
                let counts = self.counts(&group, load);
                if counts.is_empty() && !self.wanted(group.title, &load.rows().join(" ")) {
                    continue;
                }
                for (column, peer) in self.peers.iter().enumerate() {
                    if peer.family.template(load.scene).is_none() {
                        self.book_none(results, &group, column, load);
                        continue;
                    }
                    eprintln!("{round}: {}, {}: {}", group.title, load.title, peer.title);
                    let measured = self.measure(peer, load, &counts).or_else(|error| {
                        // A hiccup of the machine must not cost half an hour.
                        eprintln!("repeated because of an error: {error:#}");
                        self.measure(peer, load, &counts)
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
        only::includes(self.only, group, title)
    }

    /// The numbers of clients to measure; none if the load has no such numbers.
    fn counts(&self, group: &Group, load: &Load) -> Vec<u64> {
        let Kind::Held(held) = &load.kind else { return Vec::new() };
        let counts = if self.quick { held.quick } else { held.counts };
        let wanted = |count: &u64| self.wanted(group.title, &format!("{}, {count}", load.title));
        counts.iter().copied().filter(wanted).collect()
    }

    fn book(&self, results: &mut Results, group: &Group, column: usize, figures: Figures) {
        let table = results.table(group.title, &group.method, &self.columns());
        for (title, better, value) in figures {
            match value {
                Some(value) => table.add(&title, better, column, value),
                None => table.cannot(&title, better, column, "failed"),
            }
        }
    }

    /// Records that a proxy does not support the load, unless it is not compared there at all.
    fn book_none(&self, results: &mut Results, group: &Group, column: usize, load: &Load) {
        let Kind::Flow { figures, .. } = load.kind else { return };
        let why = match (self.peers[column].family, load.scene) {
            (Family::Envoy, _) => return,
            (_, Scene::Gateway(_)) => "cannot",
            _ => "has no layer 4",
        };
        let table = results.table(group.title, &group.method, &self.columns());
        for figure in figures {
            let title = format!("{}: {}", load.title, figure.title());
            table.cannot(&title, figure.better(), column, why);
        }
    }

    fn measure(&self, peer: &Peer, load: &Load, counts: &[u64]) -> anyhow::Result<Figures> {
        match &load.kind {
            Kind::Held(held) => self.held(peer, load, held, counts),
            Kind::Workers { flags } => self.workers(peer, load, flags),
            Kind::Flow { flags, figures } => {
                let report = self.flow(peer, load, load.scene, flags)?;
                let row = |figure: &Figure| {
                    let title = format!("{}: {}", load.title, figure.title());
                    Ok((title, figure.better(), Some(report.figure(*figure)?)))
                };
                figures.iter().map(row).collect()
            }
        }
    }

    /// Active clients on a new proxy.
    fn flow(&self, peer: &Peer, load: &Load, scene: Scene, flags: &str) -> anyhow::Result<Report> {
        let proxy = peer.start(self.cores, self.origin, scene)?;
        let (ramp, hold) = if self.quick { (50, 1000) } else { (200, 3000) };
        let options = LoadOptions {
            listener: load.listener,
            path: load.path,
            flags,
            ramp: Duration::from_millis(ramp),
            hold: Duration::from_millis(hold),
        };
        load::run(&proxy, &options)
    }

    /// The cost of a request through one worker and through two, and the second divided by the first.
    fn workers(&self, peer: &Peer, load: &Load, flags: &str) -> anyhow::Result<Figures> {
        let cost = |scene| self.flow(peer, load, scene, flags)?.figure(Figure::Cpu(Unit::Request));
        let (one, two) = (cost(Scene::Http)?, cost(Scene::TwoWorkers)?);
        let title = |what: &str| format!("{}: {what}", load.title);
        Ok(vec![
            (title("CPU µs per request, 1 worker"), Better::Less, Some(one)),
            (title("CPU µs per request, 2 workers"), Better::Less, Some(two)),
            (title("2 workers ÷ 1"), Better::Neither, Some(two / one)),
        ])
    }
}
