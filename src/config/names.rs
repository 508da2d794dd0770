//! Names that a user gives, and things that may occur once only.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use super::{
    fault::{InvalidValue, Span, quoted},
    file::File,
};

/// Longest name in characters. Names are metric labels.
const LONGEST: usize = 128;

/// Notes a fault of a listener's or a pool's name.
pub(super) fn check(file: &File<'_>, at: &Span, name: &str) {
    if let Err(wrong) = valid(name) {
        file.fault(at, wrong);
    }
}

/// Checks a name, which is shown in logs and metrics: visible characters, bounded length.
pub(crate) fn valid(name: &str) -> Result<(), InvalidValue> {
    if name.trim().is_empty() {
        return Err(InvalidValue::new("this name is empty").help("write a name, for example `web`"));
    }
    if name.chars().count() > LONGEST {
        return Err(InvalidValue::new(format!(
            "{} is longer than {LONGEST} characters",
            quoted(name)
        ))
        .help("use a shorter name"));
    }
    if name.chars().any(char::is_control) {
        return Err(InvalidValue::new(format!(
            "the name {} has a control character",
            quoted(name)
        ))
        .help("use visible characters only"));
    }
    Ok(())
}

/// Things that were seen, each with the offset of its first place.
pub(super) struct Unique<T>(HashMap<T, usize>);

impl<T: Eq + Hash> Unique<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Remembers a thing at an offset; the offset of the first one if there was one before.
    pub(super) fn add(&mut self, thing: T, at: usize) -> Result<(), usize> {
        match self.0.entry(thing) {
            Entry::Occupied(first) => Err(*first.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(at);
                Ok(())
            }
        }
    }
}
