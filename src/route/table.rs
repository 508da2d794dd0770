//! Rules by host, most specific host first.
//!
//! An exact name precedes a wildcard, a longer wildcard suffix precedes a shorter one, and any wildcard precedes
//! the rules for all hosts. If the more specific host has no matching path, the next one is tried.

use std::{borrow::Cow, collections::HashMap};

use super::path::Prefixes;
use crate::config::HostPattern;

/// Maximum length of a DNS name in text form (RFC 1035 §2.3.4, without the final dot). Longer hosts match no
/// named rule, and skip the lookup per label.
const MAX_HOST: usize = 253;

/// Rules by host and path; `P` is the target type.
#[derive(Debug)]
pub struct HostTable<P> {
    exact: HashMap<Box<str>, Prefixes<P>>,
    /// Keyed by suffix without `*.`.
    wildcard: HashMap<Box<str>, Prefixes<P>>,
    any: Prefixes<P>,
}

impl<P> HostTable<P> {
    /// Builds a table from host, path prefix, whether the rule has conditions, and target. If two rules without conditions
    /// have the same host and path, the first applies.
    pub fn new(rules: impl IntoIterator<Item = (HostPattern, String, bool, P)>) -> Self {
        let mut table =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), any: Prefixes::default() };
        for (host, path, conditional, target) in rules {
            let prefixes = match host {
                HostPattern::Any => &mut table.any,
                HostPattern::Exact(name) => table.exact.entry(normal(&name).into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    table.wildcard.entry(normal(&suffix).into()).or_default()
                }
            };
            prefixes.insert(&path, conditional, target);
        }
        table
    }

    /// Returns the target of the most specific rule for this host and path. Rules with conditions count if their target
    /// meets `meets`.
    ///
    /// `host` has no port; case and final dot are ignored, and it may be empty. `path` has no query and is in normal
    /// form. Nothing is allocated if the host is in lower case.
    pub fn find(&self, host: &str, path: &str, meets: &impl Fn(&P) -> bool) -> Option<&P> {
        let host = normal(host);
        self.find_named(&host, path, meets).or_else(|| self.any.find(path, meets))
    }

    fn find_named(&self, host: &str, path: &str, meets: &impl Fn(&P) -> bool) -> Option<&P> {
        if host.is_empty() || host.len() > MAX_HOST {
            return None;
        }
        let exact = self.exact.get(host).and_then(|prefixes| prefixes.find(path, meets));
        if exact.is_some() || self.wildcard.is_empty() {
            return exact;
        }
        // A leading dot has no label before it for the asterisk to match.
        host.match_indices('.')
            .filter(|&(dot, _)| dot > 0)
            .find_map(|(dot, _)| self.wildcard.get(&host[dot + 1..])?.find(path, meets))
    }
}

/// Returns the host in lower case without the final dot.
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
    use super::HostTable;
    use crate::config::HostPattern::{self, Any, Exact, Wildcard};

    fn exact(name: &str) -> HostPattern {
        Exact(name.to_owned())
    }

    fn wildcard(suffix: &str) -> HostPattern {
        Wildcard(suffix.to_owned())
    }

    fn table(rules: &[(HostPattern, &str)]) -> HostTable<usize> {
        HostTable::new(
            rules
                .iter()
                .enumerate()
                .map(|(i, (host, path))| (host.clone(), (*path).to_owned(), false, i)),
        )
    }

    #[test]
    fn exact_host_precedes_wildcard_precedes_any() {
        let table = table(&[
            (Any, "/"),
            (wildcard("example.com"), "/"),
            (wildcard("b.example.com"), "/"),
            (exact("a.b.example.com"), "/"),
        ]);
        assert_eq!(table.find("a.b.example.com", "/", &|_| true), Some(&3));
        assert_eq!(table.find("c.b.example.com", "/", &|_| true), Some(&2));
        assert_eq!(table.find("b.example.com", "/", &|_| true), Some(&1));
        assert_eq!(table.find("x.y.example.com", "/", &|_| true), Some(&1));
        assert_eq!(table.find("example.com", "/", &|_| true), Some(&0));
        assert_eq!(table.find("notexample.com", "/", &|_| true), Some(&0));
        assert_eq!(table.find("", "/", &|_| true), Some(&0));
    }

    #[test]
    fn wildcard_needs_a_label() {
        let table = table(&[(wildcard("example.com"), "/")]);
        assert_eq!(table.find("a.example.com", "/", &|_| true), Some(&0));
        assert_eq!(table.find("example.com", "/", &|_| true), None);
        assert_eq!(table.find(".example.com", "/", &|_| true), None);
        assert_eq!(table.find("com", "/", &|_| true), None);
    }

    #[test]
    fn less_specific_host_serves_paths_that_the_specific_one_lacks() {
        let table = table(&[
            (exact("a.b.c"), "/x"),
            (wildcard("b.c"), "/y"),
            (wildcard("c"), "/z"),
            (Any, "/"),
        ]);
        assert_eq!(table.find("a.b.c", "/x/1", &|_| true), Some(&0));
        assert_eq!(table.find("a.b.c", "/y/1", &|_| true), Some(&1));
        assert_eq!(table.find("a.b.c", "/z/1", &|_| true), Some(&2));
        assert_eq!(table.find("a.b.c", "/w", &|_| true), Some(&3));
    }

    #[test]
    fn longer_path_of_a_less_specific_host_does_not_win() {
        let table = table(&[(exact("a.b"), "/"), (Any, "/long/path")]);
        assert_eq!(table.find("a.b", "/long/path", &|_| true), Some(&0));
    }

    #[test]
    fn case_and_final_dot_are_ignored() {
        let table = table(&[(exact("Chat.Example.com"), "/"), (wildcard("Example.org."), "/")]);
        for host in ["chat.example.com", "CHAT.example.COM", "chat.example.com."] {
            assert_eq!(table.find(host, "/", &|_| true), Some(&0), "{host}");
        }
        assert_eq!(table.find("a.EXAMPLE.org.", "/", &|_| true), Some(&1));
        assert_eq!(table.find("chat.example.com..", "/", &|_| true), None);
    }

    #[test]
    fn overlong_host_matches_only_rules_for_all_hosts() {
        let table = table(&[(wildcard("a"), "/"), (Any, "/")]);
        let host = format!("{}a", "b.".repeat(4000));
        assert_eq!(table.find(&host, "/", &|_| true), Some(&1));
        assert_eq!(table.find("[::1]", "/", &|_| true), Some(&1));
    }

    #[test]
    fn less_specific_host_serves_requests_that_miss_the_conditions() {
        let rules = [(exact("a.b"), true, 0), (wildcard("b"), true, 1), (Any, false, 2)];
        let table = HostTable::new(
            rules.map(|(host, conditional, target)| (host, "/".to_owned(), conditional, target)),
        );
        for met in 0..=2 {
            assert_eq!(table.find("a.b", "/", &|target| *target >= met), Some(&met));
        }
    }

    #[test]
    fn empty_table_matches_nothing() {
        assert_eq!(table(&[]).find("a", "/", &|_| true), None);
    }
}
