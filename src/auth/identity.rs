//! An identity: the subject of a credential, and what is known about it.

use serde_json::{Map, Value};

/// Longest value of a claim in a header field, in bytes.
const LONGEST_VALUE: usize = 4096;

/// How a client has proved its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AuthMethod {
    /// By a token.
    #[default]
    Token,
    /// By an API key.
    ApiKey,
    /// By a password.
    Password,
    /// By a certificate.
    Certificate,
    /// To another server.
    Forward,
    /// By a login at an OpenID provider.
    Login,
}

/// Number of a login: random, so that it is different for each.
pub(crate) type LoginId = [u8; 16];

/// A verified client.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// How the client has proved it.
    pub(crate) method: AuthMethod,
    /// Issuer of the credential; empty if the configuration has it.
    pub(crate) issuer: Box<str>,
    /// Name of the client.
    pub(crate) subject: Box<str>,
    /// When the credential was issued, in seconds since 1970.
    pub(crate) issued: Option<u64>,
    /// When the credential expires, in seconds since 1970.
    pub(crate) expires: Option<u64>,
    /// Claims of the token.
    pub(crate) claims: Map<String, Value>,
    /// The login, if the client has logged in.
    pub(crate) login: Option<LoginId>,
}

impl Identity {
    /// Whether both are the same client.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.method, &self.issuer, &self.subject) == (other.method, &other.issuer, &other.subject)
    }

    /// Returns a claim as the value of a header field; empty if there is none, or no field can have it. A path names a
    /// value in an object, as in `realm.role`. The values of a list are joined with commas.
    pub(crate) fn text(&self, path: &str) -> String {
        let text = self.claim(path).and_then(text).unwrap_or_default();
        let fits = text.len() <= LONGEST_VALUE && moorline_http::is_value(text.as_bytes());
        if fits { text } else { String::new() }
    }

    /// Whether the identity has a scope: in `scope` or `scp`, as words or as a list (RFC 8693 §4.2).
    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        ["scope", "scp"].into_iter().filter_map(|name| self.claims.get(name)).any(|value| {
            match value {
                Value::String(words) => words.split(' ').any(|word| word == scope),
                Value::Array(values) => values.iter().any(|value| value == scope),
                _ => false,
            }
        })
    }

    /// Returns a claim.
    pub(crate) fn claim(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.claims.get(path) {
            return Some(value);
        }
        let mut names = path.split('.');
        let first = self.claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Array(values) => {
            let texts: Option<Vec<String>> = values
                .iter()
                .map(|value| text(value).filter(|text| !value.is_array() && !text.contains(',')))
                .collect();
            Some(texts?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_are_words_or_a_list() {
        let with = |claims: Value| {
            let Value::Object(claims) = claims else { unreachable!() };
            Identity { claims, ..Identity::default() }.has_scope("chat")
        };
        assert!(
            with(json!({ "scope": "files chat" })) && with(json!({ "scp": ["files", "chat"] }))
        );
        for claims in [
            json!({}),
            json!({ "scope": "chats" }),
            json!({ "scp": ["files chat"] }),
            json!({ "scope": 1 }),
        ] {
            assert!(!with(claims.clone()), "{claims}");
        }
    }

    #[test]
    fn claims_become_safe_field_values() {
        let claims = json!({
            "sub": "anna", "n": 7, "admin": true, "roles": ["a", "b"], "realm": { "role": "x" },
            "https://a.test/b": "url", "evil": "a\r\nX: y", "sly": ["a,b"], "deep": [["a"]], "none": null,
        });
        let Value::Object(claims) = claims else { unreachable!() };
        let identity = Identity { claims, ..Identity::default() };
        for (path, expected) in [
            ("sub", "anna"),
            ("n", "7"),
            ("admin", "true"),
            ("roles", "a,b"),
            ("realm.role", "x"),
            ("https://a.test/b", "url"),
            ("evil", ""),
            ("sly", ""),
            ("deep", ""),
            ("none", ""),
            ("realm", ""),
            ("realm.none.x", ""),
            ("", ""),
        ] {
            assert_eq!(identity.text(path), expected, "{path}");
        }
    }
}
