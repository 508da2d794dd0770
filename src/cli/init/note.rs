//! Notes on directives that a translation omits or changes, with their position in the original file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The name of an original file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceName {
    /// The path that it was read from.
    pub(super) path: PathBuf,
    /// The path from the folder of the first file.
    pub(super) short: PathBuf,
}

impl SourceName {
    /// The name of the file at `path`; `folder` is the folder of the first file.
    pub(super) fn new(path: &Path, folder: &Path) -> Arc<Self> {
        let short = path.strip_prefix(folder).unwrap_or(path).to_owned();
        Arc::new(Self { path: path.to_owned(), short })
    }
}

/// A line of an original file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    /// Number of the file in the order in which files were read.
    pub(super) order: usize,
    /// The file.
    pub(super) file: Arc<SourceName>,
    /// The line, from 1.
    pub(super) line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.short.display(), self.line)
    }
}

/// What became of a directive that was not translated one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NoteKind {
    /// The directive restricts access, and the translation does not.
    Unprotected,
    /// The directive has no equivalent.
    Untranslated,
    /// The translation behaves differently.
    Different,
    /// Moorline does this without a setting.
    Unneeded,
}

impl NoteKind {
    /// Every kind, the most important one first.
    pub(super) const ALL: [Self; 4] =
        [Self::Unprotected, Self::Untranslated, Self::Different, Self::Unneeded];

    /// Words in front of a note on the terminal.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unprotected => "access control lost",
            Self::Untranslated => "not translated",
            Self::Different => "different",
            Self::Unneeded => "not needed",
        }
    }

    /// Heading of these notes in the written file.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Unprotected => "ACCESS CONTROL that the translation does not have",
            Self::Untranslated => "Not translated",
            Self::Different => "Translated, but different",
            Self::Unneeded => "Not needed",
        }
    }
}

/// A note on a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Position of the directive.
    pub(super) origin: Origin,
    /// How the directive was handled.
    pub(super) kind: NoteKind,
    /// The directive, shortened to one line.
    pub(super) directive: String,
    /// The reason, and what to do.
    pub(super) reason: String,
}

impl Note {
    /// The note without its kind.
    pub(super) fn text(&self) -> String {
        format!("{}: `{}`: {}", self.origin, self.directive, self.reason)
    }
}

/// Notes in the order of the original files, each once.
#[derive(Debug, Default)]
pub(super) struct TranslationNotes(Vec<Note>);

impl TranslationNotes {
    /// Adds a note about the directive `directive`.
    pub(super) fn add(
        &mut self,
        kind: NoteKind,
        origin: &Origin,
        directive: &str,
        reason: impl Into<String>,
    ) {
        let directive = shortened(directive);
        let note = Note { origin: origin.clone(), kind, directive, reason: reason.into() };
        // A file may be included several times.
        let same = |known: &Note| {
            Origin { order: 0, ..known.origin.clone() } == Origin { order: 0, ..origin.clone() }
        };
        let equal = |known: &Note| {
            (known.kind, &known.directive, &known.reason)
                == (note.kind, &note.directive, &note.reason)
        };
        if !self.0.iter().any(|known| same(known) && equal(known)) {
            self.0.push(note);
        }
    }

    /// Returns the notes, sorted by position.
    pub(super) fn sorted(mut self) -> Vec<Note> {
        self.0.sort_by(|one, other| one.origin.cmp(&other.origin).then(one.kind.cmp(&other.kind)));
        self.0
    }
}

/// A directive in one line of at most 70 characters without control characters.
fn shortened(directive: &str) -> String {
    const LONGEST: usize = 70;
    let words = directive.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain: String = words.chars().filter(|c| !c.is_control()).collect();
    if plain.chars().count() <= LONGEST {
        return plain;
    }
    let start: String = plain.chars().take(LONGEST - 1).collect();
    format!("{}…", start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_sorted_by_position_and_listed_once() {
        let file = SourceName::new(Path::new("/etc/nginx/nginx.conf"), Path::new("/etc/nginx"));
        let at = |line| Origin { order: 0, file: Arc::clone(&file), line };
        let mut notes = TranslationNotes::default();
        notes.add(NoteKind::Untranslated, &at(9), "gzip on", "no compression");
        notes.add(NoteKind::Unneeded, &at(2), "a\n  b\u{1b}", "built in");
        notes.add(NoteKind::Untranslated, &at(9), "gzip on", "no compression");
        let texts: Vec<String> = notes.sorted().iter().map(Note::text).collect();
        assert_eq!(
            texts,
            ["nginx.conf:2: `a b`: built in", "nginx.conf:9: `gzip on`: no compression"]
        );
        assert_eq!(shortened(&"x".repeat(80)).chars().count(), 70);
    }
}
