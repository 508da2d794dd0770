//! Recognizes configurations of other programs and other formats than TOML by their first lines.
//!
//! Used only for a text that is not valid TOML: one fault that names the format helps more than a list
//! of TOML errors.

use toml::de::Error;

use super::fault::{Fault, InvalidValue, SourceText};

/// Number of lines that are examined.
const LINES: usize = 200;

/// The format of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Yaml,
    Nginx,
    Caddy,
    HaProxy,
}

impl Format {
    /// With its article.
    fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Yaml => "YAML",
            Self::Nginx => "an nginx configuration",
            Self::Caddy => "a Caddyfile",
            Self::HaProxy => "an HAProxy configuration",
        }
    }
}

/// The fault of a text that is written in another format; `None`: it is TOML, valid or not.
pub(super) fn fault(source: &SourceText<'_>, errors: &[Error]) -> Option<Fault> {
    if errors.is_empty() {
        return None;
    }
    let (at, line) = source.lines().find(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    })?;
    let format = recognized(source.text())?;
    let start = at + (line.len() - line.trim_start().len());
    let wrong = InvalidValue::new(format!("this file is {}, not TOML", format.name())).help(
        "write it as TOML, for example `listeners.web.bind = \"0.0.0.0:8080\"` and \
         `pools.app.backends = [\"127.0.0.1:3000\"]`; `moorline init` writes a whole file",
    );
    Some(source.fault(&(start..at + line.trim_end().len()), wrong))
}

fn recognized(text: &str) -> Option<Format> {
    let text = text.trim_start_matches('\u{feff}');
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .take(LINES)
        .collect();
    let first = lines.first()?;
    let begins = first.strip_prefix('{').map(|rest| match rest.trim_start() {
        "" => lines.get(1).copied().unwrap_or_default(),
        rest => rest,
    });
    if begins.is_some_and(|inner| inner.starts_with(['"', '}'])) {
        return Some(Format::Json);
    }
    // The header of a table, or a key with a value: this is TOML.
    let toml = |line: &str| {
        let key = line.split_once('=').map(|(key, _)| key.trim());
        line.starts_with('[') || key.is_some_and(|key| !key.is_empty() && !key.contains([' ', ':']))
    };
    if toml(first) {
        return None;
    }
    let word = |line: &&str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let has = |words: &[&str]| lines.iter().any(|line| words.contains(&word(line).as_str()));
    let semicolons = lines.iter().filter(|line| line.ends_with([';', '{', '}'])).count();
    if semicolons * 2 > lines.len() && lines.iter().any(|line| line.ends_with(';')) {
        return Some(Format::Nginx);
    }
    if has(&["reverse_proxy", "handle", "handle_path", "file_server"]) {
        return Some(Format::Caddy);
    }
    let sections = ["global", "defaults", "frontend", "backend", "listen"];
    if sections.contains(&word(first).as_str()) && !first.contains([':', '=', '{']) {
        return Some(Format::HaProxy);
    }
    let mapping = |line: &str| {
        let line = line.strip_prefix("- ").unwrap_or(line);
        let key = line.split_once(':').map(|(key, value)| (key.trim_matches('"'), value));
        key.is_some_and(|(key, value)| {
            let named = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            !key.is_empty()
                && key.chars().all(named)
                && (value.is_empty() || value.starts_with(' '))
        })
    };
    (*first == "---" || mapping(first)).then_some(Format::Yaml)
}

#[cfg(test)]
mod tests {
    use super::{Format, recognized};

    #[test]
    fn formats_of_other_programs_are_recognized() {
        for (text, format) in [
            ("{\n  \"listeners\": {}\n}", Format::Json),
            ("{\"a\": 1}", Format::Json),
            ("---\nlisteners:\n  web:\n    bind: 0.0.0.0:80\n", Format::Yaml),
            ("# mine\nlisteners:\n  - bind: 80\n", Format::Yaml),
            ("pools: {chat: [a]}\n", Format::Yaml),
            (
                "upstream app {\n  server 127.0.0.1:3000;\n}\nserver {\n listen 80;\n}\n",
                Format::Nginx,
            ),
            ("worker_processes 2;\nevents { worker_connections 100; }\n", Format::Nginx),
            ("example.com {\n  reverse_proxy 127.0.0.1:3000\n}\n", Format::Caddy),
            ("global\n  maxconn 100\nfrontend web\n  bind :80\n", Format::HaProxy),
        ] {
            assert_eq!(recognized(text), Some(format), "{text}");
        }
    }

    #[test]
    fn broken_toml_is_still_toml() {
        for text in [
            "",
            "# nothing",
            "[listeners.web\nbind = 1\n",
            "bind = \"a:1\n",
            "drain 5s\n",
            "listeners.web.bind = {\n",
            "\0\0",
        ] {
            assert_eq!(recognized(text), None, "{text}");
        }
    }
}
