//! Conditions of a route beyond host and path.
//!
//! A condition that cannot be evaluated is not met: a request that is not understood follows the route without
//! conditions.

mod text;

use std::{collections::HashMap, fmt, net::IpAddr};

use http::Method;
use ipnet::IpNet;
use moorline_http::{FieldId, RequestHead};

pub(super) use self::text::TextMatch;
use self::text::{cookies, parameters};
use super::addresses;
use crate::{
    config::{
        CertificateCondition, OperationCondition, RouteConditions, SplitPool, TextCondition,
        expression::{Expression, ExpressionError, ExpressionInput},
    },
    net::tls::ClientCertificate,
    openapi::{PathTemplate, without_base},
};

/// The conditions of a route. A request follows the route if it meets each of them.
#[derive(Debug)]
pub(crate) struct Conditions {
    methods: Box<[Method]>,
    texts: Box<[NamedText]>,
    client: Box<[IpNet]>,
    certificate: Option<CertificateMatch>,
    /// The expression; `None` within: it is not valid, which the check of the configuration rules out.
    expression: Option<Option<Box<Expression>>>,
    /// The template of the path; `None` within: it is not valid, which the check of the configuration rules out.
    path: Option<Option<PathTemplate>>,
    operation: Option<OperationCondition>,
}

/// A condition of a header field, a query parameter or a cookie.
#[derive(Debug)]
struct NamedText {
    kind: TextKind,
    name: Box<str>,
    text: TextMatch,
}

/// The part of a request that has a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// A header field.
    Header,
    /// A parameter of the query.
    Query,
    /// A cookie.
    Cookie,
}

/// A condition of the client's certificate.
#[derive(Debug)]
pub(super) enum CertificateMatch {
    Present(bool),
    Identity { subject: Option<TextMatch>, fingerprints: Box<[Box<str>]> },
}

/// Header fields and cookies, one of which forces a request to a pool of a split.
#[derive(Debug)]
pub(crate) struct Forcing(Box<[NamedText]>);

impl Forcing {
    /// Creates the rule of a pool; `None` if nothing forces requests to it.
    pub(crate) fn new(config: &SplitPool) -> Option<Self> {
        let texts: Box<[NamedText]> = NamedText::all(TextKind::Header, &config.headers)
            .chain(NamedText::all(TextKind::Cookie, &config.cookies))
            .collect();
        (!texts.is_empty()).then_some(Self(texts))
    }

    /// Whether a request is forced to the pool.
    pub(crate) fn forces(&self, request: &RequestHead) -> bool {
        self.0.iter().any(|text| text.is_met(request))
    }
}

/// What the conditions of a route know about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouteFacts<'a> {
    pub(crate) request: &'a RequestHead,
    /// The path in normal form, or as some backends read it instead.
    pub(crate) path: &'a str,
    /// Requested host, without port.
    pub(crate) host: &'a str,
    /// Whether it is a WebSocket handshake.
    pub(crate) upgrade: bool,
    /// Address of the client, taken from forwarding fields behind trusted proxies.
    pub(crate) client: IpAddr,
    /// Whether the client uses TLS.
    pub(crate) secure: bool,
    /// Verified certificate of the peer.
    pub(crate) certificate: Option<&'a ClientCertificate>,
}

/// The first condition that a request does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnmetCondition {
    /// The method.
    Method,
    /// The text with this name.
    Text(TextKind, Box<str>),
    /// The client's address.
    Client,
    /// The client's certificate.
    Certificate,
    /// The path.
    Path,
    /// The operation of the API description.
    Operation,
    /// The expression is false.
    Expression,
    /// The expression has no result.
    NotEvaluated(ExpressionError),
}

impl Conditions {
    /// Creates the conditions of a route; `None` if it has none.
    pub(crate) fn new(config: &RouteConditions) -> Option<Self> {
        if config.is_empty() {
            return None;
        }
        let RouteConditions {
            methods,
            headers,
            query,
            cookies,
            client,
            certificate,
            expression,
            path,
            operation,
        } = config;
        let kinds =
            [(TextKind::Header, headers), (TextKind::Query, query), (TextKind::Cookie, cookies)];
        let texts = kinds.into_iter().flat_map(|(kind, texts)| NamedText::all(kind, texts));
        let method = |method: &String| Method::from_bytes(method.as_bytes()).ok();
        Some(Self {
            methods: methods.iter().filter_map(method).collect(),
            texts: texts.collect(),
            client: client.clone().into(),
            certificate: certificate.as_ref().map(CertificateMatch::new),
            expression: expression.as_ref().map(|text| Expression::new(text).map(Box::new)),
            path: path.as_deref().map(PathTemplate::parse),
            operation: operation.clone(),
        })
    }

    /// Returns the first condition that a request does not meet; `None`: it meets all.
    pub(crate) fn unmet(&self, facts: &RouteFacts<'_>) -> Option<UnmetCondition> {
        if !self.methods.is_empty() && !self.methods.contains(&facts.request.method) {
            return Some(UnmetCondition::Method);
        }
        if let Some(template) = &self.path
            && !template.as_ref().is_some_and(|template| template.matches(facts.path))
        {
            return Some(UnmetCondition::Path);
        }
        if let Some(operation) = &self.operation
            && !is_operation(operation, facts.request, facts.path)
        {
            return Some(UnmetCondition::Operation);
        }
        if let Some(text) = self.texts.iter().find(|text| !text.is_met(facts.request)) {
            return Some(UnmetCondition::Text(text.kind, text.name.clone()));
        }
        if !self.client.is_empty() && !addresses::contains(&self.client, facts.client) {
            return Some(UnmetCondition::Client);
        }
        if let Some(certificate) = &self.certificate
            && !certificate.is_met(facts.certificate)
        {
            return Some(UnmetCondition::Certificate);
        }
        let expression = self.expression.as_ref()?;
        let result = match expression {
            Some(expression) => expression.evaluate(input(facts)),
            None => Ok(false),
        };
        match result {
            Ok(true) => None,
            Ok(false) => Some(UnmetCondition::Expression),
            Err(error) => Some(UnmetCondition::NotEvaluated(error)),
        }
    }
}

/// Whether a request is one of these operations. A CORS preflight is the operation that it asks for.
fn is_operation(condition: &OperationCondition, request: &RequestHead, path: &str) -> bool {
    let document = condition.description.document();
    let below = match &condition.base {
        Some(base) => without_base(path, base),
        None => document.below_server(path),
    };
    let wanted = request.head.only(FieldId::AccessControlRequestMethod);
    let wanted = wanted.filter(|_| request.method == Method::OPTIONS);
    let wanted = wanted.and_then(|method| Method::from_bytes(method).ok());
    let find = |method: &Method| document.find(method, below?).ok();
    // An OPTIONS operation decides first: a field that every client can set must not choose other rules.
    let found = find(&request.method).or_else(|| find(&wanted?));
    found.is_some_and(|found| condition.operations.binary_search(&found.index).is_ok())
}

impl NamedText {
    fn all(kind: TextKind, texts: &[(String, TextCondition)]) -> impl Iterator<Item = Self> {
        texts.iter().map(move |(name, text)| Self {
            kind,
            name: name.as_str().into(),
            text: TextMatch::new(text),
        })
    }

    fn is_met(&self, request: &RequestHead) -> bool {
        let name = &*self.name;
        match self.kind {
            TextKind::Header => self.text.meets(request.head.named(name)),
            TextKind::Query => {
                let named = parameters(request.query()).filter(|(other, _)| other == name);
                self.text.meets(named.map(|(_, value)| value))
            }
            TextKind::Cookie => {
                let named = cookies(&request.head).filter(|(other, _)| *other == name.as_bytes());
                self.text.meets(named.map(|(_, value)| value))
            }
        }
    }
}

impl CertificateMatch {
    pub(super) fn new(config: &CertificateCondition) -> Self {
        match config {
            CertificateCondition::Present => Self::Present(true),
            CertificateCondition::Absent => Self::Present(false),
            CertificateCondition::Identity { subject, fingerprints } => {
                let fingerprints = fingerprints.iter().map(|text| text.as_str().into());
                Self::Identity {
                    subject: subject.as_ref().map(TextMatch::new),
                    fingerprints: fingerprints.collect(),
                }
            }
        }
    }

    pub(super) fn is_met(&self, certificate: Option<&ClientCertificate>) -> bool {
        match (self, certificate) {
            (Self::Present(wanted), certificate) => *wanted == certificate.is_some(),
            (Self::Identity { .. }, None) => false,
            (Self::Identity { subject, fingerprints }, Some(certificate)) => {
                let is_subject = |text: &TextMatch| text.meets([certificate.subject.as_bytes()]);
                subject.as_ref().is_none_or(is_subject)
                    && (fingerprints.is_empty() || fingerprints.contains(&certificate.fingerprint))
            }
        }
    }
}

/// Collects what an expression may read.
fn input(facts: &RouteFacts<'_>) -> ExpressionInput {
    let request = facts.request;
    let mut headers: HashMap<String, String> = HashMap::new();
    for field in request.head.fields() {
        let name = String::from_utf8_lossy(field.name).to_ascii_lowercase();
        let value = String::from_utf8_lossy(field.value);
        // The values of one field are a list (RFC 9110 §5.3).
        headers
            .entry(name)
            .and_modify(|list| list.extend([", ", &*value]))
            .or_insert_with(|| value.into_owned());
    }
    let lossy = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    // Of several values, the first one counts.
    let mut query = HashMap::new();
    for (name, value) in parameters(request.query()) {
        query.entry(name.into_owned()).or_insert_with(|| lossy(&value));
    }
    let mut by_name = HashMap::new();
    for (name, value) in cookies(&request.head) {
        by_name.entry(lossy(name)).or_insert_with(|| lossy(value));
    }
    let certificate =
        facts.certificate.map(|it| (it.subject.to_string(), it.fingerprint.to_string()));
    ExpressionInput {
        method: request.method.as_str().to_owned(),
        scheme: if facts.secure { "https" } else { "http" },
        host: facts.host.to_ascii_lowercase(),
        path: request.path().to_owned(),
        query,
        headers,
        cookies: by_name,
        upgrade: facts.upgrade,
        ip: facts.client.to_canonical().to_string(),
        certificate: certificate.unwrap_or_default(),
    }
}

impl fmt::Display for TextKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Query => "query parameter",
            Self::Cookie => "cookie",
        })
    }
}

impl fmt::Display for UnmetCondition {
    /// A part of a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("the method is another one"),
            Self::Text(kind, name) => write!(f, "the {kind} {name} does not match"),
            Self::Client => f.write_str("the client is in another network"),
            Self::Certificate => f.write_str("the client certificate does not match"),
            Self::Path => f.write_str("the path does not match the template"),
            Self::Operation => f.write_str("the request is another operation"),
            Self::Expression => f.write_str("the expression is false"),
            Self::NotEvaluated(error) => write!(f, "the expression has no result: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
