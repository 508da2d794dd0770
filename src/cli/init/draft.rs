//! A configuration that is to be written: tables with TOML values, and the text of the whole.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::note::{Note, NoteKind};

/// Longest duration that a setting takes.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// Columns of a comment.
const WIDTH: usize = 110;

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
    /// Places in the original.
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
    /// Place in the original.
    pub(super) origin: String,
    /// Host or wildcard; `None`: every host.
    pub(super) host: Option<String>,
    /// Path prefix.
    pub(super) path: String,
    /// Name of the pool.
    pub(super) pool: String,
    /// Names of the listeners; empty: all.
    pub(super) listeners: Vec<String>,
}

/// A table `[pools.NAME]`.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolDraft {
    /// Unique name.
    pub(super) name: String,
    /// Place in the original.
    pub(super) origin: String,
    /// Servers; empty with `source`.
    pub(super) backends: Vec<BackendDraft>,
    /// TOML of a table that brings the backends, instead of `backends`.
    pub(super) source: Option<String>,
    /// Durations of the pool, by their dotted keys: several places may set one.
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

    /// The TOML value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn write(&self, text: &mut String) {
        for (key, value) in &self.0 {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
}

impl PoolDraft {
    /// Sets a duration, or keeps the longer one. Returns the other one if two differ.
    pub(super) fn lengthen(&mut self, key: &'static str, duration: Duration) -> Option<Duration> {
        let known = self.durations.get(key).copied();
        self.durations.insert(key, known.unwrap_or_default().max(duration));
        known.filter(|known| *known != duration)
    }
}

impl ConfigDraft {
    /// Adds a route, or adds its listeners to a route that is equal otherwise. A listener has the first
    /// route of a host and path. Returns the origin of that route if it leads to another pool.
    pub(super) fn add_route(&mut self, route: RouteDraft) -> Option<String> {
        let rule = |path: &str| path.trim_end_matches('/').to_owned();
        let same = |known: &&mut RouteDraft| {
            known.host == route.host && rule(&known.path) == rule(&route.path)
        };
        let mut listeners = route.listeners.clone();
        let mut first = None;
        for known in self.routes.iter_mut().filter(|known| same(known)) {
            if known.pool == route.pool {
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

    /// Adds a route of a file in which the first rule that covers a request counts. Here the most specific
    /// host and path count. Therefore an earlier route for more hosts is added for this host as well.
    /// Returns the origin of an earlier route that takes every request of this one.
    pub(super) fn add_in_order(&mut self, route: RouteDraft) -> Option<String> {
        let shares = |known: &&RouteDraft| {
            route.listeners.iter().all(|name| known.listeners.contains(name))
                && host_covers(known.host.as_deref(), route.host.as_deref())
        };
        let first =
            self.routes.iter().filter(shares).find(|known| path_covers(&known.path, &route.path));
        if let Some(first) = first.filter(|first| first.pool != route.pool) {
            return Some(first.origin.clone());
        }
        let earlier: Vec<RouteDraft> = self
            .routes
            .iter()
            .filter(shares)
            .filter(|known| known.host != route.host && known.pool != route.pool)
            .filter(|known| path_covers(&route.path, &known.path))
            .map(|known| RouteDraft { host: route.host.clone(), ..known.clone() })
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

    /// The text of the configuration. `head` is a comment, `notes` follow as comments.
    pub(super) fn text(&self, head: &str, notes: &[Note]) -> String {
        let mut text = String::new();
        comment(&mut text, "", head);
        for kind in NoteKind::ALL {
            let notes: Vec<&Note> = notes.iter().filter(|note| note.kind == kind).collect();
            if notes.is_empty() {
                continue;
            }
            let _ = writeln!(text, "#\n# {}:", kind.heading());
            for note in notes {
                comment(&mut text, "- ", &note.text());
            }
        }
        if !self.trusted_proxies.is_empty() || !self.top.0.is_empty() {
            text.push('\n');
        }
        if !self.trusted_proxies.is_empty() {
            let _ = writeln!(text, "trusted_proxies = {}", array(&self.trusted_proxies));
        }
        self.top.write(&mut text);
        for listener in &self.listeners {
            listener.write(&mut text);
        }
        for route in &self.routes {
            route.write(&mut text);
        }
        for pool in &self.pools {
            pool.write(&mut text);
        }
        text
    }
}

impl ListenerDraft {
    fn write(&self, text: &mut String) {
        section(text, &format!("[listeners.{}]", key(&self.name)), &self.origin);
        let _ = writeln!(text, "bind = {}", one_or_array(&self.bind));
        if self.protocol != "http" {
            let _ = writeln!(text, "protocol = {}", quoted(self.protocol));
        }
        self.settings.write(text);
        if !self.certificates.is_empty() {
            text.push_str("certificates = [\n");
            for CertificateDraft { cert, key, ocsp } in &self.certificates {
                let _ = write!(text, "    {{ cert = {}, key = {}", quoted(cert), quoted(key));
                if let Some(ocsp) = ocsp {
                    let _ = write!(text, ", ocsp = {}", quoted(ocsp));
                }
                text.push_str(" },\n");
            }
            text.push_str("]\n");
        }
        if !self.passthrough.is_empty() {
            text.push_str("passthrough = [\n");
            for (sni, pool) in &self.passthrough {
                let _ = writeln!(text, "    {{ sni = {}, pool = {} }},", quoted(sni), quoted(pool));
            }
            text.push_str("]\n");
        }
    }
}

impl RouteDraft {
    fn write(&self, text: &mut String) {
        section(text, "[[routes]]", &self.origin);
        if let Some(host) = &self.host {
            let _ = writeln!(text, "host = {}", quoted(host));
        }
        let _ = writeln!(text, "path = {}", quoted(&self.path));
        let _ = writeln!(text, "pool = {}", quoted(&self.pool));
        if !self.listeners.is_empty() {
            let _ = writeln!(text, "listeners = {}", array(&self.listeners));
        }
    }
}

impl PoolDraft {
    fn write(&self, text: &mut String) {
        section(text, &format!("[pools.{}]", key(&self.name)), &self.origin);
        match &self.source {
            Some(source) => {
                let _ = writeln!(text, "backends = {source}");
            }
            None => {
                text.push_str("backends = [\n");
                for backend in &self.backends {
                    let _ = writeln!(text, "    {},", backend.toml());
                }
                text.push_str("]\n");
            }
        }
        self.settings.write(text);
        for (key, duration) in &self.durations {
            let _ = writeln!(text, "{key} = {}", self::duration(*duration));
        }
    }
}

impl BackendDraft {
    fn toml(&self) -> String {
        let Self { name, address, weight } = self;
        if name.is_none() && *weight == 1 {
            return quoted(address);
        }
        let mut keys = Vec::new();
        if let Some(name) = name {
            keys.push(format!("name = {}", quoted(name)));
        }
        keys.push(format!("address = {}", quoted(address)));
        if *weight != 1 {
            keys.push(format!("weight = {weight}"));
        }
        format!("{{ {} }}", keys.join(", "))
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

/// A table's header, with its origin as a comment.
fn section(text: &mut String, header: &str, origin: &str) {
    let _ = match origin {
        "" => writeln!(text, "\n{header}"),
        origin => writeln!(text, "\n{header:<40}# {origin}"),
    };
}

/// Adds a comment, wrapped; `bullet` begins its first line.
fn comment(text: &mut String, bullet: &str, words: &str) {
    let indent = " ".repeat(bullet.len());
    let mut first = bullet;
    for paragraph in words.split('\n') {
        let mut line = first.to_owned();
        for word in paragraph.split(' ') {
            if line.trim_start().len() > bullet.len() && line.len() + word.len() > WIDTH {
                let _ = writeln!(text, "# {}", line.trim_end());
                line.clone_from(&indent);
            }
            line.push_str(word);
            line.push(' ');
        }
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        first = &indent;
    }
}

/// A basic string of TOML.
pub(super) fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for char in value.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(control));
            }
            char => text.push(char),
        }
    }
    text.push('"');
    text
}

/// A key of TOML: bare if it can be.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

/// An array of strings.
pub(super) fn array(values: &[impl AsRef<str>]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value.as_ref())).collect();
    format!("[{}]", values.join(", "))
}

fn one_or_array(values: &[String]) -> String {
    match values {
        [only] => quoted(only),
        values => array(values),
    }
}

/// A duration in its largest whole unit, within what settings take.
pub(super) fn duration(duration: Duration) -> String {
    let duration = duration.clamp(Duration::from_millis(1), LONGEST);
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let text = match (seconds, millis) {
        (_, 1..) => format!("{}ms", duration.as_millis()),
        (seconds, _) if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        (seconds, _) if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        (seconds, _) if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        (seconds, _) => format!("{seconds}s"),
    };
    quoted(&text)
}

/// A size for `header_size`, within its bounds.
pub(super) fn header_size(bytes: u64) -> String {
    let kib = bytes.div_ceil(1024).clamp(8, 4096);
    quoted(&format!("{kib}KiB"))
}

/// A name that is not taken yet: itself, or with the first free number from 2.
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
    fn values_are_toml() {
        assert_eq!(quoted("a\"b\\c\u{7}"), "\"a\\\"b\\\\c\\u0007\"");
        assert_eq!((key("chat_1"), key("a.b")), ("chat_1".to_owned(), "\"a.b\"".to_owned()));
        for (millis, text) in [
            (0, "\"1ms\""),
            (1_500, "\"1500ms\""),
            (60_000, "\"1m\""),
            (90_000, "\"90s\""),
            (86_400_000, "\"1d\""),
            (u64::MAX, "\"400d\""),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(
            (header_size(1), header_size(1 << 40)),
            ("\"8KiB\"".into(), "\"4096KiB\"".into())
        );
    }

    #[test]
    fn the_first_rule_of_a_file_counts_after_its_translation_too() {
        let mut draft = ConfigDraft::default();
        let mut add = |host: Option<&str>, path: &str, pool: &str| {
            let (host, listeners) = (host.map(str::to_owned), vec!["web".to_owned()]);
            let (path, pool) = (path.to_owned(), pool.to_owned());
            draft.add_in_order(RouteDraft { origin: pool.clone(), host, path, pool, listeners })
        };
        assert_eq!(add(None, "/api", "api"), None);
        // A request for chat.test/api goes to the first rule's pool.
        assert_eq!(add(Some("chat.test"), "/", "chat"), None);
        assert_eq!(add(Some("chat.test"), "/api/v1", "late"), Some("api".to_owned()));
        assert_eq!(add(None, "/", "site"), None);
        assert_eq!(add(Some("late.test"), "/", "late"), Some("site".to_owned()));
        let shown: Vec<(Option<&str>, &str, &str)> =
            draft.routes.iter().map(|r| (r.host.as_deref(), &*r.path, &*r.pool)).collect();
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

    #[test]
    fn comments_are_wrapped() {
        let mut text = String::new();
        comment(&mut text, "- ", &"word ".repeat(40));
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.starts_with("# ")));
        assert!(text.lines().all(|line| line.len() <= WIDTH + 6), "{text}");
    }
}
