//! Rules of frontends that answer without a backend.

use super::{
    super::{
        draft::{SettingDrafts, TargetDraft, quoted},
        note::NoteKind,
    },
    HaproxyTranslator, ProxySection,
    acl::{self, AclMatch, AclTable},
    filters::{condition, template},
    frontend::mark_acls,
    syntax::ConfigLine,
};

impl<'t> HaproxyTranslator<'t> {
    /// Adds the routes of `deny`, `return` and `redirect` by host and path.
    pub(super) fn answers(
        &mut self,
        proxy: &ProxySection<'t>,
        named: &AclTable,
        listeners: &[String],
    ) {
        for line in &proxy.section.lines {
            if line.handled.get() {
                continue;
            }
            let target = match (line.word(0), line.word(1)) {
                ("http-request", "deny") => refusal(line),
                ("http-request", "return") => response(line),
                ("http-request", "redirect") => redirect(line, 2),
                ("redirect", _) => redirect(line, 1),
                _ => continue,
            };
            let Some(target) = target else { continue };
            let found = match condition(line) {
                None => Some(vec![AclMatch::default()]),
                Some(at) => acl::alternatives(line.rest(at), named),
            };
            let expressible = |one: &AclMatch| {
                one.tls.is_none()
                    && !one.upgrade
                    && one.sni.is_empty()
                    && !one.paths.iter().any(|path| path == "/")
            };
            let Some(found) = found.filter(|found| found.iter().all(expressible)) else { continue };
            // What a rule refuses to some clients is a setting of the other routes.
            let is_setting = |one: &AclMatch| {
                let conditions =
                    AclMatch { conditions: one.conditions.clone(), ..AclMatch::default() };
                *one == conditions
                    && (conditions.conditions.is_empty() || one.conditions.is_only("client"))
            };
            if found.iter().any(is_setting) && line.word(1) == "deny" {
                continue;
            }
            line.take();
            mark_acls(proxy, line.rest(condition(line).unwrap_or(line.words.len())));
            for one in found {
                self.routes_of(line, &one, listeners, (&target, &SettingDrafts::default()));
            }
            if matches!(&target, TargetDraft::Value("redirect", _)) {
                let reason =
                    "clients of Engine.IO and WebSockets get a 404, as they follow no redirect";
                self.notes.add(NoteKind::Different, &line.origin, &line.text(), reason);
            }
        }
    }
}

/// The value behind a word of a rule.
fn value<'l>(line: &'l ConfigLine, word: &str) -> Option<&'l str> {
    let at = line.words.iter().position(|known| known == word)?;
    line.words.get(at + 1).map(String::as_str)
}

/// `http-request deny [deny_status CODE]`.
fn refusal(line: &ConfigLine) -> Option<TargetDraft> {
    let status = match value(line, "deny_status").or_else(|| value(line, "status")) {
        Some(status) => status.parse::<u16>().ok().filter(|status| (400..=599).contains(status))?,
        None => 403,
    };
    Some(TargetDraft::Value("respond", format!("{{ status = {status} }}")))
}

/// `http-request return status CODE content-type TYPE string TEXT`.
fn response(line: &ConfigLine) -> Option<TargetDraft> {
    if ["file", "errorfile", "errorfiles", "lf-file", "hdr", "default-errorfiles"]
        .iter()
        .any(|word| line.words.iter().any(|known| known == word))
    {
        return None;
    }
    let status = value(line, "status").unwrap_or("200").parse::<u16>().ok()?;
    let mut keys = vec![format!("status = {status}")];
    let body = match (value(line, "string"), value(line, "lf-string")) {
        (Some(text), _) => Some(text.replace('{', "{{").replace('}', "}}")),
        (None, Some(format)) => Some(template(format).ok()?),
        (None, None) => None,
    };
    if let Some(body) = body.filter(|body| !body.is_empty()) {
        keys.push(format!("body = {}", quoted(&body)));
        if let Some(kind) = value(line, "content-type") {
            keys.push(format!("type = {}", quoted(kind)));
        }
    }
    (200..=599)
        .contains(&status)
        .then(|| TargetDraft::Value("respond", format!("{{ {} }}", keys.join(", "))))
}

/// `redirect location URL` and `redirect prefix URL`, with a code.
fn redirect(line: &ConfigLine, from: usize) -> Option<TargetDraft> {
    let to = template(line.word(from + 1)).ok()?;
    let to = match line.word(from) {
        "location" => to,
        "prefix" => format!("{}{{path}}{{query}}", to.trim_end_matches('/')),
        _ => return None,
    };
    let begins = ["http://", "https://"].iter().any(|start| to.starts_with(start));
    let path = to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/{");
    let code = value(line, "code").unwrap_or("302").parse::<u16>().ok()?;
    let valid = matches!(code, 301 | 302 | 303 | 307 | 308) && (begins || path);
    valid.then(|| {
        TargetDraft::Value("redirect", format!("{{ to = {}, status = {code} }}", quoted(&to)))
    })
}
