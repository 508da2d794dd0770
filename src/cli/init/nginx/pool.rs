//! `proxy_pass` and the settings around it: pools.

use super::{
    super::{
        draft::{BackendDraft, PoolDraft, free_name, quoted},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    syntax::Directive,
    values,
};

/// Target of a `proxy_pass`.
struct PassTarget {
    /// Whether the backend is connected to by TLS.
    tls: bool,
    /// Host and port, or the name of an upstream.
    authority: String,
    /// Whether variables were replaced: nginx then looks the name up again while it runs.
    dynamic: bool,
}

impl<'t> NginxTranslator<'t> {
    /// The pool of a `proxy_pass`, made at its first use, with the settings of this place.
    pub(super) fn pool(&mut self, scope: &Scope<'_, 't>, pass: &'t Directive) -> Option<String> {
        let target = match self.target(scope, pass.arg(0)) {
            Ok(target) => target,
            Err(reason) => {
                self.note(NoteKind::Untranslated, pass, reason);
                return None;
            }
        };
        pass.take();
        self.pool_at(scope, pass, &target)
    }

    /// The pools of a `proxy_pass` to a variable of `split_clients`, as the value of `split`.
    pub(super) fn split(&mut self, scope: &Scope<'_, 't>, pass: &'t Directive) -> Option<String> {
        let url = pass.arg(0);
        let at = url.find('$').filter(|_| !url.ends_with("$request_uri"))?;
        let name = url[at + 1..].trim_matches(['{', '}']).split(['/', ':']).next()?.to_owned();
        let splits = scope.top_level("split_clients");
        let block = splits
            .into_iter()
            .find(|split| split.arg(1).strip_prefix('$') == Some(name.as_str()))?;
        let mut parts = Vec::new();
        let mut left: u32 = 10_000;
        for share in block.children() {
            let weight = match share.name.strip_suffix('%') {
                Some(percent) => (percent.parse::<f64>().ok()? * 100.0).round() as u32,
                None => left,
            };
            left = left.saturating_sub(weight);
            let url = url.replace(&format!("${{{name}}}"), share.arg(0));
            let url = url.replace(&format!("${name}"), share.arg(0));
            let target = self.target(scope, &url).ok()?;
            let pool = self.pool_at(scope, pass, &target)?;
            share.take();
            parts.push(format!("{{ pool = {}, weight = {weight} }}", quoted(&pool)));
        }
        let reason =
            "the shares are drawn at random for each session, and a session stays in its pool";
        self.note(NoteKind::Different, block, reason);
        pass.take();
        (parts.len() > 1).then(|| format!("[{}]", parts.join(", ")))
    }

    /// The pool of a target, with the settings of this place.
    fn pool_at(
        &mut self,
        scope: &Scope<'_, 't>,
        pass: &'t Directive,
        target: &PassTarget,
    ) -> Option<String> {
        let name = self.named_pool("http", target, pass)?;
        let at = self.draft.pools.iter().position(|pool| pool.name == name)?;
        let mut pool = std::mem::take(&mut self.draft.pools[at]);
        self.timeouts(&mut pool, scope);
        self.health(&mut pool, scope);
        if target.tls {
            self.backend_tls(&mut pool, scope, pass);
        }
        self.draft.pools[at] = pool;
        self.host(scope, pass);
        Some(name)
    }

    /// The name of the pool of a target.
    fn named_pool(
        &mut self,
        context: &str,
        target: &PassTarget,
        pass: &'t Directive,
    ) -> Option<String> {
        let key = format!("{context} {} {}", target.tls, target.authority);
        if let Some(name) = self.pools.get(&key) {
            return Some(name.clone());
        }
        let upstream = self.upstreams.get(target.authority.as_str()).copied();
        let pool = match upstream {
            Some(block) => self.upstream(block),
            None => self.single(target, pass)?,
        };
        let wanted: String =
            pool.name.replace(['.', ':', '[', ']'], "-").trim_matches('-').to_owned();
        let name =
            free_name(&wanted, |name| self.draft.pools.iter().any(|known| known.name == name));
        self.draft.pools.push(PoolDraft { name: name.clone(), ..pool });
        self.pools.insert(key, name.clone());
        Some(name)
    }

    /// The pool of a target without an `upstream` block.
    fn single(&mut self, target: &PassTarget, pass: &Directive) -> Option<PoolDraft> {
        let backend = |address| BackendDraft { name: None, address, weight: 1, backup: false };
        if let Some(path) = target.authority.strip_prefix("unix:") {
            let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".sock");
            return Some(PoolDraft {
                name: stem.to_owned(),
                origin: pass.origin.to_string(),
                backends: vec![backend(target.authority.clone())],
                ..PoolDraft::default()
            });
        }
        let default = if target.tls { 443 } else { 80 };
        let Some(address) = with_port(&target.authority, default) else {
            self.note(NoteKind::Untranslated, pass, "this is not a host with a port");
            return None;
        };
        let (host, port) = address.rsplit_once(':')?;
        let local = host.parse::<std::net::IpAddr>().is_ok()
            || host == "localhost"
            || host.starts_with('[');
        let name = if local { format!("app-{port}") } else { host.to_owned() };
        let mut pool = PoolDraft { name, origin: pass.origin.to_string(), ..PoolDraft::default() };
        if target.dynamic && !local {
            pool.source = Some(format!("{{ dns = {} }}", quoted(&address)));
        } else {
            pool.backends.push(backend(address));
        }
        Some(pool)
    }

    /// Reads the URL of a `proxy_pass`.
    fn target(&self, scope: &Scope<'_, 't>, url: &str) -> Result<PassTarget, &'static str> {
        // The path of the request, which is sent in any case.
        let mut url = url.trim_end_matches("$request_uri").to_owned();
        let dynamic = url.contains('$');
        for _ in 0..8 {
            let Some(at) = url.find('$') else { break };
            let name: String = url[at + 1..]
                .chars()
                .skip_while(|char| *char == '{')
                .take_while(|char| char.is_ascii_alphanumeric() || *char == '_')
                .collect();
            let value = variable(scope, &name)
                .ok_or("the target has a variable: a route has one pool; write a route for each")?;
            let braced = url[at..].starts_with("${");
            let end = at + 1 + name.len() + if braced { 2 } else { 0 };
            url.replace_range(at..end.min(url.len()), &value);
        }
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("a backend is reached by http or https"),
        };
        if let Some(path) = rest.strip_prefix("unix:") {
            let path = path.split(':').next().unwrap_or(path);
            let authority =
                unix(path).ok_or("a Unix socket has an absolute path without blanks")?;
            return Ok(PassTarget { tls, authority, dynamic: false });
        }
        let authority = rest.split('/').next().unwrap_or(rest).to_owned();
        if authority.contains('$') || authority.is_empty() {
            return Err("the target has a variable: a route has one pool; write a route for each");
        }
        Ok(PassTarget { tls, authority, dynamic })
    }

    /// Deadlines of a location. A pool of several locations has the longest.
    fn timeouts(&mut self, pool: &mut PoolDraft, scope: &Scope<'_, 't>) {
        let upgrades = scope.all("proxy_set_header").iter().any(|header| {
            header.handled.set(false);
            header.arg(0).eq_ignore_ascii_case("upgrade")
        });
        const CONNECT: &[&str] = &["timeouts.connect"];
        const READ: &[&str] = &["timeouts.response_header", "timeouts.body_idle"];
        const TUNNEL: &[&str] =
            &["timeouts.response_header", "timeouts.body_idle", "timeouts.tunnel_idle"];
        for (name, keys) in [
            ("proxy_connect_timeout", CONNECT),
            ("proxy_read_timeout", if upgrades { TUNNEL } else { READ }),
            ("proxy_send_timeout", &["timeouts.body_idle"]),
        ] {
            let Some(directive) = scope.find(name) else { continue };
            let Some(time) = values::time(directive.arg(0)) else {
                self.note(NoteKind::Untranslated, directive, "this is not a duration");
                continue;
            };
            let known: Vec<&str> =
                keys.iter().copied().filter(|key| pool.lengthen(key, time).is_some()).collect();
            if name != "proxy_send_timeout" && !known.is_empty() {
                let reason =
                    format!("the pool `{}` has several values: the longest is used", pool.name);
                self.note(NoteKind::Different, directive, reason);
            }
        }
    }

    /// `health_check` of the commercial version.
    fn health(&mut self, pool: &mut PoolDraft, scope: &Scope<'_, 't>) {
        let Some(check) = scope.own("health_check").next() else { return };
        check.take();
        pool.settings.string("health.probe", "http");
        for word in &check.args {
            match word.split_once('=') {
                Some(("uri", path)) => pool.settings.string("health.path", path),
                Some(("interval", time)) if values::time(time).is_some() => {
                    let time = values::time(time).unwrap_or_default();
                    pool.lengthen("health.interval", time);
                }
                Some((key @ ("fails" | "passes"), number)) if number.parse::<u32>().is_ok() => {
                    pool.settings
                        .set(if key == "fails" { "health.fall" } else { "health.rise" }, number);
                }
                _ => {
                    let reason = format!("`{word}`: health checks have no equivalent setting");
                    self.note(NoteKind::Untranslated, check, reason);
                }
            }
        }
    }

    /// TLS to the backends.
    fn backend_tls(&mut self, pool: &mut PoolDraft, scope: &Scope<'_, 't>, pass: &'t Directive) {
        let verify = scope.find("proxy_ssl_verify").is_some_and(|verify| verify.arg(0) == "on");
        let ca = scope.find("proxy_ssl_trusted_certificate");
        match (verify, ca) {
            (true, Some(ca)) => pool.settings.string("tls.ca", &self.file(ca.arg(0))),
            (true, None) => pool.settings.set("tls.verify", "true"),
            (false, _) => {
                pool.settings.set("tls.verify", "false");
                let reason = "nginx does not verify backends without `proxy_ssl_verify on`, and nor does the \
                              translation: set `tls.ca` and remove `tls.verify`";
                self.notes.add(NoteKind::Different, &pass.origin, &pass.text(), reason);
            }
        }
        if let Some(name) = scope.find("proxy_ssl_name") {
            match name.arg(0).contains('$') {
                true => self.note(
                    NoteKind::Untranslated,
                    name,
                    "the name of a backend has no variables",
                ),
                false => pool.settings.string("tls.name", name.arg(0)),
            }
        }
        let cert = scope.find("proxy_ssl_certificate").zip(scope.find("proxy_ssl_certificate_key"));
        if let Some((cert, key)) = cert {
            let value = format!(
                "{{ cert = {}, key = {} }}",
                quoted(&self.file(cert.arg(0))),
                quoted(&self.file(key.arg(0)))
            );
            pool.settings.set("tls.client_cert", value);
        }
    }

    /// Notes that backends get the host that the client requested.
    fn host(&mut self, scope: &Scope<'_, 't>, pass: &Directive) {
        let headers = scope.all("proxy_set_header");
        let has_host = headers.iter().any(|header| header.arg(0).eq_ignore_ascii_case("host"));
        headers.iter().for_each(|header| header.handled.set(false));
        if !has_host {
            let reason = "nginx sends the name in `proxy_pass` as `Host`; Moorline passes on the host that the client \
                          requested";
            self.notes.add(NoteKind::Different, &pass.origin, &pass.text(), reason);
        }
    }

    /// Notes a field of requests that no location uses, or that needs no setting.
    pub(super) fn request_header(&mut self, directive: &Directive) {
        if directive.arg(0).eq_ignore_ascii_case("forwarded") {
            self.draft.top.string("forwarded", "always");
            directive.take();
            return;
        }
        let (kind, reason) = known_field(directive.arg(0), directive.arg(1))
            .unwrap_or((NoteKind::Untranslated, "no translated location sends it"));
        self.note(kind, directive, reason);
    }
}

/// Why a field that nginx adds to requests needs no setting; `None`: it needs one.
pub(super) fn known_field(name: &str, value: &str) -> Option<(NoteKind, &'static str)> {
    Some(match (name.to_ascii_lowercase().as_str(), value) {
        ("upgrade" | "connection", _) => {
            (NoteKind::Unneeded, "upgrades are forwarded without a setting")
        }
        ("host", "$host" | "$http_host" | "$host:$server_port" | "$server_name") => {
            (NoteKind::Unneeded, "backends get the host that the client requested")
        }
        ("host", _) => (NoteKind::Untranslated, "only a fixed host can be set"),
        ("x-real-ip", "$remote_addr" | "$realip_remote_addr")
        | ("x-forwarded-for", "$proxy_add_x_forwarded_for" | "$remote_addr")
        | ("x-forwarded-proto" | "x-forwarded-protocol" | "x-scheme", "$scheme" | "https")
        | ("x-forwarded-host", "$host" | "$http_host" | "$host:$server_port")
        | ("x-forwarded-port", _) => {
            (NoteKind::Unneeded, "backends get X-Forwarded-For, -Proto, -Host, -Port and X-Real-IP")
        }
        ("forwarded", _) => (NoteKind::Unneeded, "backends get `Forwarded`"),
        ("x-request-id", "$request_id" | "$http_x_request_id") => {
            (NoteKind::Unneeded, "backends get X-Request-Id, as in the access log")
        }
        _ => return None,
    })
}

/// The address of a Unix socket; `None`: the path is not valid.
pub(super) fn unix(path: &str) -> Option<String> {
    let valid = path.starts_with('/') && !path.contains(|c: char| c.is_whitespace());
    valid.then(|| format!("unix:{path}"))
}

/// The value of a variable that `set` gives, in the nearest block.
fn variable(scope: &Scope<'_, '_>, name: &str) -> Option<String> {
    let set = scope.own("set").find(|set| set.arg(0).strip_prefix('$') == Some(name));
    match (set, scope.parent) {
        (Some(set), _) => Some(set.take().arg(1).to_owned()),
        (None, Some(parent)) => variable(parent, name),
        (None, None) => None,
    }
}

/// A host with its port.
pub(super) fn with_port(authority: &str, default: u16) -> Option<String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()?),
        _ => (authority, default),
    };
    let plain =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c));
    (!host.is_empty() && port > 0 && plain(host)).then(|| format!("{host}:{port}"))
}
