//! `results.svg`: the most important rows as bars, readable on light and on dark pages.

use std::fmt::Write as _;

use crate::results::{Results, Row, Table, number};

/// The rows of the chart: group, title, and name in the chart. Less is better for all of them.
const SHOWN: [(&str, &str, &str); 10] = [
    ("1.", "plain: CPU µs per request", "HTTP request, CPU µs"),
    ("1.", "TLS: CPU µs per request", "HTTPS request, CPU µs"),
    ("2.", "plain, 64 B: CPU µs per message", "WebSocket echo of 64 B, CPU µs"),
    ("2.", "TLS, 64 B: CPU µs per message", "the same over TLS, CPU µs"),
    ("3.", "TLS: CPU s per GiB", "Bulk over TLS, CPU s per GiB"),
    ("5.", "full, ECDSA P-256: CPU µs per handshake", "Full TLS handshake, CPU µs"),
    ("4.", "plain, 8,000: KiB each", "Idle WebSocket, KiB (8,000 open)"),
    ("4.", "TLS, 8,000: KiB each", "the same over TLS, KiB"),
    ("6.", "plain: CPU µs per session", "Socket.IO session, CPU µs"),
    ("6.", "TLS: CPU µs per session", "the same over TLS, CPU µs"),
];

/// Panels side by side.
const ACROSS: usize = 2;
const WIDTH: usize = 860;
const PANEL: usize = WIDTH / ACROSS;
/// Height of a bar with the gap below it.
const BAR: usize = 22;
/// Space above the bars of a panel for its title.
const HEAD: usize = 30;
/// Space for names, left of the bars.
const NAMES: usize = 92;
/// Space for figures, right of the longest bar.
const FIGURES: usize = 64;
/// Space around a panel.
const MARGIN: usize = 16;
/// Height of the title above and of the note below.
const TITLE: usize = 52;
const NOTE: usize = 34;

/// Colors of text, lines and bars in both schemes, without anything from outside.
const STYLE: &str = "\
svg { font: 13px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif }
.page { fill: #ffffff }
text { fill: #1f2328 }
.quiet { fill: #59636e }
.title { font-size: 17px; font-weight: 600 }
.head { font-weight: 600 }
.bar { fill: #a9b4c0 }
.ours { fill: #0a7d6c }
.own { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 }
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .bar { fill: #4a5562 }
  .ours { fill: #2fbfa7 }
}";

/// The whole drawing.
pub(crate) fn chart(results: &Results) -> String {
    let panels: Vec<_> = SHOWN
        .iter()
        .filter_map(|(group, title, name)| find(results, group, title).map(|row| (row, *name)))
        .collect();
    let most = panels.iter().map(|((table, _), _)| table.columns.len()).max().unwrap_or_default();
    let panel_height = HEAD + most * BAR + MARGIN;
    let height = TITLE + panels.len().div_ceil(ACROSS) * panel_height + NOTE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-labelledby=\"t\">\n\
         <title id=\"t\">What Moorline and its peers spend: shorter is better</title>\n\
         <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"30\">What the front door spends \
         <tspan class=\"quiet\">— shorter is better</tspan></text>\n"
    );
    for (at, ((table, row), name)) in panels.iter().enumerate() {
        let (x, y) = (at % ACROSS * PANEL + MARGIN, TITLE + at / ACROSS * panel_height);
        panel(&mut svg, table, row, name, x, y);
    }
    let about = &results.about;
    let note = format!(
        "One core, one worker each; medians of {} rounds; {}, {}",
        about.rounds, about.machine, about.date
    );
    let y = height - 12;
    let _ =
        writeln!(svg, "<text class=\"quiet\" x=\"{MARGIN}\" y=\"{y}\">{}</text>", escaped(&note));
    svg + "</svg>\n"
}

fn find<'a>(results: &'a Results, group: &str, title: &str) -> Option<(&'a Table, &'a Row)> {
    let table = results.tables.iter().find(|table| table.title.starts_with(group))?;
    table.rows.iter().find(|row| row.title == title).map(|row| (table, row))
}

fn panel(svg: &mut String, table: &Table, row: &Row, name: &str, x: usize, y: usize) {
    let medians: Vec<Option<f64>> =
        row.cells.iter().map(|cell| Some(cell.spread()?.median)).collect();
    let longest = medians.iter().flatten().copied().fold(0.0, f64::max);
    let room = (PANEL - NAMES - FIGURES - 2 * MARGIN) as f64;
    let _ =
        writeln!(svg, "<text class=\"head\" x=\"{x}\" y=\"{}\">{}</text>", y + 14, escaped(name));
    for (at, (column, median)) in table.columns.iter().zip(medians).enumerate() {
        let top = y + HEAD - 6 + at * BAR;
        let (left, base) = (x + NAMES, top + 13);
        let (bar, own) = if at == 0 { ("bar ours", "own") } else { ("bar", "") };
        // The page has the version.
        let name = column.rsplit_once(' ').map_or(column.as_str(), |(name, _)| name);
        let _ =
            writeln!(svg, "<text class=\"{own}\" x=\"{x}\" y=\"{base}\">{}</text>", escaped(name));
        let Some(median) = median else {
            let _ = writeln!(svg, "<text class=\"quiet\" x=\"{left}\" y=\"{base}\">–</text>");
            continue;
        };
        let width = (median / longest * room).max(1.0);
        let after = left as f64 + width + 6.0;
        let _ = writeln!(
            svg,
            "<rect class=\"{bar}\" x=\"{left}\" y=\"{top}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\
             <text class=\"{own}\" x=\"{after:.1}\" y=\"{base}\">{}</text>",
            number(median)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
