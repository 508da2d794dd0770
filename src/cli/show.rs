//! Output of the subcommands, made safe for a terminal.
//!
//! Names and messages come from a server, and some of them from its users. They must not control the
//! terminal that shows them.

mod paint;
mod table;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

pub(super) use self::{
    paint::{Color, paint},
    table::{Cell, Column, Table},
};
use crate::api::DrainState;

/// Prints to standard output. A closed pipe is not an error.
pub(super) fn print(text: &str) {
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    let _ = write!(io::stdout(), "{text}{end}");
}

/// Prints JSON from the server on one line. Control characters in strings are escaped; outside strings
/// JSON has only whitespace.
pub(super) fn print_json(json: &str) {
    let mut text = String::with_capacity(json.len());
    for c in json.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => text.push(' '),
            c if is_unsafe(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
            c => text.push(c),
        }
    }
    print(&text);
}

/// Escapes characters that control a terminal, including line breaks.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Escapes characters that control a terminal, but keeps line breaks.
pub(super) fn escaped_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| plain(&line.replace('\t', "    "))).collect();
    lines.join("\n")
}

/// Whether a character is a control character, a line or paragraph separator, or changes the text
/// direction.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Formats a duration in its two largest units.
pub(super) fn seconds(seconds: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    if !seconds.is_finite() || seconds < 0.0 {
        return "0s".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0}ms", seconds * 1000.0);
    }
    // Rounded up: less than a second left is not yet 0.
    let whole = seconds.ceil() as u64;
    let first = UNITS.iter().position(|(size, _)| whole >= *size).unwrap_or(UNITS.len() - 1);
    let (size, unit) = UNITS[first];
    let mut text = format!("{}{unit}", whole / size);
    if let Some((smaller, unit)) = UNITS.get(first + 1) {
        let rest = whole % size / smaller;
        if rest > 0 {
            let _ = write!(text, " {rest}{unit}");
        }
    }
    text
}

/// Current Unix time, in seconds.
pub(super) fn unix_now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// Formats a count with a noun.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Formats the number of sessions, with the numbers of tunnels and polling sessions.
pub(super) fn sessions(sessions: u64, tunnels: u64) -> String {
    let polling = sessions.saturating_sub(tunnels);
    let all = counted(sessions, "session");
    match (tunnels, polling) {
        (0, 0) => all,
        (0, _) => format!("{all} ({polling} polling)"),
        (_, 0) => format!("{all} ({})", counted(tunnels, "tunnel")),
        (_, _) => format!("{all} ({}, {polling} polling)", counted(tunnels, "tunnel")),
    }
}

/// Formats the progress of a drain.
pub(super) fn drain(state: &DrainState) -> String {
    let (tunnels, left) = (state.sockets_left, state.sessions_left);
    if tunnels == 0 && left == 0 {
        return "empty".to_owned();
    }
    let mut text = format!("{} left", sessions(left, tunnels));
    match (state.seconds_left, state.seconds_to_closes) {
        (None, _) => text.push_str(", no deadline"),
        (Some(left), Some(closes)) if closes > 0.0 => {
            let (closes, left) = (seconds(closes), seconds(left));
            let _ = write!(text, ", closes begin in {closes}, deadline in {left}");
        }
        (Some(left), _) => {
            let _ = write!(text, ", deadline in {}", seconds(left));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_their_two_largest_units() {
        let cases = [
            (0.0, "0ms"),
            (0.25, "250ms"),
            (0.9999, "1s"),
            (1.2, "2s"),
            (59.0, "59s"),
            (60.0, "1m"),
            (125.0, "2m 5s"),
            (3_600.0, "1h"),
            (7_500.0, "2h 5m"),
            (7_201.0, "2h"),
            (90_000.0, "1d 1h"),
            (f64::NAN, "0s"),
            (-1.0, "0s"),
        ];
        for (given, expected) in cases {
            assert_eq!(seconds(given), expected, "{given}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        let unsafe_text = "a\x1b[2J\u{9b}31m\r\n\u{202e}b\u{2028}ä漢";
        assert_eq!(plain(unsafe_text), "a\\u{1b}[2J\\u{9b}31m\\r\\n\\u{202e}b\\u{2028}ä漢");
        assert_eq!(escaped_lines("a\tb\r\n\x1b"), "a    b\n\\u{1b}");
    }

    #[test]
    fn sessions_with_a_tunnel_are_counted_once() {
        assert_eq!(sessions(4, 2), "4 sessions (2 tunnels, 2 polling)");
        assert_eq!(sessions(1, 1), "1 session (1 tunnel)");
        assert_eq!(sessions(3, 0), "3 sessions (3 polling)");
        assert_eq!(sessions(0, 0), "0 sessions");
    }

    #[test]
    fn drains_show_remaining_sessions_and_deadlines() {
        let state = DrainState {
            since: 0.0,
            seconds_left: Some(300.0),
            seconds_to_closes: Some(150.0),
            sockets_left: 1,
            sessions_left: 2,
        };
        let left = "2 sessions (1 tunnel, 1 polling) left";
        assert_eq!(drain(&state), format!("{left}, closes begin in 2m 30s, deadline in 5m"));
        let state = DrainState { seconds_to_closes: Some(0.0), ..state };
        assert_eq!(drain(&state), format!("{left}, deadline in 5m"));
        let state = DrainState { seconds_left: None, ..state };
        assert_eq!(drain(&state), format!("{left}, no deadline"));
        let state = DrainState { sockets_left: 0, sessions_left: 0, ..state };
        assert_eq!(drain(&state), "empty");
    }
}
