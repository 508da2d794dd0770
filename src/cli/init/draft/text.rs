//! The TOML text of a draft.

use std::{fmt::Write as _, time::Duration};

use super::{
    super::note::{Note, NoteKind},
    BackendDraft, CertificateDraft, ConfigDraft, ListenerDraft, PoolDraft, RouteDraft,
    SettingDrafts, TargetDraft,
};

/// Maximum duration of a setting.
const MAX_DURATION: Duration = Duration::from_secs(400 * 86_400);

/// Maximum width of a comment.
const WIDTH: usize = 110;

impl ConfigDraft {
    /// The text of the configuration. `head` is a comment, `notes` follow as comments.
    pub(in super::super) fn text(&self, head: &str, notes: &[Note]) -> String {
        let mut text = String::new();
        comment(&mut text, "", head);
        for kind in NoteKind::ALL {
            let notes: Vec<&Note> = notes.iter().filter(|note| note.kind == kind).collect();
            if notes.is_empty() {
                continue;
            }
            let _ = writeln!(text, "#\n# {}:", kind.heading());
            for note in notes {
                comment(&mut text, "- ", &note.text());
            }
        }
        if !self.trusted_proxies.is_empty() || !self.top.0.is_empty() {
            text.push('\n');
        }
        if !self.trusted_proxies.is_empty() {
            let _ = writeln!(text, "trusted_proxies = {}", array(&self.trusted_proxies));
        }
        self.top.write(&mut text);
        for listener in &self.listeners {
            listener.write(&mut text);
        }
        for route in &self.routes {
            route.write(&mut text);
        }
        for pool in &self.pools {
            pool.write(&mut text);
        }
        text
    }
}

impl SettingDrafts {
    fn write(&self, text: &mut String) {
        for (key, value) in &self.0 {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
}

impl ListenerDraft {
    fn write(&self, text: &mut String) {
        section(text, &format!("[listeners.{}]", key(&self.name)), &self.origin);
        let _ = writeln!(text, "bind = {}", one_or_array(&self.bind));
        if self.protocol != "http" {
            let _ = writeln!(text, "protocol = {}", quoted(self.protocol));
        }
        self.settings.write(text);
        if !self.certificates.is_empty() {
            text.push_str("certificates = [\n");
            for CertificateDraft { cert, key, ocsp } in &self.certificates {
                let _ = write!(text, "    {{ cert = {}, key = {}", quoted(cert), quoted(key));
                if let Some(ocsp) = ocsp {
                    let _ = write!(text, ", ocsp = {}", quoted(ocsp));
                }
                text.push_str(" },\n");
            }
            text.push_str("]\n");
        }
        if !self.passthrough.is_empty() {
            text.push_str("passthrough = [\n");
            for (sni, pool) in &self.passthrough {
                let _ = writeln!(text, "    {{ sni = {}, pool = {} }},", quoted(sni), quoted(pool));
            }
            text.push_str("]\n");
        }
    }
}

impl RouteDraft {
    fn write(&self, text: &mut String) {
        section(text, "[[routes]]", &self.origin);
        if let Some(host) = &self.host {
            let _ = writeln!(text, "host = {}", quoted(host));
        }
        let _ = writeln!(text, "path = {}", quoted(&self.path));
        if !self.conditions.is_empty() {
            let _ = writeln!(text, "match = {}", self.conditions.text());
        }
        let _ = match &self.target {
            TargetDraft::Pool(pool) => writeln!(text, "pool = {}", quoted(pool)),
            TargetDraft::Value(key, value) => writeln!(text, "{key} = {value}"),
        };
        if !self.listeners.is_empty() {
            let _ = writeln!(text, "listeners = {}", array(&self.listeners));
        }
        self.settings.write(text);
    }
}

impl PoolDraft {
    fn write(&self, text: &mut String) {
        section(text, &format!("[pools.{}]", key(&self.name)), &self.origin);
        match &self.source {
            Some(source) => {
                let _ = writeln!(text, "backends = {source}");
            }
            None => {
                text.push_str("backends = [\n");
                for backend in &self.backends {
                    let _ = writeln!(text, "    {},", backend.toml());
                }
                text.push_str("]\n");
            }
        }
        self.settings.write(text);
        for (key, duration) in &self.durations {
            let _ = writeln!(text, "{key} = {}", self::duration(*duration));
        }
    }
}

impl BackendDraft {
    fn toml(&self) -> String {
        let Self { name, address, weight, backup } = self;
        if name.is_none() && *weight == 1 && !backup {
            return quoted(address);
        }
        let mut keys = Vec::new();
        if let Some(name) = name {
            keys.push(format!("name = {}", quoted(name)));
        }
        keys.push(format!("address = {}", quoted(address)));
        if *weight != 1 {
            keys.push(format!("weight = {weight}"));
        }
        if *backup {
            keys.push("backup = true".to_owned());
        }
        format!("{{ {} }}", keys.join(", "))
    }
}

/// A table's header, with its origin as a comment.
fn section(text: &mut String, header: &str, origin: &str) {
    let _ = match origin {
        "" => writeln!(text, "\n{header}"),
        origin => writeln!(text, "\n{header:<40}# {origin}"),
    };
}

/// Adds a comment, wrapped; `bullet` begins its first line.
fn comment(text: &mut String, bullet: &str, words: &str) {
    let indent = " ".repeat(bullet.len());
    let mut first = bullet;
    for paragraph in words.split('\n') {
        let mut line = first.to_owned();
        for word in paragraph.split(' ') {
            if line.trim_start().len() > bullet.len() && line.len() + word.len() > WIDTH {
                let _ = writeln!(text, "# {}", line.trim_end());
                line.clone_from(&indent);
            }
            line.push_str(word);
            line.push(' ');
        }
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        first = &indent;
    }
}

/// A basic string of TOML. Nothing in it is taken from the environment.
pub(in super::super) fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for char in value.replace("${", "$${").chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            control if control.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(control));
            }
            char => text.push(char),
        }
    }
    text.push('"');
    text
}

/// Formats a TOML key: bare if possible, else quoted.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

/// An array of strings.
pub(in super::super) fn array(values: &[impl AsRef<str>]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value.as_ref())).collect();
    format!("[{}]", values.join(", "))
}

fn one_or_array(values: &[String]) -> String {
    match values {
        [only] => quoted(only),
        values => array(values),
    }
}

/// Formats a duration in its largest whole unit, at most [`MAX_DURATION`].
pub(in super::super) fn duration(duration: Duration) -> String {
    let duration = duration.clamp(Duration::from_millis(1), MAX_DURATION);
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let text = match (seconds, millis) {
        (_, 1..) => format!("{}ms", duration.as_millis()),
        (seconds, _) if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        (seconds, _) if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        (seconds, _) if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        (seconds, _) => format!("{seconds}s"),
    };
    quoted(&text)
}

/// A size in bytes, in its largest whole unit.
pub(in super::super) fn size(bytes: u64) -> String {
    quoted(&match bytes {
        _ if bytes > 0 && bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes > 0 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    })
}

/// A size for `header_size`, within its bounds.
pub(in super::super) fn header_size(bytes: u64) -> String {
    let kib = bytes.div_ceil(1024).clamp(8, 4096);
    quoted(&format!("{kib}KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml() {
        assert_eq!(quoted("a\"b\\c\u{7}"), "\"a\\\"b\\\\c\\u0007\"");
        assert_eq!(quoted("$a ${b}"), "\"$a $${b}\"");
        assert_eq!((key("chat_1"), key("a.b")), ("chat_1".to_owned(), "\"a.b\"".to_owned()));
        for (millis, text) in [
            (0, "\"1ms\""),
            (1_500, "\"1500ms\""),
            (60_000, "\"1m\""),
            (90_000, "\"90s\""),
            (86_400_000, "\"1d\""),
            (u64::MAX, "\"400d\""),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        let sizes = [0, 1000, 8 << 10, 20 << 20, 3 << 30].map(size);
        assert_eq!(sizes, ["\"0B\"", "\"1000B\"", "\"8KiB\"", "\"20MiB\"", "\"3GiB\""]);
        assert_eq!(
            (header_size(1), header_size(1 << 40)),
            ("\"8KiB\"".into(), "\"4096KiB\"".into())
        );
    }

    #[test]
    fn comments_are_wrapped() {
        let mut text = String::new();
        comment(&mut text, "- ", &"word ".repeat(40));
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.starts_with("# ")));
        assert!(text.lines().all(|line| line.len() <= WIDTH + 6), "{text}");
    }
}
