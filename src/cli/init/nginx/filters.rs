//! What locations do with requests and responses besides passing them on: settings of routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    super::{
        draft::{HeaderDrafts, SettingDrafts, array, duration, is_editable, quoted, size},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    auth::TranslatedAuth,
    pool,
    syntax::Directive,
    template::template,
    values,
};

/// Why a value with another variable is not translated.
fn no_variable(variable: &str) -> String {
    format!("`{variable}`: templates have no such variable")
}

impl<'t> NginxTranslator<'t> {
    /// The settings of a route for the directives around a location. `None`: every client is denied.
    pub(super) fn filters(&mut self, scope: &Scope<'_, 't>) -> Option<SettingDrafts> {
        let mut settings = SettingDrafts::default();
        if let Some(limit) = scope.find("client_max_body_size") {
            match values::size(limit.arg(0)) {
                Some(0) => {}
                Some(bytes) => settings.set("max_body", size(bytes)),
                None => self.note(NoteKind::Untranslated, limit, "this is not a size"),
            }
        }
        let auth = self.authentication(&mut settings, scope);
        self.rates(&mut settings, scope);
        self.fields(&mut settings, scope, &auth);
        self.compression(&mut settings, scope);
        self.stored(&mut settings, scope);
        self.clients(&mut settings, scope, auth.is_set).then_some(settings)
    }

    /// `allow` and `deny`, and `satisfy`: false if every client is denied. `authenticates`: the route does.
    fn clients(
        &mut self,
        settings: &mut SettingDrafts,
        scope: &Scope<'_, 't>,
        authenticates: bool,
    ) -> bool {
        let satisfy = scope.find_quietly("satisfy").filter(|_| authenticates);
        let any = satisfy.is_some_and(|satisfy| satisfy.take().arg(0) == "any");
        let (mut allow, mut deny): (Vec<IpNet>, Vec<IpNet>) = Default::default();
        let mut closed = None;
        for rule in scope.nearest(&["allow", "deny"]) {
            rule.take();
            let network = rule.arg(0);
            if closed.is_some() || network == "unix:" {
                continue;
            }
            let parsed = network.parse::<IpNet>().ok();
            let parsed = parsed.or_else(|| network.parse::<IpAddr>().ok().map(IpNet::from));
            match (rule.name.as_str(), parsed) {
                (name, _) if network == "all" => closed = Some(name == "deny"),
                ("allow", Some(network)) => allow.push(network),
                ("deny", Some(network)) if allow.iter().any(|a| overlap(a, &network)) => {
                    let reason = "an exception before it: `deny` comes before `allow` in Moorline, so the rule is left out";
                    self.note(NoteKind::Unprotected, rule, reason);
                }
                ("deny", Some(network)) => deny.push(network),
                _ => {
                    self.note(NoteKind::Unprotected, rule, "this is not an address or a network");
                }
            }
        }
        let list = |networks: &[IpNet]| {
            array(&networks.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        if closed == Some(true) && allow.is_empty() {
            // Only clients with a credential may pass.
            return any;
        }
        if let Some(satisfy) = satisfy.filter(|_| any && !(allow.is_empty() && deny.is_empty())) {
            let reason = "clients need an address that may pass and a credential, not one of both";
            self.note(NoteKind::Different, satisfy, reason);
        }
        if closed == Some(true) {
            settings.set("allow", list(&allow));
        }
        if !deny.is_empty() {
            settings.set("deny", list(&deny));
        }
        true
    }

    /// `limit_req`, and `limit_conn` of a location.
    fn rates(&mut self, settings: &mut SettingDrafts, scope: &Scope<'_, 't>) {
        let mut limits = Vec::new();
        for limit in scope.all("limit_req") {
            let option = |key: &str| limit.args.iter().find_map(|word| word.strip_prefix(key));
            let zone = option("zone=").and_then(|name| zone(scope, "limit_req_zone", name));
            let Some((zone, key)) = zone else {
                self.note(NoteKind::Untranslated, limit, "the key of its zone is not supported");
                continue;
            };
            let rate = zone.args.iter().find_map(|word| word.strip_prefix("rate="));
            let rate = rate.and_then(|rate| {
                let (number, per) = rate.split_once("r/")?;
                number.parse::<u32>().ok().filter(|_| matches!(per, "s" | "m"))?;
                Some(format!("{number}/{per}"))
            });
            let Some(rate) = rate else {
                self.note(NoteKind::Untranslated, zone, "this is not a rate");
                continue;
            };
            // The bucket of nginx holds one request more than `burst`.
            let burst = option("burst=").and_then(|burst| burst.parse::<u32>().ok()).unwrap_or(0);
            limits.push(format!(
                "{{ key = {}, rate = {}, burst = {} }}",
                quoted(&key),
                quoted(&rate),
                burst.saturating_add(1).min(1_000_000)
            ));
            let reason = "requests beyond the limit get a 429 at once and are not delayed; held polls do not count";
            self.note(NoteKind::Different, limit, reason);
        }
        for limit in scope.own("limit_conn") {
            let zone = zone(scope, "limit_conn_zone", limit.arg(0));
            let number = limit.arg(1).parse::<u32>().ok().filter(|number| *number > 0);
            let Some(((_, key), number)) = zone.zip(number) else {
                self.note(NoteKind::Untranslated, limit, "the key of its zone is not supported");
                continue;
            };
            let key = quoted(&key);
            limits.push(format!("{{ key = {key}, concurrent = {number}, tunnels = {number} }}"));
            let reason = "requests in flight and tunnels have one limit each; beyond it, the answer is a 429";
            self.note(NoteKind::Different, limit, reason);
        }
        if !limits.is_empty() {
            settings.set("limits", format!("[{}]", limits.join(", ")));
        }
    }

    /// Fields of requests and responses.
    fn fields(
        &mut self,
        settings: &mut SettingDrafts,
        scope: &Scope<'_, 't>,
        auth: &TranslatedAuth<'t>,
    ) {
        let mut requests = HeaderDrafts::default();
        let headers = scope.all("proxy_set_header");
        headers.iter().for_each(|header| header.handled.set(false));
        for header in headers {
            let (name, value) = (header.arg(0), header.arg(1));
            if auth.has(header) {
                header.take();
            } else if name.eq_ignore_ascii_case("host") && !value.contains('$') && !value.is_empty()
            {
                header.take();
                settings.string("rewrite.host", value);
            } else if pool::known_field(name, value).is_none() && is_editable(name) {
                match template(value) {
                    Ok(value) if value.is_empty() => requests.remove(name),
                    Ok(value) => requests.set(name, value),
                    Err(variable) => {
                        self.note(NoteKind::Untranslated, header, no_variable(&variable));
                    }
                }
                header.take();
            }
        }
        requests.write(settings, "headers.request");
        let mut responses = HeaderDrafts::default();
        for header in scope.all("proxy_hide_header") {
            match is_editable(header.arg(0)) {
                true => responses.remove(header.arg(0)),
                false => {
                    self.note(NoteKind::Untranslated, header, "the proxy writes this field itself")
                }
            }
        }
        for header in scope.all("add_header") {
            if auth.has(header) {
                continue;
            }
            self.added_field(&mut responses, header);
        }
        if let Some(expires) = scope.find("expires") {
            self.expires(&mut responses, expires);
        }
        responses.write(settings, "headers.response");
    }

    fn added_field(&mut self, fields: &mut HeaderDrafts, header: &Directive) {
        let name = header.arg(0);
        let reason = match template(header.arg(1)) {
            Err(variable) => no_variable(&variable),
            Ok(_) if !is_editable(name) => "the proxy writes this field itself".to_owned(),
            Ok(value) if value.is_empty() => return,
            Ok(value) => {
                if !fields.append(name, value) {
                    "a field can be added once: write the values in one field".to_owned()
                } else if header.args.last().is_some_and(|word| word == "always") {
                    return;
                } else {
                    let reason = "the field is sent with every status, as with `always`";
                    return self.note(NoteKind::Different, header, reason);
                }
            }
        };
        self.note(NoteKind::Untranslated, header, reason);
    }

    /// `expires`, as `Cache-Control`.
    fn expires(&mut self, fields: &mut HeaderDrafts, expires: &Directive) {
        let value = match expires.arg(0) {
            "off" => return,
            "max" => "max-age=315360000".to_owned(),
            "epoch" | "-1" => "no-cache".to_owned(),
            time => match values::time(time) {
                Some(time) => format!("max-age={}", time.as_secs()),
                None => {
                    let reason = "only a duration, `max`, `epoch` and `off` have an equivalent";
                    return self.note(NoteKind::Untranslated, expires, reason);
                }
            },
        };
        fields.set("Cache-Control", value);
    }

    /// `gzip`, `brotli` and `zstd`.
    fn compression(&mut self, settings: &mut SettingDrafts, scope: &Scope<'_, 't>) {
        const CODINGS: [(&str, &str); 3] = [("zstd", "zstd"), ("brotli", "br"), ("gzip", "gzip")];
        let on: Vec<(&str, &str)> = CODINGS
            .into_iter()
            .filter(|(name, _)| scope.find(name).is_some_and(|switch| switch.arg(0) == "on"))
            .collect();
        let [(first, _), ..] = on[..] else { return };
        let codings: Vec<&str> = on.iter().map(|(_, coding)| *coding).collect();
        let mut keys = vec![format!("encodings = {}", array(&codings))];
        let (types, least, level) = match first {
            "zstd" => ("zstd_types", "zstd_min_length", "zstd_comp_level"),
            "brotli" => ("brotli_types", "brotli_min_length", "brotli_comp_level"),
            _ => ("gzip_types", "gzip_min_length", "gzip_comp_level"),
        };
        if let Some(types) = scope.find(types) {
            let mut types = types.args.clone();
            types.insert(0, "text/html".to_owned());
            let valid = |kind: &String| kind.contains('/') && !kind.contains(['*', '$', '"']);
            if types.iter().all(valid) {
                types.dedup();
                keys.push(format!("types = {}", array(&types)));
            }
        }
        if let Some(bytes) = scope.find(least).and_then(|least| values::size(least.arg(0))) {
            keys.push(format!("min_size = {}", size(bytes)));
        }
        let level = scope.find(level).and_then(|level| level.arg(0).parse::<u8>().ok());
        if let Some(level) = level.filter(|level| *level > 0) {
            keys.push(format!("level = {}", level.min(9)));
        }
        settings.set("compress", format!("{{ {} }}", keys.join(", ")));
    }

    /// `proxy_cache`.
    fn stored(&mut self, settings: &mut SettingDrafts, scope: &Scope<'_, 't>) {
        let Some(cache) = scope.find("proxy_cache").filter(|cache| cache.arg(0) != "off") else {
            return;
        };
        let reason = "responses are stored as RFC 9111 says, with those of all routes; `proxy_cache_key`, `_bypass` and \
                      `_lock` are not needed";
        self.note(NoteKind::Different, cache, reason);
        let valid = scope.all("proxy_cache_valid");
        let lifetime = valid.iter().find_map(|valid| {
            let (time, codes) = valid.args.split_last()?;
            let ok = codes.is_empty() || codes.iter().any(|code| code == "200" || code == "any");
            values::time(time).filter(|_| ok)
        });
        match lifetime.filter(|lifetime| !lifetime.is_zero()) {
            Some(lifetime) => {
                settings.set("cache", format!("{{ lifetime = {} }}", duration(lifetime)));
            }
            None => settings.set("cache", "true"),
        }
        if let Some(zone) = scope.top_level("proxy_cache_path").next() {
            let reason = "responses are stored in memory: see `cache` of the top level";
            self.note(NoteKind::Different, zone, reason);
        }
    }
}

/// The zone of this name, and the key of a limit for the key of the zone.
fn zone<'t>(
    scope: &Scope<'_, 't>,
    kind: &'static str,
    name: &str,
) -> Option<(&'t Directive, String)> {
    let of = |zone: &&Directive| {
        let named = zone.args.iter().find_map(|word| word.strip_prefix("zone="));
        named.is_some_and(|named| named.split(':').next() == Some(name))
    };
    let zone = scope.top_level(kind).find(of)?;
    let variable = zone.arg(0).trim_start_matches('$').trim_matches(['{', '}']);
    let key = match variable {
        "binary_remote_addr" | "remote_addr" => "client".to_owned(),
        "server_name" | "host" | "http_host" => "route".to_owned(),
        _ => {
            let part = |prefix: &str| variable.strip_prefix(prefix).filter(|name| !name.is_empty());
            match (part("http_"), part("cookie_"), part("arg_")) {
                (Some(name), ..) => format!("header:{}", name.replace('_', "-")),
                (_, Some(name), _) => format!("cookie:{name}"),
                (.., Some(name)) => format!("query:{name}"),
                _ => return None,
            }
        }
    };
    zone.take();
    Some((zone, key))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
