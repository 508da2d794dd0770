//! Warnings about a valid configuration that is probably wrong. `check`, a start and a reload report them.
//!
//! A pure function of the configuration and of facts of the machine ([`Environment`]).

mod cookies;
mod listeners;
mod routes;
mod sessions;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    Certificate, CertificateSource, Config, HostPattern, ListenerConfig, ListenerProtocol,
    PoolConfig, RouteConfig,
};

/// A certificate is reported this long before it expires, or a third of its lifetime if that is shorter.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// Longest silence of a healthy Engine.IO session: `pingInterval` is 25 s by default, and a ping may be late.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// Time after which a Socket.IO client gives up a connection attempt.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Ends of the paths of keys that name files with secrets.
const SECRETS: [&str; 4] = [".key", "cookie_key.file", "ticket_keys.file", "token.file"];

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// File and line.
    pub at: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl fmt::Display for Warning {
    /// One line, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.at, self.message, self.help)
    }
}

/// Facts of the machine.
pub struct Environment<'e> {
    /// The current time.
    pub now: SystemTime,
    /// Whether users other than a file's owner and group can read it.
    pub readable_by_others: &'e dyn Fn(&Path) -> bool,
    /// Names of backends that do not resolve, with the reason.
    pub unresolved: &'e [(String, String)],
    /// The systemd unit that runs this file, and its stop timeout.
    pub stop_timeout: Option<(PathBuf, Duration)>,
}

/// Every warning, in the order of the reference.
pub fn all(config: &Config, environment: &Environment<'_>) -> Vec<Warning> {
    let mut found = WarningCollector { config, warnings: Vec::new() };
    for listener in &config.listeners {
        certificates(&mut found, listener, environment.now);
    }
    hosts(&mut found);
    listeners::listeners(&mut found);
    routes::routes(&mut found);
    cookies::cookies(&mut found);
    for pool in &config.pools {
        self::pool(&mut found, pool);
        unresolved(&mut found, pool, environment);
        durations(&mut found, pool);
        sessions::sessions(&mut found, pool);
    }
    for (path, file) in config.places.files(&SECRETS) {
        if (environment.readable_by_others)(&file) {
            let message = format!("every user can read {}, which holds a secret", file.display());
            found.add(path, message, format!("run `chmod 600 {}`", file.display()));
        }
    }
    drain(&mut found, environment);
    found.warnings
}

/// The warnings so far.
struct WarningCollector<'c> {
    config: &'c Config,
    warnings: Vec<Warning>,
}

impl WarningCollector<'_> {
    fn add(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        let at = self.config.places.at(path);
        self.warnings.push(Warning { at, message: message.into(), help: help.into() });
    }
}

fn given(listener: &ListenerConfig) -> &[Certificate] {
    match listener.protocol.tls().map(|tls| &tls.certificates) {
        Some(CertificateSource::Configured(certificates)) => certificates,
        _ => &[],
    }
}

/// Warns of expired certificates and of those that expire soon.
fn certificates(found: &mut WarningCollector<'_>, listener: &ListenerConfig, now: SystemTime) {
    for (index, certificate) in given(listener).iter().enumerate() {
        let path = format!("listeners.{}.certificates[{index}]", listener.name);
        let names = certificate.names.join(", ");
        let renew = "renew it; Moorline loads the new file by itself";
        if let Some((from, until)) = certificate.validity() {
            let life = until.duration_since(from).unwrap_or_default();
            match until.duration_since(now) {
                _ if from > now => {
                    let message = format!("the certificate for {names} is not valid yet");
                    found.add(&path, message, "check the clock of this machine");
                }
                Err(_) => {
                    let date = humantime::format_rfc3339_seconds(until);
                    let message = format!("the certificate for {names} expired on {date}");
                    found.add(&path, message, renew);
                }
                Ok(left) if left < SOON.min(life / 3) => {
                    let message = format!("the certificate for {names} expires in {}", days(left));
                    found.add(&path, message, renew);
                }
                Ok(_) => {}
            }
        }
    }
}

fn days(left: Duration) -> String {
    match left.as_secs() / 86_400 {
        0 => format!("{} hours", left.as_secs() / 3_600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Warns of certificates that no route needs, and of routes without a certificate.
fn hosts(found: &mut WarningCollector<'_>) {
    let config = found.config;
    let https =
        |listener: &&ListenerConfig| matches!(listener.protocol, ListenerProtocol::Https(_));
    let follows = |route: &RouteConfig, listener: &ListenerConfig| {
        route.listeners.is_empty() || route.listeners.contains(&listener.name)
    };
    for listener in config.listeners.iter().filter(https) {
        let routes: Vec<&RouteConfig> =
            config.routes.iter().filter(|r| follows(r, listener)).collect();
        if routes.is_empty() || routes.iter().any(|route| route.host == HostPattern::Any) {
            continue;
        }
        for (index, certificate) in given(listener).iter().enumerate() {
            let used = routes.iter().any(|route| covers(&certificate.names, &route.host));
            if !used && !certificate.names.is_empty() {
                let path = format!("listeners.{}.certificates[{index}]", listener.name);
                let names = certificate.names.join(", ");
                let message = format!("the certificate for {names} covers the host of no route");
                let help = "add a route for its names, or use the certificate of the routes' hosts";
                found.add(&path, message, help);
            }
        }
    }
    let plain = |listener: &ListenerConfig| {
        listener.protocol == ListenerProtocol::Http && listener.redirect.is_none()
    };
    for (index, route) in config.routes.iter().enumerate() {
        let mut listeners = config.listeners.iter().filter(|listener| follows(route, listener));
        let mut secure =
            config.listeners.iter().filter(https).filter(|l| follows(route, l)).peekable();
        if secure.peek().is_none() || listeners.any(plain) || route.host == HostPattern::Any {
            continue;
        }
        let covered = |listener: &ListenerConfig| match listener.protocol.acme() {
            Some(terms) => covers(&terms.domains, &route.host),
            None => given(listener).iter().any(|c| covers(&c.names, &route.host)),
        };
        if !secure.any(covered) {
            let message = format!("no certificate covers the host of the route {route}");
            let help = "browsers refuse the connection: add a certificate for this host";
            found.add(&format!("routes[{index}]"), message, help);
        }
    }
}

/// Whether a name of a certificate covers a host of a route.
fn covers(names: &[String], host: &HostPattern) -> bool {
    names.iter().any(|name| match (name.strip_prefix("*."), host) {
        (_, HostPattern::Any) => true,
        (None, host) => host.covers(name),
        (Some(suffix), HostPattern::Exact(host)) => {
            host.split_once('.').is_some_and(|(_, rest)| rest == suffix)
        }
        (Some(suffix), HostPattern::Wildcard(of)) => {
            suffix == of || suffix.strip_suffix(of.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
    })
}

/// Warns of a pool without use, and of backend certificates that are not verified.
fn pool(found: &mut WarningCollector<'_>, pool: &PoolConfig) {
    let path = format!("pools.{}", pool.name);
    let config = found.config;
    let is_used = config.routes.iter().any(|route| route.uses(&pool.name))
        || config.listeners.iter().any(|listener| {
            let named = listener.pool.as_ref() == Some(&pool.name);
            named || listener.passthrough.iter().any(|rule| rule.pool == pool.name)
        });
    if !is_used {
        let message = format!("no route and no listener uses the pool {}", pool.name);
        let help = format!("add `[[routes]]` with `pool = \"{}\"`, or remove the pool", pool.name);
        found.add(&path, message, help);
    }
    if pool.tls.as_ref().is_some_and(|tls| !tls.verify) {
        let message = format!("backend certificates of the pool {} are not verified", pool.name);
        let help = "set `ca` to the authority of the backends and remove `verify = false`";
        found.add(&format!("{path}.tls.verify"), message, help);
    }
}

/// Warns of backend names that do not resolve.
fn unresolved(found: &mut WarningCollector<'_>, pool: &PoolConfig, environment: &Environment<'_>) {
    for (index, backend) in pool.backends.iter().enumerate() {
        let why = environment.unresolved.iter().find(|(name, _)| *name == backend.address.host);
        if let Some((name, why)) = why {
            let message = format!(
                "the name {name} of backend {}/{} does not resolve: {why}",
                pool.name, backend.name
            );
            let help =
                format!("correct the name, or check the resolver with `getent hosts {name}`");
            found.add(&format!("pools.{}.backends[{index}]", pool.name), message, help);
        }
    }
}

/// Warns of durations that close healthy connections or exceed the limits of clients.
fn durations(found: &mut WarningCollector<'_>, pool: &PoolConfig) {
    let path = format!("pools.{}", pool.name);
    let idle = pool.timeouts.tunnel_idle.filter(|idle| *idle < LONGEST_SILENCE);
    if let Some(idle) = idle.filter(|_| pool.sticky.engine_io) {
        let message = format!(
            "`tunnel_idle` of {} closes healthy Socket.IO connections: they are silent for up to 25s \
             (pingInterval)",
            humantime::format_duration(idle)
        );
        let help = "remove it, or set it above pingInterval + pingTimeout, 45s by default";
        found.add(&format!("{path}.timeouts.tunnel_idle"), message, help);
    }
    if pool.timeouts.connect >= CLIENT_TIMEOUT {
        let message = format!(
            "`connect` of {} is longer than a Socket.IO client waits for its whole connection, 20s",
            humantime::format_duration(pool.timeouts.connect)
        );
        found.add(
            &format!("{path}.timeouts.connect"),
            message,
            "use a few seconds, for example \"2s\"",
        );
    }
    if pool.max_connection_age.is_some_and(|age| age < pool.drain.within) {
        let message = format!(
            "`max_connection_age` is shorter than `drain`, {}: connections end by age before the drain closes \
             them",
            humantime::format_duration(pool.drain.within)
        );
        found.add(
            &format!("{path}.max_connection_age"),
            message,
            "use a longer age, or a shorter `drain`",
        );
    }
}

/// Warns if the drain of the process is longer than systemd's stop timeout.
fn drain(found: &mut WarningCollector<'_>, environment: &Environment<'_>) {
    if found.config.drain.within.is_zero() {
        let message = "`drain` is zero: every connection is cut when the process stops";
        found.add("drain", message, "use the time that clients need to move, for example \"30s\"");
    }
    let Some((unit, limit)) = &environment.stop_timeout else { return };
    let within = found.config.drain.within;
    if within >= *limit {
        let message = format!(
            "`drain` of {} is not shorter than TimeoutStopSec={} of {}: systemd kills the process before the \
             drain ends",
            humantime::format_duration(within),
            humantime::format_duration(*limit),
            unit.display()
        );
        let seconds = (within + Duration::from_secs(15)).as_secs();
        found.add("drain", message, format!("set TimeoutStopSec={seconds}s in the unit"));
    }
}
