//! Backends: pools with their balance, stickiness, health checks and timeouts.

use std::time::Duration;

use super::{
    super::{
        draft::{PoolDraft, duration, free_name},
        note::NoteKind,
    },
    HaproxyTranslator, ProxySection,
    syntax::ConfigLine,
};

impl<'t> HaproxyTranslator<'t> {
    /// The name of the pool of a backend, made at its first use. `at` is the line that names it.
    pub(super) fn pool(&mut self, backend: &str, at: &ConfigLine) -> Option<String> {
        if let Some(name) = self.pools.get(backend) {
            return Some(name.clone());
        }
        let Some(proxy) = self.proxies.get(backend).copied() else {
            self.note(NoteKind::Untranslated, at, "there is no backend of this name");
            return None;
        };
        proxy.section.head.take();
        let wanted = backend.replace(['.', ':'], "-");
        let taken = |name: &str| self.draft.pools.iter().any(|known| known.name == name);
        let mut pool = PoolDraft {
            name: free_name(&wanted, taken),
            origin: proxy.section.head.origin.to_string(),
            ..PoolDraft::default()
        };
        let tcp = proxy.is_tcp();
        self.servers(&mut pool, &proxy);
        self.balance(&mut pool, &proxy);
        if !tcp {
            self.cookie(&mut pool, &proxy);
            self.stick(&mut pool, &proxy);
        }
        self.health(&mut pool, &proxy, tcp);
        self.timeouts(&mut pool, &proxy, tcp);
        let name = pool.name.clone();
        self.draft.pools.push(pool);
        self.pools.insert(backend.to_owned(), name.clone());
        Some(name)
    }

    fn balance(&mut self, pool: &mut PoolDraft, proxy: &ProxySection<'t>) {
        let Some(line) = proxy.find(&["balance"]) else {
            pool.settings.string("balance", "round-robin");
            return;
        };
        let balance = match line.word(1) {
            "roundrobin" => "round-robin",
            "static-rr" => {
                self.note(NoteKind::Different, line, "weights can change while the process runs");
                "round-robin"
            }
            "leastconn" => "least-sessions",
            "source" => "source-hash",
            "first" => {
                self.note(
                    NoteKind::Different,
                    line,
                    "servers are not filled one after another: sessions are distributed",
                );
                "least-sessions"
            }
            "url_param" if line.word(2) == "sid" => {
                self.note(
                    NoteKind::Unneeded,
                    line,
                    "Engine.IO session ids are used for affinity by default",
                );
                "least-sessions"
            }
            algorithm if algorithm.starts_with("random") => "p2c",
            _ => {
                let reason = "only the client address can be hashed (`balance = \"source-hash\"`)";
                self.note(NoteKind::Untranslated, line, reason);
                "least-sessions"
            }
        };
        pool.settings.string("balance", balance);
    }

    /// `cookie NAME insert …`.
    fn cookie(&mut self, pool: &mut PoolDraft, proxy: &ProxySection<'t>) {
        let Some(line) = proxy.find(&["cookie"]) else { return };
        let inserts = line.rest(2).iter().any(|word| word == "insert");
        if !inserts {
            pool.settings.string("sticky.cookie.set_on", "always");
            let reason = "an affinity cookie of Moorline keeps a client on its backend; cookies of the app are not changed";
            return self.note(NoteKind::Different, line, reason);
        }
        pool.settings.string("sticky.cookie.name", line.word(1));
        pool.settings.string("sticky.cookie.set_on", "always");
        let reason = "the cookie has other values: each client gets a new cookie";
        self.note(NoteKind::Different, line, reason);
        let mut words = line.rest(2).iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "insert" | "indirect" | "nocache" | "httponly" | "preserve" => {}
                "secure" => pool.settings.set("sticky.cookie.secure", "true"),
                "maxlife" => {
                    if let Some(time) = words.next().and_then(super::time) {
                        pool.settings.set("sticky.cookie.lifetime", duration(time));
                    }
                }
                "attr" => self.cookie_attribute(pool, line, words.next().unwrap_or("")),
                other => {
                    let value =
                        matches!(other, "domain" | "maxidle").then(|| words.next()).flatten();
                    let shown = [other, value.unwrap_or("")].join(" ");
                    let reason =
                        format!("`{}`: the cookie has no such attribute", shown.trim_end());
                    self.note(NoteKind::Untranslated, line, reason);
                }
            }
        }
    }

    fn cookie_attribute(&mut self, pool: &mut PoolDraft, line: &ConfigLine, attribute: &str) {
        match attribute.to_ascii_lowercase().replace(' ', "").as_str() {
            "samesite=none" => pool.settings.string("sticky.cookie.same_site", "none"),
            "samesite=lax" => pool.settings.string("sticky.cookie.same_site", "lax"),
            "samesite=strict" => pool.settings.string("sticky.cookie.same_site", "strict"),
            "partitioned" => pool.settings.set("sticky.cookie.partitioned", "true"),
            _ => {
                let reason = format!("`attr {attribute}`: the cookie has no such attribute");
                self.note(NoteKind::Untranslated, line, reason);
            }
        }
    }

    /// `stick-table` and `stick on …`.
    fn stick(&mut self, pool: &mut PoolDraft, proxy: &ProxySection<'t>) {
        let rules: Vec<&ConfigLine> = proxy.own(&["stick"]).collect();
        for rule in &rules {
            let by = rule.words.iter().skip_while(|word| *word != "on" && *word != "match").nth(1);
            let by = by.map_or("", String::as_str);
            if by == "src" {
                pool.settings.string("balance", "source-hash");
                let reason = "a hash of the address keeps clients on a backend, and the session id keeps sessions: no table is needed";
                self.note(NoteKind::Different, rule, reason);
            } else if by.contains("sid") && by.contains("url_param") {
                self.note(
                    NoteKind::Unneeded,
                    rule,
                    "Engine.IO session ids are used for affinity by default",
                );
            } else if by.contains("cook") {
                pool.settings.string("sticky.cookie.set_on", "always");
                let reason = "an affinity cookie of Moorline keeps a client on its backend, instead of a cookie of the app";
                self.note(NoteKind::Different, rule, reason);
            }
        }
        if rules.iter().any(|rule| rule.handled.get()) {
            for table in proxy.own(&["stick-table"]) {
                let reason =
                    "session ids and cookies need no table; reloads and upgrades keep them";
                self.note(NoteKind::Unneeded, table, reason);
            }
        }
    }

    /// How backends are probed.
    fn health(&mut self, pool: &mut PoolDraft, proxy: &ProxySection<'t>, tcp: bool) {
        let Some(check) = proxy.option("httpchk") else {
            if tcp {
                proxy.option("tcp-check");
            }
            return;
        };
        pool.settings.string("health.probe", "http");
        let words = check.rest(2);
        let path = match words {
            [] => None,
            [path] => Some(path),
            [method, path, rest @ ..] => {
                if method != "GET" {
                    self.note(NoteKind::Different, check, "the method of a health check is GET");
                }
                self.check_host(pool, rest);
                Some(path)
            }
        };
        if let Some(path) = path {
            pool.settings.string("health.path", path);
        }
        for line in proxy.own(&["http-check"]) {
            self.http_check(pool, line);
        }
    }

    /// The `Host` field after the version of an old `option httpchk`.
    fn check_host(&mut self, pool: &mut PoolDraft, words: &[String]) {
        let text = words.join(" ").replace("\\r\\n", "\n").replace("rn", "\n");
        let host = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
        });
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            pool.settings.string("health.host", &host);
        }
    }

    fn http_check(&mut self, pool: &mut PoolDraft, line: &'t ConfigLine) {
        match (line.word(1), line.word(2)) {
            ("send", _) => {
                let mut words = line.rest(2).iter().map(String::as_str);
                while let Some(word) = words.next() {
                    match (word, words.next()) {
                        ("uri", Some(path)) => pool.settings.string("health.path", path),
                        ("hdr", Some(name)) if name.eq_ignore_ascii_case("host") => {
                            pool.settings.string("health.host", words.next().unwrap_or(""));
                        }
                        ("ver", _) | ("meth", Some("GET")) => {}
                        (word, value) => {
                            let shown = format!("{word} {}", value.unwrap_or(""));
                            let reason = format!(
                                "`{}`: health checks have a path and a host",
                                shown.trim_end()
                            );
                            self.note(NoteKind::Untranslated, line, reason);
                        }
                    }
                }
                line.take();
            }
            ("expect", "status") => {
                line.take();
                pool.settings.string("health.status", line.word(3));
            }
            ("expect", "rstatus")
                if matches!(line.word(3), "(2|3)[0-9][0-9]" | "^[23]" | "[23].." | "^(2|3)") =>
            {
                line.take();
                pool.settings.string("health.status", "200-399");
            }
            ("connect" | "comment", _) => {}
            _ => self.note(
                NoteKind::Untranslated,
                line,
                "a health check uses the status only (`health.status`)",
            ),
        }
    }

    fn timeouts(&mut self, pool: &mut PoolDraft, proxy: &ProxySection<'t>, tcp: bool) {
        let mut add = |name: &str, keys: &[&'static str]| {
            if let Some((_, time)) = proxy.timeout(name).filter(|(_, time)| !time.is_zero()) {
                for key in keys {
                    pool.lengthen(key, time);
                }
            }
        };
        add("connect", &["timeouts.connect"]);
        add("tunnel", &["timeouts.tunnel_idle"]);
        if tcp {
            let has_tunnel = proxy.timeout("tunnel").is_some();
            if !has_tunnel {
                add("server", &["timeouts.tunnel_idle"]);
            }
        } else {
            add("server", &["timeouts.response_header", "timeouts.body_idle"]);
        }
        add("server-fin", &["timeouts.half_closed"]);
        if let Some((line, time)) = proxy.timeout("check") {
            let interval = pool.durations.get("health.interval").copied();
            let interval = interval.unwrap_or(Duration::from_secs(2));
            if time > interval {
                self.note(
                    NoteKind::Different,
                    line,
                    "a health check takes no longer than `health.interval`",
                );
            }
            pool.durations.insert("health.timeout", time.min(interval));
        }
    }
}
