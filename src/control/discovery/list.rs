//! A list of backends in JSON: Moorline's own format, or that of Consul's health endpoint. Pure.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{
    error::{HttpListError, SourceError},
    validation::summary,
};
use crate::config::{Address, BackendConfig, HEAVIEST, InvalidValue, valid_name};

/// The backends of a list.
#[derive(Clone, Debug)]
pub(super) struct ParsedList {
    /// The backends of the valid entries.
    pub(super) backends: Vec<BackendConfig>,
    /// The invalid entries, and why they are invalid.
    pub(super) warnings: Vec<String>,
}

/// Why an entry of a list is not used.
#[derive(Debug)]
enum EntryError {
    /// The entry has the wrong type, or a field is missing.
    Json(serde_json::Error),
    /// The address or the name is invalid.
    Invalid(InvalidValue),
    /// The address of a Consul instance is invalid.
    Instance(String, InvalidValue),
    /// The weight is out of range.
    Weight,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::Invalid(error) => error.fmt(f),
            Self::Instance(name, error) => write!(f, "{name}: {error}"),
            Self::Weight => write!(f, "its weight must be from 1 to {HEAVIEST}"),
        }
    }
}

impl From<serde_json::Error> for EntryError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl From<InvalidValue> for EntryError {
    fn from(error: InvalidValue) -> Self {
        Self::Invalid(error)
    }
}

/// Reads an array of backends, or an object with an array `backends`. An invalid entry is skipped with a
/// warning.
///
/// # Errors
/// The list cannot be read, or none of its entries can be used.
pub(super) fn parse(body: &[u8]) -> Result<ParsedList, SourceError> {
    let mut json: Value =
        serde_json::from_slice(body).map_err(|error| HttpListError::NotJson(error.to_string()))?;
    let entries = match &mut json {
        Value::Array(entries) => std::mem::take(entries),
        Value::Object(object) => match object.remove("backends") {
            Some(Value::Array(entries)) => entries,
            _ => return Err(HttpListError::NoArray.into()),
        },
        _ => return Err(HttpListError::WrongType.into()),
    };
    let mut list = ParsedList { backends: Vec::new(), warnings: Vec::new() };
    let (mut critical, count) = (0, entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let backend =
            if entry.get("Service").is_some() { service(entry) } else { plain(entry).map(Some) };
        match backend {
            Ok(Some(backend)) => list.backends.push(backend),
            Ok(None) => critical += 1,
            Err(reason) => {
                list.warnings.push(format!("entry {} is not used: {reason}", index + 1));
            }
        }
    }
    if list.backends.is_empty() && count > 0 {
        if critical > 0 {
            list.warnings.insert(0, format!("{critical} of {count} instances are critical"));
        }
        return Err(SourceError::Unusable(summary(list.warnings).unwrap_or_default()));
    }
    Ok(list)
}

/// An entry of Moorline's own format.
#[derive(Deserialize)]
struct PlainEntry {
    address: String,
    name: Option<String>,
    weight: Option<u32>,
    #[serde(default)]
    backup: bool,
}

fn plain(entry: Value) -> Result<BackendConfig, EntryError> {
    let PlainEntry { address: typed, name, weight, backup } = match entry {
        Value::String(address) => PlainEntry { address, name: None, weight: None, backup: false },
        entry => serde_json::from_value(entry)?,
    };
    let address: Address = typed.parse()?;
    let name = name.unwrap_or(typed);
    valid_name(&name)?;
    let weight = weight.unwrap_or(1);
    if !(1..=HEAVIEST).contains(&weight) {
        return Err(EntryError::Weight);
    }
    Ok(BackendConfig { name, address, weight, backup })
}

/// An entry of Consul's `/v1/health/service/NAME`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulEntry {
    #[serde(default)]
    node: ConsulNode,
    service: ConsulService,
    checks: Option<Vec<ConsulCheck>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulNode {
    /// The node's name, unique in its datacenter.
    #[serde(default)]
    node: String,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulService {
    /// Unique on its node only.
    #[serde(default, rename = "ID")]
    id: String,
    /// Empty if the service uses the node's address.
    #[serde(default)]
    address: String,
    port: u16,
    weights: Option<ConsulWeights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulWeights {
    #[serde(default = "one")]
    passing: u32,
    #[serde(default = "one")]
    warning: u32,
}

/// A check of the node or of the service.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulCheck {
    #[serde(default)]
    status: String,
}

/// Consul's default weight.
fn one() -> u32 {
    1
}

/// Returns the instance that an entry describes; `None`: one of its checks is critical, or the instance
/// is in maintenance mode.
fn service(entry: Value) -> Result<Option<BackendConfig>, EntryError> {
    let ConsulEntry { node, service, checks } = serde_json::from_value(entry)?;
    let checks = checks.unwrap_or_default();
    let any = |status: &str| checks.iter().any(|check| check.status == status);
    if any("critical") || any("maintenance") {
        return Ok(None);
    }
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let typed = match host.contains(':') {
        true => format!("[{host}]:{}", service.port),
        false => format!("{host}:{}", service.port),
    };
    let name = instance(&service.id, &node.node).unwrap_or_else(|| typed.clone());
    let address = typed.parse::<Address>();
    let address = address.map_err(|error| EntryError::Instance(name.clone(), error))?;
    let weights = service.weights.unwrap_or(ConsulWeights { passing: 1, warning: 1 });
    let weight = if any("warning") { weights.warning } else { weights.passing };
    Ok(Some(BackendConfig { name, address, weight: weight.clamp(1, HEAVIEST), backup: false }))
}

/// Names an instance `ID@NODE`. The id alone is unique on its node only. The name does not depend on other
/// instances, because drains and weights set through the API refer to it. `None`: not a valid name.
fn instance(id: &str, node: &str) -> Option<String> {
    let name = match node {
        "" => id.to_owned(),
        node => format!("{id}@{node}"),
    };
    (!id.is_empty() && valid_name(&name).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::control::discovery::error::SourceError;

    fn shown(body: &str) -> Result<Vec<String>, SourceError> {
        let list = parse(body.as_bytes())?.backends;
        Ok(list.iter().map(|b| format!("{} {} {}", b.name, b.address, b.weight)).collect())
    }

    #[test]
    fn a_list_has_addresses_and_objects() {
        let list = r#"["10.0.0.1:3000", {"address": "Node-2:80", "name": "two", "weight": 3},
                       {"address": "[::1]:3000", "zone": "b"}]"#;
        let expected =
            ["10.0.0.1:3000 10.0.0.1:3000 1", "two node-2:80 3", "[::1]:3000 [::1]:3000 1"];
        assert_eq!(shown(list).unwrap(), expected);
        assert_eq!(shown(&format!(r#"{{"backends": {list}}}"#)).unwrap(), expected);
    }

    #[test]
    fn consul_instances_are_named_by_id_and_node() {
        let body = r#"[
            {"Node": {"Node": "a", "Address": "10.1.0.1"},
             "Service": {"ID": "chat-1", "Service": "chat", "Address": "", "Port": 3000,
                         "Weights": {"Passing": 10, "Warning": 1}},
             "Checks": []},
            {"Node": {"Address": "10.1.0.2"},
             "Service": {"ID": "chat-2", "Address": "fd00::2", "Port": 3001, "Weights": {"Passing": 0}}},
            {"Node": {"Node": "c", "Address": "10.1.0.3"}, "Service": {"ID": "chat-3", "Port": 3000}},
            {"Node": {"Node": "d", "Address": "10.1.0.4"}, "Service": {"ID": "chat-3", "Port": 3000},
             "Checks": null},
            {"Node": {"Node": "e", "Address": "10.1.0.5"}, "Service": {"Port": 3000}}
        ]"#;
        assert_eq!(
            shown(body).unwrap(),
            [
                "chat-1@a 10.1.0.1:3000 10",
                "chat-2 [fd00::2]:3001 1",
                "chat-3@c 10.1.0.3:3000 1",
                "chat-3@d 10.1.0.4:3000 1",
                "10.1.0.5:3000 10.1.0.5:3000 1"
            ]
        );
    }

    #[test]
    fn invalid_entry_is_skipped_with_a_warning() {
        let good = r#""10.0.0.9:1""#;
        for (entry, part) in [
            ("7", "invalid type"),
            (r#""10.0.0.1""#, "has no port"),
            (r#"{"name": "x"}"#, "missing field `address`"),
            (r#"{"address": "a:1", "weight": 0}"#, "weight"),
            (r#"{"address": "a:1", "weight": -1}"#, "invalid value"),
            (r#"{"address": "a:1", "name": "\u0007"}"#, "control character"),
            (r#"{"Service": {"ID": "x", "Port": 0}, "Node": {"Address": "a"}}"#, "x: "),
            (r#"{"Service": {"ID": "x", "Port": 70000}}"#, "70000"),
            (r#"{"Service": {"ID": "x", "Port": 80}}"#, "empty"),
        ] {
            let list = parse(format!("[{entry}, {good}]").as_bytes()).unwrap();
            assert_eq!(list.backends.len(), 1, "{entry}");
            let [warning] = &list.warnings[..] else { panic!("{entry}: {:?}", list.warnings) };
            assert!(warning.starts_with("entry 1 is not used: "), "{warning}");
            assert!(warning.contains(part), "{entry}: {warning}");
            let alone = shown(&format!("[{entry}]")).unwrap_err().to_string();
            assert!(alone.contains(part), "{entry}: {alone}");
        }
    }

    #[test]
    fn invalid_list_is_an_error() {
        for (body, part) in [
            ("", "not JSON"),
            ("[", "not JSON"),
            ("3", "neither an array nor an object"),
            ("{}", "no array `backends`"),
            (r#"{"backends": {}}"#, "no array `backends`"),
        ] {
            let error = shown(body).unwrap_err().to_string();
            assert!(error.contains(part), "{body}: {error}");
        }
    }
}
