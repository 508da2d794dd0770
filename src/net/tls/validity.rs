//! Checks the dates of certificates, OCSP responses and revocation lists.

use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::{
    asn1_rs::FromDer as _, revocation_list::CertificateRevocationList, time::ASN1Time,
};

use crate::config::staple;

/// Tolerated clock difference to the issuer: certificates are often deployed in the minute they are issued.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Returns why a certificate with these dates is not valid now, as a predicate for a sentence; `None` if it is valid.
pub fn lapsed((from, until): (SystemTime, SystemTime)) -> Option<String> {
    match SystemTime::now() {
        now if now + SKEW < from => Some(format!("is not valid before {}", date(from))),
        // Dates have no fractions: the certificate is valid until the end of the last second.
        now if now >= until + Duration::from_secs(1) => Some(format!("expired on {}", date(until))),
        _ => None,
    }
}

/// Returns why a certificate is served without its OCSP response; `None` if it has no response or is served with
/// it.
pub fn unstapled(key: &CertifiedKey) -> Option<&'static str> {
    let response = key.ocsp.as_deref()?;
    let until = staple::until(response);
    match key.cert.first() {
        _ if staple::read(response).is_none() => Some("is not a successful response"),
        Some(leaf) if !staple::is_about(response, leaf) => Some("is about another certificate"),
        _ => until.filter(|until| *until < SystemTime::now()).map(|_| "has expired"),
    }
}

/// Counts the revocation lists whose update is overdue.
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
    fn validity_dates_are_checked_with_tolerance() {
        let year = Duration::from_secs(365 * 24 * 3600);
        let now = SystemTime::now();
        assert_eq!(lapsed((now - year, now + year)), None);
        let then = SystemTime::UNIX_EPOCH + 50 * year;
        let expired = lapsed((SystemTime::UNIX_EPOCH, then)).unwrap();
        assert_eq!(expired, "expired on 2019-12-20T00:00:00Z");
        let then = SystemTime::UNIX_EPOCH + 1000 * year;
        let early = lapsed((then, then + year)).unwrap();
        assert_eq!(early, "is not valid before 2969-05-03T00:00:00Z");
        let soon = |seconds| lapsed((now + Duration::from_secs(seconds), now + year));
        assert_eq!(soon(200), None, "small clock differences are tolerated");
        assert!(soon(500).is_some());
    }
}
