//! Whether what others have signed is of today.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::{
    asn1_rs::FromDer as _, certificate::X509Certificate,
    revocation_list::CertificateRevocationList, time::ASN1Time,
};

use crate::config::staple;

/// How far, in seconds, this machine's clock may be behind that of who has signed: a certificate is often
/// put to use in the minute that it was made.
const SKEW: i64 = 5 * 60;

/// Why a certificate is not valid now, in words that follow its name; `None`: it is, as far as its
/// dates say.
pub fn lapsed(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let (from, until) = (certificate.validity().not_before, certificate.validity().not_after);
    match now() {
        now if now + SKEW < seconds(from) => Some(format!("is not valid before {}", date(from))),
        now if now > seconds(until) => Some(format!("has expired at {}", date(until))),
        _ => None,
    }
}

/// Whether an OCSP response is past its own date; it is not handed on then.
pub fn outdated(response: &[u8]) -> bool {
    staple::until(response).is_some_and(|until| until < SystemTime::now())
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

fn date(time: ASN1Time) -> String {
    let since = Duration::from_secs(seconds(time).max(0).unsigned_abs());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn dates_are_looked_at() {
        let told = |from, until| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            (params.not_before, params.not_after) = (from, until);
            lapsed(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
        };
        let day = date_time_ymd;
        assert_eq!(told(day(2020, 1, 1), day(3000, 1, 1)), None);
        let expired = told(day(2020, 1, 1), day(2021, 2, 3)).unwrap();
        assert_eq!(expired, "has expired at 2021-02-03T00:00:00Z");
        let early = told(day(2999, 1, 1), day(3000, 1, 1)).unwrap();
        assert_eq!(early, "is not valid before 2999-01-01T00:00:00Z");
        let soon = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let now = now().unsigned_abs();
        assert_eq!(told(soon(now + 200), day(3000, 1, 1)), None, "clocks differ a little");
        assert!(told(soon(now + 500), day(3000, 1, 1)).is_some());
    }
}
