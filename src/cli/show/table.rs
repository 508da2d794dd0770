//! Tables without lines: columns aligned by what their text takes on a terminal, never wider than it.
//!
//! Names that are too long are cut in the middle, where they differ least, and notes are wrapped: beside
//! their row where there is room, below it where there is not. JSON has everything whole.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{Ink, paint, plain};

/// Columns of a terminal that every table fits into.
const WIDTH: usize = 80;

/// Between two columns.
const GAP: usize = 2;

/// Least room that a note needs beside its row.
const BESIDE: usize = 28;

/// How far a note below its row is indented.
const INDENT: usize = 2;

/// What stands for the part of a name that is cut out.
const CUT: char = '…';

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
    /// Cut down to this width where the table is too wide.
    Name(usize),
    Note,
}

impl Column {
    /// Of short text.
    pub(crate) const fn text(head: &'static str) -> Self {
        Self { head, kind: Kind::Text }
    }

    /// Of numbers, which end below each other.
    pub(crate) const fn number(head: &'static str) -> Self {
        Self { head, kind: Kind::Number }
    }

    /// Of names, which are cut in the middle to no less than `least` where the table is too wide.
    pub(crate) const fn name(head: &'static str, least: usize) -> Self {
        Self { head, kind: Kind::Name(least) }
    }

    /// Of sentences, the last column: they are wrapped.
    pub(crate) const fn note(head: &'static str) -> Self {
        Self { head, kind: Kind::Note }
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

/// A column that is shown.
struct ShownColumn {
    at: usize,
    width: usize,
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
        let (notes, others): (Vec<usize>, Vec<usize>) =
            self.filled().partition(|&at| self.columns[at].kind == Kind::Note);
        let mut shown: Vec<ShownColumn> =
            others.into_iter().map(|at| ShownColumn { at, width: self.width(at) }).collect();
        self.shrink(&mut shown);
        let note = notes.first().map(|&at| (at, self.width(at)));
        let room = WIDTH.saturating_sub(used(&shown) + GAP);
        let beside = note.filter(|(_, width)| room >= BESIDE.min(*width)).map(|(at, _)| at);
        let heads: Vec<Cell> =
            self.columns.iter().map(|column| Cell::inked(column.head, Ink::Head)).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let is_head = std::ptr::eq(row, &heads);
            self.line(row, &shown, &mut text);
            match (note.and_then(|(at, _)| row.get(at)), beside) {
                (Some(note), Some(_)) => below(note, used(&shown) + GAP, room, &mut text),
                (Some(note), None) if !is_head && !note.text.is_empty() => {
                    text.push('\n');
                    text.push_str(&" ".repeat(INDENT));
                    below(note, INDENT, WIDTH - INDENT, &mut text);
                }
                _ => {}
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }

    /// Whether nothing has to be cut or moved for it to fit, notes aside.
    pub(crate) fn fits(&self) -> bool {
        let others = self.filled().filter(|&at| self.columns[at].kind != Kind::Note);
        let shown: Vec<ShownColumn> =
            others.map(|at| ShownColumn { at, width: self.width(at) }).collect();
        used(&shown) <= WIDTH
    }

    /// Columns that are shown.
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

    /// Takes from the widest names until the columns fit, or nothing can be taken any more.
    fn shrink(&self, shown: &mut [ShownColumn]) {
        while used(shown) > WIDTH {
            let can = |shown: &&mut ShownColumn| match self.columns[shown.at].kind {
                Kind::Name(least) => shown.width > least.max(self.columns[shown.at].head.width()),
                _ => false,
            };
            let Some(widest) = shown.iter_mut().filter(can).max_by_key(|shown| shown.width) else {
                return;
            };
            widest.width -= 1;
        }
    }

    /// A row without its note, filled up to where that begins.
    fn line(&self, row: &[Cell], shown: &[ShownColumn], text: &mut String) {
        let empty = Cell::from("");
        for (number, ShownColumn { at, width }) in shown.iter().enumerate() {
            let cell = row.get(*at).unwrap_or(&empty);
            let words = cut(&cell.text, *width);
            let free = " ".repeat(width.saturating_sub(words.width()));
            if number > 0 {
                text.push_str(&" ".repeat(GAP));
            }
            let words = if words.is_empty() { words } else { paint(&words, cell.ink) };
            match self.columns[*at].kind {
                Kind::Number => text.extend([free, words]),
                _ => text.extend([words, free]),
            }
        }
    }
}

/// What the columns take together.
fn used(shown: &[ShownColumn]) -> usize {
    let gaps = shown.len().saturating_sub(1) * GAP;
    shown.iter().map(|shown| shown.width).sum::<usize>() + gaps
}

/// Writes a note in lines of this width, all but the first after an indent.
fn below(note: &Cell, indent: usize, width: usize, text: &mut String) {
    let gap = if indent > INDENT { GAP } else { 0 };
    text.push_str(&" ".repeat(gap));
    for (number, line) in wrapped(&note.text, width).iter().enumerate() {
        if number > 0 {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
        }
        text.push_str(&paint(line, note.ink));
    }
}

/// The text in lines of this width, broken at blanks; a word that is longer is broken anywhere.
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

/// The text, without its middle where it is wider than this.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let start = fitting(text.chars(), room - room / 2);
    let end: String = fitting(text.chars().rev(), room / 2).chars().rev().collect();
    format!("{start}{CUT}{end}")
}

/// As many of these characters as fit.
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
    fn columns_are_aligned_by_what_is_seen() {
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
    fn without_rows_the_heads_stand_alone() {
        let table = Table::new(&[Column::text("A"), Column::number("B")]);
        assert_eq!(table.text(), "A  B\n");
    }

    #[test]
    fn long_names_are_cut_in_the_middle_and_notes_are_wrapped() {
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
    fn text_is_cut_to_a_width_of_any_characters() {
        assert_eq!(cut("abcdefgh", 8), "abcdefgh");
        assert_eq!(cut("abcdefghi", 8), "abcd…ghi");
        assert_eq!(cut("漢字漢字漢字", 6), "漢…字");
        assert_eq!(wrapped("aaaa bb c", 4), ["aaaa", "bb c"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
