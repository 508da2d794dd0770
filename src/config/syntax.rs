//! Errors of TOML's grammar, and the parts of the tree that are reliable in spite of them.
//!
//! The parser recovers after an error, so that several can be reported at once. Errors that follow from
//! an earlier one are dropped here. Must not know what any key means.

use toml::de::Error;

use super::fault::{InvalidValue, MOST_FAULTS, SourceText, Span, quoted};

/// The grammar's faults, in file order.
pub(super) struct Syntax(Vec<(Span, InvalidValue)>);

impl Syntax {
    /// From the errors of the parser. An error without a place belongs to the end of the text.
    pub(super) fn new(source: &SourceText<'_>, errors: &[Error]) -> Self {
        let text = source.text();
        let mut all: Vec<(Span, &str)> = errors
            .iter()
            .map(|error| (error.span().unwrap_or(text.len()..text.len()), error.message()))
            .collect();
        all.sort_by_key(|(at, _)| at.start);
        let real = without_followups(source, &all);
        Self(real.map(|(at, message)| (at.clone(), advised(text, at, message))).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_faults(self) -> impl Iterator<Item = (Span, InvalidValue)> {
        self.0.into_iter()
    }

    /// Whether the tree is reliable at `at`: there is no error in it, none between it and the header of
    /// its table, and none before it that affects the rest of the text.
    pub(super) fn is_reliable(&self, text: &str, at: &Span) -> bool {
        let header = header(text, at.start);
        let after = text.get(at.end..).and_then(|after| after.find('\n'));
        let line_end = after.map_or(text.len(), |newline| at.end + newline);
        self.0.iter().all(|(error, wrong)| {
            let runs_on = wrong.message.contains("array");
            error.start > line_end || (error.start < header && !runs_on)
        })
    }
}

/// The start of the table that an offset belongs to: the line of its header, or the start of the text.
fn header(text: &str, offset: usize) -> usize {
    text.get(..offset).and_then(|before| before.rfind("\n[")).map_or(0, |newline| newline + 1)
}

/// The first error of each line, the first error of an unclosed array, and of a duplicate table only its
/// header; at most [`MOST_FAULTS`].
fn without_followups<'e>(
    source: &SourceText<'_>,
    all: &'e [(Span, &'e str)],
) -> impl Iterator<Item = &'e (Span, &'e str)> {
    let in_array = |(_, message): &(Span, &str)| message.contains("array");
    let endless = all.iter().any(|(_, message)| message.starts_with("unclosed array"));
    let first_in_array = all.iter().position(in_array).filter(|_| endless);
    let (mut last_line, mut twice) = (0, None);
    let (mut searched, mut header_at) = (0, 0);
    let bytes = source.text().as_bytes();
    all[..first_in_array.map_or(all.len(), |first| first + 1)]
        .iter()
        .filter(move |(at, message)| {
            let line = source.line(at.start);
            // Each search goes back to the place of the last one only, so that many errors take linear time.
            let upto = at.start.min(bytes.len());
            let newline = bytes[searched..upto].windows(2).rposition(|pair| pair == b"\n[");
            header_at = newline.map_or(header_at, |newline| searched + newline + 1);
            // The next search includes the line end before a header if this error is at its bracket.
            searched = upto.saturating_sub(1).max(searched);
            let duplicate = *message == "duplicate key";
            let echo = line == last_line || (duplicate && twice == Some(header_at));
            if duplicate && source.line(header_at) == line && bytes.get(header_at) == Some(&b'[') {
                twice = Some(header_at);
            }
            last_line = line;
            !echo
        })
        .take(MOST_FAULTS)
}

/// The message of the parser, with advice if a common mistake is the cause.
fn advised(text: &str, at: &Span, message: &str) -> InvalidValue {
    let typed = text.get(at.clone()).unwrap_or_default();
    if message == "duplicate key" {
        return InvalidValue::new(format!("{} is given twice", quoted(typed)))
            .help("remove one of the two, or merge them");
    }
    if message.starts_with("string values must be quoted") {
        return InvalidValue::new("this string needs quotes").help(format!("write \"{typed}\""));
    }
    // The parser names what could follow, which depends on the kind of line end.
    let at_line_end = text
        .get(at.start..)
        .is_none_or(|rest| rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n"));
    if at_line_end && message.starts_with("invalid") && message.contains(" string") {
        return InvalidValue::new("this string has no closing quote").help("add the closing quote");
    }
    let wrong = InvalidValue::new(message);
    if message.contains("array") {
        return wrong.help("an array before this is not closed: add `]`");
    }
    if message.contains("unclosed table") {
        return wrong.help("write the header as `[listeners.web]`");
    }
    if message.contains("expected `=`") {
        return wrong.help("write `key = value`");
    }
    wrong.help("this is not valid TOML: a line is `key = value` or a header such as `[pools.app]`")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use toml::de::DeTable;

    use super::{SourceText, Syntax};

    /// The lines and messages of what is wrong with a text.
    fn errors(text: &str) -> Vec<(usize, String)> {
        let (_, errors) = DeTable::parse_recoverable(text);
        let source = SourceText::new(Path::new("m.toml"), text);
        let faults = Syntax::new(&source, &errors).into_faults();
        faults.map(|(at, wrong)| (source.line(at.start), wrong.message)).collect()
    }

    #[test]
    fn a_line_has_one_error() {
        assert_eq!(errors("a = [1, 2\nb = 3\nc = 4\n").len(), 1);
        assert_eq!(errors("a = {b = 1 c = 2 d}\ne = 1").len(), 1);
    }

    #[test]
    fn errors_on_several_lines_are_all_there() {
        let lines: Vec<usize> =
            errors("a = x\nb = \"\nc = 1\nc = 2\n").into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 2, 4]);
    }

    #[test]
    fn a_duplicate_table_is_one_error() {
        assert_eq!(
            errors("[a.b]\nx = 1\n[a.b]\nx = 2\n[c]\nx = 1\nx = 2"),
            [(3, "`b` is given twice".to_owned()), (7, "`x` is given twice".to_owned())]
        );
    }

    #[test]
    fn a_table_is_not_reliable_after_an_error_in_it() {
        let text = "a = 1\n[x]\nb = 2\nc 3\nd = 4\n[y]\ne = 5\n";
        let (_, errors) = DeTable::parse_recoverable(text);
        let syntax = Syntax::new(&SourceText::new(Path::new("m.toml"), text), &errors);
        let whole = |key: &str| {
            let at = text.find(key).unwrap();
            syntax.is_reliable(text, &(at..at + 1))
        };
        assert!(whole("a =") && whole("b =") && whole("e ="));
        assert!(!whole("c ") && !whole("d ="));
    }
}
