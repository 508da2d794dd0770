//! Pools that overwrite each other's cookie.
//!
//! A browser keeps one cookie per name and host, whatever the path and the port. If two pools of one host
//! have the same cookie name, a client changes its backend each time it changes the pool.

use super::{
    super::{Config, HostPattern, PoolConfig},
    WarningCollector,
};

/// Warns of pools of one host that have the same cookie name.
pub(super) fn cookies(found: &mut WarningCollector<'_>) {
    let config = found.config;
    for (pool, other) in clashes(config) {
        let name = pool.sticky.cookie.as_ref().map_or("", |cookie| &cookie.name);
        let message = format!(
            "the pools `{}` and `{}` have the same cookie name `{name}`, and one host leads to both: \
             each overwrites the cookie of the other",
            other.name, pool.name
        );
        let help = "give each pool a different name, or remove `name`";
        found.add(&format!("pools.{}.sticky.cookie.name", pool.name), message, help);
    }
}

/// Each pool that clashes with an earlier one, with that earlier pool.
fn clashes(config: &Config) -> Vec<(&PoolConfig, &PoolConfig)> {
    let name = |pool: &PoolConfig| pool.sticky.cookie.as_ref().map(|cookie| cookie.name.clone());
    let mut clashes = Vec::new();
    for (at, pool) in config.pools.iter().enumerate() {
        let Some(ours) = name(pool) else { continue };
        let clash = |other: &&PoolConfig| {
            name(other).as_ref() == Some(&ours) && share_a_host(config, &pool.name, &other.name)
        };
        clashes.extend(config.pools[..at].iter().find(clash).map(|other| (pool, other)));
    }
    clashes
}

fn share_a_host(config: &Config, one: &str, other: &str) -> bool {
    hosts(config, one).any(|host| hosts(config, other).any(|another| meet(host, another)))
}

fn hosts<'c>(config: &'c Config, pool: &'c str) -> impl Iterator<Item = &'c HostPattern> {
    config.routes.iter().filter(move |route| route.leads_to(pool)).map(|route| &route.host)
}

/// Whether some host is covered by both patterns.
fn meet(one: &HostPattern, other: &HostPattern) -> bool {
    match (one, other) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(name), pattern) | (pattern, HostPattern::Exact(name)) => {
            pattern.covers(name)
        }
        (HostPattern::Wildcard(one), HostPattern::Wildcard(other)) => {
            let within = |long: &str, short: &str| {
                long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            within(one, other) || within(other, one)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::super::check, *};

    /// Clashes of two pools with these cookies and hosts.
    fn clash(cookies: [&str; 2], hosts: [&str; 2]) -> bool {
        let mut text = "listeners.web.bind = \"127.0.0.1:0\"\n".to_owned();
        for (pool, (cookie, host)) in ["a", "b"].iter().zip(cookies.iter().zip(hosts)) {
            text += &format!(
                "[[routes]]\nhost = \"{host}\"\npath = \"/{pool}\"\npool = \"{pool}\"\n\
                 [pools.{pool}]\nbackends = [\"127.0.0.1:1\"]\nsticky = {{ cookie = {cookie} }}\n"
            );
        }
        let config = check::text(&text, Path::new("m.toml")).unwrap();
        let found = clashes(&config);
        assert!(found.iter().all(|(pool, first)| (&*pool.name, &*first.name) == ("b", "a")));
        !found.is_empty()
    }

    #[test]
    fn pools_of_one_host_clash_if_their_cookies_have_the_same_name() {
        let (lb, other) = ("{ name = \"lb\" }", "{ name = \"LB\" }");
        for hosts in [
            ["x.test", "x.test"],
            ["*.x.test", "a.b.x.test"],
            ["a.x.test", "*.x.test"],
            ["*.x.test", "*.a.x.test"],
        ] {
            assert!(clash([lb, lb], hosts), "{hosts:?}");
            assert!(!clash([lb, other], hosts), "names of cookies have a case");
            assert!(!clash(["true", "true"], hosts), "default names differ");
            assert!(!clash([lb, "false"], hosts));
            assert!(clash(["true", "{ name = \"moorline-a\" }"], hosts));
        }
        for hosts in [["x.test", "y.test"], ["*.x.test", "x.test"], ["*.x.test", "*.ax.test"]] {
            assert!(!clash([lb, lb], hosts), "{hosts:?}");
        }
    }
}
