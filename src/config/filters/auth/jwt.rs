//! `jwt` of `auth`.

use std::{sync::Arc, time::Duration};

use super::{
    super::super::{
        JWT_ALGORITHMS, JwtAlgorithm, JwtConfig, KeySource, TokenPlace,
        fault::{InvalidValue, quoted},
        file::{TomlTable, TomlValue},
        reader::SHORTEST,
        schema, secrets, sources, verification_keys,
    },
    place, word,
};

/// Accepted difference of clocks, if none is set.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);

/// Greatest accepted difference of clocks.
pub(super) const GREATEST_LEEWAY: Duration = Duration::from_secs(600);

/// Time after which keys are fetched again.
const REFRESH: Duration = Duration::from_secs(600);

/// Deadline of a fetch.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest deadline of a fetch, for which clients may have to wait.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn jwt(value: &TomlValue<'_>) -> Option<JwtConfig> {
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
                .and_then(|v| v.duration_within(SHORTEST..=LONGEST_TIMEOUT))
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
pub(in crate::config) fn secure_url(typed: &str) -> Result<String, InvalidValue> {
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
pub(super) fn algorithms(table: &TomlTable<'_>, keys: Option<&KeySource>) -> Vec<JwtAlgorithm> {
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
