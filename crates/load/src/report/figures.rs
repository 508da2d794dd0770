//! What is worth saying of a run, in words and tables: for the terminal and for the page alike.

use super::{
    expense::Expense,
    json::{Distribution, Document},
    words::{self, bytes, count, counted, micros, number},
};
use crate::stats::Moment;

/// A key figure.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    /// What it is.
    pub(super) name: &'static str,
    /// With its unit.
    pub(super) value: String,
    /// A few words about it; may be empty.
    pub(super) note: String,
}

/// A table with a head.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// What it is about.
    pub(super) title: &'static str,
    /// Names of the columns.
    pub(super) head: Vec<String>,
    /// As many cells as the head has.
    pub(super) rows: Vec<Vec<String>>,
    /// Columns that hold words; the others hold figures.
    texts: &'static [usize],
}

impl Table {
    pub(super) fn new(title: &'static str, head: &[&str], texts: &'static [usize]) -> Self {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        Self { title, head, rows: Vec::new(), texts }
    }

    /// Whether it is too wide to stand beside another one.
    pub(super) fn is_wide(&self) -> bool {
        self.head.len() > 4
    }

    /// Whether a column holds words.
    pub(super) fn is_text(&self, column: usize) -> bool {
        self.texts.contains(&column)
    }
}

/// Whether it went well, in one sentence.
pub(super) fn headline(document: &Document) -> String {
    let checks = &document.verdict.checks;
    let failed = document.verdict.failures().len();
    match document.verdict.passed {
        None if document.totals.connects == 0 => {
            "Finished, but no client got connected.".to_owned()
        }
        None => format!("Finished with {}.", errors(document)),
        Some(true) if checks.len() == 1 => "Passed: the limit held.".to_owned(),
        Some(true) => format!("Passed: all {} limits held.", checks.len()),
        Some(false) if checks.len() == 1 => "Failed: the limit did not hold.".to_owned(),
        Some(false) => format!("Failed: {failed} of {} limits did not hold.", checks.len()),
    }
}

fn errors(document: &Document) -> String {
    match document.totals.errors {
        0 => "no errors".to_owned(),
        many => counted(many, "error", "errors"),
    }
}

/// The key figures, the most wanted first.
pub(super) fn tiles(document: &Document) -> Vec<Tile> {
    let totals = &document.totals;
    let mut tiles = vec![Tile {
        name: "Clients at once",
        value: count(document.peak_connected),
        note: format!("of {} wanted", count(u64::from(document.scenario.clients))),
    }];
    if totals.connects > 0 {
        tiles.push(connects(document));
    }
    if totals.answered + totals.unanswered > 0 {
        tiles.push(messages(document));
    }
    if totals.unanswered > 0 {
        tiles.push(Tile {
            name: "Unanswered",
            value: count(totals.unanswered),
            note: "when their connection ended, no errors".to_owned(),
        });
    }
    tiles.extend(document.latency.message.as_ref().map(|latency| Tile {
        name: "Message p99",
        value: micros(latency.p99_us),
        note: format!("p50 {}", micros(latency.p50_us)),
    }));
    if totals.heard > 0 {
        tiles.extend(document.latency.broadcast.as_ref().map(|latency| Tile {
            name: "Broadcast p99",
            value: micros(latency.p99_us),
            note: format!("{} heard", count(totals.heard)),
        }));
    }
    if totals.answered == 0 && totals.bytes_received > 0 {
        tiles.push(download(document));
    }
    tiles.push(Tile {
        name: "Errors",
        value: count(totals.errors),
        note: match totals.disconnects {
            0 => "no disconnect".to_owned(),
            many if totals.undrained > 0 => format!(
                "{} of them, {} at the end of a drain",
                counted(many, "disconnect", "disconnects"),
                count(totals.undrained)
            ),
            many => format!("{} of them", counted(many, "disconnect", "disconnects")),
        },
    });
    tiles.extend(expected_losses(document));
    if totals.moved > 0 {
        tiles.push(Tile {
            name: "Moved",
            value: count(totals.moved),
            note: "asked to come back, no errors".to_owned(),
        });
    }
    if totals.misrouted > 0 || !document.nodes.is_empty() {
        tiles.push(Tile {
            name: "Misrouted",
            value: count(totals.misrouted),
            note: document.misrouting.clone().unwrap_or_else(|| {
                format!("on {}", counted(document.nodes.len() as u64, "node", "nodes"))
            }),
        });
    }
    tiles.extend(cpu(document));
    tiles
}

fn connects(document: &Document) -> Tile {
    let latency = document.latency.connect.as_ref();
    Tile {
        name: "Connects",
        value: count(document.totals.connects),
        note: latency.map_or(String::new(), |all| format!("p99 {}", micros(all.p99_us))),
    }
}

/// The rate is that of the steady phase: arrivals and leaving would only water it down.
fn messages(document: &Document) -> Tile {
    let at = |moment| document.checkpoints.iter().find(move |point| point.moment == moment);
    let rate = at(Moment::SteadyStart).zip(at(Moment::SteadyEnd)).and_then(|(from, to)| {
        let length = to.at_s - from.at_s;
        let answered = to.counters.since(&from.counters).answered;
        (length > 0.0).then(|| format!("{} a second, steady", number(answered as f64 / length)))
    });
    Tile {
        name: "Messages answered",
        value: count(document.totals.answered),
        note: rate.unwrap_or_default(),
    }
}

fn download(document: &Document) -> Tile {
    let received = document.totals.bytes_received;
    let rate = received as f64 / document.length_s.max(1e-3);
    Tile {
        name: "Received",
        value: bytes(received),
        note: format!("{} a second", bytes(rate as u64)),
    }
}

fn expected_losses(document: &Document) -> Option<Tile> {
    let totals = &document.totals;
    let (name, value, note) = match (totals.node_gone, totals.dropped) {
        (0, 0) => return None,
        (0, dropped) => ("Dropped on order", dropped, "by the scenario, no errors"),
        (gone, _) => ("Lost with a node", gone, "hurt by the run, no errors"),
    };
    Some(Tile { name, value: count(value), note: note.to_owned() })
}

fn cpu(document: &Document) -> Option<Tile> {
    let cost = document.cost.as_ref()?;
    let expense = cost.steady.as_ref().or(cost.whole.as_ref())?;
    let note = expense.cpu_us_per_message.map(|each| format!("{} µs a message", number(each)));
    Some(Tile {
        name: "CPU used",
        value: format!("{} %", number(expense.cores * 100.0)),
        note: note.unwrap_or_else(|| "of a core".to_owned()),
    })
}

/// The tables that have a row.
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
    let mut table = Table::new("Errors by kind", &["Error", "count", "first of them"], &[0, 2]);
    for error in &document.errors {
        let sample = error.sample.clone().unwrap_or_default();
        table.rows.push(vec![error.kind.clone(), count(error.count), sample]);
    }
    table
}

fn nodes(document: &Document) -> Table {
    let head = ["Node", "sessions", "most at once"];
    let mut table = Table::new("Sessions per node", &head, &[0]);
    for node in &document.nodes {
        let name = node.name.clone();
        table.rows.push(vec![name, count(node.sessions), count(node.peak_connected)]);
    }
    table.rows.sort();
    table
}

fn costs(document: &Document) -> Table {
    let head = ["CPU time", "length", "in all", "of a core"];
    let each = ["per message", "per connect", "per session", "per GiB"];
    let plan = &document.scenario;
    // Of small messages it would be a large number that nobody asked for.
    let bulky = plan.size >= 4096 || plan.client == "bulk";
    let each = if bulky { &each[..] } else { &each[..3] };
    let head = [&head, each].concat();
    let mut table = Table::new("CPU time of the measured processes", &head, &[0]);
    let Some(cost) = &document.cost else { return table };
    for (name, expense) in [("whole run", &cost.whole), ("steady phase", &cost.steady)] {
        table.rows.extend(expense.as_ref().map(|expense| cost_row(name, expense)));
    }
    for row in &mut table.rows {
        row.truncate(table.head.len());
    }
    table
}

fn cost_row(name: &str, expense: &Expense) -> Vec<String> {
    let each = |value: Option<f64>| match value {
        Some(micros) => format!("{} µs", number(micros)),
        None => "–".to_owned(),
    };
    let seconds = |value: f64| format!("{} s", number(value));
    vec![
        name.to_owned(),
        seconds(expense.length_s),
        seconds(expense.cpu_s),
        format!("{} %", number(expense.cores * 100.0)),
        each(expense.cpu_us_per_message),
        each(expense.cpu_us_per_connect),
        each(expense.cpu_us_per_session),
        expense.cpu_s_per_gib.map_or("–".to_owned(), seconds),
    ]
}

/// Which processes were measured, and their memory: a sentence each.
pub(super) fn cost_notes(document: &Document) -> Vec<String> {
    [processes(document), memory(document)].into_iter().flatten().collect()
}

fn memory(document: &Document) -> Option<String> {
    let each = document.cost.as_ref()?.pss_per_connection_bytes?;
    let spent = &document.checkpoints.iter().find(|at| at.moment == Moment::SteadyEnd)?.spent;
    let pss = spent.iter().map(|spent| spent.pss_bytes).sum();
    let each = number(each / 1024.0);
    Some(format!(
        "Memory (PSS) at the end of the steady phase: {}, grown by {each} KiB for each connected client.",
        bytes(pss)
    ))
}

fn processes(document: &Document) -> Option<String> {
    let each = document.processes.iter().map(|process| match process.ended_s {
        None => format!("{} ({})", process.name, process.pid),
        Some(at) => {
            format!("{} ({}, ended after {} s)", process.name, process.pid, words::number(at))
        }
    });
    let each: Vec<_> = each.collect();
    (!each.is_empty()).then(|| format!("Measured: {}.", words::list(&each)))
}
