//! Routes of the operations of an API description.
//!
//! A document that a route uses may change the keys of the route: for all requests, below a path, or for one operation.
//! Each set of changes becomes a separate table, which is read like every other route. What is wrong in it has its
//! place in the document.

use std::{collections::HashMap, rc::Rc, sync::Arc};

use serde_json::Value;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    ApiDescription, OperationCondition,
    fault::{InvalidValue, Span, quoted},
    file::{File, TomlTable},
    filters,
};
use crate::openapi::{
    ApiOperation, ApiRules, PlacedContent, PlacedNode, RuleSet, SchemeKind, SecurityRule,
    SecurityScheme,
};

/// Keys that decide which requests follow the route. Only the configuration sets them.
const FIXED: [&str; 5] = ["host", "path", "match", "listeners", "openapi"];

/// Keys of what answers the requests; an inner one replaces an outer one.
const TARGETS: [&str; 5] = ["pool", "split", "redirect", "respond", "files"];

/// Keys that need a backend.
const OF_BACKENDS: [&str; 4] = ["timeouts", "decompress", "transform", "mirror"];

/// Most different sets of keys of one document: a request looks for its own one among them.
const MOST_SETS: usize = 256;

/// Longest name of an operation in a label.
const LONGEST_NAME: usize = 60;

/// A document that was read.
pub(super) struct LoadedDocument {
    pub(super) description: ApiDescription,
    pub(super) rules: ApiRules,
    /// Offset of its text among those of the configuration.
    base: usize,
}

impl LoadedDocument {
    pub(super) fn new(description: ApiDescription, rules: ApiRules, base: usize) -> Rc<Self> {
        Rc::new(Self { description, rules, base })
    }
}

/// The tables of a route whose document changes its keys.
pub(super) struct ExpandedRoute<'t> {
    /// For requests without an operation, and for operations without keys of their own.
    pub(super) rest: DeTable<'t>,
    /// For operations with keys of their own.
    pub(super) operations: Vec<OperationRoute<'t>>,
}

/// The table of some operations.
pub(super) struct OperationRoute<'t> {
    pub(super) entries: DeTable<'t>,
    pub(super) condition: OperationCondition,
    /// JSON pointer of the limits, if their place is not the route or the whole document.
    pub(super) limits: Option<String>,
}

/// Reads what the document of a route says about its keys; `None`: nothing, or the document has a fault.
pub(super) fn expand<'t>(route: &TomlTable<'t>) -> Option<ExpandedRoute<'t>> {
    let value = route.value("openapi")?;
    let loaded = filters::loaded(&value)?;
    if loaded.rules.is_empty() {
        return None;
    }
    let keys = DocumentKeys { file: route.file(), loaded: &loaded };
    let (rest, _) = keys.applied(route.entries(), &loaded.rules.document);
    let operations = loaded.description.document().operations();
    let mut sets: Vec<(&RuleSet, Vec<usize>)> = Vec::new();
    let mut known: HashMap<&RuleSet, usize> = HashMap::new();
    for (index, rules) in loaded.rules.operations.iter().enumerate() {
        if *rules == loaded.rules.document {
            continue;
        }
        let set = *known.entry(rules).or_insert_with(|| {
            sets.push((rules, Vec::new()));
            sets.len() - 1
        });
        sets[set].1.push(index);
    }
    if sets.len() > MOST_SETS {
        let message = format!("the operations have more than {MOST_SETS} different sets of keys");
        let help = "write common keys on the paths or on the document";
        value.fault(InvalidValue::new(message).help(help));
        return None;
    }
    let base =
        value.node.get_ref().as_table().and_then(|table| table.get("base")?.get_ref().as_str());
    let of_set = |(rules, indices): (&RuleSet, Vec<usize>)| {
        let (entries, limits) = keys.applied(route.entries(), rules);
        let condition = OperationCondition {
            description: loaded.description.clone(),
            base: base.map(|base| base.trim_end_matches('/').to_owned()),
            name: name(operations, &indices),
            operations: Arc::from(indices),
        };
        OperationRoute { entries, condition, limits }
    };
    Some(ExpandedRoute { rest, operations: sets.into_iter().map(of_set).collect() })
}

/// Names some operations, for labels.
fn name(operations: &[ApiOperation], indices: &[usize]) -> String {
    let first = indices.first().map(|index| operations[*index].to_string()).unwrap_or_default();
    let graphic = first.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' });
    let first: String = graphic.take(LONGEST_NAME).collect();
    match indices.len() {
        0 | 1 => format!("operation {first}"),
        several => format!("operation {first} and {} more", several - 1),
    }
}

/// Changes of the keys of a route.
struct DocumentKeys<'a, 't> {
    file: &'t File<'t>,
    loaded: &'a LoadedDocument,
}

impl<'t> DocumentKeys<'_, 't> {
    /// The entries of a route with the keys of its document, and the place of its limits.
    fn applied(&self, route: &DeTable<'t>, rules: &RuleSet) -> (DeTable<'t>, Option<String>) {
        let (mut entries, mut limits) = (route.clone(), None);
        for pointer in &rules.routes {
            let Some(PlacedContent::Members(members)) =
                self.part(pointer).map(|part| &part.content)
            else {
                continue;
            };
            let is_whole = pointer.matches('/').count() == 1;
            for (name, node) in members {
                if name == "limits" && !is_whole {
                    limits = Some(pointer.clone());
                }
                self.set(&mut entries, name, node);
            }
        }
        if let Some(security) = &rules.security {
            self.secure(&mut entries, security);
        }
        (entries, limits)
    }

    fn set(&self, entries: &mut DeTable<'t>, name: &str, node: &PlacedNode) {
        if FIXED.contains(&name) {
            let message = format!("{} cannot be set in a document that a route uses", quoted(name));
            let help = "set it in the route of the configuration";
            self.file.fault(&self.span(&node.key), InvalidValue::new(message).help(help));
            return;
        }
        if TARGETS.contains(&name) {
            TARGETS.iter().for_each(|other| drop(entries.remove(*other)));
            if !matches!(name, "pool" | "split") {
                OF_BACKENDS.iter().for_each(|other| drop(entries.remove(*other)));
            }
        }
        self.insert(entries, name, node);
    }

    /// Sets a member; null removes the one of an outer level.
    fn insert(&self, entries: &mut DeTable<'t>, name: &str, node: &PlacedNode) {
        entries.remove(name);
        if !matches!(node.content, PlacedContent::Scalar(Value::Null)) {
            let key = Spanned::new(self.span(&node.key), name.to_owned().into());
            entries.insert(key, self.value(node));
        }
    }

    fn value(&self, node: &PlacedNode) -> Spanned<DeValue<'t>> {
        let at = self.span(&node.at);
        let value = match &node.content {
            PlacedContent::Members(members) => {
                let mut table = DeTable::new();
                members.iter().for_each(|(name, node)| self.insert(&mut table, name, node));
                DeValue::Table(table)
            }
            PlacedContent::Elements(elements) => {
                let mut array = DeArray::new();
                elements.iter().for_each(|element| array.push(self.value(element)));
                DeValue::Array(array)
            }
            PlacedContent::Scalar(Value::Bool(value)) => DeValue::Boolean(*value),
            PlacedContent::Scalar(Value::String(text)) => DeValue::String(text.clone().into()),
            PlacedContent::Scalar(scalar) => match DeValue::parse(self.file.typed(&at)) {
                Ok(number) if scalar.is_number() => number.into_inner(),
                _ => DeValue::String(scalar.to_string().into()),
            },
        };
        Spanned::new(at, value)
    }

    fn part(&self, pointer: &str) -> Option<&PlacedNode> {
        self.loaded.rules.parts.get(pointer)
    }

    /// A place of the document among the texts of the configuration.
    fn span(&self, at: &Span) -> Span {
        at.start + self.loaded.base..at.end + self.loaded.base
    }

    fn place(&self, pointer: &str) -> Span {
        self.span(&self.part(pointer).map(|part| part.key.clone()).unwrap_or_default())
    }

    /// Sets the authentication that the document needs.
    fn secure(&self, entries: &mut DeTable<'t>, security: &SecurityRule) {
        let outer = entries.remove("auth").map(Spanned::into_inner);
        if security.is_open() {
            return;
        }
        let at = self.place(&security.at);
        let outer = match outer {
            Some(DeValue::Table(table)) => table,
            _ => DeTable::new(),
        };
        let mut auth: DeTable<'t> = outer
            .iter()
            .filter(|(key, _)| matches!(&**key.get_ref(), "require" | "grace" | "close_code"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for scheme in &security.schemes {
            if self.credential(&mut auth, &outer, scheme).is_none() {
                return;
            }
        }
        self.require(&mut auth, security, &at);
        put(entries, "auth", &at, DeValue::Table(auth));
    }

    /// Adds a kind of credentials; `None`: with a fault.
    fn credential(
        &self,
        auth: &mut DeTable<'t>,
        outer: &DeTable<'t>,
        scheme: &SecurityScheme,
    ) -> Option<()> {
        let at = self.place(&scheme.at);
        let own = scheme.auth.as_deref().and_then(|pointer| self.part(pointer));
        let own = own.map(|node| self.value(node).into_inner());
        let own = match own {
            None => DeTable::new(),
            Some(DeValue::Table(table)) => table,
            Some(_) => {
                let wrong = InvalidValue::new("`x-moorline-auth` must be an object");
                self.file.fault(&at, wrong.help("write keys of `auth` below it"));
                return None;
            }
        };
        let key = match &scheme.kind {
            SchemeKind::Basic => "basic",
            SchemeKind::Key(_) if !own.contains_key("jwt") => "api_keys",
            SchemeKind::Token(_) | SchemeKind::Key(_) => "jwt",
        };
        let before = auth.remove(key);
        let is_first = before.is_none();
        let before = before.or_else(|| outer.get(key).cloned()).map(Spanned::into_inner);
        let mut table = match before {
            Some(DeValue::Table(table)) => table,
            _ => DeTable::new(),
        };
        for (name, value) in own {
            match value.get_ref() {
                DeValue::Table(inner) if **name.get_ref() == *key => {
                    for (name, value) in inner {
                        table.remove(&**name.get_ref());
                        table.insert(name.clone(), value.clone());
                    }
                }
                _ if auth.contains_key(&**name.get_ref()) => {
                    let message = format!("{} is set twice", quoted(name.get_ref()));
                    let help =
                        "write it in `auth` of the route, or in `x-moorline-auth` of one scheme";
                    self.file.fault(&at, InvalidValue::new(message).help(help));
                    return None;
                }
                _ => drop(auth.insert(name, value)),
            }
        }
        let has_keys = ["keys", "secret", "jwks"].iter().any(|key| table.contains_key(*key));
        if let Some((issuer, url)) = scheme.kind.provider() {
            if !has_keys {
                put(&mut table, "jwks", &at, DeValue::String(url.to_owned().into()));
            }
            let known = table.get("issuer").and_then(|known| known.get_ref().as_str());
            if !is_first && known.is_some_and(|known| known != issuer) {
                let message = "a route verifies tokens of one issuer";
                let help = "need one of the two schemes, or leave the other one to the backend";
                self.file.fault(&at, InvalidValue::new(message).help(help));
                return None;
            }
            // Other keys must not make tokens of other issuers valid.
            if known.is_none() {
                put(&mut table, "issuer", &at, DeValue::String(issuer.to_owned().into()));
            }
        }
        if table.is_empty() {
            let message = format!("nothing verifies the credentials of {}", quoted(&scheme.name));
            let help = format!(
                "set `{key}` in `auth` of the route or in `x-moorline-auth` of the scheme, or `security = \"ignore\"` in `openapi`"
            );
            self.file.fault(&at, InvalidValue::new(message).help(help));
            return None;
        }
        let places = if key == "jwt" { "token" } else { "key" };
        match &scheme.kind {
            SchemeKind::Key(place) => add(&mut table, places, place, is_first, &at),
            SchemeKind::Token(_) if !is_first => add(&mut table, places, "header", false, &at),
            SchemeKind::Token(_) | SchemeKind::Basic => {}
        }
        put(auth, key, &at, DeValue::Table(table));
        Some(())
    }

    /// Adds scopes and the certificate to the conditions of the identity.
    fn require(&self, auth: &mut DeTable<'t>, security: &SecurityRule, at: &Span) {
        if security.scopes.is_empty() && !security.certificate {
            return;
        }
        let mut require = match auth.remove("require").map(Spanned::into_inner) {
            Some(DeValue::Table(table)) => table,
            _ => DeTable::new(),
        };
        for scope in &security.scopes {
            add(&mut require, "scopes", scope, false, at);
        }
        let without =
            |known: &Spanned<DeValue<'_>>| matches!(known.get_ref(), DeValue::Boolean(false));
        if security.certificate && require.get("certificate").is_none_or(without) {
            put(&mut require, "certificate", at, DeValue::Boolean(true));
        }
        put(auth, "require", at, DeValue::Table(require));
    }
}

fn put<'t>(table: &mut DeTable<'t>, key: &'static str, at: &Span, value: DeValue<'t>) {
    table.remove(key);
    table.insert(Spanned::new(at.clone(), key.into()), Spanned::new(at.clone(), value));
}

/// Adds a text to an array, or to one text. `alone`: the texts before do not count.
fn add<'t>(table: &mut DeTable<'t>, key: &'static str, text: &str, alone: bool, at: &Span) {
    let before = table.remove(key).filter(|_| !alone);
    let mut array = match before.map(|value| (value.span(), value.into_inner())) {
        Some((_, DeValue::Array(array))) => array,
        Some((at, text @ DeValue::String(_))) => {
            let mut array = DeArray::new();
            array.push(Spanned::new(at, text));
            array
        }
        _ => DeArray::new(),
    };
    if !array.iter().any(|known| known.get_ref().as_str() == Some(text)) {
        array.push(Spanned::new(at.clone(), DeValue::String(text.to_owned().into())));
    }
    put(table, key, at, DeValue::Array(array));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::super::check;

    /// The faults of a route with this document.
    fn faults(document: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("api.yaml"), document).unwrap();
        let text = "listeners.web.bind = '127.0.0.1:0'\n[pools.app]\nbackends = ['127.0.0.1:1']\n\
                    [[routes]]\npool = 'app'\nopenapi = 'api.yaml'\n";
        let path = folder.path().join("moorline.toml");
        check::text(text, Path::new(&path))
            .map_or_else(|faults| faults.to_string(), |_| String::new())
    }

    fn with_sets(count: usize) -> String {
        let mut document = "openapi: 3.1.0\npaths:\n".to_owned();
        for number in 1..=count {
            document += &format!(
                "  /p{number}: {{ get: {{ x-moorline-route: {{ max_body: {number} }} }} }}\n"
            );
        }
        document
    }

    #[test]
    fn the_sets_of_keys_are_bounded() {
        assert_eq!(faults(&with_sets(256)), "");
        let shown = faults(&with_sets(257));
        assert!(shown.contains("more than 256 different sets of keys"), "{shown}");
    }

    #[test]
    fn aliases_do_not_multiply_keys() {
        let mut bomb =
            "openapi: 3.1.0\npaths: {}\nx-a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("x-a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", "));
        }
        bomb += "x-moorline-route: { allow: *a11 }\n";
        assert!(faults(&bomb).contains("this is not YAML or JSON"));
        let deep = format!("openapi: 3.1.0\nx-moorline-route: {}", "{a: ".repeat(10_000));
        assert!(faults(&deep).contains("this is not YAML or JSON"));
    }
}
