//! The filters of a route as JSON.

mod auth;
mod bodies;
mod throttle;

pub(super) use bodies::files;
pub(super) use throttle::per;

use serde_json::{Map, Value, json};

use crate::config::{
    AddressRules, CacheConfig, CorsConfig, FilterConfig, HeaderEdits, MaintenanceConfig,
    OpenApiConfig, OriginPattern, OriginPatterns, OriginRules, PathRewrite, RewriteConfig,
    Template,
};

/// Returns the filters; without those that do nothing.
pub(super) fn json(filters: &FilterConfig) -> Value {
    let FilterConfig {
        rewrite: RewriteConfig { path, host },
        addresses: AddressRules { allow, deny },
        origins,
        cors,
        request_headers,
        response_headers,
        max_body,
        maintenance,
        compress,
        decompress,
        transform,
        limits,
        messages,
        cache,
        auth,
        openapi,
    } = filters;
    let some = |edits: &HeaderEdits| (!edits.is_empty()).then(|| header_edits(edits));
    let networks = |networks: &[ipnet::IpNet]| (!networks.is_empty()).then(|| json!(networks));
    let shown = [
        ("rewrite", path.as_ref().map(rewrite)),
        ("host", host.as_ref().map(|host| json!(host))),
        ("allow", networks(allow)),
        ("deny", networks(deny)),
        ("origins", origins.as_ref().map(page_origins)),
        ("cors", cors.as_ref().map(cors_settings)),
        ("request_headers", some(request_headers)),
        ("response_headers", some(response_headers)),
        ("max_body", max_body.map(|most| json!(most))),
        ("maintenance", maintenance.as_ref().map(closed)),
        ("compress", compress.as_ref().map(bodies::compress)),
        ("messages", messages.as_ref().map(throttle::messages)),
        ("decompress", decompress.as_ref().map(bodies::decompress)),
        ("transform", (!transform.is_empty()).then(|| bodies::transform(transform))),
        ("openapi", openapi.as_ref().map(description)),
        ("limits", (!limits.is_empty()).then(|| limits.iter().map(throttle::limit).collect())),
        ("cache", cache.as_ref().map(cache_settings)),
        ("auth", auth.as_ref().map(auth::json)),
    ];
    let shown = shown.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(shown.collect())
}

fn description(openapi: &OpenApiConfig) -> Value {
    let OpenApiConfig { file, document: _, base, refuse_unknown, max_body } = openapi;
    json!({
        "file": file.display().to_string(),
        "base": base,
        "unknown": if *refuse_unknown { "refuse" } else { "pass" },
        "max_body": max_body,
    })
}

fn rewrite(rewrite: &PathRewrite) -> Value {
    match rewrite {
        PathRewrite::Prefix { from, to } => json!({ "from": from, "to": to }),
        PathRewrite::Whole(path) => json!(path),
        PathRewrite::Pattern { pattern, with } => json!({ "pattern": pattern, "with": with }),
    }
}

fn header_edits(edits: &HeaderEdits) -> Value {
    let HeaderEdits { remove, set, append } = edits;
    json!({ "remove": remove, "set": fields(set), "append": fields(append) })
}

fn fields(fields: &[(String, Template)]) -> Map<String, Value> {
    fields.iter().map(|(name, value)| (name.clone(), json!(value.source()))).collect()
}

fn cors_settings(cors: &CorsConfig) -> Value {
    let CorsConfig { origins, methods, headers, expose, credentials, max_age } = cors;
    json!({
        "origins": origins_json(origins),
        "methods": methods,
        "headers": headers,
        "expose": expose,
        "credentials": credentials,
        "max_age": max_age,
    })
}

fn origins_json(origins: &OriginPatterns) -> Value {
    match origins {
        OriginPatterns::Any => json!("*"),
        OriginPatterns::Listed(patterns) => patterns.iter().map(origin).collect(),
    }
}

fn page_origins(rules: &OriginRules) -> Value {
    let OriginRules { same_host, listed } = rules;
    json!({ "same_host": same_host, "listed": origins_json(listed) })
}

fn origin(pattern: &OriginPattern) -> Value {
    match pattern {
        OriginPattern::Exact(origin) => json!(origin),
        OriginPattern::Subdomains { scheme, suffix } => json!(format!("{scheme}*.{suffix}")),
    }
}

fn closed(closed: &MaintenanceConfig) -> Value {
    let MaintenanceConfig { retry_after, except } = closed;
    json!({ "retry_after": retry_after, "except": except })
}

fn cache_settings(cache: &CacheConfig) -> Value {
    let CacheConfig {
        lifetime,
        heuristic,
        stale_if_error,
        max_entry,
        store_cookies,
        client_directives,
    } = cache;
    let seconds = |time: &Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "lifetime": seconds(lifetime),
        "heuristic": heuristic,
        "stale_if_error": seconds(stale_if_error),
        "max_entry": max_entry,
        "store_cookies": store_cookies,
        "client_directives": client_directives,
    })
}
