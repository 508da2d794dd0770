//! Medians over rounds, with their range, in aligned columns.

use std::fmt;

/// What was measured, by row and column; the first column is ours.
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    title: String,
    /// Each column's values, in no order.
    values: Vec<Vec<f64>>,
}

impl Table {
    pub(crate) fn new(columns: Vec<String>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds one round's value; a row is made when it is first named.
    pub(crate) fn add(&mut self, title: String, column: usize, value: f64) {
        let at = self.rows.iter().position(|row| row.title == title).unwrap_or_else(|| {
            self.rows.push(Row { title, values: vec![Vec::new(); self.columns.len()] });
            self.rows.len() - 1
        });
        self.rows[at].values[column].push(value);
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(self.columns.iter().cloned());
        for row in &self.rows {
            let ours = median(&row.values[0]);
            let cells = row.values.iter().enumerate().map(|(column, values)| {
                let (least, most) = range(values);
                let theirs = median(values);
                let cell = format!("{theirs:.2} ({least:.2}–{most:.2})");
                let part = format!("  ×{:.2}", ours / theirs);
                if column == 0 { cell } else { cell + &part }
            });
            lines.push(std::iter::once(row.title.clone()).chain(cells).collect());
        }
        lines
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.cells();
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        for line in &lines {
            write!(f, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(f, "   {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}
