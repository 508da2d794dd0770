//! Whether what others have signed is of today.

use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::{
    asn1_rs::FromDer as _, revocation_list::CertificateRevocationList, time::ASN1Time,
};

use crate::config::staple;

/// How far this machine's clock may be behind that of who has signed: a certificate is often put to use
/// in the minute that it was made.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Why a certificate with these dates is not valid now, in words that follow its name; `None`: it is.
pub fn lapsed((from, until): (SystemTime, SystemTime)) -> Option<String> {
    match SystemTime::now() {
        now if now + SKEW < from => Some(format!("is not valid before {}", date(from))),
        // Dates have no fractions: it is valid to the end of the last second.
        now if now >= until + Duration::from_secs(1) => {
            Some(format!("has expired at {}", date(until)))
        }
        _ => None,
    }
}

/// Why a certificate is served without the OCSP response that it was given; `None`: it has none, or is
/// served with it.
pub fn unstapled(key: &CertifiedKey) -> Option<&'static str> {
    let response = key.ocsp.as_deref()?;
    let until = staple::until(response);
    match key.cert.first() {
        _ if staple::read(response).is_none() => Some("is not a successful one"),
        Some(leaf) if !staple::is_about(response, leaf) => Some("is about another certificate"),
        _ => until.filter(|until| *until < SystemTime::now()).map(|_| "is past its date"),
    }
}

/// How many of these lists were due to be replaced before now.
pub fn overdue(lists: &[CertificateRevocationListDer<'_>]) -> usize {
    let due = |list: &&CertificateRevocationListDer<'_>| {
        let read = CertificateRevocationList::from_der(list).ok();
        read.and_then(|(_, list)| list.next_update()).is_some_and(|next| seconds(next) < now())
    };
    lists.iter().filter(due).count()
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn seconds(time: ASN1Time) -> i64 {
    time.timestamp()
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_looked_at() {
        let year = Duration::from_secs(365 * 24 * 3600);
        let now = SystemTime::now();
        assert_eq!(lapsed((now - year, now + year)), None);
        let then = SystemTime::UNIX_EPOCH + 50 * year;
        let expired = lapsed((SystemTime::UNIX_EPOCH, then)).unwrap();
        assert_eq!(expired, "has expired at 2019-12-20T00:00:00Z");
        let then = SystemTime::UNIX_EPOCH + 1000 * year;
        let early = lapsed((then, then + year)).unwrap();
        assert_eq!(early, "is not valid before 2969-05-03T00:00:00Z");
        let soon = |seconds| lapsed((now + Duration::from_secs(seconds), now + year));
        assert_eq!(soon(200), None, "clocks differ a little");
        assert!(soon(500).is_some());
    }
}
