//! The summary on a terminal: result, checks, figures, errors, nodes, CPU time.

use std::fmt::Write as _;

use super::{
    figures::{self, Table},
    json::Document,
};

/// Maximum characters per line.
const WIDTH: usize = 88;

/// Returns the summary, with a final newline.
pub(super) fn summarize(document: &Document) -> String {
    let mut text = format!("\n{}\n", figures::headline(document));
    for check in &document.verdict.checks {
        let sign = if check.passed { "✓" } else { "✗" };
        let _ = writeln!(text, "  {sign} {}", check.sentence);
    }
    let _ = writeln!(text, "\n{}\n", wrapped(&document.scenario.description, WIDTH));
    let key_figures = figures::key_figures(document);
    let widest = key_figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
    for figure in &key_figures {
        let note =
            if figure.note.is_empty() { String::new() } else { format!("   {}", figure.note) };
        let _ = writeln!(text, "  {:widest$}  {}{note}", figure.name, figure.value);
    }
    for table in figures::tables(document) {
        let _ = write!(text, "\n{}", aligned(&table));
    }
    for note in figures::cost_notes(document) {
        let _ = writeln!(text, "\n{}", wrapped(&note, WIDTH));
    }
    text
}

/// Aligns text columns to the left and numbers to the right.
fn aligned(table: &Table) -> String {
    let rows = || std::iter::once(&table.head).chain(&table.rows);
    let width = |column: usize| {
        rows().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..table.head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows() {
        let mut line = String::from(" ");
        for ((column, cell), &width) in row.iter().enumerate().zip(&widths) {
            let _ = match table.is_text(column) {
                true => write!(line, " {cell:<width$} "),
                false => write!(line, " {cell:>width$} "),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn wrapped(text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is at least one line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
