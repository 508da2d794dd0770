//! A list of backends in JSON, as a script or Consul says it. Pure.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::config::{Address, Backend, HEAVIEST, valid_name};

/// Reads an array of backends, or an object that has it under `backends`. One entry that cannot be
/// read spoils the answer: a list that is half understood would send the other half away.
///
/// # Errors
/// What is wrong, by the number of the entry.
pub(super) fn backends(body: &[u8]) -> Result<Vec<Backend>, String> {
    let mut whole: Value =
        serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    let entries = match &mut whole {
        Value::Array(entries) => std::mem::take(entries),
        Value::Object(object) => match object.remove("backends") {
            Some(Value::Array(entries)) => entries,
            _ => return Err("the answer has no array `backends`".to_owned()),
        },
        _ => return Err("the answer is neither an array nor an object".to_owned()),
    };
    let mut services = Vec::new();
    let mut backends = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let wrong = |why: String| format!("backend {} of the answer: {why}", index + 1);
        if entry.get("Service").is_some() {
            let health = serde_json::from_value(entry).map_err(|error| wrong(error.to_string()))?;
            services.push(service(health).map_err(wrong)?);
        } else {
            backends.push(plain(entry).map_err(wrong)?);
        }
    }
    backends.extend(named(services));
    Ok(backends)
}

/// An entry of our own form.
#[derive(Deserialize)]
struct Plain {
    address: String,
    name: Option<String>,
    weight: Option<u32>,
}

fn plain(entry: Value) -> Result<Backend, String> {
    let Plain { address: typed, name, weight } = match entry {
        Value::String(address) => Plain { address, name: None, weight: None },
        entry => serde_json::from_value(entry).map_err(|error| error.to_string())?,
    };
    let address: Address = typed.parse().map_err(|wrong| format!("{wrong}"))?;
    let name = name.unwrap_or(typed);
    valid_name(&name).map_err(|wrong| wrong.to_string())?;
    let weight = weight.unwrap_or(1);
    if !(1..=HEAVIEST).contains(&weight) {
        return Err(format!("its weight must be from 1 to {HEAVIEST}"));
    }
    Ok(Backend { name, address, weight })
}

/// An entry of Consul's `/v1/health/service/NAME`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    #[serde(default)]
    node: Node,
    service: Service,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default, rename = "ID")]
    id: String,
    /// Empty where it is the node's.
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    weights: Weights,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default)]
    passing: u32,
}

fn service(Health { node, service }: Health) -> Result<Backend, String> {
    let host = Some(service.address).filter(|own| !own.is_empty()).unwrap_or(node.address);
    let typed = if host.contains(':') {
        format!("[{host}]:{}", service.port)
    } else {
        format!("{host}:{}", service.port)
    };
    let address: Address = typed.parse().map_err(|wrong| format!("{wrong}"))?;
    Ok(Backend { name: service.id, address, weight: service.weights.passing.clamp(1, HEAVIEST) })
}

/// Services by their ids, which are unique on their node only: where two share one, and where one can
/// be no name, the address takes its place.
fn named(mut services: Vec<Backend>) -> Vec<Backend> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for service in &services {
        *seen.entry(service.name.clone()).or_default() += 1;
    }
    for service in &mut services {
        if seen[&service.name] > 1 || valid_name(&service.name).is_err() {
            service.name = service.address.to_string();
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::backends;

    fn shown(body: &str) -> Result<Vec<String>, String> {
        let list = backends(body.as_bytes())?;
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
    fn consul_says_where_a_service_is() {
        let body = r#"[
            {"Node": {"Node": "a", "Address": "10.1.0.1"},
             "Service": {"ID": "chat-1", "Service": "chat", "Address": "", "Port": 3000,
                         "Weights": {"Passing": 10, "Warning": 1}},
             "Checks": []},
            {"Node": {"Address": "10.1.0.2"},
             "Service": {"ID": "chat-2", "Address": "fd00::2", "Port": 3001, "Weights": {"Passing": 0}}},
            {"Node": {"Address": "10.1.0.3"}, "Service": {"ID": "chat-3", "Port": 3000}},
            {"Node": {"Address": "10.1.0.4"}, "Service": {"ID": "chat-3", "Port": 3000}}
        ]"#;
        assert_eq!(
            shown(body).unwrap(),
            [
                "chat-1 10.1.0.1:3000 10",
                "chat-2 [fd00::2]:3001 1",
                "10.1.0.3:3000 10.1.0.3:3000 1",
                "10.1.0.4:3000 10.1.0.4:3000 1"
            ]
        );
    }

    #[test]
    fn one_bad_entry_spoils_the_answer_and_is_named() {
        for (body, part) in [
            ("", "no JSON"),
            ("[", "no JSON"),
            ("3", "neither an array nor an object"),
            ("{}", "no array `backends`"),
            (r#"{"backends": {}}"#, "no array `backends`"),
            (r#"["10.0.0.1:1", 7]"#, "backend 2"),
            (r#"["10.0.0.1"]"#, "has no port"),
            (r#"[{"name": "x"}]"#, "missing field `address`"),
            (r#"[{"address": "a:1", "weight": 0}]"#, "weight"),
            (r#"[{"address": "a:1", "weight": -1}]"#, "backend 1"),
            (r#"[{"address": "a:1", "name": "\u0007"}]"#, "control character"),
            (r#"[{"Service": {"ID": "x", "Port": 0}, "Node": {"Address": "a"}}]"#, "no port"),
            (r#"[{"Service": {"ID": "x", "Port": 70000}}]"#, "backend 1"),
            (r#"[{"Service": {"ID": "x", "Port": 80}}]"#, "empty"),
        ] {
            let error = shown(body).unwrap_err();
            assert!(error.contains(part), "{body}: {error}");
        }
    }
}
