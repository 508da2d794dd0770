//! Compares `openapi.json` with the server: paths, bodies, schemas and references.

use std::collections::BTreeSet;

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::routes::{Body, ROUTES};
use crate::api::{
    ApiError, BackendCondition, BackendOrigin, BackendState, Backends, CacheState,
    CertificateState, Change, ChangeKind, ChangedThing, CheckFailureInfo, Closed, Documentations,
    DrainRequest, DrainState, ExplainRequest, Explanation, FindRequest, ListenerState, NewBackend,
    NewWeight, OPENAPI, Plan, PlanRequest, PoolState, Pools, Predecessor, ProcessState,
    PurgeRequest, Purged, ReloadRequest, ReloadState, RevokeRequest, Revoked, SessionKind,
    SessionList, SessionState, Status, Undrain, UpgradeRequest, Upgraded, Whereabouts,
};
use crate::config::{CertificateSource, ListenerProtocol, TlsConfig};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

fn description() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// Path, method and operation of each entry of the description.
fn operations(description: &Value) -> Vec<(String, Method, Value)> {
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (name, operation) in item.as_object().unwrap() {
            if METHODS.contains(&name.as_str()) {
                let method = name.to_ascii_uppercase().parse().unwrap();
                all.push((path.clone(), method, operation.clone()));
            }
        }
    }
    all
}

#[test]
fn described_paths_are_the_served_paths() {
    let name = |path: &str, method: &Method| format!("{method} {path}");
    let described: BTreeSet<String> =
        operations(&description()).iter().map(|(path, method, _)| name(path, method)).collect();
    let served: BTreeSet<String> =
        ROUTES.iter().map(|route| name(route.path, &route.method)).collect();
    assert_eq!(described, served);
    assert_eq!(served.len(), ROUTES.len(), "a route is listed twice");
}

#[test]
fn bodies_are_described_as_required_optional_or_absent() {
    for (path, method, operation) in operations(&description()) {
        let route = ROUTES.iter().find(|r| r.path == path && r.method == method).unwrap();
        let required = operation["requestBody"]["required"].as_bool();
        let expected = match route.body {
            Body::None => None,
            Body::Json(_) => Some(true),
            Body::Optional(_) => Some(false),
        };
        assert_eq!(required, expected, "{method} {path}");
    }
}

#[test]
fn the_description_is_complete_and_its_references_resolve() {
    let file = description();
    assert_eq!(file["openapi"], "3.1.0");
    assert!(file["info"]["title"].is_string() && file["info"]["version"].is_string());
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&file) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} is used twice");
        let mut named: Vec<&str> =
            path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect();
        let described = file["paths"][&path]["parameters"].as_array().cloned().unwrap_or_default();
        let mut given: Vec<&str> = described.iter().map(|p| p["name"].as_str().unwrap()).collect();
        named.sort_unstable();
        given.sort_unstable();
        assert_eq!(named, given, "{method} {path}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
        assert!(responses.contains_key("401"), "{method} {path}");
    }
    let mut references = Vec::new();
    collect(&file, &mut references);
    assert!(references.len() > 100);
    for reference in &references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(file.pointer(pointer).is_some(), "{reference} does not resolve");
    }
    for name in file["components"]["schemas"].as_object().unwrap().keys() {
        let target = format!("#/components/schemas/{name}");
        assert!(references.contains(&target), "{name} is not used");
        assert!(jsonschema::meta::is_valid(&file["components"]["schemas"][name]), "{name}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(reference) if key == "$ref" => references.push(reference.clone()),
                    value => collect(value, references),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

/// Asserts that a value is valid under a schema, and that both have the same fields.
fn assert_schema<T: Serialize>(schema: &str, value: &T) {
    let file = description();
    let value = serde_json::to_value(value).unwrap();
    let root = json!({
        "$ref": format!("#/components/schemas/{schema}"),
        "components": file["components"],
    });
    let validator = jsonschema::validator_for(&root).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&value).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(faults.is_empty(), "{schema}: {faults:?}\n{value}");
    if let Some(fields) = value.as_object() {
        let described = file["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let keys = |map: &serde_json::Map<String, Value>| -> BTreeSet<String> {
            map.keys().cloned().collect()
        };
        assert_eq!(keys(fields), keys(described), "{schema}");
    }
}

/// Asserts that a schema lists exactly these values of an enumeration.
fn assert_enumeration<T: Serialize>(schema: &str, values: &[T]) {
    let names = serde_json::to_value(values).unwrap();
    assert_eq!(description()["components"]["schemas"][schema]["enum"], names, "{schema}");
}

#[test]
fn enumerations_match_their_schemas() {
    use BackendCondition as State;
    assert_enumeration(
        "BackendCondition",
        &[
            State::Leaving,
            State::Drained,
            State::Draining,
            State::Down,
            State::Ejected,
            State::Standby,
            State::SlowStart,
            State::Up,
        ],
    );
    use ProcessState::{Draining, Serving, Stopping};
    assert_enumeration("ProcessState", &[Serving, Draining, Stopping]);
    assert_enumeration(
        "Origin",
        &[BackendOrigin::Configured, BackendOrigin::Discovered, BackendOrigin::Added],
    );
    let kinds = [SessionKind::Tunnel, SessionKind::Stream, SessionKind::Polling];
    assert_enumeration("SessionKind", &kinds);
    use ChangedThing::{Backend, Listener, Pool, Route, Setting};
    assert_enumeration("ChangedThing", &[Listener, Route, Pool, Backend, Setting]);
    use ChangeKind::{Added, Changed, Kept, Removed};
    assert_enumeration("ChangeKind", &[Added, Removed, Changed, Kept]);
    let tls = TlsConfig::new(CertificateSource::Configured(Vec::new()));
    let protocols = [
        ListenerProtocol::Http,
        ListenerProtocol::Https(tls.clone()),
        ListenerProtocol::Tcp,
        ListenerProtocol::Tls(tls),
        ListenerProtocol::TlsPassthrough,
    ];
    let names = json!(protocols.each_ref().map(ListenerProtocol::name));
    let listener = &description()["components"]["schemas"]["ListenerState"];
    assert_eq!(listener["properties"]["protocol"]["enum"], names);
}

fn drain() -> DrainState {
    let (seconds_left, seconds_to_closes) = (Some(300.0), None);
    DrainState { since: 1.5, seconds_left, seconds_to_closes, sockets_left: 3, sessions_left: 4 }
}

fn backend() -> BackendState {
    BackendState {
        pool: "chat".to_owned(),
        name: "blue".to_owned(),
        address: "[::1]:3000".to_owned(),
        origin: BackendOrigin::Added,
        state: BackendCondition::SlowStart,
        weight: 1,
        backup: false,
        ramp: 0.5,
        sessions: 1,
        tunnels: 0,
        requests: 2,
        since: 1.0,
        reason: Some("refused".to_owned()),
        last_failure: Some(CheckFailureInfo { at: 1.5, reason: "refused".to_owned() }),
        continues_as: Some("other/blue".to_owned()),
        drain: Some(drain()),
    }
}

fn pool() -> PoolState {
    PoolState {
        name: "chat".to_owned(),
        balance: "least-sessions".to_owned(),
        source: "dns".to_owned(),
        source_error: None,
        removed: false,
        backends: vec![backend()],
    }
}

#[test]
fn states_match_their_schemas() {
    let names = vec!["chat.example.com".to_owned()];
    let certificate = CertificateState { names, expires: Some(1.0) };
    let listener = ListenerState {
        name: "web".to_owned(),
        protocol: "https".to_owned(),
        addresses: vec!["[::]:443".parse().unwrap()],
        certificates: vec![certificate.clone()],
        certificate_error: Some("refused".to_owned()),
    };
    let status = Status {
        version: "1".to_owned(),
        pid: 1,
        uptime: 0.25,
        state: ProcessState::Draining,
        drain: Some(drain()),
        connections: 1,
        tunnels: 2,
        sessions: 3,
        listeners: vec![listener.clone()],
        pools: vec![pool()],
        reload: Some(ReloadState { at: 1.0, error: Some("faults".to_owned()) }),
        predecessors: vec![Predecessor { pid: 2, drain: drain() }],
    };
    assert_schema("Status", &status);
    assert_schema("Status", &Status { drain: None, reload: None, ..status });
    assert_schema("ListenerState", &listener);
    assert_schema("ListenerState", &ListenerState { certificate_error: None, ..listener });
    assert_schema("CertificateState", &certificate);
    assert_schema("CertificateState", &CertificateState { expires: None, ..certificate });
    assert_schema("Pools", &Pools { pools: vec![pool()] });
    assert_schema("PoolState", &pool());
    assert_schema("BackendState", &backend());
    let (reason, last_failure, continues_as) = (None, None, None);
    assert_schema(
        "BackendState",
        &BackendState { reason, last_failure, continues_as, drain: None, ..backend() },
    );
    assert_schema("CheckFailure", &CheckFailureInfo { at: 1.5, reason: "refused".to_owned() });
    assert_schema("DrainState", &drain());
    assert_schema("Predecessor", &Predecessor { pid: 2, drain: drain() });
    assert_schema("ReloadState", &ReloadState { at: 1.0, error: None });
    assert_schema("Backends", &Backends { backends: vec![backend()] });
    let session = SessionState {
        id: "t-1".to_owned(),
        pool: "chat".to_owned(),
        backend: "blue".to_owned(),
        kind: SessionKind::Tunnel,
        client: Some("192.0.2.1:4000".to_owned()),
        age: Some(1.0),
    };
    assert_schema("SessionState", &session);
    assert_schema("Sessions", &SessionList { total: 9, sessions: vec![session.clone()] });
    assert_schema("Whereabouts", &Whereabouts { found: vec![session] });
}

#[test]
fn replies_match_their_schemas() {
    let change = Change {
        what: ChangedThing::Backend,
        how: ChangeKind::Removed,
        name: "chat/blue".to_owned(),
        detail: "drained".to_owned(),
        tunnels: 1,
        sessions: 2,
        by: Some(300.0),
    };
    assert_schema("Change", &change);
    let plan = Plan { changes: vec![change], ..Plan::default() };
    assert_schema("Plan", &plan);
    assert_schema("Explanation", &Explanation::default());
    assert_schema("Closed", &Closed { closed: "t-1".to_owned() });
    assert_schema("Documentations", &Documentations { documents: vec!["all".to_owned()] });
    assert_schema("CacheState", &CacheState::default());
    assert_schema("Purged", &Purged { urls: 1 });
    assert_schema("Revoked", &Revoked { subject: "anna".to_owned(), ..Revoked::default() });
    assert_schema("Upgraded", &Upgraded { pid: 1 });
    assert_schema("ApiError", &ApiError { error: "no".to_owned() });
}

#[test]
fn requests_match_their_schemas() {
    assert_schema("Undrain", &Undrain { all: true, ..Undrain::default() });
    let one = (Some("a".to_owned()), Some("b".to_owned()));
    assert_schema("Undrain", &Undrain { pool: one.0, backend: one.1, all: false });
    let named = Some(String::new());
    let purge = PurgeRequest { url: named.clone(), prefix: named.clone(), tag: named, all: true };
    assert_schema("PurgeCache", &purge);
    assert_schema("Revoke", &RevokeRequest { subject: "anna".to_owned() });
    assert_schema("Drain", &DrainRequest::default());
    assert_schema(
        "Drain",
        &DrainRequest { within: Some(300.0), spread: Some(0.5), ..DrainRequest::default() },
    );
    let address = "node-1:3000".to_owned();
    assert_schema("NewBackend", &NewBackend { address, name: None, weight: Some(2), backup: true });
    assert_schema("NewWeight", &NewWeight { weight: 3 });
    assert_schema("FindRequest", &FindRequest { sid: "x".to_owned() });
    assert_schema("ReloadRequest", &ReloadRequest { max_disconnects: Some(0) });
    assert_schema("PlanRequest", &PlanRequest { text: Some(String::new()), path: None });
    assert_schema("ExplainRequest", &ExplainRequest::default());
    assert_schema("UpgradeRequest", &UpgradeRequest::default());
}
