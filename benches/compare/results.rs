//! The figures of a run, as written to and read from `results.json`.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) about: About,
    pub(crate) tables: Vec<Table>,
}

/// Place, time and subjects of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) cores: String,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
}

/// Rows with the same columns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// The method, in one or two sentences.
    pub(crate) method: String,
    /// The measured programs; the first one is Moorline.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// One figure for all columns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The figure with its unit: "CPU µs per request".
    pub(crate) title: String,
    pub(crate) better: Better,
    pub(crate) cells: Vec<Cell>,
}

/// Which direction is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    Less,
    More,
    /// The figure explains another one.
    Neither,
}

/// One figure of one column.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// One value for each round, in order.
    pub(crate) values: Vec<f64>,
    /// Why there is no value.
    pub(crate) cannot: Option<String>,
}

/// Median and extremes of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Results {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| file.display().to_string())
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| file.display().to_string())
    }

    /// The table with this title; it is added if it is missing.
    pub(crate) fn table(&mut self, title: &str, method: &str, columns: &[String]) -> &mut Table {
        let known = self.tables.iter().position(|table| table.title == title);
        let at = known.unwrap_or_else(|| {
            self.tables.push(Table {
                title: title.to_owned(),
                method: method.to_owned(),
                columns: columns.to_vec(),
                rows: Vec::new(),
            });
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }
}

impl Table {
    /// Adds the value of one round.
    pub(crate) fn add(&mut self, title: &str, better: Better, column: usize, value: f64) {
        self.cell(title, better, column).values.push(value);
    }

    /// Records why there is no value.
    pub(crate) fn cannot(&mut self, title: &str, better: Better, column: usize, why: &str) {
        self.cell(title, better, column).cannot = Some(why.to_owned());
    }

    fn cell(&mut self, title: &str, better: Better, column: usize) -> &mut Cell {
        let at = self.rows.iter().position(|row| row.title == title).unwrap_or_else(|| {
            let cells = vec![Cell::default(); self.columns.len()];
            self.rows.push(Row { title: title.to_owned(), better, cells });
            self.rows.len() - 1
        });
        &mut self.rows[at].cells[column]
    }
}

impl Row {
    /// The first column divided by another one, round by round: both values of a round met the same noise.
    pub(crate) fn ratio(&self, column: usize) -> Option<Spread> {
        let (ours, theirs) = (&self.cells.first()?.values, &self.cells.get(column)?.values);
        let pairs: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        Spread::of(&pairs)
    }

    /// The first column divided by the least value of other columns in the same round.
    pub(crate) fn ratio_to_least(&self, columns: &[usize]) -> Option<Spread> {
        let ours = self.cells.first()?.values.iter().enumerate();
        let ratios = ours.filter_map(|(round, ours)| {
            let theirs = columns.iter().filter_map(|&column| self.cells[column].values.get(round));
            Some(ours / theirs.copied().min_by(f64::total_cmp)?)
        });
        Spread::of(&ratios.collect::<Vec<_>>())
    }
}

impl Table {
    /// The columns of other programs whose title starts with `name`.
    pub(crate) fn peers(&self, name: &str) -> Vec<usize> {
        let titles = self.columns.iter().enumerate();
        let peers = titles.filter(|(_, title)| !title.starts_with("Moorline"));
        peers.filter(|(_, title)| title.starts_with(name)).map(|(column, _)| column).collect()
    }
}

impl Cell {
    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(&self.values)
    }
}

impl Spread {
    /// `None` if there is no value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, least, most })
    }
}

/// Three significant digits: 0.0123, 4.56, 78.9, 12,345.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", grouped(size.round() as u64));
    }
    let decimals = match size {
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        0.0 => 0,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// With thousands separators.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
