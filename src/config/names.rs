//! Names that a user gives, and what may be given once only.

use std::{collections::HashMap, hash::Hash};

use super::{
    fault::{Span, Wrong, quoted},
    file::File,
};

/// Longest name, in characters: names are metric labels.
const LONGEST: usize = 128;

/// Notes a fault of a listener's or a pool's name.
pub(super) fn check(file: &File<'_>, at: &Span, name: &str) {
    if let Err(wrong) = valid(name) {
        file.fault(at, wrong);
    }
}

/// A name is shown in logs and metrics: visible, of bounded length.
pub(crate) fn valid(name: &str) -> Result<(), Wrong> {
    if name.trim().is_empty() {
        return Err(Wrong::new("this name is empty").help("write a name, for example `web`"));
    }
    if name.chars().count() > LONGEST {
        return Err(Wrong::new(format!("{} is longer than {LONGEST} characters", quoted(name)))
            .help("use a shorter name"));
    }
    if name.chars().any(char::is_control) {
        return Err(Wrong::new(format!("the name {} has a control character", quoted(name)))
            .help("use visible characters only"));
    }
    Ok(())
}

/// What was seen, with the line of its first place.
pub(super) struct Unique<T>(HashMap<T, usize>);

impl<T: Eq + Hash> Unique<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Remembers a thing; the fault if it was there before.
    pub(super) fn add(
        &mut self,
        thing: T,
        line: usize,
        message: impl FnOnce() -> String,
    ) -> Result<(), Wrong> {
        match self.0.get(&thing) {
            Some(first) => Err(Wrong::new(message())
                .help(format!("remove one of the two; the first is on line {first}"))),
            None => {
                self.0.insert(thing, line);
                Ok(())
            }
        }
    }
}
