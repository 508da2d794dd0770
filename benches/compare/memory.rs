//! Memory of a proxy that clients occupy: for each of them, and what the proxy keeps after they left.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::{self, LoadOptions},
    peer::{Family, Peer, Proxy, Scene},
    process,
    results::{Better, grouped},
    rows::{Held, Kept, Load},
    turns::{Figures, Turns},
};

/// Least and longest time from the end of the clients to the figure of what is kept.
const AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];
/// Memory that has not fallen for this long does not fall any more.
const CALM: Duration = Duration::from_secs(2);
/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(250);

/// Bytes of a proxy that clients occupied.
struct Occupied {
    /// Growth while they were connected.
    grown: f64,
    /// Growth after they left; zero if it is not measured.
    kept: f64,
}

impl Turns<'_> {
    /// KiB for each client, by number of clients, and what is kept after the last number of them. If a peer fails
    /// with one of the numbers, the rest is left out.
    pub(crate) fn held(
        &self,
        peer: &Peer,
        load: &Load,
        held: &Held,
        counts: &[u64],
    ) -> anyhow::Result<Figures> {
        let mut figures = Vec::new();
        let mut last = None;
        for &count in counts {
            let keeps = held.kept != Kept::Nothing && counts.last() == Some(&count);
            let occupied = self.occupy(peer, load, held, count, keeps).or_else(|error| {
                eprintln!("repeated because of an error: {error:#}");
                self.occupy(peer, load, held, count, keeps)
            });
            let title = format!("{}, {}", load.title, grouped(count));
            let mut add = |what: &str, value| {
                figures.push((format!("{title}: {what}"), Better::Less, value));
            };
            let Occupied { grown, kept } = match occupied {
                Ok(occupied) => occupied,
                Err(error) if peer.family == Family::Moorline => return Err(error),
                Err(error) => {
                    eprintln!("{} failed: {error:#}", peer.title);
                    add("KiB each", None);
                    break;
                }
            };
            let each = |bytes: f64, clients| Some(bytes / 1024.0 / clients as f64);
            add("KiB each", each(grown, count));
            if keeps {
                add("% of the growth kept after all left", Some(100.0 * kept / grown));
            }
            if keeps && held.kept == Kept::ShareAndEach {
                add("KiB each kept after all left", each(kept, count));
            }
            if held.kept == Kept::Nothing
                && let Some((fewer, less)) = last
            {
                let title = format!("{}, {} to {}", load.title, grouped(fewer), grouped(count));
                let more = each(grown - less, count - fewer);
                figures.push((format!("{title}: KiB for each more"), Better::Less, more));
            }
            last = Some((count, grown));
        }
        Ok(figures)
    }

    /// Measures a new proxy with this number of clients, and after they left if `keeps` is set.
    fn occupy(
        &self,
        peer: &Peer,
        load: &Load,
        held: &Held,
        count: u64,
        keeps: bool,
    ) -> anyhow::Result<Occupied> {
        let proxy = peer.start(self.cores, self.origin, Scene::Http)?;
        let options = LoadOptions {
            listener: load.listener,
            path: load.path,
            flags: &format!("{} --clients {count}", held.flags),
            ramp: Duration::from_millis(1000 * count / held.arrivals),
            hold: Duration::from_secs(held.hold),
        };
        let report = load::run_connected(&proxy, &options, count)?;
        let grown = report.growth(count)?;
        let kept = if keeps { (settled(&proxy)? - report.before()?).max(0.0) } else { 0.0 };
        Ok(Occupied { grown, kept })
    }
}

/// Bytes of the proxy as soon as its memory does not fall any more. All clients have just left.
fn settled(proxy: &Proxy) -> anyhow::Result<f64> {
    let [least, longest] = AFTER;
    let start = Instant::now();
    let (mut lowest, mut since) = (u64::MAX, start);
    loop {
        let now = proxy.memory()?;
        if now < lowest {
            (lowest, since) = (now, Instant::now());
        }
        let waited = start.elapsed();
        if waited >= longest || (waited >= least && since.elapsed() >= CALM) {
            return Ok(now as f64);
        }
        thread::sleep(LOOK);
    }
}

impl Proxy {
    /// Proportional set size of all workers, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.workers.iter().map(|&worker| process::memory(worker)).sum()
    }
}
