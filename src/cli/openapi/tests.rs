use std::path::Path;

use proptest::{prelude::*, sample::subsequence};
use serde_json::Value;

use super::import::{ImportOptions, import};
use crate::{
    config::{Config, check},
    publication,
};

/// Listeners and pools, without routes.
const HEAD: &str = r#"
[listeners.web]
bind = "127.0.0.1:8080"

[pools.chat]
backends = ["127.0.0.1:3000"]

[pools.next]
backends = ["127.0.0.1:3001"]
"#;

const TARGETS: [&str; 6] = [
    "pool = 'chat'",
    "split = [{ pool = 'chat', weight = 95 }, { pool = 'next', weight = 5, header = { X-Canary = 'always' } }]",
    "redirect = { to = 'https://example.com{path}', status = 301 }",
    "respond = { status = 200, body = 'a \"quoted\" \\ text' }",
    "files = { root = 'conf.d', spa = '/index.html' }",
    "pool = 'next'\nmirror = { pool = 'chat', share = '10%' }\ntimeouts = { response_header = '5s' }",
];

const KEYS: [&str; 15] = [
    "listeners = ['web']",
    "headers = { request = { set = { X-Dollar = '$${host}', X-User = '{subject}' } }, response = { remove = ['Server'] } }",
    "allow = ['10.0.0.0/8', '2001:db8::/32']",
    "deny = { file = 'blocked.txt' }",
    "max_body = '1MiB'",
    "maintenance = { retry_after = '5m' }",
    "origins = ['same-host', 'https://*.example.org']",
    "cors = { origins = ['https://app.example.com'], methods = ['PUT'], credentials = true }",
    "compress = { encodings = ['gzip'], level = 6 }",
    "limits = [{ key = 'client', rate = '10/s', burst = 20 }, { key = 'header:X-Key', quota = '1000/d' }]",
    "messages = { max_size = '64KiB', rate = '50/s', burst = 100 }",
    "auth = { jwt = { keys = 'jwt.pem', audience = 'chat', token = ['header', 'query:token'] }, api_keys = { file = 'api-keys.txt' }, require = { scopes = 'chat', claims = { role = ['a', 'b'] } } }",
    "cache = { lifetime = '1m' }",
    "openapi = { file = 'api.yaml', unknown = 'pass', max_body = '64KiB' }",
    "rewrite = { regex = { pattern = '/v1/(.*)', with = '/$1' }, host = 'backend.example.com' }",
];

const CONDITIONS: [&str; 5] = [
    "method = ['GET', 'HEAD']",
    "header = { X-Beta = '1', X-Debug = false }",
    "path = '/p/{name}'",
    "client = ['10.0.0.0/8']",
    "cel = \"request.path.startsWith('/x')\"",
];

fn checked(routes: &str) -> Config {
    let text = format!("{HEAD}{routes}");
    let path = Path::new("tests/config/good/round-trip.toml");
    check::text(&text, path).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// The routes of a configuration after an export and an import.
fn back(config: &Config) -> Config {
    let published = publication::document(config, publication::ALL, true).unwrap();
    let pools = ["chat".to_owned(), "next".to_owned()];
    let options =
        ImportOptions { file: Path::new("-"), live: false, pools: &pools, folder: Path::new("") };
    let imported = import(&published.document.to_string(), &options)
        .unwrap_or_else(|error| panic!("{error}\n{:#}", published.document));
    checked(&imported.text)
}

fn route(number: usize) -> impl Strategy<Value = String> {
    let parts = (
        0..TARGETS.len(),
        subsequence(&KEYS[..], 0..6),
        subsequence(&CONDITIONS[..], 0..3),
        prop::option::of(0..3_usize),
    );
    parts.prop_map(move |(target, keys, conditions, hosts)| {
        let hosts = hosts.map(|hosts| {
            ["host = 'a.test'", "host = ['a.test', '*.b.test']", "host = '*.c.test'"][hosts]
        });
        let mut lines =
            vec![format!("\n[[routes]]\npath = '/r{number}'"), TARGETS[target].to_owned()];
        lines.extend(hosts.map(str::to_owned));
        lines.extend(keys.iter().map(|key| (*key).to_owned()));
        if !conditions.is_empty() {
            lines.push(format!("match = {{ {} }}", conditions.join(", ")));
        }
        lines.join("\n") + "\n"
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_export_and_an_import_lose_nothing(routes in (route(0), route(1), route(2))) {
        let config = checked(&[routes.0, routes.1, routes.2].concat());
        prop_assert_eq!(&back(&config).routes, &config.routes);
    }
}

fn imported(document: &str, live: bool) -> (String, Vec<String>) {
    let options = ImportOptions {
        file: Path::new("tests/config/good/api.yaml"),
        live,
        pools: &[],
        folder: Path::new("tests/config/good"),
    };
    let imported = import(document, &options).unwrap_or_else(|faults| panic!("{faults}"));
    (imported.text, imported.notes)
}

const ORDERS: &str = r#"
openapi: 3.0.3
info: { title: Orders, version: "1" }
servers: [{ url: "https://api.example.com/v1" }, { url: "https://www.example.com:8443/v1" }]
security: [{ key: [read] }]
x-moorline-route: { max_body: 1MiB }
paths:
  /orders/{id}:
    parameters: [{ name: id, in: path, required: true, schema: { type: string } }]
    get: { operationId: order }
    delete:
      operationId: cancel
      security: [{ key: [write] }]
      x-moorline-route: { limits: { key: client, rate: 1/s } }
    put: { operationId: replace, security: [{ token: [] }] }
  /orders/new:
    get: { security: [], x-moorline-route: { respond: { status: 204 } } }
  /orders:
    post: { operationId: both, security: [{ key: [], basic: [] }] }
components:
  securitySchemes:
    key: { type: apiKey, in: cookie, name: key, x-moorline-auth: { api_keys: { file: api-keys.txt } } }
    basic: { type: http, scheme: basic }
    token: { type: http, scheme: bearer }
"#;

#[test]
fn operations_become_routes_and_what_is_unknown_is_left_out() {
    let (text, notes) = imported(ORDERS, false);
    let config = check::text(&text, Path::new("tests/config/good/written.toml"))
        .unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let shown: Vec<String> = config.routes.iter().map(ToString::to_string).collect();
    let hosts = |route: &str| ["api", "www"].map(|host| format!("{host}.example.com{route}"));
    let expected = [
        hosts("/v1/orders/new (method GET|HEAD, path /v1/orders/new)"),
        hosts("/v1/orders (method GET|HEAD, path /v1/orders/{id})"),
        hosts("/v1/orders (method DELETE, path /v1/orders/{id})"),
    ];
    assert_eq!(shown, expected.concat(), "{text}");
    let auth = |index: usize| config.routes[index].filters.auth.as_ref();
    assert!(auth(0).is_none() && config.routes[0].filters.max_body == Some(1 << 20));
    assert_eq!(auth(2).unwrap().require.scopes, ["read"]);
    assert_eq!(auth(4).unwrap().require.scopes, ["write"]);
    assert_eq!(config.routes[4].filters.limits.len(), 1);
    let notes = notes.join("\n");
    assert!(
        notes.contains("left out: replace: nothing verifies the credentials of `token`"),
        "{notes}"
    );
    assert!(notes.contains("left out: both: a route cannot express its `security`"), "{notes}");
    assert!(notes.contains("are needed together") && notes.contains("api.yaml:19:"), "{notes}");
    assert!(notes.contains("--live only"), "{notes}");
}

#[test]
fn an_import_weakens_no_authentication() {
    let operation = |security: &str, schemes: &str| {
        let document = format!(
            "openapi: 3.1.0\ninfo: {{ title: A, version: '1' }}\npaths:\n  /a: {{ get: {{ security: {security} }} }}\n\
             components:\n  securitySchemes:\n{schemes}"
        );
        imported(&document, false).1.join("\n")
    };
    let with = |role: &str, name: &str| {
        format!(
            "    {name}: {{ type: http, scheme: bearer, x-moorline-auth: {{ jwt: {{ keys: k.pem, audience: a }}, require: {{ scopes: {role} }} }} }}\n"
        )
    };
    let notes =
        operation("[{ one: [] }, { two: [] }]", &(with("admin", "one") + &with("user", "two")));
    assert!(notes.contains("`require` is set by more than one"), "{notes}");
    let provider = |name: &str| {
        format!(
            "    {name}: {{ type: openIdConnect, openIdConnectUrl: 'https://{name}.test/.well-known/openid-configuration', x-moorline-auth: {{ jwt: {{ audience: a }} }} }}\n"
        )
    };
    let notes = operation("[{ one: [] }, { two: [] }]", &(provider("one") + &provider("two")));
    assert!(notes.contains("a route verifies tokens of one issuer"), "{notes}");
}

#[test]
fn a_live_import_names_the_document() {
    let document = include_str!("../../../tests/config/good/api.yaml");
    let (text, notes) = imported(document, true);
    assert!(text.contains("openapi = \"api.yaml\""), "{text}");
    let config = check::text(&text, Path::new("tests/config/good/live.toml")).unwrap();
    assert_eq!(config.routes[0].to_string(), "api.example.com/v1");
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn published_operations_have_the_security_that_routes_require() {
    let routes = "[[routes]]\nhost = 'api.example.com'\npool = 'chat'\nopenapi = 'api.yaml'\n\
                  auth = { basic = { file = 'users.txt' } }\n\
                  [[routes]]\npath = '/files'\nfiles = 'conf.d'\n";
    let config = checked(routes);
    assert_eq!(publication::names(&config), ["all", "any", "api.example.com"]);
    let document = publication::document(&config, "api.example.com", false).unwrap().document;
    assert_eq!(document["info"]["title"], "Rooms");
    let post = &document["paths"]["/v1/rooms/{room}"]["post"];
    assert_eq!(post["operationId"], "send");
    assert_eq!(post["security"], serde_json::json!([{ "basic": [] }]));
    let servers = &document["paths"]["/v1/rooms/{room}"]["servers"];
    assert_eq!(servers[0]["url"], "http://api.example.com:8080");
    assert!(document["components"]["schemas"]["Message"].is_object());
    let any = publication::document(&config, "any", false).unwrap().document;
    assert!(any["paths"]["/files"]["get"].is_object());
    assert!(publication::document(&config, "absent", false).is_none());
    let text = publication::document(&config, "all", false).unwrap().document.to_string();
    assert!(!text.contains("x-moorline"), "{text}");
    assert!(!text.contains("chat"), "{text}");
}

/// Texts with markup in every place, and loops of references.
#[test]
fn a_hostile_document_becomes_a_bounded_page_without_markup() {
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let mut schema = serde_json::json!({ "$ref": "#/components/schemas/Loop" });
    for _ in 0..50 {
        schema = serde_json::json!({ "type": "object", "description": evil, "properties": { evil: schema } });
    }
    let operation = serde_json::json!({
        "operationId": evil,
        "summary": evil,
        "description": evil.repeat(1_000),
        "tags": [evil],
        "parameters": [{ "name": evil, "in": "query", "description": evil, "schema": schema }],
        "requestBody": { "content": { evil: { "schema": schema } } },
        "responses": { evil: { "description": evil, "content": { evil: { "schema": schema } } } },
    });
    let paths: serde_json::Map<String, Value> = (0..10_000)
        .map(|number| (format!("/p{number}/{evil}"), serde_json::json!({ "get": operation })))
        .take(400)
        .collect();
    let document = serde_json::json!({
        "openapi": "3.1.0",
        "info": { "title": evil, "version": evil, "description": evil },
        "paths": paths,
        "components": { "schemas": { "Loop": { "$ref": "#/components/schemas/Loop" }, evil: schema } },
    });
    let page = publication::page(&document);
    let text = page.text;
    assert!(
        !text.contains("<script") && !text.contains("<img") && !text.contains("onerror=alert(2)>")
    );
    assert!(text.contains("&lt;script&gt;"));
    assert!(text.len() < 5 << 20, "{}", text.len());
    assert!(page.policy.starts_with("default-src 'none'; style-src 'sha256-"), "{}", page.policy);
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("/p{n}"), serde_json::json!({ "get": {} }))).collect();
    let many = publication::page(&serde_json::json!({ "paths": many })).text;
    assert!(many.contains("of 10000 operations") && many.len() < 5 << 20, "{}", many.len());
}
