//! `server` blocks: names, redirects and trusted proxies.

use super::{super::note::NoteKind, NginxTranslator, Scope, syntax::Directive, values};

/// A `server` block of an `http` block.
pub(super) struct ServerBlock<'t> {
    /// The block.
    pub(super) directive: &'t Directive,
    /// Its hosts; `None` in it is every host.
    pub(super) hosts: Vec<Option<String>>,
    /// Redirect of all requests.
    pub(super) redirect: Option<ServerRedirect<'t>>,
    /// Whether a location leads to a backend.
    pub(super) proxies: bool,
    /// Whether the server answers requests by itself.
    pub(super) answers: bool,
}

/// A redirect of every request to https.
pub(super) struct ServerRedirect<'t> {
    /// The port of the target; `None`: 443.
    pub(super) port: Option<u16>,
    /// The host of the target, if it is not the host of the request.
    pub(super) host: Option<String>,
    /// The directive that redirects.
    pub(super) directive: &'t Directive,
    /// The block around it, and directives that reply to other requests.
    pub(super) others: Vec<&'t Directive>,
    /// Whether it redirects the requests for some hosts only.
    pub(super) conditional: bool,
}

/// Trusted proxies in front.
#[derive(Debug, Default)]
pub(super) struct RealIp {
    /// Their networks.
    pub(super) networks: Vec<String>,
    /// Whether they send the client address by the PROXY protocol instead of a header.
    pub(super) by_proxy_protocol: bool,
}

impl<'t> NginxTranslator<'t> {
    /// Reads the names, the redirect and the locations of a server.
    pub(super) fn server(&mut self, directive: &'t Directive) -> ServerBlock<'t> {
        let scope = Scope::top(directive.children());
        let mut hosts = Vec::new();
        let mut named = false;
        for names in scope.own("server_name") {
            names.take();
            for name in &names.args {
                named = true;
                match values::hosts(name) {
                    Some(patterns) => hosts.extend(patterns),
                    None => self.note(
                        NoteKind::Untranslated,
                        names,
                        format!("`{name}`: a host is a name or a wildcard such as `*.example.com`"),
                    ),
                }
            }
        }
        if !named {
            hosts.push(None);
        }
        hosts.sort();
        hosts.dedup();
        let proxies = proxies(directive.children());
        let redirect = redirect(&scope).filter(|_| !proxies);
        let answers = answers(directive.children());
        ServerBlock { directive, hosts, redirect, proxies, answers }
    }

    /// The networks of `set_real_ip_from`, wherever it is.
    pub(super) fn trusted(&mut self, directives: &'t [Directive]) -> RealIp {
        let mut trust = RealIp::default();
        let mut headers = Vec::new();
        let servers = directives.iter().filter(|directive| directive.name == "server");
        let levels = servers.map(Directive::children).chain([directives]);
        for directive in levels.flatten() {
            match directive.name.as_str() {
                "set_real_ip_from" => self.network(directive, &mut trust.networks),
                "real_ip_header" => headers.push(directive),
                _ => {}
            }
        }
        trust.by_proxy_protocol = headers.iter().any(|header| header.arg(0) == "proxy_protocol");
        if trust.networks.is_empty() {
            return trust;
        }
        for header in headers {
            header.take();
            let name = header.arg(0);
            if !name.eq_ignore_ascii_case("x-forwarded-for") && name != "proxy_protocol" {
                let reason = "the client is taken from `X-Forwarded-For` or `Forwarded`; the proxies in front \
                              must send one of them";
                self.note(NoteKind::Different, header, reason);
            }
        }
        if !trust.by_proxy_protocol {
            self.draft.trusted_proxies.clone_from(&trust.networks);
        }
        trust
    }

    fn network(&mut self, directive: &'t Directive, networks: &mut Vec<String>) {
        directive.take();
        let typed = directive.arg(0);
        let (address, bits) = typed.split_once('/').unwrap_or((typed, "0"));
        let valid = address.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok();
        if !valid {
            let reason = "a trusted proxy is an IP address or a network";
            self.note(NoteKind::Untranslated, directive, reason);
        } else if !networks.iter().any(|known| known == typed) {
            networks.push(typed.to_owned());
        }
    }
}

/// Whether a block leads to a backend.
pub(super) fn proxies(directives: &[Directive]) -> bool {
    directives
        .iter()
        .any(|directive| directive.name == "proxy_pass" || proxies(directive.children()))
}

/// Whether a block answers requests by itself: fixed responses, redirects and files.
fn answers(directives: &[Directive]) -> bool {
    directives.iter().any(|directive| {
        matches!(directive.name.as_str(), "return" | "root" | "alias")
            || (directive.name == "location" && answers(directive.children()))
    })
}

/// Whether a server answers with redirects.
pub(super) fn redirects(server: &Directive) -> bool {
    server.children().iter().any(|directive| {
        let code = directive.arg(0);
        (directive.name == "return" && (code.starts_with('3') || code.starts_with("http")))
            || directive.name == "rewrite"
            || (directive.name == "location" && redirects(directive))
    })
}

/// The redirect to https that a server has for every request.
fn redirect<'t>(scope: &Scope<'_, 't>) -> Option<ServerRedirect<'t>> {
    let direct = |directives: &'t [Directive]| {
        directives.iter().find_map(|directive| Some((target(directive)?, directive)))
    };
    let found = |(port, host), directive, others, conditional| {
        Some(ServerRedirect { port, host, directive, others, conditional })
    };
    if let Some((to, directive)) = direct(scope.directives) {
        return found(to, directive, Vec::new(), false);
    }
    // Certbot writes a condition for each host.
    for block in scope.own("if") {
        if let Some((to, directive)) = direct(block.children()) {
            let others = [block].into_iter().chain(scope.own("return")).collect();
            return found(to, directive, others, true);
        }
    }
    let root = scope.own("location").find(|location| location.args == ["/"])?;
    let (to, directive) = direct(root.children())?;
    found(to, directive, vec![root], false)
}

/// Port and host of a redirect to the same path at https.
fn target(directive: &Directive) -> Option<(Option<u16>, Option<String>)> {
    let url = match (directive.name.as_str(), directive.args.as_slice()) {
        ("return", [code, url]) if code.starts_with('3') => url,
        ("return", [url]) => url,
        ("rewrite", [pattern, url, ..])
            if matches!(
                pattern.as_str(),
                "^" | "^/" | "^(.*)" | "^(.*)$" | "^/(.*)" | "^/(.*)$" | "(.*)"
            ) =>
        {
            url
        }
        _ => return None,
    };
    let rest = url.strip_prefix("https://")?;
    let end = rest.find('/').or_else(|| rest[1..].find('$').map(|at| at + 1))?;
    let (authority, path) = rest.split_at(end);
    let path = path.trim_start_matches('/').trim_end_matches('?');
    if !matches!(path, "$request_uri" | "$1" | "$uri" | "$uri$is_args$args") {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (authority, None),
    };
    let port = port.filter(|port| *port != 443);
    match host {
        "$host" | "$http_host" | "$server_name" | "${host}" => Some((port, None)),
        host if host.contains('$') => None,
        host => Some((port, Some(host.to_ascii_lowercase()))),
    }
}
