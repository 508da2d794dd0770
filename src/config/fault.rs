//! Faults with their place, and their rendering: file, line, column, the source line and a caret.
//!
//! Owns the translation from byte offsets to lines and columns, and the rendering. A column counts
//! characters; the caret counts terminal cells, so that tabs and wide characters before it do not
//! shift it. Control characters of a source are never written raw. Must not know what any key
//! means.

use std::{
    error::Error,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

/// Byte offsets into a source.
pub(super) type Span = Range<usize>;

/// Maximum number of faults that are reported. A file with more is probably not the file that was meant.
pub(super) const MOST_FAULTS: usize = 200;

/// Longest source line that is shown whole, in characters.
const LONGEST_LINE: usize = 160;

/// Characters kept before the caret of a line that is cut.
const BEFORE_CARET: usize = 40;

/// What is wrong with a value, and what to write instead if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    /// One sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl InvalidValue {
    /// A fault that explains itself.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

impl Error for InvalidValue {}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its file: the configuration, or a file that the configuration names.
    pub file: PathBuf,
    /// Line, from 1; 0 if the fault is about the file as a whole.
    pub line: usize,
    /// Column of its first character, from 1.
    pub column: usize,
    /// The source line, or the part around the fault if the line is very long.
    pub text: String,
    /// Characters of the line left out before `text`.
    pub skipped: usize,
    /// Number of characters on its line, at least 1.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Fault {
    /// A fault of a file as a whole, for example if it cannot be read.
    pub(super) fn of_file(file: &Path, wrong: InvalidValue) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            text: String::new(),
            skipped: 0,
            width: 1,
            message: wrong.message,
            help: wrong.help,
        }
    }
}

/// Every fault of a configuration, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    /// Several lines, each with a line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = printable(&self.file.to_string_lossy());
        writeln!(f, "error: {}", printable(&self.message))?;
        if self.line == 0 {
            writeln!(f, " --> {file}")?;
            return match &self.help {
                Some(help) => writeln!(f, "  = help: {}", printable(help)),
                None => Ok(()),
            };
        }
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let (line, start, width) = self.cells();
        writeln!(f, "{gutter}--> {file}:{}:{}", self.line, self.column)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{}", format!("{number} | {line}").trim_end())?;
        writeln!(f, "{gutter} | {}{}", " ".repeat(start), "^".repeat(width))?;
        match &self.help {
            Some(help) => writeln!(f, "{gutter} = help: {}", printable(help)),
            None => Ok(()),
        }
    }
}

impl Fault {
    /// The line as it is shown, and the start and length of the carets in terminal cells.
    fn cells(&self) -> (String, usize, usize) {
        let mut shown = String::new();
        let (mut before, mut under) = (0, 0);
        if self.skipped > 0 {
            shown.push('…');
            before += 1;
        }
        let from = (self.column - 1).saturating_sub(self.skipped);
        for (index, character) in self.text.chars().enumerate() {
            let cells = push_shown(&mut shown, character);
            if index < from {
                before += cells;
            } else if index < from + self.width {
                under += cells;
            }
        }
        if self.text.chars().count() == LONGEST_LINE {
            shown.push('…');
        }
        (shown, before, under.max(1))
    }
}

/// Appends a character as it is shown; returns its width in terminal cells.
fn push_shown(shown: &mut String, character: char) -> usize {
    match character {
        '\t' => {
            shown.push_str("    ");
            4
        }
        // The Unicode block "Control Pictures" mirrors the ASCII control characters.
        '\0'..='\x1f' => {
            shown.push(char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'));
            1
        }
        '\x7f'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            shown.push('\u{fffd}');
            1
        }
        _ => {
            shown.push(character);
            cells(character)
        }
    }
}

/// Width of a printable character in terminal cells, by the blocks of Unicode's EastAsianWidth.txt and the
/// common combining marks. Other characters have width 1.
fn cells(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036f | 0x20d0..=0x20ff | 0x200b..=0x200f | 0xfe00..=0xfe0f | 0xfeff => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// A message without terminal control characters.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        push_shown(&mut shown, character);
    }
    shown
}

/// A user's text as it is quoted in a message: in backticks, long texts truncated.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("`{}…`", &text[..cut]),
        None => format!("`{text}`"),
    }
}

/// A text with the places of its lines.
pub(super) struct SourceText<'s> {
    path: &'s Path,
    text: &'s str,
    /// Offset of the first byte of each line.
    starts: Vec<usize>,
}

impl<'s> SourceText<'s> {
    /// `path` is shown, not read. A byte order mark is not part of the first line.
    pub(super) fn new(path: &'s Path, text: &'s str) -> Self {
        let first = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { path, text, starts: std::iter::once(first).chain(after_newlines).collect() }
    }

    pub(super) fn path(&self) -> &'s Path {
        self.path
    }

    pub(super) fn text(&self) -> &'s str {
        self.text
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// The lines with their offsets, without line ends.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &'s str)> + '_ {
        (1..=self.starts.len()).map(|line| (self.starts[line - 1], self.line_text(line)))
    }

    fn line_text(&self, line: usize) -> &'s str {
        let start = self.starts[line - 1];
        let end = self.starts.get(line).map_or(self.text.len(), |next| next - 1);
        let text = self.text.get(start..end).unwrap_or_default();
        text.strip_suffix('\r').unwrap_or(text)
    }

    /// A fault at these bytes. If they span several lines, the first one is shown.
    pub(super) fn fault(&self, at: &Span, wrong: InvalidValue) -> Fault {
        let line = self.line(at.start);
        let text = self.line_text(line);
        let start = self.starts[line - 1];
        let from = at.start.saturating_sub(start).min(text.len());
        let to = at.end.saturating_sub(start).clamp(from, text.len());
        let before = characters(text, 0..from);
        let skipped = if before + BEFORE_CARET < LONGEST_LINE && text.len() <= LONGEST_LINE {
            0
        } else {
            before.saturating_sub(BEFORE_CARET)
        };
        let text_shown: String = text.chars().skip(skipped).take(LONGEST_LINE).collect();
        Fault {
            file: self.path.to_owned(),
            line,
            column: before + 1,
            text: text_shown,
            skipped,
            width: characters(text, from..to).max(1),
            message: wrong.message,
            help: wrong.help,
        }
    }
}

/// Number of characters that begin within these bytes.
fn characters(text: &str, bytes: Span) -> usize {
    text.as_bytes()[bytes].iter().filter(|byte| (**byte & 0xc0) != 0x80).count()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Faults, InvalidValue, SourceText, quoted};

    /// Renders a fault at the first `needle`.
    fn shown(text: &str, needle: &str) -> String {
        let start = text.find(needle).unwrap();
        let source = SourceText::new(Path::new("m.toml"), text);
        source
            .fault(&(start..start + needle.len()), InvalidValue::new("bad").help("do"))
            .to_string()
    }

    /// The cell of the first caret, and the number of carets.
    fn caret(rendered: &str) -> (usize, usize) {
        let line = rendered.lines().find(|line| line.contains('^')).unwrap();
        let run = line.matches('^').count();
        (line.find('^').unwrap() - line.find('|').unwrap() - 2, run)
    }

    #[test]
    fn faults_are_shown_as_a_compiler_shows_errors() {
        assert_eq!(
            shown("a = 1\nbind = \"x\"\n", "\"x\""),
            "error: bad\n --> m.toml:2:8\n  |\n2 | bind = \"x\"\n  |        ^^^\n  = help: do\n"
        );
    }

    #[test]
    fn line_numbers_widen_the_gutter() {
        let rendered = shown(&format!("{}x", "\n".repeat(99)), "x");
        assert!(
            rendered.contains("\n   --> m.toml:100:1\n    |\n100 | x\n    | ^\n"),
            "{rendered}"
        );
    }

    #[test]
    fn the_caret_is_right_after_tabs_umlauts_and_wide_characters() {
        assert_eq!(caret(&shown("\tkey = 1", "key")), (4, 3));
        assert_eq!(caret(&shown("ä = 1", "1")), (4, 1));
        assert_eq!(caret(&shown("\"日本\" = 1", "1")), (9, 1));
        assert_eq!(caret(&shown("x = \"日本\"", "日本")), (5, 4));
        assert_eq!(caret(&shown("e\u{301} = 1", "1")), (4, 1));
    }

    #[test]
    fn line_ends_and_byte_order_marks_are_not_shown() {
        let rendered = shown("\u{feff}a = 1\r\nb = 2\r\n", "2");
        assert!(rendered.contains("m.toml:2:5\n  |\n2 | b = 2\n"), "{rendered:?}");
        assert!(shown("\u{feff}a = 1", "a").contains("m.toml:1:1\n"));
        assert!(!shown("\u{feff}a = 1", "a").contains('\u{feff}'));
    }

    #[test]
    fn a_span_over_several_lines_is_cut_at_its_first() {
        assert_eq!(caret(&shown("a = [\n1,\n]\n", "[\n1,\n]")), (4, 1));
    }

    #[test]
    fn a_very_long_line_is_shown_in_part() {
        let text = format!("{}needle{}", "x".repeat(5000), "y".repeat(5000));
        let rendered = shown(&text, "needle");
        assert!(rendered.len() < 600, "{rendered}");
        assert!(rendered.contains("m.toml:1:5001\n"));
        let line = rendered.lines().nth(3).unwrap();
        let at = line.chars().position(|c| c == 'n').unwrap();
        let carets = rendered.lines().nth(4).unwrap();
        assert_eq!(carets.chars().position(|c| c == '^'), Some(at));
        assert_eq!(carets.matches('^').count(), 6);
    }

    #[test]
    fn control_characters_are_not_shown() {
        let rendered = shown("a = \"\x1b[31m\u{202e}\u{9b}\" # x", "# x");
        assert!(rendered.chars().all(|c| c == '\n' || !c.is_control()), "{rendered:?}");
        assert!(!rendered.contains('\u{202e}'));
        assert_eq!(caret(&rendered).1, 3);
    }

    #[test]
    fn an_offset_behind_the_end_points_behind_the_end() {
        let source = SourceText::new(Path::new("m.toml"), "a = 1");
        let fault = source.fault(&(5..5), InvalidValue::new("bad"));
        assert_eq!((fault.line, fault.column, fault.width), (1, 6, 1));
        let fault =
            SourceText::new(Path::new("m.toml"), "").fault(&(9..12), InvalidValue::new("bad"));
        assert_eq!((fault.line, fault.column), (1, 1));
    }

    #[test]
    fn faults_are_separated_by_a_blank_line() {
        let source = SourceText::new(Path::new("m.toml"), "a\nb");
        let faults = Faults(vec![
            source.fault(&(0..1), InvalidValue::new("one")),
            source.fault(&(2..3), InvalidValue::new("two")),
        ]);
        assert!(faults.to_string().contains("  | ^\n\nerror: two\n"), "{faults}");
    }

    #[test]
    fn long_words_are_cut_in_quotes() {
        assert_eq!(quoted("abc"), "`abc`");
        assert_eq!(quoted(&"ü".repeat(200)).chars().count(), 63);
    }
}
