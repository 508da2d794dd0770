//! Directives that authenticate clients: `auth` of routes.

use super::{
    super::{
        draft::{SettingDrafts, array, is_editable, quoted},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    syntax::Directive,
};

/// Fields that Moorline sends to the server of `auth_request` without a setting.
const TOLD: [&str; 8] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-method",
    "x-forwarded-uri",
    "x-original-uri",
    "x-original-url",
    "x-original-method",
];

/// What the directives of a location have led to.
#[derive(Default)]
pub(super) struct TranslatedAuth<'t> {
    /// Whether the route authenticates clients.
    pub(super) is_set: bool,
    /// Directives that copy fields of the response to `auth_request`.
    pub(super) copies: Vec<&'t Directive>,
}

impl TranslatedAuth<'_> {
    /// Whether a directive is a part of the translated check.
    pub(super) fn has(&self, directive: &Directive) -> bool {
        self.copies.iter().any(|copy| std::ptr::eq(*copy, directive))
    }
}

impl<'t> NginxTranslator<'t> {
    /// The checks of clients around a location. Those that are not translated stay notes about lost access control.
    pub(super) fn authentication(
        &mut self,
        settings: &mut SettingDrafts,
        scope: &Scope<'_, 't>,
    ) -> TranslatedAuth<'t> {
        let mut translated = TranslatedAuth::default();
        let any = scope.find_quietly("satisfy").is_some_and(|satisfy| satisfy.arg(0) == "any");
        let mut methods: Vec<String> = Vec::new();
        // With several, nginx requires all of them, and Moorline one.
        let may_add = |methods: &[String]| methods.is_empty() || any;
        methods.extend(self.tokens(scope));
        if may_add(&methods) {
            methods.extend(self.asked(scope, &mut translated.copies));
        }
        if may_add(&methods) {
            methods.extend(self.passwords(scope));
        }
        if !methods.is_empty() {
            settings.set("auth", format!("{{ {} }}", methods.join(", ")));
            translated.is_set = true;
        }
        translated
    }

    /// `auth_jwt` with a file of keys, of the commercial version.
    fn tokens(&mut self, scope: &Scope<'_, 't>) -> Option<String> {
        let auth = active(scope, "auth_jwt")?;
        let keys = scope.find_quietly("auth_jwt_key_file")?;
        let token = auth.args.iter().find_map(|word| word.strip_prefix("token=$"));
        let place = match token {
            None => String::new(),
            Some(token) => {
                let part = |prefix: &str, place: &str| {
                    Some(format!("{place}:{}", token.strip_prefix(prefix)?))
                };
                // Any other stays a note about lost access control.
                let place = part("cookie_", "cookie").or_else(|| part("arg_", "query"))?;
                format!(", token = {}", quoted(&place))
            }
        };
        let keys_file = quoted(&self.file(keys.take().arg(0)));
        let reason =
            "tokens need `exp`; Engine.IO sessions and tunnels end with the token of their client";
        self.note(NoteKind::Different, auth, reason);
        Some(format!("jwt = {{ keys = {keys_file}{place} }}"))
    }

    /// `auth_basic` with its file of users.
    fn passwords(&mut self, scope: &Scope<'_, 't>) -> Option<String> {
        let auth = active(scope, "auth_basic")?;
        let users = scope.find_quietly("auth_basic_user_file")?;
        if users.arg(0).contains('$') {
            return None;
        }
        auth.take();
        let reason = "passwords are hashed with bcrypt or Argon2 (`htpasswd -B`): hashes of other kinds are refused";
        self.note(NoteKind::Different, users, reason);
        Some(format!("basic = {{ file = {} }}", quoted(&self.file(users.arg(0)))))
    }

    /// `auth_request` to a location with a server, and the fields of its response that are copied.
    fn asked(&mut self, scope: &Scope<'_, 't>, copies: &mut Vec<&'t Directive>) -> Option<String> {
        let auth = active(scope, "auth_request")?;
        let location = scope.outer("location").find(|location| {
            matches!(&location.args[..], [path] if path == auth.arg(0))
                || matches!(&location.args[..], [exact, path] if exact == "=" && path == auth.arg(0))
        })?;
        let pass = location.children().iter().find(|directive| directive.name == "proxy_pass")?;
        let url = self.url(pass.arg(0), auth.arg(0))?;
        location.take();
        pass.take();
        for directive in location.children() {
            self.question(directive);
        }
        let reason = "the server gets a GET request; redirects of it go to pages, and Engine.IO and WebSockets get a 401";
        self.note(NoteKind::Different, auth, reason);
        let mut keys = vec![format!("url = {}", quoted(&url))];
        for (key, directive) in [("copy", "proxy_set_header"), ("copy_back", "add_header")] {
            let copied = copied(scope, directive, copies);
            if !copied.is_empty() {
                keys.push(format!("{key} = {}", array(&copied)));
            }
        }
        for set in scope.nearest(&["auth_request_set"]) {
            if !set.handled.get() {
                let reason = "`copy` and `copy_back` of `forward` keep the name of a field";
                self.note(NoteKind::Untranslated, set, reason);
            }
        }
        Some(format!("forward = {{ {} }}", keys.join(", ")))
    }

    /// A directive of the location that `auth_request` names.
    fn question(&mut self, directive: &'t Directive) {
        let (name, value) = (directive.arg(0).to_ascii_lowercase(), directive.arg(1));
        match directive.name.as_str() {
            "internal" | "proxy_pass_request_body" | "proxy_http_version" => _ = directive.take(),
            "proxy_set_header" if TOLD.contains(&name.as_str()) => _ = directive.take(),
            "proxy_set_header" if value.is_empty() && name == "content-length" => {
                directive.take();
            }
            "proxy_set_header" => {
                let reason = "the server of `auth_request` gets the fields of the client's request, and its own name as `Host`";
                self.note(NoteKind::Untranslated, directive, reason);
            }
            _ => {}
        }
    }

    /// The URL that a `proxy_pass` leads to for this path; `None`: it is not one fixed server.
    fn url(&self, pass: &str, path: &str) -> Option<String> {
        let (scheme, rest) = pass.split_once("://").filter(|_| !pass.contains('$'))?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, own) = rest.split_at(at);
        let authority = match self.upstreams.get(authority) {
            Some(upstream) => {
                let mut servers = upstream.children().iter().filter(|child| child.name == "server");
                let server = servers.next().filter(|_| servers.next().is_none())?;
                upstream.take();
                server.take().arg(0)
            }
            None => authority,
        };
        let valid = matches!(scheme, "http" | "https") && !authority.starts_with("unix:");
        let path = if own.is_empty() { path } else { own };
        valid.then(|| format!("{scheme}://{authority}{path}"))
    }
}

/// The directive of this name, if it switches a check on.
fn active<'t>(scope: &Scope<'_, 't>, name: &str) -> Option<&'t Directive> {
    scope.find_quietly(name).filter(|directive| directive.arg(0) != "off")
}

/// The names of the fields that directives of this name copy from the response to `auth_request`: a variable that
/// `auth_request_set` sets to a field of this name.
fn copied<'t>(
    scope: &Scope<'_, 't>,
    directive: &'static str,
    copies: &mut Vec<&'t Directive>,
) -> Vec<String> {
    let variables = scope.nearest(&["auth_request_set"]);
    let mut names: Vec<String> = Vec::new();
    for copy in scope.nearest(&[directive]) {
        let name = copy.arg(0);
        let source = format!("$upstream_http_{}", name.to_ascii_lowercase().replace('-', "_"));
        let set = variables.iter().find(|set| set.arg(0) == copy.arg(1) && set.arg(1) == source);
        if let Some(set) = set
            && is_editable(name)
        {
            set.take();
            copies.push(copy.take());
            names.push(name.to_owned());
        }
    }
    names
}
