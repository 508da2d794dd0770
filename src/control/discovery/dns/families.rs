//! The addresses of one name in both families, IPv4 and IPv6. The lookup in one family may fail.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hickory_resolver::{TokioResolver, proto::rr::RecordType};
use tokio::{select, time::timeout};

use super::{super::error::DnsLookupError, least_ttl, look_up, own_records};

/// How long to wait for the second family's answer after the first family has addresses.
const SECOND_FAMILY: Duration = Duration::from_secs(1);

/// The same wait after one lookup has timed out: the Resolution Delay of RFC 8305 §8.
const SILENT_FAMILY: Duration = Duration::from_millis(50);

/// Addresses of one name, and how long they are valid.
pub(super) struct ResolvedAddresses {
    pub(super) ips: BTreeSet<IpAddr>,
    /// In seconds.
    pub(super) ttl: u32,
    /// The family whose lookup failed, and why. The other family has addresses.
    failed: Option<(RecordType, DnsLookupError)>,
}

/// How long a group of lookups waits for the second family.
#[derive(Default)]
pub(super) struct LookupPace {
    /// Whether a lookup has timed out.
    silent: AtomicBool,
}

/// Addresses of one family; empty if the name has none.
struct FamilyAnswer {
    ips: BTreeSet<IpAddr>,
    /// In seconds.
    ttl: u32,
}

impl ResolvedAddresses {
    /// Whether the lookup in the family of `ip` failed.
    pub(super) fn failed_for(&self, ip: &IpAddr) -> bool {
        let family = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        self.failed.as_ref().is_some_and(|(failed, _)| *failed == family)
    }

    /// Describes the failed lookup for the log.
    pub(super) fn warning(&self) -> Option<String> {
        let (failed, reason) = self.failed.as_ref()?;
        let used = if *failed == RecordType::A { RecordType::AAAA } else { RecordType::A };
        Some(format!("the {failed} lookup failed ({reason}); using the {used} records"))
    }
}

/// Looks up a name in both families at the same time.
///
/// # Errors
/// The name has no address, as far as the lookups succeeded.
pub(super) async fn addresses(
    resolver: &TokioResolver,
    name: &str,
    pace: &LookupPace,
) -> Result<ResolvedAddresses, DnsLookupError> {
    let mut v4 = Box::pin(family(resolver, name, RecordType::A));
    let mut v6 = Box::pin(family(resolver, name, RecordType::AAAA));
    let (v4, v6) = select! {
        first = &mut v4 => {
            let second = pace.second(&first, v6).await;
            (first, second)
        }
        first = &mut v6 => {
            let second = pace.second(&first, v4).await;
            (second, first)
        }
    };
    let found = match (v4, v6) {
        (Ok(v4), Ok(v6)) => v4.and(v6),
        (Ok(v4), Err(reason)) => v4.without(RecordType::AAAA, reason)?,
        (Err(reason), Ok(v6)) => v6.without(RecordType::A, reason)?,
        (Err(v4), Err(v6)) if v4 == v6 => return Err(v4),
        (Err(v4), Err(v6)) => {
            return Err(DnsLookupError::BothFamilies(Box::new(v4), Box::new(v6)));
        }
    };
    match found.ips.is_empty() {
        true => Err(DnsLookupError::NoAddress(name.trim_end_matches('.').to_owned())),
        false => Ok(found),
    }
}

impl LookupPace {
    /// Waits for the second family, but not for long if the first has addresses.
    async fn second(
        &self,
        first: &Result<FamilyAnswer, DnsLookupError>,
        second: impl Future<Output = Result<FamilyAnswer, DnsLookupError>>,
    ) -> Result<FamilyAnswer, DnsLookupError> {
        if !first.as_ref().is_ok_and(|family| !family.ips.is_empty()) {
            return second.await;
        }
        let wait = match self.silent.load(Ordering::Relaxed) {
            true => SILENT_FAMILY,
            false => SECOND_FAMILY,
        };
        timeout(wait, second).await.unwrap_or_else(|_| {
            self.silent.store(true, Ordering::Relaxed);
            Err(DnsLookupError::Timeout)
        })
    }
}

impl FamilyAnswer {
    fn and(mut self, other: Self) -> ResolvedAddresses {
        self.ips.extend(other.ips);
        ResolvedAddresses { ips: self.ips, ttl: self.ttl.min(other.ttl), failed: None }
    }

    /// Returns the addresses of this family. The lookup in the `failed` family failed; without any address
    /// its `reason` is the error.
    fn without(
        self,
        failed: RecordType,
        reason: DnsLookupError,
    ) -> Result<ResolvedAddresses, DnsLookupError> {
        match self.ips.is_empty() {
            true => Err(reason),
            false => {
                let failed = Some((failed, reason));
                Ok(ResolvedAddresses { ips: self.ips, ttl: self.ttl, failed })
            }
        }
    }
}

async fn family(
    resolver: &TokioResolver,
    name: &str,
    records: RecordType,
) -> Result<FamilyAnswer, DnsLookupError> {
    let mut family = FamilyAnswer { ips: BTreeSet::new(), ttl: u32::MAX };
    if let Some(lookup) = look_up(resolver, name, records).await? {
        family.ttl = least_ttl(lookup.answers());
        let own = own_records(&lookup).filter_map(|record| record.data.ip_addr());
        family.ips.extend(own.map(|ip| ip.to_canonical()));
    }
    Ok(family)
}
