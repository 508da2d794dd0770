//! Changes of the path, and copies of requests.

use super::{
    super::{
        draft::{SettingDrafts, quoted},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    location::LocationPaths,
    syntax::Directive,
};
use crate::config::filters::whole_path;

impl<'t> NginxTranslator<'t> {
    /// The URI of `proxy_pass`, which takes the place of the path of the location.
    pub(super) fn rewritten(
        &mut self,
        settings: &mut SettingDrafts,
        location: &Directive,
        pass: &Directive,
        paths: &LocationPaths,
    ) {
        let url = pass.arg(0).trim_end_matches("$request_uri");
        let after = url.split_once("://").map_or("", |(_, rest)| rest);
        // A Unix socket ends with a colon if a URI follows.
        let after = after
            .strip_prefix("unix:")
            .map_or(after, |path| path.split_once(':').map_or("", |(_, uri)| uri));
        let Some(uri) = after.find('/').map(|at| &after[at..]) else { return };
        let slash = |text: &str| text.ends_with('/');
        let bare = |text: &str| quoted(text.trim_end_matches('/'));
        match paths {
            LocationPaths::Prefix { path, .. } if path == uri => {}
            LocationPaths::Regex(prefixes) if prefixes.iter().all(|path| path == uri) => {}
            LocationPaths::Prefix { .. } if uri.contains(['$', '?']) => {
                self.not_rewritten(location, pass, uri)
            }
            LocationPaths::Prefix { exact: true, .. } => settings.string("rewrite.replace", uri),
            LocationPaths::Prefix { path, .. } if uri == "/" => {
                settings.set("rewrite.strip_prefix", bare(path));
            }
            LocationPaths::Prefix { path, .. } if slash(path) == slash(uri) && path == "/" => {
                settings.set("rewrite.replace", format!("{{ from = \"/\", to = {} }}", bare(uri)));
            }
            LocationPaths::Prefix { path, .. } if slash(path) == slash(uri) => {
                let value = format!("{{ from = {}, to = {} }}", bare(path), bare(uri));
                settings.set("rewrite.replace", value);
            }
            _ => self.not_rewritten(location, pass, uri),
        }
    }

    fn not_rewritten(&mut self, location: &Directive, pass: &Directive, uri: &str) {
        let typed = location.args.last().map_or("", String::as_str);
        let reason = format!(
            "the path is not rewritten: nginx replaces `{typed}` by `{uri}`; see `rewrite` of routes"
        );
        self.note(NoteKind::Untranslated, pass, reason);
    }

    /// `rewrite` of a location with a backend; false if there is none that counts.
    pub(super) fn rewrites(&mut self, settings: &mut SettingDrafts, scope: &Scope<'_, 't>) -> bool {
        let mut rules =
            scope.own("rewrite").filter(|rule| matches!(rule.arg(2), "" | "break" | "last"));
        let Some(rule) = rules.next() else { return false };
        for other in rules {
            self.note(NoteKind::Untranslated, other, "a route has one pattern");
        }
        let (pattern, with) = (rule.arg(0), rule.arg(1));
        // nginx searches the pattern anywhere, and replaces the whole path.
        let anchored = |text: &str| text.ends_with('$') && !text.ends_with("\\$");
        let start =
            pattern.strip_prefix('^').map_or_else(|| format!(".*?{pattern}"), str::to_owned);
        let whole = match start.strip_suffix('$').filter(|_| anchored(&start)) {
            Some(rest) => rest.to_owned(),
            None => format!("{start}.*"),
        };
        let groups = groups(with);
        let (Some(with), Ok(_)) = (groups.filter(|with| with.starts_with('/')), whole_path(&whole))
        else {
            let reason =
                "the pattern or its replacement has no equivalent: see `rewrite` of routes";
            self.note(NoteKind::Untranslated, rule, reason);
            return true;
        };
        if rule.arg(2) != "break" {
            let reason = "the new path is sent to the backend and chooses no other location";
            self.note(NoteKind::Different, rule, reason);
        }
        rule.take();
        let value = format!("{{ pattern = {}, with = {} }}", quoted(&whole), quoted(&with));
        settings.set("rewrite.regex", value);
        true
    }

    /// `mirror`: the pool of the location that gets the copies.
    pub(super) fn mirrored(&mut self, settings: &mut SettingDrafts, scope: &Scope<'_, 't>) {
        let Some(mirror) = scope.find("mirror").filter(|mirror| mirror.arg(0) != "off") else {
            return;
        };
        let place = scope
            .outer("location")
            .find(|location| location.args.last().is_some_and(|path| path == mirror.arg(0)));
        let pass = place.and_then(|place| {
            let pass = place.children().iter().find(|directive| directive.name == "proxy_pass")?;
            Some((place, pass))
        });
        let pool = pass.and_then(|(place, pass)| {
            place.take_all();
            self.pool(&scope.inner(place.children()), pass)
        });
        match pool {
            Some(pool) => {
                settings.string("mirror", &pool);
                let reason = "copies are limited in size and number, and requests of Engine.IO and WebSockets are not copied";
                self.note(NoteKind::Different, mirror, reason);
            }
            None => self.note(NoteKind::Untranslated, mirror, "its location leads to no backend"),
        }
    }
}

/// The replacement of a pattern, with its groups. `None`: it has another variable, or a query.
fn groups(with: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = with;
    while let Some((before, after)) = rest.split_once('$') {
        let digit = after.chars().next().filter(char::is_ascii_digit)?;
        out.push_str(before);
        rest = &after[1..];
        // `$1x` would be a group named `1x`.
        match rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_') {
            true => out.push_str(&format!("${{{digit}}}")),
            false => out.push_str(&format!("${digit}")),
        }
    }
    out.push_str(rest);
    (!out.contains(['?', '#'])).then_some(out)
}
