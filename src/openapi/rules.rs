//! What a document says about the routes of its operations: `x-moorline-route`, and `security`.
//!
//! This module reads which rules hold for which operation. It does not know what the keys of a route mean.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::{
    document::{ApiDocument, Source},
    fault::ApiDocumentFault,
    operation::escape,
    places::{PlacedDocument, PlacedNode},
};

/// Keys of a route, on a document, a path or an operation.
pub(crate) const ROUTE: &str = "x-moorline-route";

/// Keys of `auth`, on a security scheme.
const AUTH: &str = "x-moorline-auth";

/// All routes of a configuration, on an exported document; the routes that a path describes.
pub(crate) const ROUTES: &str = "x-moorline-routes";

/// Path of the OpenID Provider's metadata below its issuer (OpenID Connect Discovery 1.0 §4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// What is read of a document's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleReading {
    /// `x-moorline-route` only.
    Extensions,
    /// `security` too.
    Security,
}

/// The rules of a document.
#[derive(Debug, Default)]
pub(crate) struct ApiRules {
    /// Those of requests without an operation.
    pub(crate) document: RuleSet,
    /// Those of each operation, by its index.
    pub(crate) operations: Vec<RuleSet>,
    /// The parts of the document that the rules name, by their JSON pointers.
    pub(crate) parts: HashMap<String, PlacedNode>,
}

/// The rules of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RuleSet {
    /// JSON pointers of the `x-moorline-route` of the document, the path and the operation; a later one wins.
    pub(crate) routes: Vec<String>,
    /// What a request must prove; `None`: the document does not say it.
    pub(crate) security: Option<SecurityRule>,
}

/// What a request must prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SecurityRule {
    /// JSON pointer of the requirement.
    pub(crate) at: String,
    /// Kinds of credentials, of which one is needed.
    pub(crate) schemes: Vec<SecurityScheme>,
    /// Scopes that the identity must have.
    pub(crate) scopes: Vec<String>,
    /// Whether a client certificate is needed.
    pub(crate) certificate: bool,
    /// A route cannot check it: the rule has a fault.
    pub(crate) is_faulty: bool,
}

/// A kind of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecurityScheme {
    /// Its name in the document.
    pub(crate) name: String,
    /// JSON pointer of the scheme.
    pub(crate) at: String,
    pub(crate) kind: SchemeKind,
    /// JSON pointer of its `x-moorline-auth`.
    pub(crate) auth: Option<String>,
}

/// How a credential is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SchemeKind {
    /// A token in `Authorization`, with the URL of the issuer's metadata, if it is known.
    Token(Option<String>),
    /// A key or a token in this place, as a route names it.
    Key(String),
    /// A name and a password.
    Basic,
}

impl SchemeKind {
    /// Returns issuer and URL of the metadata.
    pub(crate) fn provider(&self) -> Option<(&str, &str)> {
        match self {
            Self::Token(Some(url)) => Some((url.strip_suffix(DISCOVERY)?, url)),
            _ => None,
        }
    }
}

impl SecurityRule {
    /// Whether every request is accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.schemes.is_empty() && !self.certificate
    }
}

impl ApiRules {
    /// Whether there are no rules.
    pub(crate) fn is_empty(&self) -> bool {
        let mut all = self.operations.iter().chain([&self.document]);
        all.all(|rules| *rules == RuleSet::default())
    }

    pub(super) fn read(
        source: &Source<'_>,
        text: &str,
        document: &ApiDocument,
        reading: RuleReading,
    ) -> (Self, Vec<ApiDocumentFault>) {
        let mut reader = RuleReader { source, reading, known: HashMap::new(), faults: Vec::new() };
        let whole = RuleSet { routes: reader.route(""), security: reader.security("") };
        let operations = document.operations().iter().map(|operation| {
            let mut rules = whole.clone();
            for place in &operation.places {
                rules.routes.extend(reader.route(place));
            }
            let own = reader.security(&operation.places[1]);
            RuleSet { security: own.or(rules.security.take()), ..rules }
        });
        let operations = operations.collect();
        let mut rules = Self { document: whole, operations, parts: HashMap::new() };
        if reader.faults.is_empty() {
            rules.place(source, text);
        }
        (rules, reader.faults)
    }

    /// Finds the parts that the rules name.
    fn place(&mut self, source: &Source<'_>, text: &str) {
        if self.is_empty() {
            return;
        }
        let mut pointers = BTreeSet::new();
        for rules in self.operations.iter().chain([&self.document]) {
            pointers.extend(rules.routes.iter().cloned());
            for scheme in rules.security.iter().flat_map(|security| &security.schemes) {
                pointers.extend([scheme.at.clone()]);
                pointers.extend(scheme.auth.clone());
            }
            pointers.extend(rules.security.iter().map(|security| security.at.clone()));
        }
        let placed = PlacedDocument::parse(text);
        let part = |pointer: String| {
            let known = placed.as_ref().and_then(|placed| placed.part(&pointer));
            let value = source.value(&pointer);
            let part = known.or_else(|| value.map(PlacedNode::without_place))?;
            Some((pointer, part))
        };
        self.parts = pointers.into_iter().filter_map(part).collect();
    }
}

/// Reads rules and their faults.
struct RuleReader<'a> {
    source: &'a Source<'a>,
    reading: RuleReading,
    /// Requirements and extensions that were read, by their pointers: each is reported once.
    known: HashMap<String, Option<SecurityRule>>,
    faults: Vec<ApiDocumentFault>,
}

impl RuleReader<'_> {
    /// The pointer of `x-moorline-route` of a part.
    fn route(&mut self, at: &str) -> Vec<String> {
        let members = self.source.value(at).and_then(Value::as_object);
        let mut found = Vec::new();
        for (name, value) in members.into_iter().flatten() {
            if !name.starts_with("x-moorline-") {
                continue;
            }
            let here = format!("{at}/{name}");
            if name == ROUTE && value.is_object() {
                found.push(here);
            } else if name != ROUTES && self.known.insert(here.clone(), None).is_none() {
                let fault = match name == ROUTE {
                    true => ApiDocumentFault::new(here, "this is not an object")
                        .help("write keys of a route below it, for example `max_body: 1MiB`"),
                    false => ApiDocumentFault::new(here, format!("there is no key `{name}`"))
                        .help(format!("write the keys of the route below `{ROUTE}`")),
                };
                self.faults.push(fault);
            }
        }
        found
    }

    /// The requirements of a part; `None`: it has none.
    fn security(&mut self, at: &str) -> Option<SecurityRule> {
        if self.reading == RuleReading::Extensions {
            return None;
        }
        let at = format!("{at}/security");
        let alternatives = self.source.value(&at)?;
        if let Some(known) = self.known.get(&at) {
            return known.clone();
        }
        let rule = match alternatives {
            Value::Array(alternatives) => self.alternatives(&at, alternatives),
            _ => {
                let fault = ApiDocumentFault::new(&*at, "this is not an array");
                Err(fault.help("write for example `security: [{ bearer: [] }]`"))
            }
        };
        let rule = rule.unwrap_or_else(|fault| {
            self.faults.push(fault);
            SecurityRule { at: at.clone(), is_faulty: true, ..SecurityRule::default() }
        });
        self.known.insert(at, Some(rule.clone()));
        Some(rule)
    }

    /// One of these is needed.
    fn alternatives(
        &self,
        at: &str,
        alternatives: &[Value],
    ) -> Result<SecurityRule, ApiDocumentFault> {
        let mut whole: Option<SecurityRule> = None;
        for (index, alternative) in alternatives.iter().enumerate() {
            let here = format!("{at}/{index}");
            let Some(needed) = alternative.as_object() else {
                return Err(ApiDocumentFault::new(here, "this is not an object")
                    .help("write the name of a security scheme: `- bearer: []`"));
            };
            let rule = self.together(&here, needed)?;
            let Some(whole) = &mut whole else {
                whole = Some(SecurityRule { at: at.to_owned(), ..rule });
                continue;
            };
            if rule.is_open() || whole.is_open() {
                return Err(ApiDocumentFault::new(
                    here,
                    "a route cannot accept requests with and without credentials",
                )
                .help("remove `{}` from the alternatives, or describe two operations"));
            }
            if rule.schemes.is_empty()
                || whole.schemes.is_empty()
                || rule.certificate != whole.certificate
            {
                let message = "a route cannot accept a certificate instead of another credential";
                return Err(ApiDocumentFault::new(here, message)
                    .help("name the certificate in all alternatives or in none"));
            }
            if rule.scopes != whole.scopes {
                let message = "a route cannot need other scopes for another kind of credentials";
                return Err(ApiDocumentFault::new(here, message)
                    .help("write the same scopes in all alternatives"));
            }
            for scheme in rule.schemes {
                if !whole.schemes.contains(&scheme) {
                    whole.schemes.push(scheme);
                }
            }
        }
        Ok(whole.unwrap_or_else(|| SecurityRule { at: at.to_owned(), ..SecurityRule::default() }))
    }

    /// All of these are needed.
    fn together(
        &self,
        at: &str,
        needed: &Map<String, Value>,
    ) -> Result<SecurityRule, ApiDocumentFault> {
        let mut rule = SecurityRule::default();
        let mut scopes = BTreeSet::new();
        for (name, wanted) in needed {
            let here = format!("{at}/{}", escape(name));
            match self.scheme(name, &here)? {
                None => rule.certificate = true,
                Some(scheme) => rule.schemes.push(scheme),
            }
            let words = match wanted {
                Value::Null => Some(Vec::new()),
                Value::Array(words) => {
                    words.iter().map(|word| word.as_str().map(str::to_owned)).collect()
                }
                _ => None,
            };
            scopes.extend(words.ok_or_else(|| {
                ApiDocumentFault::new(
                    here.clone(),
                    format!("the scopes of `{name}` are not an array of texts"),
                )
                .help("write `[]` if it needs none")
            })?);
            if let [first, second, ..] = &rule.schemes[..] {
                let message = format!(
                    "`{}` and `{}` are needed together: a route checks one credential, besides the certificate",
                    first.name, second.name
                );
                return Err(ApiDocumentFault::new(here, message)
                    .help("need one of the two, or leave the other one to the backend"));
            }
        }
        rule.scopes = scopes.into_iter().collect();
        Ok(rule)
    }

    /// A security scheme; `None`: a client certificate.
    fn scheme(&self, name: &str, used: &str) -> Result<Option<SecurityScheme>, ApiDocumentFault> {
        let named = format!("/components/securitySchemes/{}", escape(name));
        if !self.source.has(&named) {
            let message = format!("the document has no security scheme `{name}`");
            return Err(ApiDocumentFault::new(used, message)
                .help(format!("add `components.securitySchemes.{name}`, or correct the name")));
        }
        let at = self.source.resolve(&named)?;
        let scheme = self.source.object(&at)?;
        let text = |key: &str| scheme.get(key).and_then(Value::as_str).unwrap_or_default();
        let unsupported = |key: &str, what: &str| {
            let message = format!("the security scheme {what} is not supported");
            Err(ApiDocumentFault::new(format!("{at}/{key}"), message).help(
                "leave it to the backend: set `security = \"ignore\"` in `openapi` of the route",
            ))
        };
        let kind = match (text("type"), text("scheme").to_ascii_lowercase().as_str(), text("in")) {
            ("mutualTLS", ..) => return Ok(None),
            ("http", "bearer", _) | ("oauth2", ..) => SchemeKind::Token(None),
            ("openIdConnect", ..) => {
                let url = text("openIdConnectUrl");
                SchemeKind::Token(Some(url.to_owned()).filter(|url| url.ends_with(DISCOVERY)))
            }
            ("http", "basic", _) => SchemeKind::Basic,
            ("apiKey", _, place @ ("header" | "query" | "cookie")) => {
                SchemeKind::Key(format!("{place}:{}", text("name")))
            }
            ("http", other, _) => return unsupported("scheme", &format!("`{other}` of http")),
            ("apiKey", ..) => return unsupported("in", "apiKey outside header, query and cookie"),
            (other, ..) => return unsupported("type", &format!("`{other}`")),
        };
        let auth = format!("{at}/{AUTH}");
        let auth = self.source.has(&auth).then_some(auth);
        Ok(Some(SecurityScheme { name: name.to_owned(), at, kind, auth }))
    }
}
