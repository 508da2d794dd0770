//! Keeps one certificate valid: waits until an order is due, makes the order, and uses and stores the
//! certificate. After a failure, waits as [`schedule`] says.
//!
//! An attempt is recorded before it begins ([`AttemptHistory`]), so that an attempt counts even if the
//! process ends in it. An issued certificate is used at once. Storing it is retried until it succeeds.

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
    ManagedCertificate, OrderContext,
    error::OrderError,
    issue::ProvenOrder,
    order::Orderer,
    schedule::{self, AttemptHistory, Backoff},
    store::{StorageLock, Store, StoreError},
};
use crate::config::Certificate;

/// Longest single sleep, because the clock may be changed and the machine may be suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// Pause if another process, or the order of another certificate, has locked the folder.
const LOCKED_PAUSE: Duration = Duration::from_secs(2);

/// Result of an attempt.
enum Outcome {
    /// A valid certificate is installed.
    Done,
    /// The folder is locked by another order.
    Locked,
    /// Another process made an attempt meanwhile, which failed.
    FailedElsewhere(AttemptHistory),
    /// The order failed.
    Failed(OrderError),
}

/// A running attempt.
type Attempt = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Orders and renews the certificate. Never returns.
pub(super) async fn keep_valid(managed: Arc<ManagedCertificate>, context: OrderContext) {
    let history = managed.open().await;
    let backoff = context.backoff;
    let attempt = |before, current| -> Attempt {
        let (managed, context) = (Arc::clone(&managed), context.clone());
        Box::pin(async move { managed.attempt(&context, before, current).await })
    };
    let both = || context.http.load(Ordering::Relaxed);
    managed.renew(backoff, history, both, attempt).await;
}

impl ManagedCertificate {
    /// Prepares the folder, logs what is missing, and returns the attempts so far.
    async fn open(&self) -> AttemptHistory {
        let store = self.store.clone();
        let open = move || (store.open(), store.history(), store.pending().is_some());
        let opened = spawn_blocking(open).await;
        let (opened, history, pending) = opened.unwrap_or_else(|error| {
            (Err(io::Error::other(error)), AttemptHistory::default(), false)
        });
        self.state().pending = pending;
        if let Err(error) = opened {
            tracing::error!("{error}; no certificate is ordered until this user can write there");
        }
        let names = self.names();
        if self.certificate().is_none() {
            tracing::warn!(
                "no certificate for {names} yet: handshakes are refused until one is issued"
            );
        }
        let left = history.wait(SystemTime::now(), pending);
        if self.renewal().is_none() && !left.is_zero() {
            let text = "the last attempt failed or was interrupted before this process started";
            tracing::warn!(
                names,
                retry_in = shown(left),
                "{text}; `moorline reload` retries sooner"
            );
            self.state().error = Some(text.to_owned());
        }
        history
    }

    /// Makes an attempt whenever it is due. `attempt` gets the history without and with the new attempt.
    /// `both`: whether both challenge types can be used.
    async fn renew(
        &self,
        backoff: Backoff,
        mut history: AttemptHistory,
        both: impl Fn() -> bool,
        attempt: impl Fn(AttemptHistory, AttemptHistory) -> Attempt,
    ) {
        loop {
            tokio::select! {
                () = self.due() => {}
                never = self.retry_saving(backoff.first) => match never {},
            }
            self.wait_after_failure(&history).await;
            self.clear_retry_request().await;
            let mut current = history.clone();
            current.begin(&backoff, SystemTime::now(), fastrand::f64());
            let outcome = match attempt(history.clone(), current.clone()).await {
                Outcome::Done if self.renewal().is_none() => Outcome::Failed(self.already_due()),
                outcome => outcome,
            };
            match outcome {
                Outcome::Done => {
                    current.succeed();
                    history = current;
                }
                Outcome::Locked => sleep(LOCKED_PAUSE).await,
                Outcome::FailedElsewhere(newer) => history = newer,
                Outcome::Failed(error) => {
                    let now = SystemTime::now();
                    current.fail(&error, both(), &backoff, now, fastrand::f64());
                    history = current;
                    // Store before logging: a reader of the log may stop the process at once.
                    self.save_history(&history).await;
                    let wait = history.wait(now, self.state().pending);
                    self.report_failure(error, wait);
                }
            }
        }
    }

    /// Resolves when there is no certificate, or it is time to renew it.
    async fn due(&self) {
        while let Some(at) = self.renewal() {
            let left = at.duration_since(SystemTime::now()).unwrap_or_default();
            sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    /// Resolves when the next attempt is due, or earlier if an operator requests it and the schedule
    /// permits it.
    async fn wait_after_failure(&self, history: &AttemptHistory) {
        let now = SystemTime::now();
        // An order that already has its certificate does not count against the server's limits.
        let (full, least) = (history.wait(now, self.state().pending), history.wait(now, true));
        if full.is_zero() {
            return;
        }
        let until = Instant::now() + full;
        sleep(least).await;
        let _ = timeout_at(until, self.retry.notified()).await;
    }

    /// Clears an earlier retry request: the attempt that begins now fulfils it.
    async fn clear_retry_request(&self) {
        tokio::select! {
            biased;
            () = self.retry.notified() => {}
            () = std::future::ready(()) => {}
        }
    }

    /// Orders a certificate, unless another process has stored one or has failed since `before`.
    async fn attempt(
        self: &Arc<Self>,
        context: &OrderContext,
        before: AttemptHistory,
        current: AttemptHistory,
    ) -> Outcome {
        let (store, begun) = (self.store.clone(), current.clone());
        let looked = spawn_blocking(move || {
            let Some(lock) = store.lock()? else { return Ok(None) };
            let (stored, history) = (store.certificate(), store.history());
            if !history.is_after(&before)
                && let Err(error) = store.save_history(&begun)
            {
                tracing::error!(
                    "{error}; after a restart, the next order may exceed the rate limits of the ACME server"
                );
            }
            Ok::<_, io::Error>(Some((lock, stored, history.is_after(&before).then_some(history))))
        });
        let lock = match looked.await.map_err(io::Error::other).flatten() {
            Ok(None) => return Outcome::Locked,
            Ok(Some((_, Some(stored), _))) if self.is_newer(&stored) => {
                tracing::info!(
                    names = self.names(),
                    "using the certificate that another process ordered"
                );
                self.install(stored);
                return Outcome::Done;
            }
            Ok(Some((_, _, Some(newer)))) => return Outcome::FailedElsewhere(newer),
            Ok(Some((lock, ..))) => lock,
            Err(error) => return Outcome::Failed(OrderError::new(error)),
        };
        match self.order(context, &current, lock).await {
            Ok(()) => Outcome::Done,
            Err(error) => {
                context.metrics.acme_failed.inc();
                Outcome::Failed(error)
            }
        }
    }

    /// Whether a stored certificate differs from the one in use and is not due for renewal.
    fn is_newer(&self, stored: &Certificate) -> bool {
        let fresh = stored
            .validity()
            .is_some_and(|(from, to)| schedule::renewal(from, to, 0.0) > SystemTime::now());
        fresh && self.state().certificate.as_ref() != Some(stored)
    }

    async fn order(
        self: &Arc<Self>,
        context: &OrderContext,
        current: &AttemptHistory,
        lock: StorageLock,
    ) -> Result<(), OrderError> {
        let both = context.http.load(Ordering::Relaxed);
        let preferred = if both { current.challenge } else { Default::default() };
        let OrderContext { challenges, metrics, .. } = context.clone();
        let (terms, store) = (&self.terms, &self.store);
        let orderer = Orderer { terms, store, challenges: &challenges, preferred, both };
        let proven = match self.resume(&orderer).await? {
            Some(proven) => proven,
            None => orderer.prove().await?,
        };
        // From here on the certificate counts at the server, so that an aborted task does not stop it.
        let managed = Arc::clone(self);
        let issue = tokio::spawn(async move {
            let _lock = lock;
            managed.issue(proven).await?;
            metrics.acme_ok.inc();
            Ok(())
        });
        issue.await.unwrap_or_else(|error| Err(OrderError::new(error)))
    }

    /// Continues the stored order, if the server still has it.
    async fn resume(&self, orderer: &Orderer<'_>) -> Result<Option<ProvenOrder>, OrderError> {
        let pending = self.on_disk(|store| Ok(store.pending())).await;
        let Some(pending) = pending.ok().flatten() else { return Ok(None) };
        let proven = orderer.resume(pending).await?;
        if proven.is_none() {
            self.forget_order().await;
        }
        Ok(proven)
    }

    /// Gets the certificate issued, uses it, and stores it. After a temporary failure, the order stays
    /// stored.
    async fn issue(&self, proven: ProvenOrder) -> Result<(), OrderError> {
        let pending = proven.pending.clone();
        let challenge = pending.challenge;
        match self.on_disk(move |store| store.save_pending(&pending)).await {
            Ok(()) => self.state().pending = true,
            Err(error) => tracing::error!(
                "{error}; if the download of the certificate fails, a new order is needed"
            ),
        }
        let issued = match proven.issue(self.terms.domains.clone()).await {
            Ok(issued) => issued,
            Err(error) => {
                if !error.temporary {
                    self.forget_order().await;
                }
                return Err(error);
            }
        };
        let (certificate, pem) = match self.store.assemble(&issued.chain, &issued.key) {
            Ok(assembled) => assembled,
            Err(error) => {
                self.forget_order().await;
                return Err(OrderError::new(format!(
                    "the issued certificate cannot be used: {error}"
                )));
            }
        };
        self.install(certificate);
        self.state().unsaved = Some(Arc::new(pem));
        tracing::info!(names = self.names(), %challenge, "certificate issued");
        self.save().await;
        Ok(())
    }

    /// Removes the stored order: it will bring no certificate.
    async fn forget_order(&self) {
        self.state().pending = false;
        if let Err(error) = self.on_disk(Store::forget_pending).await {
            tracing::warn!("{error}; the next attempt asks the server for that order again");
        }
    }

    /// Runs `work` on the stored files, outside the async runtime.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        spawn_blocking(move || work(&store)).await.map_err(StoreError::Task).flatten()
    }

    /// Stores the certificate in use, if it is not stored yet.
    async fn save(&self) {
        let Some(pem) = self.state().unsaved.clone() else { return };
        let writing = Arc::clone(&pem);
        let written = self.on_disk(move |store| store.save_certificate(&writing)).await;
        let mut state = self.state();
        // Another certificate may have been installed meanwhile.
        if !state.unsaved.as_ref().is_some_and(|unsaved| Arc::ptr_eq(unsaved, &pem)) {
            return;
        }
        state.error = written
            .err()
            .map(|error| format!("the certificate is in use, but not stored: {error}"));
        match &state.error {
            Some(error) => tracing::error!(names = self.names(), "{error}; retrying"),
            None => state.unsaved = None,
        }
    }

    /// Retries to store the certificate until it is stored.
    async fn retry_saving(&self, every: Duration) -> Infallible {
        while self.state().unsaved.is_some() {
            sleep(every).await;
            self.save().await;
        }
        std::future::pending().await
    }

    /// Stores the history for the next process.
    async fn save_history(&self, history: &AttemptHistory) {
        let history = history.clone();
        if let Err(error) = self.on_disk(move |store| store.save_history(&history)).await {
            tracing::warn!(
                "{error}; after a restart, the next order may exceed the rate limits of the ACME server"
            );
        }
    }

    /// The error for a certificate that is due for renewal when it is issued.
    fn already_due(&self) -> OrderError {
        let validity = self.certificate().and_then(|certificate| certificate.validity());
        let date = |at: SystemTime| humantime::format_rfc3339_seconds(at);
        OrderError::new(match validity {
            Some((from, to)) => {
                let (from, to) = (date(from), date(to));
                format!(
                    "the issued certificate is already due for renewal: it is valid from {from} to {to}; check \
                     the clock of this machine"
                )
            }
            None => "the issued certificate has no readable validity period".to_owned(),
        })
    }

    /// Logs that the order failed, and what that means for clients.
    fn report_failure(&self, error: OrderError, wait: Duration) {
        let effect = match self.certificate() {
            Some(_) => "the current certificate stays in use",
            None => "handshakes are refused until one is issued",
        };
        let (names, retry_in) = (self.names(), shown(wait));
        tracing::error!(names, %error, retry_in, "no certificate was issued; {effect}");
        self.state().error = Some(error.text);
    }
}

fn shown(wait: Duration) -> String {
    humantime::format_duration(Duration::from_secs(wait.as_secs())).to_string()
}

#[cfg(test)]
mod tests;
