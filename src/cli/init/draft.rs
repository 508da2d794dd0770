//! A draft of the configuration: tables with TOML values.

mod conditions;
mod headers;
mod text;

use std::{collections::BTreeMap, time::Duration};

pub(super) use self::{
    conditions::MatchDraft,
    headers::{HeaderDrafts, is_editable},
    text::{array, duration, header_size, quoted, size},
};

/// A configuration to be written.
#[derive(Debug, Default)]
pub(super) struct ConfigDraft {
    /// Keys outside tables.
    pub(super) top: SettingDrafts,
    /// Proxies in front that are trusted.
    pub(super) trusted_proxies: Vec<String>,
    /// Listeners, in the order of the original.
    pub(super) listeners: Vec<ListenerDraft>,
    /// Routes, in the order of the original.
    pub(super) routes: Vec<RouteDraft>,
    /// Pools, in the order of their first use.
    pub(super) pools: Vec<PoolDraft>,
}

/// Keys of one table with TOML values, in the order in which they were first set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SettingDrafts(Vec<(String, String)>);

/// A table `[listeners.NAME]`.
#[derive(Clone, Debug, Default)]
pub(super) struct ListenerDraft {
    /// Unique name.
    pub(super) name: String,
    /// Positions in the original.
    pub(super) origin: String,
    /// Addresses with ports.
    pub(super) bind: Vec<String>,
    /// Value of `protocol`.
    pub(super) protocol: &'static str,
    /// Chains and keys, the default first.
    pub(super) certificates: Vec<CertificateDraft>,
    /// Other keys.
    pub(super) settings: SettingDrafts,
    /// Server names that are passed on undecrypted, with their pools.
    pub(super) passthrough: Vec<(String, String)>,
}

/// Files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateDraft {
    /// PEM file of the chain.
    pub(super) cert: String,
    /// PEM file of the key.
    pub(super) key: String,
    /// File of an OCSP response.
    pub(super) ocsp: Option<String>,
}

/// A table `[[routes]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteDraft {
    /// Position in the original.
    pub(super) origin: String,
    /// Host or wildcard; `None`: every host.
    pub(super) host: Option<String>,
    /// Path prefix.
    pub(super) path: String,
    /// Conditions beyond host and path.
    pub(super) conditions: MatchDraft,
    /// What answers the requests.
    pub(super) target: TargetDraft,
    /// Names of the listeners; empty: all.
    pub(super) listeners: Vec<String>,
    /// Other keys.
    pub(super) settings: SettingDrafts,
}

/// What answers the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetDraft {
    /// The pool of this name.
    Pool(String),
    /// The TOML value of a key such as `redirect`.
    Value(&'static str, String),
}

/// A table `[pools.NAME]`.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolDraft {
    /// Unique name.
    pub(super) name: String,
    /// Position in the original.
    pub(super) origin: String,
    /// Servers; empty with `source`.
    pub(super) backends: Vec<BackendDraft>,
    /// TOML of a table that replaces `backends`.
    pub(super) source: Option<String>,
    /// Durations of the pool, by their dotted keys; several directives may set the same duration.
    pub(super) durations: BTreeMap<&'static str, Duration>,
    /// Other keys.
    pub(super) settings: SettingDrafts,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendDraft {
    /// Name; `None`: the address.
    pub(super) name: Option<String>,
    /// Host and port.
    pub(super) address: String,
    /// Weight; 1 is not written.
    pub(super) weight: u32,
    /// Whether the server is a backup.
    pub(super) backup: bool,
}

impl SettingDrafts {
    /// Sets a key to a TOML value.
    pub(super) fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// Sets a key to a string.
    pub(super) fn string(&mut self, key: &str, value: &str) {
        self.set(key, quoted(value));
    }

    /// Adds the settings of another table.
    pub(super) fn extend(&mut self, others: &Self) {
        others.0.iter().for_each(|(key, value)| self.set(key, value.as_str()));
    }

    /// The TOML value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

impl RouteDraft {
    /// Whether two routes have equal targets and settings.
    fn does_as(&self, other: &Self) -> bool {
        self.target == other.target && self.settings == other.settings
    }
}

impl PoolDraft {
    /// Sets a duration, or keeps the longer one. Returns the previous duration if it differs.
    pub(super) fn lengthen(&mut self, key: &'static str, duration: Duration) -> Option<Duration> {
        let known = self.durations.get(key).copied();
        self.durations.insert(key, known.unwrap_or_default().max(duration));
        known.filter(|known| *known != duration)
    }
}

impl ConfigDraft {
    /// Adds a route, or adds its listeners to a route that is equal otherwise. A listener has the first
    /// route of a host, a path and conditions. Returns the origin of that route if it leads to another pool.
    pub(super) fn add_route(&mut self, route: RouteDraft) -> Option<String> {
        let rule = |path: &str| path.trim_end_matches('/').to_owned();
        let same = |known: &&mut RouteDraft| {
            known.host == route.host
                && rule(&known.path) == rule(&route.path)
                && known.conditions == route.conditions
        };
        let mut listeners = route.listeners.clone();
        let mut first = None;
        for known in self.routes.iter_mut().filter(|known| same(known)) {
            if known.does_as(&route) {
                listeners.retain(|name| !known.listeners.contains(name));
                known.listeners.append(&mut listeners);
                return None;
            }
            let before = listeners.len();
            listeners.retain(|name| !known.listeners.contains(name));
            if listeners.len() < before {
                first.get_or_insert_with(|| known.origin.clone());
            }
        }
        if !listeners.is_empty() {
            self.routes.push(RouteDraft { listeners, ..route });
        }
        first
    }

    /// Adds a route of a file in which the first matching rule is used. Moorline uses the most specific host
    /// and path, so an earlier route for more hosts is also added for this host, and an earlier one with conditions for
    /// this host and path. Returns the origin of an earlier route that matches every request of this route.
    pub(super) fn add_in_order(&mut self, route: RouteDraft) -> Option<String> {
        let shares = |known: &&RouteDraft| {
            route.listeners.iter().all(|name| known.listeners.contains(name))
                && host_covers(known.host.as_deref(), route.host.as_deref())
        };
        let first = self.routes.iter().filter(shares).find(|known| {
            path_covers(&known.path, &route.path)
                && (known.conditions.is_empty() || known.conditions == route.conditions)
        });
        if let Some(first) = first.filter(|first| !first.does_as(&route)) {
            return Some(first.origin.clone());
        }
        let others = self.routes.iter().filter(shares).filter(|known| !known.does_as(&route));
        let earlier: Vec<RouteDraft> = others
            .filter_map(|known| {
                let host = route.host.clone();
                if path_covers(&route.path, &known.path) {
                    // A longer path counts first by itself.
                    return (known.host != route.host)
                        .then(|| RouteDraft { host, ..known.clone() });
                }
                let is_wider =
                    !known.conditions.is_empty() && path_covers(&known.path, &route.path);
                let path = route.path.clone();
                is_wider.then(|| RouteDraft { host, path, ..known.clone() })
            })
            .collect();
        for earlier in earlier {
            self.add_route(earlier);
        }
        self.add_route(route);
        None
    }

    /// Removes the listeners of routes that are on every listener that routes requests.
    pub(super) fn simplify_routes(&mut self) {
        let routed = self.listeners.iter().filter(|listener| {
            matches!(listener.protocol, "http" | "https")
                && listener.settings.value("redirect").is_none()
        });
        let names: Vec<&String> = routed.map(|listener| &listener.name).collect();
        for route in &mut self.routes {
            if names.iter().all(|name| route.listeners.contains(name)) {
                route.listeners.clear();
            }
        }
    }
}

/// Whether every host of `inner` is a host of `outer`; `None` is every host.
fn host_covers(outer: Option<&str>, inner: Option<&str>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => {
            let suffix = outer.strip_prefix('*');
            outer == inner
                || suffix.is_some_and(|suffix| inner.trim_start_matches('*').ends_with(suffix))
        }
    }
}

/// Whether every path below `inner` is below `outer`.
fn path_covers(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (outer.trim_end_matches('/'), inner.trim_end_matches('/'));
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns a name that is not used yet: the name itself, or with the first free number from 2.
pub(super) fn free_name(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let wanted = if wanted.is_empty() { "unnamed" } else { wanted };
    if !taken(wanted) {
        return wanted.to_owned();
    }
    let numbered = (2..).map(|number: u32| format!("{wanted}-{number}"));
    numbered.into_iter().find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_of_a_file_counts_after_its_translation_too() {
        let mut draft = ConfigDraft::default();
        let mut add = |host: Option<&str>, path: &str, pool: &str| {
            let (host, listeners) = (host.map(str::to_owned), vec!["web".to_owned()]);
            let (path, origin) = (path.to_owned(), pool.to_owned());
            let (target, settings) = (TargetDraft::Pool(origin.clone()), SettingDrafts::default());
            let conditions = MatchDraft::default();
            draft.add_in_order(RouteDraft {
                origin,
                host,
                path,
                conditions,
                target,
                listeners,
                settings,
            })
        };
        assert_eq!(add(None, "/api", "api"), None);
        // A request for chat.test/api goes to the first rule's pool.
        assert_eq!(add(Some("chat.test"), "/", "chat"), None);
        assert_eq!(add(Some("chat.test"), "/api/v1", "late"), Some("api".to_owned()));
        assert_eq!(add(None, "/", "site"), None);
        assert_eq!(add(Some("late.test"), "/", "late"), Some("site".to_owned()));
        let shown: Vec<(Option<&str>, &str, &str)> =
            draft.routes.iter().map(|r| (r.host.as_deref(), &*r.path, &*r.origin)).collect();
        assert_eq!(
            shown,
            [
                (None, "/api", "api"),
                (Some("chat.test"), "/api", "api"),
                (Some("chat.test"), "/", "chat"),
                (None, "/", "site")
            ]
        );
    }

    #[test]
    fn names_are_made_unique() {
        let taken = ["chat", "chat-2"];
        assert_eq!(free_name("chat", |name| taken.contains(&name)), "chat-3");
        assert_eq!(free_name("blog", |name| taken.contains(&name)), "blog");
    }
}
