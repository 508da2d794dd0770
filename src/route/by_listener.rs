//! Rules per listener.
//!
//! A rule applies to all listeners or to some. Each listener named in a rule gets its own table, which includes
//! the rules for all listeners. If no rule names a listener, there is a single table.

use std::{collections::HashMap, ptr};

use super::HostTable;
use crate::config::{HostPattern, path};

/// A rule: its conditions and its target.
#[derive(Clone, Debug)]
pub struct RouteRule<P> {
    /// Listeners that the rule applies to; empty for all.
    pub listeners: Vec<String>,
    /// Hosts that match.
    pub host: HostPattern,
    /// Path prefix.
    pub path: String,
    /// Whether the target has conditions beyond host and path.
    pub conditional: bool,
    /// Target of matching requests.
    pub target: P,
}

/// Rules by listener, host and path.
#[derive(Debug)]
pub struct Routes<P> {
    /// The table of listeners that no rule names.
    every: HostTable<P>,
    own: HashMap<Box<str>, HostTable<P>>,
    /// Rules that name listeners, without regard to which ones.
    some: HostTable<P>,
}

/// Why no rule matches a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMatch {
    /// No rule matches.
    NoRule,
    /// A rule matches, but for another listener.
    OtherListener,
    /// Backends may interpret the path in two ways that match different rules.
    Ambiguous,
}

impl<P: Clone> Routes<P> {
    /// Builds the tables. Of several rules without conditions that have the same host and path, the first one applies.
    pub fn new(rules: &[RouteRule<P>]) -> Self {
        let table = |holds: &dyn Fn(&RouteRule<P>) -> bool| {
            let rules = rules.iter().filter(|rule| holds(rule)).cloned();
            HostTable::new(rules.map(|rule| (rule.host, rule.path, rule.conditional, rule.target)))
        };
        let for_every = |rule: &RouteRule<P>| rule.listeners.is_empty();
        let named = rules.iter().flat_map(|rule| &rule.listeners);
        let own = named.map(|name| {
            let holds = |rule: &RouteRule<P>| for_every(rule) || rule.listeners.contains(name);
            (name.as_str().into(), table(&holds))
        });
        Self { every: table(&for_every), own: own.collect(), some: table(&|rule| !for_every(rule)) }
    }
}

impl<P> Routes<P> {
    /// Returns the target of the most specific rule for this host and path on this listener. `path` is taken
    /// unchanged from the request; `meets` gets the path as it is read. The rest is as for [`HostTable::find`].
    ///
    /// # Errors
    /// No rule matches, or different rules match depending on how a backend interprets the path.
    pub fn find(
        &self,
        listener: &str,
        host: &str,
        path: &str,
        meets: &impl Fn(&P, &str) -> bool,
    ) -> Result<&P, NoMatch> {
        let table = self.own.get(listener).unwrap_or(&self.every);
        let path = path::normal(path);
        let find = |path: &str| table.find(host, path, &|target| meets(target, path));
        let found = find(&path);
        if let Some(other) = path::second_reading(&path)
            && find(&other).map(ptr::from_ref) != found.map(ptr::from_ref)
        {
            return Err(NoMatch::Ambiguous);
        }
        found.ok_or_else(|| match self.some.find(host, &path, &|target| meets(target, &path)) {
            Some(_) => NoMatch::OtherListener,
            None => NoMatch::NoRule,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(target: usize, listeners: &[&str], host: &str, path: &str) -> RouteRule<usize> {
        let host = match host {
            "" => HostPattern::Any,
            host => HostPattern::Exact(host.to_owned()),
        };
        let listeners = listeners.iter().map(|name| (*name).to_owned()).collect();
        RouteRule { listeners, host, path: path.to_owned(), conditional: false, target }
    }

    #[test]
    fn rules_for_some_listeners_do_not_apply_to_others() {
        let routes = Routes::new(&[
            rule(0, &[], "a", "/"),
            rule(1, &["in", "both"], "a", "/admin"),
            rule(2, &["out"], "a", "/admin"),
            rule(3, &["in"], "b", "/"),
        ]);
        assert_eq!(routes.find("in", "a", "/admin/x", &|_, _| true), Ok(&1));
        assert_eq!(routes.find("both", "a", "/admin", &|_, _| true), Ok(&1));
        assert_eq!(routes.find("out", "a", "/admin", &|_, _| true), Ok(&2));
        assert_eq!(
            routes.find("other", "a", "/admin", &|_, _| true),
            Ok(&0),
            "the next matching rule"
        );
        assert_eq!(routes.find("in", "b", "/", &|_, _| true), Ok(&3));
        for other in ["both", "out", "other", ""] {
            assert_eq!(
                routes.find(other, "b", "/", &|_, _| true),
                Err(NoMatch::OtherListener),
                "{other}"
            );
            assert_eq!(routes.find(other, "c", "/", &|_, _| true), Err(NoMatch::NoRule), "{other}");
        }
    }
}
