//! `server` lines: addresses, weights and settings of the whole pool.

use std::net::IpAddr;

use super::{
    super::{
        draft::{BackendDraft, PoolDraft, duration, quoted},
        note::NoteKind,
    },
    HaproxyTranslator, ProxySection,
    syntax::ConfigLine,
};

/// Parameters of a server that have a value.
const VALUED: [&str; 34] = [
    "addr",
    "agent-addr",
    "agent-inter",
    "agent-port",
    "agent-send",
    "alpn",
    "check-alpn",
    "check-proto",
    "check-sni",
    "ciphers",
    "ciphersuites",
    "cookie",
    "crl-file",
    "error-limit",
    "id",
    "init-addr",
    "log-proto",
    "max-reuse",
    "minconn",
    "namespace",
    "observe",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "pool-low-conn",
    "port",
    "proto",
    "redir",
    "resolve-opts",
    "resolve-prefer",
    "socks4",
    "source",
    "ssl-max-ver",
    "track",
];

impl<'t> HaproxyTranslator<'t> {
    /// The backends of a section.
    pub(super) fn servers(&mut self, pool: &mut PoolDraft, proxy: &ProxySection<'t>) {
        let mut default: Vec<String> = Vec::new();
        let inherited = proxy.defaults.iter().flat_map(|section| &section.lines);
        for line in inherited.filter(|line| line.begins(&["default-server"])) {
            default.extend(line.take().rest(1).iter().cloned());
        }
        for line in &proxy.section.lines {
            match line.word(0) {
                "default-server" => default.extend(line.take().rest(1).iter().cloned()),
                "server" => self.server(pool, line, &default),
                "server-template" => self.server_template(pool, line, &default),
                _ => {}
            }
        }
        if pool.source.is_none() && pool.backends.is_empty() {
            let head = &proxy.section.head;
            let reason = "no server of this section can be used: add `backends`";
            self.notes.add(NoteKind::Untranslated, &head.origin, &head.text(), reason);
        }
    }

    fn server(&mut self, pool: &mut PoolDraft, line: &'t ConfigLine, default: &[String]) {
        let Some(address) = address(line.word(2)) else {
            let reason = "a backend has a host and a port, or the absolute path of a Unix socket";
            return self.note(NoteKind::Untranslated, line, reason);
        };
        line.take();
        let words: Vec<String> = default.iter().chain(line.rest(3)).cloned().collect();
        let Some((weight, backup)) = self.parameters(pool, line, &words) else { return };
        if pool.backends.iter().any(|known| known.address == address) {
            return self.note(NoteKind::Different, line, "this address is a backend already");
        }
        let name = Some(line.word(1).to_owned()).filter(|name| *name != address);
        pool.backends.push(BackendDraft { name, address, weight, backup });
    }

    /// `server-template PREFIX NUMBER NAME:PORT`: a server for each address of a name.
    fn server_template(&mut self, pool: &mut PoolDraft, line: &'t ConfigLine, default: &[String]) {
        let Some(address) = address(line.word(3)) else {
            return self.note(NoteKind::Untranslated, line, "a backend has a host and a port");
        };
        line.take();
        let words: Vec<String> = default.iter().chain(line.rest(4)).cloned().collect();
        self.parameters(pool, line, &words);
        let at = words.iter().position(|word| word == "resolvers");
        let resolver = at.and_then(|at| self.resolver(words.get(at + 1)?));
        let resolver = resolver.map_or(String::new(), |ip| format!(", resolver = {}", quoted(&ip)));
        pool.source = Some(format!("{{ dns = {}{resolver} }}", quoted(&address)));
        let reason = "each address of the name is a backend";
        self.note(NoteKind::Different, line, reason);
    }

    /// The first name server of a `resolvers` section.
    fn resolver(&mut self, name: &str) -> Option<String> {
        let section = *self.resolvers.iter().find(|section| section.name() == name)?;
        section.head.take();
        let server = section.lines.iter().find(|line| line.word(0) == "nameserver")?;
        let address = server.word(2).trim_start_matches("udp@").to_owned();
        let (host, port) = address.rsplit_once(':').unwrap_or((&address, "53"));
        host.parse::<IpAddr>().ok()?;
        Some(if port == "53" { host.to_owned() } else { format!("{host}:{port}") })
    }

    /// Reads the parameters of a server. Returns its weight, and whether it is a backup; `None`: the server is omitted.
    fn parameters(
        &mut self,
        pool: &mut PoolDraft,
        line: &ConfigLine,
        words: &[String],
    ) -> Option<(u32, bool)> {
        let (mut weight, mut backup) = (1, false);
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "weight" => {
                    let typed = words.next().unwrap_or("");
                    weight = typed.parse::<u32>().unwrap_or(1);
                    if weight == 0 {
                        self.note(
                            NoteKind::Different,
                            line,
                            "`weight 0`: the server gets no new sessions and is omitted",
                        );
                        return None;
                    }
                }
                "backup" => {
                    if pool.backends.iter().any(|known| known.backup) {
                        let reason = "all backups share the load, as with `option allbackups`";
                        self.note(NoteKind::Different, line, reason);
                    }
                    backup = true;
                }
                "disabled" => {
                    self.note(NoteKind::Different, line, "this server is disabled and is omitted");
                    return None;
                }
                "ssl" | "verify" | "ca-file" | "sni" | "crt" => {
                    self.server_tls(pool, line, word, &mut words)
                }
                "check" | "inter" | "fastinter" | "downinter" | "rise" | "fall" | "slowstart" => {
                    self.server_check(pool, line, word, &mut words);
                }
                "maxconn" | "maxqueue" | "pool-max-conn" => {
                    let key = match word {
                        "maxconn" => "limits.connections",
                        "maxqueue" => "limits.pending",
                        _ => "reuse.max_idle",
                    };
                    let number = words.next().and_then(|typed| typed.parse::<u32>().ok());
                    if let Some(number) = number.filter(|number| *number > 0) {
                        self.agree(pool, line, key, number.min(65_535).to_string());
                    }
                }
                "pool-purge-delay" => {
                    if let Some(time) = words.next().and_then(super::time) {
                        pool.lengthen("reuse.idle_timeout", time);
                    }
                }
                "send-proxy" => self.agree(pool, line, "proxy_protocol", quoted("v1")),
                "send-proxy-v2" => self.agree(pool, line, "proxy_protocol", quoted("v2")),
                other => self.server_other(line, other, &mut words),
            }
        }
        Some((weight, backup))
    }

    fn server_tls<'w>(
        &mut self,
        pool: &mut PoolDraft,
        line: &ConfigLine,
        word: &str,
        words: &mut impl Iterator<Item = &'w str>,
    ) {
        if word == "ssl" {
            if pool.settings.value("tls.verify").is_none() {
                self.agree(pool, line, "tls.verify", "true".to_owned());
            }
            return;
        }
        let value = words.next().unwrap_or("");
        match word {
            "verify" if value == "none" => {
                pool.settings.set("tls.verify", "false");
                let reason = "`verify none`: set `tls.ca` and remove `tls.verify`, so that backends are verified";
                self.note(NoteKind::Different, line, reason);
            }
            "verify" => {}
            "ca-file" => {
                let file = self.file(value, "ca-base");
                self.agree(pool, line, "tls.ca", quoted(&file));
            }
            "sni" => match value.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')')) {
                Some(name) => self.agree(pool, line, "tls.name", quoted(name)),
                None => self.note(
                    NoteKind::Untranslated,
                    line,
                    "`sni`: the name is a fixed one (`tls.name`)",
                ),
            },
            _ => {
                let file = quoted(&self.file(value, "crt-base"));
                let value = format!("{{ cert = {file}, key = {file} }}");
                self.agree(pool, line, "tls.client_cert", value);
            }
        }
    }

    fn server_check<'w>(
        &mut self,
        pool: &mut PoolDraft,
        line: &ConfigLine,
        word: &str,
        words: &mut impl Iterator<Item = &'w str>,
    ) {
        if word == "check" {
            return;
        }
        let value = words.next().unwrap_or("");
        match (word, super::time(value)) {
            ("inter", Some(time)) => {
                pool.durations.insert("health.interval", time);
            }
            ("slowstart", Some(time)) => self.agree(pool, line, "slow_start", duration(time)),
            ("rise" | "fall", _)
                if value.parse::<u32>().is_ok_and(|number| (1..=1000).contains(&number)) =>
            {
                self.agree(
                    pool,
                    line,
                    if word == "rise" { "health.rise" } else { "health.fall" },
                    value.to_owned(),
                );
            }
            _ => {
                let reason = format!("`{word} {value}`: health checks have one `health.interval`");
                self.note(NoteKind::Untranslated, line, reason);
            }
        }
    }

    /// Notes parameters without an equivalent setting.
    fn server_other<'w>(
        &mut self,
        line: &ConfigLine,
        word: &str,
        words: &mut impl Iterator<Item = &'w str>,
    ) {
        let valued =
            VALUED.contains(&word) || matches!(word, "resolvers" | "maxreuse" | "tcp-ut" | "ws");
        let value = if valued { words.next().unwrap_or("") } else { "" };
        let shown = format!("{word} {value}");
        let shown = shown.trim_end();
        let (kind, reason) = match (word, value) {
            ("cookie", _) => {
                (NoteKind::Unneeded, "the values of cookies are made from the names of backends")
            }
            ("resolvers" | "init-addr" | "resolve-prefer" | "resolve-opts", _) => {
                (NoteKind::Unneeded, "names are resolved when a backend is connected to")
            }
            ("on-marked-down", "shutdown-sessions") => (
                NoteKind::Different,
                "tunnels of a backend that is down are kept; `on_down = \"close\"` closes them",
            ),
            (
                "no-check" | "enabled" | "check-ssl" | "no-backup" | "stick" | "no-tls-tickets"
                | "force-tlsv12" | "no-sslv3",
                _,
            )
            | ("alpn", "http/1.1") => (NoteKind::Unneeded, "this is the default"),
            ("port" | "addr", _) => {
                (NoteKind::Untranslated, "health checks use the address of the backend")
            }
            (
                "track" | "agent-check" | "agent-port" | "agent-addr" | "agent-inter" | "observe"
                | "on-error" | "error-limit",
                _,
            ) => (NoteKind::Untranslated, "`health` and `outlier` decide which backends are used"),
            _ => (NoteKind::Untranslated, "backends have no equivalent setting"),
        };
        self.note(kind, line, format!("`{shown}`: {reason}"));
    }

    /// Sets a key of the whole pool. A server with another value is noted.
    fn agree(&mut self, pool: &mut PoolDraft, line: &ConfigLine, key: &str, value: String) {
        match pool.settings.value(key) {
            Some(known) if known != value => {
                let reason = format!("`{key}` is one value for the whole pool: {known}");
                self.note(NoteKind::Different, line, reason);
            }
            Some(_) => {}
            None => pool.settings.set(key, value),
        }
    }
}

/// Host and port of a server, or the path of its socket.
fn address(typed: &str) -> Option<String> {
    let socket = typed.strip_prefix("unix@").unwrap_or(typed);
    if socket.starts_with('/') {
        return Some(format!("unix:{socket}"));
    }
    let typed = ["ipv4@", "ipv6@", "tcp@"]
        .iter()
        .find_map(|prefix| typed.strip_prefix(prefix))
        .unwrap_or(typed);
    let (host, port) = typed.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(IpAddr::V6(ip)) = bare.parse() {
        return Some(format!("[{ip}]:{port}"));
    }
    let plain =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    plain.then(|| format!("{host}:{port}"))
}
