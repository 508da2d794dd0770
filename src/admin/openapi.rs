//! Holds `openapi.json` against the server: the same paths, the same shapes, and whole in itself.

use std::collections::BTreeSet;

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::routes::{Body, ROUTES};
use crate::api::{
    ApiError, BackendCondition, BackendOrigin, BackendState, Backends, CertificateState, Change,
    ChangeKind, ChangedThing, CheckFailureInfo, Closed, DrainRequest, DrainState, ExplainRequest,
    Explanation, FindRequest, ListenerState, NewBackend, NewWeight, OPENAPI, Plan, PlanRequest,
    PoolState, Pools, Predecessor, ProcessState, ReloadRequest, ReloadState, SessionKind,
    SessionList, SessionState, Status, Undrain, UpgradeRequest, Upgraded, Whereabouts,
};
use crate::config::{CertificateSource, ListenerProtocol, TlsConfig};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

fn file() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// Path, method and operation of everything in the file.
fn operations(file: &Value) -> Vec<(String, Method, Value)> {
    let mut all = Vec::new();
    for (path, item) in file["paths"].as_object().unwrap() {
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
fn each_path_of_the_file_is_served_and_each_served_one_is_in_the_file() {
    let name = |path: &str, method: &Method| format!("{method} {path}");
    let described: BTreeSet<String> =
        operations(&file()).iter().map(|(path, method, _)| name(path, method)).collect();
    let served: BTreeSet<String> =
        ROUTES.iter().map(|route| name(route.path, &route.method)).collect();
    assert_eq!(described, served);
    assert_eq!(served.len(), ROUTES.len(), "a route is there twice");
}

#[test]
fn bodies_are_described_where_they_are_read() {
    for (path, method, operation) in operations(&file()) {
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
fn the_file_is_whole() {
    let file = file();
    assert_eq!(file["openapi"], "3.1.0");
    assert!(file["info"]["title"].is_string() && file["info"]["version"].is_string());
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&file) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
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
        assert!(file.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for name in file["components"]["schemas"].as_object().unwrap().keys() {
        let target = format!("#/components/schemas/{name}");
        assert!(references.contains(&target), "nobody uses {name}");
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

/// Asserts that a value is of a schema of the file, field by field: neither has one that the other
/// has not.
fn holds<T: Serialize>(schema: &str, value: &T) {
    let file = file();
    let value = serde_json::to_value(value).unwrap();
    let whole = json!({
        "$ref": format!("#/components/schemas/{schema}"),
        "components": file["components"],
    });
    let validator = jsonschema::validator_for(&whole).unwrap();
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

/// Asserts that these are all the words that an enumeration of the file has.
fn holds_all<T: Serialize>(schema: &str, values: &[T]) {
    let words = serde_json::to_value(values).unwrap();
    assert_eq!(file()["components"]["schemas"][schema]["enum"], words, "{schema}");
}

#[test]
fn words_are_those_of_the_file() {
    use BackendCondition as Is;
    holds_all(
        "BackendCondition",
        &[Is::Leaving, Is::Drained, Is::Draining, Is::Down, Is::Ejected, Is::SlowStart, Is::Up],
    );
    use ProcessState::{Draining, Serving, Stopping};
    holds_all("ProcessState", &[Serving, Draining, Stopping]);
    holds_all(
        "Origin",
        &[BackendOrigin::Configured, BackendOrigin::Discovered, BackendOrigin::Added],
    );
    let kinds = [SessionKind::Tunnel, SessionKind::Stream, SessionKind::Polling];
    holds_all("SessionKind", &kinds);
    use ChangedThing::{Backend, Listener, Pool, Route, Setting};
    holds_all("ChangedThing", &[Listener, Route, Pool, Backend, Setting]);
    use ChangeKind::{Added, Changed, Kept, Removed};
    holds_all("ChangeKind", &[Added, Removed, Changed, Kept]);
    let tls = TlsConfig::new(CertificateSource::Given(Vec::new()));
    let (https, inside) = (ListenerProtocol::Https(tls.clone()), ListenerProtocol::Tls(tls));
    let spoken = [
        ListenerProtocol::Http,
        https,
        ListenerProtocol::Tcp,
        inside,
        ListenerProtocol::TlsPassthrough,
    ];
    let words = json!(spoken.each_ref().map(ListenerProtocol::name));
    let listener = &file()["components"]["schemas"]["ListenerState"];
    assert_eq!(listener["properties"]["protocol"]["enum"], words);
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
        ramp: 0.5,
        sessions: 1,
        tunnels: 0,
        requests: 2,
        since: 1.0,
        reason: Some("refused".to_owned()),
        last_failure: Some(CheckFailureInfo { at: 1.5, reason: "refused".to_owned() }),
        goes_on_as: Some("other/blue".to_owned()),
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
fn states_are_as_the_file_says() {
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
    holds("Status", &status);
    holds("Status", &Status { drain: None, reload: None, ..status });
    holds("ListenerState", &listener);
    holds("ListenerState", &ListenerState { certificate_error: None, ..listener });
    holds("CertificateState", &certificate);
    holds("CertificateState", &CertificateState { expires: None, ..certificate });
    holds("Pools", &Pools { pools: vec![pool()] });
    holds("PoolState", &pool());
    holds("BackendState", &backend());
    let (reason, last_failure, goes_on_as) = (None, None, None);
    holds(
        "BackendState",
        &BackendState { reason, last_failure, goes_on_as, drain: None, ..backend() },
    );
    holds("CheckFailure", &CheckFailureInfo { at: 1.5, reason: "refused".to_owned() });
    holds("DrainState", &drain());
    holds("Predecessor", &Predecessor { pid: 2, drain: drain() });
    holds("ReloadState", &ReloadState { at: 1.0, error: None });
    holds("Backends", &Backends { backends: vec![backend()] });
    let session = SessionState {
        id: "t-1".to_owned(),
        pool: "chat".to_owned(),
        backend: "blue".to_owned(),
        kind: SessionKind::Tunnel,
        client: Some("192.0.2.1:4000".to_owned()),
        age: Some(1.0),
    };
    holds("SessionState", &session);
    holds("Sessions", &SessionList { total: 9, sessions: vec![session.clone()] });
    holds("Whereabouts", &Whereabouts { found: vec![session] });
}

#[test]
fn answers_are_as_the_file_says() {
    let change = Change {
        what: ChangedThing::Backend,
        how: ChangeKind::Removed,
        name: "chat/blue".to_owned(),
        detail: "drained".to_owned(),
        tunnels: 1,
        sessions: 2,
        by: Some(300.0),
    };
    holds("Change", &change);
    let plan = Plan { changes: vec![change], ..Plan::default() };
    holds("Plan", &plan);
    holds("Explanation", &Explanation::default());
    holds("Closed", &Closed { closed: "t-1".to_owned() });
    holds("Upgraded", &Upgraded { pid: 1 });
    holds("Refusal", &ApiError { error: "no".to_owned() });
}

#[test]
fn orders_are_as_the_file_says() {
    holds("Undrain", &Undrain { all: true, ..Undrain::default() });
    let one = (Some("a".to_owned()), Some("b".to_owned()));
    holds("Undrain", &Undrain { pool: one.0, backend: one.1, all: false });
    holds("Drain", &DrainRequest::default());
    holds(
        "Drain",
        &DrainRequest { within: Some(300.0), spread: Some(0.5), ..DrainRequest::default() },
    );
    let address = "node-1:3000".to_owned();
    holds("NewBackend", &NewBackend { address, name: None, weight: Some(2) });
    holds("NewWeight", &NewWeight { weight: 3 });
    holds("FindRequest", &FindRequest { sid: "x".to_owned() });
    holds("ReloadRequest", &ReloadRequest { max_disconnects: Some(0) });
    holds("PlanRequest", &PlanRequest { text: Some(String::new()), path: None });
    holds("ExplainRequest", &ExplainRequest::default());
    holds("UpgradeRequest", &UpgradeRequest::default());
}
