//! `oidc` of `auth`.

use std::time::Duration;

use super::{
    super::super::{
        ClientSecretPlace, JwtAlgorithm, OidcConfig,
        fault::{InvalidValue, quoted},
        file::{TomlTable, TomlValue},
        path,
        reader::SHORTEST,
        schema, secrets,
    },
    jwt::{self, GREATEST_LEEWAY, LEEWAY, LONGEST_TIMEOUT, TIMEOUT, secure_url},
    scope, word,
};

/// Shortest and longest lifetime of a login.
const SESSION: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 86_400));

/// Maximum number of scopes or claims.
const MOST: usize = 64;

/// Reads the logins of a route with this path.
pub(super) fn oidc(value: &TomlValue<'_>, route: &str) -> Option<OidcConfig> {
    let wanted = "a table such as `{ issuer = \"https://id.example.com\", client_id = \"chat\" }`";
    let table = value.table(&schema::OIDC, wanted)?;
    let read = |key| table.value(key);
    let issuer = table.need("issuer", "`issuer = \"https://id.example.com\"`");
    let issuer = issuer.and_then(|value| value.parsed(issuer_url));
    let client_id = table.need("client_id", "`client_id = \"chat\"`");
    let client_id = client_id.and_then(|value| value.parsed(word));
    let client_secret = read("client_secret").map(|value| secrets::client_secret(&value));
    let client_auth = client_auth(&table);
    let mut scopes = list(&table, "scopes", scope);
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    let (callback, logout) = pages(&table, route);
    Some(OidcConfig {
        client_auth,
        scopes,
        claims: list(&table, "claims", claim),
        algorithms: algorithms(&table),
        after_logout: read("after_logout").and_then(|value| value.parsed(page)),
        session: read("session").and_then(|value| value.duration_within(SESSION.0..=SESSION.1)),
        leeway: read("leeway")
            .and_then(|value| value.duration_within(Duration::ZERO..=GREATEST_LEEWAY))
            .unwrap_or(LEEWAY),
        timeout: read("timeout")
            .and_then(|value| value.duration_within(SHORTEST..=LONGEST_TIMEOUT))
            .unwrap_or(TIMEOUT),
        issuer: issuer?,
        client_id: client_id?,
        client_secret: client_secret.map_or(Some(None), |secret| secret.map(Some))?,
        callback: callback?,
        logout: logout?,
    })
}

/// An issuer: a URL over TLS without query (OpenID Connect Core 1.0, section 2).
fn issuer_url(typed: &str) -> Result<String, InvalidValue> {
    let issuer = secure_url(typed)?;
    match issuer.contains(['?', '#']) {
        true => Err(InvalidValue::new(format!("invalid issuer {}", quoted(typed)))
            .help("write the URL without query, exactly as the provider publishes it")),
        false => Ok(issuer),
    }
}

fn client_auth(table: &TomlTable<'_>) -> ClientSecretPlace {
    if table.value("client_secret").is_none() {
        table.refuse(&["client_auth"], |key| {
            let wrong = InvalidValue::new(format!("`{key}` has an effect only with a secret"));
            wrong.help("remove it, or set `client_secret`")
        });
    }
    let places = [("basic", ClientSecretPlace::Basic), ("post", ClientSecretPlace::Post)];
    table.value("client_auth").and_then(|value| value.choice(&places)).unwrap_or_default()
}

/// The algorithms of ID tokens. Secrets are not accepted: the keys of the provider are public.
fn algorithms(table: &TomlTable<'_>) -> Vec<JwtAlgorithm> {
    let algorithms = jwt::algorithms(table, None);
    let is_secret = |algorithm: &JwtAlgorithm| {
        matches!(algorithm, JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512)
    };
    if let Some(value) = table.value("algorithms").filter(|_| algorithms.iter().any(is_secret)) {
        let wrong = InvalidValue::new("ID tokens that are signed with a secret are not accepted");
        value.fault(wrong.help("use algorithms of public keys, such as RS256 or ES256"));
    }
    algorithms
}

fn list(
    table: &TomlTable<'_>,
    key: &'static str,
    read: impl Fn(&str) -> Result<String, InvalidValue>,
) -> Vec<String> {
    let Some(value) = table.value(key) else { return Vec::new() };
    let mut list = value.strings(read);
    if list.len() > MOST {
        value.fault(
            InvalidValue::new(format!("`{key}` has more than {MOST} values")).help("remove some"),
        );
        list.truncate(MOST);
    }
    list
}

/// The name of a claim.
fn claim(typed: &str) -> Result<String, InvalidValue> {
    match !typed.is_empty() && typed.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid claim {}", quoted(typed)))
            .help("write the name of a claim: \"email\"")),
    }
}

/// The paths of callback and logout, which the route must cover.
fn pages(table: &TomlTable<'_>, route: &str) -> (Option<String>, Option<String>) {
    let below = path::normal(route).trim_end_matches('/').to_owned();
    let page = |key, default: &str| match table.value(key) {
        None => Some(format!("{below}{default}")),
        Some(value) => value.parsed(|typed| {
            path::prefix(typed)?;
            let is_visible = typed.bytes().all(|byte| byte.is_ascii_graphic());
            let rest = path::normal(typed).strip_prefix(&*below).map(str::to_owned);
            match rest.is_some_and(|rest| rest.starts_with('/')) && is_visible {
                true => Ok(typed.to_owned()),
                false => {
                    Err(InvalidValue::new(format!("the route does not cover {}", quoted(typed)))
                        .help(format!(
                            "write a path below that of the route: \"{below}{default}\""
                        )))
                }
            }
        }),
    };
    let (callback, logout) = (page("callback", "/oidc/callback"), page("logout", "/oidc/logout"));
    if callback.is_some() && callback == logout {
        let wrong = InvalidValue::new("`callback` and `logout` are the same path");
        table.refuse(&["logout"], |_| wrong.clone().help("write another path"));
    }
    (callback, logout)
}

/// A page of this host, or of another one.
fn page(typed: &str) -> Result<String, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid page {}", quoted(typed)));
    let help = "write a path or a URL: \"/goodbye\" or \"https://www.example.com/\"";
    if typed.bytes().any(|byte| !byte.is_ascii_graphic()) || typed.contains('\\') {
        return Err(wrong().help(help));
    }
    match typed.starts_with('/') && !typed.starts_with("//") {
        true => Ok(typed.to_owned()),
        false if typed.starts_with("https://") || typed.starts_with("http://") => secure_url(typed),
        false => Err(wrong().help(help)),
    }
}
