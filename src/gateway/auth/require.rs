//! Authorization: the conditions that an identity must meet, besides being valid.

use serde_json::Value;

use crate::{
    auth::Identity,
    config::RequireConfig,
    gateway::conditions::{CertificateMatch, TextMatch},
    net::tls::ClientCertificate,
};

/// The conditions of a route.
#[derive(Debug)]
pub(super) struct Requirements {
    scopes: Box<[Box<str>]>,
    claims: Box<[(Box<str>, TextMatch)]>,
    certificate: Option<CertificateMatch>,
}

impl Requirements {
    pub(super) fn new(config: &RequireConfig) -> Self {
        let RequireConfig { scopes, claims, certificate } = config;
        let claim = |(path, text): &(String, _)| (path.as_str().into(), TextMatch::new(text));
        Self {
            scopes: scopes.iter().map(|scope| scope.as_str().into()).collect(),
            claims: claims.iter().map(claim).collect(),
            certificate: certificate.as_ref().map(CertificateMatch::new),
        }
    }

    /// Whether the certificate meets its condition.
    pub(super) fn allow_certificate(&self, certificate: Option<&ClientCertificate>) -> bool {
        self.certificate.as_ref().is_none_or(|wanted| wanted.is_met(certificate))
    }

    /// Returns what the identity lacks.
    pub(super) fn unmet(&self, identity: &Identity) -> Option<String> {
        if let Some(scope) = self.scopes.iter().find(|scope| !identity.has_scope(scope)) {
            return Some(format!("the scope {scope} is missing"));
        }
        let unmet =
            |(path, text): &&(Box<str>, TextMatch)| !text.meets(texts(identity.claim(path)));
        let (path, _) = self.claims.iter().find(unmet)?;
        Some(format!("the claim {path} does not match"))
    }
}

/// The texts of a claim: of a list, each of its values.
fn texts(claim: Option<&Value>) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match claim {
        Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}
