//! The authentication of a route, from security schemes.

use serde_json::{Map, Value, json};

use crate::openapi::{SchemeKind, SecurityRule, SecurityScheme};

/// Returns `auth` of a route; `None`: every request is accepted.
///
/// # Errors
/// It is not known, with the reason.
pub(super) fn auth(
    document: &Value,
    outer: Option<Value>,
    security: &SecurityRule,
) -> Result<Option<Value>, String> {
    if security.is_faulty {
        return Err("a route cannot express its `security`".to_owned());
    }
    if security.is_open() {
        return Ok(None);
    }
    let outer = outer.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    let kept =
        |(key, _): &(&String, &Value)| matches!(key.as_str(), "require" | "grace" | "close_code");
    let kept = outer.iter().filter(kept).map(|(key, value)| (key.clone(), value.clone()));
    let mut auth: Map<String, Value> = kept.collect();
    for scheme in &security.schemes {
        credential(document, &mut auth, &outer, scheme)?;
    }
    if !security.scopes.is_empty() || security.certificate {
        let require = auth.entry("require").or_insert_with(|| json!({}));
        let Some(require) = require.as_object_mut() else {
            return Err("`require` is not an object".to_owned());
        };
        for scope in &security.scopes {
            add(require, "scopes", scope, false);
        }
        if security.certificate {
            let known = require.entry("certificate").or_insert(Value::Bool(true));
            if *known == false {
                *known = Value::Bool(true);
            }
        }
    }
    Ok(Some(Value::Object(auth)))
}

fn credential(
    document: &Value,
    auth: &mut Map<String, Value>,
    outer: &Map<String, Value>,
    scheme: &SecurityScheme,
) -> Result<(), String> {
    let own = scheme.auth.as_deref().and_then(|pointer| document.pointer(pointer));
    let own = own.and_then(Value::as_object).cloned().unwrap_or_default();
    let key = match &scheme.kind {
        SchemeKind::Basic => "basic",
        SchemeKind::Key(_) if !own.contains_key("jwt") => "api_keys",
        SchemeKind::Token(_) | SchemeKind::Key(_) => "jwt",
    };
    let before = auth.remove(key);
    let is_first = before.is_none();
    let before = before.or_else(|| outer.get(key).cloned());
    let mut table = before.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, value) in own {
        match value {
            Value::Object(inner) if name == key => table.extend(inner),
            _ if auth.contains_key(&name) => {
                return Err(format!(
                    "`{name}` is set by more than one of its schemes and the route"
                ));
            }
            value => drop(auth.insert(name, value)),
        }
    }
    let has_keys = ["keys", "secret", "jwks"].iter().any(|key| table.contains_key(*key));
    if let Some((issuer, url)) = scheme.kind.provider() {
        if !has_keys {
            table.insert("jwks".to_owned(), url.into());
        }
        // Other keys must not make tokens of other issuers valid.
        let known = table.entry("issuer").or_insert_with(|| issuer.into());
        if !is_first && known != issuer {
            return Err("a route verifies tokens of one issuer".to_owned());
        }
    }
    let name = &scheme.name;
    if table.is_empty() {
        return Err(format!(
            "nothing verifies the credentials of `{name}`: set `x-moorline-auth: {{ {key}: … }}` of the scheme"
        ));
    }
    if table.contains_key("jwks") && !table.contains_key("audience") {
        return Err(format!(
            "the audience of the tokens of `{name}` is not known: set `x-moorline-auth: {{ jwt: {{ audience: … }} }}`"
        ));
    }
    let places = if key == "jwt" { "token" } else { "key" };
    match &scheme.kind {
        SchemeKind::Key(place) => add(&mut table, places, place, is_first),
        SchemeKind::Token(_) if !is_first => add(&mut table, places, "header", false),
        SchemeKind::Token(_) | SchemeKind::Basic => {}
    }
    auth.insert(key.to_owned(), Value::Object(table));
    Ok(())
}

/// Adds a text to an array, or to one text. `alone`: the texts before do not count.
fn add(table: &mut Map<String, Value>, key: &str, text: &str, alone: bool) {
    let mut texts = match table.remove(key).filter(|_| !alone) {
        Some(Value::Array(texts)) => texts,
        Some(text @ Value::String(_)) => vec![text],
        _ => Vec::new(),
    };
    if !texts.iter().any(|known| known == text) {
        texts.push(text.into());
    }
    table.insert(key.to_owned(), Value::Array(texts));
}
