//! The normal form of paths, in which they are compared.
//!
//! One resource has many spellings, which backends undo: `/%6detrics`, `//metrics`. A rule about
//! `/metrics` that compares text would not cover them. Paths are therefore compared in a normal form, and
//! forwarded unchanged.

use std::borrow::Cow;

use super::fault::{InvalidValue, quoted};

/// The normal form of a path: escapes of characters that a path may contain are decoded, other
/// characters are escaped in upper case, slashes are merged. `%2F` is not `/`. A `%` without two hex
/// digits stands for itself. Dot segments stay: requests with one are rejected.
///
/// Allocates only if the path is in another form.
pub fn normal(path: &str) -> Cow<'_, str> {
    let mut before = 0;
    let is_normal = path.bytes().all(|byte| {
        let merged = !(byte == b'/' && before == b'/');
        before = byte;
        merged && is_plain(byte)
    });
    if is_normal { Cow::Borrowed(path) } else { Cow::Owned(normalized(path.as_bytes())) }
}

fn normalized(mut rest: &[u8]) -> String {
    let mut out = String::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        let (byte, escaped, after) = match rest {
            [b'%', high, low, after @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, true, after),
                _ => (*first, false, &rest[1..]),
            },
            _ => (*first, false, after),
        };
        rest = after;
        match byte {
            b'/' if !escaped => {
                if !out.ends_with('/') {
                    out.push('/');
                }
            }
            byte if byte != b'/' && is_plain(byte) => out.push(char::from(byte)),
            byte => escape(byte, &mut out),
        }
    }
    out
}

/// The path that some backends read instead of this normal form: `%2F` as a slash, and segments
/// without the part after a semicolon. `None`: they read the same path.
pub fn second_reading(normal: &str) -> Option<String> {
    if !normal.contains("%2F") && !normal.contains(';') {
        return None;
    }
    let decoded = normal.replace("%2F", "/");
    let bare = decoded.split('/').map(|segment| segment.split(';').next().unwrap_or(segment));
    let joined = bare.collect::<Vec<_>>().join("/");
    Some(normalized(joined.as_bytes()))
}

/// Checks the path prefix of a rule: it has no query, and requests can match it.
pub(crate) fn prefix(typed: &str) -> Result<(), InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid path {}", quoted(typed)));
    if !typed.starts_with('/') {
        if typed.starts_with(['~', '^', '=']) {
            return Err(wrong().help(
                "regular expressions and modifiers are not supported: write a path prefix, for example \"/api\"",
            ));
        }
        return Err(wrong().help(format!("a path starts with a slash: \"/{typed}\"")));
    }
    if typed.contains(['?', '#']) {
        return Err(wrong().help("routes match the path only: remove the query"));
    }
    if typed.contains('*') {
        return Err(wrong().help("remove the `*`: a path also matches everything below it"));
    }
    if typed.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(wrong().help("write other characters percent-encoded, as in a request"));
    }
    let normal = normal(typed);
    if has_broken_escape(typed) {
        return Err(wrong().help("write `%` and two hex digits, or `%25` for a percent sign"));
    }
    if normal.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(
            wrong().help("no request matches a dot segment: write the path that it leads to")
        );
    }
    if normal.contains(['\\', ';']) || normal.contains("%2F") || normal.contains("%00") {
        return Err(wrong().help("a route's path cannot contain `%2F`, `%00`, `\\` or `;`"));
    }
    Ok(())
}

fn has_broken_escape(typed: &str) -> bool {
    typed.split('%').skip(1).any(|after| {
        let mut digits = after.bytes();
        !(digits.next().and_then(hex).is_some() && digits.next().and_then(hex).is_some())
    })
}

/// Whether a character is not escaped in the normal form: `pchar` of RFC 3986 §3.3 and the slash. No
/// request has a backslash; it stays for messages about rules.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@\\".contains(&byte)
}

fn escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_a_resource_have_one_form() {
        for (path, form) in [
            ("/metrics", "/metrics"),
            ("/%6detrics", "/metrics"),
            ("/%6Detrics", "/metrics"),
            ("//metrics///x/", "/metrics/x/"),
            ("/%40a%3ab", "/@a:b"),
            ("/a%2fb", "/a%2Fb"),
            ("/%2f/a", "/%2F/a"),
            ("/%c3%bc", "/%C3%BC"),
            ("/ü", "/%C3%BC"),
            ("/{a}|\"", "/%7Ba%7D%7C%22"),
            ("/%7ba%7D", "/%7Ba%7D"),
            ("/%256d", "/%256d"),
            ("/%2%35", "/%2525"),
            ("/%", "/%25"),
            ("/%6", "/%256"),
            ("/%zz", "/%25zz"),
            ("/a%3Fb%23", "/a%3Fb%23"),
            ("*", "*"),
        ] {
            assert_eq!(normal(path), form, "{path}");
        }
        assert!(matches!(normal("/socket.io/"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_second_reading_is_found() {
        for (path, form) in
            [("/a%2Fb", "/a/b"), ("/%2Fa", "/a"), ("/a;x=1/b", "/a/b"), ("/a%252Fb", "/a%252Fb")]
        {
            let read = second_reading(path);
            assert_eq!(read.as_deref().unwrap_or(path), form, "{path}");
        }
        assert_eq!(second_reading("/a/b"), None);
    }

    #[test]
    fn prefixes_are_paths_that_requests_can_have() {
        for good in ["/", "/chat/", "/%C3%BC", "//a", "/%6d", "/.well-known", "/a%25"] {
            assert!(prefix(good).is_ok(), "{good}");
        }
        for bad in [
            "", "chat", "/a?b", "/a#b", "/a b", "/ü", "/a/*", "/a/../b", "/%2e", "/a%2fb", "/a;b",
            "/a\\b", "/%5c", "/%00", "/%", "/%zz", "/a%2",
        ] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_stable(path in "/[a-c/%2fF6dü;.]{0,12}") {
            let form = normal(&path).into_owned();
            let again = normal(&form);
            prop_assert_eq!(again.as_ref(), form.as_str());
        }

        #[test]
        fn escaping_changes_nothing(path in "/[a-z0-9._~-]{0,8}", escaped in prop::collection::vec(any::<bool>(), 9)) {
            let other: String = path
                .bytes()
                .zip(escaped)
                .map(|(byte, escaped)| match escaped && byte != b'/' {
                    true => format!("%{byte:02x}"),
                    false => char::from(byte).to_string(),
                })
                .collect();
            prop_assert_eq!(normal(&other), normal(&path));
        }
    }
}
