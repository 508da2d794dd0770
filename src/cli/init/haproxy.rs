//! `moorline init --from-haproxy`: HAProxy's configuration in Moorline's terms.
//!
//! [`translate`] reads sections of lines and marks each line that it uses. What is not marked at the end
//! becomes a note with a reason, so that no line is dropped silently.

mod acl;
mod answers;
mod backend;
mod bind;
mod conditions;
mod filters;
mod frontend;
mod reasons;
mod server;
mod syntax;
mod users;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use self::syntax::{ConfigLine, HaproxySection};
use super::{
    Translation,
    draft::ConfigDraft,
    error::TranslateError,
    files::SourceFiles,
    note::{NoteKind, TranslationNotes},
};

/// Translates a configuration of HAProxy.
///
/// # Errors
/// The file cannot be read, does not follow the grammar, or leads to no server.
pub(super) fn translate(
    path: &Path,
    files: &SourceFiles<'_>,
) -> Result<Translation, TranslateError> {
    let sections = syntax::parse(path, files)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).to_owned();
    let mut haproxy = HaproxyTranslator {
        folder: std::path::absolute(&folder).unwrap_or(folder),
        files,
        global: sections.iter().filter(|section| section.kind() == "global").collect(),
        proxies: HashMap::new(),
        resolvers: sections.iter().filter(|section| section.kind() == "resolvers").collect(),
        userlists: sections.iter().filter(|section| section.kind() == "userlist").collect(),
        draft: ConfigDraft::default(),
        notes: TranslationNotes::default(),
        pools: HashMap::new(),
    };
    let proxies = with_defaults(&sections);
    haproxy.proxies = proxies
        .iter()
        .filter(|proxy| matches!(proxy.section.kind(), "backend" | "listen"))
        .map(|proxy| (proxy.section.name(), *proxy))
        .collect();
    for proxy in
        proxies.iter().filter(|proxy| matches!(proxy.section.kind(), "frontend" | "listen"))
    {
        haproxy.frontend(proxy);
    }
    if haproxy.draft.pools.is_empty() && haproxy.draft.routes.is_empty() {
        let wanted =
            "`frontend` or `listen` section with a `bind` address that leads to a `server`";
        return Err(TranslateError::NoBackend { wanted });
    }
    haproxy.draft.simplify_routes();
    haproxy.sweep(&sections);
    Ok(Translation { draft: haproxy.draft, notes: haproxy.notes.sorted() })
}

/// The translation so far.
struct HaproxyTranslator<'t> {
    /// Folder of the file, absolute: relative paths start there.
    folder: PathBuf,
    files: &'t SourceFiles<'t>,
    global: Vec<&'t HaproxySection>,
    /// Sections that have servers, by name.
    proxies: HashMap<&'t str, ProxySection<'t>>,
    resolvers: Vec<&'t HaproxySection>,
    userlists: Vec<&'t HaproxySection>,
    draft: ConfigDraft,
    notes: TranslationNotes,
    /// Names of pools, by the names of their sections.
    pools: HashMap<String, String>,
}

/// A frontend, backend or listen section with its defaults.
#[derive(Clone, Copy)]
struct ProxySection<'t> {
    section: &'t HaproxySection,
    defaults: Option<&'t HaproxySection>,
}

impl<'t> ProxySection<'t> {
    /// The lines of the section itself that begin with these words.
    fn own<'w>(&self, words: &'w [&'w str]) -> impl Iterator<Item = &'t ConfigLine> + use<'t, 'w> {
        self.section.lines.iter().filter(move |line| line.begins(words))
    }

    /// The last line that begins with these words, of the section or else of its defaults, marked as used.
    fn find(&self, words: &[&str]) -> Option<&'t ConfigLine> {
        let last = |section: &'t HaproxySection| {
            let lines = section.lines.iter().filter(|line| line.begins(words));
            lines.map(ConfigLine::take).last()
        };
        last(self.section).or_else(|| self.defaults.and_then(last))
    }

    /// Whether an option is on: set here or in the defaults, and not switched off here.
    fn option(&self, name: &str) -> Option<&'t ConfigLine> {
        if let Some(off) = self.own(&["no", "option", name]).last() {
            off.take();
            return None;
        }
        self.find(&["option", name])
    }

    /// Whether the section passes bytes on, and not requests. This is the default of HAProxy.
    fn is_tcp(&self) -> bool {
        self.find(&["mode"]).is_none_or(|mode| mode.word(1) != "http")
    }

    /// A timeout of the section.
    fn timeout(&self, name: &str) -> Option<(&'t ConfigLine, Duration)> {
        let line = self.find(&["timeout", name])?;
        Some((line, time(line.word(2))?))
    }
}

impl<'t> HaproxyTranslator<'t> {
    /// A note about a line, which is handled by it.
    fn note(&mut self, kind: NoteKind, line: &ConfigLine, reason: impl Into<String>) {
        line.take();
        self.notes.add(kind, &line.origin, &line.text(), reason);
    }

    /// A path of a file, absolute; relative paths start at `base`, which is a setting of `global`.
    fn file(&self, path: &str, base: &'static str) -> String {
        let lines = self.global.iter().flat_map(|section| &section.lines);
        let base = lines.filter(|line| line.begins(&[base])).map(ConfigLine::take).last();
        let folder = base.map_or(self.folder.clone(), |base| self.folder.join(base.word(1)));
        folder.join(path).display().to_string()
    }

    /// Notes every line that nothing has used.
    fn sweep(&mut self, sections: &[HaproxySection]) {
        for section in sections {
            if let Some((kind, reason)) = reasons::of_section(section.kind()) {
                if !section.head.handled.get() {
                    self.note(kind, &section.head, reason);
                }
                continue;
            }
            if matches!(section.kind(), "frontend" | "backend" | "listen")
                && !section.head.handled.get()
            {
                let reason = match section.kind() {
                    "backend" => "no frontend leads to this backend",
                    _ => {
                        "this section has no address with a server behind it; `admin` and `moorline status` show \
                          statistics"
                    }
                };
                self.note(NoteKind::Untranslated, &section.head, reason);
                continue;
            }
            section.head.take();
            for line in &section.lines {
                if !line.handled.get() {
                    let (kind, reason) = reasons::of_line(line);
                    self.note(kind, line, reason);
                }
            }
        }
    }
}

/// The sections that are proxies, each with its defaults: the section that `from` names, or the last
/// one before.
fn with_defaults(sections: &[HaproxySection]) -> Vec<ProxySection<'_>> {
    let mut last = None;
    let mut proxies = Vec::new();
    for section in sections {
        match section.kind() {
            "defaults" => last = Some(section),
            "frontend" | "backend" | "listen" => {
                let words = &section.head.words;
                let from = words
                    .iter()
                    .position(|word| word == "from")
                    .map(|at| section.head.word(at + 1));
                let named = from.and_then(|name| {
                    sections.iter().find(|other| other.kind() == "defaults" && other.name() == name)
                });
                proxies.push(ProxySection { section, defaults: named.or(last) });
            }
            _ => {}
        }
    }
    proxies
}

/// A time: milliseconds, or with a unit.
fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match &text[digits..] {
        "us" => Some(Duration::from_micros(number)),
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
