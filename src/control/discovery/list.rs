//! A list of backends in JSON: our own form, or Consul's health endpoint. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::validation::summary;
use crate::config::{Address, BackendConfig, HEAVIEST, valid_name};

/// What a list says.
#[derive(Clone, Debug)]
pub(super) struct ParsedList {
    /// The backends of the entries that can be used.
    pub(super) backends: Vec<BackendConfig>,
    /// The entries that cannot be used, and why.
    pub(super) troubles: Vec<String>,
}

/// Reads an array of backends, or an object that has it under `backends`. An entry that cannot be used
/// is left out and reported; it takes nothing from the others.
///
/// # Errors
/// The list cannot be read, or none of its entries can be used.
pub(super) fn backends(body: &[u8]) -> Result<ParsedList, String> {
    let mut whole: Value =
        serde_json::from_slice(body).map_err(|error| {
            format!(
                "the answer is not JSON ({error}); it must be an array of addresses, or Consul's list of \
                 instances"
            )
        })?;
    let entries = match &mut whole {
        Value::Array(entries) => std::mem::take(entries),
        Value::Object(object) => match object.remove("backends") {
            Some(Value::Array(entries)) => entries,
            _ => return Err("the answer has no array `backends`".to_owned()),
        },
        _ => return Err("the answer is neither an array nor an object".to_owned()),
    };
    let mut listed = ParsedList { backends: Vec::new(), troubles: Vec::new() };
    let (mut critical, count) = (0, entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let read =
            if entry.get("Service").is_some() { service(entry) } else { plain(entry).map(Some) };
        match read {
            Ok(Some(backend)) => listed.backends.push(backend),
            Ok(None) => critical += 1,
            Err(why) => {
                listed.troubles.push(format!("entry {} is not used: {why}", index + 1));
            }
        }
    }
    if listed.backends.is_empty() && count > 0 {
        if critical > 0 {
            listed.troubles.insert(0, format!("{critical} of {count} instances are critical"));
        }
        return Err(summary(listed.troubles).unwrap_or_default());
    }
    Ok(listed)
}

/// An entry of our own form.
#[derive(Deserialize)]
struct PlainEntry {
    address: String,
    name: Option<String>,
    weight: Option<u32>,
}

fn plain(entry: Value) -> Result<BackendConfig, String> {
    let PlainEntry { address: typed, name, weight } = match entry {
        Value::String(address) => PlainEntry { address, name: None, weight: None },
        entry => serde_json::from_value(entry).map_err(|error| error.to_string())?,
    };
    let address: Address = typed.parse().map_err(|wrong| format!("{wrong}"))?;
    let name = name.unwrap_or(typed);
    valid_name(&name).map_err(|wrong| wrong.to_string())?;
    let weight = weight.unwrap_or(1);
    if !(1..=HEAVIEST).contains(&weight) {
        return Err(format!("its weight must be from 1 to {HEAVIEST}"));
    }
    Ok(BackendConfig { name, address, weight })
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
    /// Unique on its node.
    #[serde(default, rename = "ID")]
    id: String,
    /// Empty where it is the node's.
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

/// The instance that an entry describes; `None`: one of its checks is critical, which covers
/// maintenance mode too.
fn service(entry: Value) -> Result<Option<BackendConfig>, String> {
    let ConsulEntry { node, service, checks } =
        serde_json::from_value(entry).map_err(|error| error.to_string())?;
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
    let address: Address = typed.parse().map_err(|wrong| format!("{name}: {wrong}"))?;
    let weights = service.weights.unwrap_or(ConsulWeights { passing: 1, warning: 1 });
    let weight = if any("warning") { weights.warning } else { weights.passing };
    Ok(Some(BackendConfig { name, address, weight: weight.clamp(1, HEAVIEST) }))
}

/// The name of an instance: `ID@NODE`. An id is unique on its node only, and a name must not depend on
/// which other instances there are: orders of operators follow it. `None`: that can be no name.
fn instance(id: &str, node: &str) -> Option<String> {
    let name = match node {
        "" => id.to_owned(),
        node => format!("{id}@{node}"),
    };
    (!id.is_empty() && valid_name(&name).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::backends;

    fn shown(body: &str) -> Result<Vec<String>, String> {
        let list = backends(body.as_bytes())?.backends;
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
    fn an_entry_that_cannot_be_used_is_left_out_and_reported() {
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
            let listed = backends(format!("[{entry}, {good}]").as_bytes()).unwrap();
            assert_eq!(listed.backends.len(), 1, "{entry}");
            let [trouble] = &listed.troubles[..] else { panic!("{entry}: {:?}", listed.troubles) };
            assert!(trouble.starts_with("entry 1 is not used: "), "{trouble}");
            assert!(trouble.contains(part), "{entry}: {trouble}");
            let alone = shown(&format!("[{entry}]")).unwrap_err();
            assert!(alone.contains(part), "{entry}: {alone}");
        }
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for (body, part) in [
            ("", "not JSON"),
            ("[", "not JSON"),
            ("3", "neither an array nor an object"),
            ("{}", "no array `backends`"),
            (r#"{"backends": {}}"#, "no array `backends`"),
        ] {
            let error = shown(body).unwrap_err();
            assert!(error.contains(part), "{body}: {error}");
        }
    }
}
