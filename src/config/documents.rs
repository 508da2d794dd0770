//! The texts of API descriptions, which belong to a configuration like included files.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use toml::de::DeTable;

use super::{bytes, file::File, includes::Included, operations::LoadedDocument};
use crate::openapi::RuleReading;

/// The documents that the routes of a configuration name, with the offsets of their texts.
#[derive(Default)]
pub(super) struct KnownDocuments {
    pub(super) offsets: HashMap<PathBuf, usize>,
    loaded: RefCell<LoadedDocuments>,
}

/// Documents by their path and whether `security` counts; `None`: with a fault.
type LoadedDocuments = HashMap<(PathBuf, bool), Option<Rc<LoadedDocument>>>;

impl KnownDocuments {
    /// Returns a document, and reads it at the first call.
    pub(super) fn load(
        &self,
        path: &Path,
        reading: RuleReading,
        read: impl FnOnce() -> Option<Rc<LoadedDocument>>,
    ) -> Option<Rc<LoadedDocument>> {
        let key = (path.to_owned(), reading == RuleReading::Security);
        if let Some(known) = self.loaded.borrow().get(&key) {
            return known.clone();
        }
        let loaded = read();
        self.loaded.borrow_mut().insert(key, loaded.clone());
        loaded
    }
}

/// Reads the documents of all routes, each once. What cannot be read is reported where the route is read.
pub(super) fn read(file: &File<'_>, tree: &DeTable<'_>) -> Vec<Included> {
    let routes = tree.get("routes").and_then(|routes| routes.get_ref().as_array());
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for route in routes.into_iter().flat_map(|routes| routes.iter()) {
        let openapi = route.get_ref().as_table().and_then(|route| route.get("openapi"));
        let named = openapi.and_then(|openapi| match openapi.get_ref().as_table() {
            Some(table) => table.get("file"),
            None => Some(openapi),
        });
        let Some((at, typed)) = named.and_then(|n| Some((n.span(), n.get_ref().as_str()?))) else {
            continue;
        };
        let path = file.resolve(at.start, typed);
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = bytes::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        found.extend(text.map(|text| Included { path, text }));
    }
    found
}
