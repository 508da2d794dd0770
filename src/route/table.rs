//! The hosts of all rules, most specific first.
//!
//! An exact name beats a wildcard, a longer wildcard suffix a shorter one, any wildcard beats the
//! rules for every host. Where the more specific host has no path that covers the request, the next
//! one is asked.

use std::{borrow::Cow, collections::HashMap};

use super::path::Prefixes;
use crate::config::HostPattern;

/// Longest DNS name in its text form (RFC 1035 §2.3.4, without the final dot). A longer host can be
/// no rule's, and is not worth a lookup per label.
const MAX_HOST: usize = 253;

/// Rules by host and path; `P` is what a rule leads to.
#[derive(Debug)]
pub struct Table<P> {
    exact: HashMap<Box<str>, Prefixes<P>>,
    /// By suffix without `*.`.
    wildcard: HashMap<Box<str>, Prefixes<P>>,
    any: Prefixes<P>,
}

impl<P> Table<P> {
    /// A table of these rules: host, path prefix, target. Of two rules with the same host and path
    /// the first stands.
    pub fn new(rules: impl IntoIterator<Item = (HostPattern, String, P)>) -> Self {
        let mut table =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), any: Prefixes::default() };
        for (host, path, target) in rules {
            let prefixes = match host {
                HostPattern::Any => &mut table.any,
                HostPattern::Exact(name) => table.exact.entry(normal(&name).into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    table.wildcard.entry(normal(&suffix).into()).or_default()
                }
            };
            prefixes.insert(&path, target);
        }
        table
    }

    /// The target of the most specific rule that covers this host and path.
    ///
    /// `host` comes without a port, in any case, with or without the final dot, and may be empty;
    /// `path` without a query, in normal form. Nothing is allocated where the host is in lower case.
    pub fn find(&self, host: &str, path: &str) -> Option<&P> {
        let host = normal(host);
        self.find_named(&host, path).or_else(|| self.any.find(path))
    }

    fn find_named(&self, host: &str, path: &str) -> Option<&P> {
        if host.is_empty() || host.len() > MAX_HOST {
            return None;
        }
        let exact = self.exact.get(host).and_then(|prefixes| prefixes.find(path));
        if exact.is_some() || self.wildcard.is_empty() {
            return exact;
        }
        // A dot at the very start has no label before it that the asterisk could stand for.
        host.match_indices('.')
            .filter(|&(dot, _)| dot > 0)
            .find_map(|(dot, _)| self.wildcard.get(&host[dot + 1..])?.find(path))
    }
}

/// Lower case, without the final dot.
fn normal(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use crate::config::HostPattern::{self, Any, Exact, Wildcard};

    fn exact(name: &str) -> HostPattern {
        Exact(name.to_owned())
    }

    fn wildcard(suffix: &str) -> HostPattern {
        Wildcard(suffix.to_owned())
    }

    fn table(rules: &[(HostPattern, &str)]) -> Table<usize> {
        Table::new(
            rules.iter().enumerate().map(|(i, (host, path))| (host.clone(), (*path).to_owned(), i)),
        )
    }

    #[test]
    fn exact_beats_wildcard_beats_any() {
        let table = table(&[
            (Any, "/"),
            (wildcard("example.com"), "/"),
            (wildcard("b.example.com"), "/"),
            (exact("a.b.example.com"), "/"),
        ]);
        assert_eq!(table.find("a.b.example.com", "/"), Some(&3));
        assert_eq!(table.find("c.b.example.com", "/"), Some(&2));
        assert_eq!(table.find("b.example.com", "/"), Some(&1));
        assert_eq!(table.find("x.y.example.com", "/"), Some(&1));
        assert_eq!(table.find("example.com", "/"), Some(&0));
        assert_eq!(table.find("notexample.com", "/"), Some(&0));
        assert_eq!(table.find("", "/"), Some(&0));
    }

    #[test]
    fn a_wildcard_wants_a_label() {
        let table = table(&[(wildcard("example.com"), "/")]);
        assert_eq!(table.find("a.example.com", "/"), Some(&0));
        assert_eq!(table.find("example.com", "/"), None);
        assert_eq!(table.find(".example.com", "/"), None);
        assert_eq!(table.find("com", "/"), None);
    }

    #[test]
    fn a_less_specific_host_serves_paths_the_specific_one_lacks() {
        let table = table(&[
            (exact("a.b.c"), "/x"),
            (wildcard("b.c"), "/y"),
            (wildcard("c"), "/z"),
            (Any, "/"),
        ]);
        assert_eq!(table.find("a.b.c", "/x/1"), Some(&0));
        assert_eq!(table.find("a.b.c", "/y/1"), Some(&1));
        assert_eq!(table.find("a.b.c", "/z/1"), Some(&2));
        assert_eq!(table.find("a.b.c", "/w"), Some(&3));
    }

    #[test]
    fn a_longer_path_of_a_less_specific_host_does_not_win() {
        let table = table(&[(exact("a.b"), "/"), (Any, "/long/path")]);
        assert_eq!(table.find("a.b", "/long/path"), Some(&0));
    }

    #[test]
    fn case_and_the_final_dot_make_no_difference() {
        let table = table(&[(exact("Chat.Example.com"), "/"), (wildcard("Example.org."), "/")]);
        for host in ["chat.example.com", "CHAT.example.COM", "chat.example.com."] {
            assert_eq!(table.find(host, "/"), Some(&0), "{host}");
        }
        assert_eq!(table.find("a.EXAMPLE.org.", "/"), Some(&1));
        assert_eq!(table.find("chat.example.com..", "/"), None);
    }

    #[test]
    fn an_impossible_host_meets_only_the_rules_for_every_host() {
        let table = table(&[(wildcard("a"), "/"), (Any, "/")]);
        let host = format!("{}a", "b.".repeat(4000));
        assert_eq!(table.find(&host, "/"), Some(&1));
        assert_eq!(table.find("[::1]", "/"), Some(&1));
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(table(&[]).find("a", "/"), None);
    }
}
