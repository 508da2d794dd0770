//! Certificates by ACME (RFC 8555): ordered, kept on disk, renewed while the process runs.
//!
//! The control task owns a [`Fleet`]: for each distinct set of terms one [`Issued`], which every
//! listener of those terms serves by, and one task that keeps it valid. A certificate is ordered where
//! none is stored, renewed at two thirds of its life, and put in place without anybody noticing: new
//! handshakes get it. The old one serves until then, even when it has expired; before the first there
//! is none, and handshakes are refused.
//!
//! Proofs are tried by TLS-ALPN-01 first, and by HTTP-01 where that fails and a listener speaks HTTP in
//! the clear; the next order begins with what has worked. Knows neither listeners nor the configuration
//! beyond [`Acme`], nor who answers the [`Challenges`].

mod challenges;
mod client;
mod order;
mod schedule;
mod store;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use self::{
    order::{Failure, Orderer, Way},
    schedule::Pace,
    store::Store,
};
use crate::{
    config::{Acme, Certificate},
    net::tls::Resolver,
    observe::Metrics,
};

pub use self::challenges::{Challenges, PROTOCOL};

/// Longest sleep at a stretch: the clock may be set, and the machine sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Pause where another process orders into the same folder.
const BUSY: Duration = Duration::from_secs(10);

/// Every certificate that is ordered, and the tasks that keep them valid.
pub(crate) struct Fleet {
    means: Means,
    members: Vec<(Arc<Issued>, Option<JoinHandle<()>>)>,
    /// Whether orders may be made; not before connections are accepted, nor after.
    running: bool,
}

/// One certificate that is ordered and renewed.
#[derive(Debug)]
pub struct Issued {
    terms: Acme,
    store: Store,
    resolver: Arc<Resolver>,
    state: Mutex<State>,
    /// Somebody wants to see an order that has failed tried again.
    again: Notify,
}

#[derive(Debug, Default)]
struct State {
    certificate: Option<Certificate>,
    /// When it is renewed; `None`: there is none, or nobody can say how long it is valid.
    renewal: Option<SystemTime>,
    /// Why the newest order has failed.
    trouble: Option<String>,
}

/// What every order needs.
#[derive(Clone)]
struct Means {
    challenges: Arc<Challenges>,
    metrics: Arc<Metrics>,
    /// Whether a listener speaks HTTP in the clear.
    http: Arc<AtomicBool>,
    pace: Pace,
}

/// What became of an attempt.
enum Outcome {
    /// The certificate is there.
    Done,
    /// Another process orders into the folder.
    Busy,
    /// There is no new one.
    Failed(Failure),
}

impl Fleet {
    /// Without any. Answers are posted to `challenges`.
    pub(crate) fn new(challenges: Arc<Challenges>, metrics: Arc<Metrics>) -> Self {
        let means = Means { challenges, metrics, http: Arc::default(), pace: Pace::default() };
        Self { means, members: Vec::new(), running: false }
    }

    /// Those of these terms: the ones that are there, and new ones, with what is stored of them. Makes
    /// their folders.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub(crate) async fn prepare<'a>(
        &self,
        terms: impl Iterator<Item = &'a Acme>,
    ) -> io::Result<Vec<Arc<Issued>>> {
        let mut all: Vec<Arc<Issued>> = Vec::new();
        for terms in terms {
            if all.iter().any(|issued| issued.terms == *terms) {
                continue;
            }
            let known = self.members.iter().find(|(issued, _)| issued.terms == *terms);
            all.push(match known {
                Some((issued, _)) => Arc::clone(issued),
                None => {
                    let terms = terms.clone();
                    spawn_blocking(|| Issued::load(terms)).await.map_err(io::Error::other)??
                }
            });
        }
        Ok(all)
    }

    /// Keeps these valid and no others. `http`: whether a listener speaks HTTP in the clear.
    pub(crate) fn settle(&mut self, wanted: Vec<Arc<Issued>>, http: bool) {
        self.means.http.store(http, Ordering::Relaxed);
        let mut before = std::mem::take(&mut self.members);
        for issued in wanted {
            let known = before.iter().position(|(known, _)| Arc::ptr_eq(known, &issued));
            let task = known.and_then(|place| before.swap_remove(place).1);
            self.members.push((issued, task));
        }
        for task in before.into_iter().filter_map(|(_, task)| task) {
            task.abort();
        }
        if self.running {
            self.start();
        }
    }

    /// Begins to order.
    pub(crate) fn start(&mut self) {
        self.running = true;
        for (issued, task) in &mut self.members {
            if task.is_none() {
                *task = Some(tokio::spawn(Arc::clone(issued).keep_valid(self.means.clone())));
            }
        }
    }

    /// Orders nothing any more.
    pub(crate) fn stop(&mut self) {
        self.running = false;
        for task in self.members.iter_mut().filter_map(|(_, task)| task.take()) {
            task.abort();
        }
    }

    /// Tries again at once what has failed, but for what its server has asked to wait with.
    pub(crate) fn retry(&self) {
        for (issued, _) in &self.members {
            issued.again.notify_waiters();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Issued {
    /// What is stored of these terms.
    fn load(terms: Acme) -> io::Result<Arc<Self>> {
        let store = Store::open(&terms)?;
        let certificate = store.certificate();
        let issued = Self {
            resolver: Arc::new(Resolver::new(&[])),
            state: Mutex::default(),
            again: Notify::new(),
            terms,
            store,
        };
        match certificate {
            Some(certificate) => issued.put_in_place(certificate),
            None => tracing::warn!(
                "no certificate for {} yet: handshakes are refused until one is issued",
                issued.names()
            ),
        }
        Ok(Arc::new(issued))
    }

    /// The terms that it is ordered on.
    pub fn terms(&self) -> &Acme {
        &self.terms
    }

    /// Who gives the newest one out; empty before the first.
    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// The newest one.
    pub fn certificate(&self) -> Option<Certificate> {
        self.state().certificate.clone()
    }

    /// Why the newest order has failed, where it has.
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> String {
        self.terms.domains.join(", ")
    }

    fn put_in_place(&self, certificate: Certificate) {
        let validity = certificate.validity();
        let renewal = validity.map(|(from, to)| schedule::renewal(from, to, fastrand::f64()));
        self.resolver.serve(std::slice::from_ref(&certificate));
        *self.state() = State { certificate: Some(certificate), renewal, trouble: None };
    }

    /// Orders whenever it is time to, for ever.
    async fn keep_valid(self: Arc<Self>, means: Means) {
        let mut way = Way::TlsAlpn;
        let mut failures = 0;
        loop {
            self.due().await;
            match self.attempt(&means, &mut way).await {
                Outcome::Done => failures = 0,
                Outcome::Busy => sleep(BUSY).await,
                Outcome::Failed(failure) => {
                    failures += 1;
                    let come_back = failure.come_back;
                    let wait = means.pace.wait(failures, come_back, fastrand::f64());
                    self.tell(failure, wait);
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.again.notified(), if come_back.is_none() => {}
                    }
                }
            }
        }
    }

    /// Resolves when there is none, or it is time to renew it.
    async fn due(&self) {
        loop {
            let renewal = self.state().renewal;
            let left = renewal.and_then(|at| at.duration_since(SystemTime::now()).ok());
            match left.filter(|left| !left.is_zero()) {
                Some(left) => sleep(left.min(LOOK_AGAIN)).await,
                None => return,
            }
        }
    }

    /// Orders one, unless another process has put one into the folder meanwhile.
    async fn attempt(&self, means: &Means, way: &mut Way) -> Outcome {
        let store = self.store.clone();
        let looked = spawn_blocking(move || {
            let lock = store.lock()?;
            Ok::<_, io::Error>(lock.map(|lock| (lock, store.certificate())))
        });
        let _lock = match looked.await.map_err(io::Error::other).flatten() {
            Ok(None) => return Outcome::Busy,
            Ok(Some((_, Some(stored)))) if self.is_newer(&stored) => {
                tracing::info!(names = self.names(), "another process has renewed the certificate");
                self.put_in_place(stored);
                return Outcome::Done;
            }
            Ok(Some((lock, _))) => lock,
            Err(error) => return Outcome::Failed(error.to_string().into()),
        };
        match self.order(means, way).await {
            Ok(certificate) => {
                self.put_in_place(certificate);
                means.metrics.acme_ok.inc();
                tracing::info!(names = self.names(), by = %way, "a certificate has been issued");
                Outcome::Done
            }
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

    /// Orders by a way, and by the other one where that proves nothing; `way` is then the last one.
    async fn order(&self, means: &Means, way: &mut Way) -> Result<Certificate, Failure> {
        let Self { terms, store, .. } = self;
        let challenges = &means.challenges;
        if *way == Way::Http && !means.http.load(Ordering::Relaxed) {
            *way = Way::TlsAlpn;
        }
        let first = Orderer { terms, store, challenges, way: *way }.run().await;
        let failure = match first {
            Err(failure) if failure.unproved && failure.come_back.is_none() => failure,
            outcome => return outcome,
        };
        if *way == Way::TlsAlpn && !means.http.load(Ordering::Relaxed) {
            return Err(failure);
        }
        *way = way.other();
        tracing::warn!(names = self.names(), why = %failure, "trying {way} instead");
        let second = Orderer { terms, store, challenges, way: *way }.run().await;
        second.map_err(|second| second.after(&failure))
    }

    /// Says that there is no new one, and what that means.
    fn tell(&self, failure: Failure, wait: Duration) {
        let serves = match self.certificate() {
            Some(_) => "the one in place goes on serving",
            None => "handshakes are refused until one is issued",
        };
        let (names, again) = (self.names(), format!("{:?}", Duration::from_secs(wait.as_secs())));
        tracing::error!(names, why = %failure, again, "no certificate could be had; {serves}");
        self.state().trouble = Some(failure.text);
    }
}
