//! `location` blocks: routes from paths to pools.

use super::{
    super::{draft::RouteDraft, note::NoteKind},
    NginxTranslator, Scope,
    server::{ServerBlock, proxies},
    syntax::Directive,
    values,
};

/// Which paths a location covers.
enum LocationPaths {
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
            let inner = scope.inner(location.children());
            let pass = self.pass(&inner, scope);
            match (paths(location), pass) {
                (LocationPaths::Named, _) => {}
                (LocationPaths::Unsupported(why), Some(_)) => {
                    location.take_all();
                    let reason = format!("{why}; {}", routing.otherwise());
                    self.note(NoteKind::Untranslated, location, reason);
                }
                (_, None) => self.unrouted(routing, location, &inner),
                (LocationPaths::Prefix { path, exact }, Some((scope, pass))) => {
                    self.route(routing, location, &[path], exact, &scope, pass);
                    self.level(routing, &inner);
                }
                (LocationPaths::Regex(prefixes), Some((scope, pass))) => {
                    let reason = "the regular expression became path prefixes";
                    self.note(NoteKind::Different, location, reason);
                    self.route(routing, location, &prefixes, false, &scope, pass);
                }
            }
        }
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

    /// Adds the routes of one location.
    fn route(
        &mut self,
        routing: &Routing<'_, 't>,
        location: &'t Directive,
        paths: &[String],
        exact: bool,
        scope: &Scope<'_, 't>,
        pass: &'t Directive,
    ) {
        location.take();
        let Some(pool) = self.pool(scope, pass) else { return };
        self.rewritten(location, pass, paths);
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
                    pool: pool.clone(),
                    listeners: routing.listeners.to_vec(),
                };
                self.add_route(route, location);
            }
        }
    }

    /// Notes a path that nginx rewrites.
    fn rewritten(&mut self, location: &Directive, pass: &Directive, paths: &[String]) {
        let url = pass.arg(0);
        let after = url.split_once("://").map_or("", |(_, rest)| rest);
        let Some(uri) = after.find('/').map(|at| &after[at..]) else { return };
        if paths.iter().all(|path| path == uri) {
            return;
        }
        let typed = location.args.last().map_or("", String::as_str);
        let reason = format!(
            "paths are not rewritten: nginx replaces `{typed}` by `{uri}`, and Moorline forwards the path unchanged"
        );
        self.note(NoteKind::Untranslated, pass, reason);
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
        "there are no fixed replies and redirects for single paths; `admin` serves /live and /ready for health checks"
    } else if has(&["stub_status"]) {
        "`admin` serves metrics for Prometheus, and `moorline status` shows the state"
    } else {
        "Moorline serves no files: serve them by a backend or a CDN"
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

/// A path that can be a route's.
fn route_path(path: &str) -> Option<String> {
    let plain = path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#*;\\%".contains(&byte))
        && !path.split('/').any(|segment| matches!(segment, "." | ".."));
    plain.then(|| path.to_owned())
}
