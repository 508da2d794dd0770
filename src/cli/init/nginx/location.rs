//! `location` blocks: routes from paths to pools.

use super::{
    super::{
        draft::{MatchDraft, RouteDraft, SettingDrafts, TargetDraft},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    answers::{self, LocationAnswer},
    server::{ServerBlock, proxies},
    syntax::Directive,
    values,
};

/// Which paths a location covers.
pub(super) enum LocationPaths {
    /// A prefix; exact if nothing below it is covered.
    Prefix { path: String, exact: bool },
    /// The prefixes of a regular expression.
    Regex(Vec<String>),
    /// Paths that prefixes cannot express, with the reason.
    Unsupported(&'static str),
    /// A named location, which others refer to.
    Named,
}

impl<'t> NginxTranslator<'t> {
    /// Adds the routes of a server.
    pub(super) fn locations(
        &mut self,
        server: &ServerBlock<'t>,
        scope: &Scope<'_, 't>,
        listeners: &[String],
    ) {
        let root = scope.own("location").find(|location| {
            location.args.last().is_some_and(|path| path == "/") && proxies(location.children())
        });
        let routing = Routing { server, listeners, has_root: root.is_some() };
        self.level(&routing, scope);
    }

    /// Adds the routes of the locations of one block.
    fn level(&mut self, routing: &Routing<'_, 't>, scope: &Scope<'_, 't>) {
        for location in scope.own("location") {
            if location.handled.get() {
                continue;
            }
            let inner = scope.inner(location.children());
            // No client reaches it; another directive may name it.
            if inner.own("internal").next().is_some() && proxies(location.children()) {
                continue;
            }
            let pass = self.pass(&inner, scope);
            let paths = paths(location);
            match (&paths, pass) {
                (LocationPaths::Named, _) => {}
                (LocationPaths::Unsupported(why), Some(_)) => {
                    location.take_all();
                    let reason = format!("{why}; {}", routing.otherwise());
                    self.note(NoteKind::Untranslated, location, reason);
                }
                (_, None) => match self.answer(&paths, &inner) {
                    Some(answer) => self.answered(routing, location, &paths, &inner, answer),
                    None => self.unrouted(routing, location, &inner),
                },
                (LocationPaths::Prefix { .. }, Some((scope, pass))) => {
                    self.route(routing, location, &paths, &scope, pass);
                    self.level(routing, &inner);
                }
                (LocationPaths::Regex(_), Some((scope, pass))) => {
                    let reason = "the regular expression became path prefixes";
                    self.note(NoteKind::Different, location, reason);
                    self.route(routing, location, &paths, &scope, pass);
                }
            }
        }
    }

    /// Adds the routes of a location that answers by itself.
    fn answered(
        &mut self,
        routing: &Routing<'_, 't>,
        location: &'t Directive,
        paths: &LocationPaths,
        scope: &Scope<'_, 't>,
        answer: LocationAnswer,
    ) {
        if let LocationPaths::Unsupported(_) = paths {
            location.take_all();
            let (kind, reason) = without_backend(location, routing.has_root);
            return self.note(kind, location, format!("{reason}; {}", routing.otherwise()));
        }
        location.take();
        let LocationAnswer { target, settings: mut own } = answer;
        let (target, settings) = match self.filters(scope) {
            Some(settings) => (target, settings),
            None => (denied(), SettingDrafts::default()),
        };
        own.extend(&settings);
        self.error_pages(&mut own, scope);
        self.add_routes(routing, location, paths, (&target, &own));
        self.level(routing, scope);
    }

    /// Adds the route of a server that answers every request by itself.
    pub(super) fn server_answer(
        &mut self,
        server: &ServerBlock<'t>,
        scope: &Scope<'_, 't>,
        listeners: &[String],
    ) {
        let target = match &server.redirect {
            Some(redirect) => {
                redirect.others.iter().for_each(|other| _ = other.take());
                redirect.directive.take();
                let port = redirect.port.map_or(String::new(), |port| format!(":{port}"));
                let host = redirect.host.as_deref().unwrap_or("{host}");
                let reason =
                    "clients of Engine.IO and WebSockets get a 404, as they follow no redirect";
                self.note(NoteKind::Different, redirect.directive, reason);
                let code = match redirect.directive.args.last().map(String::as_str) {
                    Some("redirect") => 302,
                    _ => redirect.directive.arg(0).parse().unwrap_or(301),
                };
                answers::redirect(&format!("https://{host}{port}{{path}}{{query}}"), code)
            }
            None => scope.own("return").next().and_then(|found| self.returned(found, scope)),
        };
        let Some(target) = target else { return };
        let routing = Routing { server, listeners, has_root: false };
        let root = LocationPaths::Prefix { path: "/".to_owned(), exact: false };
        let settings = self.filters(scope).unwrap_or_default();
        self.add_routes(&routing, server.directive, &root, (&target, &settings));
    }

    /// The `proxy_pass` of a location, its own or that of a named location, with the scope of it.
    fn pass<'p>(
        &mut self,
        inner: &'p Scope<'p, 't>,
        outer: &'p Scope<'p, 't>,
    ) -> Option<(Scope<'p, 't>, &'t Directive)> {
        if let Some(pass) = inner.own("proxy_pass").next() {
            return Some((*inner, pass));
        }
        let name = inner.own("try_files").find_map(|files| files.args.last())?;
        let named = outer.own("location").find(|location| location.arg(0) == name.as_str())?;
        let pass = named.children().iter().find(|directive| directive.name == "proxy_pass")?;
        named.take();
        Some((outer.inner(named.children()), pass))
    }

    /// Adds the routes of a location with a backend.
    fn route(
        &mut self,
        routing: &Routing<'_, 't>,
        location: &'t Directive,
        paths: &LocationPaths,
        scope: &Scope<'_, 't>,
        pass: &'t Directive,
    ) {
        location.take();
        let target = match self.split(scope, pass) {
            Some(pools) => TargetDraft::Value("split", pools),
            None => match self.pool(scope, pass) {
                Some(pool) => TargetDraft::Pool(pool),
                None => return,
            },
        };
        let mut settings = SettingDrafts::default();
        match self.rewrites(&mut settings, scope) {
            true => {}
            false => self.rewritten(&mut settings, location, pass, paths),
        }
        self.mirrored(&mut settings, scope);
        // Comes last: it marks the fields that it translates.
        let target = match self.filters(scope) {
            Some(filters) => {
                settings.extend(&filters);
                self.error_pages(&mut settings, scope);
                target
            }
            None => {
                settings = SettingDrafts::default();
                denied()
            }
        };
        self.add_routes(routing, location, paths, (&target, &settings));
    }

    /// Adds the routes of a location, for each of its paths and of the hosts of its server.
    fn add_routes(
        &mut self,
        routing: &Routing<'_, 't>,
        location: &'t Directive,
        paths: &LocationPaths,
        (target, settings): (&TargetDraft, &SettingDrafts),
    ) {
        let (paths, exact) = match paths {
            LocationPaths::Prefix { path, exact } => (std::slice::from_ref(path), *exact),
            LocationPaths::Regex(prefixes) => (&prefixes[..], false),
            LocationPaths::Unsupported(_) | LocationPaths::Named => return,
        };
        for path in paths {
            let Some(path) = route_path(path) else {
                let reason = format!("`{path}` cannot be the path of a route");
                self.note(NoteKind::Untranslated, location, reason);
                continue;
            };
            if exact && path != "/" {
                self.note(
                    NoteKind::Different,
                    location,
                    "a route covers everything below its path as well",
                );
            } else if !path.ends_with('/') {
                let reason = format!("a path ends at a slash: `{path}x` is not covered");
                self.note(NoteKind::Different, location, reason);
            }
            for host in &routing.server.hosts {
                let route = RouteDraft {
                    origin: location.origin.to_string(),
                    host: host.clone(),
                    path: path.clone(),
                    conditions: MatchDraft::default(),
                    target: target.clone(),
                    listeners: routing.listeners.to_vec(),
                    settings: settings.clone(),
                };
                self.add_route(route, location);
            }
        }
    }

    /// Notes a location that leads to no backend; looks at the locations in it.
    fn unrouted(
        &mut self,
        routing: &Routing<'_, 't>,
        location: &'t Directive,
        inner: &Scope<'_, 't>,
    ) {
        if location
            .children()
            .iter()
            .any(|child| child.name == "location" && proxies(child.children()))
        {
            location.take();
            self.level(routing, inner);
            return;
        }
        let (kind, reason) = without_backend(location, routing.has_root);
        location.take_all();
        self.note(kind, location, format!("{reason}; {}", routing.otherwise()));
    }

    /// Notes that hosts may get another server than before: nginx sends unknown hosts to the first server
    /// of an address.
    pub(super) fn name_default_hosts(&mut self, servers: &[ServerBlock<'t>]) {
        let any = servers.iter().any(|server| server.proxies && server.hosts.contains(&None));
        let first = servers.iter().find(|server| server.proxies && server.directive.handled.get());
        let Some(first) = first.filter(|_| !any) else { return };
        let reason = "nginx sends requests for unknown hosts to the first server of an address; Moorline answers them \
                      with 404, unless a route has no `host`";
        self.note(NoteKind::Different, first.directive, reason);
    }
}

/// Common settings of the locations of a server.
struct Routing<'r, 't> {
    server: &'r ServerBlock<'t>,
    listeners: &'r [String],
    /// Whether `location /` leads to a backend.
    has_root: bool,
}

impl Routing<'_, '_> {
    /// Returns what happens to requests for a location that has no route.
    fn otherwise(&self) -> &'static str {
        match self.has_root {
            true => "requests for it follow the route of `/`",
            false => "requests for it get a 404",
        }
    }
}

/// Why a location without a backend is not translated.
pub(super) fn without_backend(location: &Directive, has_root: bool) -> (NoteKind, &'static str) {
    let has = |names: &[&str]| {
        location.children().iter().any(|child| names.contains(&child.name.as_str()))
    };
    let path = location.args.last().map_or("", String::as_str);
    if has(&["deny", "auth_basic", "auth_request", "auth_jwt", "internal"]) && has_root {
        return (
            NoteKind::Unprotected,
            "Moorline has no equivalent check: let the app reject these paths",
        );
    }
    let reason = if path.contains("acme-challenge") {
        "Moorline answers the challenges for certificates that it orders (`certificates.acme`), and serves no webroot"
    } else if has(&["fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass"]) {
        "Moorline forwards HTTP/1.1 and WebSocket only: keep nginx for this, as a backend"
    } else if has(&["return", "rewrite"]) {
        "its answer has no equivalent; `admin` serves /live and /ready for health checks"
    } else if has(&["internal"]) {
        "an internal location has no route"
    } else if location.arg(0).starts_with('~') {
        "a route has a path prefix, not a regular expression"
    } else if has(&["stub_status"]) {
        "`admin` serves metrics for Prometheus, and `moorline status` shows the state"
    } else {
        "it has neither a backend nor a folder"
    };
    (NoteKind::Untranslated, reason)
}

fn paths(location: &Directive) -> LocationPaths {
    match location.args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [name] if name.starts_with('@') => LocationPaths::Named,
        ["~" | "~*", regex] => match values::regex_prefixes(regex) {
            Some(prefixes) => LocationPaths::Regex(prefixes),
            None => {
                LocationPaths::Unsupported("a route has a path prefix, not a regular expression")
            }
        },
        ["=", path] => LocationPaths::Prefix { path: (*path).to_owned(), exact: true },
        ["^~", path] | [path] => LocationPaths::Prefix { path: (*path).to_owned(), exact: false },
        _ => LocationPaths::Unsupported("this kind of location is not supported"),
    }
}

/// What a location answers that denies every client.
pub(super) fn denied() -> TargetDraft {
    TargetDraft::Value("respond", "{ status = 403 }".to_owned())
}

/// A path that can be a route's.
fn route_path(path: &str) -> Option<String> {
    let plain = path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#*;\\%".contains(&byte))
        && !path.split('/').any(|segment| matches!(segment, "." | ".."));
    plain.then(|| path.to_owned())
}
