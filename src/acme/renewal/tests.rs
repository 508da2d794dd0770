use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;
use crate::config::Acme;

fn new_certificate(folder: &std::path::Path) -> Arc<ManagedCertificate> {
    ManagedCertificate::load(Acme {
        directory: "https://ca.test/dir".to_owned(),
        email: None,
        domains: vec!["a.test".to_owned()],
        storage: folder.join("acme"),
        ca: None,
    })
}

/// A certificate that is valid between the beginnings of these years.
fn certificate(from: i32, to: i32) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
    Certificate::from_pem(pem.as_bytes(), pem.as_bytes(), "of a test").unwrap()
}

/// Runs the renewal for this time, with attempts of this outcome, and counts them.
async fn attempts(
    managed: &Arc<ManagedCertificate>,
    during: Duration,
    outcome: impl Fn(&ManagedCertificate) -> Outcome + Send + Sync + Copy + 'static,
) -> usize {
    let count = AtomicUsize::new(0);
    let attempt = |_, _| -> Attempt {
        count.fetch_add(1, Ordering::Relaxed);
        let managed = Arc::clone(managed);
        Box::pin(async move { outcome(&managed) })
    };
    let history = managed.open().await;
    let renewing = managed.renew(Backoff::default(), history, || false, attempt);
    assert!(tokio::time::timeout(during, renewing).await.is_err());
    count.into_inner()
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn certificate_that_is_due_when_issued_is_ordered_again_as_after_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [(2000, 2001), (2001, 2000)] {
        let managed = new_certificate(&folder.path().join(from.to_string()));
        let count = attempts(&managed, 50 * MINUTE, move |managed| {
            managed.install(certificate(from, to));
            Outcome::Done
        });
        // At 0, 1, 3, 7, 15 and 31 minutes, each wait spread by 10 %; the next comes after 56 minutes at least.
        assert_eq!(count.await, 6, "{from}");
        assert!(managed.certificate().is_some(), "the certificate is in use");
        assert!(
            managed.last_error().unwrap().contains("already due for renewal"),
            "{:?}",
            managed.last_error()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_followed_by_waits_and_retry_requests_shorten_the_first_ones() {
    let folder = tempfile::tempdir().unwrap();
    let managed = new_certificate(folder.path());
    let failed = |_: &ManagedCertificate| Outcome::Failed(OrderError::new("no"));
    assert_eq!(attempts(&managed, Duration::from_secs(50), failed).await, 1);
    // A process that starts later continues the wait.
    assert_eq!(attempts(&managed, Duration::from_secs(40), failed).await, 0);
    assert!(managed.last_error().is_some());
    // A retry request during an attempt counts for the next one.
    let requesting = |managed: &ManagedCertificate| {
        managed.retry.notify_one();
        Outcome::Failed(OrderError::new("no"))
    };
    managed.retry.notify_one();
    let count = attempts(&managed, Duration::from_secs(30), requesting).await;
    assert_eq!(count, 3, "not more often than every few seconds, and three times in all");
}

#[tokio::test(start_paused = true)]
async fn certificate_that_cannot_be_stored_is_used_and_stored_later() {
    let folder = tempfile::tempdir().unwrap();
    let managed = new_certificate(folder.path());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["a.test".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let (certificate, pem) = managed.store.assemble(&chain, &key.serialize_pem()).unwrap();
    managed.install(certificate.clone());
    managed.state().unsaved = Some(Arc::new(pem));
    managed.save().await;
    assert!(managed.last_error().unwrap().contains("not stored"));
    assert!(managed.certificate().is_some() && managed.store.peek().is_none());
    // The folder can be created again.
    managed.open().await;
    let done = |_: &ManagedCertificate| Outcome::Done;
    assert_eq!(attempts(&managed, HOUR, done).await, 0, "only the file is missing");
    assert_eq!((managed.store.peek(), managed.last_error()), (Some(certificate), None));
}

#[tokio::test(start_paused = true)]
async fn process_waits_after_a_failure_of_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (new_certificate(folder.path()), new_certificate(folder.path()));
    let failed = |_: &ManagedCertificate| Outcome::Failed(OrderError::new("no"));
    let history = one.open().await;
    assert_eq!(attempts(&other, Duration::from_secs(1), failed).await, 1);
    let context = OrderContext {
        challenges: Arc::default(),
        metrics: Arc::new(crate::observe::Metrics::new()),
        http: Arc::default(),
        backoff: Backoff::default(),
    };
    let outcome = one.attempt(&context, history.clone(), history).await;
    let Outcome::FailedElsewhere(newer) = outcome else { panic!("an attempt was made") };
    assert!(newer.wait(SystemTime::now(), false) > Duration::from_secs(50));
    let lock = other.store.lock().unwrap();
    assert!(matches!(one.attempt(&context, newer.clone(), newer).await, Outcome::Locked));
    drop(lock);
}
