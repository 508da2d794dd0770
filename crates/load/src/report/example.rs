//! An invented, deterministic run for tests: a rolling deploy with a few errors.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    cost::{Process, ProcessUsage},
    scenario::{
        Answer, Arrival, ClientKind, Deploy, Fleet, Limits, Messages, Mode, Outputs, Pace, Payload,
        Protocol, Scenario, Target, Tls,
    },
    stats::{
        Checkpoint, Counters, ErrorKind, Latencies, LatencySet, Mark, Moment, NodeTotal, Quantiles,
        Record, Second,
    },
};

/// Clients of the invented run.
pub(super) const CLIENTS: u32 = 6_000;

const RAMP: u64 = 10;
const LENGTH: u64 = 62;

/// A rolling deploy.
pub(super) fn scenario() -> Scenario {
    let fleet = Fleet { nodes: 3, backends_file: "/tmp/backends".into() };
    let [after, drain, pause] = [8, 6, 4].map(Duration::from_secs);
    Scenario {
        target: Target {
            url: "https://chat.example:8443".to_owned(),
            tls: true,
            host: "chat.example".to_owned(),
            port: 8443,
            authority: "chat.example:8443".to_owned(),
            path: "/socket.io/".to_owned(),
            query: String::new(),
            addresses: vec!["127.0.0.1:8443".parse().unwrap()],
        },
        tls: Tls { resume: true, ..Tls::default() },
        client: ClientKind::PollingUpgrade,
        protocol: Protocol::V4,
        cookies: false,
        headers: Vec::new(),
        clients: CLIENTS,
        arrival: Arrival::Ramp(Duration::from_secs(RAMP)),
        hold: Duration::from_secs(50),
        messages: Messages {
            pace: Pace::Every(Duration::from_secs(10)),
            count: None,
            repeat: false,
            stay: false,
            size: 64,
            payload: Payload::Text,
            event: "echo".to_owned(),
            answer: Answer::Ack,
        },
        broadcast_every: None,
        reconnect: true,
        timeout: Duration::from_secs(10),
        single_connection: false,
        read_rate: None,
        sources: 1,
        threads: 1,
        mode: Mode::Deploy(Deploy { fleet, after, drain, pause, socket: None }),
        cost_of: vec![4711],
        limits: Limits {
            max_p99: Some(Duration::from_millis(50)),
            max_errors: Some(20),
            max_code1: Some(0),
            max_disconnects: Some(0),
            max_misrouted: Some(0),
        },
        outputs: Outputs::default(),
    }
}

/// The results of the run.
pub(super) fn record() -> Record {
    let mut run = Run { random: 7, ..Run::default() };
    let seconds: Vec<_> = (1..=LENGTH).map(|at| Arc::new(run.second(at))).collect();
    let mark = |at, text: &str| Mark { at: Duration::from_secs_f64(at), text: text.to_owned() };
    let mut samples: [Option<Box<str>>; ErrorKind::ALL.len()] = Default::default();
    samples[ErrorKind::UpgradeRefused as usize] =
        Some("the upgrade was answered by 502 <Bad Gateway>".into());
    samples[ErrorKind::Timeout as usize] = Some("no answer within 10 s".into());
    Record {
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        length: Duration::from_secs(LENGTH),
        totals: Counters { named: 2_000 * NODES.len() as u64, ..run.totals },
        errors: run.errors,
        samples,
        misrouting: None,
        latencies: run.latencies.clone(),
        steady: run.latencies.message.clone(),
        nodes: NODES.map(|name| NodeTotal { name: name.into(), sessions: 2_000 }).into(),
        peak: u64::from(CLIENTS),
        marks: vec![
            mark(18.0, "replacing node-1"),
            mark(28.0, "replacing node-2"),
            mark(38.0, "replacing node-3"),
        ],
        checkpoints: [
            (Moment::Before, 0),
            (Moment::SteadyStart, 12),
            (Moment::SteadyEnd, 60),
            (Moment::After, 62),
        ]
        .map(|(moment, at)| checkpoint(moment, at, &seconds))
        .into(),
        seconds,
        processes: vec![Process::new(4711, "moorline")],
    }
}

const NODES: [&str; 6] = ["node-1", "node-2", "node-3", "node-4", "node-5", "node-6"];

struct Run {
    random: u64,
    totals: Counters,
    errors: [u64; ErrorKind::ALL.len()],
    latencies: LatencySet,
    usage: ProcessUsage,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            random: 0,
            totals: Counters::default(),
            errors: Default::default(),
            latencies: LatencySet::new(),
            usage: ProcessUsage { user_us: 40_000, system_us: 30_000, pss_bytes: 9 << 20 },
        }
    }
}

impl Run {
    fn second(&mut self, at: u64) -> Second {
        let connected = match at {
            ..=RAMP => u64::from(CLIENTS) * at / RAMP,
            61.. => 0,
            _ => u64::from(CLIENTS),
        };
        let moving = [18, 28, 38].into_iter().any(|start| (start..start + 5).contains(&at));
        let connects = if at <= RAMP {
            600
        } else if moving {
            400
        } else {
            0
        };
        let answered = connected / 10;
        let mut message = Latencies::new();
        for _ in 0..answered {
            let scale = if moving { 4.0 } else { 1.0 };
            message.record(self.latency(900.0 * scale));
        }
        let mut connect = Latencies::new();
        for _ in 0..connects {
            connect.record(self.latency(2_400.0));
        }
        self.latencies.message.add(&message);
        self.latencies.connect.add(&connect);
        let mut errors = [0; ErrorKind::ALL.len()];
        if moving {
            errors[ErrorKind::UpgradeRefused as usize] = at % 4;
            errors[ErrorKind::Timeout as usize] = at % 3;
        }
        self.close(at, connected, connects, answered, errors, [&message, &connect])
    }

    fn close(
        &mut self,
        at: u64,
        connected: u64,
        connects: u64,
        answered: u64,
        errors: [u64; ErrorKind::ALL.len()],
        [message, connect]: [&Latencies; 2],
    ) -> Second {
        let counters = Counters {
            connects,
            upgrades: connects,
            sent: answered,
            answered,
            bytes_sent: answered * 64,
            bytes_received: answered * 64,
            errors: errors.iter().sum(),
            node_gone: if at > RAMP { connects } else { 0 },
            finished: if at == 61 { u64::from(CLIENTS) } else { 0 },
            ..Counters::default()
        };
        self.totals += &counters;
        for (sum, more) in self.errors.iter_mut().zip(&errors) {
            *sum += more;
        }
        self.usage.user_us += connects * 120 + answered * 9 + 2_000;
        self.usage.system_us += connects * 180 + answered * 15 + 3_000;
        self.usage.pss_bytes = (9 << 20) + connected * 9_600;
        Second {
            at: Duration::from_secs(at),
            span: Duration::from_secs(1),
            counters,
            errors,
            connected,
            on_node: on_node(at, connected),
            connect: Quantiles::of(connect.histogram()),
            message: Quantiles::of(message.histogram()),
            broadcast: Quantiles::default(),
            usage: vec![self.usage],
        }
    }

    /// Returns a random latency around `typical` microseconds, with a tail.
    fn latency(&mut self, typical: f64) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let even = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_micros((typical * (0.4 + 0.35 / (1.0 - even * 0.999).sqrt())) as u64)
    }
}

/// Each old node moves its clients to its replacement within five seconds.
fn on_node(at: u64, connected: u64) -> Vec<u64> {
    let share = connected / 3;
    let moved = |start: u64| share * at.saturating_sub(start).min(5) / 5;
    let old = [18, 28, 38].map(|start| share - moved(start));
    old.into_iter().chain([18, 28, 38].map(moved)).collect()
}

fn checkpoint(moment: Moment, at: u64, seconds: &[Arc<Second>]) -> Checkpoint {
    let mut counters = Counters::default();
    let past = &seconds[..at as usize];
    past.iter().for_each(|second| counters += &second.counters);
    let start = ProcessUsage { user_us: 40_000, system_us: 30_000, pss_bytes: 9 << 20 };
    Checkpoint {
        moment,
        at: Duration::from_secs(at),
        counters,
        connected: past.last().map_or(0, |second| second.connected),
        usage: past.last().map_or(vec![start], |second| second.usage.clone()),
    }
}
