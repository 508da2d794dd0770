//! Collects the figures of all threads.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    ErrorKind, Recorder,
    recorder::{ConnectedGauge, RecorderState},
    series::{Checkpoint, Mark, Moment, NodeTotal, Quantiles, Record, Second, Status},
    tally::{Latencies, Tally},
};
use crate::cost::Meter;

/// Collects what all recorders have counted. The caller calls [`end_second`](Self::end_second) once per second; the
/// phases of the run add marks and checkpoints.
#[derive(Debug)]
pub(crate) struct Collector {
    epoch: Instant,
    state: Mutex<CollectorState>,
}

#[derive(Debug)]
struct CollectorState {
    recorders: Vec<Arc<Recorder>>,
    gauge: Arc<ConnectedGauge>,
    meter: Meter,
    /// Swapped with the tally of each recorder; empty in between.
    spare: Tally,
    /// Since the end of the last second.
    current: Tally,
    /// End of the last second.
    closed: Duration,
    /// At the last collection.
    connected: u64,
    on_node: Vec<u64>,
    /// Whether this is the steady phase.
    in_steady_phase: bool,
    /// The whole run so far.
    total: Tally,
    record: Record,
}

impl Collector {
    /// Starts the clock of the run. The processes of the meter are measured at each second and checkpoint.
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
        let state = CollectorState {
            recorders: Vec::new(),
            gauge: Arc::default(),
            meter,
            spare: Tally::new(),
            current: Tally::new(),
            closed: Duration::ZERO,
            connected: 0,
            on_node: Vec::new(),
            in_steady_phase: false,
            total: Tally::new(),
            record,
        };
        Self { epoch: Instant::now(), state: Mutex::new(state) }
    }

    /// Zero of the run's clock.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Returns a recorder for one more thread.
    pub(crate) fn recorder(&self) -> Arc<Recorder> {
        let mut state = self.state();
        let recorder = Arc::new(Recorder::new(Arc::clone(&state.gauge)));
        state.recorders.push(Arc::clone(&recorder));
        recorder
    }

    /// Records an event of the run at the current time.
    pub(crate) fn mark(&self, text: impl Into<String>) {
        let mark = Mark { at: self.epoch.elapsed(), text: text.into() };
        self.state().record.marks.push(mark);
    }

    /// Records totals and resource usage at the current time. Each moment comes once, in the order of
    /// [`Moment`].
    pub(crate) fn checkpoint(&self, moment: Moment) {
        let mut state = self.state();
        state.collect();
        let usage = state.meter.read(self.epoch.elapsed());
        let checkpoint = Checkpoint {
            moment,
            at: self.epoch.elapsed(),
            counters: state.total.counters,
            connected: state.connected,
            usage,
        };
        state.in_steady_phase = moment == Moment::SteadyStart;
        state.record.checkpoints.push(checkpoint);
    }

    /// Ends the current second and returns it.
    pub(crate) fn end_second(&self) -> Arc<Second> {
        let mut state = self.state();
        state.collect();
        state.close(self.epoch.elapsed())
    }

    /// Returns the current status.
    pub(crate) fn status(&self) -> Status {
        let mut state = self.state();
        state.collect();
        let errors = ErrorKind::ALL.into_iter().zip(state.total.errors);
        let nodes = state.record.nodes.iter().zip(&state.on_node);
        Status {
            at_s: self.epoch.elapsed().as_secs_f64(),
            connected: state.connected,
            totals: state.total.counters,
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

    /// Returns the nodes seen so far, in the order of [`Second::on_node`].
    pub(crate) fn nodes(&self) -> Vec<NodeTotal> {
        self.state().record.nodes.clone()
    }

    /// Returns the marks after the first `seen` ones.
    pub(crate) fn marks_after(&self, seen: usize) -> Vec<Mark> {
        self.state().record.marks.iter().skip(seen).cloned().collect()
    }

    /// Returns totals and errors by kind at the last collection.
    pub(crate) fn totals(&self) -> (super::Counters, super::ErrorCounts) {
        let state = self.state();
        (state.total.counters, state.total.errors)
    }

    /// Returns everything so far, including the incomplete current second.
    pub(crate) fn record(&self) -> Record {
        let mut state = self.state();
        state.collect();
        state.close(self.epoch.elapsed());
        let total = &state.total;
        let (totals, errors) = (total.counters, total.errors);
        let latencies = total.latencies.clone();
        Record {
            length: state.closed,
            totals,
            errors,
            latencies,
            processes: state.meter.processes().to_vec(),
            ..state.record.clone()
        }
    }

    fn state(&self) -> MutexGuard<'_, CollectorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CollectorState {
    /// Moves the figures of all recorders into the current second and the totals.
    fn collect(&mut self) {
        self.connected = 0;
        self.on_node.fill(0);
        for node in &mut self.record.nodes {
            node.sessions = 0;
        }
        for recorder in &self.recorders {
            // Locked only while two tallies are swapped and a few numbers are copied.
            let state = recorder.swap(&mut self.spare);
            self.connected += state.connected;
            add_recorder(&state, &mut self.record, &mut self.on_node);
            drop(state);
            self.current.add(&self.spare);
            self.total.add(&self.spare);
            if self.in_steady_phase {
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
            usage: self.meter.read(now),
        });
        self.closed = now;
        self.current.clear();
        self.record.peak = self.gauge.peak();
        self.record.seconds.push(Arc::clone(&second));
        second
    }
}

/// Adds the nodes of one thread, and keeps the first sample of each kind.
fn add_recorder(state: &RecorderState, record: &mut Record, on_node: &mut Vec<u64>) {
    for node in &state.nodes {
        let known = record.nodes.iter().position(|total| total.name == node.name);
        let index = known.unwrap_or_else(|| {
            record.nodes.push(NodeTotal { name: node.name.clone(), sessions: 0 });
            on_node.push(0);
            on_node.len() - 1
        });
        record.nodes[index].sessions += node.sessions;
        on_node[index] += node.connected;
    }
    for (first, sample) in record.samples.iter_mut().zip(&state.samples) {
        if first.is_none() {
            first.clone_from(sample);
        }
    }
    if record.misrouting.is_none() {
        record.misrouting.clone_from(&state.misrouting);
    }
}
