//! The keys of a route that change requests and responses, or answer them without a backend.

mod auth;
mod bodies;
mod openapi;
mod origins;
pub(super) mod throttle;
mod transform;

pub(super) use auth::key_url;
pub(super) use bodies::files;
pub(super) use openapi::{faults as document_faults, loaded};
pub(super) mod cache;
pub(crate) use transform::{TEMPLATE_NAME, body_template};

use regex::Regex;

use super::{
    AddressRules, CorsConfig, FilterConfig, HeaderEdits, MaintenanceConfig, OriginPattern,
    OriginPatterns, PathRewrite, RedirectConfig, RespondConfig, RewriteConfig, Template,
    address::host_pattern,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    networks, path,
    reader::SHORTEST,
    schema,
    types::HostPattern,
};

/// Largest `max_body`. Sizes are exact in every implementation up to here.
const LARGEST_BODY: usize = 1 << 40;

/// Longest body of a fixed response, in bytes.
const LONGEST_RESPONSE: usize = 8 << 10;

/// Type of a fixed response, if none is set.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Maximum number of origins, methods or fields in a list.
const MOST_LISTED: usize = 256;

/// Longest time that browsers remember a preflight: Firefox caps it at a day, Chrome at two hours.
const LONGEST_PREFLIGHT: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Time until a client of a closed route tries again.
const MAINTENANCE_RETRY: std::time::Duration = std::time::Duration::from_secs(30);

/// Maximum size of a compiled regular expression, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// Fields that belong to a connection or describe the body's framing: an edit would contradict the message.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Reads the filters of a route with this path.
pub(super) fn filters(table: &TomlTable<'_>, path: &str) -> FilterConfig {
    let read = |key| table.value(key);
    let (request_headers, response_headers) =
        read("headers").map(|value| headers(&value)).unwrap_or_default();
    let limits = read("limits").map(|value| throttle::limits(&value)).unwrap_or_default();
    if let Some(limit) = limits.iter().find(|limit| limit.key.needs_identity())
        && read("auth").is_none()
        && let Some(value) = read("limits")
    {
        let wrong = InvalidValue::new(format!("the key \"{}\" needs `auth`", limit.key.written()));
        value.fault(wrong.help("add `auth` to the route, or use another key"));
    }
    let config = FilterConfig {
        rewrite: read("rewrite").map(|value| rewrite(&value)).unwrap_or_default(),
        addresses: AddressRules {
            allow: read("allow").map(|value| networks::all(&value)).unwrap_or_default(),
            deny: read("deny").map(|value| networks::all(&value)).unwrap_or_default(),
        },
        origins: read("origins").map(|value| origins::origins(&value)),
        cors: read("cors").and_then(|value| cors(&value)),
        request_headers,
        response_headers,
        max_body: read("max_body").and_then(|v| v.size(0..=LARGEST_BODY)).map(|size| size as u64),
        auth: read("auth").and_then(|value| auth::auth(&value, path)),
        maintenance: read("maintenance").and_then(|value| maintenance(&value)),
        compress: read("compress").and_then(|value| bodies::compress(&value)),
        messages: read("messages").and_then(|value| throttle::messages(&value)),
        decompress: read("decompress").and_then(|value| transform::decompress(&value)),
        transform: read("transform").map(|value| transform::transform(&value)).unwrap_or_default(),
        limits,
        cache: read("cache").and_then(|value| cache::cache(&value)),
        openapi: read("openapi").and_then(|value| openapi::openapi(&value)),
    };
    if let Some(value) = read("auth") {
        auth::check_claims(&value, &config);
    }
    config
}

/// Reads a location, or a table with it.
pub(super) fn redirect(value: &TomlValue<'_>) -> Option<RedirectConfig> {
    const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
    if value.node.get_ref().is_str() {
        return Some(RedirectConfig { to: value.parsed(location)?, status: 308 });
    }
    let wanted = "a location such as \"https://example.com{path}{query}\", or a table";
    let table = value.table(&schema::REDIRECT, wanted)?;
    let to = table.need("to", "`to = \"https://example.com{path}{query}\"`");
    let status = table.value("status").and_then(|value| {
        let status = value.integer(301..=308)?;
        if !STATUSES.contains(&status) {
            let wrong = InvalidValue::new(format!("status {status} is not a redirect"));
            value.fault(wrong.help("use 301, 302, 303, 307 or 308"));
            return None;
        }
        Some(status)
    });
    Some(RedirectConfig { to: to?.parsed(location)?, status: status.unwrap_or(308) })
}

/// A location: an absolute URL or a path.
fn location(typed: &str) -> Result<Template, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid location {}", quoted(typed)));
    let begins = ["/", "http://", "https://", "{scheme}://"];
    if typed.starts_with("//") || !begins.iter().any(|start| typed.starts_with(start)) {
        return Err(wrong().help("write a path or a URL: \"https://example.com{path}{query}\""));
    }
    if typed.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(wrong().help("write other characters percent-encoded"));
    }
    // The path of a request begins with a slash, and `//name` is a host.
    if typed.starts_with("/{") {
        let message = format!("the location {} could name another host", quoted(typed));
        let help =
            "begin it with a fixed part, such as `/new{path}` or `https://example.com{path}`";
        return Err(InvalidValue::new(message).help(help));
    }
    Template::parse(typed)
}

/// Reads a table with a fixed response.
pub(super) fn respond(value: &TomlValue<'_>) -> Option<RespondConfig> {
    let table =
        value.table(&schema::RESPOND, "a table such as `{ status = 200, body = \"ok\" }`")?;
    let content_type = table.value("type").and_then(|value| {
        value.parsed(|typed| match is_field_value(typed) && typed.contains('/') {
            true => Ok(typed.to_owned()),
            false => Err(InvalidValue::new(format!("invalid media type {}", quoted(typed)))
                .help("write for example \"text/html; charset=utf-8\"")),
        })
    });
    let body = table.value("body").and_then(|value| value.parsed(text_body)).unwrap_or_default();
    let status = table.integer("status", 200..=599, 200);
    if let Some(typed) = table.value("body").filter(|_| matches!(status, 204 | 304)) {
        let wrong = InvalidValue::new(format!("a response with status {status} has no body"));
        typed.fault(wrong.help("remove `body`, or use another status"));
    }
    Some(RespondConfig {
        status,
        body,
        content_type: content_type.unwrap_or_else(|| PLAIN_TEXT.to_owned()),
    })
}

fn text_body(typed: &str) -> Result<Template, InvalidValue> {
    if typed.len() > LONGEST_RESPONSE {
        let wrong = InvalidValue::new(format!("`body` has more than {LONGEST_RESPONSE} bytes"));
        return Err(wrong.help("serve longer texts from a backend"));
    }
    Template::parse(typed)
}

fn rewrite(value: &TomlValue<'_>) -> RewriteConfig {
    let wanted = "a table such as `{ strip_prefix = \"/app\" }`";
    let Some(table) = value.table(&schema::REWRITE, wanted) else {
        return RewriteConfig::default();
    };
    let paths = ["strip_prefix", "replace", "regex"];
    let mut set = paths.into_iter().filter(|key| table.value(key).is_some());
    let first = set.next();
    if let (Some(first), Some(second)) = (first, set.next()) {
        let wrong = InvalidValue::new(format!("`{first}` and `{second}` cannot be used together"));
        table.refuse(&[second], |_| wrong.clone().help("remove one of the two"));
    }
    let path = match first {
        Some("strip_prefix") => table.value("strip_prefix").and_then(|value| {
            let from = value.parsed(prefix)?;
            Some(PathRewrite::Prefix { from, to: String::new() })
        }),
        Some("replace") => table.value("replace").and_then(|value| replace(&value)),
        Some(_) => table.value("regex").and_then(|value| pattern(&value)),
        None => None,
    };
    let host = table.value("host").and_then(|value| {
        value.parsed(|typed| match host_pattern(without_port(typed))? {
            HostPattern::Exact(_) => Ok(typed.to_ascii_lowercase()),
            HostPattern::Any | HostPattern::Wildcard(_) => {
                let wrong = InvalidValue::new(format!("invalid host {}", quoted(typed)));
                Err(wrong.help("write one name: \"app.internal\""))
            }
        })
    });
    RewriteConfig { path, host }
}

/// A host without its port, which backends may get.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.ends_with(':') => name,
        _ => host,
    }
}

fn prefix(typed: &str) -> Result<String, InvalidValue> {
    path::prefix(typed)?;
    Ok(path::normal(typed).trim_end_matches('/').to_owned())
}

/// Reads a path that replaces all of the path, or a prefix and another one.
fn replace(value: &TomlValue<'_>) -> Option<PathRewrite> {
    if value.node.get_ref().is_str() {
        return value
            .parsed(|typed| path::prefix(typed).map(|()| typed.to_owned()))
            .map(PathRewrite::Whole);
    }
    let wanted = "a path, or a table such as `{ from = \"/v1\", to = \"/v2\" }`";
    let table = value.table(&schema::REPLACE, wanted)?;
    let from = table.need("from", "`from = \"/v1\"`").and_then(|value| value.parsed(prefix));
    let to = table.need("to", "`to = \"/v2\"`").and_then(|value| value.parsed(prefix));
    Some(PathRewrite::Prefix { from: from?, to: to? })
}

fn pattern(value: &TomlValue<'_>) -> Option<PathRewrite> {
    let wanted = "a table such as `{ pattern = \"/users/([0-9]+)\", with = \"/u/$1\" }`";
    let table = value.table(&schema::REGEX, wanted)?;
    let typed = table.need("pattern", "`pattern = \"/users/([0-9]+)\"`");
    let with = table.need("with", "`with = \"/u/$1\"`");
    let pattern =
        typed.and_then(|value| value.parsed(|typed| whole_path(typed).map(|_| typed.to_owned())));
    let with = with.and_then(|value| {
        value.parsed(|typed| match typed.starts_with('/') && !typed.contains(['?', '#']) {
            true => Ok(typed.to_owned()),
            false => Err(InvalidValue::new(format!("invalid path {}", quoted(typed)))
                .help("write a path with groups: \"/u/$1\"")),
        })
    });
    let (pattern, with) = (pattern?, with?);
    let groups = unknown_groups(&whole_path(&pattern).ok()?, &with);
    if let Some(group) = groups.first() {
        let wrong = InvalidValue::new(format!("`pattern` has no group {}", quoted(group)));
        let help =
            "groups are in parentheses and count from 1; write ${1}x before a letter or a digit";
        table.value("with")?.fault(wrong.help(help));
    }
    Some(PathRewrite::Pattern { pattern, with })
}

/// The groups of a replacement that a pattern does not have.
fn unknown_groups(pattern: &Regex, with: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut rest = with;
    while let Some((_, after)) = rest.split_once('$') {
        let name: &str = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').map_or("", |(name, _)| name),
            None => {
                let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                &after[..end.unwrap_or(after.len())]
            }
        };
        // `$$` is a dollar sign.
        rest = after.strip_prefix('$').unwrap_or(after);
        let known = match name.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => pattern.capture_names().flatten().any(|known| known == name),
        };
        if !name.is_empty() && !known {
            unknown.push(name.to_owned());
        }
    }
    unknown
}

/// Compiles a regular expression that a whole path must match. Matching takes linear time.
pub(crate) fn whole_path(pattern: &str) -> Result<Regex, InvalidValue> {
    let anchored = format!("^(?:{pattern})$");
    let compiled = regex::RegexBuilder::new(&anchored).size_limit(LARGEST_PATTERN).build();
    compiled.map_err(|error| {
        let wrong = InvalidValue::new(format!("invalid regular expression {}", quoted(pattern)));
        match error {
            regex::Error::CompiledTooBig(_) => wrong.help("write a smaller one"),
            // The last line of the error says what is wrong, those before repeat the pattern.
            error => wrong.help(error.to_string().lines().last().unwrap_or_default().to_owned()),
        }
    })
}

/// Reads the changes of request and response.
fn headers(value: &TomlValue<'_>) -> (HeaderEdits, HeaderEdits) {
    let wanted = "a table such as `{ request = { set = { X-App = \"chat\" } } }`";
    let Some(table) = value.table(&schema::HEADERS, wanted) else { return Default::default() };
    let read = |key| table.value(key).map(|value| edits(&value)).unwrap_or_default();
    (read("request"), read("response"))
}

fn edits(value: &TomlValue<'_>) -> HeaderEdits {
    let wanted = "a table such as `{ set = { X-App = \"chat\" } }`";
    let Some(table) = value.table(&schema::HEADER_EDITS, wanted) else {
        return HeaderEdits::default();
    };
    let fields = |key| table.value(key).map(|value| fields(&value)).unwrap_or_default();
    HeaderEdits {
        remove: table.value("remove").map(|v| v.strings(editable)).unwrap_or_default(),
        set: fields("set"),
        append: fields("append"),
    }
}

fn fields(value: &TomlValue<'_>) -> Vec<(String, Template)> {
    let read = |(at, name, value): (super::fault::Span, &str, TomlValue<'_>)| {
        let name = editable(name).map_err(|wrong| value.file.fault(&at, wrong)).ok();
        let template = value.parsed(|typed| match is_field_value(typed) {
            true => Template::parse(typed),
            false => Err(InvalidValue::new(format!("invalid field value {}", quoted(typed)))
                .help("remove line ends and control characters")),
        });
        Some((name?, template?))
    };
    value.named().into_iter().filter_map(read).collect()
}

/// The name of a field that may be edited.
fn editable(typed: &str) -> Result<String, InvalidValue> {
    if !moorline_http::is_token(typed.as_bytes()) {
        let wrong = InvalidValue::new(format!("invalid field name {}", quoted(typed)));
        return Err(wrong.help("a name has letters, digits and hyphens: \"X-App\""));
    }
    let lower = typed.to_ascii_lowercase();
    let wrong = |help: &str| {
        Err(InvalidValue::new(format!("{} cannot be changed", quoted(typed))).help(help))
    };
    match &*lower {
        "host" => wrong("use `rewrite = { host = \"…\" }`"),
        name if FRAMING.contains(&name) => wrong("the proxy writes this field itself"),
        name if name.starts_with("sec-websocket-") => {
            wrong("the field belongs to the handshake of client and backend")
        }
        _ => Ok(typed.to_owned()),
    }
}

fn is_field_value(typed: &str) -> bool {
    moorline_http::is_value(typed.as_bytes()) && typed.trim() == typed
}

/// Reads `true`, or a table.
fn maintenance(value: &TomlValue<'_>) -> Option<MaintenanceConfig> {
    let default = MaintenanceConfig { retry_after: seconds(MAINTENANCE_RETRY), except: Vec::new() };
    if let Some(on) = value.switch() {
        return on.then_some(default);
    }
    let wanted = "true, false or a table such as `{ retry_after = \"5m\" }`";
    let table = value.table(&schema::MAINTENANCE, wanted)?;
    let retry_after = table.deadline("retry_after", MAINTENANCE_RETRY);
    let except = table.value("except").map(|value| networks::all(&value)).unwrap_or_default();
    Some(MaintenanceConfig { retry_after: seconds(retry_after), except })
}

fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}

fn cors(value: &TomlValue<'_>) -> Option<CorsConfig> {
    let wanted = "a table such as `{ origins = [\"https://app.example.com\"] }`";
    let table = value.table(&schema::CORS, wanted)?;
    let origins = table.need("origins", "`origins = [\"https://app.example.com\"]`");
    let origins = origins.map(|value| {
        if value.node.get_ref().as_str() == Some("*") {
            return OriginPatterns::Any;
        }
        let listed = value.strings(origin);
        listed_at_most(&value, listed.len());
        OriginPatterns::Listed(listed)
    });
    let tokens = |key| {
        let listed = table.value(key).map(|value| value.strings(token));
        if let (Some(value), Some(listed)) = (table.value(key), &listed) {
            listed_at_most(&value, listed.len());
        }
        listed
    };
    let credentials = table.boolean("credentials", false);
    if let Some(typed) =
        table.value("credentials").filter(|_| credentials && origins == Some(OriginPatterns::Any))
    {
        let wrong = InvalidValue::new("every origin could act for the users of this host");
        typed.fault(wrong.help("list the origins, or remove `credentials`"));
    }
    let max_age = table
        .value("max_age")
        .and_then(|value| value.duration_within(SHORTEST..=LONGEST_PREFLIGHT))
        .map_or(600, seconds);
    Some(CorsConfig {
        origins: origins?,
        methods: tokens("methods").unwrap_or_default(),
        headers: tokens("headers"),
        expose: tokens("expose").unwrap_or_default(),
        credentials,
        max_age,
    })
}

fn listed_at_most(value: &TomlValue<'_>, count: usize) {
    if count > MOST_LISTED {
        let wrong = InvalidValue::new(format!("more than {MOST_LISTED} entries"));
        value.fault(wrong.help("shorten the list"));
    }
}

fn token(typed: &str) -> Result<String, InvalidValue> {
    match moorline_http::is_token(typed.as_bytes()) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid name {}", quoted(typed)))
            .help("a name has letters, digits and hyphens")),
    }
}

/// An origin such as `https://app.example.com`, or `https://*.example.com`.
fn origin(typed: &str) -> Result<OriginPattern, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid origin {}", quoted(typed)));
    let lower = typed.to_ascii_lowercase();
    if lower == "null" {
        return Err(wrong().help("files and sandboxed pages of every site have the origin `null`"));
    }
    if lower == "*" {
        return Err(wrong().help("write `origins = \"*\"` for every origin"));
    }
    let Some((scheme, host)) = lower.split_once("://") else {
        return Err(wrong().help(format!("write the scheme: \"https://{lower}\"")));
    };
    if host.contains(['/', '?', '#', '@']) || host.is_empty() {
        return Err(wrong().help("an origin has no path: \"https://app.example.com\""));
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(wrong().help("write a port from 1 to 65535"));
    }
    // Browsers leave the usual port out.
    let usual = matches!((scheme, port), ("https", Some("443")) | ("http", Some("80")));
    let host = if usual { name } else { host };
    match host_pattern(name)? {
        HostPattern::Exact(_) => Ok(OriginPattern::Exact(format!("{scheme}://{host}"))),
        HostPattern::Wildcard(_) => {
            let suffix = host.strip_prefix("*.").unwrap_or(host).to_owned();
            Ok(OriginPattern::Subdomains { scheme: format!("{scheme}://"), suffix })
        }
        HostPattern::Any => Err(wrong().help("write \"*\" alone for every origin")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_schemes_and_hosts() {
        let exact = |text: &str| OriginPattern::Exact(text.to_owned());
        assert_eq!(origin("https://App.example.com"), Ok(exact("https://app.example.com")));
        assert_eq!(origin("https://a.test:443"), Ok(exact("https://a.test")));
        assert_eq!(origin("http://localhost:3000"), Ok(exact("http://localhost:3000")));
        let below = OriginPattern::Subdomains {
            scheme: "https://".to_owned(),
            suffix: "example.com:8443".to_owned(),
        };
        assert_eq!(origin("https://*.example.com:8443"), Ok(below));
        for bad in
            ["null", "app.example.com", "https://a/", "https://", "https://a:b", "https://u@a"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_of_the_framing_cannot_be_edited() {
        assert_eq!(editable("X-App"), Ok("X-App".to_owned()));
        for bad in ["Host", "content-length", "Sec-WebSocket-Key", "a b", "", "x:y"] {
            assert!(editable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_matches_whole_paths_and_is_bounded() {
        let users = whole_path("/users/([0-9]+)|/u/(.*)").unwrap();
        assert!(users.is_match("/users/7") && users.is_match("/u/x"));
        assert!(!users.is_match("/users/7/x") && !users.is_match("/x/users/7"));
        let help = |pattern| whole_path(pattern).unwrap_err().help.unwrap();
        assert_eq!(help("(x{1000}){1000}"), "write a smaller one");
        assert!(help("/(").contains("unclosed group"), "{}", help("/("));
    }
}
