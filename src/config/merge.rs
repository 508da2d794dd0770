//! One tree from the trees of several files.
//!
//! Tables merge by key at every depth, so that listeners and pools merge by name. `routes` of a later
//! file follow those of an earlier one. Every other key may be set once. Must not know what any other
//! key means.

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    fault::{InvalidValue, Span, quoted},
    file::File,
};

/// The top-level array that every file can add to.
const APPENDED: &str = "routes";

/// Moves the spans of a file's tree to the file's place in the source map.
pub(super) fn moved<'i>(table: DeTable<'i>, base: usize) -> DeTable<'i> {
    let place = |at: Span| at.start + base..at.end + base;
    let entries = table.into_iter().map(|(key, value)| {
        let key_at = place(key.span());
        (Spanned::new(key_at, key.into_inner()), moved_value(value, base))
    });
    entries.collect()
}

fn moved_value<'i>(value: Spanned<DeValue<'i>>, base: usize) -> Spanned<DeValue<'i>> {
    let at = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved(table, base)),
        DeValue::Array(elements) => {
            let elements = elements.into_iter().map(|element| moved_value(element, base));
            DeValue::Array(elements.collect())
        }
        other => other,
    };
    Spanned::new(at.start + base..at.end + base, inner)
}

/// Adds the tree of a later file. A key that both set is a fault at the later one.
pub(super) fn merge<'i>(file: &File<'_>, into: &mut DeTable<'i>, later: DeTable<'i>) {
    merge_below(file, into, later, "");
}

fn merge_below<'i>(file: &File<'_>, into: &mut DeTable<'i>, later: DeTable<'i>, path: &str) {
    for (key, value) in later {
        let name: &str = key.get_ref();
        let Some((first, _)) = into.get_key_value(name) else {
            into.insert(key, value);
            continue;
        };
        let first = first.span();
        let whole = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let Some(there) = into.get_mut(name).map(Spanned::get_mut) else { continue };
        match (there, value.into_inner()) {
            (DeValue::Table(there), DeValue::Table(table)) => {
                merge_below(file, there, table, &whole);
            }
            (DeValue::Array(there), DeValue::Array(elements)) if whole == APPENDED => {
                append(there, elements);
            }
            _ => {
                let place = file.place(first.start, key.span().start);
                let wrong = InvalidValue::new(format!("{} is already set {place}", quoted(&whole)));
                file.fault(&key.span(), wrong.help("remove one of the two"));
            }
        }
    }
}

fn append<'i>(there: &mut DeArray<'i>, elements: DeArray<'i>) {
    elements.into_iter().for_each(|element| there.push(element));
}
