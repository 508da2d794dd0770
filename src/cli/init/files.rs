//! Files of the original configuration.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Functions that read files and list folders. The translation itself does no I/O.
pub(super) struct SourceFiles<'f> {
    /// The text of a file.
    pub(super) read: &'f dyn Fn(&Path) -> io::Result<String>,
    /// The names in a folder, sorted.
    pub(super) list: &'f dyn Fn(&Path) -> io::Result<Vec<String>>,
}

/// Maximum size of a file, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// Reads a file. Bytes that are not UTF-8, which occur in comments, become replacement characters.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(io::Error::other("the file has more than 8 MiB"));
    }
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Lists the names in a folder, sorted.
pub(super) fn list(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

impl SourceFiles<'_> {
    /// Paths that match a pattern with `*` and `?` in its components, in order. A path without
    /// these is returned as it is.
    pub(super) fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::new()];
        for component in pattern.components() {
            let text = component.as_os_str().to_string_lossy();
            let literal = !matches!(component, Component::Normal(_)) || !has_wildcard(&text);
            paths = match literal {
                true => paths.into_iter().map(|path| path.join(component)).collect(),
                false => paths.iter().flat_map(|path| self.children(path, &text)).collect(),
            };
        }
        paths
    }

    fn children(&self, folder: &Path, pattern: &str) -> Vec<PathBuf> {
        let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let names = (self.list)(shown).unwrap_or_default();
        let visible = |name: &&String| pattern.starts_with('.') || !name.starts_with('.');
        let matching = names.iter().filter(visible).filter(|name| matches(pattern, name));
        matching.map(|name| folder.join(name)).collect()
    }
}

/// Whether a path has a wildcard.
pub(super) fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a name matches a pattern in which `*` stands for any characters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => {
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| matches(rest, &name[at..]))
        }
        '?' => {
            let mut chars = name.chars();
            chars.next().is_some() && matches(rest, chars.as_str())
        }
        literal => name.strip_prefix(literal).is_some_and(|name| matches(rest, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name) in [("*.conf", "chat.conf"), ("*", "a"), ("a?c", "abc"), ("*a*", "bab")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.conf", "chat.conf~"), ("a?c", "ac"), ("a", "ab")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn wildcards_in_folders_are_followed_in_order() {
        let list = |folder: &Path| {
            Ok(match folder.to_str() {
                Some("/etc/sites") => vec!["a".to_owned(), "b".to_owned(), ".hidden".to_owned()],
                Some("/etc/sites/a") => vec!["x.conf".to_owned(), "y.txt".to_owned()],
                Some("/etc/sites/b") => vec!["x.conf".to_owned()],
                _ => return Err(io::ErrorKind::NotFound.into()),
            })
        };
        let files = SourceFiles { read: &|_| Ok(String::new()), list: &list };
        let found = files.matching(Path::new("/etc/sites/*/*.conf"));
        assert_eq!(found, [Path::new("/etc/sites/a/x.conf"), Path::new("/etc/sites/b/x.conf")]);
        assert!(files.matching(Path::new("/none/*.conf")).is_empty());
        assert_eq!(files.matching(Path::new("/etc/one.conf")), [Path::new("/etc/one.conf")]);
    }
}
