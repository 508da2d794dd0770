//! Fields of JSON objects that are renamed, dropped or masked.
//!
//! What is not changed stays byte for byte as it is written: order, numbers of any size, escapes, names that occur twice. Only
//! objects and arrays on the way to a field of the configuration are taken apart; an array means each of its items.

use std::ops::Range;

use super::{DocumentFault, scan::Scanner};
use crate::config::BodyChange;

/// The text that takes the place of a masked value.
const MASKED: &str = "\"***\"";

/// What is done with the fields of a document.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    fields: Vec<(Box<str>, FieldRule)>,
}

/// What is done with one field.
#[derive(Debug, Default)]
struct FieldRule {
    action: Option<FieldAction>,
    below: Mapping,
}

#[derive(Debug)]
enum FieldAction {
    Drop,
    Mask,
    Rename(Box<str>),
}

/// Fields that a renamed field of the same object replaces.
#[derive(Default)]
struct Replaced<'a> {
    /// Fields with a new name of the mapping, and where they are in the output.
    written: Vec<(String, Range<usize>)>,
    /// New names that a field has got.
    given: Vec<&'a str>,
}

impl Mapping {
    pub(super) fn new(config: &BodyChange) -> Option<Self> {
        let mut mapping = Self::default();
        for (path, name) in &config.rename {
            mapping.add(path, FieldAction::Rename(name.as_str().into()));
        }
        for path in &config.mask {
            mapping.add(path, FieldAction::Mask);
        }
        for path in &config.drop {
            mapping.add(path, FieldAction::Drop);
        }
        (!mapping.fields.is_empty()).then_some(mapping)
    }

    /// Adds an action. A later one for the same field counts.
    fn add(&mut self, path: &[String], action: FieldAction) {
        let Some((name, rest)) = path.split_first() else { return };
        let at = self.fields.iter().position(|(known, _)| **known == **name);
        let at = at.unwrap_or_else(|| {
            self.fields.push((name.as_str().into(), FieldRule::default()));
            self.fields.len() - 1
        });
        let rule = &mut self.fields[at].1;
        match rest {
            [] => rule.action = Some(action),
            rest => rule.below.add(rest, action),
        }
    }

    /// Returns the changed document.
    pub(super) fn apply(&self, text: &str) -> Result<String, DocumentFault> {
        let mut out = String::with_capacity(text.len() + 64);
        let mut scanner = Scanner::new(text);
        self.value(&mut scanner, &mut out)?;
        scanner.end()?;
        Ok(out)
    }

    fn value(&self, scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), DocumentFault> {
        match scanner.peek() {
            Some(b'{') if !self.fields.is_empty() => self.object(scanner, out),
            Some(b'[') if !self.fields.is_empty() => {
                out.push('[');
                scanner.array(|scanner| {
                    self.value(scanner, out)?;
                    out.push(',');
                    Ok(())
                })?;
                close(out, ']');
                Ok(())
            }
            _ => {
                out.push_str(scanner.raw()?);
                Ok(())
            }
        }
    }

    fn object(&self, scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), DocumentFault> {
        let mut replaced = Replaced::default();
        out.push('{');
        scanner.object(|scanner, name| {
            let rule = self.fields.iter().find(|(known, _)| **known == *name).map(|field| &field.1);
            let action = rule.and_then(|rule| rule.action.as_ref());
            let start = out.len();
            match action {
                Some(FieldAction::Drop) => return scanner.raw().map(drop),
                Some(FieldAction::Rename(new)) => {
                    replaced.given.push(new);
                    write_name(new, out);
                }
                _ => write_name(&name, out),
            }
            match (action, rule) {
                (Some(FieldAction::Mask), _) => {
                    scanner.raw()?;
                    out.push_str(MASKED);
                }
                (_, Some(rule)) => rule.below.value(scanner, out)?,
                (_, None) => out.push_str(scanner.raw()?),
            }
            out.push(',');
            if !matches!(action, Some(FieldAction::Rename(_))) && self.gives(&name) {
                replaced.written.push((name.into_owned(), start..out.len()));
            }
            Ok(())
        })?;
        replaced.remove(out);
        close(out, '}');
        Ok(())
    }

    /// Whether a field gets this name.
    fn gives(&self, name: &str) -> bool {
        let renames = |rule: &FieldRule| matches!(&rule.action, Some(FieldAction::Rename(new)) if **new == *name);
        self.fields.iter().any(|(_, rule)| renames(rule))
    }
}

impl Replaced<'_> {
    /// Removes the replaced fields from the output.
    fn remove(self, out: &mut String) {
        let given = |name: &str| self.given.contains(&name);
        let gone: Vec<Range<usize>> =
            self.written.into_iter().filter(|(name, _)| given(name)).map(|(_, at)| at).collect();
        let Some(first) = gone.first() else { return };
        let mut kept = String::with_capacity(out.len() - first.start);
        let mut from = first.start;
        for range in &gone {
            kept.push_str(&out[from..range.start]);
            from = range.end;
        }
        kept.push_str(&out[from..]);
        out.truncate(first.start);
        out.push_str(&kept);
    }
}

/// Writes the name of a field, and its colon.
fn write_name(name: &str, out: &mut String) {
    // A string: serializing it cannot fail.
    out.push_str(&serde_json::to_string(name).unwrap_or_default());
    out.push(':');
}

/// Replaces the comma behind the last item.
fn close(out: &mut String, end: char) {
    if out.ends_with(',') {
        out.pop();
    }
    out.push(end);
}
