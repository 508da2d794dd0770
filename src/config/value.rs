//! Tables and values as they are typed, with their places.
//!
//! A reader that finds a fault notes it in the [`File`] and returns `None`, so that a walk always
//! reaches the end. Must not know what any key means.

use std::path::{Path, PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    fault::{InvalidValue, Span, quoted},
    file::File,
    schema::{self, Section},
};

/// A table. Its unknown keys are noted by [`TomlTable::fault_unknown_keys`].
#[derive(Clone)]
pub(super) struct TomlTable<'t> {
    file: &'t File<'t>,
    section: &'static Section,
    at: Span,
    entries: &'t DeTable<'t>,
}

impl<'t> TomlTable<'t> {
    /// A table of these entries.
    pub(super) fn new(
        file: &'t File<'t>,
        section: &'static Section,
        at: Span,
        entries: &'t DeTable<'t>,
    ) -> Self {
        Self { file, section, at, entries }
    }

    pub(super) fn file(&self) -> &'t File<'t> {
        self.file
    }

    pub(super) fn entries(&self) -> &'t DeTable<'t> {
        self.entries
    }

    /// Its place: its header, braces or first key.
    pub(super) fn at(&self) -> &Span {
        &self.at
    }

    /// The value of a key, if it is set.
    pub(super) fn value(&self, key: &'static str) -> Option<TomlValue<'t>> {
        debug_assert!(self.section.has(key), "{key} is in no schema");
        self.entries.get(key).map(|node| TomlValue { file: self.file, key, element: false, node })
    }

    /// The value of a required key.
    pub(super) fn need(&self, key: &'static str, example: &str) -> Option<TomlValue<'t>> {
        let value = self.value(key);
        if value.is_none() && !self.misspells(key) {
            let wrong =
                InvalidValue::new(format!("`{key}` is missing")).help(format!("write {example}"));
            self.file.missing(&self.at, wrong);
        }
        value
    }

    /// Whether an unknown key of the table is probably this key, misspelt. The unknown key is reported
    /// then, and the missing key is not.
    pub(super) fn misspells(&self, key: &str) -> bool {
        let unknown = self.entries.iter().map(|(typed, _)| typed.get_ref().as_ref());
        let mut unknown = unknown.filter(|typed| !self.section.has(typed));
        // In a small table, the unknown key can hardly be another one.
        let small = self.section.keys.len() <= 2;
        unknown.any(|typed| small || schema::meant(self.section, typed) == Some(key))
    }

    /// Whether the table has an unknown key.
    pub(super) fn has_unknown_keys(&self) -> bool {
        self.entries.iter().any(|(key, _)| !self.section.has(key.get_ref()))
    }

    /// The place of a key itself.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        self.entries.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Notes `wrong` at each of these keys that is set.
    pub(super) fn refuse(&self, keys: &[&'static str], wrong: impl Fn(&str) -> InvalidValue) {
        for key in keys {
            if let Some(at) = self.place(key) {
                self.file.fault(&at, wrong(key));
            }
        }
    }

    /// Notes each unknown key.
    pub(super) fn fault_unknown_keys(&self) {
        for (key, _) in self.entries {
            let typed = key.get_ref().as_ref();
            if !self.section.has(typed) && !self.file.is_full() {
                let place = if self.section.name.is_empty() {
                    String::new()
                } else {
                    format!(" in `{}`", self.section.name)
                };
                let wrong = InvalidValue::new(format!("unknown key {}{place}", quoted(typed)))
                    .help(schema::advice(self.section, typed));
                self.file.fault(&key.span(), wrong);
            }
        }
    }
}

/// A value with the key that it belongs to.
#[derive(Clone, Copy)]
pub(super) struct TomlValue<'t> {
    pub(super) file: &'t File<'t>,
    pub(super) key: &'t str,
    /// Whether it is an element of the key's array.
    element: bool,
    pub(super) node: &'t Spanned<DeValue<'t>>,
}

impl<'t> TomlValue<'t> {
    /// The value of a key of the top level.
    pub(super) fn of_key(
        file: &'t File<'t>,
        key: &'static str,
        top: &'t DeTable<'t>,
    ) -> Option<Self> {
        top.get(key).map(|node| Self { file, key, element: false, node })
    }

    /// The path that `path` means if it is typed here.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.resolve(self.at().start, path)
    }

    /// Reads a file that is named here, and remembers it as one to watch.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, InvalidValue> {
        self.file.read(self.at().start, path)
    }

    /// The text of a string that was expanded from the environment. Numbers and booleans can be
    /// written in this way.
    pub(super) fn expanded(&self) -> Option<&'t str> {
        self.node.get_ref().as_str().filter(|_| self.file.is_expanded(&self.at()))
    }

    pub(super) fn at(&self) -> Span {
        self.node.span()
    }

    /// Notes a fault of this value.
    pub(super) fn fault(&self, wrong: InvalidValue) {
        self.file.fault(&self.at(), wrong);
    }

    /// Notes that the type is wrong. `wanted` has its article.
    pub(super) fn wrong_type(&self, wanted: &str) {
        self.wrong_type_with_help(wanted, || None);
    }

    /// Notes that the type is wrong, with the advice of the caller, if any.
    pub(super) fn wrong_type_with_help(&self, wanted: &str, help: impl FnOnce() -> Option<String>) {
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
        let found = self.expanded().map_or_else(|| found.to_owned(), quoted);
        let message = format!("{each}{} must be {wanted}, not {found}", quoted(self.key));
        let help = help().or_else(|| self.retyped(wanted));
        let help = help.unwrap_or_else(|| format!("write {wanted}"));
        self.fault(InvalidValue::new(message).help(help));
    }

    /// Its source text.
    pub(super) fn typed(&self) -> &'t str {
        self.file.typed(&self.at())
    }

    /// Advice that rewrites the value as the wanted type, if that is obvious.
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

    /// The elements, if the value is an array.
    pub(super) fn elements(&self) -> Option<impl Iterator<Item = TomlValue<'t>> + use<'t>> {
        let (file, key) = (self.file, self.key);
        let array = self.node.get_ref().as_array()?;
        Some(array.iter().map(move |node| TomlValue { file, key, element: true, node }))
    }

    /// The value as a table of this section; unknown keys are noted.
    pub(super) fn table(&self, section: &'static Section, wanted: &str) -> Option<TomlTable<'t>> {
        let Some(entries) = self.node.get_ref().as_table() else {
            self.wrong_type(wanted);
            return None;
        };
        let table = TomlTable { file: self.file, section, at: self.at(), entries };
        table.fault_unknown_keys();
        Some(table)
    }

    /// The entries of a table with names that the user gives: place, name and value, in file order.
    pub(super) fn named(&self) -> Vec<(Span, &'t str, TomlValue<'t>)> {
        let Some(entries) = self.node.get_ref().as_table() else {
            self.wrong_type(&format!("a table of tables, `[{}.NAME]`", self.key));
            return Vec::new();
        };
        let mut named: Vec<_> = entries
            .iter()
            .map(|(key, node)| {
                let name = key.get_ref().as_ref();
                (key.span(), name, TomlValue { file: self.file, key: name, element: false, node })
            })
            .collect();
        named.sort_by_key(|(at, _, value)| at.start.min(value.at().start));
        named
    }
}
