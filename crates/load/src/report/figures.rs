//! Key figures and tables of a run, for the terminal and the HTML page.

use super::{
    formatting::{self, bytes, count, counted, micros, number},
    json::{Distribution, Document},
    phase_cost::PhaseCost,
};
use crate::stats::Moment;

/// A key figure.
#[derive(Clone, Debug)]
pub(super) struct KeyFigure {
    /// Name of the figure.
    pub(super) name: &'static str,
    /// Value with its unit.
    pub(super) value: String,
    /// Short comment; may be empty.
    pub(super) note: String,
}

/// A table with a header row.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Title.
    pub(super) title: &'static str,
    /// Column names.
    pub(super) head: Vec<String>,
    /// Rows with one cell per column.
    pub(super) rows: Vec<Vec<String>>,
    /// Indexes of text columns; the others contain numbers.
    texts: &'static [usize],
}

impl Table {
    pub(super) fn new(title: &'static str, head: &[&str], texts: &'static [usize]) -> Self {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        Self { title, head, rows: Vec::new(), texts }
    }

    /// Whether the table is too wide for half of the page.
    pub(super) fn is_wide(&self) -> bool {
        self.head.len() > 4
    }

    /// Whether a column contains text.
    pub(super) fn is_text(&self, column: usize) -> bool {
        self.texts.contains(&column)
    }
}

/// The result in one sentence.
pub(super) fn headline(document: &Document) -> String {
    let checks = &document.verdict.checks;
    let failed = document.verdict.failures().len();
    match document.verdict.passed {
        None if document.totals.connects == 0 => "Finished, but no client connected.".to_owned(),
        None => format!("Finished with {}.", errors(document)),
        Some(true) if checks.len() == 1 => "Passed: the limit was not exceeded.".to_owned(),
        Some(true) => format!("Passed: none of {} limits was exceeded.", checks.len()),
        Some(false) if checks.len() == 1 => "Failed: the limit was exceeded.".to_owned(),
        Some(false) => format!("Failed: {failed} of {} checks.", checks.len()),
    }
}

fn errors(document: &Document) -> String {
    match document.totals.errors {
        0 => "no errors".to_owned(),
        many => counted(many, "error", "errors"),
    }
}

/// The key figures, most important first.
pub(super) fn key_figures(document: &Document) -> Vec<KeyFigure> {
    let totals = &document.totals;
    let mut key_figures = vec![KeyFigure {
        name: "Peak clients",
        value: count(document.peak_connected),
        note: format!("of {}", count(u64::from(document.scenario.clients))),
    }];
    if totals.connects > 0 {
        key_figures.push(connects(document));
    }
    if totals.answered + totals.unanswered > 0 {
        key_figures.push(messages(document));
    }
    if totals.unanswered > 0 {
        key_figures.push(KeyFigure {
            name: "Unanswered",
            value: count(totals.unanswered),
            note: "when their connection ended; not errors".to_owned(),
        });
    }
    key_figures.extend(document.latency.message.as_ref().map(|latency| KeyFigure {
        name: "Message p99",
        value: micros(latency.p99_us),
        note: format!("p50 {}", micros(latency.p50_us)),
    }));
    if totals.broadcasts > 0 {
        key_figures.extend(document.latency.broadcast.as_ref().map(|latency| KeyFigure {
            name: "Broadcast p99",
            value: micros(latency.p99_us),
            note: format!("{} received", count(totals.broadcasts)),
        }));
    }
    if totals.answered == 0 && totals.bytes_received > 0 {
        key_figures.push(download(document));
    }
    key_figures.push(KeyFigure {
        name: "Errors",
        value: count(totals.errors),
        note: match totals.disconnects {
            0 => "no disconnect".to_owned(),
            many if totals.undrained > 0 => format!(
                "including {}, {} at the end of a drain",
                counted(many, "disconnect", "disconnects"),
                count(totals.undrained)
            ),
            many => format!("including {}", counted(many, "disconnect", "disconnects")),
        },
    });
    key_figures.extend(expected_losses(document));
    if totals.moved > 0 {
        key_figures.push(KeyFigure {
            name: "Moved",
            value: count(totals.moved),
            note: "asked to reconnect; not errors".to_owned(),
        });
    }
    if totals.misrouted > 0 || !document.nodes.is_empty() {
        key_figures.push(KeyFigure {
            name: "Misrouted",
            value: count(totals.misrouted),
            note: document.misrouting.clone().unwrap_or_else(|| {
                format!("on {}", counted(document.nodes.len() as u64, "node", "nodes"))
            }),
        });
    }
    key_figures.extend(cpu(document));
    key_figures
}

fn connects(document: &Document) -> KeyFigure {
    let latency = document.latency.connect.as_ref();
    KeyFigure {
        name: "Connects",
        value: count(document.totals.connects),
        note: latency.map_or(String::new(), |all| format!("p99 {}", micros(all.p99_us))),
    }
}

/// The rate of the steady phase: arrivals and the end of the run would distort it.
fn messages(document: &Document) -> KeyFigure {
    let at = |moment| document.checkpoints.iter().find(move |point| point.moment == moment);
    let rate = at(Moment::SteadyStart).zip(at(Moment::SteadyEnd)).and_then(|(from, to)| {
        let length = to.at_s - from.at_s;
        let answered = to.counters.since(&from.counters).answered;
        (length > 0.0)
            .then(|| format!("{}/s in the steady phase", number(answered as f64 / length)))
    });
    KeyFigure {
        name: "Messages answered",
        value: count(document.totals.answered),
        note: rate.unwrap_or_default(),
    }
}

fn download(document: &Document) -> KeyFigure {
    let received = document.totals.bytes_received;
    let rate = received as f64 / document.length_s.max(1e-3);
    KeyFigure {
        name: "Received",
        value: bytes(received),
        note: format!("{}/s", bytes(rate as u64)),
    }
}

fn expected_losses(document: &Document) -> Option<KeyFigure> {
    let totals = &document.totals;
    let (name, value, note) = match (totals.node_gone, totals.dropped) {
        (0, 0) => return None,
        (0, dropped) => ("Dropped", dropped, "by the run; not errors"),
        (gone, _) => ("Lost with a node", gone, "killed, hung or reset by the run; not errors"),
    };
    Some(KeyFigure { name, value: count(value), note: note.to_owned() })
}

fn cpu(document: &Document) -> Option<KeyFigure> {
    let cost = document.cost.as_ref()?;
    let phase_cost = cost.steady.as_ref().or(cost.whole.as_ref())?;
    let note = phase_cost.cpu_us_per_message.map(|each| format!("{} µs per message", number(each)));
    Some(KeyFigure {
        name: "CPU used",
        value: format!("{} %", number(phase_cost.cores * 100.0)),
        note: note.unwrap_or_else(|| "of a core".to_owned()),
    })
}

/// The tables that are not empty.
pub(super) fn tables(document: &Document) -> Vec<Table> {
    let tables = [latencies(document), failures(document), nodes(document), costs(document)];
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn latencies(document: &Document) -> Table {
    let head = ["Latency", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut table = Table::new("Latencies", &head, &[0]);
    let latency = &document.latency;
    let kinds = [
        ("connect", &latency.connect),
        ("message", &latency.message),
        ("message, steady phase", &latency.message_steady),
        ("broadcast", &latency.broadcast),
        ("session", &latency.session),
    ];
    for (name, seen) in kinds {
        table.rows.extend(seen.as_ref().map(|seen| latency_row(name, seen)));
    }
    table
}

fn latency_row(name: &str, seen: &Distribution) -> Vec<String> {
    let percentiles =
        [seen.p50_us, seen.p90_us, seen.p99_us, seen.p999_us, seen.p9999_us, seen.max_us];
    let start = [name.to_owned(), count(seen.count)];
    start.into_iter().chain(percentiles.map(micros)).collect()
}

fn failures(document: &Document) -> Table {
    let mut table = Table::new("Errors by kind", &["Error", "count", "first one"], &[0, 2]);
    for error in &document.errors {
        let sample = error.sample.clone().unwrap_or_default();
        table.rows.push(vec![error.kind.clone(), count(error.count), sample]);
    }
    table
}

fn nodes(document: &Document) -> Table {
    let head = ["Node", "sessions", "peak clients"];
    let mut table = Table::new("Sessions per node", &head, &[0]);
    for node in &document.nodes {
        let name = node.name.clone();
        table.rows.push(vec![name, count(node.sessions), count(node.peak_connected)]);
    }
    table.rows.sort();
    table
}

fn costs(document: &Document) -> Table {
    let head = ["CPU time", "length", "total", "of a core"];
    let each = ["per message", "per connect", "per session", "per GiB"];
    let plan = &document.scenario;
    // Only useful for large payloads.
    let bulky = plan.size >= 4096 || plan.client == "bulk";
    let each = if bulky { &each[..] } else { &each[..3] };
    let head = [&head, each].concat();
    let mut table = Table::new("CPU time of the measured processes", &head, &[0]);
    let Some(cost) = &document.cost else { return table };
    for (name, phase_cost) in [("whole run", &cost.whole), ("steady phase", &cost.steady)] {
        table.rows.extend(phase_cost.as_ref().map(|phase_cost| cost_row(name, phase_cost)));
    }
    for row in &mut table.rows {
        row.truncate(table.head.len());
    }
    table
}

fn cost_row(name: &str, phase_cost: &PhaseCost) -> Vec<String> {
    let each = |value: Option<f64>| match value {
        Some(micros) => format!("{} µs", number(micros)),
        None => "–".to_owned(),
    };
    let seconds = |value: f64| format!("{} s", number(value));
    vec![
        name.to_owned(),
        seconds(phase_cost.length_s),
        seconds(phase_cost.cpu_s),
        format!("{} %", number(phase_cost.cores * 100.0)),
        each(phase_cost.cpu_us_per_message),
        each(phase_cost.cpu_us_per_connect),
        each(phase_cost.cpu_us_per_session),
        phase_cost.cpu_s_per_gib.map_or("–".to_owned(), seconds),
    ]
}

/// Returns sentences about the measured processes and their memory.
pub(super) fn cost_notes(document: &Document) -> Vec<String> {
    [processes(document), memory(document)].into_iter().flatten().collect()
}

fn memory(document: &Document) -> Option<String> {
    let each = document.cost.as_ref()?.pss_per_connection_bytes?;
    let usage = &document.checkpoints.iter().find(|at| at.moment == Moment::SteadyEnd)?.usage;
    let pss = usage.iter().map(|usage| usage.pss_bytes).sum();
    let each = number(each / 1024.0);
    Some(format!(
        "Memory (PSS) at the end of the steady phase: {}, a growth of {each} KiB per connected client.",
        bytes(pss)
    ))
}

fn processes(document: &Document) -> Option<String> {
    let each = document.processes.iter().map(|process| match process.ended_s {
        None => format!("{} ({})", process.name, process.pid),
        Some(at) => {
            format!("{} ({}, ended after {} s)", process.name, process.pid, formatting::number(at))
        }
    });
    let each: Vec<_> = each.collect();
    (!each.is_empty()).then(|| format!("Measured: {}.", formatting::list(&each)))
}
