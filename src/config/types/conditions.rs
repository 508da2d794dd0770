//! Types of the conditions of a route beyond host and path.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use super::ApiDescription;

/// Conditions of a route beyond host and path. A request meets them if it meets each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteConditions {
    /// Methods, one of which the request must have; empty: any.
    pub methods: Vec<String>,
    /// Conditions of header fields, by name.
    pub headers: Vec<(String, TextCondition)>,
    /// Conditions of query parameters, by name.
    pub query: Vec<(String, TextCondition)>,
    /// Conditions of cookies, by name.
    pub cookies: Vec<(String, TextCondition)>,
    /// Networks, one of which must contain the client's address; empty: any.
    pub client: Vec<IpNet>,
    /// Condition of the client's certificate.
    pub certificate: Option<CertificateCondition>,
    /// Expression in CEL that must be true.
    pub expression: Option<String>,
    /// Template that the whole path must match, for example `/rooms/{room}`.
    pub path: Option<String>,
    /// Operations of an API description, one of which the request must be.
    pub operation: Option<OperationCondition>,
}

/// Operations of an API description that a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationCondition {
    /// The description.
    pub description: ApiDescription,
    /// Path before all paths of the document; `None`: that of its servers.
    pub base: Option<String>,
    /// Indices of the operations in the document.
    pub operations: Arc<[usize]>,
    /// What they are called in labels.
    pub name: String,
}

/// A condition of a text that a request may have, once, several times or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextCondition {
    /// The request has the text.
    Present,
    /// The request does not have the text.
    Absent,
    /// The text is one of these.
    OneOf(Vec<String>),
    /// The text begins with this one.
    Prefix(String),
    /// The text matches this regular expression from its start to its end.
    Pattern(String),
}

/// A condition of the client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateCondition {
    /// The client has a verified certificate.
    Present,
    /// The client has no certificate.
    Absent,
    /// The client has this certificate.
    Identity {
        /// Condition of the distinguished name of the subject (RFC 4514).
        subject: Option<TextCondition>,
        /// SHA-256 fingerprints in lower-case hex, one of which the certificate must have; empty: any.
        fingerprints: Vec<String>,
    },
}

impl OperationCondition {
    /// Returns the names of the first operations.
    pub fn names(&self) -> Vec<String> {
        let all = self.description.document().operations();
        let named = self.operations.iter().filter_map(|index| all.get(*index));
        named.take(100).map(ToString::to_string).collect()
    }
}

impl RouteConditions {
    /// Whether every request meets the conditions.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the operation of a description is the only condition: the route was written without any.
    pub fn is_operation_only(&self) -> bool {
        self.operation.is_some() && Self { operation: None, ..self.clone() }.is_empty()
    }

    /// Whether each request that meets `other` meets these conditions, as far as they show it.
    pub fn cover(&self, other: &Self) -> bool {
        let all = |ours: &[(String, TextCondition)], theirs: &[(String, TextCondition)]| {
            ours.iter().all(|(name, ours)| {
                theirs.iter().any(|(other, theirs)| other == name && ours.covers(theirs))
            })
        };
        let methods = self.methods.is_empty()
            || !other.methods.is_empty()
                && other.methods.iter().all(|method| self.methods.contains(method));
        let within = |network: &IpNet| self.client.iter().any(|ours| ours.contains(network));
        methods
            && all(&self.headers, &other.headers)
            && all(&self.query, &other.query)
            && all(&self.cookies, &other.cookies)
            && (self.client.is_empty()
                || !other.client.is_empty() && other.client.iter().all(within))
            && (self.certificate.is_none() || self.certificate == other.certificate)
            && (self.expression.is_none() || self.expression == other.expression)
            && (self.path.is_none() || self.path == other.path)
            && (self.operation.is_none() || self.operation == other.operation)
    }
}

impl TextCondition {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, other) => *other != Self::Absent,
            (Self::OneOf(ours), Self::OneOf(theirs)) => {
                theirs.iter().all(|text| ours.contains(text))
            }
            (Self::Prefix(ours), Self::OneOf(theirs)) => {
                theirs.iter().all(|text| text.starts_with(ours))
            }
            (ours, theirs) => ours == theirs,
        }
    }
}

impl fmt::Display for TextCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => Ok(()),
            Self::Absent => f.write_str(" absent"),
            Self::OneOf(texts) => write!(f, " = {}", texts.join("|")),
            Self::Prefix(prefix) => write!(f, " = {prefix}*"),
            Self::Pattern(pattern) => write!(f, " ~ {pattern}"),
        }
    }
}

impl fmt::Display for RouteConditions {
    /// One line: `method GET, header X-Beta = 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.methods.is_empty() {
            parts.push(format!("method {}", self.methods.join("|")));
        }
        for (kind, named) in
            [("header", &self.headers), ("query", &self.query), ("cookie", &self.cookies)]
        {
            parts.extend(named.iter().map(|(name, text)| format!("{kind} {name}{text}")));
        }
        if !self.client.is_empty() {
            let networks: Vec<String> =
                self.client.iter().take(3).map(ToString::to_string).collect();
            let more = if self.client.len() > 3 { "|…" } else { "" };
            parts.push(format!("client {}{more}", networks.join("|")));
        }
        match &self.certificate {
            None => {}
            Some(CertificateCondition::Present) => parts.push("certificate".to_owned()),
            Some(CertificateCondition::Absent) => parts.push("certificate absent".to_owned()),
            Some(CertificateCondition::Identity { subject, fingerprints }) => {
                parts.extend(subject.iter().map(|text| format!("certificate subject{text}")));
                let short = |text: &String| text.chars().take(8).collect::<String>();
                let short: Vec<String> = fingerprints.iter().take(3).map(short).collect();
                if !short.is_empty() {
                    parts.push(format!("certificate {}…", short.join("|")));
                }
            }
        }
        parts.extend(self.path.iter().map(|path| format!("path {path}")));
        parts.extend(self.expression.iter().map(|text| format!("cel {text}")));
        parts.extend(self.operation.iter().map(|operation| operation.name.clone()));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(header: TextCondition, methods: &[&str]) -> RouteConditions {
        RouteConditions {
            headers: vec![("X-Beta".to_owned(), header)],
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            ..RouteConditions::default()
        }
    }

    #[test]
    fn conditions_cover_stricter_ones() {
        let one_of = |texts: &[&str]| {
            TextCondition::OneOf(texts.iter().map(|text| (*text).to_owned()).collect())
        };
        let present = conditions(TextCondition::Present, &[]);
        let some = conditions(one_of(&["1", "2"]), &[]);
        let strict = conditions(one_of(&["1"]), &["GET"]);
        assert!(present.cover(&some) && some.cover(&strict) && present.cover(&strict));
        assert!(!strict.cover(&some) && !some.cover(&present));
        assert!(!present.cover(&conditions(TextCondition::Absent, &[])));
        assert!(RouteConditions::default().cover(&strict));
        assert!(!strict.cover(&RouteConditions::default()));
        let network = |text: &str| RouteConditions {
            client: vec![text.parse().unwrap()],
            ..RouteConditions::default()
        };
        assert!(network("10.0.0.0/8").cover(&network("10.1.0.0/16")));
        assert!(!network("10.1.0.0/16").cover(&network("10.0.0.0/8")));
    }

    #[test]
    fn conditions_are_shown_in_one_line() {
        let shown =
            conditions(TextCondition::Prefix("2.".to_owned()), &["GET", "HEAD"]).to_string();
        assert_eq!(shown, "method GET|HEAD, header X-Beta = 2.*");
    }
}
