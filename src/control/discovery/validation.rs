//! Validation of a source's answer. Pure.

use std::{collections::HashSet, net::IpAddr};

use super::{SourceAnswer, error::SourceError};
use crate::config::{Admin, BackendConfig};

/// Maximum number of backends that a source may add to one pool.
const MOST: usize = 1024;

/// Returns the usable backends in a fixed order, each name and each address once, and what is not used.
///
/// # Errors
/// The answer has no usable backend.
pub(super) fn validate(
    answer: SourceAnswer,
    admin: &Admin,
) -> Result<(Vec<BackendConfig>, Option<String>), SourceError> {
    let mut warnings = answer.warnings;
    let mut backends = answer.backends;
    // Sources rotate their answers. The order decides which backends of a too long answer are used.
    backends.sort_by_cached_key(|backend| (backend.address.to_string(), backend.name.clone()));
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    backends.retain(|backend| match rejection(backend, admin) {
        Some(reason) => {
            warnings.push(format!("{} {reason}", backend.address));
            false
        }
        None if !addresses.insert(backend.address.clone()) => {
            warnings.push(format!("{} is listed twice", backend.address));
            false
        }
        None if !names.insert(backend.name.clone()) => {
            warnings.push(format!("two backends are named {}", backend.name));
            false
        }
        None => true,
    });
    if backends.len() > MOST {
        warnings.push(format!("only {} of {} backends are used", MOST, backends.len()));
        backends.truncate(MOST);
    }
    let warning = summary(warnings);
    if backends.is_empty() {
        return Err(warning.map_or(SourceError::Empty, SourceError::Unusable));
    }
    Ok((backends, warning))
}

/// Returns why an address cannot be a backend.
fn rejection(backend: &BackendConfig, admin: &Admin) -> Option<&'static str> {
    // The program that gives the addresses may not have access to the files of this machine.
    if backend.address.unix_path().is_some() {
        return Some("is a Unix socket, which only the configuration can name");
    }
    if backend.address.port == 0 {
        return Some("has no port");
    }
    let address = backend.address.literal()?;
    if !is_unicast(address.ip()) {
        Some("is not the address of a server")
    } else if admin.is_at(address) {
        Some("is an address of `admin`")
    } else {
        None
    }
}

fn is_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// Joins the first warnings and adds how many more there are; `None` if there are none.
pub(super) fn summary(mut warnings: Vec<String>) -> Option<String> {
    const SHOWN: usize = 3;
    if warnings.is_empty() {
        return None;
    }
    let more = warnings.len().saturating_sub(SHOWN);
    warnings.truncate(SHOWN);
    let shown = warnings.join("; ");
    Some(if more == 0 { shown } else { format!("{shown}; and {more} more") })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SourceAnswer, validate};
    use crate::{
        config::{Admin, BackendConfig},
        control::discovery::error::SourceError,
    };

    fn backend(name: &str, address: &str) -> BackendConfig {
        BackendConfig {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            weight: 1,
            backup: false,
        }
    }

    fn answer(backends: Vec<BackendConfig>) -> SourceAnswer {
        SourceAnswer { backends, warnings: Vec::new(), ttl: Duration::from_secs(1) }
    }

    #[test]
    fn answer_is_sorted_and_without_duplicates() {
        let given = [("b", "10.0.0.2:1"), ("a", "10.0.0.1:1"), ("c", "10.0.0.1:1"), ("b", "h:1")];
        let given = given.map(|(name, address)| backend(name, address)).to_vec();
        let (backends, warning) = validate(answer(given), &Admin::default()).unwrap();
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(warning.unwrap(), "10.0.0.1:1 is listed twice; two backends are named b");
    }

    #[test]
    fn addresses_that_cannot_be_backends_are_removed() {
        let admin = Admin { metrics: "127.0.0.1:9090".parse().ok(), ..Admin::default() };
        let wrong = [
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "127.0.0.1:9090",
            "unix:/run/docker.sock",
        ];
        let mut given: Vec<BackendConfig> = wrong.iter().map(|text| backend(text, text)).collect();
        given.push(BackendConfig {
            name: "x".to_owned(),
            address: crate::config::Address { host: "10.0.0.1".to_owned(), port: 0 },
            weight: 1,
            backup: false,
        });
        let all = validate(answer(given.clone()), &admin).unwrap_err().to_string();
        assert!(all.ends_with("and 4 more"), "{all}");
        given.push(backend("good", "10.0.0.1:1"));
        let (backends, warning) = validate(answer(given), &admin).unwrap();
        assert_eq!(backends, [backend("good", "10.0.0.1:1")]);
        assert!(warning.is_some());
        assert_eq!(validate(answer(Vec::new()), &admin), Err(SourceError::Empty));
    }

    #[test]
    fn first_warnings_are_shown_and_the_others_counted() {
        let warnings = (0..1024).map(|n| format!("host-{n} has no address")).collect();
        let answer = SourceAnswer { warnings, ..answer(vec![backend("a", "10.0.0.1:1")]) };
        let (_, warning) = validate(answer, &Admin::default()).unwrap();
        let warning = warning.unwrap();
        assert!(warning.starts_with("host-0 has no address; host-1 "), "{warning}");
        assert!(warning.ends_with("; and 1021 more"), "{warning}");
    }

    #[test]
    fn choice_from_a_long_answer_does_not_depend_on_its_order() {
        let all = |range: std::ops::Range<u32>| -> Vec<BackendConfig> {
            range
                .map(|n| format!("10.0.{}.{}:1", n >> 8, n & 255))
                .map(|a| backend(&a, &a))
                .collect()
        };
        let (backends, warning) = validate(answer(all(0..10_000)), &Admin::default()).unwrap();
        let reversed = all(0..10_000).into_iter().rev().collect();
        let (from_reversed, _) = validate(answer(reversed), &Admin::default()).unwrap();
        assert_eq!(backends.len(), 1024);
        assert_eq!(backends, from_reversed);
        assert_eq!(warning.unwrap(), "only 1024 of 10000 backends are used");
    }
}
