//! The addresses of one name in both families, IPv4 and IPv6, either of which may fail.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hickory_resolver::{TokioResolver, proto::rr::RecordType};
use tokio::{select, time::timeout};

use super::{least_ttl, look_up, own_records};

/// How long the second family's answer is waited for once the first has brought addresses.
const SECOND_FAMILY: Duration = Duration::from_secs(1);

/// The same, once a question of this round was not answered in that time: the Resolution Delay of
/// RFC 8305 §8.
const SILENT_FAMILY: Duration = Duration::from_millis(50);

/// Addresses of one name, and how long they are valid.
pub(super) struct ResolvedAddresses {
    pub(super) ips: BTreeSet<IpAddr>,
    /// In seconds.
    pub(super) ttl: u32,
    /// The family whose question failed, and why; the other family has brought addresses.
    failed: Option<(RecordType, String)>,
}

/// How patient the questions of one round are.
#[derive(Default)]
pub(super) struct LookupPace {
    /// A family's question was not answered.
    silent: AtomicBool,
}

/// What one family's question brings; none if the name has no address in it.
struct FamilyAnswer {
    ips: BTreeSet<IpAddr>,
    ttl: u32,
}

impl ResolvedAddresses {
    /// Whether an address belongs to the family that failed.
    pub(super) fn lacks(&self, ip: &IpAddr) -> bool {
        let family = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        self.failed.as_ref().is_some_and(|(failed, _)| *failed == family)
    }

    /// What the log says of the family that failed.
    pub(super) fn trouble(&self) -> Option<String> {
        let (failed, why) = self.failed.as_ref()?;
        let used = if *failed == RecordType::A { RecordType::AAAA } else { RecordType::A };
        Some(format!("the {failed} lookup failed ({why}); using the {used} records"))
    }
}

/// Looks a name up in both families at once.
///
/// # Errors
/// The name has no address in either family, or none in one and the other's question failed.
pub(super) async fn addresses(
    resolver: &TokioResolver,
    name: &str,
    pace: &LookupPace,
) -> Result<ResolvedAddresses, String> {
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
        (Ok(v4), Err(why)) => v4.without(RecordType::AAAA, why)?,
        (Err(why), Ok(v6)) => v6.without(RecordType::A, why)?,
        (Err(v4), Err(v6)) if v4 == v6 => return Err(v4),
        (Err(v4), Err(v6)) => return Err(format!("{v4}; {v6}")),
    };
    match found.ips.is_empty() {
        true => Err(format!("{} has no address", name.trim_end_matches('.'))),
        false => Ok(found),
    }
}

impl LookupPace {
    /// The answer to the second question, within a short time if the first has brought addresses.
    async fn second(
        &self,
        first: &Result<FamilyAnswer, String>,
        second: impl Future<Output = Result<FamilyAnswer, String>>,
    ) -> Result<FamilyAnswer, String> {
        if !first.as_ref().is_ok_and(|family| !family.ips.is_empty()) {
            return second.await;
        }
        let patience = match self.silent.load(Ordering::Relaxed) {
            true => SILENT_FAMILY,
            false => SECOND_FAMILY,
        };
        timeout(patience, second).await.unwrap_or_else(|_| {
            self.silent.store(true, Ordering::Relaxed);
            Err("no answer in time".to_owned())
        })
    }
}

impl FamilyAnswer {
    fn and(mut self, other: Self) -> ResolvedAddresses {
        self.ips.extend(other.ips);
        ResolvedAddresses { ips: self.ips, ttl: self.ttl.min(other.ttl), failed: None }
    }

    /// The addresses of this family alone, if there are any; the other's question failed.
    fn without(self, failed: RecordType, why: String) -> Result<ResolvedAddresses, String> {
        match self.ips.is_empty() {
            true => Err(why),
            false => {
                Ok(ResolvedAddresses { ips: self.ips, ttl: self.ttl, failed: Some((failed, why)) })
            }
        }
    }
}

async fn family(
    resolver: &TokioResolver,
    name: &str,
    records: RecordType,
) -> Result<FamilyAnswer, String> {
    let mut family = FamilyAnswer { ips: BTreeSet::new(), ttl: u32::MAX };
    if let Some(lookup) = look_up(resolver, name, records).await? {
        family.ttl = least_ttl(lookup.answers());
        let own = own_records(&lookup).filter_map(|record| record.data.ip_addr());
        family.ips.extend(own.map(|ip| ip.to_canonical()));
    }
    Ok(family)
}
