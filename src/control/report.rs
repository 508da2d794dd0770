//! The state of the process for the admin API.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{ControlTask, drain::DrainEnd, held::HeldCount, overlay::covers};
use crate::{
    api::{
        BackendCondition, BackendState, BackendTarget, CertificateState, CheckFailureInfo,
        ListenerState, PoolState, ProcessState, Status,
    },
    config::{BackendSource, Balance, Certificate, PoolConfig},
    upstream::{Backend, Lifecycle},
};

/// When the process started to serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartTime(Instant);

impl StartTime {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }
}

impl ControlTask {
    /// Returns the state of the process.
    pub(super) fn status(&self) -> Status {
        let all = BackendTarget::default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.0.elapsed().as_secs_f64(),
            state: match (self.shutting_down, self.overlay.drains_all()) {
                (true, _) => ProcessState::Stopping,
                (false, true) => ProcessState::Draining,
                (false, false) => ProcessState::Serving,
            },
            drain: self.drains.shutdown().state(&self.proxy),
            connections: self.proxy.metrics.connections()
                + self.proxy.tunnels.len() as u64
                + self.predecessors().tunnels(),
            tunnels: self.backends.iter().map(|backend| self.held(backend).tunnels).sum(),
            sessions: self.backends.iter().map(|backend| self.held(backend).sessions).sum(),
            listeners: self.listener_states(),
            pools: self.pool_states(&all),
            reload: self.reload.clone(),
            predecessors: self.predecessors().list(),
        }
    }

    /// Returns the states of the backends of a target.
    pub(super) fn states(&self, target: &BackendTarget) -> Vec<BackendState> {
        let pools = self.config.pools.iter().map(|pool| self.pool_state(pool, target, |_| true));
        pools.flat_map(|pool| pool.backends).collect()
    }

    /// Counts what a backend holds.
    pub(super) fn held(&self, backend: &Backend) -> HeldCount {
        HeldCount::of(backend, &self.proxy, self.predecessors())
    }

    /// Returns the pools of the configuration, and removed pools that still hold something. Removed
    /// backends that hold nothing are omitted: they stay only for session ids that this process does not know.
    fn pool_states(&self, target: &BackendTarget) -> Vec<PoolState> {
        let holds = |backend: &Backend| {
            self.condition(backend) != BackendCondition::Leaving || !self.is_empty(backend)
        };
        let shown = |pool: &PoolConfig, removed: bool| PoolState {
            removed,
            ..self.pool_state(pool, target, holds)
        };
        let present = self.config.pools.iter().map(|pool| shown(pool, false));
        let left = self.removed_pools.iter().map(|pool| shown(pool, true));
        present.chain(left.filter(|pool| !pool.backends.is_empty())).collect()
    }

    pub(super) fn listener_states(&self) -> Vec<ListenerState> {
        let addresses = self.addresses();
        let of = |name: &str| {
            let own = addresses.iter().filter(|(listener, _)| listener == name);
            own.map(|(_, address)| *address).collect()
        };
        let policies = &self.proxy.snapshot.load().listeners;
        let certificates = |name: &str| {
            let now = policies.get(name).map(|policy| policy.certificates.current());
            now.unwrap_or_default().into_iter().map(certificate_state).collect()
        };
        let listeners = self.config.listeners.iter().map(|listener| ListenerState {
            name: listener.name.clone(),
            protocol: listener.protocol.name().to_owned(),
            addresses: of(&listener.name),
            certificates: certificates(&listener.name),
            certificate_error: policies
                .get(listener.name.as_str())
                .and_then(|policy| policy.certificates.error()),
        });
        listeners.collect()
    }

    fn pool_state(
        &self,
        pool: &PoolConfig,
        target: &BackendTarget,
        is_shown: impl Fn(&Backend) -> bool,
    ) -> PoolState {
        // In the order of the configuration, then removed backends.
        let place = |backend: &Backend| {
            let place = pool.backends.iter().position(|wanted| backend.is(&pool.name, wanted));
            place.unwrap_or(usize::MAX)
        };
        let mut backends: Vec<_> = self
            .backends
            .iter()
            .filter(|backend| backend.pool() == pool.name && covers(target, &own(backend)))
            .filter(|backend| is_shown(backend))
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
                Some(BackendSource::Dns(_)) => "dns",
                Some(BackendSource::Srv(_)) => "srv",
                Some(BackendSource::Http(_)) => "http",
            }
            .to_owned(),
            source_error: self.overlay.source_error(&pool.name).map(str::to_owned),
            removed: false,
            backends: backends.into_iter().map(|backend| self.state_of(backend)).collect(),
        }
    }

    pub(super) fn state_of(&self, backend: &Backend) -> BackendState {
        let drain = self.drains.state(backend, &self.proxy);
        let HeldCount { tunnels, sessions } = self.held(backend);
        BackendState {
            pool: backend.pool().to_owned(),
            name: backend.name().to_owned(),
            address: backend.address().to_string(),
            origin: self.overlay.origin(backend.pool(), backend.name(), backend.address()),
            state: self.condition(backend),
            weight: backend.weight(),
            backup: backend.is_backup(),
            ramp: backend.ramp(),
            sessions,
            tunnels,
            requests: backend.requests() as u64,
            since: unix(backend.diagnosis().since()),
            reason: reason(backend),
            last_failure: backend.diagnosis().last_failure().map(|failure| CheckFailureInfo {
                at: unix(failure.at),
                reason: failure.reason.to_string(),
            }),
            continues_as: self.drains.continues_as(backend.serial()).map(BackendTarget::to_string),
            drain,
        }
    }

    fn condition(&self, backend: &Backend) -> BackendCondition {
        match backend.lifecycle() {
            Lifecycle::Evicted => BackendCondition::Leaving,
            Lifecycle::Draining
                if self.drains.end_of(backend.serial()) == Some(DrainEnd::Remove) =>
            {
                BackendCondition::Leaving
            }
            Lifecycle::Draining if self.is_empty(backend) => BackendCondition::Drained,
            Lifecycle::Draining => BackendCondition::Draining,
            Lifecycle::Serving if !backend.is_up() => BackendCondition::Down,
            Lifecycle::Serving if backend.is_ejected() => BackendCondition::Ejected,
            Lifecycle::Serving if backend.is_standby() => BackendCondition::Standby,
            Lifecycle::Serving if backend.ramp() < 1.0 => BackendCondition::SlowStart,
            Lifecycle::Serving => BackendCondition::Up,
        }
    }

    /// Whether a backend holds nothing, in this process and its predecessors.
    pub(super) fn is_empty(&self, backend: &Backend) -> bool {
        backend.sessions() == 0 && backend.requests() == 0 && !self.predecessors().may_hold(backend)
    }
}

fn certificate_state(certificate: Certificate) -> CertificateState {
    let expires = certificate.validity().map(|(_, to)| to);
    CertificateState { names: certificate.names, expires: expires.map(unix) }
}

/// Returns why a backend takes no new sessions, if its health is the reason.
fn reason(backend: &Backend) -> Option<String> {
    let diagnosis = backend.diagnosis();
    if !backend.is_up() {
        let failure = diagnosis.last_failure();
        let reason = failure.map(|failure| failure.reason.to_string());
        // The previous process has found it down.
        return Some(reason.unwrap_or_else(|| "not checked by this process yet".to_owned()));
    }
    diagnosis.ejection().filter(|_| backend.is_ejected()).map(str::to_owned)
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn own(backend: &Backend) -> BackendTarget {
    BackendTarget {
        pool: Some(backend.pool().to_owned()),
        backend: Some(backend.name().to_owned()),
    }
}
