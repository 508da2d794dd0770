//! Backends from a DNS name: its A and AAAA records, or its SRV records and their targets' addresses.
//!
//! A backend from A or AAAA records is named after its address and port, one from SRV records after its
//! target and port. Nothing is cached. The TTL of the records, within `min_ttl` and `max_ttl`, is the
//! time until the next query. If the lookup of one address family fails, the addresses of the other are
//! used, together with those that the last good answer had in the failed family.

mod families;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, Record, RecordType},
};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use self::families::{LookupPace, ResolvedAddresses, addresses};
use super::{
    SourceAnswer,
    error::{DnsLookupError, SourceError},
    limits::MAX_ALIASES,
    validation::summary,
};
use crate::config::{Address, BackendConfig, Dns};

/// Timeout of a whole lookup: all queries for one name and its targets.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of one attempt at one name server, and the number of attempts.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Maximum number of targets of one service, and how many are resolved at the same time.
const MOST_TARGETS: usize = 1024;
const AT_ONCE: usize = 8;

/// The type of the records that list the backends.
pub(super) enum RecordKind {
    /// A and AAAA.
    Addresses,
    /// SRV.
    Services,
}

/// A DNS name, with its last good answer.
pub(super) struct DnsSource {
    config: Dns,
    records: RecordKind,
    /// The addresses of the name in the last good answer, used for a family whose lookup fails.
    last: BTreeSet<IpAddr>,
    /// The address of each SRV target in the last good answer, used if the target's lookup fails.
    targets: HashMap<String, IpAddr>,
}

impl DnsSource {
    /// `known` has the backends of the last good answer, from before this object was created.
    pub(super) fn new(config: Dns, records: RecordKind, known: &[BackendConfig]) -> Self {
        let target = |backend: &BackendConfig| {
            let (host, port) = backend.name.rsplit_once(':')?;
            let address =
                backend.address.literal().filter(|_| port.parse() == Ok(backend.address.port));
            Some((host.to_owned(), address?.ip()))
        };
        let ips = known.iter().filter_map(|backend| Some(backend.address.literal()?.ip()));
        let last = ips.collect();
        Self { config, records, last, targets: known.iter().filter_map(target).collect() }
    }

    /// Pause after the first failure.
    pub(super) fn retry(&self) -> Duration {
        self.config.min_ttl
    }

    /// Resolves the name.
    ///
    /// # Errors
    /// No name server answers, or the name has no such records.
    pub(super) async fn query(&mut self) -> Result<SourceAnswer, SourceError> {
        let server = self.config.resolver;
        // The resolver reads the system's configuration from a file.
        let resolver = spawn_blocking(move || resolver(server)).await;
        let resolver = resolver.map_err(|error| DnsLookupError::Resolver(error.to_string()))??;
        let lookup = async {
            match self.records {
                RecordKind::Addresses => self.addresses(&resolver).await,
                RecordKind::Services => self.services(&resolver).await,
            }
        };
        timeout(TIMEOUT, lookup).await.unwrap_or(Err(DnsLookupError::Timeout.into()))
    }

    async fn addresses(&mut self, resolver: &TokioResolver) -> Result<SourceAnswer, SourceError> {
        let mut found = addresses(resolver, &self.config.name, &LookupPace::default()).await?;
        let kept = self.last.iter().filter(|ip| found.failed_for(ip)).copied().collect::<Vec<_>>();
        found.ips.extend(kept);
        self.last.clone_from(&found.ips);
        let backend = |ip: &IpAddr| {
            let address = Address { host: ip.to_string(), port: self.config.port };
            BackendConfig { name: address.to_string(), address, weight: 1, backup: false }
        };
        let backends = found.ips.iter().map(backend).collect();
        let warnings = found.warning().into_iter().collect();
        Ok(SourceAnswer { backends, warnings, ttl: self.bounded(found.ttl) })
    }

    async fn services(&mut self, resolver: &TokioResolver) -> Result<SourceAnswer, SourceError> {
        let name = &self.config.name;
        let (lookup, mut ttl) = service_records(resolver, name).await?;
        let mut services = services(&lookup);
        let mut warnings = Vec::new();
        if services.len() > MOST_TARGETS {
            warnings
                .push(format!("only {MOST_TARGETS} of {} SRV records are used", services.len()));
            services = services.into_iter().take(MOST_TARGETS).collect();
        }
        let hosts: BTreeSet<String> = services.keys().map(|(host, _)| host.clone()).collect();
        for (host, found) in targets(resolver, hosts).await {
            match found {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    warnings.extend(found.warning());
                    let stays = |ip: &&IpAddr| found.ips.contains(ip) || found.failed_for(ip);
                    let before = self.targets.get(&host).filter(stays);
                    // If a target has several addresses, the one in use stays as long as it is listed.
                    if let Some(ip) = before.or(found.ips.first()).copied() {
                        self.targets.insert(host, ip);
                    }
                }
                // Query again soon after a target's lookup has failed.
                Err(error) => {
                    ttl = 0;
                    warnings.push(error.to_string());
                }
            }
        }
        self.targets.retain(|known, _| services.keys().any(|(host, _)| host == known));
        let backends: Vec<BackendConfig> = services
            .iter()
            .filter_map(|((host, port), weight)| {
                let ip = self.targets.get(host)?;
                let address = Address { host: ip.to_string(), port: *port };
                Some(BackendConfig {
                    name: format!("{host}:{port}"),
                    address,
                    weight: *weight,
                    backup: false,
                })
            })
            .collect();
        if backends.is_empty() {
            let none = || DnsLookupError::NoServer(name.clone()).into();
            return Err(summary(warnings).map_or_else(none, SourceError::Unusable));
        }
        Ok(SourceAnswer { backends, warnings, ttl: self.bounded(ttl) })
    }

    fn bounded(&self, ttl: u32) -> Duration {
        Duration::from_secs(ttl.into()).clamp(self.config.min_ttl, self.config.max_ttl)
    }
}

/// Builds a resolver without cache, for this name server or those of the system.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, DnsLookupError> {
    let failed = |error: NetError| DnsLookupError::Resolver(error.to_string());
    let mut builder = match server {
        Some(server) => {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut transport| {
                    transport.port = server.port();
                    transport
                });
            let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let provider = TokioRuntimeProvider::default();
            let mut builder = TokioResolver::builder_with_config(config, provider);
            *builder.options_mut() = ResolverOpts::default();
            builder
        }
        None => TokioResolver::builder_tokio().map_err(failed)?,
    };
    let options = builder.options_mut();
    options.timeout = ATTEMPT_TIMEOUT;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    // `/etc/hosts` has no TTL and no SRV records.
    options.use_hosts_file = ResolveHosts::Never;
    options.try_tcp_on_error = true;
    builder.build().map_err(failed)
}

/// Resolves several names, [`AT_ONCE`] at the same time.
async fn targets(
    resolver: &TokioResolver,
    hosts: BTreeSet<String>,
) -> BTreeMap<String, Result<ResolvedAddresses, DnsLookupError>> {
    let mut waiting = hosts.into_iter();
    let pace = Arc::new(LookupPace::default());
    let mut lookups = JoinSet::new();
    let mut found = BTreeMap::new();
    loop {
        while lookups.len() < AT_ONCE
            && let Some(host) = waiting.next()
        {
            let (resolver, pace) = (resolver.clone(), Arc::clone(&pace));
            lookups.spawn(async move {
                // The final dot makes the name absolute: no search domain is appended.
                let addresses = addresses(&resolver, &format!("{host}."), &pace).await;
                (host, addresses)
            });
        }
        match lookups.join_next().await {
            Some(Ok((host, addresses))) => drop(found.insert(host, addresses)),
            Some(Err(_)) => {}
            None => return found,
        }
    }
}

/// Looks up the SRV records of a name or of its alias; returns them and the lowest TTL in seconds.
///
/// # Errors
/// No name server answers, or there are no such records.
async fn service_records(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Lookup, u32), DnsLookupError> {
    let (mut alias, mut ttl) = (name.to_owned(), u32::MAX);
    for _ in 0..MAX_ALIASES {
        let outcome = look_up(resolver, &alias, RecordType::SRV).await;
        if let Ok(Some(lookup)) = outcome {
            ttl = ttl.min(least_ttl(lookup.answers()));
            return Ok((lookup, ttl));
        }
        // The resolver fails on SRV records behind a CNAME, because it takes the SRV target for another
        // alias. So the CNAME is resolved here.
        let Some((target, alias_ttl)) = canonical_name(resolver, &alias).await else {
            return outcome.and(Err(DnsLookupError::NoRecords(name.to_owned(), RecordType::SRV)));
        };
        (alias, ttl) = (target, ttl.min(alias_ttl));
    }
    Err(DnsLookupError::AliasChain(name.to_owned()))
}

/// Returns the target and the TTL of a name's CNAME record.
async fn canonical_name(resolver: &TokioResolver, name: &str) -> Option<(String, u32)> {
    let lookup = look_up(resolver, name, RecordType::CNAME).await.ok()??;
    lookup.answers().iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *lookup.query().name() => {
            Some((target.0.to_ascii(), record.ttl))
        }
        _ => None,
    })
}

/// Sends one query; `None`: there are no such records.
async fn look_up(
    resolver: &TokioResolver,
    name: &str,
    records: RecordType,
) -> Result<Option<Lookup>, DnsLookupError> {
    match resolver.lookup(name, records).await {
        Ok(lookup) => Ok(Some(lookup)),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            use hickory_resolver::proto::op::ResponseCode;
            match none.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(None),
                code => Err(DnsLookupError::ResponseCode {
                    name: name.to_owned(),
                    code: code.to_string(),
                }),
            }
        }
        Err(error) => {
            Err(DnsLookupError::Query { name: name.to_owned(), reason: error.to_string() })
        }
    }
}

/// Returns the records of the queried name and of its aliases. Records of other names are not trusted.
fn own_records(lookup: &Lookup) -> impl Iterator<Item = &Record> {
    let mut names: Vec<&Name> = vec![lookup.query().name()];
    for _ in 0..MAX_ALIASES {
        let alias = lookup.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) if names.last() == Some(&&record.name) => Some(&target.0),
            _ => None,
        });
        match alias {
            Some(name) if !names.contains(&name) => names.push(name),
            _ => break,
        }
    }
    lookup.answers().iter().filter(move |record| names.contains(&&record.name))
}

/// Returns the weights by target and port, of the best priority (RFC 2782). A target `.` means that the
/// service is not available.
fn services(lookup: &Lookup) -> BTreeMap<(String, u16), u32> {
    let records = || {
        own_records(lookup).filter_map(|record| match &record.data {
            RData::SRV(service) if !service.target.is_root() && service.port > 0 => Some(service),
            _ => None,
        })
    };
    let best = records().map(|service| service.priority).min();
    let mut services = BTreeMap::new();
    for service in records().filter(|service| Some(service.priority) == best) {
        let target = service.target.to_lowercase().to_ascii();
        let key = (target.trim_end_matches('.').to_owned(), service.port);
        // SRV weight 0 means a very small share, but not none.
        let weight = u32::from(service.weight).max(1);
        let known = services.entry(key).or_insert(weight);
        *known = weight.max(*known);
    }
    services
}

fn least_ttl(records: &[Record]) -> u32 {
    records.iter().map(|record| record.ttl).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_known_targets_are_kept() {
        let backend = |name: &str, address: &str| BackendConfig {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            weight: 1,
            backup: false,
        };
        let known = [
            backend("one.test:80", "10.0.0.1:80"),
            backend("two.test:80", "[::1]:80"),
            backend("other.test:81", "10.0.0.3:80"),
            backend("a name", "10.0.0.4:80"),
        ];
        let config = Dns {
            name: "_chat._tcp.test".to_owned(),
            port: 0,
            resolver: None,
            min_ttl: Duration::ZERO,
            max_ttl: Duration::ZERO,
        };
        let source = DnsSource::new(config, RecordKind::Services, &known);
        let targets: BTreeMap<_, _> = source.targets.into_iter().collect();
        let expected = [("one.test", "10.0.0.1"), ("two.test", "::1")];
        let expected = expected.map(|(host, ip)| (host.to_owned(), ip.parse().unwrap()));
        assert_eq!(targets, BTreeMap::from(expected));
    }
}
