//! Tables without lines: columns aligned by what their text takes on a terminal.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

use super::{Ink, paint, plain};

/// Between two columns.
const GAP: usize = 2;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    head: &'static str,
    right: bool,
}

impl Column {
    /// Of text.
    pub(crate) const fn text(head: &'static str) -> Self {
        Self { head, right: false }
    }

    /// Of numbers, which end below each other.
    pub(crate) const fn number(head: &'static str) -> Self {
        Self { head, right: true }
    }
}

/// What stands in a row below a column; made safe for a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    ink: Ink,
}

impl Cell {
    /// In a colour.
    pub(crate) fn inked(text: &str, ink: Ink) -> Self {
        Self { text: plain(text), ink }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::inked(text, Ink::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::from(number.to_string())
    }
}

/// Rows below columns.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows yet.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// The text; columns in which no row has anything are left out.
    pub(crate) fn text(&self) -> String {
        let filled: Vec<usize> = (0..self.columns.len())
            .filter(|&at| {
                let mut cells = self.rows.iter().filter_map(|row| row.get(at));
                self.rows.is_empty() || cells.any(|cell| !cell.text.is_empty())
            })
            .collect();
        let widths: Vec<usize> = filled.iter().map(|&at| self.width(at)).collect();
        let heads: Vec<Cell> =
            self.columns.iter().map(|column| Cell::inked(column.head, Ink::Head)).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            self.line(row, &filled, &widths, &mut text);
        }
        text
    }

    fn width(&self, at: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
        widest.max(self.columns[at].head.width())
    }

    fn line(&self, row: &[Cell], filled: &[usize], widths: &[usize], text: &mut String) {
        // Blanks are held back, so that no line ends with any.
        let mut blanks = 0;
        for (&at, &width) in filled.iter().zip(widths) {
            let cell = row.get(at).map_or(Cow::Owned(Cell::from("")), Cow::Borrowed);
            let free = width.saturating_sub(cell.text.width());
            let (before, after) = if self.columns[at].right { (free, 0) } else { (0, free) };
            blanks += before;
            if !cell.text.is_empty() {
                text.extend(std::iter::repeat_n(' ', blanks));
                text.push_str(&paint(&cell.text, cell.ink));
                blanks = 0;
            } else {
                blanks += cell.text.width();
            }
            blanks += after + GAP;
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let mut table = Table::new(&[
            Column::text("NAME"),
            Column::number("SESSIONS"),
            Column::text("EMPTY"),
            Column::text("NOTE"),
        ]);
        table.row(["漢字".into(), 7.into(), "".into(), "x".into()]);
        table.row(["a\x1b[1m".into(), 12345.into(), "".into(), "".into()]);
        let expected = "NAME        SESSIONS  NOTE\n\
                        漢字               7  x\n\
                        a\\u{1b}[1m     12345\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn without_rows_the_heads_stand_alone() {
        let table = Table::new(&[Column::text("A"), Column::number("B")]);
        assert_eq!(table.text(), "A  B\n");
    }
}
