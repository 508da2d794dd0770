//! Who gathers from all threads.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    ErrorKind, Recorder,
    recorder::{Desk, Gauge},
    series::{Checkpoint, Look, Mark, Moment, NodeTotal, Quantiles, Record, Second},
    tally::{Latencies, Tally},
};
use crate::cost::Meter;

/// Gathers what all recorders were told. Somebody calls [`second`](Self::second) once a second; the
/// course of the run sets marks and checkpoints.
#[derive(Debug)]
pub(crate) struct Collector {
    epoch: Instant,
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    recorders: Vec<Arc<Recorder>>,
    gauge: Arc<Gauge>,
    meter: Meter,
    /// Changes places with each recorder's own; empty in between.
    spare: Tally,
    /// Since the last second was closed.
    current: Tally,
    /// When that was.
    closed: Duration,
    /// As far as the last gathering.
    connected: u64,
    on_node: Vec<u64>,
    /// Whether the steady phase is on.
    steadily: bool,
    /// The whole run so far.
    total: Tally,
    record: Record,
}

impl Collector {
    /// Starts the clock of the run. The meter's processes are looked at with each second and checkpoint.
    pub(crate) fn new(meter: Meter) -> Self {
        let record = Record {
            started: SystemTime::now(),
            length: Duration::ZERO,
            totals: Default::default(),
            errors: Default::default(),
            samples: Default::default(),
            misrouting: None,
            latencies: super::tally::LatencySet::new(),
            steady: Latencies::new(),
            nodes: Vec::new(),
            peak: 0,
            seconds: Vec::new(),
            marks: Vec::new(),
            checkpoints: Vec::new(),
            processes: Vec::new(),
        };
        let ledger = Ledger {
            recorders: Vec::new(),
            gauge: Arc::default(),
            meter,
            spare: Tally::new(),
            current: Tally::new(),
            closed: Duration::ZERO,
            connected: 0,
            on_node: Vec::new(),
            steadily: false,
            total: Tally::new(),
            record,
        };
        Self { epoch: Instant::now(), ledger: Mutex::new(ledger) }
    }

    /// Zero of the run's clock.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// A recorder for one more thread.
    pub(crate) fn recorder(&self) -> Arc<Recorder> {
        let mut ledger = self.ledger();
        let recorder = Arc::new(Recorder::new(Arc::clone(&ledger.gauge)));
        ledger.recorders.push(Arc::clone(&recorder));
        recorder
    }

    /// Notes that something happened now, in a few words.
    pub(crate) fn mark(&self, text: impl Into<String>) {
        let mark = Mark { at: self.epoch.elapsed(), text: text.into() };
        self.ledger().record.marks.push(mark);
    }

    /// Notes the sums and the costs of now. Each moment comes once, in the order of [`Moment`].
    pub(crate) fn checkpoint(&self, moment: Moment) {
        let mut ledger = self.ledger();
        ledger.gather();
        let spent = ledger.meter.read(self.epoch.elapsed());
        let checkpoint = Checkpoint {
            moment,
            at: self.epoch.elapsed(),
            counters: ledger.total.counters,
            connected: ledger.connected,
            spent,
        };
        ledger.steadily = moment == Moment::SteadyStart;
        ledger.record.checkpoints.push(checkpoint);
    }

    /// Closes the current second and shows it.
    pub(crate) fn second(&self) -> Arc<Second> {
        let mut ledger = self.ledger();
        ledger.gather();
        ledger.close(self.epoch.elapsed())
    }

    /// How things stand now.
    pub(crate) fn look(&self) -> Look {
        let mut ledger = self.ledger();
        ledger.gather();
        let errors = ErrorKind::ALL.into_iter().zip(ledger.total.errors);
        let nodes = ledger.record.nodes.iter().zip(&ledger.on_node);
        Look {
            at_s: self.epoch.elapsed().as_secs_f64(),
            connected: ledger.connected,
            totals: ledger.total.counters,
            errors: errors
                .filter(|(_, many)| *many > 0)
                .map(|(kind, n)| (kind.label(), n))
                .collect(),
            nodes: nodes
                .filter(|(_, connected)| **connected > 0)
                .map(|(node, connected)| (node.name.clone(), *connected))
                .collect(),
        }
    }

    /// Names of the nodes seen so far, in the order of [`Second::on_node`].
    pub(crate) fn nodes(&self) -> Vec<NodeTotal> {
        self.ledger().record.nodes.clone()
    }

    /// The marks from the `seen`th on.
    pub(crate) fn marks_after(&self, seen: usize) -> Vec<Mark> {
        self.ledger().record.marks.iter().skip(seen).cloned().collect()
    }

    /// Sums, errors by kind and seconds, as far as they have been gathered: for a look on the way.
    pub(crate) fn totals(&self) -> (super::Counters, super::ErrorCounts) {
        let ledger = self.ledger();
        (ledger.total.counters, ledger.total.errors)
    }

    /// Everything so far, with what is left of the current second.
    pub(crate) fn record(&self) -> Record {
        let mut ledger = self.ledger();
        ledger.gather();
        ledger.close(self.epoch.elapsed());
        let total = &ledger.total;
        let (totals, errors) = (total.counters, total.errors);
        let latencies = total.latencies.clone();
        Record {
            length: ledger.closed,
            totals,
            errors,
            latencies,
            processes: ledger.meter.processes().to_vec(),
            ..ledger.record.clone()
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Empties all recorders into the current second and the totals.
    fn gather(&mut self) {
        self.connected = 0;
        self.on_node.fill(0);
        for node in &mut self.record.nodes {
            node.sessions = 0;
        }
        for recorder in &self.recorders {
            // Held no longer than it takes to change two tallies and to copy a handful of numbers.
            let desk = recorder.swap(&mut self.spare);
            self.connected += desk.connected;
            see(&desk, &mut self.record, &mut self.on_node);
            drop(desk);
            self.current.add(&self.spare);
            self.total.add(&self.spare);
            if self.steadily {
                self.record.steady.add(&self.spare.latencies.message);
            }
            self.spare.clear();
        }
    }

    fn close(&mut self, now: Duration) -> Arc<Second> {
        let latencies = &self.current.latencies;
        let second = Arc::new(Second {
            at: now,
            span: now.saturating_sub(self.closed),
            counters: self.current.counters,
            errors: self.current.errors,
            connected: self.connected,
            on_node: self.on_node.clone(),
            connect: Quantiles::of(latencies.connect.histogram()),
            message: Quantiles::of(latencies.message.histogram()),
            broadcast: Quantiles::of(latencies.broadcast.histogram()),
            spent: self.meter.read(now),
        });
        self.closed = now;
        self.current.clear();
        self.record.peak = self.gauge.peak();
        self.record.seconds.push(Arc::clone(&second));
        second
    }
}

/// Adds one thread's nodes, and keeps the first sample of each kind.
fn see(desk: &Desk, record: &mut Record, on_node: &mut Vec<u64>) {
    for node in &desk.nodes {
        let known = record.nodes.iter().position(|total| total.name == node.name);
        let index = known.unwrap_or_else(|| {
            record.nodes.push(NodeTotal { name: node.name.clone(), sessions: 0 });
            on_node.push(0);
            on_node.len() - 1
        });
        record.nodes[index].sessions += node.sessions;
        on_node[index] += node.connected;
    }
    for (first, sample) in record.samples.iter_mut().zip(&desk.samples) {
        if first.is_none() {
            first.clone_from(sample);
        }
    }
    if record.misrouting.is_none() {
        record.misrouting.clone_from(&desk.misrouting);
    }
}
