//! The `Date` field, formatted once a second in each thread.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime},
};

use super::buffer::Buffer;

/// How long a formatted date is used.
const LIFETIME: Duration = Duration::from_millis(500);

thread_local! {
    static LINE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
}

/// Writes the line of the current date (RFC 9110 §6.6.1).
pub(crate) fn write(out: &mut Buffer) {
    let now = Instant::now();
    LINE.with_borrow_mut(|line| {
        let fresh = line.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < LIFETIME);
        if fresh.is_none() {
            *line =
                Some((now, format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()))));
        }
        if let Some((_, text)) = line {
            out.push(text.as_bytes());
        }
    });
}
