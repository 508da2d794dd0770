//! The token endpoint: a code for an ID token, and the checks of the token (OpenID Connect Core 1.0, section 3.1.3).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Map, Value};

use super::{
    LoginFault,
    parameters::{encoded, form},
    provider::DiscoveredProvider,
};
use crate::{
    auth::{AuthFault, Identity, TokenCheck, fetch::post_form, now},
    config::{ClientSecretPlace, OidcConfig},
    strict_json,
};

/// Maximum size of the answer of a token endpoint.
const MAX_ANSWER: usize = 64 << 10;

/// What the provider has answered, besides the ID token.
#[derive(Debug)]
pub(super) struct TokenAnswer {
    /// Granted scopes, if they are not the requested ones.
    pub(super) scope: Option<String>,
}

/// Exchanges a code for an ID token, and verifies the token. `redirect`: URL of the callback.
pub(super) async fn exchange(
    config: &OidcConfig,
    provider: &DiscoveredProvider,
    (code, verifier): (&str, &str),
    redirect: &str,
) -> Result<(TokenAnswer, Arc<Identity>), LoginFault> {
    let mut parameters = vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect),
        ("code_verifier", verifier),
    ];
    let mut authorization = None;
    match (&config.client_secret, config.client_auth) {
        (Some(secret), ClientSecretPlace::Basic) => {
            // RFC 6749 §2.3.1: both are encoded first.
            let pair = format!("{}:{}", encoded(&config.client_id), encoded(secret));
            authorization = Some(format!("Basic {}", STANDARD.encode(pair)));
        }
        (Some(secret), ClientSecretPlace::Post) => {
            parameters.extend([("client_id", &*config.client_id), ("client_secret", &**secret)]);
        }
        (None, _) => parameters.push(("client_id", &config.client_id)),
    }
    let form = form(&parameters);
    let answer = post_form(&provider.token, form, authorization, MAX_ANSWER, config.timeout);
    let (status, body) = answer.await.map_err(|reason| lies(&reason))?;
    let body = match strict_json::value(&body) {
        Some(Value::Object(body)) => body,
        _ => return Err(lies(&format!("status {}, and no JSON", status.as_u16()))),
    };
    if status != StatusCode::OK {
        return Err(refused(status, &body));
    }
    let token = body.get("id_token").and_then(Value::as_str);
    let token = token.ok_or_else(|| lies("there is no ID token in its answer"))?;
    let identity = verified(provider, token).await?;
    // Only an absent member means that the requested ones were granted (RFC 6749 §5.1).
    let scope = match body.get("scope") {
        None => None,
        Some(Value::String(scope)) => Some(scope.clone()),
        Some(Value::Array(scopes)) => {
            let scopes: Option<Vec<&str>> = scopes.iter().map(Value::as_str).collect();
            Some(scopes.ok_or_else(|| lies("`scope` is not a text"))?.join(" "))
        }
        Some(_) => return Err(lies("`scope` is not a text")),
    };
    Ok((TokenAnswer { scope }, identity))
}

/// The error of a token endpoint (RFC 6749 §5.2).
fn refused(status: StatusCode, body: &Map<String, Value>) -> LoginFault {
    let error = body.get("error").and_then(Value::as_str).unwrap_or_default();
    match error {
        // The code has expired, was used before, or belongs to another login.
        "invalid_grant" => LoginFault::Failed("the provider does not accept the code".to_owned()),
        _ => lies(&format!("status {}, {error:?}", status.as_u16())),
    }
}

fn lies(reason: &str) -> LoginFault {
    LoginFault::Unavailable(format!("the token endpoint of the OpenID provider: {reason}"))
}

/// Verifies an ID token: signature, issuer, audience and times.
async fn verified(provider: &DiscoveredProvider, token: &str) -> Result<Arc<Identity>, LoginFault> {
    let checked = match provider.verifier.check(token, now()) {
        TokenCheck::Done(checked) => checked,
        TokenCheck::Waits(wait) => {
            wait.fetched().await;
            provider.verifier.check_now(token, now())
        }
    };
    checked.map_err(|fault| match fault {
        AuthFault::NoKeys => LoginFault::Unavailable("the keys of the OpenID provider".to_owned()),
        fault => LoginFault::Failed(format!("the ID token: {fault}")),
    })
}

/// Checks what only ID tokens have: `nonce`, `azp` and `iat`.
pub(super) fn check_id_token(
    token: &Identity,
    config: &OidcConfig,
    nonce: &str,
    now: u64,
) -> Result<(), LoginFault> {
    let failed = |reason: &str| Err(LoginFault::Failed(format!("the ID token: {reason}")));
    let claim = |name: &str| token.claims.get(name);
    if claim("nonce").and_then(Value::as_str) != Some(nonce) {
        return failed("the nonce is not that of this login");
    }
    let is_for_others = claim("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    match claim("azp") {
        None if is_for_others => return failed("it has several audiences and no `azp`"),
        Some(party) if *party != *config.client_id => {
            return failed("it was issued to another client");
        }
        _ => {}
    }
    match token.issued {
        None => failed("the claim `iat` is missing"),
        Some(issued) if issued > now + config.leeway.as_secs() => failed("it is from the future"),
        Some(_) => Ok(()),
    }
}
