//! `upstream` blocks: servers, balance and stickiness.

use super::{
    super::{
        draft::{BackendDraft, PoolDraft, duration, quoted},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    pool::{unix, with_port},
    syntax::Directive,
    values,
};

/// Largest weight of a backend.
const HEAVIEST: u32 = 65_535;

impl<'t> NginxTranslator<'t> {
    /// The pool of an upstream.
    pub(super) fn upstream(&mut self, block: &'t Directive) -> PoolDraft {
        block.take();
        let scope = Scope::top(block.children());
        let mut pool = PoolDraft {
            name: block.arg(0).to_owned(),
            origin: block.origin.to_string(),
            ..PoolDraft::default()
        };
        let servers: Vec<&Directive> = scope.own("server").collect();
        for server in &servers {
            self.upstream_server(&mut pool, server, servers.len());
        }
        self.balance(&mut pool, &scope);
        self.sticky(&mut pool, &scope);
        if let Some(keepalive) = scope.own("keepalive").next() {
            match keepalive.arg(0).parse::<usize>() {
                Ok(most) => {
                    keepalive.take();
                    pool.settings.set("reuse.max_idle", most.to_string());
                }
                Err(_) => self.note(NoteKind::Untranslated, keepalive, "this is not a number"),
            }
        }
        if let Some(idle) = scope.own("keepalive_timeout").next()
            && let Some(time) = values::time(idle.take().arg(0))
        {
            pool.lengthen("reuse.idle_timeout", time);
        }
        if let Some(queue) = scope.own("queue").next()
            && queue.arg(0).parse::<u32>().is_ok()
        {
            pool.settings.set("limits.pending", queue.take().arg(0));
        }
        if pool.source.is_none() && pool.backends.is_empty() {
            let reason = "no server of this upstream can be used: add `backends`";
            self.notes.add(NoteKind::Untranslated, &block.origin, &block.text(), reason);
        }
        pool
    }

    fn upstream_server(&mut self, pool: &mut PoolDraft, server: &'t Directive, count: usize) {
        let address = server.arg(0);
        let address = match address.strip_prefix("unix:") {
            Some(path) => unix(path),
            None => with_port(address, 80),
        };
        let Some(address) = address else {
            let reason = "this is neither a host with a port nor the absolute path of a socket";
            return self.note(NoteKind::Untranslated, server, reason);
        };
        server.take();
        let mut weight = 1;
        let (mut resolved, mut backup) = (false, false);
        for word in server.args.iter().skip(1) {
            match word.split_once('=').unwrap_or((word.as_str(), "")) {
                ("down", _) => {
                    return self.note(
                        NoteKind::Different,
                        server,
                        "this server is down and is omitted",
                    );
                }
                ("backup", _) => backup = true,
                ("weight", number) => weight = number.parse().unwrap_or(1).clamp(1, HEAVIEST),
                ("resolve", _) => resolved = true,
                (key, value) => self.server_parameter(pool, server, key, value),
            }
        }
        if resolved && count == 1 {
            pool.source = Some(format!("{{ dns = {} }}", quoted(&address)));
            return;
        }
        if resolved {
            let reason = "`resolve`: one name of several servers is looked up when it is connected to; \
                          `backends = { dns = … }` makes each address a backend";
            self.note(NoteKind::Different, server, reason);
        }
        if pool.backends.iter().any(|known| known.address == address) {
            return self.note(NoteKind::Different, server, "this address is a backend already");
        }
        pool.backends.push(BackendDraft { name: None, address, weight, backup });
    }

    fn server_parameter(
        &mut self,
        pool: &mut PoolDraft,
        server: &Directive,
        key: &str,
        value: &str,
    ) {
        match (key, value.parse::<u32>()) {
            ("max_fails", Ok(0)) => {
                let reason = "`max_fails=0`: health checks take a backend out; `health = { probe = \"off\" }` does not";
                self.note(NoteKind::Different, server, reason);
            }
            ("max_fails", Ok(fails)) => {
                pool.settings.set("health.fall", fails.min(1_000).to_string());
            }
            ("fail_timeout", _) => {
                let reason = "`fail_timeout`: health checks find that a backend is back (`health.interval`, `rise`)";
                self.note(NoteKind::Different, server, reason);
            }
            ("max_conns", Ok(most)) if most > 0 => {
                pool.settings.set("limits.connections", most.min(65_535).to_string());
            }
            ("max_conns", Ok(_)) => {}
            ("slow_start", _) if values::time(value).is_some() => {
                let time = values::time(value).unwrap_or_default();
                pool.settings.set("slow_start", duration(time));
            }
            _ => {
                let reason = format!("`{key}`: backends have no equivalent setting");
                self.note(NoteKind::Untranslated, server, reason);
            }
        }
    }

    /// How a backend is chosen.
    fn balance(&mut self, pool: &mut PoolDraft, scope: &Scope<'_, 't>) {
        let mut balance = "round-robin";
        for directive in scope.directives {
            match directive.name.as_str() {
                "ip_hash" => balance = "source-hash",
                "least_conn" => balance = "least-sessions",
                "least_time" => {
                    balance = "least-sessions";
                    self.note(
                        NoteKind::Different,
                        directive,
                        "sessions are counted, not response times",
                    );
                }
                "random" => balance = "p2c",
                "hash" => balance = self.hash(directive),
                _ => continue,
            }
            directive.take();
        }
        pool.settings.string("balance", balance);
    }

    fn hash(&mut self, directive: &'t Directive) -> &'static str {
        let key = directive.arg(0);
        match key {
            "$remote_addr" | "$binary_remote_addr" | "$realip_remote_addr" | "${remote_addr}" => {
                return "source-hash";
            }
            "$http_x_forwarded_for" => {
                let reason =
                    "the client address is used: list the proxies in front in `trusted_proxies`";
                self.note(NoteKind::Different, directive, reason);
                return "source-hash";
            }
            key if key.starts_with("$arg_sid") || key.contains("sid") => {
                let reason = "Engine.IO session ids are used for affinity by default";
                self.note(NoteKind::Unneeded, directive, reason);
            }
            key if key.starts_with("$cookie_") => {
                let reason = "an affinity cookie of Moorline keeps a client on its backend (`sticky.cookie`)";
                self.note(NoteKind::Different, directive, reason);
            }
            _ => self.note(
                NoteKind::Untranslated,
                directive,
                "only the client address can be hashed",
            ),
        }
        "least-sessions"
    }

    /// `sticky` of the commercial version.
    fn sticky(&mut self, pool: &mut PoolDraft, scope: &Scope<'_, 't>) {
        let Some(sticky) = scope.own("sticky").next() else { return };
        match sticky.arg(0) {
            "cookie" => {
                sticky.take();
                pool.settings.string("sticky.cookie.name", sticky.arg(1));
                pool.settings.string("sticky.cookie.set_on", "always");
                let reason = "the cookie has other values: each client gets a new cookie";
                self.note(NoteKind::Different, sticky, reason);
                for word in sticky.args.iter().skip(2) {
                    self.cookie_attribute(pool, sticky, word);
                }
            }
            "learn" => {
                pool.settings.string("sticky.cookie.set_on", "always");
                let reason = "an affinity cookie of Moorline keeps a client on its backend, instead of a cookie of the app";
                self.note(NoteKind::Different, sticky, reason);
            }
            _ => self.note(
                NoteKind::Untranslated,
                sticky,
                "there are `sticky.engine_io` and `sticky.cookie`",
            ),
        }
    }

    fn cookie_attribute(&mut self, pool: &mut PoolDraft, sticky: &Directive, word: &str) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("expires", time) if values::time(time).is_some() => {
                let time = values::time(time).unwrap_or_default();
                pool.settings.set("sticky.cookie.lifetime", duration(time));
            }
            ("expires", "max") => pool.settings.string("sticky.cookie.lifetime", "400d"),
            ("secure", "") => pool.settings.set("sticky.cookie.secure", "true"),
            ("httponly", "") | ("path", "/") => {}
            ("samesite", mode @ ("strict" | "lax" | "none")) => {
                pool.settings.string("sticky.cookie.same_site", mode);
            }
            _ => {
                let reason = format!("`{word}`: the cookie is for the whole host, with path /");
                self.note(NoteKind::Untranslated, sticky, reason);
            }
        }
    }
}
