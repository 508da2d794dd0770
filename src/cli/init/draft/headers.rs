//! Changes of header fields in a draft.

use super::{SettingDrafts, array, quoted};

/// Fields that the proxy writes itself.
const OWN: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Changes of header fields in one direction.
#[derive(Debug, Default)]
pub(in super::super) struct HeaderDrafts {
    remove: Vec<String>,
    set: Vec<(String, String)>,
    append: Vec<(String, String)>,
}

impl HeaderDrafts {
    /// Removes a field.
    pub(in super::super) fn remove(&mut self, name: &str) {
        if !self.remove.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            self.remove.push(name.to_owned());
        }
    }

    /// Sets a field to a template.
    pub(in super::super) fn set(&mut self, name: &str, value: String) {
        self.set.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.set.push((name.to_owned(), value));
    }

    /// Adds a field; false if one with this name is added already, which the configuration cannot express.
    pub(in super::super) fn append(&mut self, name: &str, value: String) -> bool {
        let known = self.append.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !known {
            self.append.push((name.to_owned(), value));
        }
        !known
    }

    /// Writes the changes as the value of a key; nothing if there are none.
    pub(in super::super) fn write(&self, settings: &mut SettingDrafts, key: &str) {
        let mut parts = Vec::new();
        if !self.remove.is_empty() {
            parts.push(format!("remove = {}", array(&self.remove)));
        }
        for (name, fields) in [("set", &self.set), ("append", &self.append)] {
            if !fields.is_empty() {
                let field = |(name, value): &(String, String)| {
                    format!("{} = {}", super::text::key(name), quoted(value))
                };
                let fields: Vec<String> = fields.iter().map(field).collect();
                parts.push(format!("{name} = {{ {} }}", fields.join(", ")));
            }
        }
        if !parts.is_empty() {
            settings.set(key, format!("{{ {} }}", parts.join(", ")));
        }
    }
}

/// Whether a field of this name can be changed.
pub(in super::super) fn is_editable(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    moorline_http::is_token(name.as_bytes())
        && !OWN.contains(&lower.as_str())
        && !lower.starts_with("sec-websocket-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_one_table() {
        let (mut fields, mut settings) = (HeaderDrafts::default(), SettingDrafts::default());
        fields.write(&mut settings, "headers.request");
        assert_eq!(settings.value("headers.request"), None);
        fields.remove("Server");
        fields.remove("server");
        fields.set("X-A", "1".to_owned());
        fields.set("x-a", "{host}".to_owned());
        assert!(fields.append("Vary", "a".to_owned()) && !fields.append("vary", "b".to_owned()));
        fields.write(&mut settings, "headers.response");
        let expected =
            r#"{ remove = ["Server"], set = { x-a = "{host}" }, append = { Vary = "a" } }"#;
        assert_eq!(settings.value("headers.response"), Some(expected));
        assert!(is_editable("X-A") && !is_editable("Host") && !is_editable("Sec-WebSocket-Key"));
    }
}
