//! `RESULTS.md`: the figures, with a hand-written interpretation.

use std::fmt::Write as _;

use crate::{
    goals,
    results::{About, Better, Cell, Results, Row, Table, number},
};

/// The whole page; `reading` is the hand-written interpretation.
pub(crate) fn page(results: &Results, reading: &str) -> String {
    let mut page = String::from("# Comparison with nginx, HAProxy and Caddy\n\n");
    page += "Written by `benches/compare/run`; the reading is `reading.md`, the figures of every round are in\n\
             `results.json`.\n\n![Bar chart of the most important figures](results.svg)\n\n";
    about(&mut page, &results.about);
    page += "\n## Reading\n\n";
    page += reading.trim();
    page += "\n\n## Figures\n\n";
    page += "Medians over the rounds, the least and the most in parentheses; behind ×, ours as a part of \
             theirs: the\nmedian over the rounds of our figure ÷ theirs of the same round, with its range. \
             Below 1 is better for costs\nand latencies, above 1 for throughput (marked ↑). **Bold**: the \
             best of the row. A *goal* is the most that our\nfigure may be: in the row's unit, or as a part of a peer's figure of the same round.\n";
    page += &tables(results);
    page
}

/// The tables alone, in the order of the numbers in their titles.
pub(crate) fn tables(results: &Results) -> String {
    let mut tables: Vec<&Table> = results.tables.iter().collect();
    tables.sort_by_key(|table| {
        let number = table.title.split('.').next().and_then(|number| number.parse::<u32>().ok());
        number.unwrap_or(u32::MAX)
    });
    let mut text = String::new();
    for table in tables {
        section(&mut text, table);
    }
    text
}

fn about(page: &mut String, about: &About) {
    let facts = [
        ("Date", about.date.clone()),
        ("Commit", about.commit.clone()),
        ("Machine", about.machine.clone()),
        ("Kernel", about.kernel.clone()),
        ("Proxies", about.cores.clone()),
        ("Versions", about.versions.join(", ")),
        ("Rounds", about.rounds.to_string() + if about.quick { ", quick" } else { "" }),
    ];
    *page += "| | |\n|---|---|\n";
    for (name, value) in facts {
        let _ = writeln!(page, "| {name} | {value} |");
    }
}

fn section(page: &mut String, table: &Table) {
    let _ = write!(page, "\n### {}\n\n{}\n\n| |", table.title, table.method);
    let columns: Vec<usize> = (0..table.columns.len()).filter(|n| is_compared(table, *n)).collect();
    for column in &columns {
        let _ = write!(page, " {} |", table.columns[*column]);
    }
    let has_goals = table.rows.iter().any(|row| goals::of(table, row).is_some());
    page.push_str(if has_goals { " Goal |\n" } else { "\n" });
    let _ = writeln!(
        page,
        "|---|{}{}",
        "---:|".repeat(columns.len()),
        if has_goals { "---|" } else { "" }
    );
    for row in &table.rows {
        let best = best(row);
        let mark = if row.better == Better::More { " ↑" } else { "" };
        let _ = write!(page, "| {}{mark} |", row.title);
        for column in &columns {
            let _ = write!(
                page,
                " {} |",
                value(row, *column, &row.cells[*column], best == Some(*column))
            );
        }
        if has_goals {
            let verdict = goals::of(table, row).map(|goal| goal.verdict(table, row));
            let _ = write!(page, " {} |", verdict.unwrap_or_default());
        }
        page.push('\n');
    }
}

/// Whether the table says anything of the column.
fn is_compared(table: &Table, column: usize) -> bool {
    let cells = table.rows.iter().map(|row| &row.cells[column]);
    cells.into_iter().any(|cell| !cell.values.is_empty() || cell.cannot.is_some())
}

fn value(row: &Row, column: usize, cell: &Cell, best: bool) -> String {
    let Some(spread) = cell.spread() else {
        return cell.cannot.clone().unwrap_or_else(|| "–".to_owned());
    };
    let mut text = number(spread.median);
    if best {
        text = format!("**{text}**");
    }
    if cell.values.len() > 1 {
        let _ = write!(text, " ({}–{})", number(spread.least), number(spread.most));
    }
    if let Some(ratio) = row.ratio(column).filter(|_| column > 0 && row.better != Better::Neither) {
        let _ = write!(text, "<br>×{}", number(ratio.median));
        if cell.values.len() > 1 {
            let _ = write!(text, " ({}–{})", number(ratio.least), number(ratio.most));
        }
    }
    text
}

/// The column with the best median; `None` if fewer than two columns have one.
fn best(row: &Row) -> Option<usize> {
    let medians = row.cells.iter().enumerate();
    let mut medians: Vec<(usize, f64)> =
        medians.filter_map(|(column, cell)| Some((column, cell.spread()?.median))).collect();
    medians.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let best = match row.better {
        Better::Less => medians.first(),
        Better::More => medians.last(),
        Better::Neither => None,
    };
    best.filter(|_| medians.len() > 1).map(|(column, _)| *column)
}
