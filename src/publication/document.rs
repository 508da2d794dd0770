//! The routes of a configuration as one OpenAPI document.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::{components::DocumentMove, security};
use crate::{
    config::{
        ApiDescription, Config, HostPattern, ListenerConfig, OpenApiConfig, RouteConfig, RouteTo,
    },
    openapi::{ApiOperation, PathTemplate, ROUTES_KEY, document_value, without_base},
};

/// Name of the description of all hosts.
pub(crate) const ALL: &str = "all";

/// Name of the description of routes for every host.
const ANY: &str = "any";

/// Most base paths of one document that are described.
const MOST_BASES: usize = 8;

/// Most routes without a document that are described.
const MOST_ROUTES: usize = 10_000;

/// A published description.
#[derive(Debug)]
pub(crate) struct PublishedApi {
    /// The document, OpenAPI 3.1.
    pub(crate) document: Value,
    /// What it leaves out.
    pub(crate) notes: Vec<String>,
}

/// Returns the names of the descriptions.
pub(crate) fn names(config: &Config) -> Vec<String> {
    let hosts: BTreeSet<String> = config.routes.iter().map(|route| name(&route.host)).collect();
    std::iter::once(ALL.to_owned()).chain(hosts).collect()
}

fn name(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => ANY.to_owned(),
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    }
}

/// Describes the routes of a host, or all routes. `with_routes`: the routes themselves are part of the document. `None`: no
/// route has this host.
pub(crate) fn document(config: &Config, wanted: &str, with_routes: bool) -> Option<PublishedApi> {
    let is_wanted = |route: &&RouteConfig| wanted == ALL || name(&route.host) == wanted;
    let routes: Vec<&RouteConfig> = config.routes.iter().filter(is_wanted).collect();
    if routes.is_empty() && wanted != ALL {
        return None;
    }
    let mut publisher = Publisher { config, with_routes, ..Publisher::new(config) };
    for route in routes.iter().filter(|route| route.conditions.operation.is_none()) {
        publisher.route(route, &routes);
    }
    Some(publisher.finish(wanted))
}

/// A description while it is put together.
struct Publisher<'a> {
    config: &'a Config,
    with_routes: bool,
    paths: Map<String, Value>,
    components: Map<String, Value>,
    schemes: Map<String, Value>,
    /// `info` and tags of the documents.
    infos: Vec<Value>,
    tags: Vec<Value>,
    /// The written routes, by their place in the configuration.
    routes: Vec<(usize, Value)>,
    documents: Vec<ApiDescription>,
    /// Which route describes a path and a method.
    owners: HashMap<(String, String), usize>,
    notes: Vec<String>,
}

impl<'a> Publisher<'a> {
    fn new(config: &'a Config) -> Self {
        Self {
            config,
            with_routes: false,
            paths: Map::new(),
            components: Map::new(),
            schemes: Map::new(),
            infos: Vec::new(),
            tags: Vec::new(),
            routes: Vec::new(),
            documents: Vec::new(),
            owners: HashMap::new(),
            notes: Vec::new(),
        }
    }

    fn route(&mut self, route: &RouteConfig, all: &[&RouteConfig]) {
        let index = self.written(route);
        match &route.filters.openapi {
            Some(openapi) => self.described(route, openapi, all, index),
            None if self.paths.len() >= MOST_ROUTES => {}
            None => self.plain(route, index),
        }
    }

    /// Remembers the route as it is written; returns its number.
    fn written(&mut self, route: &RouteConfig) -> usize {
        let index = route.written.index;
        if !self.routes.iter().any(|(known, _)| *known == index) {
            let keys = route.written.keys().map(Value::Object);
            let keys = keys.unwrap_or_else(|| json!({ "pool": route.pool() }));
            self.routes.push((index, keys));
        }
        index
    }

    /// Adds a path, unless another route describes it for the same method.
    fn add(&mut self, path: &str, mut item: Map<String, Value>, route: &RouteConfig, index: usize) {
        item.insert("servers".to_owned(), json!([self.server(&route.host)]));
        if self.with_routes {
            item.insert(ROUTES_KEY.to_owned(), json!([index]));
        }
        let Some(known) = self.paths.get_mut(path).and_then(Value::as_object_mut) else {
            for method in item.keys() {
                self.owners.insert((path.to_owned(), method.clone()), index);
            }
            self.paths.insert(path.to_owned(), Value::Object(item));
            return;
        };
        for (name, member) in item {
            match name.as_str() {
                "get" | "put" | "post" | "delete" | "options" | "head" | "patch" | "trace" => {
                    let owner = self.owners.entry((path.to_owned(), name.clone()));
                    if *owner.or_insert(index) != index {
                        let method = name.to_ascii_uppercase();
                        self.notes.push(format!(
                            "{method} {path} is described once: the route {route} has it too"
                        ));
                    }
                    known.entry(name).or_insert(member);
                }
                "servers" | ROUTES_KEY => {
                    if let (Some(Value::Array(known)), Value::Array(more)) =
                        (known.get_mut(&name), member)
                    {
                        let new: Vec<Value> =
                            more.into_iter().filter(|one| !known.contains(one)).collect();
                        known.extend(new);
                    }
                }
                _ => drop(known.entry(name).or_insert(member)),
            }
        }
    }

    /// The server of a host.
    fn server(&self, host: &HostPattern) -> Value {
        let url = self.url(host);
        match host {
            HostPattern::Wildcard(_) => {
                json!({ "url": url, "variables": { "name": { "default": "www" } } })
            }
            HostPattern::Any | HostPattern::Exact(_) => json!({ "url": url }),
        }
    }

    /// The public URL of a host.
    fn url(&self, host: &HostPattern) -> String {
        let http = |listener: &&ListenerConfig| listener.protocol.is_http();
        let secure = |listener: &&ListenerConfig| listener.protocol.tls().is_some();
        let mut listeners = self.config.listeners.iter().filter(http);
        let listener = listeners.clone().find(secure).or_else(|| listeners.next());
        let host = match host {
            HostPattern::Any => return "/".to_owned(),
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Wildcard(suffix) => format!("{{name}}.{suffix}"),
        };
        let is_secure = listener.is_some_and(|listener| secure(&listener));
        let port = listener.and_then(|listener| listener.bind.first()).map(|bind| bind.port());
        match (is_secure, port) {
            (true, Some(443) | None) => format!("https://{host}"),
            (false, Some(80) | None) => format!("http://{host}"),
            (true, Some(port)) => format!("https://{host}:{port}"),
            (false, Some(port)) => format!("http://{host}:{port}"),
        }
    }

    /// A route without a document: its path.
    fn plain(&mut self, route: &RouteConfig, index: usize) {
        let template = route.conditions.path.as_deref();
        let path = template.unwrap_or(&route.path);
        let mut operation = Map::new();
        let (summary, answers) = summary(route);
        operation.insert("summary".to_owned(), summary.into());
        if template.is_none() {
            let below = format!("This path, and all paths below `{}`.", path.trim_end_matches('/'));
            operation.insert("description".to_owned(), below.into());
        }
        operation.insert("responses".to_owned(), answers);
        let auth = route.filters.auth.as_ref();
        operation.insert("security".to_owned(), security::requirement(auth, &mut self.schemes));
        let mut item = Map::new();
        let names = template.and_then(PathTemplate::parse);
        let names: Vec<String> =
            names.iter().flat_map(PathTemplate::names).map(str::to_owned).collect();
        if !names.is_empty() {
            let parameter = |name: &String| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
            item.insert("parameters".to_owned(), names.iter().map(parameter).collect());
        }
        let methods = match &route.conditions.methods[..] {
            [] => vec!["get".to_owned()],
            methods => methods.iter().map(|method| method.to_ascii_lowercase()).collect(),
        };
        for method in methods {
            // Other methods cannot be described.
            if ["get", "put", "post", "delete", "options", "head", "patch", "trace"]
                .contains(&method.as_str())
            {
                item.insert(method, Value::Object(operation.clone()));
            }
        }
        // Braces are those of templates only.
        let path = if template.is_some() { path.to_owned() } else { path.replace(['{', '}'], "_") };
        self.add(&path, item, route, index);
    }

    /// A route with a document: its operations.
    fn described(
        &mut self,
        route: &RouteConfig,
        openapi: &OpenApiConfig,
        all: &[&RouteConfig],
        index: usize,
    ) {
        let Ok(mut source) = document_value(openapi.document.text()) else { return };
        let known = self.documents.iter().position(|known| *known == openapi.document);
        let number = known.unwrap_or(self.documents.len());
        let suffix = if number > 0 { format!("_{}", number + 1) } else { String::new() };
        let is_30 = source["openapi"].as_str().is_some_and(|version| version.starts_with("3.0"));
        let moved = DocumentMove { suffix: &suffix, keeps_keys: self.with_routes, is_30 };
        let document = openapi.document.document();
        let mut bases: Vec<&str> = match &openapi.base {
            Some(base) => vec![base],
            None => document.servers.iter().map(|server| server.base.as_str()).collect(),
        };
        bases.sort_unstable();
        bases.dedup();
        bases.truncate(MOST_BASES);
        let rules: Vec<Option<&RouteConfig>> = (0..document.operations().len())
            .map(|at| all.iter().find(|other| is_for(other, route, at)).copied())
            .collect();
        for base in bases {
            self.operations(route, &source, (base, document.operations(), &rules), &moved, index);
        }
        if known.is_some() {
            return;
        }
        self.documents.push(openapi.document.clone());
        if let Some(Value::Object(components)) = source.get_mut("components").map(Value::take) {
            for (kind, members) in components {
                let Value::Object(members) = members else { continue };
                if kind == "securitySchemes" {
                    continue;
                }
                let known = self.components.entry(kind).or_insert_with(|| json!({}));
                for (name, mut member) in members {
                    moved.rewrite(&mut member, 0);
                    if let Some(known) = known.as_object_mut() {
                        known.insert(moved.named(&name), member);
                    }
                }
            }
        }
        self.infos.push(source["info"].take());
        if let Value::Array(tags) = source["tags"].take() {
            self.tags.extend(tags);
        }
    }

    /// Adds the operations of a document below a base path, as far as the route covers them.
    fn operations(
        &mut self,
        route: &RouteConfig,
        source: &Value,
        (base, operations, rules): (&str, &[ApiOperation], &[Option<&RouteConfig>]),
        moved: &DocumentMove<'_>,
        index: usize,
    ) {
        let route_path = route.path.trim_end_matches('/');
        for (operation, own) in operations.iter().zip(rules) {
            let path = format!("{base}{}", operation.path);
            if without_base(&path, route_path).is_none() {
                continue;
            }
            let [item_at, at] = &operation.places;
            let mut item = source.pointer(item_at).and_then(Value::as_object).cloned();
            let item = item.get_or_insert_default();
            item.retain(|name, _| {
                matches!(name.as_str(), "summary" | "description" | "parameters")
                    || moved.keeps_keys && name.starts_with("x-moorline-")
            });
            let mut value = source.pointer(at).cloned().unwrap_or_default();
            if let Some(members) = value.as_object_mut() {
                members.remove("servers");
                members.remove("callbacks");
                members.remove("security");
            }
            let mut item = Value::Object(std::mem::take(item));
            moved.rewrite(&mut item, 0);
            moved.rewrite(&mut value, 0);
            let auth = own.unwrap_or(route).filters.auth.as_ref();
            let required = security::requirement(auth, &mut self.schemes);
            if let Some(members) = value.as_object_mut() {
                members.insert("security".to_owned(), required);
            }
            if let Value::Object(mut item) = item {
                item.insert(operation.method.as_str().to_ascii_lowercase(), value);
                self.add(&path, item, route, index);
            }
        }
    }

    fn finish(mut self, wanted: &str) -> PublishedApi {
        let title = match wanted {
            ALL => "Published API".to_owned(),
            ANY => "Published API of all hosts".to_owned(),
            host => format!("Published API of {host}"),
        };
        let info = match &mut self.infos[..] {
            [only] if only.is_object() => only.take(),
            _ => json!({ "title": title, "version": "1" }),
        };
        if !self.schemes.is_empty() {
            self.components.insert("securitySchemes".to_owned(), Value::Object(self.schemes));
        }
        let mut document = json!({ "openapi": "3.1.0", "info": info, "paths": self.paths });
        if !self.components.is_empty() {
            document["components"] = Value::Object(self.components);
        }
        if !self.tags.is_empty() {
            document["tags"] = Value::Array(self.tags);
        }
        if self.with_routes {
            self.routes.sort_by_key(|(index, _)| *index);
            document[ROUTES_KEY] = self.routes.into_iter().map(|(_, keys)| keys).collect();
        }
        PublishedApi { document, notes: self.notes }
    }
}

/// Whether a route is for this operation of the document of another one.
fn is_for(route: &RouteConfig, of: &RouteConfig, operation: usize) -> bool {
    let condition = route.conditions.operation.as_ref();
    route.written.index == of.written.index
        && route.host == of.host
        && condition.is_some_and(|condition| condition.operations.contains(&operation))
}

/// What a route does, and its responses.
fn summary(route: &RouteConfig) -> (String, Value) {
    let (summary, status) = match &route.target {
        RouteTo::Pool(_) | RouteTo::Split(_) => ("Answered by the application", "default".into()),
        RouteTo::Redirect(redirect) => ("A redirect", redirect.status.to_string()),
        RouteTo::Respond(respond) => ("A fixed response", respond.status.to_string()),
        RouteTo::Files(_) => ("Static files", "200".to_owned()),
    };
    let mut responses = Map::new();
    responses.insert(status, json!({ "description": format!("{summary}.") }));
    let filters = &route.filters;
    for (is_set, status, about) in [
        (filters.auth.is_some(), "401", "The credentials are missing or not valid."),
        (!filters.limits.is_empty(), "429", "Too many requests."),
    ] {
        if is_set {
            responses.entry(status).or_insert_with(|| json!({ "description": about }));
        }
    }
    (summary.to_owned(), Value::Object(responses))
}
