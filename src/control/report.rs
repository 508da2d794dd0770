//! What the control task says of the process: everything in it, as the admin API shapes it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Control, drain::End, overlay::covers};
use crate::{
    admin::api::{
        BackendCondition, BackendState, CertificateState, ListenerState, PoolState, ProcessState,
        Status, Target,
    },
    config::{Balance, Certificate, Pool, Source},
    upstream::{Backend, Life},
};

/// When the process began to serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(Instant);

impl Since {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }
}

impl Control {
    /// Everything in the process.
    pub(super) fn status(&self) -> Status {
        let all = Target::default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.since.0.elapsed().as_secs_f64(),
            state: match (self.stopping, self.overlay.drains_all()) {
                (true, _) => ProcessState::Stopping,
                (false, true) => ProcessState::Draining,
                (false, false) => ProcessState::Serving,
            },
            drain: self.drains.whole().state(&self.proxy),
            connections: self.proxy.metrics.connections(),
            tunnels: self.proxy.tunnels.len() as u64,
            sessions: self.proxy.sids.len() as u64,
            listeners: self.listener_states(),
            pools: self.config.pools.iter().map(|pool| self.pool_state(pool, &all)).collect(),
            reload: self.reload.clone(),
            predecessors: self.predecessors().list(),
        }
    }

    /// The backends of a target.
    pub(super) fn states(&self, what: &Target) -> Vec<BackendState> {
        let pools = self.config.pools.iter().map(|pool| self.pool_state(pool, what));
        pools.flat_map(|pool| pool.backends).collect()
    }

    pub(super) fn listener_states(&self) -> Vec<ListenerState> {
        let addresses = self.addresses();
        let of = |name: &str| {
            let own = addresses.iter().filter(|(listener, _)| listener == name);
            own.map(|(_, address)| *address).collect()
        };
        let policies = &self.proxy.snapshot.load().listeners;
        let certificates = |name: &str| {
            let now = policies.get(name).map(|policy| policy.certificates.now());
            now.unwrap_or_default().into_iter().map(certificate_state).collect()
        };
        let listeners = self.config.listeners.iter().map(|listener| ListenerState {
            name: listener.name.clone(),
            protocol: listener.protocol.name().to_owned(),
            addresses: of(&listener.name),
            certificates: certificates(&listener.name),
            certificate_error: policies
                .get(listener.name.as_str())
                .and_then(|policy| policy.certificates.trouble()),
        });
        listeners.collect()
    }

    fn pool_state(&self, pool: &Pool, what: &Target) -> PoolState {
        // In the order of the configuration, then those on their way out.
        let place = |backend: &Backend| {
            let place = pool.backends.iter().position(|wanted| backend.is(&pool.name, wanted));
            place.unwrap_or(usize::MAX)
        };
        let mut backends: Vec<_> = self
            .backends
            .iter()
            .filter(|backend| backend.pool() == pool.name && covers(what, &own(backend)))
            .collect();
        backends.sort_by_key(|backend| place(backend));
        PoolState {
            name: pool.name.clone(),
            balance: match pool.balance {
                Balance::LeastSessions => "least-sessions",
                Balance::RoundRobin => "round-robin",
                Balance::P2c => "p2c",
                Balance::SourceHash => "source-hash",
            }
            .to_owned(),
            source: match pool.source {
                None => "configuration",
                Some(Source::Dns(_)) => "dns",
                Some(Source::Srv(_)) => "srv",
                Some(Source::Http(_)) => "http",
            }
            .to_owned(),
            source_error: self.overlay.source_error(&pool.name).map(str::to_owned),
            backends: backends.into_iter().map(|backend| self.state_of(backend)).collect(),
        }
    }

    fn state_of(&self, backend: &Backend) -> BackendState {
        let drain = self.drains.state(backend, &self.proxy);
        let before = self.predecessors().tunnels_of(backend);
        BackendState {
            pool: backend.pool().to_owned(),
            name: backend.name().to_owned(),
            address: backend.address().to_string(),
            origin: self.overlay.origin(backend.pool(), backend.name(), backend.address()),
            state: self.condition(backend),
            weight: backend.weight(),
            ramp: backend.ramp(),
            sessions: backend.sessions() as u64 + before,
            tunnels: self.proxy.tunnels.of(backend.serial()) as u64 + before,
            requests: backend.requests() as u64,
            drain,
        }
    }

    fn condition(&self, backend: &Backend) -> BackendCondition {
        match backend.phase() {
            Life::Gone => BackendCondition::Leaving,
            Life::Draining if self.drains.drains_to(backend.serial()) == Some(End::Goes) => {
                BackendCondition::Leaving
            }
            Life::Draining if self.is_empty(backend) => BackendCondition::Drained,
            Life::Draining => BackendCondition::Draining,
            Life::Serving if !backend.is_up() => BackendCondition::Down,
            Life::Serving if backend.is_ejected() => BackendCondition::Ejected,
            Life::Serving if backend.ramp() < 1.0 => BackendCondition::SlowStart,
            Life::Serving => BackendCondition::Up,
        }
    }

    /// Whether nothing is left on a backend, here and in the processes before this one.
    fn is_empty(&self, backend: &Backend) -> bool {
        backend.sessions() == 0 && backend.requests() == 0 && !self.predecessors().may_hold(backend)
    }
}

fn certificate_state(certificate: Certificate) -> CertificateState {
    let expires = certificate.validity().map(|(_, to)| to);
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    CertificateState { names: certificate.names, expires: expires.map(since) }
}

fn own(backend: &Backend) -> Target {
    Target { pool: Some(backend.pool().to_owned()), backend: Some(backend.name().to_owned()) }
}
