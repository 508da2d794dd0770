//! Values of nginx's directives: times, sizes, addresses and patterns.

use std::{net::IpAddr, time::Duration};

/// Maximum number of prefixes for one regular expression.
const MOST_PREFIXES: usize = 16;

/// A time: `90`, `90s`, `1m 30s`, `500ms`.
pub(super) fn time(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
        total = total.checked_add(match &after[..letters] {
            "ms" => Duration::from_millis(number),
            "" | "s" => seconds(1)?,
            "m" => seconds(60)?,
            "h" => seconds(3_600)?,
            "d" => seconds(86_400)?,
            "w" => seconds(7 * 86_400)?,
            "M" => seconds(30 * 86_400)?,
            "y" => seconds(365 * 86_400)?,
            _ => return None,
        })?;
        rest = after[letters..].trim_start();
    }
    Some(total)
}

/// A size in bytes: `8k`, `1m`, `512`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, factor) = match text.to_ascii_lowercase() {
        text if text.ends_with('k') => (text.trim_end_matches('k').to_owned(), 1 << 10),
        text if text.ends_with('m') => (text.trim_end_matches('m').to_owned(), 1 << 20),
        text if text.ends_with('g') => (text.trim_end_matches('g').to_owned(), 1 << 30),
        text => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Address of a `listen` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenAddress {
    /// An IP address with its port, as Moorline writes it.
    Ip {
        /// The address, IPv6 in brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix,
    /// A name or a variable.
    Other,
}

/// The address of `listen`: `80`, `*:80`, `127.0.0.1`, `[::]:443`.
pub(super) fn listen(text: &str) -> ListenAddress {
    if text.starts_with("unix:") {
        return ListenAddress::Unix;
    }
    if let Ok(port) = text.parse::<u16>() {
        return ListenAddress::Ip { host: "0.0.0.0".to_owned(), port };
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(port) => (host, port),
            Err(_) => return ListenAddress::Other,
        },
        _ => (text, 80),
    };
    let host = match host {
        "*" => "0.0.0.0".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        host => host.to_owned(),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ListenAddress::Ip { host: ip.to_string(), port },
        Ok(IpAddr::V6(ip)) => ListenAddress::Ip { host: format!("[{ip}]"), port },
        Err(_) => ListenAddress::Other,
    }
}

/// The hosts of a server name in the form of a route's `host`; the inner `None` is every host. The
/// outer `None`: there is no such pattern.
pub(super) fn hosts(name: &str) -> Option<Vec<Option<String>>> {
    let plain = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
            && !text.starts_with('.')
            && !text.contains("..")
    };
    match name {
        "" | "_" => Some(vec![None]),
        name if name.starts_with('~') || name.contains('$') => None,
        name if plain(name) => Some(vec![Some(name.to_ascii_lowercase())]),
        name => {
            let (suffix, bare) = match (name.strip_prefix("*."), name.strip_prefix('.')) {
                (Some(suffix), _) => (suffix, false),
                (_, Some(suffix)) => (suffix, true),
                _ => return None,
            };
            if !plain(suffix) {
                return None;
            }
            let suffix = suffix.to_ascii_lowercase();
            let wildcard = Some(format!("*.{suffix}"));
            Some(if bare { vec![Some(suffix), wildcard] } else { vec![wildcard] })
        }
    }
}

/// The path prefixes that match the same paths as a regular expression: `^/socket\.io/`, `^/(api|ws)/.*`. `None`:
/// prefixes cannot express it.
pub(in super::super) fn regex_prefixes(regex: &str) -> Option<Vec<String>> {
    let mut rest = regex.strip_prefix('^')?;
    let mut prefixes = vec![String::new()];
    while let Some(char) = rest.chars().next() {
        let after = &rest[char.len_utf8()..];
        match char {
            '\\' => {
                let escaped = after.chars().next().filter(char::is_ascii_punctuation)?;
                prefixes.iter_mut().for_each(|prefix| prefix.push(escaped));
                rest = &after[escaped.len_utf8()..];
            }
            '(' => {
                let (inner, following) = after.split_once(')')?;
                // Everything below the prefix.
                if matches!(inner, ".*" | ".+") {
                    return ends(following).then_some(prefixes);
                }
                let inner = inner.strip_prefix("?:").unwrap_or(inner);
                let alternatives: Vec<String> =
                    inner.split('|').map(literal).collect::<Option<_>>()?;
                let longer = |prefix: &String| {
                    alternatives.iter().map(move |end| format!("{prefix}{end}")).collect::<Vec<_>>()
                };
                prefixes = prefixes.iter().flat_map(longer).collect();
                rest = following;
            }
            '.' if matches!(after, "*" | "*$" | "+" | "+$") => return Some(prefixes),
            '$' if after.is_empty() => return Some(prefixes),
            // The slash at the end that may be missing: a prefix covers both.
            '/' if matches!(after, "?$" | "?") => return Some(prefixes),
            char if char.is_ascii_alphanumeric() || "/-_~%".contains(char) => {
                prefixes.iter_mut().for_each(|prefix| prefix.push(char));
                rest = after;
            }
            _ => return None,
        }
        if prefixes.len() > MOST_PREFIXES || rest.starts_with(['?', '*', '+', '{']) {
            return None;
        }
    }
    let paths = prefixes.iter().all(|prefix| prefix.starts_with('/'));
    paths.then_some(prefixes)
}

/// Whether the rest of an expression matches everything below a prefix.
fn ends(regex: &str) -> bool {
    matches!(regex, "" | "$")
}

/// The text of an expression without operators.
fn literal(regex: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = regex.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.push(chars.next().filter(char::is_ascii_punctuation)?),
            char if char.is_ascii_alphanumeric() || "/-_~%".contains(char) => text.push(char),
            _ => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        for (text, seconds) in [("90", 90), ("1m30s", 90), ("1h 30m", 5_400), ("1d", 86_400)] {
            assert_eq!(time(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(time("500ms"), Some(Duration::from_millis(500)));
        for bad in ["", "x", "1x", "-1", "99999999999999999999", "$time"] {
            assert_eq!(time(bad), None, "{bad}");
        }
        assert_eq!((size("8k"), size("1M"), size("512")), (Some(8192), Some(1 << 20), Some(512)));
        assert_eq!((size("k"), size("")), (None, None));
    }

    #[test]
    fn listen_addresses_are_read() {
        let shown = |text: &str| match listen(text) {
            ListenAddress::Ip { host, port } => format!("{host}:{port}"),
            other => format!("{other:?}"),
        };
        for (text, address) in [
            ("80", "0.0.0.0:80"),
            ("*:8080", "0.0.0.0:8080"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("localhost:81", "127.0.0.1:81"),
            ("[::]:443", "[::]:443"),
            ("[::1]", "[::1]:80"),
            ("unix:/run/x.sock", "Unix"),
            ("example.com:80", "Other"),
            ("$port", "Other"),
        ] {
            assert_eq!(shown(text), address, "{text}");
        }
    }

    #[test]
    fn server_names_are_hosts() {
        let some = |names: &[&str]| Some(names.iter().map(|n| Some((*n).to_owned())).collect());
        assert_eq!(hosts("Chat.Example.com"), some(&["chat.example.com"]));
        assert_eq!(hosts(".example.com"), some(&["example.com", "*.example.com"]));
        assert_eq!(hosts("*.example.com"), some(&["*.example.com"]));
        assert_eq!((hosts("_"), hosts("")), (Some(vec![None]), Some(vec![None])));
        for bad in ["~^www", "www.example.*", "$host", "*"] {
            assert_eq!(hosts(bad), None, "{bad}");
        }
    }

    #[test]
    fn simple_regular_expressions_are_prefixes() {
        let prefixes = |regex: &str| regex_prefixes(regex).map(|prefixes| prefixes.join(" "));
        for (regex, expected) in [
            ("^/socket\\.io/", "/socket.io/"),
            ("^/socket\\.io/.*$", "/socket.io/"),
            ("^/(api|ws)/(.*)", "/api/ /ws/"),
            ("^/(?:live|chat)", "/live /chat"),
            ("^/cable/?$", "/cable"),
        ] {
            assert_eq!(prefixes(regex).as_deref(), Some(expected), "{regex}");
        }
        for regex in [
            "\\.php$",
            "/api/",
            "^/v[0-9]+/",
            "^/a?b",
            "^/(a|b.*)/",
            "^/a.b",
            "^(.*)$",
            "^/(a",
            "^/a{2}",
        ] {
            assert_eq!(prefixes(regex).filter(|found| found.starts_with('/')), None, "{regex}");
        }
    }
}
