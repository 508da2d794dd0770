//! Routes from an API description, as TOML.

mod security;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use http::Method;
use serde_json::{Map, Value, json};

use super::inline;
use crate::{
    config::{self, path},
    openapi::{ROUTE_KEY, ROUTES_KEY, ReadDocument, RuleReading, RuleSet},
};

/// Pool of the routes, if none is named.
const POOL: &str = "app";

/// Keys of a route in the order in which they are written.
const ORDER: [&str; 5] = ["host", "path", "match", "pool", "openapi"];

/// Keys of what answers the requests.
const TARGETS: [&str; 5] = ["pool", "split", "redirect", "respond", "files"];

/// Keys that come from paths and servers.
const FIXED: [&str; 5] = ["host", "path", "match", "listeners", "openapi"];

pub(super) struct ImportOptions<'a> {
    /// File of the document.
    pub(super) file: &'a Path,
    pub(super) live: bool,
    /// Pools of the configuration that the routes become part of.
    pub(super) pools: &'a [String],
    /// Folder of the written file.
    pub(super) folder: &'a Path,
}

pub(super) struct ImportedRoutes {
    pub(super) text: String,
    /// What is not expressed.
    pub(super) notes: Vec<String>,
}

/// Translates a document.
pub(super) fn import(text: &str, options: &ImportOptions<'_>) -> anyhow::Result<ImportedRoutes> {
    let shown = |faults| config::document_faults(options.file, text, faults);
    let read = ReadDocument::parse(text, RuleReading::Security).map_err(shown)?;
    let mut notes = Vec::new();
    let routes = match (whole_routes(&read.value), options.live) {
        (Some(routes), false) => routes,
        (_, true) => live(&read, options),
        (None, false) => {
            notes.push(
                "the schemas of parameters and bodies are checked with --live only".to_owned(),
            );
            written(&read, options, &mut notes)
        }
    };
    if !read.faults.is_empty() {
        notes.push(shown(read.faults).to_string());
    }
    if read.value.get("webhooks").is_some() {
        notes.push("webhooks are requests of the server: they become no routes".to_owned());
    }
    Ok(ImportedRoutes { text: file(&routes, options, &mut notes), notes })
}

/// A route and what is said about it in a comment.
struct ImportedRoute {
    comment: String,
    /// The keys; `None`: the operation is left out.
    keys: Option<Map<String, Value>>,
}

/// The routes that an export has written.
fn whole_routes(document: &Value) -> Option<Vec<ImportedRoute>> {
    let routes = document.get(ROUTES_KEY)?.as_array()?;
    let route =
        |keys: &Value| ImportedRoute { comment: String::new(), keys: keys.as_object().cloned() };
    Some(routes.iter().map(route).collect())
}

/// One route for each base path of the servers, which names the document.
fn live(read: &ReadDocument, options: &ImportOptions<'_>) -> Vec<ImportedRoute> {
    let file = std::path::absolute(options.file).unwrap_or_else(|_| options.file.to_owned());
    let folder = std::path::absolute(Path::new(".").join(options.folder)).unwrap_or_default();
    let file = file.strip_prefix(&folder).unwrap_or(&file).display().to_string();
    let route = |(base, hosts): (String, Vec<String>)| {
        let mut keys = place(&base, &hosts);
        keys.insert("pool".to_owned(), pool(options).into());
        keys.insert("openapi".to_owned(), file.clone().into());
        ImportedRoute { comment: String::new(), keys: Some(keys) }
    };
    bases(read).into_iter().map(route).collect()
}

/// Base paths with their hosts; no host: every host.
fn bases(read: &ReadDocument) -> Vec<(String, Vec<String>)> {
    let mut bases: BTreeMap<&str, Option<BTreeSet<String>>> = BTreeMap::new();
    for server in &read.document.servers {
        let host = server.host.as_deref().map(|host| without_port(host).to_owned());
        let hosts = bases.entry(&server.base).or_insert_with(|| Some(BTreeSet::new()));
        match (host, hosts.as_mut()) {
            (Some(host), Some(known)) => drop(known.insert(host)),
            _ => *hosts = None,
        }
    }
    let list = |hosts: Option<BTreeSet<String>>| hosts.into_iter().flatten().collect();
    bases.into_iter().map(|(base, hosts)| (base.to_owned(), list(hosts))).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn pool<'a>(options: &ImportOptions<'a>) -> &'a str {
    options.pools.first().map_or(POOL, String::as_str)
}

/// Host and path of a route.
fn place(route_path: &str, hosts: &[String]) -> Map<String, Value> {
    let mut keys = Map::new();
    match hosts {
        [] => {}
        [host] => drop(keys.insert("host".to_owned(), host.clone().into())),
        hosts => drop(keys.insert("host".to_owned(), json!(hosts))),
    }
    if !matches!(route_path, "" | "/") {
        keys.insert("path".to_owned(), route_path.into());
    }
    keys
}

/// A route for each path and each set of rules.
fn written(
    read: &ReadDocument,
    options: &ImportOptions<'_>,
    notes: &mut Vec<String>,
) -> Vec<ImportedRoute> {
    let operations = read.document.operations();
    let mut groups: Vec<(&str, &RuleSet, Vec<usize>)> = Vec::new();
    for index in read.document.by_precision() {
        let (operation, rules) = (&operations[index], &read.rules.operations[index]);
        let item = read.value.pointer(&operation.places[0]);
        if item.is_some_and(|item| item.get(ROUTES_KEY).is_some()) {
            continue;
        }
        let known = groups.iter_mut().rev().take_while(|(path, ..)| *path == operation.path);
        match known.into_iter().find(|(_, other, _)| *other == rules) {
            Some((_, _, indices)) => indices.push(index),
            None => groups.push((&operation.path, rules, vec![index])),
        }
    }
    let mut routes = Vec::new();
    for (base, hosts) in bases(read) {
        for (path, rules, indices) in &groups {
            let names: Vec<String> = indices
                .iter()
                .map(|index| operations[*index].to_string().replace(char::is_control, " "))
                .collect();
            let comment = names.join(", ");
            let whole = format!("{base}{path}");
            let keys = match keys(read, rules, options) {
                Ok(keys) => keys,
                Err(reason) => {
                    let note = format!("left out: {comment}: {reason}");
                    if !notes.contains(&note) {
                        notes.push(note.clone());
                    }
                    routes.push(ImportedRoute { comment: note, keys: None });
                    continue;
                }
            };
            let methods: Vec<Method> =
                indices.iter().map(|index| operations[*index].method.clone()).collect();
            let has = |method: &Method| {
                let same = operations.iter().filter(|operation| operation.path == **path);
                same.into_iter().any(|operation| operation.method == *method)
            };
            let methods = implied(methods, has, keys.contains_key("cors"));
            let mut route = place(&prefix(&whole), &hosts);
            route.insert("match".to_owned(), json!({ "method": methods, "path": whole }));
            route.extend(keys);
            routes.push(ImportedRoute { comment, keys: Some(route) });
        }
    }
    routes
}

/// Adds the methods that a route answers without an operation: HEAD like GET, and preflights of CORS.
fn implied(methods: Vec<Method>, has: impl Fn(&Method) -> bool, cors: bool) -> Vec<String> {
    let gets = methods.contains(&Method::GET) && !has(&Method::HEAD);
    let more = [(gets, Method::HEAD), (cors && !has(&Method::OPTIONS), Method::OPTIONS)];
    let more = more.into_iter().filter_map(|(wanted, method)| wanted.then_some(method));
    methods.into_iter().chain(more).map(|method| method.to_string()).collect()
}

/// The longest path of a route that covers a template.
fn prefix(template: &str) -> String {
    let literal: Vec<&str> =
        template.split('/').skip(1).take_while(|segment| !segment.contains('{')).collect();
    let prefix = format!("/{}", literal.join("/"));
    match path::prefix(&prefix).is_ok() && path::normal(&prefix) == *prefix {
        true => prefix,
        false => "/".to_owned(),
    }
}

/// The keys that the rules of an operation set.
fn keys(
    read: &ReadDocument,
    rules: &RuleSet,
    options: &ImportOptions<'_>,
) -> Result<Map<String, Value>, String> {
    let mut keys = Map::new();
    for pointer in &rules.routes {
        for (name, value) in
            read.value.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
        {
            if FIXED.contains(&name.as_str()) {
                return Err(format!("`{name}` of `{ROUTE_KEY}` comes from paths and servers"));
            }
            if TARGETS.contains(&name.as_str()) {
                TARGETS.iter().for_each(|other| drop(keys.remove(*other)));
            }
            match value {
                Value::Null => drop(keys.remove(name)),
                value => drop(keys.insert(name.clone(), value.clone())),
            }
        }
    }
    if let Some(security) = &rules.security {
        let outer = keys.remove("auth");
        if let Some(auth) = security::auth(&read.value, outer, security)? {
            keys.insert("auth".to_owned(), auth);
        }
    }
    if TARGETS.iter().all(|target| !keys.contains_key(*target)) {
        keys.insert("pool".to_owned(), pool(options).into());
    }
    Ok(keys)
}

/// The pools that routes name.
fn named_pools(routes: &[ImportedRoute]) -> BTreeSet<String> {
    let mut pools = BTreeSet::new();
    let mut add = |value: Option<&Value>| {
        let name = value.and_then(|value| value.as_str().or_else(|| value.get("pool")?.as_str()));
        pools.extend(name.map(str::to_owned));
    };
    for keys in routes.iter().filter_map(|route| route.keys.as_ref()) {
        add(keys.get("pool"));
        add(keys.get("mirror"));
        let shares = keys.get("split").and_then(Value::as_array);
        shares.into_iter().flatten().for_each(|share| add(Some(share)));
    }
    pools
}

/// Writes the file.
fn file(routes: &[ImportedRoute], options: &ImportOptions<'_>, notes: &mut Vec<String>) -> String {
    let mut text = format!("# Written by `moorline openapi import {}`.\n", options.file.display());
    let pools = named_pools(routes);
    if options.pools.is_empty() {
        text.push_str(
            "# Set the listeners and the backends, then run `moorline check` on this file.\n",
        );
        text.push_str("\n[listeners.web]\nbind = \"127.0.0.1:8080\"\n");
    } else {
        for missing in pools.iter().filter(|pool| !options.pools.contains(pool)) {
            notes.push(format!("the pool {missing:?} is not one of --pool"));
        }
    }
    for ImportedRoute { comment, keys } in routes {
        text.push('\n');
        if !comment.is_empty() {
            let _ = writeln!(text, "# {comment}");
        }
        let Some(keys) = keys else { continue };
        text.push_str("[[routes]]\n");
        let first = ORDER.into_iter().filter_map(|name| Some((name, keys.get(name)?)));
        let rest = keys.iter().map(|(name, value)| (name.as_str(), value));
        let rest = rest.filter(|(name, _)| !ORDER.contains(name));
        for (name, value) in first.chain(rest) {
            if let Some(value) = inline::value(value) {
                let _ = writeln!(text, "{} = {value}", inline::key(name));
            }
        }
    }
    if options.pools.is_empty() {
        for pool in pools {
            let _ =
                write!(text, "\n[pools.{}]\nbackends = [\"127.0.0.1:3000\"]\n", inline::key(&pool));
        }
    }
    text
}
