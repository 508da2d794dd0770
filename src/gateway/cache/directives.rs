//! `Cache-Control`, read so that a value that is not valid never makes a response fresher (RFC 9111 §5.2).

use std::time::Duration;

use moorline_http::{FieldId, Head};

/// Largest number of seconds: RFC 9111 §1.2.2.
const MOST_SECONDS: u64 = 1 << 31;

/// Directives of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseDirectives {
    pub(super) no_store: bool,
    /// Also if it names fields.
    pub(super) no_cache: bool,
    /// Also if it names fields.
    pub(super) private: bool,
    pub(super) public: bool,
    /// `must-revalidate` or `proxy-revalidate`: a stale response is never used.
    pub(super) must_revalidate: bool,
    /// `s-maxage`: a stale response is used only if the backend allows it explicitly.
    pub(super) is_shared: bool,
    pub(super) must_understand: bool,
    /// `s-maxage`, else `max-age`. The shortest of several; zero if it is not valid.
    pub(super) lifetime: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
}

/// Directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestDirectives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
    /// How long a response may have been stale; [`Duration::MAX`] without a value.
    pub(super) max_stale: Option<Duration>,
}

impl ResponseDirectives {
    pub(super) fn of(head: &Head) -> Self {
        let mut directives = Self::default();
        let (mut max_age, mut shared) = (None, None);
        for line in head.all(FieldId::CacheControl) {
            each(line, |name, value| match name {
                b"no-store" => directives.no_store = true,
                b"no-cache" => directives.no_cache = true,
                b"private" => directives.private = true,
                b"public" => directives.public = true,
                b"must-revalidate" | b"proxy-revalidate" => directives.must_revalidate = true,
                b"must-understand" => directives.must_understand = true,
                b"max-age" => shorten(&mut max_age, value),
                b"s-maxage" => {
                    directives.is_shared = true;
                    shorten(&mut shared, value);
                }
                b"stale-while-revalidate" => shorten(&mut directives.stale_while_revalidate, value),
                b"stale-if-error" => shorten(&mut directives.stale_if_error, value),
                _ => {}
            });
        }
        directives.lifetime = shared.or(max_age);
        directives
    }
}

impl RequestDirectives {
    pub(super) fn of(head: &Head) -> Self {
        let mut directives = Self::default();
        for line in head.all(FieldId::CacheControl) {
            each(line, |name, value| match name {
                b"no-store" => directives.no_store = true,
                b"no-cache" => directives.no_cache = true,
                b"only-if-cached" => directives.only_if_cached = true,
                b"max-age" => shorten(&mut directives.max_age, value),
                // A wrong value asks for more freshness, not for less.
                b"min-fresh" => {
                    directives.min_fresh = Some(seconds(value).unwrap_or(Duration::MAX))
                }
                b"max-stale" if value.is_empty() => directives.max_stale = Some(Duration::MAX),
                b"max-stale" => shorten(&mut directives.max_stale, value),
                _ => {}
            });
        }
        if !head.has(FieldId::CacheControl) {
            directives.no_cache =
                head.named("pragma").any(|value| value.eq_ignore_ascii_case(b"no-cache"));
        }
        directives
    }
}

/// Uses the shortest of several durations; a value that is not valid is zero.
fn shorten(time: &mut Option<Duration>, value: &[u8]) {
    let new = seconds(value).unwrap_or_default();
    *time = Some(time.map_or(new, |old| old.min(new)));
}

/// A number of seconds, with digits only.
pub(super) fn seconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |total: u64, digit: &u8| {
        total.saturating_mul(10).saturating_add(u64::from(digit - b'0')).min(MOST_SECONDS)
    };
    Some(Duration::from_secs(value.iter().fold(0, add)))
}

/// Calls `use_directive` with the name in lower case and the value of each directive. A value in quotes comes without them.
fn each(line: &[u8], mut use_directive: impl FnMut(&[u8], &[u8])) {
    const LONGEST_NAME: usize = 32;
    let mut rest = line;
    while !rest.is_empty() {
        let (directive, after) = split_at_comma(rest);
        rest = after;
        let directive = directive.trim_ascii();
        let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
            Some(at) => (&directive[..at], &directive[at + 1..]),
            None => (directive, &b""[..]),
        };
        let mut lower = [0; LONGEST_NAME];
        let Some(lower) = lower.get_mut(..name.len()) else { continue };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        use_directive(lower, quoted.unwrap_or(value));
    }
}

/// Splits at the first comma outside of quotes.
fn split_at_comma(text: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, b"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::{request, response};

    fn of(value: &str) -> ResponseDirectives {
        let fields = value.split('|').map(|line| format!("Cache-Control: {line}\r\n"));
        let text = format!("HTTP/1.1 200 OK\r\n{}", fields.collect::<String>());
        ResponseDirectives::of(&response(&text).head)
    }

    fn lifetime(value: &str) -> Option<u64> {
        of(value).lifetime.map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn a_lifetime_is_the_shortest_valid_one() {
        for (value, expected) in [
            ("max-age=60", Some(60)),
            ("MAX-AGE=60", Some(60)),
            ("max-age=\"60\"", Some(60)),
            ("max-age=003600", Some(3600)),
            ("max-age=60, s-maxage=5", Some(5)),
            ("s-maxage=50|max-age=5", Some(50)),
            ("max-age=60|max-age=5", Some(5)),
            ("max-age=99999999999999999999", Some(1 << 31)),
            // Values that are not valid make a response stale.
            ("max-age=-1", Some(0)),
            ("max-age=1.5", Some(0)),
            ("max-age='60'", Some(0)),
            ("max-age", Some(0)),
            ("max-age=60 s", Some(0)),
            // Quoted texts have no directives.
            ("extension=\"max-age=60\"", None),
            ("extension=\"a, max-age=60, \\\", b\", max-age=1", Some(1)),
            ("", None),
            (",,,", None),
        ] {
            assert_eq!(lifetime(value), expected, "{value}");
        }
    }

    #[test]
    fn directives_with_field_names_count_in_full() {
        assert!(of("no-cache=\"Set-Cookie\"").no_cache);
        assert!(of("private=\"X-A, X-B\", max-age=5").private);
        assert!(of("nO-StOrE").no_store);
        assert!(of("s-maxage=5").is_shared && of("proxy-revalidate").must_revalidate);
        assert_eq!(
            of("stale-while-revalidate=7").stale_while_revalidate,
            Some(Duration::from_secs(7))
        );
    }

    #[test]
    fn a_request_asks_for_freshness() {
        let of = |fields: &str| {
            RequestDirectives::of(&request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}")).head)
        };
        assert!(of("Pragma: no-cache\r\n").no_cache);
        assert!(!of("Pragma: no-cache\r\nCache-Control: max-age=5\r\n").no_cache);
        let asked = of("Cache-Control: max-age=5, min-fresh=x, max-stale\r\n");
        assert_eq!(asked.max_age, Some(Duration::from_secs(5)));
        assert_eq!((asked.min_fresh, asked.max_stale), (Some(Duration::MAX), Some(Duration::MAX)));
    }
}
