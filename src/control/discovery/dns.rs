//! Backends by a name: its A and AAAA records, or its SRV records and their targets' addresses.
//!
//! A backend found by address is named by it, one found by a service by its target and port. Each
//! question goes out afresh: how long an answer holds is for its records to say, within bounds.
//! If one address family fails, the addresses of the other are used, and those that the last good
//! answer had in the failed family stay.

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
use super::{SourceAnswer, validation::summary};
use crate::config::{Address, BackendConfig, Dns};

/// Deadline of one question and all that follow from it.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long one server has for one answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Most targets that are looked up for one service, and how many of them at once.
const MOST_TARGETS: usize = 1024;
const AT_ONCE: usize = 8;

/// Longest chain of aliases.
const LONGEST_CHAIN: usize = 8;

/// Which records name the backends.
pub(super) enum RecordKind {
    /// A and AAAA.
    Addresses,
    /// SRV.
    Services,
}

/// A name that is looked up.
pub(super) struct DnsSource {
    terms: Dns,
    records: RecordKind,
    /// The addresses of the name in the last good answer: a family that fails keeps them.
    last: BTreeSet<IpAddr>,
    /// The address of each target that the last good answer gave: one whose address cannot be had at
    /// the moment keeps it.
    targets: HashMap<String, IpAddr>,
}

impl DnsSource {
    /// `known` has the backends of the last good answer, where somebody else had that.
    pub(super) fn new(terms: Dns, records: RecordKind, known: &[BackendConfig]) -> Self {
        let target = |backend: &BackendConfig| {
            let (host, port) = backend.name.rsplit_once(':')?;
            let address =
                backend.address.literal().filter(|_| port.parse() == Ok(backend.address.port));
            Some((host.to_owned(), address?.ip()))
        };
        let ips = known.iter().filter_map(|backend| Some(backend.address.literal()?.ip()));
        let last = ips.collect();
        Self { terms, records, last, targets: known.iter().filter_map(target).collect() }
    }

    /// How long to wait after a failure, the first time.
    pub(super) fn retry(&self) -> Duration {
        self.terms.min_ttl
    }

    /// Looks the name up.
    ///
    /// # Errors
    /// No server answers, or the name has no such records.
    pub(super) async fn ask(&mut self) -> Result<SourceAnswer, String> {
        let server = self.terms.resolver;
        // The system's configuration is a file.
        let resolver = spawn_blocking(move || resolver(server)).await;
        let resolver = resolver.map_err(|error| error.to_string())??;
        let asked = async {
            match self.records {
                RecordKind::Addresses => self.addresses(&resolver).await,
                RecordKind::Services => self.services(&resolver).await,
            }
        };
        timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    async fn addresses(&mut self, resolver: &TokioResolver) -> Result<SourceAnswer, String> {
        let mut found = addresses(resolver, &self.terms.name, &LookupPace::default()).await?;
        let kept = self.last.iter().filter(|ip| found.lacks(ip)).copied().collect::<Vec<_>>();
        found.ips.extend(kept);
        self.last.clone_from(&found.ips);
        let backend = |ip: &IpAddr| {
            let address = Address { host: ip.to_string(), port: self.terms.port };
            BackendConfig { name: address.to_string(), address, weight: 1 }
        };
        let backends = found.ips.iter().map(backend).collect();
        let troubles = found.trouble().into_iter().collect();
        Ok(SourceAnswer { backends, troubles, holds: self.held(found.ttl) })
    }

    async fn services(&mut self, resolver: &TokioResolver) -> Result<SourceAnswer, String> {
        let name = &self.terms.name;
        let (lookup, mut ttl) = service_records(resolver, name).await?;
        let mut services = services(&lookup);
        let mut troubles = Vec::new();
        if services.len() > MOST_TARGETS {
            troubles.push(format!("{MOST_TARGETS} of {} SRV records are taken", services.len()));
            services = services.into_iter().take(MOST_TARGETS).collect();
        }
        let hosts: BTreeSet<String> = services.keys().map(|(host, _)| host.clone()).collect();
        for (host, found) in targets(resolver, hosts).await {
            match found {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    troubles.extend(found.trouble());
                    let stays = |ip: &&IpAddr| found.ips.contains(ip) || found.lacks(ip);
                    let before = self.targets.get(&host).filter(stays);
                    // Of several, the one in use stays for as long as the target has it.
                    if let Some(ip) = before.or(found.ips.first()).copied() {
                        self.targets.insert(host, ip);
                    }
                }
                // A target that has no answer is asked for again soon.
                Err(error) => {
                    ttl = 0;
                    troubles.push(error);
                }
            }
        }
        self.targets.retain(|known, _| services.keys().any(|(host, _)| host == known));
        let backends: Vec<BackendConfig> = services
            .iter()
            .filter_map(|((host, port), weight)| {
                let ip = self.targets.get(host)?;
                let address = Address { host: ip.to_string(), port: *port };
                Some(BackendConfig { name: format!("{host}:{port}"), address, weight: *weight })
            })
            .collect();
        if backends.is_empty() {
            return Err(summary(troubles).unwrap_or_else(|| format!("{name} names no server")));
        }
        Ok(SourceAnswer { backends, troubles, holds: self.held(ttl) })
    }

    fn held(&self, ttl: u32) -> Duration {
        Duration::from_secs(ttl.into()).clamp(self.terms.min_ttl, self.terms.max_ttl)
    }
}

/// A resolver that remembers nothing, for this server or those of the system.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let told = |error: NetError| format!("there is no resolver: {error}");
    let mut builder = match server {
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut one| {
                one.port = server.port();
                one
            });
            let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let provider = TokioRuntimeProvider::default();
            let mut builder = TokioResolver::builder_with_config(config, provider);
            *builder.options_mut() = ResolverOpts::default();
            builder
        }
        None => TokioResolver::builder_tokio().map_err(told)?,
    };
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    // Files on this machine name no records.
    options.use_hosts_file = ResolveHosts::Never;
    options.try_tcp_on_error = true;
    builder.build().map_err(told)
}

/// The addresses of several names, few at once; in the order of the names, whichever comes first.
async fn targets(
    resolver: &TokioResolver,
    hosts: BTreeSet<String>,
) -> BTreeMap<String, Result<ResolvedAddresses, String>> {
    let mut waiting = hosts.into_iter();
    let pace = Arc::new(LookupPace::default());
    let mut asked = JoinSet::new();
    let mut found = BTreeMap::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(host) = waiting.next()
        {
            let (resolver, pace) = (resolver.clone(), Arc::clone(&pace));
            asked.spawn(async move {
                // It is a whole name: no search domain is tried behind it.
                let addresses = addresses(&resolver, &format!("{host}."), &pace).await;
                (host, addresses)
            });
        }
        match asked.join_next().await {
            Some(Ok((host, addresses))) => drop(found.insert(host, addresses)),
            Some(Err(_)) => {}
            None => return found,
        }
    }
}

/// The SRV records of a name, or of the name that it is an alias for, and how long they hold.
///
/// # Errors
/// No server answers, or there are no such records.
async fn service_records(resolver: &TokioResolver, name: &str) -> Result<(Lookup, u32), String> {
    let (mut asked, mut ttl) = (name.to_owned(), u32::MAX);
    for _ in 0..LONGEST_CHAIN {
        let outcome = look_up(resolver, &asked, RecordType::SRV).await;
        if let Ok(Some(lookup)) = outcome {
            ttl = ttl.min(least_ttl(lookup.answers()));
            return Ok((lookup, ttl));
        }
        // The resolver takes the target of an SRV record behind an alias for one more alias, and
        // fails: the alias is followed here.
        let Some((target, holds)) = alias(resolver, &asked).await else {
            return outcome.and(Err(format!("{name} has no SRV records")));
        };
        (asked, ttl) = (target, ttl.min(holds));
    }
    Err(format!("{name} is behind more than {LONGEST_CHAIN} aliases"))
}

/// What a name is an alias for, and how long that holds.
async fn alias(resolver: &TokioResolver, name: &str) -> Option<(String, u32)> {
    let lookup = look_up(resolver, name, RecordType::CNAME).await.ok()??;
    lookup.answers().iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *lookup.query().name() => {
            Some((target.0.to_ascii(), record.ttl))
        }
        _ => None,
    })
}

/// One question; `None`: there are no such records.
async fn look_up(
    resolver: &TokioResolver,
    name: &str,
    records: RecordType,
) -> Result<Option<Lookup>, String> {
    match resolver.lookup(name, records).await {
        Ok(lookup) => Ok(Some(lookup)),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            use hickory_resolver::proto::op::ResponseCode;
            match none.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(None),
                code => Err(format!("the name server answers {code} for {name}")),
            }
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// The records of the name that was asked for, and of what it is an alias for. Others are lies.
fn own_records(lookup: &Lookup) -> impl Iterator<Item = &Record> {
    let mut names: Vec<&Name> = vec![lookup.query().name()];
    for _ in 0..LONGEST_CHAIN {
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

/// Weights by target and port, of the best priority (RFC 2782). A target `.` says that there is none.
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
        // Weight 0 means hardly ever, which is never nobody.
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
    fn targets_that_are_known_are_remembered() {
        let backend = |name: &str, address: &str| BackendConfig {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            weight: 1,
        };
        let known = [
            backend("one.test:80", "10.0.0.1:80"),
            backend("two.test:80", "[::1]:80"),
            backend("other.test:81", "10.0.0.3:80"),
            backend("a name", "10.0.0.4:80"),
        ];
        let terms = Dns {
            name: "_chat._tcp.test".to_owned(),
            port: 0,
            resolver: None,
            min_ttl: Duration::ZERO,
            max_ttl: Duration::ZERO,
        };
        let names = DnsSource::new(terms, RecordKind::Services, &known);
        let targets: BTreeMap<_, _> = names.targets.into_iter().collect();
        let expected = [("one.test", "10.0.0.1"), ("two.test", "::1")];
        let expected = expected.map(|(host, ip)| (host.to_owned(), ip.parse().unwrap()));
        assert_eq!(targets, BTreeMap::from(expected));
    }
}
