//! The file and line of every value of a configuration, for messages after it was read.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::{DeTable, DeValue};

use super::source_map::SourceMap;

/// Depth of the deepest table that is remembered.
const DEEPEST: usize = 8;
/// Length of the longest array whose elements are remembered.
const LONGEST: usize = 1_000;

/// Lines by the path of a value, for example `listeners.web.bind` or `pools.chat.backends[0]`.
///
/// They are not part of what a configuration means: any two are equal.
#[derive(Clone, Debug, Default)]
pub struct ValuePlaces {
    file: PathBuf,
    values: Arc<BTreeMap<String, ValuePlace>>,
}

#[derive(Debug)]
struct ValuePlace {
    file: Arc<PathBuf>,
    line: usize,
    /// The value, if it is a string.
    text: Option<String>,
}

impl PartialEq for ValuePlaces {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl ValuePlaces {
    /// Of files that were read without a fault.
    pub(super) fn of(sources: &SourceMap<'_>, root: &DeTable<'_>) -> Self {
        let mut walk = Walk { sources, files: HashMap::new(), values: BTreeMap::new() };
        walk.table("", root, 0);
        Self { file: sources.main().path().to_owned(), values: Arc::new(walk.values) }
    }

    /// File and line of a value, or of the table that would have it: `moorline.toml:12`. The path
    /// itself if there is no file.
    pub fn at(&self, path: &str) -> String {
        let mut known = path;
        loop {
            if let Some(place) = self.values.get(known) {
                return format!("{}:{}", place.file.display(), place.line);
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None if self.file.as_os_str().is_empty() => return path.to_owned(),
                None => return self.file.display().to_string(),
            }
        }
    }

    /// Values that are paths of files, with the paths that they resolve to.
    pub(super) fn files(&self, ends: &[&str]) -> impl Iterator<Item = (&str, PathBuf)> {
        let named =
            self.values.iter().filter(|(path, _)| ends.iter().any(|end| path.ends_with(end)));
        named.filter_map(|(path, place)| {
            let folder = place.file.parent().unwrap_or(Path::new(""));
            place.text.as_ref().map(|text| (path.as_str(), folder.join(text)))
        })
    }

    /// The main file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

struct Walk<'w> {
    sources: &'w SourceMap<'w>,
    files: HashMap<&'w Path, Arc<PathBuf>>,
    values: BTreeMap<String, ValuePlace>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, entries: &DeTable<'_>, depth: usize) {
        for (key, node) in entries {
            let name = key.get_ref();
            let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            self.value(path, key.span().start, node.get_ref(), depth);
        }
    }

    fn value(&mut self, path: String, at: usize, node: &DeValue<'_>, depth: usize) {
        match node {
            DeValue::Table(entries) if depth < DEEPEST => self.table(&path, entries, depth + 1),
            DeValue::Array(elements) if depth < DEEPEST && elements.len() <= LONGEST => {
                for (index, element) in elements.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.value(path, element.span().start, element.get_ref(), depth + 1);
                }
            }
            _ => {}
        }
        let text = node.as_str().map(str::to_owned);
        let file = self.sources.path(at);
        let file = self.files.entry(file).or_insert_with(|| Arc::new(file.to_owned()));
        let place = ValuePlace { file: Arc::clone(file), line: self.sources.line(at), text };
        self.values.insert(path, place);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fault::SourceText, *};

    #[test]
    fn a_missing_value_has_the_line_of_its_table() {
        let text =
            "drain = \"1s\"\n[pools.chat]\nbackends = [\n \"a:1\",\n { address = \"b:1\" }]\n";
        let sources = SourceMap::new(SourceText::new(Path::new("etc/m.toml"), text));
        let places = ValuePlaces::of(&sources, toml::de::DeTable::parse(text).unwrap().get_ref());
        assert_eq!(places.at("pools.chat.backends[1].address"), "etc/m.toml:5");
        assert_eq!(places.at("pools.chat.tls"), "etc/m.toml:2");
        assert_eq!(places.at("drain"), "etc/m.toml:1");
        assert_eq!(places.at("admin"), "etc/m.toml");
        assert_eq!(ValuePlaces::default().at("pools.chat.tls"), "pools.chat.tls");
        let files: Vec<_> = places.files(&["backends[0]"]).collect();
        assert_eq!(files, [("pools.chat.backends[0]", PathBuf::from("etc/a:1"))]);
    }
}
