//! Where the values of a configuration stand in its file, for messages that come after it was read.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::{DeTable, DeValue};

use super::fault::Source;

/// Deepest table that is remembered.
const DEEPEST: usize = 8;
/// Longest array whose elements are remembered.
const LONGEST: usize = 1_000;

/// Lines by the path of a value, for example `listeners.web.bind` or `pools.chat.backends[0]`.
///
/// They are no part of what a configuration means: any two are equal.
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: PathBuf,
    values: Arc<BTreeMap<String, Place>>,
}

#[derive(Debug)]
struct Place {
    line: usize,
    /// The value, where it is a string.
    text: Option<String>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// Of a file that was read without a fault.
    pub(super) fn of(source: &Source<'_>, root: &DeTable<'_>) -> Self {
        let mut values = BTreeMap::new();
        table(source, "", root, 0, &mut values);
        Self { file: source.path().to_owned(), values: Arc::new(values) }
    }

    /// File and line of a value, or of the table that would have it: `moorline.toml:12`. Where there is
    /// no file, the path itself.
    pub fn at(&self, path: &str) -> String {
        let mut known = path;
        loop {
            if let Some(place) = self.values.get(known) {
                return format!("{}:{}", self.file.display(), place.line);
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None if self.file.as_os_str().is_empty() => return path.to_owned(),
                None => return self.file.display().to_string(),
            }
        }
    }

    /// Values that are paths of files, with what they resolve to.
    pub(super) fn files(&self, ends: &[&str]) -> impl Iterator<Item = (&str, PathBuf)> {
        let folder = self.file.parent().unwrap_or(Path::new("")).to_owned();
        let named =
            self.values.iter().filter(|(path, _)| ends.iter().any(|end| path.ends_with(end)));
        named.filter_map(move |(path, place)| {
            place.text.as_ref().map(|text| (path.as_str(), folder.join(text)))
        })
    }

    /// The configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

fn table(
    source: &Source<'_>,
    path: &str,
    entries: &DeTable<'_>,
    depth: usize,
    values: &mut BTreeMap<String, Place>,
) {
    for (key, node) in entries {
        let name = key.get_ref();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        value(source, path, source.line(key.span().start), node.get_ref(), depth, values);
    }
}

fn value(
    source: &Source<'_>,
    path: String,
    line: usize,
    node: &DeValue<'_>,
    depth: usize,
    values: &mut BTreeMap<String, Place>,
) {
    match node {
        DeValue::Table(entries) if depth < DEEPEST => {
            table(source, &path, entries, depth + 1, values)
        }
        DeValue::Array(elements) if depth < DEEPEST && elements.len() <= LONGEST => {
            for (index, element) in elements.iter().enumerate() {
                let line = source.line(element.span().start);
                let path = format!("{path}[{index}]");
                value(source, path, line, element.get_ref(), depth + 1, values);
            }
        }
        _ => {}
    }
    let text = node.as_str().map(str::to_owned);
    values.insert(path, Place { line, text });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_line_and_a_missing_one_that_of_its_table() {
        let text =
            "drain = \"1s\"\n[pools.chat]\nbackends = [\n \"a:1\",\n { address = \"b:1\" }]\n";
        let source = Source::new(Path::new("etc/m.toml"), text);
        let places = Places::of(&source, toml::de::DeTable::parse(text).unwrap().get_ref());
        assert_eq!(places.at("pools.chat.backends[1].address"), "etc/m.toml:5");
        assert_eq!(places.at("pools.chat.tls"), "etc/m.toml:2");
        assert_eq!(places.at("drain"), "etc/m.toml:1");
        assert_eq!(places.at("admin"), "etc/m.toml");
        assert_eq!(Places::default().at("pools.chat.tls"), "pools.chat.tls");
        let files: Vec<_> = places.files(&["backends[0]"]).collect();
        assert_eq!(files, [("pools.chat.backends[0]", PathBuf::from("etc/a:1"))]);
    }
}
