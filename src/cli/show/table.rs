//! Tables without lines, at most 80 columns wide. Columns are aligned by the display width of their text.
//!
//! Long names are shortened in the middle. Notes are wrapped in the last column, or below their row if the
//! column would be too narrow. JSON output is never shortened.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{Color, paint, plain};

/// Maximum width of a table.
const WIDTH: usize = 80;

/// Blanks between two columns.
const GAP: usize = 2;

/// Minimum width of a note column.
const MIN_NOTE: usize = 28;

/// Indentation of a note below its row.
const INDENT: usize = 2;

/// Replaces the removed part of a name.
const ELLIPSIS: char = '…';

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    head: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// Shortened down to this width if the table is too wide.
    Name(usize),
    Note,
}

impl Column {
    /// A column of short text.
    pub(crate) const fn text(head: &'static str) -> Self {
        Self { head, kind: Kind::Text }
    }

    /// A column of numbers, aligned to the right.
    pub(crate) const fn number(head: &'static str) -> Self {
        Self { head, kind: Kind::Number }
    }

    /// A column of names, which are shortened in the middle to at least `least` if the table is too wide.
    pub(crate) const fn name(head: &'static str, least: usize) -> Self {
        Self { head, kind: Kind::Name(least) }
    }

    /// The last column, with sentences that are wrapped.
    pub(crate) const fn note(head: &'static str) -> Self {
        Self { head, kind: Kind::Note }
    }
}

/// A cell; its text is safe for a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    color: Color,
}

impl Cell {
    /// Creates a cell in a color.
    pub(crate) fn colored(text: &str, color: Color) -> Self {
        Self { text: plain(text), color }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::colored(text, Color::Default)
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

/// A table with a heading for each column.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column that is not empty, and its width.
struct ShownColumn {
    at: usize,
    width: usize,
}

impl Table {
    /// Creates a table without rows.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// Formats the table without its empty columns.
    pub(crate) fn text(&self) -> String {
        let (notes, others): (Vec<usize>, Vec<usize>) =
            self.filled().partition(|&at| self.columns[at].kind == Kind::Note);
        let mut shown: Vec<ShownColumn> =
            others.into_iter().map(|at| ShownColumn { at, width: self.width(at) }).collect();
        self.shrink(&mut shown);
        let note = notes.first().map(|&at| (at, self.width(at)));
        let available = WIDTH.saturating_sub(used(&shown) + GAP);
        let beside = note.filter(|(_, width)| available >= MIN_NOTE.min(*width)).map(|(at, _)| at);
        let headings: Vec<Cell> =
            self.columns.iter().map(|column| Cell::colored(column.head, Color::Heading)).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let is_heading = std::ptr::eq(row, &headings);
            self.line(row, &shown, &mut text);
            match (note.and_then(|(at, _)| row.get(at)), beside) {
                (Some(note), Some(_)) => write_note(note, used(&shown) + GAP, available, &mut text),
                (Some(note), None) if !is_heading && !note.text.is_empty() => {
                    text.push('\n');
                    text.push_str(&" ".repeat(INDENT));
                    write_note(note, INDENT, WIDTH - INDENT, &mut text);
                }
                _ => {}
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }

    /// Whether all columns but the notes fit without being shortened.
    pub(crate) fn fits(&self) -> bool {
        let others = self.filled().filter(|&at| self.columns[at].kind != Kind::Note);
        let shown: Vec<ShownColumn> =
            others.map(|at| ShownColumn { at, width: self.width(at) }).collect();
        used(&shown) <= WIDTH
    }

    /// Indices of the columns that are not empty.
    fn filled(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(|&at| {
            let mut cells = self.rows.iter().filter_map(|row| row.get(at));
            self.rows.is_empty() || cells.any(|cell| !cell.text.is_empty())
        })
    }

    fn width(&self, at: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
        widest.max(self.columns[at].head.width())
    }

    /// Shortens the widest names until the columns fit or no name can be shortened.
    fn shrink(&self, shown: &mut [ShownColumn]) {
        while used(shown) > WIDTH {
            let can_shrink = |shown: &&mut ShownColumn| match self.columns[shown.at].kind {
                Kind::Name(least) => shown.width > least.max(self.columns[shown.at].head.width()),
                _ => false,
            };
            let Some(widest) = shown.iter_mut().filter(can_shrink).max_by_key(|shown| shown.width)
            else {
                return;
            };
            widest.width -= 1;
        }
    }

    /// Writes a row without its note, padded to the start of the note.
    fn line(&self, row: &[Cell], shown: &[ShownColumn], text: &mut String) {
        let empty = Cell::from("");
        for (number, ShownColumn { at, width }) in shown.iter().enumerate() {
            let cell = row.get(*at).unwrap_or(&empty);
            let content = shortened(&cell.text, *width);
            let padding = " ".repeat(width.saturating_sub(content.width()));
            if number > 0 {
                text.push_str(&" ".repeat(GAP));
            }
            let content = if content.is_empty() { content } else { paint(&content, cell.color) };
            match self.columns[*at].kind {
                Kind::Number => text.extend([padding, content]),
                _ => text.extend([content, padding]),
            }
        }
    }
}

/// Total width of the columns.
fn used(shown: &[ShownColumn]) -> usize {
    let gaps = shown.len().saturating_sub(1) * GAP;
    shown.iter().map(|shown| shown.width).sum::<usize>() + gaps
}

/// Writes a note in lines of this width; all lines but the first are indented.
fn write_note(note: &Cell, indent: usize, width: usize, text: &mut String) {
    let gap = if indent > INDENT { GAP } else { 0 };
    text.push_str(&" ".repeat(gap));
    for (number, line) in wrapped(&note.text, width).iter().enumerate() {
        if number > 0 {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
        }
        text.push_str(&paint(line, note.color));
    }
}

/// Splits a text into lines of this width, at blanks or within a word that is longer than a line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let free = width.saturating_sub(line.width() + 1);
        if !line.is_empty() && word.width() > free {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if line.width() + c.width().unwrap_or(0) > width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

/// Shortens a text in the middle if it is wider than this.
fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let start = fitting(text.chars(), kept - kept / 2);
    let end: String = fitting(text.chars().rev(), kept / 2).chars().rev().collect();
    format!("{start}{ELLIPSIS}{end}")
}

/// Returns the first characters that fit into this width.
fn fitting(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        taken <= width
    };
    chars.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_display_width() {
        let mut table = Table::new(&[
            Column::text("NAME"),
            Column::number("SESSIONS"),
            Column::text("EMPTY"),
            Column::note("NOTE"),
        ]);
        table.row(["漢字".into(), 7.into(), "".into(), "x".into()]);
        table.row(["a\x1b[1m".into(), 12345.into(), "".into(), "".into()]);
        let expected = "NAME        SESSIONS  NOTE\n\
                        漢字               7  x\n\
                        a\\u{1b}[1m     12345\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn a_table_without_rows_has_headings() {
        let table = Table::new(&[Column::text("A"), Column::number("B")]);
        assert_eq!(table.text(), "A  B\n");
    }

    #[test]
    fn long_names_are_shortened_and_notes_are_wrapped() {
        let columns = [
            Column::name("POOL", 6),
            Column::name("BACKEND", 8),
            Column::text("STATE"),
            Column::number("SESSIONS"),
            Column::note("NOTE"),
        ];
        let long = "a-very-long-name-of-a-backend-in-a-cluster-far-away-17";
        let note = "the quick brown fox jumps over the lazy dog ".repeat(3);
        let mut table = Table::new(&columns);
        table.row([long.into(), long.into(), "up".into(), 12.into(), note.trim_end().into()]);
        table.row(["漢字漢字".into(), "b".into(), "down".into(), 3.into(), "".into()]);
        let text = table.text();
        assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
        assert!(text.contains("…") && text.contains("-away-17  "), "{text}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let below: Vec<&str> = text.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!(words(&below.join(" ")), words(&note));
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{text}");
    }

    #[test]
    fn a_note_beside_its_row_stays_in_its_column() {
        let mut table = Table::new(&[Column::text("A"), Column::note("NOTE")]);
        table.row(["x".into(), "word ".repeat(40).trim_end().into()]);
        let text = table.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "A  NOTE");
        assert!(lines.len() == 4 && lines[2].starts_with("   word"), "{text}");
        assert!(lines.iter().all(|line| line.width() <= WIDTH), "{text}");
    }

    #[test]
    fn text_is_shortened_and_wrapped_by_display_width() {
        assert_eq!(shortened("abcdefgh", 8), "abcdefgh");
        assert_eq!(shortened("abcdefghi", 8), "abcd…ghi");
        assert_eq!(shortened("漢字漢字漢字", 6), "漢…字");
        assert_eq!(wrapped("aaaa bb c", 4), ["aaaa", "bb c"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
