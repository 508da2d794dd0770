//! The configuration file of a test: defaults for tests, all of which can be overridden.

use std::{fmt::Write, net::SocketAddr, path::Path};

/// Builder of a configuration. Values are TOML: strings need quotes.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    top: Vec<(String, String)>,
    listener: Vec<(String, String)>,
    pool: Vec<(String, String)>,
    routed: bool,
    tables: String,
}

impl Settings {
    /// One plain listener `web`, one pool `app` for all hosts and paths, no health checks, the access log in
    /// `directory`, and the admin endpoint on a free port.
    pub(crate) fn new(directory: &Path) -> Self {
        let mut settings = Self {
            top: Vec::new(),
            listener: Vec::new(),
            pool: Vec::new(),
            routed: true,
            tables: String::new(),
        };
        settings.top("access_log", &format!("{{ file = {:?} }}", directory.join("access.log")));
        settings.top("admin", "\"127.0.0.1:0\"");
        settings.top("drain", "\"10s\"");
        settings.listener("bind", "\"127.0.0.1:0\"").listener("protocol", "\"http\"");
        // Tests count the connections of backends; health checks would add to them.
        settings.pool("health", "{ probe = \"off\" }");
        // Idle connections keep descriptors open, which `Proxy::finish` counts.
        settings.pool("reuse", "{ idle_timeout = \"1s\" }");
        settings
    }

    /// Sets a key outside all tables.
    pub(crate) fn top(&mut self, key: &str, value: &str) -> &mut Self {
        set(&mut self.top, key, value);
        self
    }

    /// Sets a key outside all tables, and returns its value before.
    pub(crate) fn set_top(&mut self, key: &str, value: &str) -> String {
        let before = self.top.iter().find(|(known, _)| known == key);
        let before = before.map(|(_, value)| value.clone()).unwrap_or_default();
        self.top(key, value);
        before
    }

    /// Sets a key of `[listeners.web]`.
    pub(crate) fn listener(&mut self, key: &str, value: &str) -> &mut Self {
        set(&mut self.listener, key, value);
        self
    }

    /// Sets a key of `[pools.app]`.
    pub(crate) fn pool(&mut self, key: &str, value: &str) -> &mut Self {
        set(&mut self.pool, key, value);
        self
    }

    /// Sets the addresses of the backends of `[pools.app]`.
    pub(crate) fn backends(&mut self, addresses: &[SocketAddr]) -> &mut Self {
        self.pool("backends", &list(addresses))
    }

    /// Sets timeouts of `[pools.app]`.
    pub(crate) fn timeouts(&mut self, table: &str) -> &mut Self {
        self.pool("timeouts", &format!("{{ {table} }}"))
    }

    /// Appends a route for a host, and a pool for it.
    pub(crate) fn host(&mut self, host: &str, pool: &str, addresses: &[SocketAddr]) -> &mut Self {
        let backends = list(addresses);
        self.table(&format!(
            "[[routes]]\nhost = \"{host}\"\npool = \"{pool}\"\n\
             [pools.{pool}]\nbackends = {backends}\nhealth = {{ probe = \"off\" }}\n\
             reuse = {{ idle_timeout = \"1s\" }}\n"
        ))
    }

    /// Removes the route for all hosts and paths.
    pub(crate) fn unrouted(&mut self) -> &mut Self {
        self.routed = false;
        self
    }

    /// Appends whole tables.
    pub(crate) fn table(&mut self, text: &str) -> &mut Self {
        self.tables.push_str(text);
        self
    }

    /// Text of the file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        lines(&mut text, &self.top);
        text.push_str("\n[listeners.web]\n");
        lines(&mut text, &self.listener);
        if self.routed {
            text.push_str("\n[[routes]]\npath = \"/\"\npool = \"app\"\n");
        }
        text.push_str("\n[pools.app]\n");
        lines(&mut text, &self.pool);
        text.push('\n');
        text.push_str(&self.tables);
        text
    }
}

/// TOML array of addresses.
pub(crate) fn list(addresses: &[SocketAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

fn set(pairs: &mut Vec<(String, String)>, key: &str, value: &str) {
    pairs.retain(|(present, _)| present != key);
    pairs.push((key.to_owned(), value.to_owned()));
}

fn lines(text: &mut String, pairs: &[(String, String)]) {
    for (key, value) in pairs {
        writeln!(text, "{key} = {value}").unwrap();
    }
}
