//! Compares the figures of several threads with expected values.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Collector, ErrorKind, Failure, Loss, Moment, Record};
use crate::cost::Meter;

const THREADS: u64 = 4;
const EACH: u64 = 5_000;

fn collector() -> Collector {
    Collector::new(Meter::default())
}

fn failure(kind: ErrorKind, detail: &str) -> Failure {
    Failure::new(kind, detail)
}

/// Long ago, so that a few microseconds do not change the first three digits.
fn ago(micros: u64) -> Instant {
    Instant::now() - Duration::from_micros(micros)
}

/// Reports latencies from 1 s to 21 s, equally distributed over the range and the threads.
fn report_from_threads(collector: &Collector, concurrently: impl Fn()) -> Record {
    thread::scope(|scope| {
        for number in 0..THREADS {
            let recorder = collector.recorder();
            scope.spawn(move || {
                let name = format!("node-{}", number % 2);
                let connected_guard = recorder.connected(Some(&name), Instant::now());
                for step in 0..EACH {
                    recorder.sent(10);
                    recorder.answered(ago(1_000_000 + (step * THREADS + number) * 1_000), 20);
                }
                recorder.failed(&failure(ErrorKind::Timeout, "no answer"));
                recorder.lost(Loss::Unexpected, &failure(ErrorKind::Disconnect, "reset"));
                recorder
                    .lost(Loss::NodeDown, &failure(ErrorKind::Disconnect, "its node was killed"));
                recorder.lost(Loss::Moved, &failure(ErrorKind::Disconnect, "closed with 1012"));
                recorder.lost(Loss::Dropped, &failure(ErrorKind::Disconnect, "dropped by the run"));
                recorder.misrouted("node-0", "node-1");
                drop(connected_guard);
            });
        }
        concurrently();
    });
    collector.record()
}

#[test]
fn totals_of_all_threads_are_exact_with_any_number_of_collections() {
    let collector = collector();
    let record = report_from_threads(&collector, || {
        // Concurrently: nothing may be lost or counted twice between two collections.
        for _ in 0..200 {
            collector.end_second();
        }
    });
    let totals = record.totals;
    assert_eq!((totals.sent, totals.answered), (THREADS * EACH, THREADS * EACH));
    assert_eq!(totals.bytes_sent, THREADS * EACH * 10);
    assert_eq!(totals.bytes_received, THREADS * EACH * 20);
    assert_eq!(totals.connects, THREADS);
    assert_eq!((totals.errors, totals.disconnects), (2 * THREADS, THREADS));
    assert_eq!((totals.node_gone, totals.dropped, totals.misrouted), (4, 4, 4));
    assert_eq!(totals.moved, THREADS);
    assert_eq!(record.errors[ErrorKind::Timeout as usize], THREADS);
    assert_eq!(record.errors[ErrorKind::Disconnect as usize], THREADS);
    assert_eq!(record.samples[ErrorKind::Disconnect as usize].as_deref(), Some("reset"));
    assert_eq!(record.samples[ErrorKind::Code1 as usize], None);
    let sums = |of: fn(&super::Second) -> u64| record.seconds.iter().map(|s| of(s)).sum::<u64>();
    assert_eq!(sums(|second| second.counters.answered), totals.answered);
    assert_eq!(sums(|second| second.message.count), totals.answered);
    assert_eq!(sums(|second| second.errors.iter().sum()), totals.errors);
    let nodes: u64 = record.nodes.iter().map(|node| node.sessions).sum();
    assert_eq!((record.nodes.len(), nodes), (2, THREADS));
}

#[test]
fn percentiles_are_exact_to_three_digits() {
    let record = report_from_threads(&collector(), || {});
    let messages = record.latencies.message.histogram();
    let values = THREADS * EACH;
    assert_eq!(messages.len(), values);
    for quantile in [0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
        let rank = (quantile * values as f64).ceil() as u64;
        let exact = (1_000_000 + (rank - 1) * 1_000) as f64;
        let seen = messages.value_at_quantile(quantile) as f64;
        // Three digits, and the delay of a busy machine between measuring and recording.
        assert!((seen - exact).abs() / exact < 0.02, "{quantile}: {seen}, not {exact}");
    }
}

#[test]
fn clients_count_as_connected_until_their_guard_is_dropped() {
    let collector = collector();
    let [one, other] = [collector.recorder(), collector.recorder()];
    let seats = [
        one.connected(Some("a"), Instant::now()),
        one.connected(Some("b"), Instant::now()),
        other.connected(Some("b"), Instant::now()),
        other.connected(None, Instant::now()),
    ];
    let second = collector.end_second();
    assert_eq!((second.connected, &second.on_node[..]), (4, &[1, 2][..]));
    assert_eq!(second.counters.connects, 4);
    drop(other.connected(None, Instant::now()));
    let [a, b, c, d] = seats;
    drop((a, b, d));
    let second = collector.end_second();
    assert_eq!((second.connected, &second.on_node[..]), (1, &[0, 1][..]));
    drop(c);
    let record = collector.record();
    assert_eq!(record.seconds.last().unwrap().connected, 0);
    assert_eq!(record.peak, 5, "the peak includes connections between two collections");
    let names: Vec<_> = record.nodes.iter().map(|node| (&*node.name, node.sessions)).collect();
    assert_eq!(names, [("a", 1), ("b", 2)]);
}

#[test]
fn number_of_node_names_is_limited() {
    let collector = collector();
    let recorder = collector.recorder();
    for number in 0..1_000 {
        drop(recorder.connected(Some(&format!("node-{number}")), Instant::now()));
    }
    let record = collector.record();
    assert_eq!(record.nodes.len(), 257);
    assert_eq!(record.nodes.iter().map(|node| node.sessions).sum::<u64>(), 1_000);
    assert_eq!(&*record.nodes[256].name, "others");
}

#[test]
fn checkpoints_delimit_totals_and_steady_latencies() {
    let collector = collector();
    let recorder = collector.recorder();
    let answer = |micros| recorder.answered(ago(micros), 1);
    collector.checkpoint(Moment::Before);
    answer(10_000_000);
    collector.checkpoint(Moment::SteadyStart);
    answer(20_000_000);
    collector.end_second();
    answer(20_000_000);
    collector.checkpoint(Moment::SteadyEnd);
    answer(30_000_000);
    collector.checkpoint(Moment::After);
    let record = collector.record();
    let answered: Vec<_> = record.checkpoints.iter().map(|at| at.counters.answered).collect();
    assert_eq!(answered, [0, 1, 3, 4]);
    let steady = record.steady.histogram();
    assert_eq!(steady.len(), 2);
    assert!(steady.min() > 19_000_000 && steady.max() < 25_000_000);
    assert_eq!(record.latencies.message.histogram().len(), 4);
}

#[test]
fn latency_counts_from_the_intended_time() {
    let collector = collector();
    let recorder = collector.recorder();
    recorder.answered(ago(3_000_000), 1);
    // Due in the future: the latency is zero.
    recorder.received_broadcast(Instant::now() + Duration::from_secs(9), 1);
    recorder.finished(ago(100 * 3_600 * 1_000_000));
    let latencies = collector.record().latencies;
    assert!(latencies.message.histogram().min() >= 2_990_000);
    assert_eq!(latencies.broadcast.histogram().max(), 0);
    let day = 24 * 3_600 * 1_000_000;
    assert!(latencies.session.histogram().equivalent(latencies.session.histogram().max(), day));
}

#[test]
fn status_has_current_clients_and_total_errors() {
    let collector = collector();
    let recorder = collector.recorder();
    let seats = ["node-0", "node-1", "node-1"].map(|n| recorder.connected(Some(n), Instant::now()));
    recorder.failed(&failure(ErrorKind::Code1, "unknown"));
    collector.end_second();
    let status = collector.status();
    assert_eq!((status.connected, status.totals.connects, status.totals.errors), (3, 3, 1));
    assert_eq!(status.errors, [("code1", 1)].into());
    assert_eq!(status.nodes, [("node-0".into(), 1), ("node-1".into(), 2)].into());
    drop(seats);
    let status = collector.status();
    assert_eq!((status.connected, status.nodes.len(), status.totals.connects), (0, 0, 3));
}

#[test]
fn marks_are_returned_once_in_order() {
    let collector = Arc::new(collector());
    collector.mark("replacing node-1");
    collector.mark("replacing node-2");
    let texts: Vec<_> = collector.marks_after(1).into_iter().map(|mark| mark.text).collect();
    assert_eq!(texts, ["replacing node-2"]);
    assert!(collector.marks_after(2).is_empty());
    assert_eq!(collector.record().marks.len(), 2);
}
