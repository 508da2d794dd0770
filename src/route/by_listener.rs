//! The rules that each listener's requests may follow.
//!
//! Rules are for every listener, or for some: those have a table of their own each, with the rules for
//! every one in it. Where no rule is for some, there is one table and nothing else to look at.

use std::{collections::HashMap, ptr};

use super::Table;
use crate::config::{HostPattern, path};

/// One rule: where it holds and what it leads to.
#[derive(Clone, Debug)]
pub struct Rule<P> {
    /// Listeners whose requests follow it; empty: every one's.
    pub listeners: Vec<String>,
    /// Hosts that it covers.
    pub host: HostPattern,
    /// Path prefix.
    pub path: String,
    /// What it leads to.
    pub target: P,
}

/// Rules by listener, host and path.
#[derive(Debug)]
pub struct Routes<P> {
    /// Of listeners that have none of their own.
    every: Table<P>,
    own: HashMap<Box<str>, Table<P>>,
    /// Rules for some listeners, whichever.
    some: Table<P>,
}

/// Why no rule covers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncovered {
    /// None does.
    Nowhere,
    /// One does for requests that come over another listener.
    Elsewhere,
    /// Backends may read the path in two ways that different rules cover.
    Ambiguous,
}

impl<P: Clone> Routes<P> {
    /// Routes by these rules. Of two for a listener with the same host and path the first stands.
    pub fn new(rules: &[Rule<P>]) -> Self {
        let table = |holds: &dyn Fn(&Rule<P>) -> bool| {
            let rules = rules.iter().filter(|rule| holds(rule)).cloned();
            Table::new(rules.map(|rule| (rule.host, rule.path, rule.target)))
        };
        let for_every = |rule: &Rule<P>| rule.listeners.is_empty();
        let named = rules.iter().flat_map(|rule| &rule.listeners);
        let own = named.map(|name| {
            let holds = |rule: &Rule<P>| for_every(rule) || rule.listeners.contains(name);
            (name.as_str().into(), table(&holds))
        });
        Self { every: table(&for_every), own: own.collect(), some: table(&|rule| !for_every(rule)) }
    }
}

impl<P> Routes<P> {
    /// The target of the most specific rule that covers this host and path on this listener; `path` as it
    /// came, the rest as for [`Table::find`].
    ///
    /// # Errors
    /// None does there, or not the same one for each way in which a backend may read the path.
    pub fn find(&self, listener: &str, host: &str, path: &str) -> Result<&P, Uncovered> {
        let table = self.own.get(listener).unwrap_or(&self.every);
        let path = path::normal(path);
        let found = table.find(host, &path);
        if let Some(other) = path::second_reading(&path)
            && table.find(host, &other).map(ptr::from_ref) != found.map(ptr::from_ref)
        {
            return Err(Uncovered::Ambiguous);
        }
        found.ok_or_else(|| match self.some.find(host, &path) {
            Some(_) => Uncovered::Elsewhere,
            None => Uncovered::Nowhere,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(target: usize, listeners: &[&str], host: &str, path: &str) -> Rule<usize> {
        let host = match host {
            "" => HostPattern::Any,
            host => HostPattern::Exact(host.to_owned()),
        };
        let listeners = listeners.iter().map(|name| (*name).to_owned()).collect();
        Rule { listeners, host, path: path.to_owned(), target }
    }

    #[test]
    fn a_rule_for_some_listeners_is_not_there_for_others() {
        let routes = Routes::new(&[
            rule(0, &[], "a", "/"),
            rule(1, &["in", "both"], "a", "/admin"),
            rule(2, &["out"], "a", "/admin"),
            rule(3, &["in"], "b", "/"),
        ]);
        assert_eq!(routes.find("in", "a", "/admin/x"), Ok(&1));
        assert_eq!(routes.find("both", "a", "/admin"), Ok(&1));
        assert_eq!(routes.find("out", "a", "/admin"), Ok(&2));
        assert_eq!(routes.find("other", "a", "/admin"), Ok(&0), "the next that covers it");
        assert_eq!(routes.find("in", "b", "/"), Ok(&3));
        for other in ["both", "out", "other", ""] {
            assert_eq!(routes.find(other, "b", "/"), Err(Uncovered::Elsewhere), "{other}");
            assert_eq!(routes.find(other, "c", "/"), Err(Uncovered::Nowhere), "{other}");
        }
    }
}
