//! Certificates from an ACME server (RFC 8555): ordered, stored, and renewed while the process runs.
//!
//! The control task owns the [`ManagedCertificates`]: one [`ManagedCertificate`] and one task for each
//! distinct set of ACME settings. Listeners with equal settings share the certificate. A certificate is
//! ordered if none is stored, and renewed at two thirds of its lifetime. New handshakes get the new
//! certificate at once; open connections are not affected. The old certificate stays in use until then,
//! even after it has expired. Before the first certificate, handshakes are refused.
//!
//! Each attempt uses one challenge type. TLS-ALPN-01 is first. After a failed challenge, the next attempt
//! uses HTTP-01, if there is an `http` listener. The type that worked is first at the next renewal. This
//! module does not know listeners, the configuration beyond [`Acme`], or the consumers of the [`Challenges`].

mod challenge_type;
mod challenges;
mod client;
mod error;
mod issue;
mod order;
mod renewal;
mod schedule;
mod store;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::{sync::Notify, task::JoinHandle};

use self::{
    schedule::Backoff,
    store::{Pem, Store},
};
use crate::{
    config::{Acme, Certificate},
    net::tls::CertificateResolver,
    observe::Metrics,
};

pub use self::challenges::{Challenges, PROTOCOL};

/// Every ACME certificate, and the tasks that renew them.
pub(crate) struct ManagedCertificates {
    context: OrderContext,
    members: Vec<(Arc<ManagedCertificate>, Option<JoinHandle<()>>)>,
    /// Whether certificates are ordered: only while the process accepts connections, because the server
    /// connects to check the names.
    running: bool,
}

/// One certificate that is ordered and renewed.
#[derive(Debug)]
pub struct ManagedCertificate {
    terms: Acme,
    store: Store,
    resolver: Arc<CertificateResolver>,
    state: Mutex<IssueState>,
    /// An operator requests another attempt after a failure.
    retry: Notify,
}

#[derive(Debug, Default)]
struct IssueState {
    certificate: Option<Certificate>,
    /// When the certificate is renewed; `None`: there is no certificate, or its validity is not known.
    renewal: Option<SystemTime>,
    /// Why the newest order failed, or why the certificate is not stored.
    error: Option<String>,
    /// File of the certificate in use, if it could not be written.
    unsaved: Option<Arc<Pem>>,
    /// Whether an order is stored that may already have its certificate.
    pending: bool,
}

/// What every order needs.
#[derive(Clone)]
struct OrderContext {
    challenges: Arc<Challenges>,
    metrics: Arc<Metrics>,
    /// Whether there is an `http` listener.
    http: Arc<AtomicBool>,
    backoff: Backoff,
}

impl ManagedCertificates {
    /// Starts without certificates. Orders put their answers into `challenges`.
    pub(crate) fn new(challenges: Arc<Challenges>, metrics: Arc<Metrics>) -> Self {
        let context =
            OrderContext { challenges, metrics, http: Arc::default(), backoff: Backoff::default() };
        Self { context, members: Vec::new(), running: false }
    }

    /// Returns the managed certificates.
    pub(crate) fn members(&self) -> Vec<Arc<ManagedCertificate>> {
        self.members.iter().map(|(managed, _)| Arc::clone(managed)).collect()
    }

    /// Returns the certificates of these settings: the known ones, and new ones with their stored files.
    /// Changes nothing, so that a rejected configuration has no effect. Blocks while files are read.
    pub(crate) fn load<'a>(
        known: &[Arc<ManagedCertificate>],
        terms: impl Iterator<Item = &'a Acme>,
    ) -> Vec<Arc<ManagedCertificate>> {
        let mut all: Vec<Arc<ManagedCertificate>> = Vec::new();
        for terms in terms {
            if all.iter().any(|managed| managed.terms == *terms) {
                continue;
            }
            let known = known.iter().find(|managed| managed.terms == *terms);
            all.push(known.map_or_else(|| ManagedCertificate::load(terms.clone()), Arc::clone));
        }
        all
    }

    /// Manages these certificates and stops the tasks of all others. `http`: whether there is an `http`
    /// listener.
    pub(crate) fn replace(&mut self, wanted: Vec<Arc<ManagedCertificate>>, http: bool) {
        self.context.http.store(http, Ordering::Relaxed);
        let mut before = std::mem::take(&mut self.members);
        for managed in wanted {
            let known = before.iter().position(|(known, _)| Arc::ptr_eq(known, &managed));
            let task = known.and_then(|place| before.swap_remove(place).1);
            self.members.push((managed, task));
        }
        for task in before.into_iter().filter_map(|(_, task)| task) {
            task.abort();
        }
        if self.running {
            self.start();
        }
    }

    /// Starts a task for each certificate.
    pub(crate) fn start(&mut self) {
        self.running = true;
        for (managed, task) in &mut self.members {
            if task.is_none() {
                let (managed, context) = (Arc::clone(managed), self.context.clone());
                *task = Some(tokio::spawn(renewal::keep_valid(managed, context)));
            }
        }
    }

    /// Makes no more orders. A certificate that the server already issues is still downloaded and stored,
    /// if the process runs long enough.
    pub(crate) fn stop(&mut self) {
        self.running = false;
        for task in self.members.iter_mut().filter_map(|(_, task)| task.take()) {
            task.abort();
        }
    }

    /// Retries failed orders as soon as [`schedule`] permits, because an operator requested it. An order
    /// that is running is retried too if it fails.
    pub(crate) fn retry(&self) {
        for (managed, _) in &self.members {
            managed.retry.notify_one();
        }
    }
}

impl Drop for ManagedCertificates {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ManagedCertificate {
    /// Loads the stored certificate of these settings, if there is one.
    fn load(terms: Acme) -> Arc<Self> {
        let store = Store::new(&terms);
        let certificate = store.peek();
        let managed = Self {
            resolver: Arc::new(CertificateResolver::new(&[])),
            state: Mutex::default(),
            retry: Notify::new(),
            terms,
            store,
        };
        if let Some(certificate) = certificate {
            managed.install(certificate);
        }
        Arc::new(managed)
    }

    /// The ACME settings of the certificate.
    pub fn terms(&self) -> &Acme {
        &self.terms
    }

    /// Resolver that gives the newest certificate to handshakes; empty before the first certificate.
    pub fn resolver(&self) -> &Arc<CertificateResolver> {
        &self.resolver
    }

    /// The newest certificate.
    pub fn certificate(&self) -> Option<Certificate> {
        self.state().certificate.clone()
    }

    /// Why the newest order failed, or why the certificate is not stored.
    pub fn last_error(&self) -> Option<String> {
        self.state().error.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, IssueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> String {
        self.terms.domains.join(", ")
    }

    /// Uses this certificate for new handshakes.
    fn install(&self, certificate: Certificate) {
        let validity = certificate.validity();
        let renewal = validity.map(|(from, to)| schedule::renewal(from, to, fastrand::f64()));
        self.resolver.serve(std::slice::from_ref(&certificate));
        *self.state() =
            IssueState { certificate: Some(certificate), renewal, ..IssueState::default() };
    }

    /// When the certificate must be renewed; `None`: now.
    fn renewal(&self) -> Option<SystemTime> {
        self.state().renewal.filter(|at| *at > SystemTime::now())
    }
}
