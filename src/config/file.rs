//! What was typed, with its place in the file.
//!
//! A [`File`] is a TOML text while it is walked: it collects the faults and the paths that the text
//! names. [`Table`] and [`Value`] are nodes of its tree. A reader that finds a fault notes it and
//! returns `None`, so that a walk always reaches the end. Must not know what any key means.

use std::{
    cell::RefCell,
    collections::HashSet,
    fs, io,
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    content::{Content, Reading},
    fault::{Fault, Faults, Source, Span, Wrong, quoted},
    foreign,
    places::Places,
    schema::{self, Section},
    syntax::Syntax,
};

/// Largest file that is read, in bytes; a hundred thousand backends fit.
pub(super) const LARGEST_FILE: u64 = 8 << 20;

/// How long a pipe may be empty.
const PIPE_PATIENCE: Duration = Duration::from_secs(3);

/// Most faults that are kept. A file with more is not the file that was meant.
pub(super) const MOST_FAULTS: usize = 200;

/// One TOML text and what was found in it so far.
pub(super) struct File<'s> {
    source: Source<'s>,
    found: RefCell<Vec<Found>>,
    readings: RefCell<Vec<Reading>>,
    /// Mistakes that are reported at their first place only.
    said: RefCell<HashSet<String>>,
}

/// A fault with what decides whether and where it is reported.
struct Found {
    /// Where in this file it came from, also where it points into another one.
    at: Span,
    /// Said of something that is not there.
    missing: bool,
    fault: Fault,
}

impl<'s> File<'s> {
    /// `path` is where the text comes from: relative paths in it start at its folder.
    pub(super) fn new(path: &'s Path, text: &'s str) -> Self {
        Self {
            source: Source::new(path, text),
            found: RefCell::default(),
            readings: RefCell::default(),
            said: RefCell::default(),
        }
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.source.line(offset)
    }

    /// Notes a fault of what stands at `at`.
    pub(super) fn fault(&self, at: &Span, wrong: Wrong) {
        self.note(at, false, || self.source.fault(at, wrong));
    }

    /// Notes that something is not there which `at` calls for.
    pub(super) fn missing(&self, at: &Span, wrong: Wrong) {
        self.note(at, true, || self.source.fault(at, wrong));
    }

    /// Notes a fault in another file, which this one names at `at`.
    pub(super) fn elsewhere(&self, at: &Span, fault: Fault) {
        self.note(at, false, || fault);
    }

    fn note(&self, at: &Span, missing: bool, fault: impl FnOnce() -> Fault) {
        if !self.is_full() {
            let found = Found { at: at.clone(), missing, fault: fault() };
            self.found.borrow_mut().push(found);
        }
    }

    /// Whether there are so many faults that no more are kept, nor worth finding words for.
    pub(super) fn is_full(&self) -> bool {
        self.found.borrow().len() >= MOST_FAULTS
    }

    /// Where a path in this file leads.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.source.path().parent().unwrap_or(Path::new("")).join(path)
    }

    /// The bytes of a file that this one names, remembered as one to watch.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, Wrong> {
        let outcome = read(path);
        let content = outcome.as_deref().map_or(Content::Unreadable, Content::of);
        self.readings.borrow_mut().push(Reading { path: path.to_owned(), content });
        let folder = self.source.path().parent().unwrap_or(Path::new(""));
        outcome.map_err(|wrong| match &wrong.help {
            // Another path was typed as an absolute one.
            None if path.is_absolute() == folder.is_absolute() && path.starts_with(folder) => {
                wrong.help(self.relative_to())
            }
            None => wrong.help("check the path, or create the file"),
            Some(_) => wrong,
        })
    }

    /// Where relative paths of this file start, as advice.
    pub(super) fn relative_to(&self) -> String {
        let folder = self.source.path().parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.map(Path::to_owned).or_else(|| std::env::current_dir().ok());
        let folder = folder.unwrap_or_default();
        format!(
            "relative paths start at the folder of the configuration file, {}",
            folder.display()
        )
    }

    /// Whether this is said for the first time in this file: several places may follow from one mistake.
    pub(super) fn first_time(&self, said: &str) -> bool {
        self.said.borrow_mut().insert(said.to_owned())
    }

    /// Parses the text and walks it: the value and where its parts stand, if nothing was wrong, and what
    /// was read for it.
    pub(super) fn walk<T>(
        self,
        section: &'static Section,
        walk: impl FnOnce(&Table<'_>) -> T,
    ) -> (Result<(T, Places), Faults>, Vec<Reading>) {
        let (root, errors) = DeTable::parse_recoverable(self.source.text());
        let end = self.source.text().trim_end().len();
        let table = Table { file: &self, section, at: end..end, entries: root.get_ref() };
        table.fault_unknown_keys();
        let value = walk(&table);
        if let Some(fault) = foreign::fault(&self.source, &errors) {
            return (Err(Faults(vec![fault])), self.readings.take());
        }
        let syntax = Syntax::new(&self.source, &errors);
        let readings = self.readings.take();
        if syntax.is_empty() && self.found.borrow().is_empty() {
            (Ok((value, Places::of(&self.source, root.get_ref()))), readings)
        } else {
            (Err(self.faults(syntax)), readings)
        }
    }

    /// Everything that was found, in file order.
    fn faults(self, syntax: Syntax) -> Faults {
        let mut found = self.found.take();
        if !syntax.is_empty() {
            let text = self.source.text();
            found.retain(|found| !found.missing && syntax.leaves_whole(text, &found.at));
        }
        found.extend(syntax.into_faults().map(|(at, wrong)| {
            let fault = self.source.fault(&at, wrong);
            Found { at, missing: false, fault }
        }));
        found.sort_by_key(|found| found.at.start);
        let more = found.len() >= MOST_FAULTS;
        let mut faults: Vec<Fault> = found.into_iter().map(|found| found.fault).collect();
        if more {
            faults.truncate(MOST_FAULTS);
            let wrong = Wrong::new(format!("there are more than these {MOST_FAULTS} faults"))
                .help("correct these first");
            faults.push(Fault::of_file(self.source.path(), wrong));
        }
        Faults(faults)
    }
}

/// The bytes of a file of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Wrong> {
    let shown = quoted(&path.to_string_lossy());
    match bytes(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(Wrong::new(format!("{shown} is larger than {} MiB", LARGEST_FILE >> 20))
                .help("name a smaller file"))
        }
        Err(error) => {
            let wrong = Wrong::new(format!("cannot read {shown}: {}", reason(&error)));
            Err(match error.kind() {
                io::ErrorKind::PermissionDenied => wrong.help(format!(
                    "allow this user to read the file and to enter its folders; `namei -l {}` shows their \
                     owners and modes",
                    path.display()
                )),
                io::ErrorKind::IsADirectory => wrong.help("name a file in this folder"),
                _ => wrong,
            })
        }
    }
}

/// The bytes of a file that a user has named: neither a pipe that nobody writes to nor a device without
/// end holds the reader up.
///
/// # Errors
/// The operating system's; the file is too large; nothing was written to the pipe.
pub(crate) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Without it, opening a named pipe would wait for somebody to write to it.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    read_to_end(&mut file.take(LARGEST_FILE + 1), &mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let text = format!("it is larger than {} MiB", LARGEST_FILE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Reads to the end. A pipe or a terminal, which may have nothing to say yet, is given a few seconds.
fn read_to_end(file: &mut io::Take<fs::File>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let until = Instant::now() + PIPE_PATIENCE;
    let is_pipe = file.get_ref().metadata()?.file_type().is_fifo();
    loop {
        match file.read_to_end(bytes) {
            // Nobody has opened the pipe to write yet.
            Ok(_) if is_pipe && bytes.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome.map(|_| ()),
        }
        if Instant::now() > until {
            let text =
                "it is a pipe or a device, and nothing was written to it; use a regular file";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Why a file cannot be read, in words that do not differ between systems.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            format!("permission denied for this process (uid {user})")
        }
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}

/// A table whose keys have been looked through.
#[derive(Clone)]
pub(super) struct Table<'t> {
    file: &'t File<'t>,
    section: &'static Section,
    at: Span,
    entries: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    pub(super) fn file(&self) -> &'t File<'t> {
        self.file
    }

    /// Where it stands: its header, braces or first key.
    pub(super) fn at(&self) -> &Span {
        &self.at
    }

    /// The value of a key, if it is there.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'t>> {
        debug_assert!(self.section.keys.contains(&key), "{key} is in no schema");
        self.entries.get(key).map(|node| Value { file: self.file, key, element: false, node })
    }

    /// The value of a key that has to be there.
    pub(super) fn need(&self, key: &'static str, example: &str) -> Option<Value<'t>> {
        let value = self.value(key);
        if value.is_none() && !self.misspells(key) {
            let wrong = Wrong::new(format!("`{key}` is missing")).help(format!("write {example}"));
            self.file.missing(&self.at, wrong);
        }
        value
    }

    /// Whether an unknown key of the table was probably meant as this one, so that the unknown key is
    /// the fault to report and the missing key only follows from it.
    pub(super) fn misspells(&self, key: &str) -> bool {
        let unknown = self.entries.iter().map(|(typed, _)| typed.get_ref().as_ref());
        let mut unknown = unknown.filter(|typed| !self.section.keys.contains(typed));
        // In a small table there is nothing else that could have been meant.
        let small = self.section.keys.len() <= 2;
        unknown.any(|typed| small || schema::meant(self.section, typed) == Some(key))
    }

    /// Whether the table has a key that it may not have.
    pub(super) fn has_unknown_keys(&self) -> bool {
        self.entries.iter().any(|(key, _)| !self.section.keys.contains(&key.get_ref().as_ref()))
    }

    /// The place of a key itself.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        self.entries.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Notes `wrong` at each of these keys that is there.
    pub(super) fn refuse(&self, keys: &[&'static str], wrong: impl Fn(&str) -> Wrong) {
        for key in keys {
            if let Some(at) = self.place(key) {
                self.file.fault(&at, wrong(key));
            }
        }
    }

    fn fault_unknown_keys(&self) {
        for (key, _) in self.entries {
            let typed = key.get_ref().as_ref();
            if !self.section.keys.contains(&typed) && !self.file.is_full() {
                let place = if self.section.name.is_empty() {
                    String::new()
                } else {
                    format!(" in `{}`", self.section.name)
                };
                let wrong = Wrong::new(format!("unknown key {}{place}", quoted(typed)))
                    .help(schema::advice(self.section, typed));
                self.file.fault(&key.span(), wrong);
            }
        }
    }
}

/// One value, by the key it was typed under.
#[derive(Clone, Copy)]
pub(super) struct Value<'t> {
    pub(super) file: &'t File<'t>,
    pub(super) key: &'t str,
    /// It is one of the elements of the key's array.
    element: bool,
    pub(super) node: &'t Spanned<DeValue<'t>>,
}

impl<'t> Value<'t> {
    pub(super) fn at(&self) -> Span {
        self.node.span()
    }

    /// Notes a fault of this value.
    pub(super) fn fault(&self, wrong: Wrong) {
        self.file.fault(&self.at(), wrong);
    }

    /// Notes that it is of another type; `wanted` with its article.
    pub(super) fn is_not(&self, wanted: &str) {
        self.is_not_with(wanted, || None);
    }

    /// Notes that it is of another type, with advice of the caller's where it has any.
    pub(super) fn is_not_with(&self, wanted: &str, help: impl FnOnce() -> Option<String>) {
        let each = if self.element { "each of " } else { "" };
        let found = match self.node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let message = format!("{each}{} must be {wanted}, not {found}", quoted(self.key));
        let help = help().or_else(|| self.retyped(wanted));
        let help = help.unwrap_or_else(|| format!("write {wanted}"));
        self.fault(Wrong::new(message).help(help));
    }

    /// The source text of the value.
    pub(super) fn typed(&self) -> &'t str {
        self.file.source.text().get(self.at()).unwrap_or_default()
    }

    /// The same value written as the type that is wanted, where that is plain.
    fn retyped(&self, wanted: &str) -> Option<String> {
        let typed = self.typed();
        if typed.is_empty() || typed.len() > 60 || typed.contains('\n') {
            return None;
        }
        let inner = typed.trim_matches(['"', '\'']);
        match self.node.get_ref() {
            DeValue::String(_) if wanted.starts_with("an array") && !self.element => {
                Some(format!("put it in brackets: [{typed}]"))
            }
            DeValue::String(_) if wanted.contains("true") => match inner {
                "true" | "yes" | "on" => Some("write true, without quotes".to_owned()),
                "false" | "no" | "off" => Some("write false, without quotes".to_owned()),
                _ => None,
            },
            DeValue::String(_) if wanted == "an integer" && inner.parse::<u64>().is_ok() => {
                Some(format!("remove the quotes: {inner}"))
            }
            DeValue::Integer(_) | DeValue::Boolean(_) if wanted.contains("string") => {
                Some(format!("put it in quotes: \"{typed}\""))
            }
            _ => None,
        }
    }

    /// Its elements, if it is an array.
    pub(super) fn elements(&self) -> Option<impl Iterator<Item = Value<'t>> + use<'t>> {
        let (file, key) = (self.file, self.key);
        let array = self.node.get_ref().as_array()?;
        Some(array.iter().map(move |node| Value { file, key, element: true, node }))
    }

    /// As a table with keys of this section, unknown ones noted.
    pub(super) fn table(&self, section: &'static Section, wanted: &str) -> Option<Table<'t>> {
        let Some(entries) = self.node.get_ref().as_table() else {
            self.is_not(wanted);
            return None;
        };
        let table = Table { file: self.file, section, at: self.at(), entries };
        table.fault_unknown_keys();
        Some(table)
    }

    /// As a table whose keys are names that the user gives: each with its place, in file order.
    pub(super) fn named(&self) -> Vec<(Span, &'t str, Value<'t>)> {
        let Some(entries) = self.node.get_ref().as_table() else {
            self.is_not(&format!("a table of tables, `[{}.NAME]`", self.key));
            return Vec::new();
        };
        let mut named: Vec<_> = entries
            .iter()
            .map(|(key, node)| {
                let name = key.get_ref().as_ref();
                (key.span(), name, Value { file: self.file, key: name, element: false, node })
            })
            .collect();
        named.sort_by_key(|(at, _, value)| at.start.min(value.at().start));
        named
    }
}
