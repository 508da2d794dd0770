//! One configuration while it is read: its texts, the faults found so far, the files that it names.
//!
//! [`File::walk`] parses the main file, reads the files that it includes, expands the environment and
//! walks the one tree of all. A walk always reaches its end, so that every fault is reported at once.
//! Must not know what any key means, except `include`.

use std::{
    cell::RefCell,
    collections::HashSet,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, Error};

pub(super) use super::value::{TomlTable, TomlValue};
use super::{
    bytes,
    content::{Content, Reading},
    documents::{self, KnownDocuments},
    environment,
    fault::{Fault, Faults, InvalidValue, MOST_FAULTS, SourceText, Span},
    foreign,
    includes::{self, Included},
    merge,
    places::ValuePlaces,
    schema::Section,
    source_map::SourceMap,
    syntax::Syntax,
};

/// A configuration and what was found in it so far.
pub(super) struct File<'s> {
    sources: SourceMap<'s>,
    found: RefCell<Vec<FoundFault>>,
    readings: RefCell<Vec<Reading>>,
    /// Mistakes that are reported at their first place only.
    said: RefCell<HashSet<String>>,
    /// Starts of the strings that were filled from the environment.
    expanded: RefCell<HashSet<usize>>,
    /// Places of values that already have a fault.
    unusable: RefCell<Vec<Span>>,
    /// API descriptions.
    pub(super) documents: KnownDocuments,
}

/// A fault, and what decides whether and in which order it is reported.
struct FoundFault {
    /// Its place in the configuration, even if the fault itself is in a file that is named there.
    at: Span,
    /// The fault says that something is missing.
    missing: bool,
    fault: Fault,
}

/// What the parser reported of one file.
struct ParsedFile {
    syntax: Syntax,
    /// The whole file is written in another format.
    foreign: Option<Fault>,
    /// Offset of the file.
    base: usize,
}

impl ParsedFile {
    fn new(source: &SourceText<'_>, errors: &[Error], base: usize) -> Self {
        Self { syntax: Syntax::new(source, errors), foreign: foreign::fault(source, errors), base }
    }

    fn is_valid(&self) -> bool {
        self.syntax.is_empty() && self.foreign.is_none()
    }
}

impl<'s> File<'s> {
    fn new(main: SourceText<'s>) -> Self {
        Self {
            sources: SourceMap::new(main),
            found: RefCell::default(),
            readings: RefCell::default(),
            said: RefCell::default(),
            expanded: RefCell::default(),
            unusable: RefCell::default(),
            documents: KnownDocuments::default(),
        }
    }

    /// Parses a text, with the files that it includes, and walks the tree: the value and the places of
    /// its parts if nothing is wrong, and the files that were read. `path` is the path of the text.
    pub(super) fn walk<T>(
        path: &Path,
        text: &str,
        section: &'static Section,
        walk: impl FnOnce(&TomlTable<'_>) -> T,
    ) -> (Result<(T, ValuePlaces), Faults>, Vec<Reading>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let main = File::new(SourceText::new(path, text));
        let mut tree = root.into_inner();
        let mut parsed = vec![ParsedFile::new(main.sources.main(), &errors, 0)];
        environment::expand(&main, &mut tree);
        let included = includes::read(&main, &tree);
        let file = main.add(&included, &mut tree, &mut parsed);
        let documents = documents::read(&file, &tree);
        let file = file.add_documents(&documents);
        let end = text.trim_end().len();
        let table = TomlTable::new(&file, section, end..end, &tree);
        table.fault_unknown_keys();
        let value = walk(&table);
        let readings = file.readings.take();
        if let Some(fault) = parsed[0].foreign.take() {
            return (Err(Faults(vec![fault])), readings);
        }
        if parsed.iter().all(ParsedFile::is_valid) && file.found.borrow().is_empty() {
            let places = ValuePlaces::of(&file.sources, &tree);
            (Ok((value, places)), readings)
        } else {
            (Err(file.faults(parsed)), readings)
        }
    }

    /// Adds the trees of included files.
    fn add<'a>(
        self,
        included: &'a [Included],
        tree: &mut DeTable<'a>,
        parsed: &mut Vec<ParsedFile>,
    ) -> File<'a>
    where
        's: 'a,
    {
        let mut file: File<'a> = self;
        for Included { path, text } in included {
            let base = file.sources.add(SourceText::new(path, text));
            let (root, errors) = DeTable::parse_recoverable(text);
            parsed.push(ParsedFile::new(&SourceText::new(path, text), &errors, base));
            let mut table = merge::moved(root.into_inner(), base);
            includes::refuse_nested(&file, &mut table);
            environment::expand(&file, &mut table);
            merge::merge(&file, tree, table);
        }
        file
    }

    /// Adds the texts of API descriptions.
    fn add_documents<'a>(self, documents: &'a [Included]) -> File<'a>
    where
        's: 'a,
    {
        let mut file: File<'a> = self;
        for Included { path, text } in documents {
            let base = file.sources.add(SourceText::new(path, text));
            file.documents.offsets.insert(path.clone(), base);
        }
        file
    }

    /// The path of the main file.
    pub(super) fn main_path(&self) -> &'s Path {
        self.sources.main().path()
    }

    /// The text of an API description, and its offset.
    pub(super) fn document(&self, path: &Path) -> Option<(&'s str, usize)> {
        let base = *self.documents.offsets.get(path)?;
        Some((self.sources.whole_text(base), base))
    }

    /// The source text of a span.
    pub(super) fn typed(&self, at: &Span) -> &'s str {
        self.sources.text(at)
    }

    /// The place of an offset in words, for a fault at `from`: `on line 3`, and with its file if that
    /// is another one.
    pub(super) fn place(&self, offset: usize, from: usize) -> String {
        let line = self.sources.line(offset);
        match self.sources.same_file(offset, from) {
            true => format!("on line {line}"),
            false => format!("in {}:{line}", self.sources.path(offset).display()),
        }
    }

    /// Notes a fault at `at`.
    pub(super) fn fault(&self, at: &Span, wrong: InvalidValue) {
        self.note(at, false, || self.sources.fault(at, wrong));
    }

    /// Notes that something is missing which `at` needs.
    pub(super) fn missing(&self, at: &Span, wrong: InvalidValue) {
        self.note(at, true, || self.sources.fault(at, wrong));
    }

    /// Notes a fault in a file that the configuration names at `at`.
    pub(super) fn elsewhere(&self, at: &Span, fault: Fault) {
        self.note(at, false, || fault);
    }

    fn note(&self, at: &Span, missing: bool, fault: impl FnOnce() -> Fault) {
        if !self.is_full() && !self.is_unusable(at) {
            let fault = fault();
            let mut found = self.found.borrow_mut();
            // A value may be read for several routes.
            let is_new = |known: &FoundFault| known.at != *at || known.fault != fault;
            if found.iter().all(is_new) {
                found.push(FoundFault { at: at.clone(), missing, fault });
            }
        }
    }

    /// How many faults were found.
    pub(super) fn fault_count(&self) -> usize {
        self.found.borrow().len()
    }

    /// Whether no more faults are kept, so that none need be looked for.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= MOST_FAULTS
    }

    /// Notes that a string was filled from the environment.
    pub(super) fn note_expanded(&self, at: &Span) {
        self.expanded.borrow_mut().insert(at.start);
    }

    /// Whether a string was filled from the environment.
    pub(super) fn is_expanded(&self, at: &Span) -> bool {
        self.expanded.borrow().contains(&at.start)
    }

    /// Notes that the value at `at` has a fault already: further ones would only follow from it.
    pub(super) fn note_unusable(&self, at: Span) {
        self.unusable.borrow_mut().push(at);
    }

    fn is_unusable(&self, at: &Span) -> bool {
        let unusable = self.unusable.borrow();
        unusable.iter().any(|whole| whole.start <= at.start && at.end <= whole.end)
    }

    /// The path that `path` means if it is typed at `offset`: relative paths start at the folder of
    /// the file that they are in.
    pub(super) fn resolve(&self, offset: usize, path: &str) -> PathBuf {
        folder(self.sources.path(offset)).join(path)
    }

    /// A path beside the main file.
    pub(super) fn beside_main(&self, path: &str) -> PathBuf {
        folder(self.main_path()).join(path)
    }

    /// Reads a file that is named at `offset`, and remembers it as one to watch.
    pub(super) fn read(&self, offset: usize, path: &Path) -> Result<Vec<u8>, InvalidValue> {
        let outcome = bytes::read(path);
        let content = outcome.as_deref().map_or(Content::Unreadable, Content::of);
        self.note_reading(Reading { path: path.to_owned(), content });
        let folder = folder(self.sources.path(offset));
        outcome.map_err(|wrong| match &wrong.help {
            // Any other path was typed as an absolute one.
            None if path.is_absolute() == folder.is_absolute() && path.starts_with(folder) => {
                wrong.help(relative_to(folder))
            }
            None => wrong.help("check the path, or create the file"),
            Some(_) => wrong,
        })
    }

    /// Remembers something to watch.
    pub(super) fn note_reading(&self, reading: Reading) {
        self.readings.borrow_mut().push(reading);
    }

    /// Whether this is said for the first time: several places may follow from one mistake.
    pub(super) fn first_time(&self, said: &str) -> bool {
        self.said.borrow_mut().insert(said.to_owned())
    }

    /// Every fault, in the order of the files and of their lines.
    fn faults(self, parsed: Vec<ParsedFile>) -> Faults {
        let mut found = self.found.take();
        if !parsed.iter().all(ParsedFile::is_valid) {
            found.retain(|found| {
                let (index, local) = self.sources.locate(&found.at);
                let Some(ParsedFile { syntax, foreign, .. }) = parsed.get(index) else {
                    // An API description.
                    return !found.missing;
                };
                let text = self.sources.file_text(index);
                !found.missing && foreign.is_none() && syntax.is_reliable(text, &local)
            });
        }
        for ParsedFile { syntax, foreign, base } in parsed {
            if let Some(fault) = foreign {
                found.push(FoundFault { at: base..base, missing: false, fault });
                continue;
            }
            found.extend(syntax.into_faults().map(|(at, wrong)| {
                let at = at.start + base..at.end + base;
                FoundFault { fault: self.sources.fault(&at, wrong), at, missing: false }
            }));
        }
        found.sort_by_key(|found| found.at.start);
        let more = found.len() >= MOST_FAULTS;
        let mut faults: Vec<Fault> = found.into_iter().map(|found| found.fault).collect();
        if more {
            faults.truncate(MOST_FAULTS);
            let wrong =
                InvalidValue::new(format!("there are more than these {MOST_FAULTS} faults"))
                    .help("correct these first");
            faults.push(Fault::of_file(self.main_path(), wrong));
        }
        Faults(faults)
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

/// Advice about relative paths in a file of this folder.
fn relative_to(folder: &Path) -> String {
    let folder = Some(folder).filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map(Path::to_owned).or_else(|| std::env::current_dir().ok());
    let folder = folder.unwrap_or_default();
    format!("relative paths start at the folder of the file that they are in, {}", folder.display())
}
