//! `moorline init --from-nginx`: nginx's configuration in Moorline's terms.
//!
//! [`translate`] reads a tree of directives and marks each one that it uses. What is not marked at the
//! end becomes a note with a reason, so that no directive is dropped silently.

mod answers;
mod auth;
mod filters;
mod listen;
mod location;
mod pool;
mod reasons;
mod rewrites;
mod server;
mod stream;
mod syntax;
mod template;
mod upstream;
mod values;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

pub(super) use self::values::regex_prefixes;
use self::{server::ServerBlock, syntax::Directive};
use super::{
    Translation,
    draft::{ConfigDraft, RouteDraft},
    error::TranslateError,
    files::{self, SourceFiles},
    note::{NoteKind, TranslationNotes},
};

/// Contexts at the top of a file.
const CONTEXTS: [&str; 2] = ["http", "stream"];

/// Blocks whose directives are looked at one by one.
const CONTAINERS: [&str; 5] = ["http", "stream", "server", "upstream", "location"];

/// Translates a configuration of nginx: a whole `nginx.conf`, or a file of `server` blocks.
///
/// # Errors
/// The file cannot be read, does not follow the grammar, or leads to no backend.
pub(super) fn translate(
    path: &Path,
    files: &SourceFiles<'_>,
) -> Result<Translation, TranslateError> {
    let directives = syntax::parse(path, files)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).to_owned();
    let mut nginx = NginxTranslator {
        folder: std::path::absolute(&folder).unwrap_or(folder),
        draft: ConfigDraft::default(),
        notes: TranslationNotes::default(),
        upstreams: HashMap::new(),
        pools: HashMap::new(),
    };
    let whole = directives.iter().any(|directive| CONTEXTS.contains(&directive.name.as_str()));
    if !whole {
        nginx.http(&directives);
    }
    for directive in &directives {
        match directive.name.as_str() {
            "http" => nginx.http(directive.take().children()),
            "stream" => nginx.stream(directive.take().children()),
            _ => {}
        }
    }
    if nginx.draft.pools.is_empty() && nginx.draft.routes.is_empty() {
        let wanted = "`server` block with a `listen` address and a `proxy_pass` to a server";
        return Err(TranslateError::NoBackend { wanted });
    }
    nginx.sweep(&directives);
    Ok(Translation { draft: nginx.draft, notes: nginx.notes.sorted() })
}

/// The translation so far.
struct NginxTranslator<'t> {
    /// Folder of the first file, absolute: relative paths start there.
    folder: PathBuf,
    draft: ConfigDraft,
    notes: TranslationNotes,
    /// `upstream` blocks of the current context, by name.
    upstreams: HashMap<&'t str, &'t Directive>,
    /// Names of pools, by context, scheme and target.
    pools: HashMap<String, String>,
}

/// Directives of a block and of the blocks around it. An inner value replaces an outer one.
#[derive(Clone, Copy)]
struct Scope<'p, 't> {
    parent: Option<&'p Scope<'p, 't>>,
    directives: &'t [Directive],
}

impl<'p, 't> Scope<'p, 't> {
    fn top(directives: &'t [Directive]) -> Self {
        Self { parent: None, directives }
    }

    fn inner(&'p self, directives: &'t [Directive]) -> Self {
        Self { parent: Some(self), directives }
    }

    /// The directives of this name in this block.
    fn own(&self, name: &'static str) -> impl Iterator<Item = &'t Directive> + use<'t> {
        self.directives.iter().filter(move |directive| directive.name == name)
    }

    /// The directives of this name in the nearest block that has one, marked as used.
    fn all(&self, name: &'static str) -> Vec<&'t Directive> {
        let own: Vec<&Directive> = self.own(name).map(Directive::take).collect();
        match (own.is_empty(), self.parent) {
            (true, Some(parent)) => parent.all(name),
            _ => own,
        }
    }

    /// The directives of these names in the nearest block that has one.
    fn nearest(&self, names: &[&str]) -> Vec<&'t Directive> {
        let named = |directive: &&Directive| names.contains(&directive.name.as_str());
        let own: Vec<&Directive> = self.directives.iter().filter(named).collect();
        match (own.is_empty(), self.parent) {
            (true, Some(parent)) => parent.nearest(names),
            _ => own,
        }
    }

    /// The directives of this name in the outermost block.
    fn top_level(&self, name: &'static str) -> impl Iterator<Item = &'t Directive> + use<'t> {
        let mut scope = self;
        while let Some(parent) = scope.parent {
            scope = parent;
        }
        scope.own(name)
    }

    /// The directives of this name in this block and those around it.
    fn outer(&self, name: &'static str) -> impl Iterator<Item = &'t Directive> + use<'t> {
        let mut found: Vec<&Directive> = self.own(name).collect();
        let mut scope = self.parent;
        while let Some(parent) = scope {
            found.extend(parent.own(name));
            scope = parent.parent;
        }
        found.into_iter()
    }

    /// The last directive of this name in the nearest block that has one. Does not mark it.
    fn find_quietly(&self, name: &str) -> Option<&'t Directive> {
        self.nearest(&[name]).pop()
    }

    /// The last directive of this name in the nearest block that has one, marked as used.
    fn find(&self, name: &'static str) -> Option<&'t Directive> {
        self.all(name).pop()
    }
}

impl<'t> NginxTranslator<'t> {
    /// Translates the directives of an `http` block.
    fn http(&mut self, directives: &'t [Directive]) {
        let scope = Scope::top(directives);
        self.upstreams = scope.own("upstream").map(|block| (block.arg(0), block)).collect();
        let trust = self.trusted(directives);
        let servers: Vec<ServerBlock<'t>> =
            scope.own("server").map(|block| self.server(block)).collect();
        let served = self.listeners(&scope, &servers, &trust);
        for (server, listeners) in servers.iter().zip(served) {
            if listeners.is_empty() {
                continue;
            }
            let inner = scope.inner(server.directive.take().children());
            self.server_answer(server, &inner, &listeners);
            self.locations(server, &inner, &listeners);
        }
        self.name_default_hosts(&servers);
        self.draft.simplify_routes();
        if let Some(log) = scope.own("access_log").find(|log| log.arg(0) == "off") {
            log.take();
            self.draft.top.string("access_log", "off");
        }
    }

    /// Adds a route. The first route of a host and path on a listener counts, as in nginx.
    fn add_route(&mut self, route: RouteDraft, directive: &Directive) {
        if let Some(first) = self.draft.add_route(route) {
            let reason = format!("another location has this host and path already ({first})");
            self.notes.add(NoteKind::Untranslated, &directive.origin, &directive.text(), reason);
        }
    }

    /// A note about a directive, which is handled by it.
    fn note(&mut self, kind: NoteKind, directive: &Directive, reason: impl Into<String>) {
        directive.take();
        self.notes.add(kind, &directive.origin, &directive.text(), reason);
    }

    /// A path of a file in the form of the written configuration, which may be in another folder.
    fn file(&self, path: &str) -> String {
        syntax::resolved(&self.folder, path).display().to_string()
    }

    /// Notes every directive that nothing has used.
    fn sweep(&mut self, directives: &[Directive]) {
        for directive in directives {
            let handled = directive.handled.get();
            if CONTAINERS.contains(&directive.name.as_str()) && handled {
                self.sweep(directive.children());
            } else if !handled {
                self.unused(directive);
            }
        }
    }

    /// Notes a directive that nothing has used.
    fn unused(&mut self, directive: &Directive) {
        let (kind, reason) = match (directive.name.as_str(), directive.arg(0)) {
            ("proxy_set_header", _) => return self.request_header(directive),
            ("upstream", _) => (NoteKind::Unneeded, "no location leads to this upstream"),
            ("server", _) if server::redirects(directive) => {
                (NoteKind::Untranslated, "the redirect has no listener")
            }
            ("server", _) if directive.block.is_some() => {
                (NoteKind::Untranslated, "no location of this server leads to a backend")
            }
            ("map", "$http_upgrade" | "$http_connection") => {
                (NoteKind::Unneeded, "upgrades are forwarded without a setting")
            }
            ("include", name) if name.ends_with("mime.types") => {
                (NoteKind::Unneeded, "the app sets its content types")
            }
            ("include", name) if files::has_wildcard(name) => {
                (NoteKind::Unneeded, "no file matches")
            }
            ("location", _) => location::without_backend(directive, false),
            (name, _) => reasons::reason(name, &directive.args),
        };
        self.note(kind, directive, reason);
    }
}

#[cfg(test)]
mod tests;
