//! The configuration reference: one list of keys is the source of `docs/reference/configuration.md`, of
//! the JSON Schema and of defaults in `--help`, and the readers agree with it.
//!
//! With `BLESS=1` in the environment, the tests rewrite the committed pages and the schema.

mod pages;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use jsonschema::Validator;
use moorline::config::{
    Config,
    check::{self, DefaultValue, Faults, SECTIONS, SchemaKey, ValueKind},
};
use serde_json::Value;

const PAGE: &str = "docs/reference/configuration.md";
const SCHEMA: &str = "docs/reference/moorline.schema.json";

/// Compares a committed file with what it should be; writes it if `BLESS` is set.
pub(crate) fn assert_current(path: &str, generated: &str) {
    if env::var_os("BLESS").is_some() {
        fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        fs::write(path, generated).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    let first = committed.lines().zip(generated.lines()).find(|(one, other)| one != other);
    assert!(
        committed == generated,
        "{path} is not current: {first:?}; run `BLESS=1 cargo nextest run --test it reference::` and commit it"
    );
}

#[test]
fn the_committed_page_is_current() {
    assert_current(PAGE, &check::reference_page());
}

#[test]
fn the_committed_schema_is_current_and_printed() {
    let schema = check::json_schema();
    assert_current(SCHEMA, &format!("{schema:#}\n"));
    let printed = Command::new(env!("CARGO_BIN_EXE_moorline")).arg("schema").output().unwrap();
    assert!(printed.status.success());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed, schema);
}

#[test]
fn the_page_has_every_key_once_under_its_table() {
    let page = fs::read_to_string(PAGE).unwrap();
    let keys = page.split("\n## Keys\n").nth(1).unwrap();
    let tables: Vec<&str> = keys.split("\n### ").skip(1).collect();
    assert_eq!(tables.len(), SECTIONS.len());
    for (section, text) in SECTIONS.iter().zip(tables) {
        assert!(text.starts_with(section.heading), "{text}");
        let entries = text.lines().filter_map(|line| line.strip_prefix("- **`"));
        let entries: Vec<&str> = entries.map(|entry| entry.split('`').next().unwrap()).collect();
        assert_eq!(entries, section.names().collect::<Vec<_>>(), "{}", section.heading);
    }
}

#[test]
fn help_and_reference_have_the_same_defaults() {
    let socket = SECTIONS.iter().find(|section| section.name == "admin").unwrap().key("socket");
    let default = format!("[default: {}]", socket.unwrap().plain_default());
    for command in ["proxy", "demo"] {
        let help = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args([command, "--help"])
            .output()
            .unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let words: Vec<&str> = help.split_whitespace().collect();
        assert!(words.join(" ").contains(&default), "{command}: {default} in {help}");
    }
}

fn validator() -> Validator {
    jsonschema::validator_for(&check::json_schema()).unwrap()
}

fn json(text: &str) -> Option<Value> {
    toml::from_str(text.trim_start_matches('\u{feff}')).ok()
}

/// Returns the errors of a configuration text by the schema.
fn schema_errors(schema: &Validator, text: &str) -> Vec<String> {
    let json = json(text).unwrap_or_else(|| panic!("invalid TOML: {text}"));
    schema.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn files(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, end, found);
        } else if path.extension().is_some_and(|extension| extension == end) {
            found.push(path);
        }
    }
}

#[test]
fn good_configurations_match_the_schema() {
    let schema = validator();
    let mut good = Vec::new();
    files(Path::new("tests/config/good"), "toml", &mut good);
    files(Path::new("deploy"), "toml", &mut good);
    assert!(good.len() >= 5);
    for file in good {
        let refused = schema_errors(&schema, &fs::read_to_string(&file).unwrap());
        assert!(refused.is_empty(), "{}: {refused:#?}", file.display());
    }
}

#[test]
fn configurations_of_the_docs_match_the_schema() {
    let schema = validator();
    let mut pages = vec![PathBuf::from("README.md")];
    files(Path::new("docs"), "md", &mut pages);
    let mut count = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(marks) = line.trim_start().strip_prefix("```toml") else { continue };
            let marks: Vec<&str> = marks.split(',').map(str::trim).collect();
            let block: Vec<&str> =
                lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
            let block = block.join("\n");
            let other = ["load", "other", "invalid"].iter().any(|mark| marks.contains(mark));
            if other || block.starts_with("# smoke.toml") {
                continue;
            }
            count += 1;
            let refused = schema_errors(&schema, &block);
            assert!(refused.is_empty(), "{}: {refused:#?} in\n{block}", page.display());
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn unknown_keys_and_wrong_types_do_not_match_the_schema() {
    let schema = validator();
    let mut count = 0;
    let mut bad = Vec::new();
    files(Path::new("tests/config/bad"), "toml", &mut bad);
    for file in bad {
        let Ok(faults) = fs::read_to_string(file.with_extension("expect")) else { continue };
        let own = format!(" --> {}:", file.display());
        let structural = faults.split("\n\n").filter(|fault| fault.contains(&own)).any(|fault| {
            let message = fault.lines().next().unwrap_or_default();
            // A schema cannot check the values of environment variables or the contents of files.
            let of_type = message.contains(" must be ") && message.contains(", not a");
            message.contains("unknown key") || of_type
        });
        let text = fs::read_to_string(&file).unwrap();
        if !structural || json(&text).is_none() {
            continue;
        }
        count += 1;
        assert!(!schema_errors(&schema, &text).is_empty(), "{} matches the schema", file.display());
    }
    assert!(count >= 8, "{count}");
}

/// Configurations for trying a line in a table: the name of the table, and the text with `LINE` in its place.
const PLACES: &[(&str, &str)] = &[
    ("", "LINE\nlisteners.web.bind = \"127.0.0.1:0\"\npools.app.backends = [\"127.0.0.1:1\"]"),
    ("", "LINE\nlisteners.web.bind = \"127.0.0.1:0\""),
    ("", "LINE\npools.app.backends = [\"127.0.0.1:1\"]"),
    ("listeners.NAME", "[listeners.web]\nbind = \"127.0.0.1:0\"\nLINE\nAPP"),
    ("listeners.NAME", "HTTPS\nLINE\nAPP"),
    (
        "listeners.NAME",
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nconnection_rate = \"9/s\"\nLINE\nAPP",
    ),
    ("listeners.NAME", "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nLINE\nAPP"),
    (
        "listeners.NAME.passthrough",
        "HTTPS\n[[listeners.web.passthrough]]\nsni = \"a.test\"\npool = \"app\"\nLINE\nAPP",
    ),
    (
        "listeners.NAME.proxy_protocol",
        "[listeners.web]\nbind = \"127.0.0.1:0\"\n[listeners.web.proxy_protocol]\n\
         mode = \"required\"\nfrom = [\"10.0.0.1\"]\nLINE\nAPP",
    ),
    (
        "listeners.NAME.certificates",
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n[[listeners.web.certificates]]\n\
         cert = \"certs/site.pem\"\nkey = \"certs/site.key\"\nLINE\nAPP",
    ),
    (
        "listeners.NAME.certificates",
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n[listeners.web.certificates]\n\
         LINE\nAPP",
    ),
    (
        "listeners.NAME.certificates.acme",
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n[listeners.web.certificates.acme]\n\
         directory = \"https://ca.test/\"\ndomains = \"a.test\"\nstorage = \"target\"\nLINE\nAPP",
    ),
    ("listeners.NAME.tls", "HTTPS\n[listeners.web.tls]\nLINE\nAPP"),
    (
        "listeners.NAME.tls",
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\n\
         certificates = [{ cert = \"certs/site.pem\", key = \"certs/site.key\" }]\n\
         [listeners.web.tls]\nLINE\nAPP",
    ),
    (
        "listeners.NAME.tls.client_auth",
        "HTTPS\n[listeners.web.tls.client_auth]\nca = \"certs/ca.pem\"\nLINE\nAPP",
    ),
    ("routes", "WEB\n[[routes]]\npool = \"app\"\nLINE\nAPP"),
    ("routes", "WEB\n[[routes]]\nLINE\nAPP"),
    ("routes.match", "ROUTE\n[routes.match]\nmethod = \"GET\"\nLINE\nAPP"),
    ("routes.match.header.NAME", "ROUTE\n[routes.match.header.X-A]\nLINE\nAPP"),
    (
        "routes.match.certificate",
        "ROUTE\n[routes.match.certificate]\nsubject = \"CN=a\"\nLINE\nAPP",
    ),
    (
        "routes.split",
        "WEB\n[[routes]]\n[[routes.split]]\npool = \"app\"\nweight = 1\nLINE\n\
         [[routes.split]]\npool = \"other\"\nweight = 1\nAPP\n[pools.other]\nbackends = [\"127.0.0.1:2\"]",
    ),
    (
        "routes.mirror",
        "WEB\n[[routes]]\npool = \"app\"\n[routes.mirror]\npool = \"other\"\nLINE\nAPP\n\
         [pools.other]\nbackends = [\"127.0.0.1:2\"]",
    ),
    ("routes.timeouts", "WEB\n[[routes]]\npool = \"app\"\n[routes.timeouts]\nLINE\nAPP"),
    ("routes.redirect", "WEB\n[[routes]]\n[routes.redirect]\nto = \"/x\"\nLINE\nAPP"),
    ("routes.respond", "WEB\n[[routes]]\n[routes.respond]\nLINE\nAPP"),
    ("routes.files", "WEB\n[[routes]]\n[routes.files]\nroot = \".\"\nLINE\nAPP"),
    ("routes.rewrite", "ROUTE\n[routes.rewrite]\nLINE\nAPP"),
    (
        "routes.rewrite.replace",
        "ROUTE\n[routes.rewrite.replace]\nfrom = \"/a\"\nto = \"/b\"\nLINE\nAPP",
    ),
    (
        "routes.rewrite.regex",
        "ROUTE\n[routes.rewrite.regex]\npattern = \"/(.*)\"\nwith = \"/b\"\nLINE\nAPP",
    ),
    ("routes.headers", "ROUTE\n[routes.headers]\nLINE\nAPP"),
    ("routes.headers.request", "ROUTE\n[routes.headers.request]\nLINE\nAPP"),
    ("routes.maintenance", "ROUTE\n[routes.maintenance]\nLINE\nAPP"),
    ("routes.compress", "ROUTE\n[routes.compress]\nLINE\nAPP"),
    ("routes.decompress", "ROUTE\n[routes.decompress]\nLINE\nAPP"),
    ("routes.transform", "ROUTE\n[routes.transform]\nLINE\nAPP"),
    ("routes.transform.response", "ROUTE\n[routes.transform.response]\nLINE\nAPP"),
    ("routes.limits", "ROUTE\n[[routes.limits]]\nrate = \"10/s\"\nLINE\nAPP"),
    ("routes.messages", "ROUTE\n[routes.messages]\nrate = \"10/s\"\nLINE\nAPP"),
    ("routes.cache", "ROUTE\n[routes.cache]\nLINE\nAPP"),
    ("cache", "WEB\nAPP\n[cache]\nLINE"),
    ("cache.disk", "WEB\nAPP\n[cache.disk]\nmax = \"1GiB\"\nLINE"),
    ("cache.disk", "WEB\nAPP\n[cache.disk]\npath = \"target\"\nLINE"),
    ("routes.openapi", "ROUTE\n[routes.openapi]\nfile = \"tests/config/good/api.yaml\"\nLINE\nAPP"),
    ("routes.cors", "ROUTE\n[routes.cors]\norigins = [\"https://a.test\"]\nLINE\nAPP"),
    (
        "routes.auth",
        "ROUTE\n[routes.auth]\njwt = { keys = \"tests/config/good/jwt.pem\" }\nLINE\nAPP",
    ),
    (
        "routes.auth.jwt",
        "ROUTE\n[routes.auth.jwt]\nkeys = \"tests/config/good/jwt.pem\"\nLINE\nAPP",
    ),
    (
        "routes.auth.jwt",
        "ROUTE\n[routes.auth.jwt]\njwks = \"https://id.test/\"\nissuer = \"i\"\naudience = \"a\"\nLINE\nAPP",
    ),
    ("routes.auth.jwt", "ROUTE\n[routes.auth.jwt]\nLINE\nAPP"),
    (
        "routes.auth.api_keys",
        "ROUTE\n[routes.auth.api_keys]\nfile = \"tests/config/good/api-keys.txt\"\nLINE\nAPP",
    ),
    ("routes.auth.api_keys", "ROUTE\n[routes.auth.api_keys]\nLINE\nAPP"),
    (
        "routes.auth.forward",
        "ROUTE\n[routes.auth.forward]\nurl = \"http://127.0.0.1:1/\"\nLINE\nAPP",
    ),
    ("routes.auth.forward", "ROUTE\n[routes.auth.forward]\nLINE\nAPP"),
    ("routes.auth.basic", "ROUTE\n[routes.auth.basic]\nLINE\nAPP"),
    (
        "routes.auth.oidc",
        "ROUTE\n[routes.auth.oidc]\nissuer = \"https://id.test\"\nclient_id = \"chat\"\n\
         client_secret = { file = \"tests/config/good/cookie.key\" }\nLINE\nAPP",
    ),
    (
        "routes.auth.oidc",
        "ROUTE\n[routes.auth.oidc]\nissuer = \"https://id.test\"\nclient_id = \"chat\"\nLINE\nAPP",
    ),
    (
        "routes.auth.require",
        "ROUTE\nauth = { jwt = { keys = \"tests/config/good/jwt.pem\" } }\n[routes.auth.require]\nLINE\nAPP",
    ),
    ("routes.auth.require", "ROUTE\n[routes.auth.require]\ncertificate = true\nLINE\nAPP"),
    ("pools.NAME", "WEB\n[pools.app]\nbackends = [\"127.0.0.1:1\"]\nLINE"),
    (
        "pools.NAME.backends",
        "WEB\n[[pools.app.backends]]\naddress = \"127.0.0.1:9\"\n[[pools.app.backends]]\naddress = \"127.0.0.1:1\"\nLINE",
    ),
    ("pools.NAME.backends", "WEB\n[pools.app.backends]\ndns = \"chat.test:1\"\nLINE"),
    ("pools.NAME.backends", "WEB\n[pools.app.backends]\nhttp = \"http://chat.test/\"\nLINE"),
    ("pools.NAME.backends", "WEB\n[pools.app.backends]\nLINE"),
    ("pools.NAME.health", "WEB\nAPP\n[pools.app.health]\nLINE"),
    ("pools.NAME.health", "WEB\nAPP\n[pools.app.health]\nprobe = \"http\"\nLINE"),
    ("pools.NAME.outlier", "WEB\nAPP\n[pools.app.outlier]\nLINE"),
    ("pools.NAME.limits", "WEB\nAPP\n[pools.app.limits]\nLINE"),
    ("pools.NAME.admission", "WEB\nAPP\n[pools.app.admission]\nrate = \"1/s\"\nLINE"),
    ("pools.NAME.rebalance", "WEB\nAPP\n[pools.app.rebalance]\nLINE"),
    ("pools.NAME.sticky", "WEB\nAPP\n[pools.app.sticky]\nLINE"),
    ("pools.NAME.sticky.cookie", "WEB\nAPP\n[pools.app.sticky.cookie]\nLINE"),
    ("pools.NAME.timeouts", "WEB\nAPP\n[pools.app.timeouts]\nLINE"),
    ("pools.NAME.reuse", "WEB\nAPP\n[pools.app.reuse]\nLINE"),
    ("pools.NAME.tls", "WEB\nAPP\n[pools.app.tls]\nLINE"),
    (
        "pools.NAME.tls.client_cert",
        "WEB\nAPP\n[pools.app.tls.client_cert]\ncert = \"certs/site.pem\"\nkey = \"certs/site.key\"\nLINE",
    ),
    ("pools.NAME.proxy_protocol", "WEB\nAPP\n[pools.app.proxy_protocol]\nLINE"),
    ("pools.NAME.on_down", "WEB\nAPP\n[pools.app.on_down]\nLINE"),
    ("trusted_proxies", "WEB\nAPP\n[trusted_proxies]\nLINE"),
    ("drain", "WEB\nAPP\n[drain]\nwithin = \"10m\"\nLINE"),
    ("reload", "WEB\nAPP\n[reload]\nLINE"),
    ("upgrade", "WEB\nAPP\n[upgrade]\nLINE"),
    (
        "admin",
        "WEB\nAPP\n[admin]\nlisten = \"127.0.0.1:0\"\ntoken = { file = \"tests/config/good/admin.token\" }\nLINE",
    ),
    ("admin.token", "WEB\nAPP\n[admin]\nlisten = \"127.0.0.1:0\"\n[admin.token]\nLINE"),
    ("access_log", "WEB\nAPP\n[access_log]\nLINE"),
    ("sessions", "WEB\nAPP\n[sessions]\nLINE"),
    ("limits", "WEB\nAPP\n[limits]\nLINE"),
    ("cookie_key", "WEB\nAPP\n[cookie_key]\nLINE"),
    ("ticket_keys", "WEB\nAPP\n[ticket_keys]\nLINE"),
];

/// Returns the configurations with `key = value` in the table `section`, or without the key if `value` is `None`.
fn trials(section: &str, key: &str, value: Option<&str>) -> Vec<String> {
    let line = value.map(|value| format!("{key} = {value}")).unwrap_or_default();
    let places = PLACES.iter().filter(|(name, _)| *name == section);
    let trials: Vec<String> = places
        .map(|(_, text)| {
            let text = text
                .replace("ROUTE", "WEB\n[[routes]]\npool = \"app\"")
                .replace("WEB", "[listeners.web]\nbind = \"127.0.0.1:0\"")
                .replace("APP", "[pools.app]\nbackends = [\"127.0.0.1:1\"]")
                .replace(
                    "HTTPS",
                    "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                     certificates = [{ cert = \"certs/site.pem\", key = \"certs/site.key\" }]",
                );
            // The line replaces a line with the same key.
            let (before, after) = text.split_once("LINE").unwrap();
            let (above, own) = before.split_at(before.rfind("\n[").map_or(0, |at| at + 1));
            let own: Vec<&str> =
                own.lines().filter(|line| !line.starts_with(&format!("{key} ="))).collect();
            format!("{above}{}\n{line}\n{after}\n", own.join("\n"))
        })
        // Invalid TOML: the text already sets the key in another form.
        .filter(|text| json(text).is_some())
        .collect();
    assert!(!trials.is_empty(), "no place for a table `{section}`");
    trials
}

fn load(text: &str) -> Result<Config, Faults> {
    check::text(text, Path::new("moorline.toml"))
}

fn every_key() -> impl Iterator<Item = (&'static str, &'static SchemaKey)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| (section.name, key)))
}

#[test]
fn a_missing_key_means_its_documented_default() {
    let mut count = 0;
    for (section, key) in every_key() {
        let DefaultValue::Value(default) = key.default else { continue };
        let with = trials(section, key.name, Some(default));
        let without = trials(section, key.name, None);
        let mut tried = Vec::new();
        let equal =
            with.iter().zip(&without).any(|(with, without)| match (load(with), load(without)) {
                (Ok(with), Ok(without)) => {
                    assert_eq!(with, without, "`{}` of `{section}`", key.name);
                    true
                }
                (Err(faults), _) | (_, Err(faults)) => {
                    tried.push(faults.to_string());
                    false
                }
            });
        assert!(equal, "`{}` of `{section}`:\n{}", key.name, tried.join("\n"));
        count += 1;
    }
    assert!(count > 40, "{count}");
}

/// Whether a fault is due to the machine that runs the test, and not to the example.
fn depends_on_the_machine(message: &str) -> bool {
    ["cannot read", "there is no pool", "there is no listener", "there is no folder"]
        .iter()
        .any(|start| message.starts_with(start))
        || ["is not set", "does not exist", "is not writable"]
            .iter()
            .any(|part| message.contains(part))
}

#[test]
fn every_example_is_accepted() {
    let schema = validator();
    let mut failures = Vec::new();
    for (section, key) in every_key() {
        let mut tried = Vec::new();
        let accepted = trials(section, key.name, Some(key.example)).iter().any(|text| {
            let refused = schema_errors(&schema, text);
            match load(text) {
                _ if !refused.is_empty() => tried.push(format!("{refused:#?} in\n{text}")),
                Err(Faults(faults)) => {
                    let ours = faults.iter().find(|fault| !depends_on_the_machine(&fault.message));
                    tried.extend(ours.map(ToString::to_string));
                    return ours.is_none();
                }
                Ok(_) => return true,
            }
            false
        });
        if !accepted {
            failures.push(format!("`{}` of `{section}`:\n{}", key.name, tried.join("\n")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Messages and help texts for `key = value` in each configuration that has the table.
fn messages(section: &str, key: &SchemaKey, value: &str) -> String {
    let mut all = BTreeSet::new();
    for text in trials(section, key.name, Some(value)) {
        if let Err(Faults(faults)) = load(&text) {
            all.extend(faults.iter().map(|fault| {
                format!("{} ({})", fault.message, fault.help.as_deref().unwrap_or_default())
            }));
        }
    }
    all.into_iter().collect::<Vec<_>>().join("\n")
}

/// The alternatives of a kind; the kinds of array elements are not included.
fn alternatives(kind: &'static ValueKind) -> Vec<&'static ValueKind> {
    match kind {
        ValueKind::OneOf(kinds) => kinds.iter().flat_map(alternatives).collect(),
        kind => vec![kind],
    }
}

#[test]
fn documented_bounds_and_choices_match_the_error_messages() {
    let mut count = 0;
    for (section, key) in every_key() {
        let name = key.name;
        let mut says = |value: &str, wanted: &str| {
            let said = messages(section, key, value);
            assert!(
                said.contains(wanted),
                "`{name} = {value}` of `{section}`: {wanted} in\n{said}"
            );
            count += 1;
        };
        for kind in alternatives(&key.kind) {
            match kind {
                ValueKind::Integer(low, high) => {
                    says(
                        &(high + 1).to_string(),
                        &format!("`{name}` must be from {low} to {high}"),
                    );
                }
                ValueKind::Size(low, high) => {
                    says(
                        &format!("\"{}B\"", high + 1),
                        &format!("`{name}` must be from {low} to {high}"),
                    );
                }
                ValueKind::Percent(low @ 1..) => {
                    says("\"0%\"", &format!("`{name}` must be from {low} to 100"));
                }
                ValueKind::Duration(low, high) => {
                    if *low != "0s" {
                        says("\"0s\"", &format!("`{name}` must be at least {low}"));
                    }
                    match *high {
                        "400d" => says("\"401d\"", "the longest duration is \"400d\""),
                        high => says("\"399d\"", &format!("`{name}` must be at most {high}")),
                    }
                }
                ValueKind::Percent(_) => says("\"101%\"", "invalid percentage"),
                ValueKind::Rate => says("\"1\"", "invalid rate"),
                ValueKind::Choice(words) => {
                    let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
                    let said = messages(section, key, "\"no such word\"");
                    let listed = said.contains(&format!("use one of {}", quoted.join(", ")))
                        || said.contains(&format!("use some of: {}", words.join(", ")));
                    assert!(listed, "`{name}` of `{section}`: {quoted:?} in\n{said}");
                }
                ValueKind::Boolean if alternatives(&key.kind).len() == 1 => {
                    says("1.5", "true or false")
                }
                _ => {}
            }
        }
    }
    assert!(count > 80, "{count}");
}

#[test]
fn the_schema_rejects_a_wrong_type_for_every_key() {
    let schema = validator();
    for (section, key) in every_key() {
        // No key takes an array of arrays.
        for text in trials(section, key.name, Some("[[1.5]]")) {
            assert!(!schema_errors(&schema, &text).is_empty(), "`{}` of `{section}`", key.name);
        }
    }
}
