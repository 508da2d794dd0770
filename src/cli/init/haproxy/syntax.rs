//! The grammar of HAProxy's configuration: sections of lines, words, quotes and comments.

use std::{cell::Cell, path::Path, sync::Arc};

use super::super::{
    error::{SyntaxErrorKind, TranslateError},
    files::SourceFiles,
    note::{Origin, SourceName},
};

/// First words of sections.
const SECTIONS: [&str; 17] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "userlist",
    "peers",
    "resolvers",
    "cache",
    "mailers",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
];

/// A line with its words.
#[derive(Debug)]
pub(super) struct ConfigLine {
    /// The words, without quotes. At least one.
    pub(super) words: Vec<String>,
    /// Position of the line.
    pub(super) origin: Origin,
    /// Whether the translation has used or reported the line.
    pub(super) handled: Cell<bool>,
}

/// A section with its lines.
#[derive(Debug)]
pub(super) struct HaproxySection {
    /// The first line: kind and name.
    pub(super) head: ConfigLine,
    /// The other lines.
    pub(super) lines: Vec<ConfigLine>,
}

impl ConfigLine {
    /// The word at `index`, or an empty text.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// The words from `index` on.
    pub(super) fn rest(&self, index: usize) -> &[String] {
        self.words.get(index..).unwrap_or_default()
    }

    /// Whether the line begins with these words.
    pub(super) fn begins(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len()
            && words.iter().zip(&self.words).all(|(one, other)| one == other)
    }

    /// The line with one blank between words.
    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }

    /// Marks the line as translated.
    pub(super) fn take(&self) -> &Self {
        self.handled.set(true);
        self
    }
}

impl HaproxySection {
    /// The first word of the section.
    pub(super) fn kind(&self) -> &str {
        self.head.word(0)
    }

    /// The name of the section, or an empty text.
    pub(super) fn name(&self) -> &str {
        self.head.word(1)
    }
}

/// The sections of a file.
///
/// # Errors
/// The file cannot be read, or a quote is not closed.
pub(super) fn parse(
    path: &Path,
    files: &SourceFiles<'_>,
) -> Result<Vec<HaproxySection>, TranslateError> {
    let text = (files.read)(path).map_err(TranslateError::Unreadable)?;
    let file = SourceName::new(path, path.parent().unwrap_or(Path::new("")));
    let mut sections: Vec<HaproxySection> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let origin = Origin { order: 0, file: Arc::clone(&file), line: index + 1 };
        let words = words(line).ok_or_else(|| {
            let kind = SyntaxErrorKind::OpenQuote;
            TranslateError::Syntax { origin: origin.clone(), kind }
        })?;
        let Some(first) = words.first() else { continue };
        let begins = SECTIONS.contains(&first.as_str());
        let line = ConfigLine { words, origin, handled: Cell::new(false) };
        match sections.last_mut() {
            Some(section) if !begins => section.lines.push(line),
            _ => sections.push(HaproxySection { head: line, lines: Vec::new() }),
        }
    }
    Ok(sections)
}

/// The words of a line up to a comment; `None`: a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.trim_start_matches('\u{feff}').chars();
    while let Some(char) = chars.next() {
        match char {
            '#' => break,
            ' ' | '\t' | '\r' => words.extend(word.take()),
            '\\' => escaped(word.get_or_insert_default(), chars.next()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        char => word.push(char),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => escaped(word, Some(chars.next()?)),
                        char => word.push(char),
                    }
                }
            }
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    Some(words)
}

/// Adds the character behind a backslash. Before other characters than these, the backslash stays.
fn escaped(word: &mut String, char: Option<char>) {
    if char.is_none_or(|char| !" \\#\"'$".contains(char)) {
        word.push('\\');
    }
    word.extend(char);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<HaproxySection>, TranslateError> {
        let read = |_: &Path| Ok(text.to_owned());
        let list = |_: &Path| Ok(Vec::new());
        parse(Path::new("/etc/haproxy/haproxy.cfg"), &SourceFiles { read: &read, list: &list })
    }

    #[test]
    fn lines_belong_to_sections() {
        let text = "global\n  daemon\n# comment\n\nfrontend web # here\n\tbind :80\n    acl x path_beg \"/a b\"\n";
        let sections = parsed(text).unwrap();
        let shown: Vec<(&str, &str, usize)> =
            sections.iter().map(|s| (s.kind(), s.name(), s.lines.len())).collect();
        assert_eq!(shown, [("global", "", 1), ("frontend", "web", 2)]);
        let line = &sections[1].lines[1];
        assert_eq!(
            (line.words[3].as_str(), line.origin.to_string()),
            ("/a b", "haproxy.cfg:7".into())
        );
    }

    #[test]
    fn quotes_and_escapes_are_read() {
        for (line, expected) in [
            ("a\\ b c", &["a b", "c"][..]),
            ("'a # b' \"c\\\"d\"", &["a # b", "c\"d"]),
            ("a\"b\"c", &["abc"]),
            ("''", &[""]),
            ("a#b", &["a"]),
            ("a\\#b", &["a#b"]),
            ("/foo\\1 \"/\\1\" ^/a\\.b", &["/foo\\1", "/\\1", "^/a\\.b"]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert_eq!((words("'a"), words("\"a\\\"")), (None, None));
        let error = parsed("global\n  log 'x").unwrap_err().to_string();
        assert_eq!(error, "haproxy.cfg:2: this quote is not closed");
    }
}
