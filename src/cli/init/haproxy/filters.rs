//! Rules of frontends and backends that are settings of routes.

use super::{
    super::{
        draft::{HeaderDrafts, SettingDrafts, array, is_editable, quoted},
        note::NoteKind,
    },
    HaproxyTranslator, ProxySection,
    acl::{self, AclTable, AclTest},
    frontend::mark_acls,
    reasons,
    syntax::ConfigLine,
};
use crate::config::filters::whole_path;

/// Expressions of log formats and their templates.
const EXPRESSIONS: [(&str, &str); 18] = [
    ("src", "{client_ip}"),
    ("req.hdr(host)", "{host}"),
    ("hdr(host)", "{host}"),
    ("path", "{path}"),
    ("method", "{method}"),
    ("unique-id", "{request_id}"),
    ("ssl_fc_protocol", "{tls_version}"),
    ("ssl_fc_sni", "{tls_server_name}"),
    ("ssl_c_s_dn", "{certificate_subject}"),
    ("ssl_c_sha256", "{certificate_fingerprint}"),
    ("ci", "{client_ip}"),
    ("ID", "{request_id}"),
    ("HM", "{method}"),
    ("HP", "{path}"),
    ("HU", "{path}{query}"),
    ("HQ", "{query}"),
    ("sslv", "{tls_version}"),
    ("url", "{path}{query}"),
];

/// The settings of the routes between a frontend and a backend, as they are read.
#[derive(Default)]
struct RouteRules {
    requests: HeaderDrafts,
    responses: HeaderDrafts,
    allow: Vec<String>,
    deny: Vec<String>,
    limits: Vec<String>,
    settings: SettingDrafts,
}

impl<'t> HaproxyTranslator<'t> {
    /// The settings of the routes from one section to another.
    pub(super) fn filters(
        &mut self,
        sections: &[&ProxySection<'t>],
        named: &AclTable,
    ) -> SettingDrafts {
        let mut rules = RouteRules::default();
        for proxy in sections {
            for line in &proxy.section.lines {
                self.filter_line(&mut rules, proxy, line, named);
            }
            self.compression(&mut rules.settings, proxy);
        }
        let RouteRules { requests, responses, allow, deny, limits, mut settings } = rules;
        requests.write(&mut settings, "headers.request");
        responses.write(&mut settings, "headers.response");
        for (key, networks) in [("allow", allow), ("deny", deny)] {
            if !networks.is_empty() {
                settings.set(key, array(&networks));
            }
        }
        if !limits.is_empty() {
            settings.set("limits", format!("[{}]", limits.join(", ")));
        }
        settings
    }

    fn filter_line(
        &mut self,
        rules: &mut RouteRules,
        proxy: &ProxySection<'t>,
        line: &'t ConfigLine,
        named: &AclTable,
    ) {
        match (line.word(0), line.word(1)) {
            ("http-request", "set-header" | "add-header" | "del-header")
                if reasons::request_header(line).is_none() =>
            {
                self.field(&mut rules.requests, line);
            }
            (
                "http-response" | "http-after-response",
                "set-header" | "add-header" | "del-header",
            ) => {
                self.field(&mut rules.responses, line);
            }
            ("http-request", "replace-path") => self.path(&mut rules.settings, line, named),
            ("http-request", "cache-use") if condition(line).is_none() => {
                line.take();
                rules.settings.set("cache", "true");
            }
            ("http-response", "cache-store") if condition(line).is_none() => _ = line.take(),
            ("http-request", "auth") => self.users(&mut rules.settings, proxy, line, named),
            ("http-request", "deny" | "reject" | "tarpit")
            | ("tcp-request", "connection" | "session")
                if !self.sources(rules, proxy, line, named) =>
            {
                self.rate(rules, proxy, line, named);
            }
            _ => {}
        }
    }

    /// A rule that changes a field.
    fn field(&mut self, fields: &mut HeaderDrafts, line: &'t ConfigLine) {
        let (action, name) = (line.word(1), line.word(2));
        let reason = if condition(line).is_some() {
            "changes of fields have no conditions: write a route with `match`".to_owned()
        } else if !is_editable(name) {
            "the proxy writes this field itself".to_owned()
        } else if action == "del-header" && line.words.len() > 3 {
            "fields are removed by their whole name".to_owned()
        } else if action == "del-header" {
            line.take();
            return fields.remove(name);
        } else {
            match template(line.word(3)) {
                Err(expression) => format!("`{expression}`: templates have no such variable"),
                Ok(value) if action == "set-header" => {
                    line.take();
                    return fields.set(name, value);
                }
                Ok(value) => match fields.append(name, value) {
                    true => {
                        line.take();
                        return;
                    }
                    false => "a field can be added once: write the values in one field".to_owned(),
                },
            }
        };
        self.note_once(NoteKind::Untranslated, line, reason);
    }

    /// `replace-path PATTERN FORMAT`.
    fn path(&mut self, settings: &mut SettingDrafts, line: &'t ConfigLine, named: &AclTable) {
        // The pattern itself says which paths it is for.
        let only_paths = condition(line).is_none_or(|at| {
            let found = acl::alternatives(line.rest(at), named).unwrap_or_default();
            !found.is_empty()
                && found.iter().all(|one| {
                    one.hosts.is_empty()
                        && one.tls.is_none()
                        && !one.upgrade
                        && one.conditions.is_empty()
                })
        });
        let (pattern, with) = (line.word(2), line.word(3));
        let start =
            pattern.strip_prefix('^').map_or_else(|| format!(".*?{pattern}"), str::to_owned);
        let whole = match start.strip_suffix('$') {
            Some(rest) if !rest.ends_with('\\') => rest.to_owned(),
            _ => format!("{start}.*"),
        };
        let with = groups(with).filter(|with| with.starts_with('/'));
        let (true, Some(with), Ok(_)) = (only_paths, with, whole_path(&whole)) else {
            let reason = "the pattern, its replacement or its condition has no equivalent: see `rewrite` of routes";
            return self.note_once(NoteKind::Untranslated, line, reason);
        };
        line.take();
        let value = format!("{{ pattern = {}, with = {} }}", quoted(&whole), quoted(&with));
        settings.set("rewrite.regex", value);
    }

    /// A rule that refuses clients by their address; false if this rule does something else.
    fn sources(
        &mut self,
        rules: &mut RouteRules,
        proxy: &ProxySection<'t>,
        line: &'t ConfigLine,
        named: &AclTable,
    ) -> bool {
        let Some((at, negated, tests)) = sole_tests(line, named) else { return false };
        let networks: Option<Vec<String>> = tests
            .iter()
            .map(|test| match test {
                AclTest::Sources(networks) => Some(networks.clone()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(|networks| networks.concat());
        let Some(networks) = networks.filter(|networks| !networks.is_empty()) else { return false };
        line.take();
        mark_acls(proxy, line.rest(at));
        let list = if negated { &mut rules.allow } else { &mut rules.deny };
        if negated && !list.is_empty() {
            let reason = "only one rule of this kind has an equivalent: a client is in one of the networks of `allow`";
            self.notes.add(NoteKind::Unprotected, &line.origin, &line.text(), reason);
            return true;
        }
        list.extend(networks);
        true
    }

    /// `deny if { sc_http_req_rate(0) gt N }`, with the table that counts.
    fn rate(
        &mut self,
        rules: &mut RouteRules,
        proxy: &ProxySection<'t>,
        line: &'t ConfigLine,
        named: &AclTable,
    ) {
        let Some(at) = condition(line) else { return };
        let mut words = line.rest(at + 1).iter().map(String::as_str).collect::<Vec<_>>();
        let defined: Vec<String>;
        if let [name] = words[..]
            && named.contains_key(name)
            && let Some(acl) = proxy.own(&["acl", name]).next()
        {
            acl.take();
            defined = acl.rest(2).to_vec();
            words = defined.iter().map(String::as_str).collect();
        }
        words.retain(|word| !matches!(*word, "{" | "}"));
        let [fetch, "gt" | "ge", most] = words[..] else { return };
        let counts_requests = fetch.contains("http_req_rate");
        let by_source = proxy
            .section
            .lines
            .iter()
            .find(|line| {
                line.word(1).starts_with("track-sc") || line.word(2).starts_with("track-sc")
            })
            .filter(|track| track.words.iter().any(|word| word == "src"));
        let period = proxy.own(&["stick-table"]).find_map(|table| {
            let stored = table.words.iter().find(|word| word.contains("http_req_rate("))?;
            let period = stored.split("http_req_rate(").nth(1)?.split(')').next()?;
            Some((table, super::time(period)?))
        });
        let (true, Some(track), Some((table, period)), Ok(most)) =
            (counts_requests, by_source, period, most.parse::<u64>())
        else {
            return;
        };
        let per_minute = u128::from(most) * 60_000 / period.as_millis().max(1);
        let (most, per_minute) = (most.clamp(1, 1_000_000), per_minute.clamp(1, 1_000_000));
        rules.limits.push(format!("{{ rate = \"{per_minute}/m\", burst = {most} }}"));
        for used in [track, table] {
            used.take();
        }
        let reason =
            "the limit is a token bucket with the same number and average; refusals are a 429";
        self.note_once(NoteKind::Different, line, reason);
    }

    /// `compression algo` and `compression type`.
    fn compression(&mut self, settings: &mut SettingDrafts, proxy: &ProxySection<'t>) {
        let Some(algorithms) = proxy.find(&["compression", "algo"]) else { return };
        let gzip = algorithms.rest(2).iter().any(|name| name == "gzip");
        if !gzip {
            let reason = "the encodings are zstd, br and gzip";
            return self.note(NoteKind::Untranslated, algorithms, reason);
        }
        let mut keys = vec!["encodings = [\"gzip\"]".to_owned()];
        if let Some(types) = proxy.find(&["compression", "type"]) {
            keys.push(format!("types = {}", array(types.rest(2))));
        }
        settings.set("compress", format!("{{ {} }}", keys.join(", ")));
    }

    /// A note, unless the line has one.
    pub(super) fn note_once(
        &mut self,
        kind: NoteKind,
        line: &ConfigLine,
        reason: impl Into<String>,
    ) {
        if !line.handled.get() {
            self.note(kind, line, reason);
        }
    }
}

/// The tests of a condition with one term, of which one is enough: the place of the condition, and whether they are negated.
/// `None`: there is no condition, or it has several terms.
pub(super) fn sole_tests(
    line: &ConfigLine,
    named: &AclTable,
) -> Option<(usize, bool, Vec<AclTest>)> {
    let at = condition(line)?;
    let mut words: Vec<&str> = line.rest(at + 1).iter().map(String::as_str).collect();
    let mut negated = line.word(at) == "unless";
    if let Some(first) = words.first_mut()
        && let Some(rest) = first.strip_prefix('!')
    {
        negated = !negated;
        *first = rest;
    }
    words.retain(|word| !word.is_empty());
    let tests = match &words[..] {
        ["{", inner @ .., "}"] if !inner.contains(&"}") => {
            vec![acl::test(&inner.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())]
        }
        [name] => named.get(*name).cloned().unwrap_or_default(),
        _ => return None,
    };
    Some((at, negated, tests))
}

/// The place of `if` or `unless` in a rule.
pub(super) fn condition(line: &ConfigLine) -> Option<usize> {
    line.words.iter().position(|word| word == "if" || word == "unless")
}

/// Translates a log format.
///
/// # Errors
/// The first expression that has no equivalent.
pub(super) fn template(format: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['%', '{', '}']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let special = &after[..1];
        rest = &after[1..];
        if special != "%" {
            out.push_str(&special.repeat(2));
            continue;
        }
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (expression, after) = match rest.strip_prefix('[').and_then(|text| text.split_once(']'))
        {
            Some(found) => found,
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphabetic());
                rest.split_at(end.unwrap_or(rest.len()))
            }
        };
        rest = after;
        let lower = expression.replace("Host", "host");
        match EXPRESSIONS.iter().find(|(known, _)| *known == lower) {
            Some((_, template)) => out.push_str(template),
            None => return Err(format!("%[{expression}]")),
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The replacement of a pattern, with its groups. `None`: it has an expression or a query.
fn groups(with: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = with;
    while let Some((before, after)) = rest.split_once('\\') {
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
    (!out.contains(['?', '#', '%'])).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_formats_become_templates() {
        for (format, expected) in [
            ("plain", "plain"),
            ("%[src]:%[req.hdr(Host)]", "{client_ip}:{host}"),
            ("https://%[hdr(host)]%HU 100%% {x}", "https://{host}{path}{query} 100% {{x}}"),
        ] {
            assert_eq!(template(format).as_deref(), Ok(expected), "{format}");
        }
        assert_eq!(template("%[rand(5)]").unwrap_err(), "%[rand(5)]");
    }

    #[test]
    fn groups_are_those_of_patterns() {
        assert_eq!(groups("/\\1x/\\2").as_deref(), Some("/${1}x/$2"));
        assert_eq!((groups("/x?\\1"), groups("/%[path]")), (None, None));
    }
}
