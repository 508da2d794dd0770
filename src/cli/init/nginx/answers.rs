//! Locations that answer without a backend, and pages for errors.

use super::{
    super::{
        draft::{SettingDrafts, TargetDraft, quoted},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    location::{LocationPaths, denied},
    syntax::Directive,
    template::template,
};

/// Statuses of replies that the proxy makes, which can have a page.
const OWN_STATUSES: [&str; 10] =
    ["400", "403", "404", "405", "408", "413", "414", "502", "503", "504"];

/// Directives whose loss would give access to what they protect.
const PROTECTING: [&str; 6] =
    ["auth_basic", "auth_request", "auth_jwt", "internal", "secure_link", "satisfy"];

/// What a location answers by itself.
pub(super) struct LocationAnswer {
    pub(super) target: TargetDraft,
    /// Further settings, such as a change of the path.
    pub(super) settings: SettingDrafts,
}

impl<'t> NginxTranslator<'t> {
    /// The answer of a location without a backend: `return`, `rewrite` with a redirect, or files.
    pub(super) fn answer(
        &mut self,
        paths: &LocationPaths,
        scope: &Scope<'_, 't>,
    ) -> Option<LocationAnswer> {
        let is_on = |directive: &Directive| directive.arg(0) != "off";
        if PROTECTING.iter().any(|name| scope.find_quietly(name).is_some_and(is_on)) {
            return None;
        }
        let settings = SettingDrafts::default();
        if let Some(directive) = scope.own("return").next() {
            let target = self.returned(directive, scope)?;
            return Some(LocationAnswer { target, settings });
        }
        if let Some(target) = scope.own("rewrite").find_map(redirecting_rewrite) {
            return Some(LocationAnswer { target, settings });
        }
        let closed = scope.own("deny").any(|rule| rule.arg(0) == "all");
        let refused = || LocationAnswer { target: denied(), settings };
        self.files(paths, scope)
            .or_else(|| (closed && scope.own("allow").next().is_none()).then(refused))
    }

    /// `return CODE`, `return CODE TEXT`, `return CODE URL`, `return URL`.
    pub(super) fn returned(
        &mut self,
        directive: &'t Directive,
        scope: &Scope<'_, 't>,
    ) -> Option<TargetDraft> {
        let (code, text) = match &directive.args[..] {
            [url] if url.parse::<u16>().is_err() => (302, Some(url)),
            [code] => (code.parse().ok()?, None),
            [code, text] => (code.parse().ok()?, Some(text)),
            _ => return None,
        };
        if code == 444 {
            let reason = "a connection is not closed without an answer: `respond = { status = 403 }` refuses requests";
            self.note(NoteKind::Untranslated, directive, reason);
            return None;
        }
        let text = match text.map(|text| template(text)).transpose() {
            Ok(text) => text,
            Err(variable) => {
                let reason = format!("`{variable}`: templates have no such variable");
                self.note(NoteKind::Untranslated, directive, reason);
                return None;
            }
        };
        directive.take();
        match (code, text) {
            (301 | 302 | 303 | 307 | 308, Some(to)) => {
                let target = redirect(&to, code);
                if target.is_none() {
                    let reason = "a redirect leads to a URL or to a path";
                    self.note(NoteKind::Untranslated, directive, reason);
                }
                target
            }
            (200..=599, text) => {
                let mut keys = vec![format!("status = {code}")];
                if let Some(text) =
                    text.filter(|text| !text.is_empty() && !matches!(code, 204 | 304))
                {
                    keys.push(format!("body = {}", quoted(&text)));
                    if let Some(kind) = scope.find("default_type") {
                        keys.push(format!("type = {}", quoted(kind.arg(0))));
                    }
                }
                Some(TargetDraft::Value("respond", format!("{{ {} }}", keys.join(", "))))
            }
            _ => None,
        }
    }

    /// `root`, `alias`, `index` and `try_files`.
    fn files(&mut self, paths: &LocationPaths, scope: &Scope<'_, 't>) -> Option<LocationAnswer> {
        const HANDLERS: [&str; 7] = [
            "fastcgi_pass",
            "uwsgi_pass",
            "scgi_pass",
            "grpc_pass",
            "memcached_pass",
            "stub_status",
            "proxy_pass",
        ];
        if scope.directives.iter().any(|directive| HANDLERS.contains(&directive.name.as_str())) {
            return None;
        }
        let LocationPaths::Prefix { path, exact } = paths else { return None };
        let mut settings = SettingDrafts::default();
        let root = match scope.own("alias").next() {
            Some(alias) if *exact => {
                self.note(NoteKind::Untranslated, alias, "a route has a folder, not one file");
                return None;
            }
            Some(alias) => {
                if path != "/" {
                    settings.string("rewrite.strip_prefix", path.trim_end_matches('/'));
                }
                alias.take()
            }
            None => scope.find("root")?,
        };
        if root.arg(0).contains('$') {
            self.note(NoteKind::Untranslated, root, "the name of a folder has no variables");
            return None;
        }
        let mut keys = vec![format!("root = {}", quoted(&self.file(root.arg(0))))];
        if let Some(index) = scope.find("index").filter(|index| index.arg(0) != "index.html") {
            match index.arg(0).contains(['$', '/']) {
                true => self.note(NoteKind::Untranslated, index, "an index is the name of a file"),
                false => keys.push(format!("index = {}", quoted(index.arg(0)))),
            }
        }
        if let Some(tries) = scope.own("try_files").next() {
            match tries.args.last().map_or("", String::as_str) {
                page if page.starts_with('/') && !page.contains('$') => {
                    keys.push(format!("spa = {}", quoted(page)));
                    tries.take();
                }
                "=404" => _ = tries.take(),
                _ => {
                    self.note(NoteKind::Untranslated, tries, "only a page or `=404` can come last")
                }
            }
        }
        if scope.find("gzip_static").is_some_and(|switch| switch.arg(0) != "off") {
            keys.push("precompressed = true".to_owned());
        }
        Some(LocationAnswer {
            target: TargetDraft::Value("files", format!("{{ {} }}", keys.join(", "))),
            settings,
        })
    }

    /// `error_page`: pages for errors that the proxy reports itself.
    pub(super) fn error_pages(&mut self, settings: &mut SettingDrafts, scope: &Scope<'_, 't>) {
        let mut pages = Vec::new();
        for directive in scope.all("error_page") {
            let Some((uri, codes)) = directive.args.split_last() else { continue };
            let changes = codes.iter().any(|code| code.starts_with('='));
            let folder = self.page_folder(scope, uri).filter(|_| uri.starts_with('/') && !changes);
            let Some(folder) = folder else {
                let reason = "`error_pages` are files; redirects, other statuses and named locations are not supported";
                self.note(NoteKind::Untranslated, directive, reason);
                continue;
            };
            let file = quoted(&self.file(&format!("{}{uri}", folder.trim_end_matches('/'))));
            let all = ["502", "503", "504"].iter().all(|code| codes.iter().any(|c| c == code));
            if all {
                pages.push(format!("5xx = {file}"));
            }
            let single = codes.iter().filter(|code| OWN_STATUSES.contains(&code.as_str()));
            pages.extend(
                single
                    .filter(|code| !all || !code.starts_with('5'))
                    .map(|code| format!("{code} = {file}")),
            );
            let reason =
                "the page is for errors that the proxy reports itself, not for replies of backends";
            self.note(NoteKind::Different, directive, reason);
        }
        if !pages.is_empty() {
            settings.set("error_pages", format!("{{ {} }}", pages.join(", ")));
        }
    }

    /// The folder of the page at a path: the `root` of its location, or of the block around.
    fn page_folder(&mut self, scope: &Scope<'_, 't>, uri: &str) -> Option<String> {
        let own = scope.outer("location").find(|location| location.args == ["=", uri]);
        let own = own.and_then(|location| {
            let root = location.children().iter().find(|directive| directive.name == "root")?;
            location.take_all();
            Some(root.arg(0).to_owned())
        });
        let root = own.or_else(|| Some(scope.find("root")?.arg(0).to_owned()))?;
        (!root.contains('$')).then_some(root)
    }
}

/// A `rewrite` that redirects every path that it covers to one location.
fn redirecting_rewrite(rewrite: &Directive) -> Option<TargetDraft> {
    let code = match rewrite.arg(2) {
        "permanent" => 301,
        "redirect" => 302,
        _ => return None,
    };
    let whole = matches!(
        rewrite.arg(0),
        "^" | "^/" | "^(.*)" | "^(.*)$" | "^/(.*)" | "^/(.*)$" | "(.*)" | ".*"
    );
    let to = rewrite.arg(1);
    // nginx adds the query, unless the location ends with a question mark.
    let to = match to.strip_suffix("/$1").or_else(|| to.strip_suffix("$1")) {
        Some(base) if whole => format!("{base}$uri$is_args$args"),
        Some(_) => return None,
        None => match to.strip_suffix('?') {
            Some(bare) => bare.to_owned(),
            None => format!("{to}$is_args$args"),
        },
    };
    let target = redirect(&template(&to).ok()?, code)?;
    rewrite.take();
    Some(target)
}

/// A redirect of a route; `None`: the location is not valid.
pub(super) fn redirect(to: &str, code: u16) -> Option<TargetDraft> {
    let begins = ["http://", "https://", "{scheme}://"];
    let path = to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/{");
    if !(path || begins.iter().any(|start| to.starts_with(start))) {
        return None;
    }
    let value = format!("{{ to = {}, status = {code} }}", quoted(to));
    Some(TargetDraft::Value("redirect", value))
}
