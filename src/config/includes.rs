//! `include`: more files of one configuration, by path or by pattern.
//!
//! Patterns have `*`, `?` and `[…]`, within one component of a path each. The files of a pattern are
//! sorted by their paths. A wildcard does not match a name that begins with a dot, and a pattern does not
//! match the main file.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs,
    path::{Component, Path, PathBuf},
    str,
};

use glob::{MatchOptions, Pattern};
use toml::de::DeTable;

use super::{
    content::{Content, Reading},
    fault::{InvalidValue, SourceText, quoted},
    file::{File, TomlValue},
};

/// Key of the main file.
pub(super) const KEY: &str = "include";

/// Largest number of included files.
const MOST_FILES: usize = 1_000;

/// How names are compared: case matters, and a wildcard does not match hidden files.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// A file that the main file includes.
pub(super) struct Included {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads the files that the main file's table includes, in order, each once.
pub(super) fn read<'t>(file: &'t File<'t>, main: &'t DeTable<'t>) -> Vec<Included> {
    let Some(value) = TomlValue::of_key(file, KEY, main) else { return Vec::new() };
    let mut reader = IncludeReader { file, seen: HashSet::new(), included: Vec::new() };
    reader.seen.insert(identity(file.main_path()));
    match value.elements() {
        Some(elements) => elements.for_each(|element| reader.pattern(&element)),
        None if value.node.get_ref().is_str() => reader.pattern(&value),
        None => {
            value.wrong_type("a path, a pattern such as \"conf.d/*.toml\", or an array of these")
        }
    }
    reader.included
}

/// Removes `include` from the tree of an included file, which is a fault there.
pub(super) fn refuse_nested(file: &File<'_>, table: &mut DeTable<'_>) {
    if let Some((key, _)) = table.remove_entry(KEY) {
        let main = quoted(&file.main_path().to_string_lossy());
        let wrong = InvalidValue::new("an included file cannot include other files");
        file.fault(&key.span(), wrong.help(format!("move these patterns to `include` in {main}")));
    }
}

struct IncludeReader<'t> {
    file: &'t File<'t>,
    /// Files that were read, without links.
    seen: HashSet<PathBuf>,
    included: Vec<Included>,
}

impl IncludeReader<'_> {
    fn pattern(&mut self, value: &TomlValue<'_>) {
        let Some(typed) = value.string() else { return };
        if typed.is_empty() {
            let wrong = InvalidValue::new("this path is empty");
            value.fault(wrong.help("write a path or a pattern, for example \"conf.d/*.toml\""));
        } else if !is_pattern(typed) {
            let path = value.resolve(typed);
            if self.is_new(&path) {
                self.one(value, path);
            } else {
                let itself = identity(&path) == identity(self.file.main_path());
                let wrong = match itself {
                    true => InvalidValue::new("this file includes itself"),
                    false => InvalidValue::new(format!("{} is included twice", quoted(typed))),
                };
                value.fault(wrong.help("remove it"));
            }
        } else if let Some(paths) = value.checked(self.matches(value.resolve(""), typed)) {
            for path in paths {
                if self.is_new(&path) {
                    self.one(value, path);
                }
            }
        }
    }

    fn is_new(&mut self, path: &Path) -> bool {
        self.seen.insert(identity(path))
    }

    fn one(&mut self, value: &TomlValue<'_>, path: PathBuf) {
        if self.included.len() == MOST_FILES {
            let wrong = InvalidValue::new(format!("more than {MOST_FILES} files are included"));
            if self.file.first_time("included files") {
                value.fault(wrong.help("merge some of the files"));
            }
            return;
        }
        let Some(bytes) = value.checked(value.read(&path)) else { return };
        match String::from_utf8(bytes) {
            Ok(text) => self.included.push(Included { path, text }),
            Err(error) => {
                let fault = not_utf8(&path, error.as_bytes());
                self.file.elsewhere(&value.at(), fault);
            }
        }
    }

    /// The files that a pattern matches, sorted. Every folder that is searched is watched for matching
    /// names that appear later.
    fn matches(&self, folder: PathBuf, pattern: &str) -> Result<Vec<PathBuf>, InvalidValue> {
        let mut paths = vec![folder];
        let mut components = Path::new(pattern).components().peekable();
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            let Component::Normal(name) = component else {
                paths.iter_mut().for_each(|path| path.push(component));
                continue;
            };
            let Some(pattern) = pattern_of(name)? else {
                paths.iter_mut().for_each(|path| path.push(name));
                continue;
            };
            let folders = std::mem::take(&mut paths);
            for folder in folders {
                let names = names(&folder, &pattern);
                self.file.note_reading(Reading {
                    path: folder.join(name),
                    content: Content::of_names(&names),
                });
                let matched = names.into_iter().map(|name| folder.join(name));
                paths.extend(matched.filter(|path| path.is_dir() != last));
            }
        }
        // Literal components after a wildcard may lead nowhere.
        paths.retain(|path| {
            let there = path.exists();
            if !there {
                let content = Content::Unreadable;
                self.file.note_reading(Reading { path: path.clone(), content });
            }
            there
        });
        paths.sort();
        Ok(paths)
    }
}

/// The path without links, so that one file is included once.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// A fault at the first byte of a file that is not UTF-8.
pub(super) fn not_utf8(path: &Path, bytes: &[u8]) -> super::fault::Fault {
    let valid = str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    // The lossy text is the same up to the first bad byte.
    let lossy = String::from_utf8_lossy(bytes);
    let wrong = InvalidValue::new("this byte is not valid UTF-8").help("save the file as UTF-8");
    SourceText::new(path, &lossy).fault(&(valid..valid + 1), wrong)
}

fn is_pattern(typed: &str) -> bool {
    typed.contains(['*', '?', '['])
}

/// The pattern that one component of a path is; `None`: it is a plain name.
fn pattern_of(name: &OsStr) -> Result<Option<Pattern>, InvalidValue> {
    let name = name.to_string_lossy();
    if !is_pattern(&name) {
        return Ok(None);
    }
    if name.contains("**") {
        return Err(InvalidValue::new("`**` is not supported in a pattern")
            .help("write one `*` for each folder: \"sites/*/*.toml\""));
    }
    Pattern::new(&name).map(Some).map_err(|error| {
        InvalidValue::new(format!("invalid pattern {}: {}", quoted(&name), error.msg))
            .help("write for example \"conf.d/*.toml\"; `[[]` matches a bracket")
    })
}

/// The names in a folder that a pattern matches, sorted; none if the folder cannot be read.
fn names(folder: &Path, pattern: &Pattern) -> Vec<OsString> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let mut names: Vec<OsString> = names.filter(|name| matches_name(pattern, name)).collect();
    names.sort();
    names
}

fn matches_name(pattern: &Pattern, name: &OsStr) -> bool {
    pattern.matches_with(&name.to_string_lossy(), OPTIONS)
}

/// Whether the last component of `path` is a pattern that matches this name.
pub(crate) fn pattern_matches(pattern: &OsStr, name: &OsStr) -> bool {
    let pattern = pattern_of(pattern).ok().flatten();
    pattern.is_some_and(|pattern| matches_name(&pattern, name))
}

/// The names that a path with a pattern as its last component matches now.
pub(super) fn current_names(path: &Path) -> Vec<OsString> {
    let pattern = path.file_name().and_then(|name| pattern_of(name).ok().flatten());
    let folder = path.parent().unwrap_or(Path::new(""));
    pattern.map(|pattern| names(folder, &pattern)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_visible_names_of_one_folder() {
        let matches =
            |pattern: &str, name: &str| pattern_matches(OsStr::new(pattern), OsStr::new(name));
        assert!(matches("*.toml", "chat.toml") && matches("[0-9]?-*", "10-chat"));
        assert!(!matches("*.toml", ".#chat.toml") && !matches("*.toml", "chat.toml~"));
        assert!(!matches("*.toml", "Chat.TOML") && !matches("plain", "plain"));
        assert!(matches(".*.toml", ".chat.toml"));
    }

    #[test]
    fn patterns_are_checked() {
        let message = |name: &str| pattern_of(OsStr::new(name)).unwrap_err().message;
        assert!(message("**").starts_with("`**` is not supported"));
        assert!(message("[a").starts_with("invalid pattern `[a`"), "{}", message("[a"));
        assert_eq!(pattern_of(OsStr::new("plain")), Ok(None));
    }

    #[test]
    fn names_of_a_pattern_are_sorted() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "a.txt", ".c.toml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let now = || current_names(&folder.path().join("*.toml"));
        assert_eq!(now(), ["a.toml", "b.toml"]);
        fs::remove_file(folder.path().join("a.toml")).unwrap();
        assert_eq!(now(), ["b.toml"]);
        assert!(current_names(&folder.path().join("absent/*.toml")).is_empty());
    }
}
