//! Selection of rows by words of their titles.

/// Whether `--only` includes a row with this group and title. The selections are separated by commas; each is a
/// list of words that must all be in the group's title or in the row's. Upper and lower case are equal, and a
/// number has no thousands separator: `http tls, idle tls 8000`.
pub(crate) fn includes(only: Option<&str>, group: &str, title: &str) -> bool {
    let Some(only) = only else { return true };
    let text = without_separators(&format!("{group} {title}").to_lowercase());
    only.to_lowercase().split(',').any(|selection| {
        let mut words = selection.split_whitespace().peekable();
        words.peek().is_some() && words.all(|word| text.contains(word))
    })
}

/// Without the commas between digits.
fn without_separators(text: &str) -> String {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut rest = text.chars().peekable();
    let mut last = None;
    let mut kept = String::new();
    while let Some(c) = rest.next() {
        if !(c == ',' && is_digit(last) && is_digit(rest.peek().copied())) {
            kept.push(c);
        }
        last = Some(c);
    }
    kept
}
