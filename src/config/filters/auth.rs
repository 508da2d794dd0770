//! `auth` of a route.

use std::{sync::Arc, time::Duration};

use super::super::{
    AuthConfig, JWT_ALGORITHMS, JwtAlgorithm, JwtConfig, KeySource, SessionAuthConfig, TokenPlace,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    schema, secrets, sources, verification_keys,
};

/// Accepted difference of clocks, if none is set.
const LEEWAY: Duration = Duration::from_secs(30);

/// Greatest accepted difference of clocks.
const GREATEST_LEEWAY: Duration = Duration::from_secs(600);

/// Time after which keys are fetched again.
const REFRESH: Duration = Duration::from_secs(600);

/// Deadline of a fetch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest deadline of a fetch, for which clients may have to wait.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time between the end of an identity and the end of its sessions.
const LONGEST_GRACE: Duration = Duration::from_secs(86_400);

/// Status of the Close frame: a violation of a policy (RFC 6455 §7.4.1).
const POLICY: u16 = 1008;

/// Reads the authentication of a route.
pub(super) fn auth(value: &TomlValue<'_>) -> Option<AuthConfig> {
    let wanted = "a table such as `{ jwt = { keys = \"keys.pem\" } }`";
    let table = value.table(&schema::AUTH, wanted)?;
    let jwt = table.need("jwt", "`jwt = { keys = \"keys.pem\" }`");
    let session = SessionAuthConfig {
        grace: table
            .value("grace")
            .and_then(|value| value.duration_within(Duration::ZERO..=LONGEST_GRACE))
            .unwrap_or_default(),
        close_code: table.value("close_code").and_then(|v| close_code(&v)).unwrap_or(POLICY),
    };
    Some(AuthConfig { jwt: Some(jwt.and_then(|value| self::jwt(&value))?), session })
}

/// A status that applications may use.
fn close_code(value: &TomlValue<'_>) -> Option<u16> {
    let code = value.integer(1000..=4999)?;
    if code != POLICY && code < 3000 {
        let wrong = InvalidValue::new(format!("invalid close code {code}"));
        value.fault(wrong.help("use 1008, or a code from 3000 to 4999"));
        return None;
    }
    Some(code)
}

fn jwt(value: &TomlValue<'_>) -> Option<JwtConfig> {
    let wanted = "a table such as `{ keys = \"keys.pem\" }`";
    let table = value.table(&schema::JWT, wanted)?;
    let keys = keys(&table);
    let algorithms = algorithms(&table, keys.as_ref());
    let words =
        |key| table.value(key).map(|value: TomlValue<'_>| value.strings(word)).unwrap_or_default();
    let (issuers, audiences) = (words("issuer"), words("audience"));
    let places = match table.value("token") {
        Some(value) => value.strings(place),
        None => vec![TokenPlace::Header],
    };
    let leeway = table
        .value("leeway")
        .and_then(|value| value.duration_within(Duration::ZERO..=GREATEST_LEEWAY))
        .unwrap_or(LEEWAY);
    let subject = table.value("subject").and_then(|value| value.parsed(word));
    let keys = keys?;
    if let KeySource::Url { .. } = keys {
        // Such keys often sign tokens for many applications.
        for (key, example) in [
            ("issuer", "`issuer = \"https://id.example.com\"`"),
            ("audience", "`audience = \"chat\"`"),
        ] {
            table.need(key, example);
        }
    }
    let subject = subject.unwrap_or_else(|| "sub".to_owned());
    Some(JwtConfig { keys, algorithms, issuers, audiences, places, leeway, subject })
}

/// Exactly one of a file, secrets and a URL.
fn keys(table: &TomlTable<'_>) -> Option<KeySource> {
    let mut set = ["keys", "secret", "jwks"].into_iter().filter(|key| table.value(key).is_some());
    let (first, second) = (set.next(), set.next());
    if let (Some(first), Some(second)) = (first, second) {
        let wrong = InvalidValue::new(format!("`{first}` and `{second}` cannot be used together"));
        table.refuse(&[second], |_| wrong.clone().help("remove one of the two"));
    }
    if first != Some("jwks") {
        table.refuse(&["refresh", "timeout"], |key| {
            let wrong = InvalidValue::new(format!("`{key}` has an effect only with `jwks`"));
            wrong.help("remove it, or set `jwks`")
        });
    }
    match first {
        Some("secret") => {
            let secrets = table.value("secret").and_then(|value| secrets::jwt_secrets(&value))?;
            Some(KeySource::Secrets(secrets.into()))
        }
        Some("jwks") => {
            let url = table.value("jwks").and_then(|value| value.parsed(secure_url))?;
            let refresh = table.deadline("refresh", REFRESH);
            let timeout = table
                .value("timeout")
                .and_then(|v| v.duration_within(super::super::reader::SHORTEST..=LONGEST_TIMEOUT))
                .unwrap_or(TIMEOUT);
            Some(KeySource::Url { url, refresh, timeout })
        }
        _ => {
            let file = table.need("keys", "`keys = \"keys.pem\"`, `secret` or `jwks`")?;
            let path = file.resolve(file.string()?);
            let content = file.checked(file.read(&path))?;
            file.checked(verification_keys::of_file(&content))?;
            Some(KeySource::File { path, content: Arc::from(content) })
        }
    }
}

/// A URL over TLS. Without TLS, a machine in between could choose the keys: only for this machine.
fn secure_url(typed: &str) -> Result<String, InvalidValue> {
    let url = sources::url(typed)?;
    let host =
        url.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or(rest));
    let is_local = |host: &str| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    };
    match host {
        Some(host) if !is_local(host) => {
            let wrong = InvalidValue::new(format!("{} does not use TLS", quoted(typed)));
            Err(wrong.help("write an https URL; http is only for this machine"))
        }
        _ => Ok(url),
    }
}

/// The algorithms that tokens may have.
fn algorithms(table: &TomlTable<'_>, keys: Option<&KeySource>) -> Vec<JwtAlgorithm> {
    let is_secret = |algorithm: JwtAlgorithm| {
        matches!(algorithm, JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512)
    };
    let has_secrets = matches!(keys, Some(KeySource::Secrets(_)));
    let Some(value) = table.value("algorithms") else {
        let all = JWT_ALGORITHMS.iter().map(|(_, algorithm)| *algorithm);
        return match has_secrets {
            true => vec![JwtAlgorithm::HS256],
            false => all.filter(|algorithm| !is_secret(*algorithm)).collect(),
        };
    };
    value.strings(|typed| {
        let known = JWT_ALGORITHMS.iter().find(|(name, _)| *name == typed);
        let Some((_, algorithm)) = known else {
            let wrong = InvalidValue::new(format!("there is no algorithm {}", quoted(typed)));
            let names: Vec<&str> = JWT_ALGORITHMS.iter().map(|(name, _)| *name).collect();
            return Err(wrong.help(format!("use some of: {}", names.join(", "))));
        };
        let fits = match keys {
            Some(KeySource::Secrets(_)) => is_secret(*algorithm),
            Some(KeySource::Url { .. }) => !is_secret(*algorithm),
            Some(KeySource::File { .. }) | None => true,
        };
        if !fits {
            let wrong = InvalidValue::new(format!("{typed} does not fit the keys"));
            return Err(wrong.help(match has_secrets {
                true => "a secret is used with HS256, HS384 or HS512",
                false => "HS256, HS384 and HS512 need a `secret`",
            }));
        }
        Ok(*algorithm)
    })
}

/// A word that is not empty.
fn word(typed: &str) -> Result<String, InvalidValue> {
    match typed.trim() {
        "" => Err(InvalidValue::new("it is empty").help("write a value, or remove the key")),
        _ => Ok(typed.to_owned()),
    }
}

/// Reads the place of a token in a request.
fn place(typed: &str) -> Result<TokenPlace, InvalidValue> {
    let (kind, name) = match typed.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (typed, None),
    };
    let valid = name.is_none_or(|name| moorline_http::is_token(name.as_bytes()));
    match (kind, name) {
        ("header", None) => Ok(TokenPlace::Header),
        ("cookie", Some(name)) if valid => Ok(TokenPlace::Cookie(name.to_owned())),
        ("query", Some(name)) if valid => Ok(TokenPlace::Query(name.to_owned())),
        ("subprotocol", None) => Ok(TokenPlace::Subprotocol("bearer".to_owned())),
        ("subprotocol", Some(name)) if valid => Ok(TokenPlace::Subprotocol(name.to_owned())),
        _ => Err(InvalidValue::new(format!("invalid place of a token {}", quoted(typed)))
            .help("write \"header\", \"cookie:NAME\", \"query:NAME\" or \"subprotocol\"")),
    }
}
