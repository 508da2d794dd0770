//! Changes of header fields.

use moorline_http::Head;

use super::variables::{FilterFacts, render};
use crate::{auth::is_confusable, config::HeaderEdits};

/// Changes with the values of one request.
#[derive(Debug, Default)]
pub(super) struct RenderedEdits {
    remove: Vec<Box<str>>,
    set: Vec<(Box<str>, Box<str>)>,
    append: Vec<(Box<str>, Box<str>)>,
}

/// Changes the fields of a request. What is removed or set is also removed under names that a backend may confuse with
/// it, so that no client can send `X_User` beside `X-User`.
pub(super) fn edit(edits: &HeaderEdits, head: &mut Head, facts: &FilterFacts<'_>) {
    let replaced = edits.remove.iter().chain(edits.set.iter().map(|(name, _)| name));
    for name in replaced {
        head.retain(|field| !is_confusable(name.as_bytes(), field.name));
    }
    for (name, value) in &edits.set {
        head.remove_named(name.as_bytes());
        append(head, name, &render(value, facts));
    }
    for (name, value) in &edits.append {
        append(head, name, &render(value, facts));
    }
}

/// Appends a field, unless its value is empty: its variables have no value.
fn append(head: &mut Head, name: &str, value: &str) {
    if !value.is_empty() {
        head.append_named(name, value);
    }
}

impl RenderedEdits {
    /// Computes the values for a response, while its request is known.
    pub(super) fn of(edits: &HeaderEdits, facts: &FilterFacts<'_>) -> Self {
        let rendered = |fields: &[(String, crate::config::Template)]| {
            let field = |(name, value): &(String, crate::config::Template)| {
                (name.as_str().into(), render(value, facts).into())
            };
            fields.iter().map(field).collect()
        };
        Self {
            remove: edits.remove.iter().map(|name| name.as_str().into()).collect(),
            set: rendered(&edits.set),
            append: rendered(&edits.append),
        }
    }

    /// Changes the fields of the response.
    pub(super) fn apply(&self, head: &mut Head) {
        for name in &self.remove {
            head.remove_named(name.as_bytes());
        }
        for (name, value) in &self.set {
            head.remove_named(name.as_bytes());
            append(head, name, value);
        }
        for (name, value) in &self.append {
            append(head, name, value);
        }
    }
}
