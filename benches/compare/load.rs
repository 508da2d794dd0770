//! One run of the load generator, and its report.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{ChildStdin, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::{
    harness::harness,
    peer::{ListenerKind, Proxy},
    rows::{Figure, Unit},
};

/// Share of answers, sessions and connections that may fail: some are still open when the clients leave.
const MOST_ERRORS: f64 = 0.01;

/// Source addresses of clients that come and go: one address has ports for 28,000 connections a minute.
const SOURCES: u32 = 100;

/// Longest time until all clients of a held load are connected.
const CONNECTING: Duration = Duration::from_secs(60);
/// Time between two looks at the number of connected clients.
const LOOK: Duration = Duration::from_millis(100);

/// Options of a run.
pub(crate) struct LoadOptions<'a> {
    pub(crate) listener: ListenerKind,
    pub(crate) path: &'a str,
    pub(crate) flags: &'a str,
    /// Time over which the clients arrive.
    pub(crate) ramp: Duration,
    /// Time from the last arrival to the end; its last three quarters are measured.
    pub(crate) hold: Duration,
}

/// The parts of the load generator's report that are used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    checkpoints: Vec<Checkpoint>,
    latency: Latency,
    /// Errors, with samples.
    errors: serde_json::Value,
}

/// Latency from the intended time of a message to its answer; `None` if no message was answered.
#[derive(Debug, Deserialize)]
struct Latency {
    message_steady: Option<Quantiles>,
}

#[derive(Debug, Deserialize)]
struct Quantiles {
    p99_us: u64,
}

/// The state at the border between two phases.
#[derive(Debug, Deserialize)]
struct Checkpoint {
    moment: String,
    at_s: f64,
    counters: Counters,
    connected: u64,
    usage: Vec<Usage>,
}

/// Sums since the start of the run.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Counters {
    connects: u64,
    answered: u64,
    bytes_received: u64,
    finished: u64,
    errors: u64,
}

/// CPU time and memory of a process at that time.
#[derive(Debug, Deserialize)]
struct Usage {
    user_us: u64,
    system_us: u64,
    pss_bytes: u64,
}

/// Runs the load generator against a proxy.
pub(crate) fn run(proxy: &Proxy, options: &LoadOptions<'_>) -> anyhow::Result<Report> {
    let mut command = command("run", proxy, options);
    let done = command.args(["--hold", &span(options.hold)]).output().context("moorline-load")?;
    report(proxy, &done)
}

/// As [`run`], but the hold begins when all `clients` are connected.
pub(crate) fn run_connected(
    proxy: &Proxy,
    options: &LoadOptions<'_>,
    clients: u64,
) -> anyhow::Result<Report> {
    let mut command = command("controlled", proxy, options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("moorline-load")?;
    // Both are dropped before the end is awaited: the run ends with its standard input.
    if let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
        // An error here is explained by the standard error of the child.
        if wait_until_connected(stdin, stdout, options.hold, clients).is_err() {
            let _ = child.kill();
        }
    }
    report(proxy, &child.wait_with_output()?)
}

fn wait_until_connected(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    hold: Duration,
    clients: u64,
) -> anyhow::Result<()> {
    let mut answers = BufReader::new(stdout).lines();
    let deadline = Instant::now() + CONNECTING;
    let mut connected = 0;
    // At the deadline, the report gives the number.
    while connected < clients && Instant::now() < deadline {
        thread::sleep(LOOK);
        stdin.write_all(b"status\n")?;
        let answer = answers.next().context("no status")??;
        let status: serde_json::Value = serde_json::from_str(&answer)?;
        connected = status["connected"].as_u64().context("no number of clients")?;
    }
    thread::sleep(hold);
    Ok(())
}

/// The command of a run without its length.
fn command(kind: &str, proxy: &Proxy, options: &LoadOptions<'_>) -> Command {
    let mut command = Command::new(harness());
    command.arg(kind).arg(proxy.url(options.listener) + options.path);
    command.args(options.flags.split(' ')).args(["--insecure", "--no-reconnect", "--quiet"]);
    command.args(["--threads", "1", "--sources", &SOURCES.to_string()]);
    command.args(["--ramp", &span(options.ramp)]).arg("--json").arg(figures(proxy));
    for worker in &proxy.workers {
        command.args(["--cost-of", &worker.to_string()]);
    }
    command
}

fn figures(proxy: &Proxy) -> PathBuf {
    proxy.directory().join("load.json")
}

/// The report of a run that has ended.
fn report(proxy: &Proxy, done: &Output) -> anyhow::Result<Report> {
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "the load generator failed: {}", errors.trim());
    let text = fs::read_to_string(figures(proxy)).context("the load generator's figures")?;
    let report: Report = serde_json::from_str(&text).context("the load generator's figures")?;
    report.few_errors()?;
    Ok(report)
}

impl Report {
    /// A figure of the steady phase.
    pub(crate) fn figure(&self, figure: Figure) -> anyhow::Result<f64> {
        let (start, end) = (self.at("steady_start")?, self.at("steady_end")?);
        let seconds = end.at_s - start.at_s;
        let cpu = end.cpu_us().saturating_sub(start.cpu_us()) as f64;
        let count = |unit| end.counters.of(unit).saturating_sub(start.counters.of(unit)) as f64;
        let value = match figure {
            Figure::Cpu(unit) => cpu / count(unit),
            Figure::CpuPerGib => {
                let bytes = end.counters.bytes_received - start.counters.bytes_received;
                cpu / 1e6 / (bytes as f64 / f64::from(1 << 30))
            }
            Figure::Rate(unit) => count(unit) / seconds,
            Figure::P99(_) => {
                let latency = self.latency.message_steady.as_ref();
                latency.context("no message was answered")?.p99_us as f64
            }
            Figure::Busy => cpu / 1e4 / seconds,
        };
        ensure!(
            value.is_finite() && value > 0.0,
            "nothing was measured; errors: {:?}",
            self.errors
        );
        Ok(value)
    }

    /// Bytes that the proxy grew by from before the first arrival to the end of the steady phase.
    pub(crate) fn growth(&self, clients: u64) -> anyhow::Result<f64> {
        let (start, end) = (self.at("before")?, self.at("steady_end")?);
        ensure!(end.connected == clients, "{} of {clients} are connected", end.connected);
        Ok(end.pss() as f64 - start.pss() as f64)
    }

    /// Bytes of the proxy before the first arrival.
    pub(crate) fn before(&self) -> anyhow::Result<f64> {
        Ok(self.at("before")?.pss() as f64)
    }

    fn at(&self, moment: &str) -> anyhow::Result<&Checkpoint> {
        let found = self.checkpoints.iter().find(|checkpoint| checkpoint.moment == moment);
        found.with_context(|| format!("no figures of {moment}"))
    }

    fn few_errors(&self) -> anyhow::Result<()> {
        let counters = self.at("steady_end")?.counters;
        let done = counters.answered + counters.finished + counters.connects;
        let most = done as f64 * MOST_ERRORS;
        ensure!(counters.errors as f64 <= most, "{} errors: {}", counters.errors, self.errors);
        Ok(())
    }
}

impl Checkpoint {
    fn cpu_us(&self) -> u64 {
        self.usage.iter().map(|usage| usage.user_us + usage.system_us).sum()
    }

    fn pss(&self) -> u64 {
        self.usage.iter().map(|usage| usage.pss_bytes).sum()
    }
}

impl Counters {
    fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Request | Unit::Message => self.answered,
            Unit::Handshake => self.connects,
            Unit::Connection | Unit::Session => self.finished,
        }
    }
}

fn span(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
