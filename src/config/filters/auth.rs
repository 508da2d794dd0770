//! `auth` of a route.

mod credentials;
mod forward;
mod jwt;
mod oidc;

pub(in crate::config) use self::jwt::secure_url as key_url;

use std::time::Duration;

use super::super::{
    AuthConfig, CertificateCondition, FilterConfig, LimitKey, RequireConfig, SessionAuthConfig,
    TemplatePiece, TokenPlace, conditions,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// Longest time between the end of an identity and the end of its sessions.
const LONGEST_GRACE: Duration = Duration::from_secs(86_400);

/// Status of the Close frame: a violation of a policy (RFC 6455 §7.4.1).
const POLICY: u16 = 1008;

/// Reads the authentication of a route with this path.
pub(super) fn auth(value: &TomlValue<'_>, path: &str) -> Option<AuthConfig> {
    let wanted = "a table such as `{ jwt = { keys = \"keys.pem\" } }`";
    let table = value.table(&schema::AUTH, wanted)?;
    let read = |key| table.value(key);
    let session = SessionAuthConfig {
        grace: read("grace")
            .and_then(|value| value.duration_within(Duration::ZERO..=LONGEST_GRACE))
            .unwrap_or_default(),
        close_code: read("close_code").and_then(|v| close_code(&v)).unwrap_or(POLICY),
    };
    let jwt = read("jwt").map(|value| jwt::jwt(&value));
    let api_keys = read("api_keys").map(|value| credentials::api_keys(&value));
    let basic = read("basic").map(|value| credentials::basic(&value));
    let oidc = read("oidc").map(|value| oidc::oidc(&value, path));
    let forward = read("forward").map(|value| forward::forward(&value));
    let require = read("require").map(|value| require(&value));
    let is_set =
        [jwt.is_some(), api_keys.is_some(), basic.is_some(), forward.is_some(), oidc.is_some()];
    let is_set = is_set.contains(&true);
    if forward.is_some() && oidc.is_some() {
        let wrong = InvalidValue::new("`forward` and `oidc` cannot be used together");
        table.refuse(&["oidc"], |_| wrong.clone().help("remove one of the two"));
    }
    let by_certificate = match &require {
        Some(Some(RequireConfig { certificate, .. })) => {
            !matches!(certificate, None | Some(CertificateCondition::Absent))
        }
        Some(None) => true,
        None => false,
    };
    if !is_set && !by_certificate {
        table.need(
            "jwt",
            "`jwt = { keys = \"keys.pem\" }`, `api_keys`, `basic`, `forward` or `oidc`",
        )?;
    }
    let require = require.unwrap_or_else(|| Some(RequireConfig::default()));
    // A fault in any part refuses the whole.
    Some(AuthConfig {
        jwt: jwt.map_or(Some(None), |jwt| jwt.map(Some))?,
        api_keys: api_keys.map_or(Some(None), |keys| keys.map(Some))?,
        basic: basic.map_or(Some(None), |basic| basic.map(Some))?,
        forward: forward.map_or(Some(None), |forward| forward.map(Some))?,
        oidc: oidc.map_or(Some(None), |oidc| oidc.map(Some))?,
        require: require?,
        session,
    })
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

/// Reads the conditions of an identity.
fn require(value: &TomlValue<'_>) -> Option<RequireConfig> {
    let table = value.table(&schema::AUTH_REQUIRE, "a table such as `{ scopes = \"chat\" }`")?;
    let keys = ["scopes", "claims", "certificate"];
    if keys.iter().all(|key| table.value(key).is_none()) && !table.has_unknown_keys() {
        let wrong = InvalidValue::new("`require` has no condition");
        table.file().missing(table.at(), wrong.help("add one, or remove `require`"));
    }
    Some(RequireConfig {
        scopes: table.value("scopes").map(|value| value.strings(scope)).unwrap_or_default(),
        claims: table
            .value("claims")
            .map(|value| conditions::named(&value, word))
            .unwrap_or_default(),
        certificate: table.value("certificate").and_then(|v| conditions::certificate(&v)),
    })
}

/// A scope: a word without spaces (RFC 6749 §3.3).
fn scope(typed: &str) -> Result<String, InvalidValue> {
    match !typed.is_empty() && typed.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid scope {}", quoted(typed)))
            .help("write a word without spaces; write several scopes as an array")),
    }
}

/// A word that is not empty.
fn word(typed: &str) -> Result<String, InvalidValue> {
    match typed.trim() {
        "" => Err(InvalidValue::new("it is empty").help("write a value, or remove the key")),
        _ => Ok(typed.to_owned()),
    }
}

/// What a place may be.
const PLACES: &str =
    "write \"header\", \"header:NAME\", \"cookie:NAME\", \"query:NAME\" or \"subprotocol\"";

/// Reads the place of a token in a request.
fn place(typed: &str) -> Result<TokenPlace, InvalidValue> {
    let (kind, name) = match typed.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (typed, None),
    };
    let valid = name.is_none_or(|name| moorline_http::is_token(name.as_bytes()));
    match (kind, name) {
        ("header", None) => Ok(TokenPlace::Header),
        ("header", Some(name)) if valid => Ok(TokenPlace::Field(name.to_owned())),
        ("cookie", Some(name)) if valid => Ok(TokenPlace::Cookie(name.to_owned())),
        ("query", Some(name)) if valid => Ok(TokenPlace::Query(name.to_owned())),
        ("subprotocol", None) => Ok(TokenPlace::Subprotocol("bearer".to_owned())),
        ("subprotocol", Some(name)) if valid => Ok(TokenPlace::Subprotocol(name.to_owned())),
        _ => {
            Err(InvalidValue::new(format!("invalid place of a token {}", quoted(typed)))
                .help(PLACES))
        }
    }
}

/// Checks that logins keep the claims that the route uses. Tokens have all of theirs.
pub(super) fn check_claims(value: &TomlValue<'_>, config: &FilterConfig) {
    let Some(AuthConfig { oidc: Some(oidc), jwt: None, require, .. }) = &config.auth else {
        return;
    };
    let required = require.claims.iter().map(|(claim, _)| claim.clone());
    let edits = [&config.request_headers, &config.response_headers];
    let texts = edits.into_iter().flat_map(|edits| edits.set.iter().chain(&edits.append));
    let written = texts.flat_map(|(_, text)| text.pieces()).filter_map(|piece| match piece {
        TemplatePiece::Claim(claim) => Some(claim.to_string()),
        _ => None,
    });
    let counted = config.limits.iter().filter_map(|limit| match &limit.key {
        LimitKey::Claim(claim) => Some(claim.clone()),
        _ => None,
    });
    let is_kept = |path: &str| {
        let kept = oidc.claims.iter().map(|claim| &**claim).chain(["sub", "iss", "scope"]);
        let mut rests = kept.filter_map(|claim| path.strip_prefix(claim));
        rests.any(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut used = required.chain(written).chain(counted);
    if let Some(claim) = used.find(|claim| !is_kept(claim)) {
        let wrong = InvalidValue::new(format!(
            "the logins of `oidc` do not keep the claim {}",
            quoted(&claim)
        ));
        let name = claim.split('.').next().unwrap_or(&claim);
        value.fault(
            wrong.help(format!("add it to the `claims` of `oidc`: `claims = [\"{name}\"]`")),
        );
    }
}
