//! The live view: a few lines in place on a terminal, otherwise one line per second.
//!
//! Owns the thread that ends the collector's seconds, which also runs if no view is shown.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::formatting::{self, count, micros};
use crate::{
    scenario::Scenario,
    stats::{Collector, Counters, ErrorCounts, ErrorKind, NodeTotal, Quantiles, Second},
};

/// Interval of updates.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum nodes that are listed.
const MAX_NODES: usize = 6;

/// A running view. Ends when stopped or dropped.
#[derive(Debug)]
pub(crate) struct Live {
    /// Closed to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Destination of the view: always standard error, because standard output is for the summary.
enum Screen {
    /// A few lines in place.
    Terminal(ProgressBar),
    /// One line per update.
    Lines,
    /// Nothing.
    Quiet,
}

/// Data of one update.
struct Update<'a> {
    second: &'a Second,
    totals: &'a Counters,
    errors: &'a ErrorCounts,
    nodes: &'a [NodeTotal],
}

impl Live {
    /// Starts a view that is updated once per second.
    pub(crate) fn start(scenario: &Scenario, collector: Arc<Collector>) -> Self {
        let screen = Screen::open(scenario);
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || watch(&collector, screen, &stopped));
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Ends the view and restores the terminal.
    pub(crate) fn stop(self) {}
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the view was printed already, and does not affect the figures.
            let _ = thread.join();
        }
    }
}

fn watch(collector: &Collector, screen: Screen, stopped: &mpsc::Receiver<()>) {
    let mut marks = 0;
    let mut due = Instant::now() + UPDATE_INTERVAL;
    while let Err(mpsc::RecvTimeoutError::Timeout) =
        stopped.recv_timeout(due.saturating_duration_since(Instant::now()))
    {
        // If the machine was suspended, this time is one long second, not many empty ones.
        due = (due + UPDATE_INTERVAL).max(Instant::now());
        let second = collector.end_second();
        for mark in collector.marks_after(marks) {
            marks += 1;
            screen.print_line(&format!(
                "{:>6.1} s  {}",
                mark.at.as_secs_f64(),
                formatting::sanitized(&mark.text)
            ));
        }
        if !matches!(screen, Screen::Quiet) {
            let (totals, errors) = collector.totals();
            let nodes = collector.nodes();
            let update =
                Update { second: &second, totals: &totals, errors: &errors, nodes: &nodes };
            screen.show(&update);
        }
    }
    screen.close();
}

impl Screen {
    fn open(scenario: &Scenario) -> Self {
        if scenario.outputs.quiet {
            return Self::Quiet;
        }
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new(u64::from(scenario.clients));
        let template = "{elapsed_precise}  {bar:28.cyan/dim} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━╌"));
        }
        Self::Terminal(bar)
    }

    fn print_line(&self, line: &str) {
        match self {
            Self::Terminal(bar) => bar.println(line),
            Self::Lines => print(line),
            Self::Quiet => {}
        }
    }

    fn show(&self, update: &Update<'_>) {
        match self {
            Self::Terminal(bar) => {
                bar.set_position(update.second.connected);
                bar.set_message(update.block(bar.length().unwrap_or(0)));
            }
            Self::Lines => print(&update.line()),
            Self::Quiet => {}
        }
    }

    fn close(&self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// An error of the view (a closed pipe) must not end the run.
fn print(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

impl Update<'_> {
    /// Returns one line for logs, always with the same order of fields.
    fn line(&self) -> String {
        let second = self.second;
        let mut line = format!(
            "{:>6.1} s  clients {}  handshakes {}/s  messages {}/s",
            second.at.as_secs_f64(),
            count(second.connected),
            self.rate(second.counters.connects),
            self.rate(second.counters.answered),
        );
        if let Some(latency) = self.latency() {
            let _ = write!(line, "  {latency}");
        }
        let _ = write!(line, "  errors {}", self.error_list());
        if let Some(nodes) = self.node_list() {
            let _ = write!(line, "  nodes {nodes}");
        }
        line
    }

    /// Returns the lines for a terminal: the rest of the progress bar's line, then one line per topic.
    fn block(&self, clients: u64) -> String {
        let counters = &self.second.counters;
        let mut block = format!("{} of {} clients\n", count(self.second.connected), count(clients));
        let _ = write!(
            block,
            "  handshakes {:>9}/s   messages {:>9}/s   {}",
            self.rate(counters.connects),
            self.rate(counters.answered),
            self.latency().unwrap_or_default(),
        );
        let _ = write!(block, "\n  errors     {}", self.error_list());
        if let Some(nodes) = self.node_list() {
            let _ = write!(block, "\n  nodes      {nodes}");
        }
        block
    }

    fn rate(&self, events: u64) -> String {
        let span = self.second.span.as_secs_f64();
        count(if span > 0.0 { (events as f64 / span).round() as u64 } else { 0 })
    }

    /// Returns the latency of messages; if there are none, of broadcasts or connects.
    fn latency(&self) -> Option<String> {
        let second = self.second;
        let kinds = [
            ("", &second.message),
            ("broadcast ", &second.broadcast),
            ("connect ", &second.connect),
        ];
        let (what, seen): (_, &Quantiles) = kinds.into_iter().find(|(_, seen)| seen.count > 0)?;
        Some(format!("{what}p50 {}  p99 {}", micros(seen.p50_us), micros(seen.p99_us)))
    }

    /// Returns all errors so far: older errors still matter.
    fn error_list(&self) -> String {
        let kinds = ErrorKind::ALL.into_iter().zip(self.errors).filter(|&(_, &many)| many > 0);
        let mut words: Vec<_> =
            kinds.map(|(kind, &many)| format!("{} {}", kind.label(), count(many))).collect();
        if self.totals.misrouted > 0 {
            words.push(format!("misrouted {}", count(self.totals.misrouted)));
        }
        match words.is_empty() {
            true => "none".to_owned(),
            false => words.join(", "),
        }
    }

    fn node_list(&self) -> Option<String> {
        let mut busy: Vec<_> = self
            .nodes
            .iter()
            .zip(&self.second.on_node)
            .filter(|&(_, &clients)| clients > 0)
            .map(|(node, &clients)| (&*node.name, clients))
            .collect();
        busy.sort_unstable_by_key(|&(name, _)| name);
        let rest: u64 = busy.iter().skip(MAX_NODES).map(|&(_, clients)| clients).sum();
        let further = busy.len().saturating_sub(MAX_NODES) as u64;
        let mut words: Vec<_> = busy
            .iter()
            .take(MAX_NODES)
            .map(|(name, clients)| format!("{} {}", formatting::sanitized(name), count(*clients)))
            .collect();
        if further > 0 {
            words.push(format!(
                "{} {}",
                formatting::counted(further, "other", "others"),
                count(rest)
            ));
        }
        (!words.is_empty()).then(|| words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::example, scenario::Outputs, stats::Record};

    fn update(record: &Record, second: usize) -> Update<'_> {
        Update {
            second: &record.seconds[second - 1],
            totals: &record.totals,
            errors: &record.errors,
            nodes: &record.nodes,
        }
    }

    #[test]
    fn line_has_clients_rates_latency_errors_and_nodes() {
        let line = update(&example::record(), 20).line();
        let (start, rest) = line.split_once("p50 ").unwrap();
        assert_eq!(start, "  20.0 s  clients 6,000  handshakes 400/s  messages 600/s  ");
        let (latency, rest) = rest.split_once("  errors ").unwrap();
        assert!(latency.contains("ms  p99 "), "{latency}");
        let nodes = "nodes node-1 1,200, node-2 2,000, node-3 2,000, node-4 800";
        assert_eq!(rest, format!("upgrade_refused 22, timeout 15  {nodes}"));
    }

    #[test]
    fn number_of_listed_nodes_is_limited() {
        let mut record = example::record();
        let second = Arc::make_mut(&mut record.seconds[29]);
        second.on_node = vec![1, 2, 3, 4, 5, 6, 7, 8];
        for name in ["node-7", "node-8"] {
            record.nodes.push(NodeTotal { name: name.into(), sessions: 1 });
        }
        let words = update(&record, 30).node_list().unwrap();
        assert!(words.ends_with("node-6 6, 2 others 15"), "{words}");
    }

    #[test]
    fn seconds_end_without_a_view() {
        let mut scenario = example::scenario();
        scenario.outputs = Outputs { quiet: true, ..Outputs::default() };
        let collector = Arc::new(Collector::new(Default::default()));
        let live = Live::start(&scenario, Arc::clone(&collector));
        let recorder = collector.recorder();
        recorder.sent(1);
        let deadline = Instant::now() + Duration::from_secs(20);
        while collector.totals().0.sent == 0 {
            assert!(Instant::now() < deadline, "no second has passed");
            thread::sleep(Duration::from_millis(10));
        }
        live.stop();
        assert_eq!(Arc::strong_count(&collector), 1);
    }
}
