//! The `stream` block: listeners and pools of layer 4.

use super::{
    super::{
        draft::{BackendDraft, CertificateDraft, ListenerDraft, PoolDraft, array, free_name},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    pool::{unix, with_port},
    syntax::Directive,
    values::{self, ListenAddress},
};

impl<'t> NginxTranslator<'t> {
    /// Translates the directives of a `stream` block.
    pub(super) fn stream(&mut self, directives: &'t [Directive]) {
        let scope = Scope::top(directives);
        self.upstreams = scope.own("upstream").map(|block| (block.arg(0), block)).collect();
        for server in scope.own("server") {
            self.stream_server(server, &scope);
        }
    }

    fn stream_server(&mut self, server: &'t Directive, outer: &Scope<'_, 't>) {
        let scope = outer.inner(server.children());
        let listens: Vec<&Directive> = scope.own("listen").collect();
        let mut bind = Vec::new();
        let mut tls = false;
        let mut accept_proxy = false;
        for listen in &listens {
            tls |= listen.args.iter().any(|word| word == "ssl");
            accept_proxy |= listen.args.iter().any(|word| word == "proxy_protocol");
            match values::listen(listen.arg(0)) {
                _ if listen.args.iter().any(|word| word == "udp") => {
                    self.note(NoteKind::Untranslated, listen, "UDP is not supported");
                }
                ListenAddress::Ip { host, port } => {
                    listen.take();
                    let tuning =
                        |word: &&String| !matches!(word.as_str(), "ssl" | "proxy_protocol");
                    for word in listen.args.iter().skip(1).filter(tuning) {
                        let reason = format!("`{word}`: sockets are tuned without settings");
                        self.note(NoteKind::Unneeded, listen, reason);
                    }
                    bind.push((format!("{host}:{port}"), port));
                }
                _ => self.note(
                    NoteKind::Untranslated,
                    listen,
                    "listeners have an IP address and a port",
                ),
            }
        }
        let (Some(pass), Some((_, port))) = (scope.own("proxy_pass").next(), bind.first()) else {
            // The note about the unusable address is enough: no further notes about this server.
            if !listens.is_empty() && bind.is_empty() {
                server.take_all();
            }
            return;
        };
        server.take();
        let preread = scope.find("ssl_preread").is_some_and(|preread| preread.arg(0) == "on");
        let protocol = match (tls, preread) {
            (true, _) => "tls",
            (false, true) => "tls-passthrough",
            (false, false) => "tcp",
        };
        let taken = |name: &str| self.draft.listeners.iter().any(|known| known.name == name);
        let mut listener = ListenerDraft {
            name: free_name(&format!("{protocol}-{port}"), taken),
            origin: server.origin.to_string(),
            bind: bind.iter().map(|(address, _)| address.clone()).collect(),
            protocol,
            ..ListenerDraft::default()
        };
        if accept_proxy {
            self.accept_proxy(&mut listener, &scope, server);
        }
        if !self.stream_target(&mut listener, &scope, outer, pass) {
            return;
        }
        if tls {
            for (cert, key) in
                scope.all("ssl_certificate").iter().zip(scope.all("ssl_certificate_key"))
            {
                let (cert, key) = (self.file(cert.arg(0)), self.file(key.arg(0)));
                listener.certificates.push(CertificateDraft { cert, key, ocsp: None });
            }
        }
        self.draft.listeners.push(listener);
    }

    /// PROXY headers from the networks of `set_real_ip_from`.
    fn accept_proxy(
        &mut self,
        listener: &mut ListenerDraft,
        scope: &Scope<'_, 't>,
        server: &Directive,
    ) {
        let named = scope.all("set_real_ip_from");
        let mut from: Vec<String> = named.iter().map(|network| network.arg(0).to_owned()).collect();
        if from.is_empty() {
            let reason = "nginx takes a PROXY header from every address; here only private addresses may send one: \
                          see `from`";
            self.notes.add(NoteKind::Different, &server.origin, "proxy_protocol", reason);
            from.push("private".to_owned());
        }
        let value = format!("{{ mode = \"required\", from = {} }}", array(&from));
        listener.settings.set("proxy_protocol", value);
    }

    /// Names the pools of a listener: one, or one for each server name of a `map`.
    fn stream_target(
        &mut self,
        listener: &mut ListenerDraft,
        scope: &Scope<'_, 't>,
        outer: &Scope<'_, 't>,
        pass: &'t Directive,
    ) -> bool {
        let Some(variable) = pass.arg(0).strip_prefix('$') else {
            let Some(pool) = self.stream_pool(scope, pass.arg(0), pass) else { return false };
            listener.settings.string("pool", &pool);
            pass.take();
            return true;
        };
        let map = outer.own("map").find(|map| {
            map.arg(0) == "$ssl_preread_server_name"
                && map.arg(1).strip_prefix('$') == Some(variable)
        });
        let Some(map) = map else {
            self.note(
                NoteKind::Untranslated,
                pass,
                "only a `map` of $ssl_preread_server_name can choose the pool",
            );
            return false;
        };
        map.take();
        pass.take();
        for entry in map.children() {
            let (name, target) = (entry.name.as_str(), entry.arg(0));
            if name == "hostnames" {
                continue;
            }
            let Some(pool) = self.stream_pool(scope, target, entry) else { continue };
            if name == "default" {
                listener.settings.string("pool", &pool);
                continue;
            }
            match values::hosts(name) {
                Some(hosts) => {
                    let hosts = hosts.into_iter().flatten();
                    listener.passthrough.extend(hosts.map(|host| (host, pool.clone())));
                }
                None => self.note(
                    NoteKind::Untranslated,
                    entry,
                    "a server name is a name or a wildcard",
                ),
            }
        }
        true
    }

    /// The pool of a target at layer 4.
    fn stream_pool(
        &mut self,
        scope: &Scope<'_, 't>,
        target: &str,
        at: &'t Directive,
    ) -> Option<String> {
        let key = format!("stream {target}");
        if let Some(name) = self.pools.get(&key) {
            return Some(name.clone());
        }
        let mut pool = match self.upstreams.get(target).copied() {
            Some(block) => self.upstream(block),
            None => {
                let address = match target.strip_prefix("unix:") {
                    Some(path) => unix(path),
                    None => with_port(target, 0),
                };
                let Some(address) = address else {
                    self.note(
                        NoteKind::Untranslated,
                        at,
                        "a target is an upstream, or a host with a port",
                    );
                    return None;
                };
                let name = address.replace(['.', ':', '[', ']'], "-").trim_matches('-').to_owned();
                let backends = vec![BackendDraft { name: None, address, weight: 1, backup: false }];
                PoolDraft { name, origin: at.origin.to_string(), backends, ..PoolDraft::default() }
            }
        };
        if let Some(time) = scope.find("proxy_connect_timeout").and_then(|d| values::time(d.arg(0)))
        {
            pool.lengthen("timeouts.connect", time);
        }
        if let Some(time) = scope.find("proxy_timeout").and_then(|d| values::time(d.arg(0))) {
            pool.lengthen("timeouts.tunnel_idle", time);
        }
        if scope.find("proxy_protocol").is_some_and(|on| on.arg(0) == "on") {
            pool.settings.string("proxy_protocol", "v1");
        }
        let name =
            free_name(&pool.name, |name| self.draft.pools.iter().any(|known| known.name == name));
        self.draft.pools.push(PoolDraft { name: name.clone(), ..pool });
        self.pools.insert(key, name.clone());
        Some(name)
    }
}
