//! The conditions of a route as JSON.

use serde_json::{Map, Value, json};

use crate::config::{CertificateCondition, RouteConditions, TextCondition};

/// Returns the conditions; `null` if there are none.
pub(super) fn json(conditions: &RouteConditions) -> Value {
    let RouteConditions {
        methods,
        headers,
        query,
        cookies,
        client,
        certificate,
        expression,
        path,
        operation,
    } = conditions;
    if conditions.is_empty() {
        return Value::Null;
    }
    json!({
        "method": methods,
        "header": texts(headers),
        "query": texts(query),
        "cookie": texts(cookies),
        "client": client,
        "certificate": certificate.as_ref().map(certificate_json),
        "path": path,
        "cel": expression,
        "operations": operation.as_ref().map(|operation| operation.names()),
    })
}

/// Returns texts by name.
pub(super) fn texts(texts: &[(String, TextCondition)]) -> Map<String, Value> {
    texts.iter().map(|(name, condition)| (name.clone(), text(condition))).collect()
}

fn text(condition: &TextCondition) -> Value {
    match condition {
        TextCondition::Present => json!(true),
        TextCondition::Absent => json!(false),
        TextCondition::OneOf(texts) => json!(texts),
        TextCondition::Prefix(prefix) => json!({ "prefix": prefix }),
        TextCondition::Pattern(pattern) => json!({ "regex": pattern }),
    }
}

pub(super) fn certificate_json(certificate: &CertificateCondition) -> Value {
    match certificate {
        CertificateCondition::Present => json!(true),
        CertificateCondition::Absent => json!(false),
        CertificateCondition::Identity { subject, fingerprints } => {
            json!({ "subject": subject.as_ref().map(text), "fingerprint": fingerprints })
        }
    }
}
