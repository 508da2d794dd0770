//! What of a source's answer can be believed. Pure.

use std::{collections::HashSet, net::IpAddr};

use super::SourceAnswer;
use crate::config::{Admin, BackendConfig};

/// Most backends that a source may bring to one pool.
const MOST: usize = 1024;

/// The backends of an answer in a fixed order, and what is amiss with it. Names and addresses are
/// there once only.
///
/// # Errors
/// Nothing of it can be used.
pub(super) fn accepted(
    answer: SourceAnswer,
    admin: &Admin,
) -> Result<(Vec<BackendConfig>, Option<String>), String> {
    let mut troubles = answer.troubles;
    let mut backends = answer.backends;
    // Sources rotate their answers; of too many, the same ones are taken each time.
    backends.sort_by_cached_key(|backend| (backend.address.to_string(), backend.name.clone()));
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    backends.retain(|backend| match refusal(backend, admin) {
        Some(why) => {
            troubles.push(format!("{} {why}", backend.address));
            false
        }
        None if !addresses.insert(backend.address.clone()) => {
            troubles.push(format!("{} is there twice", backend.address));
            false
        }
        None if !names.insert(backend.name.clone()) => {
            troubles.push(format!("two backends are named {}", backend.name));
            false
        }
        None => true,
    });
    if backends.len() > MOST {
        troubles.push(format!("{} of {} backends are taken", MOST, backends.len()));
        backends.truncate(MOST);
    }
    let trouble = summary(troubles);
    if backends.is_empty() {
        return Err(trouble.unwrap_or_else(|| "the answer names no backend".to_owned()));
    }
    Ok((backends, trouble))
}

/// Why nobody can be sent there.
fn refusal(backend: &BackendConfig, admin: &Admin) -> Option<&'static str> {
    if backend.address.port == 0 {
        return Some("has no port");
    }
    let address = backend.address.literal()?;
    if !is_a_server(address.ip()) {
        Some("is no server's address")
    } else if admin.is_at(address) {
        Some("is where `admin` listens")
    } else {
        None
    }
}

fn is_a_server(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// The first few, and how many there are beside.
pub(super) fn summary(mut troubles: Vec<String>) -> Option<String> {
    const SHOWN: usize = 3;
    if troubles.is_empty() {
        return None;
    }
    let more = troubles.len().saturating_sub(SHOWN);
    troubles.truncate(SHOWN);
    let shown = troubles.join("; ");
    Some(if more == 0 { shown } else { format!("{shown}; and {more} more") })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SourceAnswer, accepted};
    use crate::config::{Admin, BackendConfig};

    fn backend(name: &str, address: &str) -> BackendConfig {
        BackendConfig { name: name.to_owned(), address: address.parse().unwrap(), weight: 1 }
    }

    fn answer(backends: Vec<BackendConfig>) -> SourceAnswer {
        SourceAnswer { backends, troubles: Vec::new(), holds: Duration::from_secs(1) }
    }

    #[test]
    fn an_answer_is_sorted_and_has_everybody_once() {
        let given = [("b", "10.0.0.2:1"), ("a", "10.0.0.1:1"), ("c", "10.0.0.1:1"), ("b", "h:1")];
        let given = given.map(|(name, address)| backend(name, address)).to_vec();
        let (backends, trouble) = accepted(answer(given), &Admin::default()).unwrap();
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(trouble.unwrap(), "10.0.0.1:1 is there twice; two backends are named b");
    }

    #[test]
    fn what_can_be_no_backend_is_left_out() {
        let admin = Admin { metrics: "127.0.0.1:9090".parse().ok(), ..Admin::default() };
        let lies = ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1", "127.0.0.1:9090"];
        let mut given: Vec<BackendConfig> = lies.iter().map(|lie| backend(lie, lie)).collect();
        given.push(BackendConfig {
            name: "x".to_owned(),
            address: crate::config::Address { host: "10.0.0.1".to_owned(), port: 0 },
            weight: 1,
        });
        let all = accepted(answer(given.clone()), &admin).unwrap_err();
        assert!(all.ends_with("and 3 more"), "{all}");
        given.push(backend("good", "10.0.0.1:1"));
        let (backends, trouble) = accepted(answer(given), &admin).unwrap();
        assert_eq!(backends, [backend("good", "10.0.0.1:1")]);
        assert!(trouble.is_some());
        assert!(accepted(answer(Vec::new()), &admin).is_err());
    }

    #[test]
    fn of_many_troubles_the_first_are_told() {
        let troubles = (0..1024).map(|n| format!("host-{n} has no address")).collect();
        let answer = SourceAnswer { troubles, ..answer(vec![backend("a", "10.0.0.1:1")]) };
        let (_, trouble) = accepted(answer, &Admin::default()).unwrap();
        let trouble = trouble.unwrap();
        assert!(trouble.starts_with("host-0 has no address; host-1 "), "{trouble}");
        assert!(trouble.ends_with("; and 1021 more"), "{trouble}");
    }

    #[test]
    fn of_too_many_the_same_ones_are_taken_in_any_order() {
        let all = |range: std::ops::Range<u32>| -> Vec<BackendConfig> {
            range
                .map(|n| format!("10.0.{}.{}:1", n >> 8, n & 255))
                .map(|a| backend(&a, &a))
                .collect()
        };
        let (one, trouble) = accepted(answer(all(0..10_000)), &Admin::default()).unwrap();
        let turned = all(0..10_000).into_iter().rev().collect();
        let (other, _) = accepted(answer(turned), &Admin::default()).unwrap();
        assert_eq!(one.len(), 1024);
        assert_eq!(one, other);
        assert_eq!(trouble.unwrap(), "1024 of 10000 backends are taken");
    }
}
