//! Memory of a proxy that clients occupy: for each of them, and what the proxy keeps after they left.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::{self, LoadOptions},
    peer::{Peer, Proxy, Scene},
    process,
    results::{Better, grouped},
    rows::{Held, Kept, Load},
    turns::{Figures, Turns},
};

/// Arrivals per second.
const ARRIVALS: u64 = 1000;
/// Least and longest time from the end of the clients to the figure of what is kept.
const AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];
/// Memory that has not fallen for this long does not fall any more.
const CALM: Duration = Duration::from_secs(2);
/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(250);

impl Turns<'_> {
    /// KiB for each client, by number of clients, and what is kept after the last number of them.
    pub(crate) fn held(
        &self,
        peer: &Peer,
        load: &Load,
        held: &Held,
        counts: &[u64],
    ) -> anyhow::Result<Figures> {
        let mut figures = Vec::new();
        let mut add = |title: String, value| figures.push((title, Better::Less, value));
        let mut last: Option<(u64, f64)> = None;
        for &count in counts {
            let proxy = peer.start(self.cores, self.origin, Scene::Http)?;
            let flags = format!("{} --clients {count}", held.flags);
            let options = LoadOptions {
                listener: load.listener,
                path: load.path,
                flags: &flags,
                ramp: Duration::from_millis(1000 * count / ARRIVALS),
                // A slow proxy may still have some to accept.
                hold: Duration::from_secs(held.hold.max(if self.quick { 1 } else { 3 })),
            };
            let report = load::run(&proxy, &options)?;
            let grown = report.growth(count)?;
            let many = format!("{}, {}", load.title, grouped(count));
            add(format!("{many}: KiB each"), grown / 1024.0 / count as f64);
            if let Some((fewer, less)) = last.filter(|_| held.kept == Kept::Nothing) {
                let from = grouped(fewer);
                let title =
                    format!("{}, {from} to {}: KiB for each more", load.title, grouped(count));
                add(title, (grown - less) / 1024.0 / (count - fewer) as f64);
            }
            last = Some((count, grown));
            if held.kept != Kept::Nothing && counts.last() == Some(&count) {
                let kept = (settled(&proxy)? - report.before()?).max(0.0);
                let title = format!("{many}: % of the growth kept after all left");
                add(title, 100.0 * kept / grown);
                if held.kept == Kept::ShareAndEach {
                    add(
                        format!("{many}: KiB each kept after all left"),
                        kept / 1024.0 / count as f64,
                    );
                }
            }
        }
        Ok(figures)
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
