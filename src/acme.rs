//! Certificates by ACME (RFC 8555): ordered, kept on disk, renewed while the process runs.
//!
//! The control task owns a [`Fleet`]: for each distinct set of terms one [`Issued`], which every
//! listener of those terms serves by, and one task that keeps it valid. A certificate is ordered where
//! none is stored, renewed at two thirds of its life, and put in place without anybody noticing: new
//! handshakes get it. The old one serves until then, even when it has expired; before the first there
//! is none, and handshakes are refused.
//!
//! An attempt proves by one way: by TLS-ALPN-01 first, and at the next by HTTP-01 where that has failed
//! and a listener speaks HTTP in the clear; what has worked comes first the next time. Knows neither
//! listeners nor the configuration beyond [`Acme`], nor who answers the [`Challenges`].

mod challenges;
mod client;
mod issue;
mod keeper;
mod order;
mod schedule;
mod store;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
};

use self::{
    schedule::Pace,
    store::{Pem, Store},
};
use crate::{
    config::{Acme, Certificate},
    net::tls::CertificateResolver,
    observe::Metrics,
};

pub use self::challenges::{Challenges, PROTOCOL};

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
    resolver: Arc<CertificateResolver>,
    state: Mutex<IssueState>,
    /// Somebody wants to see an order that has failed tried again.
    again: Notify,
}

#[derive(Debug, Default)]
struct IssueState {
    certificate: Option<Certificate>,
    /// When it is renewed; `None`: there is none, or nobody can say how long it is valid.
    renewal: Option<SystemTime>,
    /// Why the newest order has failed, or why the certificate is not stored.
    trouble: Option<String>,
    /// The file of the one that serves, where it could not be written.
    unsaved: Option<Arc<Pem>>,
    /// Whether an order is stored that may have its certificate already.
    pending: bool,
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

impl Fleet {
    /// Without any. Answers are posted to `challenges`.
    pub(crate) fn new(challenges: Arc<Challenges>, metrics: Arc<Metrics>) -> Self {
        let means = Means { challenges, metrics, http: Arc::default(), pace: Pace::default() };
        Self { means, members: Vec::new(), running: false }
    }

    /// Those of these terms: the ones that are there, and new ones, with what is stored of them. Touches
    /// nothing: what is refused later has done nothing.
    ///
    /// # Errors
    /// The process is ending.
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
                    spawn_blocking(|| Issued::load(terms)).await.map_err(io::Error::other)?
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
                *task =
                    Some(tokio::spawn(keeper::keep_valid(Arc::clone(issued), self.means.clone())));
            }
        }
    }

    /// Orders nothing any more. What is being issued is still taken, and stored, while the process lives.
    pub(crate) fn stop(&mut self) {
        self.running = false;
        for task in self.members.iter_mut().filter_map(|(_, task)| task.take()) {
            task.abort();
        }
    }

    /// Tries again what has failed, or fails now, as soon as [`schedule`] has it: an operator has asked.
    pub(crate) fn retry(&self) {
        for (issued, _) in &self.members {
            issued.again.notify_one();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Issued {
    /// With what is stored of these terms.
    fn load(terms: Acme) -> Arc<Self> {
        let store = Store::new(&terms);
        let certificate = store.look();
        let issued = Self {
            resolver: Arc::new(CertificateResolver::new(&[])),
            state: Mutex::default(),
            again: Notify::new(),
            terms,
            store,
        };
        if let Some(certificate) = certificate {
            issued.put_in_place(certificate);
        }
        Arc::new(issued)
    }

    /// The terms that it is ordered on.
    pub fn terms(&self) -> &Acme {
        &self.terms
    }

    /// Who gives the newest one out; empty before the first.
    pub fn resolver(&self) -> &Arc<CertificateResolver> {
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

    fn state(&self) -> std::sync::MutexGuard<'_, IssueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> String {
        self.terms.domains.join(", ")
    }

    fn put_in_place(&self, certificate: Certificate) {
        let validity = certificate.validity();
        let renewal = validity.map(|(from, to)| schedule::renewal(from, to, fastrand::f64()));
        self.resolver.serve(std::slice::from_ref(&certificate));
        *self.state() =
            IssueState { certificate: Some(certificate), renewal, ..IssueState::default() };
    }

    /// When it is to be renewed; `None`: now.
    fn renewal(&self) -> Option<SystemTime> {
        self.state().renewal.filter(|at| *at > SystemTime::now())
    }
}
