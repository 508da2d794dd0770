//! Frontends: listeners and routes.

use std::collections::HashMap;

use super::{
    super::{
        draft::{
            ListenerDraft, RouteDraft, SettingDrafts, TargetDraft, array, duration, free_name,
            quoted,
        },
        note::NoteKind,
    },
    HaproxyTranslator, ProxySection,
    acl::{self, AclMatch, AclTable, AclTest},
    bind::BindParameters,
    syntax::ConfigLine,
};

impl<'t> HaproxyTranslator<'t> {
    /// The listeners and routes of a frontend, or of a listen section.
    pub(super) fn frontend(&mut self, proxy: &ProxySection<'t>) {
        let named = named_acls(proxy);
        let tcp = proxy.is_tcp();
        let rules: Vec<&ConfigLine> = proxy.own(&["use_backend"]).collect();
        let has_servers = proxy.own(&["server"]).next().is_some()
            || proxy.own(&["server-template"]).next().is_some();
        let default = match proxy.find(&["default_backend"]) {
            Some(line) => Some((line.word(1).to_owned(), line)),
            None if has_servers => Some((proxy.section.name().to_owned(), &proxy.section.head)),
            None => None,
        };
        let leads = default.is_some() || !rules.is_empty();
        let redirect = if tcp { None } else { self.redirect(proxy, &named) };
        if !leads && redirect.is_none() {
            return;
        }
        proxy.section.head.take();
        let groups = self.groups(proxy);
        let many = groups.len() > 1;
        let mut routed = Vec::new();
        for (bind, origin) in groups {
            let mut listener = self.listener(proxy, &bind, &origin, tcp, many);
            if let Some(to) = redirect.as_deref().filter(|_| !bind.tls) {
                listener.settings.string("redirect", to);
            } else if !leads {
                let reason = "requests on this address lead to no backend";
                self.notes.add(
                    NoteKind::Untranslated,
                    &proxy.section.head.origin,
                    &proxy.section.head.text(),
                    reason,
                );
                continue;
            } else if tcp {
                self.streams(&mut listener, proxy, &rules, default.as_ref(), &named);
            } else {
                routed.push(listener.name.clone());
            }
            self.draft.listeners.push(listener);
        }
        if !tcp && !routed.is_empty() {
            self.answers(proxy, &named, &routed);
            self.routes(proxy, &rules, default.as_ref(), &named, &routed);
        }
    }

    /// Groups binds that can share a listener.
    fn groups(&mut self, proxy: &ProxySection<'t>) -> Vec<(BindParameters, String)> {
        let mut groups: Vec<(BindParameters, String)> = Vec::new();
        for line in proxy.own(&["bind"]) {
            let bind = self.bind(line);
            match groups.iter_mut().find(|(known, _)| known.is_like(&bind)) {
                Some((known, _)) => known.addresses.extend(bind.addresses),
                None => groups.push((bind, line.origin.to_string())),
            }
        }
        groups.retain(|(bind, _)| !bind.addresses.is_empty());
        groups
    }

    fn listener(
        &mut self,
        proxy: &ProxySection<'t>,
        bind: &BindParameters,
        origin: &str,
        tcp: bool,
        many: bool,
    ) -> ListenerDraft {
        let protocol = match (tcp, bind.tls) {
            (false, false) => "http",
            (false, true) => "https",
            (true, false) => "tcp",
            (true, true) => "tls",
        };
        let name = proxy.section.name().replace(['.', ':'], "-");
        let wanted = if many { format!("{name}-{protocol}") } else { name };
        let taken = |name: &str| self.draft.listeners.iter().any(|known| known.name == name);
        let mut listener = ListenerDraft {
            name: free_name(&wanted, taken),
            origin: origin.to_owned(),
            bind: bind.addresses.clone(),
            protocol,
            ..ListenerDraft::default()
        };
        if bind.accept_proxy {
            let reason = "HAProxy takes a PROXY header from every address; here only private addresses may send one: \
                          see `from`";
            self.notes.add(NoteKind::Different, &proxy.section.head.origin, "accept-proxy", reason);
            let value = format!("{{ mode = \"required\", from = {} }}", array(&["private"]));
            listener.settings.set("proxy_protocol", value);
        }
        if !tcp {
            for (name, key) in
                [("http-request", "header_timeout"), ("http-keep-alive", "keep_alive")]
            {
                if let Some((_, time)) = proxy.timeout(name).filter(|(_, time)| !time.is_zero()) {
                    listener.settings.set(key, duration(time));
                }
            }
        }
        bind.apply(&mut listener);
        listener
    }

    /// Redirect of the listeners without TLS: `https`, perhaps with a port.
    fn redirect(&mut self, proxy: &ProxySection<'t>, named: &AclTable) -> Option<String> {
        let lines = proxy.section.lines.iter().filter_map(|line| match line.word(0) {
            "redirect" => Some((line, 1)),
            "http-request" if line.word(1) == "redirect" => Some((line, 2)),
            _ => None,
        });
        for (line, from) in lines {
            if line.word(from) != "scheme" || line.word(from + 1) != "https" {
                continue;
            }
            let at = line.words.iter().position(|word| word == "if" || word == "unless");
            let alternatives = at.map(|at| acl::alternatives(line.rest(at), named));
            let only_plain = |found: &Vec<AclMatch>| {
                found.iter().all(|one| one.tls != Some(true) && one.conditions.is_empty())
            };
            let bare = AclMatch { tls: Some(false), ..AclMatch::default() };
            let reason = match alternatives {
                None => "the redirect has status 308, which keeps the method",
                Some(Some(found))
                    if found.iter().all(|one| *one == bare || *one == AclMatch::default()) =>
                {
                    "the redirect has status 308, which keeps the method"
                }
                Some(Some(found)) if only_plain(&found) => {
                    "the redirect has status 308, and is for every host and path of the listener"
                }
                _ => continue,
            };
            self.note(NoteKind::Different, line, reason);
            return Some("https".to_owned());
        }
        None
    }

    /// The routes of a frontend.
    fn routes(
        &mut self,
        proxy: &ProxySection<'t>,
        rules: &[&'t ConfigLine],
        default: Option<&(String, &'t ConfigLine)>,
        named: &AclTable,
        listeners: &[String],
    ) {
        let mut shares: Vec<(u32, u32, &'t ConfigLine)> = Vec::new();
        for rule in rules {
            let wanted = (rule.word(1), rule.rest(2));
            if wanted.0.contains("%[") {
                self.note(
                    NoteKind::Untranslated,
                    rule,
                    "the name of a pool cannot be an expression: write a route for each",
                );
                continue;
            }
            if let Some((share, range)) = random(wanted.1, named).filter(|_| default.is_some()) {
                mark_acls(proxy, wanted.1);
                shares.push((share, range, rule));
                continue;
            }
            let found = match wanted.1.is_empty() {
                true => Some(vec![AclMatch::default()]),
                false => acl::alternatives(wanted.1, named),
            };
            let Some(found) = found else {
                let reason = "its condition has no equivalent in a route and its `match`; the requests follow the other \
                              routes";
                self.note(NoteKind::Untranslated, rule, reason);
                continue;
            };
            mark_acls(proxy, wanted.1);
            for one in found {
                self.rule(proxy, rule, &one, wanted.0, listeners);
            }
        }
        let Some((name, line)) = default else { return };
        line.take();
        match self.split(&shares, name) {
            Some(target) => {
                let settings = self.settings(proxy, name);
                let (one, listeners) = (AclMatch::default(), listeners.to_vec());
                self.routes_of(line, &one, &listeners, (&target, &settings));
            }
            None => self.rule(proxy, line, &AclMatch::default(), name, listeners),
        }
    }

    /// The pools of `use_backend NAME if { rand(RANGE) lt SHARE }` and of the default; `None` without such rules.
    fn split(
        &mut self,
        shares: &[(u32, u32, &'t ConfigLine)],
        default: &str,
    ) -> Option<TargetDraft> {
        let (_, range, first) = *shares.first()?;
        let mut left = range;
        let mut parts = Vec::new();
        for (share, other, rule) in shares {
            let Some(pool) = self.pool(rule.word(1), rule).filter(|_| *other == range) else {
                self.note(NoteKind::Untranslated, rule, "the shares have different ranges");
                continue;
            };
            let weight = (*share).min(left);
            left -= weight;
            let reason = "the share is drawn for each session, and a session stays in its pool";
            self.note(NoteKind::Different, rule, reason);
            parts.push(format!("{{ pool = {}, weight = {weight} }}", quoted(&pool)));
        }
        let pool = self.pool(default, first)?;
        parts.push(format!("{{ pool = {}, weight = {left} }}", quoted(&pool)));
        (parts.len() > 1).then(|| TargetDraft::Value("split", format!("[{}]", parts.join(", "))))
    }

    /// The routes of one alternative of a rule.
    fn rule(
        &mut self,
        proxy: &ProxySection<'t>,
        line: &'t ConfigLine,
        one: &AclMatch,
        backend: &str,
        listeners: &[String],
    ) {
        if one.upgrade && one.paths.is_empty() {
            let reason = "routes do not look at `Upgrade`: WebSockets follow the route of their host and path";
            return self.note(NoteKind::Untranslated, line, reason);
        }
        if one.upgrade {
            let reason =
                "routes do not look at `Upgrade`: every request for the path follows the route";
            self.note(NoteKind::Different, line, reason);
        }
        if !one.sni.is_empty() {
            let reason = "a server name of TLS chooses the pool on layer-4 listeners only";
            return self.note(NoteKind::Untranslated, line, reason);
        }
        let Some(pool) = self.pool(backend, line) else { return };
        line.take();
        let settings = self.settings(proxy, backend);
        self.routes_of(line, one, listeners, (&TargetDraft::Pool(pool), &settings));
    }

    /// The settings of the routes from a frontend to a backend.
    fn settings(&mut self, proxy: &ProxySection<'t>, backend: &str) -> SettingDrafts {
        let mut named = named_acls(proxy);
        match self.proxies.get(backend).copied() {
            Some(to) if to.section.name() != proxy.section.name() => {
                named.extend(named_acls(&to));
                self.filters(&[proxy, &to], &named)
            }
            _ => self.filters(&[proxy], &named),
        }
    }

    /// Adds the routes of an alternative, for each of its hosts and paths.
    pub(super) fn routes_of(
        &mut self,
        line: &'t ConfigLine,
        one: &AclMatch,
        listeners: &[String],
        (target, settings): (&TargetDraft, &SettingDrafts),
    ) {
        if one.conditions.compares("header") {
            let reason = "`match` compares a whole field, not each part between commas";
            self.notes.add(NoteKind::Different, &line.origin, &line.text(), reason);
        }
        let hosts = one.hosts.iter().cloned().map(Some).collect::<Vec<_>>();
        let hosts = if hosts.is_empty() { vec![None] } else { hosts };
        let root = vec!["/".to_owned()];
        for path in if one.paths.is_empty() { &root } else { &one.paths } {
            if !path.ends_with('/') {
                let reason = format!("a path ends at a slash: `{path}x` is not covered");
                self.note(NoteKind::Different, line, reason);
            }
            for host in &hosts {
                let route = RouteDraft {
                    origin: line.origin.to_string(),
                    host: host.clone(),
                    path: path.clone(),
                    conditions: one.conditions.clone(),
                    target: target.clone(),
                    listeners: listeners.to_vec(),
                    settings: settings.clone(),
                };
                self.add_route(route, line);
            }
        }
    }

    /// Adds a route.
    fn add_route(&mut self, route: RouteDraft, line: &ConfigLine) {
        if let Some(first) = self.draft.add_in_order(route) {
            let reason = format!("an earlier rule takes these requests ({first})");
            self.notes.add(NoteKind::Different, &line.origin, &line.text(), reason);
        }
    }

    /// Pools of a layer-4 listener: by server name, and for all others.
    fn streams(
        &mut self,
        listener: &mut ListenerDraft,
        proxy: &ProxySection<'t>,
        rules: &[&'t ConfigLine],
        default: Option<&(String, &'t ConfigLine)>,
        named: &AclTable,
    ) {
        for rule in rules {
            let found = acl::alternatives(rule.rest(2), named).unwrap_or_default();
            let only_names = |one: &AclMatch| {
                !one.sni.is_empty()
                    && one.hosts.is_empty()
                    && one.paths.is_empty()
                    && one.conditions.is_empty()
            };
            if found.is_empty() || !found.iter().all(only_names) || listener.protocol == "tls" {
                let reason =
                    "only the server name of TLS (`req_ssl_sni`) can choose the pool of a stream";
                self.note(NoteKind::Untranslated, rule, reason);
                continue;
            }
            let Some(pool) = self.pool(rule.word(1), rule) else { continue };
            rule.take();
            mark_acls(proxy, rule.rest(2));
            let names = found.into_iter().flat_map(|one| one.sni);
            listener.passthrough.extend(names.map(|name| (name, pool.clone())));
        }
        if !listener.passthrough.is_empty() {
            listener.protocol = "tls-passthrough";
        }
        if let Some((name, line)) = default
            && let Some(pool) = self.pool(name, line)
        {
            listener.settings.string("pool", &pool);
        }
    }
}

/// The share and the range of a condition that draws requests at random; `None`: it is another one.
fn random(condition: &[String], named: &AclTable) -> Option<(u32, u32)> {
    let [keyword, rest @ ..] = condition else { return None };
    let test = match rest {
        [open, inner @ .., close] if open == "{" && close == "}" => acl::test(inner),
        [name] => named.get(name)?.first()?.clone(),
        _ => return None,
    };
    match test {
        AclTest::Random(share, range) if keyword == "if" => Some((share, range)),
        _ => None,
    }
}

/// The ACLs of a section. Lines of one name are alternatives.
pub(super) fn named_acls(proxy: &ProxySection<'_>) -> AclTable {
    let mut named: AclTable = HashMap::new();
    for line in proxy.own(&["acl"]) {
        named.entry(line.word(1).to_owned()).or_default().push(acl::test(line.rest(2)));
    }
    named
}

/// Marks the ACLs that a translated condition names.
pub(super) fn mark_acls(proxy: &ProxySection<'_>, condition: &[String]) {
    for line in proxy.own(&["acl"]) {
        if condition.iter().any(|word| word.trim_start_matches('!') == line.word(1)) {
            line.take();
        }
    }
}
