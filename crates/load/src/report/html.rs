//! The HTML report: one self-contained file without network access or scripts.

use askama::Template;

use super::{
    axis::Unit,
    chart::{Chart, Form, Layer},
    figures::{self, KeyFigure, Table},
    formatting,
    json::{Document, MarkRow},
    plots,
};

/// Maximum rows of the table below a chart.
const MAX_ROWS: usize = 12;

/// Content of the page, in order.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    document: &'a Document,
    /// `passed`, `failed` or `open`.
    state: &'static str,
    headline: String,
    key_figures: Vec<KeyFigure>,
    marks: Vec<(usize, String, &'a MarkRow)>,
    plots: Vec<Plot>,
    tables: Vec<Table>,
    /// Sentences below the table of CPU time.
    cost_notes: Vec<String>,
    shaded: bool,
    length: String,
    harness_cpu: String,
    memory: String,
}

/// A chart with its legend and table.
struct Plot {
    id: &'static str,
    title: &'static str,
    /// Remark on the axes.
    note: &'static str,
    svg: String,
    legend: Vec<Key>,
    table: Table,
}

/// An entry of a legend.
struct Key {
    class: &'static str,
    /// `line` or `block`.
    shape: &'static str,
    name: String,
}

/// Renders the page.
///
/// # Errors
///
/// Errors of the template engine. Rendering into a string is not expected to fail.
pub(super) fn page(document: &Document) -> Result<String, askama::Error> {
    let charts = plots::charts(document);
    let marks = document.marks.iter().enumerate();
    let page = Page {
        document,
        state: match document.verdict.passed {
            Some(true) => "passed",
            Some(false) => "failed",
            None => "open",
        },
        headline: figures::headline(document),
        key_figures: figures::key_figures(document),
        marks: marks
            .map(|(index, mark)| (index + 1, format!("{:.1} s", mark.at_s), mark))
            .collect(),
        shaded: charts.iter().any(|chart| chart.shade.is_some()),
        plots: charts.iter().map(Plot::new).collect(),
        tables: figures::tables(document),
        cost_notes: figures::cost_notes(document),
        length: formatting::micros((document.length_s * 1e6) as u64),
        harness_cpu: formatting::number(document.harness_cpu_s),
        memory: formatting::bytes(document.machine.memory_bytes),
    };
    page.render()
}

impl Plot {
    fn new(chart: &Chart) -> Self {
        let note = match (chart.x.unit(), chart.y.unit()) {
            (Unit::Quantile, _) => "percentiles, high ones spread out",
            (_, Unit::Micros) => "per second, log scale",
            (_, Unit::Percent) => "100 % is one core",
            _ => "",
        };
        let mut legend: Vec<_> = chart.layers.iter().map(Key::new).collect();
        if chart.limit.is_some() {
            legend.push(Key { class: "limit", shape: "line", name: "allowed p99".to_owned() });
        }
        Self {
            id: chart.id,
            title: chart.title,
            note,
            svg: chart.svg(),
            legend,
            table: tabulate(chart),
        }
    }
}

impl Key {
    fn new(layer: &Layer) -> Self {
        let shape = if layer.form == Form::Line { "line" } else { "block" };
        Self { class: layer.class, shape, name: layer.name.clone() }
    }
}

/// Returns the values of a chart, a selection if there are many.
fn tabulate(chart: &Chart) -> Table {
    let first = if chart.x.unit() == Unit::Quantile { "percentile" } else { "time" };
    let names = chart.layers.iter().map(|layer| layer.name.as_str());
    let head: Vec<_> = std::iter::once(first).chain(names).collect();
    let mut table = Table::new(chart.title, &head, &[]);
    let longest = chart.layers.iter().map(|layer| &layer.points).max_by_key(|points| points.len());
    let Some(longest) = longest.filter(|points| !points.is_empty()) else { return table };
    let rows = longest.len().min(MAX_ROWS);
    for row in 1..=rows {
        let x = longest[row * longest.len() / rows - 1].x;
        let mut cells = vec![chart.x.unit().long(x)];
        cells.extend(chart.layers.iter().map(|layer| cell(chart, layer, x)));
        table.rows.push(cells);
    }
    table
}

/// Returns the value at `x`, or the last one before it, because curves end at different positions.
fn cell(chart: &Chart, layer: &Layer, x: f64) -> String {
    let point = layer.points.iter().take_while(|point| point.x <= x).last();
    let value = point.and_then(|point| point.value);
    value.map_or("–".to_owned(), |value| chart.y.unit().long(value))
}
