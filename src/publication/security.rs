//! Authentication of routes, as security schemes.

use serde_json::{Map, Value, json};

use crate::config::{AuthConfig, CertificateCondition, TokenPlace};

/// Adds the schemes of a route to `schemes`; returns its `security`.
pub(super) fn requirement(auth: Option<&AuthConfig>, schemes: &mut Map<String, Value>) -> Value {
    let Some(auth) = auth else { return json!([]) };
    let mut names = Vec::new();
    let mut add = |name: String, scheme: Value| {
        schemes.insert(name.clone(), scheme);
        names.push(name);
    };
    if let Some(jwt) = &auth.jwt {
        for place in &jwt.places {
            let (name, scheme) = at(place, "token", "A JSON Web Token.");
            add(name, scheme);
        }
    }
    if let Some(keys) = &auth.api_keys {
        for place in &keys.places {
            let (name, scheme) = at(place, "key", "An API key.");
            add(name, scheme);
        }
    }
    if auth.basic.is_some() {
        add("basic".to_owned(), json!({ "type": "http", "scheme": "basic" }));
    }
    // No scheme of OpenAPI says what these do. An import refuses them; without any scheme it would need no credential.
    let own = [
        (auth.forward.is_some(), "forward", "Another server decides."),
        (auth.oidc.is_some(), "login", "Browsers log in at an OpenID provider."),
    ];
    for (_, name, about) in own.into_iter().filter(|(used, ..)| *used) {
        let scheme = format!("x-moorline-{name}");
        add(name.to_owned(), json!({ "type": "http", "scheme": scheme, "description": about }));
    }
    let wanted = auth.require.certificate.as_ref();
    let certificate = wanted.is_some_and(|wanted| *wanted != CertificateCondition::Absent);
    if certificate {
        schemes.insert("certificate".to_owned(), json!({ "type": "mutualTLS" }));
    }
    let scopes = json!(auth.require.scopes);
    let alternative = |name: Option<String>| {
        let mut needed: Map<String, Value> =
            name.into_iter().map(|name| (name, scopes.clone())).collect();
        if certificate {
            needed.insert("certificate".to_owned(), json!([]));
        }
        Value::Object(needed)
    };
    match names.is_empty() {
        true => json!([alternative(None)]),
        false => names.into_iter().map(|name| alternative(Some(name))).collect(),
    }
}

/// The name and the scheme of a credential in this place.
fn at(place: &TokenPlace, what: &str, about: &str) -> (String, Value) {
    let key = |kind: &str, name: &str| {
        let scheme = json!({ "type": "apiKey", "in": kind, "name": name, "description": about });
        // Names of components have these characters only (OpenAPI 3.1 §4.8.7).
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        (format!("{what}_{kind}_{}", name.chars().map(plain).collect::<String>()), scheme)
    };
    match place {
        TokenPlace::Header => {
            let scheme = json!({ "type": "http", "scheme": "bearer", "description": about });
            (format!("{what}_bearer"), scheme)
        }
        TokenPlace::Field(name) => key("header", name),
        TokenPlace::Cookie(name) => key("cookie", name),
        TokenPlace::Query(name) => key("query", name),
        TokenPlace::Subprotocol(_) => key("header", "Sec-WebSocket-Protocol"),
    }
}
