//! Formats numbers for people, always with units after a space.

use std::time::Duration;

/// `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 error`, `12 errors`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Three significant digits: `0.25`, `8.1`, `12.3`, `812`, `8,123`.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => count(value.abs().round() as u64),
        size if size >= 9.995 => trimmed(format!("{value:.1}")),
        _ => trimmed(format!("{value:.2}")),
    }
}

/// `850 µs`, `1.24 ms`, `12.4 ms`, `1.5 s`, `2 min 5 s`.
pub(super) fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..999_500 => format!("{} ms", number(micros as f64 / 1e3)),
        999_500..60_000_000 => format!("{} s", number(micros as f64 / 1e6)),
        _ => minutes(micros.saturating_add(500_000) / 1_000_000),
    }
}

/// Like [`micros`].
pub(super) fn time(duration: Duration) -> String {
    micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// `64 B`, `4 KiB`, `12.3 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1000.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", number(size))
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Makes text from a server safe for terminals and pages: replaces control characters and limits the length.
pub(super) fn sanitized(text: &str) -> String {
    const MAX_LENGTH: usize = 300;
    let visible = |character: char| if character.is_control() { ' ' } else { character };
    let mut sanitized: String = text.chars().map(visible).take(MAX_LENGTH).collect();
    if text.chars().nth(MAX_LENGTH).is_some() {
        sanitized.push('…');
    }
    sanitized
}

fn minutes(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{} h", count(hours)),
        (hours, minutes, _) => format!("{} h {minutes} min", count(hours)),
    }
}

fn trimmed(number: String) -> String {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_significant_digits() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "error", "errors"), "1 error");
        assert_eq!(counted(1_200, "error", "errors"), "1,200 errors");
        assert_eq!(number(0.0), "0");
        assert_eq!(number(0.256), "0.26");
        assert_eq!(number(8.10), "8.1");
        assert_eq!(number(99.96), "100");
        assert_eq!(number(8123.4), "8,123");
    }

    #[test]
    fn times_change_their_unit_when_rounded() {
        assert_eq!(micros(999), "999 µs");
        assert_eq!(micros(1_240), "1.24 ms");
        assert_eq!(micros(81_000), "81 ms");
        assert_eq!(micros(999_499), "999 ms");
        assert_eq!(micros(999_500), "1 s");
        assert_eq!(micros(59_999_999), "60 s");
        assert_eq!(micros(60_000_000), "1 min");
        assert_eq!(micros(125_000_000), "2 min 5 s");
        assert_eq!(micros(3_600_000_000), "1 h");
        assert_eq!(micros(u64::MAX).split(' ').nth(1), Some("h"));
        assert_eq!(time(Duration::from_millis(1500)), "1.5 s");
    }

    #[test]
    fn text_from_servers_has_no_control_characters_and_a_limit() {
        assert_eq!(sanitized("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(sanitized(&"é".repeat(300)), "é".repeat(300));
        assert_eq!(sanitized(&"é".repeat(301)), format!("{}…", "é".repeat(300)));
    }

    #[test]
    fn sizes_and_lists_are_formatted() {
        assert_eq!(bytes(64), "64 B");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(12_897_485), "12.3 MiB");
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
