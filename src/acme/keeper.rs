//! What keeps one certificate valid: waits until it is due, has it ordered, stored and served, and where
//! that fails waits for its turn.
//!
//! An attempt is written down before it begins ([`AttemptHistory`]), so that one that ends with its process counts.
//! What is issued serves at once; that it is stored is tried until it succeeds. Knows neither how an order
//! is made nor how files are written.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Issued, Means,
    issue::Proven,
    order::{Failure, Orderer},
    schedule::{self, AttemptHistory, Pace},
    store::{Locked, Store},
};
use crate::config::Certificate;

/// Longest sleep at a stretch: the clock may be set, and the machine sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Pause where another process, or another certificate's order, holds the folder.
const BUSY: Duration = Duration::from_secs(2);

/// What became of an attempt.
enum Outcome {
    /// The certificate is there.
    Done,
    /// Another one orders into the folder.
    Busy,
    /// Another process has tried since, in vain.
    Tried(AttemptHistory),
    /// There is no new one.
    Failed(Failure),
}

/// An attempt in the making.
type Attempt = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Orders whenever it is time to, for ever.
pub(super) async fn keep_valid(issued: Arc<Issued>, means: Means) {
    let history = issued.open().await;
    let pace = means.pace;
    let attempt = |before, tried| -> Attempt {
        let (issued, means) = (Arc::clone(&issued), means.clone());
        Box::pin(async move { issued.attempt(&means, before, tried).await })
    };
    let other = || means.http.load(Ordering::Relaxed);
    issued.keep(pace, history, other, attempt).await;
}

impl Issued {
    /// Makes what is to be there, and says what is missing; the attempts so far.
    async fn open(&self) -> AttemptHistory {
        let store = self.store.clone();
        let open = move || (store.open(), store.history(), store.pending().is_some());
        let opened = spawn_blocking(open).await;
        let (opened, history, pending) = opened.unwrap_or_else(|error| {
            (Err(io::Error::other(error)), AttemptHistory::default(), false)
        });
        self.state().pending = pending;
        if let Err(error) = opened {
            tracing::error!("{error}");
        }
        let names = self.names();
        if self.certificate().is_none() {
            tracing::warn!(
                "no certificate for {names} yet: handshakes are refused until one is issued"
            );
        }
        let left = history.left(SystemTime::now(), pending);
        if self.renewal().is_none() && !left.is_zero() {
            let text = "the last attempt has failed, or was cut short, before this process began";
            tracing::warn!(names, again = shown(left), "{text}; a reload need not wait");
            self.state().trouble = Some(text.to_owned());
        }
        history
    }

    /// Makes an attempt, given the ones before it without and with itself, whenever it is time to.
    /// `other`: whether names can be proved the other way, too.
    async fn keep(
        &self,
        pace: Pace,
        mut history: AttemptHistory,
        other: impl Fn() -> bool,
        attempt: impl Fn(AttemptHistory, AttemptHistory) -> Attempt,
    ) {
        loop {
            tokio::select! {
                () = self.due() => {}
                never = self.save_again(pace.first) => match never {},
            }
            self.rest(&history).await;
            self.forget_wishes().await;
            let mut tried = history.clone();
            tried.begin(&pace, SystemTime::now(), fastrand::f64());
            let outcome = match attempt(history.clone(), tried.clone()).await {
                Outcome::Done if self.renewal().is_none() => Outcome::Failed(self.useless()),
                outcome => outcome,
            };
            match outcome {
                Outcome::Done => {
                    tried.succeed();
                    history = tried;
                }
                Outcome::Busy => sleep(BUSY).await,
                Outcome::Tried(theirs) => history = theirs,
                Outcome::Failed(failure) => {
                    let now = SystemTime::now();
                    tried.fail(&failure, other(), &pace, now, fastrand::f64());
                    history = tried;
                    // First kept, then told: whoever reads of it may end the process.
                    self.note(&history).await;
                    let wait = history.left(now, self.state().pending);
                    self.tell(failure, wait);
                }
            }
        }
    }

    /// Resolves when there is none, or it is time to renew it.
    async fn due(&self) {
        while let Some(at) = self.renewal() {
            let left = at.duration_since(SystemTime::now()).unwrap_or_default();
            sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    /// Resolves when it is time for the next attempt, or somebody wants one and may have it.
    async fn rest(&self, history: &AttemptHistory) {
        let now = SystemTime::now();
        // An order that has its certificate already costs nothing at the server.
        let (whole, least) = (history.left(now, self.state().pending), history.left(now, true));
        if whole.is_zero() {
            return;
        }
        let until = Instant::now() + whole;
        sleep(least).await;
        let _ = timeout_at(until, self.again.notified()).await;
    }

    /// Whoever wanted an attempt gets it now; only a wish from now on is one for another.
    async fn forget_wishes(&self) {
        tokio::select! {
            biased;
            () = self.again.notified() => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Orders one, unless another process has put one into the folder meanwhile, or has failed to.
    async fn attempt(
        self: &Arc<Self>,
        means: &Means,
        before: AttemptHistory,
        tried: AttemptHistory,
    ) -> Outcome {
        let (store, begun) = (self.store.clone(), tried.clone());
        let looked = spawn_blocking(move || {
            let Some(lock) = store.lock()? else { return Ok(None) };
            let (stored, history) = (store.certificate(), store.history());
            if !history.is_after(&before)
                && let Err(error) = store.save_history(&begun)
            {
                tracing::error!("{error}; whoever starts anew may order too often");
            }
            Ok::<_, io::Error>(Some((lock, stored, history.is_after(&before).then_some(history))))
        });
        let lock = match looked.await.map_err(io::Error::other).flatten() {
            Ok(None) => return Outcome::Busy,
            Ok(Some((_, Some(stored), _))) if self.is_newer(&stored) => {
                tracing::info!(names = self.names(), "another process has renewed the certificate");
                self.put_in_place(stored);
                return Outcome::Done;
            }
            Ok(Some((_, _, Some(theirs)))) => return Outcome::Tried(theirs),
            Ok(Some((lock, ..))) => lock,
            Err(error) => {
                let folder = self.terms.storage.display();
                return Outcome::Failed(format!("ACME storage {folder}: {error}").into());
            }
        };
        match self.order(means, &tried, lock).await {
            Ok(()) => Outcome::Done,
            Err(failure) => {
                means.metrics.acme_failed.inc();
                Outcome::Failed(failure)
            }
        }
    }

    /// Whether a stored certificate is another one than that in place, and not due.
    fn is_newer(&self, stored: &Certificate) -> bool {
        let fresh = stored
            .validity()
            .is_some_and(|(from, to)| schedule::renewal(from, to, 0.0) > SystemTime::now());
        fresh && self.state().certificate.as_ref() != Some(stored)
    }

    async fn order(
        self: &Arc<Self>,
        means: &Means,
        tried: &AttemptHistory,
        lock: Locked,
    ) -> Result<(), Failure> {
        let both = means.http.load(Ordering::Relaxed);
        let way = if both { tried.way } else { Default::default() };
        let Means { challenges, metrics, .. } = means.clone();
        let (terms, store) = (&self.terms, &self.store);
        let orderer = Orderer { terms, store, challenges: &challenges, way, both };
        let proven = match self.resume(&orderer).await? {
            Some(proven) => proven,
            None => orderer.prove().await?,
        };
        // From here on the server counts it: it is not given up with whoever waits for it.
        let issued = Arc::clone(self);
        let taking = tokio::spawn(async move {
            let _lock = lock;
            issued.take(proven).await?;
            metrics.acme_ok.inc();
            Ok(())
        });
        taking.await.unwrap_or_else(|error| Err(error.to_string().into()))
    }

    /// The order that is stored, if the server still has it.
    async fn resume(&self, orderer: &Orderer<'_>) -> Result<Option<Proven>, Failure> {
        let pending = self.on_disk(|store| Ok(store.pending())).await;
        let Some(pending) = pending.ok().flatten() else { return Ok(None) };
        let proven = orderer.resume(pending).await?;
        if proven.is_none() {
            self.forget_order().await;
        }
        Ok(proven)
    }

    /// Has the certificate issued, serves by it, and stores it. An order that can still bring it is kept.
    async fn take(&self, proven: Proven) -> Result<(), Failure> {
        let pending = proven.pending.clone();
        let by = pending.by;
        match self.on_disk(move |store| store.keep_pending(&pending)).await {
            Ok(()) => self.state().pending = true,
            Err(error) => tracing::error!("{error}; if the download fails, a new order follows"),
        }
        let fresh = match proven.issue(self.terms.domains.clone()).await {
            Ok(fresh) => fresh,
            Err(failure) => {
                if !failure.passes {
                    self.forget_order().await;
                }
                return Err(failure);
            }
        };
        let (certificate, pem) = match self.store.made(&fresh.chain, &fresh.key) {
            Ok(made) => made,
            Err(why) => {
                self.forget_order().await;
                return Err(format!("what the server has issued is of no use: {why}").into());
            }
        };
        self.put_in_place(certificate);
        self.state().unsaved = Some(Arc::new(pem));
        tracing::info!(names = self.names(), %by, "a certificate has been issued");
        self.save().await;
        Ok(())
    }

    /// There will be no certificate of the order that is stored.
    async fn forget_order(&self) {
        self.state().pending = false;
        if let Err(error) = self.on_disk(Store::forget_pending).await {
            tracing::warn!("{error}");
        }
    }

    /// Does something with the stored files, off the runtime.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.store.clone();
        let done = spawn_blocking(move || work(&store)).await;
        done.map_err(|error| error.to_string()).flatten()
    }

    /// Stores the certificate that serves, where it is not.
    async fn save(&self) {
        let Some(pem) = self.state().unsaved.clone() else { return };
        let (store, writing) = (self.store.clone(), Arc::clone(&pem));
        let written = spawn_blocking(move || store.keep(&writing)).await;
        let written = written.map_err(|error| error.to_string()).flatten();
        let mut state = self.state();
        // Another one may have come meanwhile.
        if !state.unsaved.as_ref().is_some_and(|unsaved| Arc::ptr_eq(unsaved, &pem)) {
            return;
        }
        state.trouble = written.err().map(|error| format!("it serves, but is not stored: {error}"));
        match &state.trouble {
            Some(why) => tracing::error!(names = self.names(), "a certificate was issued; {why}"),
            None => state.unsaved = None,
        }
    }

    /// Tries to store what is not, until it is.
    async fn save_again(&self, every: Duration) -> Infallible {
        while self.state().unsaved.is_some() {
            sleep(every).await;
            self.save().await;
        }
        std::future::pending().await
    }

    /// Keeps what was tried for the next process.
    async fn note(&self, history: &AttemptHistory) {
        let (store, history) = (self.store.clone(), history.clone());
        let kept = spawn_blocking(move || store.save_history(&history)).await;
        if let Err(error) = kept.map_err(|error| error.to_string()).flatten() {
            tracing::warn!("{error}");
        }
    }

    /// Why a certificate that was issued is none to be content with.
    fn useless(&self) -> Failure {
        let validity = self.certificate().and_then(|certificate| certificate.validity());
        let date = |at: SystemTime| humantime::format_rfc3339_seconds(at);
        match validity {
            Some((from, to)) => {
                let (from, to) = (date(from), date(to));
                format!("what was issued is to be renewed already: it is valid from {from} to {to}")
            }
            None => "what was issued does not say how long it is valid".to_owned(),
        }
        .into()
    }

    /// Says that there is no new one, and what that means.
    fn tell(&self, failure: Failure, wait: Duration) {
        let serves = match self.certificate() {
            Some(_) => "the one in place goes on serving",
            None => "handshakes are refused until one is issued",
        };
        let (names, again) = (self.names(), shown(wait));
        tracing::error!(names, why = %failure, again, "no certificate could be had; {serves}");
        self.state().trouble = Some(failure.text);
    }
}

fn shown(wait: Duration) -> String {
    humantime::format_duration(Duration::from_secs(wait.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::config::Acme;

    fn issued(folder: &std::path::Path) -> Arc<Issued> {
        Issued::load(Acme {
            directory: "https://ca.test/dir".to_owned(),
            email: None,
            domains: vec!["a.test".to_owned()],
            storage: folder.join("acme"),
            ca: None,
        })
    }

    /// One that is valid between the beginnings of these years.
    fn certificate(from: i32, to: i32) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        Certificate::from_pem(pem.as_bytes(), pem.as_bytes(), "a test's").unwrap()
    }

    /// Keeps it by attempts with such an outcome for so long, and counts them.
    async fn attempts(
        issued: &Arc<Issued>,
        during: Duration,
        outcome: impl Fn(&Issued) -> Outcome + Send + Sync + Copy + 'static,
    ) -> usize {
        let count = AtomicUsize::new(0);
        let attempt = |_, _| -> Attempt {
            count.fetch_add(1, Ordering::Relaxed);
            let issued = Arc::clone(issued);
            Box::pin(async move { outcome(&issued) })
        };
        let history = issued.open().await;
        let keeping = issued.keep(Pace::default(), history, || false, attempt);
        assert!(tokio::time::timeout(during, keeping).await.is_err());
        count.into_inner()
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_due_when_it_is_issued_is_ordered_again_as_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        for (from, to) in [(2000, 2001), (2001, 2000)] {
            let issued = issued(&folder.path().join(from.to_string()));
            let count = attempts(&issued, 50 * MINUTE, move |issued| {
                issued.put_in_place(certificate(from, to));
                Outcome::Done
            });
            // At 0, 1, 3, 7, 15 and 31 minutes, each wait spread by 10 %; the next comes after 56 minutes at least.
            assert_eq!(count.await, 6, "{from}");
            assert!(issued.certificate().is_some(), "it serves nevertheless");
            assert!(
                issued.trouble().unwrap().contains("renewed already"),
                "{:?}",
                issued.trouble()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_waited_for_and_a_wish_shortens_the_first_waits() {
        let folder = tempfile::tempdir().unwrap();
        let issued = issued(folder.path());
        let failed = |_: &Issued| Outcome::Failed("no".to_owned().into());
        assert_eq!(attempts(&issued, Duration::from_secs(50), failed).await, 1);
        // A process that comes after it goes on waiting.
        assert_eq!(attempts(&issued, Duration::from_secs(40), failed).await, 0);
        assert!(issued.trouble().is_some());
        // A wish in the middle of an attempt counts for the next one.
        let wishing = |issued: &Issued| {
            issued.again.notify_one();
            Outcome::Failed("no".to_owned().into())
        };
        issued.again.notify_one();
        let count = attempts(&issued, Duration::from_secs(30), wishing).await;
        assert_eq!(count, 3, "not more often than every few seconds, and three times in all");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_serves_and_is_written_when_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let issued = issued(folder.path());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let (certificate, pem) = issued.store.made(&chain, &key.serialize_pem()).unwrap();
        issued.put_in_place(certificate.clone());
        issued.state().unsaved = Some(Arc::new(pem));
        issued.save().await;
        assert!(issued.trouble().unwrap().contains("not stored"));
        assert!(issued.certificate().is_some() && issued.store.look().is_none());
        // The folder is there again.
        issued.open().await;
        let done = |_: &Issued| Outcome::Done;
        assert_eq!(attempts(&issued, HOUR, done).await, 0, "what is wanting is the file alone");
        assert_eq!((issued.store.look(), issued.trouble()), (Some(certificate), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_finds_that_another_has_failed_waits_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (issued(folder.path()), issued(folder.path()));
        let failed = |_: &Issued| Outcome::Failed("no".to_owned().into());
        let history = one.open().await;
        assert_eq!(attempts(&other, Duration::from_secs(1), failed).await, 1);
        let means = Means {
            challenges: Arc::default(),
            metrics: Arc::new(crate::observe::Metrics::new()),
            http: Arc::default(),
            pace: Pace::default(),
        };
        let outcome = one.attempt(&means, history.clone(), history).await;
        let Outcome::Tried(theirs) = outcome else { panic!("it has tried nevertheless") };
        assert!(theirs.left(SystemTime::now(), false) > Duration::from_secs(50));
        let lock = other.store.lock().unwrap();
        assert!(matches!(one.attempt(&means, theirs.clone(), theirs).await, Outcome::Busy));
        drop(lock);
    }
}
