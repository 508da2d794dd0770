//! Builds the listeners of a snapshot: what each listener does with its connections.
//!
//! A listener whose settings have not changed is reused.

use std::{collections::HashMap, sync::Arc};

use super::{ControlTask, apply::ApplyError};
use crate::{
    acme::ManagedCertificate,
    config::{self, Config},
    net::{
        connection_rate::ConnectionRate,
        tls::{self, Terminator, TicketKeys},
    },
    observe::Notices,
    snapshot,
};

impl ControlTask {
    /// Returns what each listener does with its connections, by name.
    ///
    /// # Errors
    /// rustls rejects the TLS settings of a listener.
    pub(super) fn listener_snapshots(
        &self,
        config: &Config,
        issued: &[Arc<ManagedCertificate>],
    ) -> Result<HashMap<Arc<str>, Arc<snapshot::ListenerSnapshot>>, ApplyError> {
        let current = self.proxy.snapshot.load();
        let mut listeners = HashMap::new();
        for listener in &config.listeners {
            let name: Arc<str> = Arc::from(listener.name.as_str());
            let before = self.config.listeners.iter().find(|l| l.name == listener.name);
            let snapshot = match (before, current.listeners.get(&name)) {
                (Some(before), Some(live)) if before == listener => Arc::clone(live),
                (_, live) => {
                    let mut snapshot = listener_snapshot(listener, &name, issued, &self.tickets)?;
                    // Open connections continue to count.
                    let counted = live.and_then(|live| live.per_address.as_ref());
                    snapshot.per_address = listener.connections_per_address.map(|most| {
                        (most, counted.map_or_else(Arc::default, |(_, open)| Arc::clone(open)))
                    });
                    let counted = live.and_then(|live| live.connection_rate.clone());
                    let same =
                        before.is_some_and(|b| b.connection_rate == listener.connection_rate);
                    snapshot.connection_rate = counted.filter(|_| same).or_else(|| {
                        let (rate, burst) = listener.connection_rate?;
                        Some(Arc::new(ConnectionRate::new(rate, burst)))
                    });
                    Arc::new(snapshot)
                }
            };
            listeners.insert(name, snapshot);
        }
        Ok(listeners)
    }
}

fn passthrough(rule: &config::PassthroughConfig) -> snapshot::PassthroughRule {
    snapshot::PassthroughRule { rule: rule.clone(), pool: Arc::from(rule.pool.as_str()) }
}

fn listener_snapshot(
    listener: &config::ListenerConfig,
    name: &Arc<str>,
    issued: &[Arc<ManagedCertificate>],
    tickets: &TicketKeys,
) -> Result<snapshot::ListenerSnapshot, ApplyError> {
    let issued = listener.protocol.acme().and_then(|acme| {
        let issued = issued.iter().find(|issued| issued.terms() == acme);
        issued.cloned()
    });
    let certificates = match (&issued, listener.protocol.tls().map(|tls| &tls.certificates)) {
        (Some(issued), _) => snapshot::ListenerCertificates::Issued(Arc::clone(issued)),
        (None, Some(config::CertificateSource::Configured(given))) => {
            snapshot::ListenerCertificates::Configured(given.clone())
        }
        (None, _) => snapshot::ListenerCertificates::Configured(Vec::new()),
    };
    let terminator = |tls: &config::TlsConfig| {
        let resolver = match &certificates {
            snapshot::ListenerCertificates::Configured(given) => {
                Arc::new(tls::CertificateResolver::new(given))
            }
            snapshot::ListenerCertificates::Issued(issued) => Arc::clone(issued.resolver()),
        };
        Terminator::new(tls, &listener.protocol.alpn(), resolver, tickets)
    };
    let tls = listener.protocol.tls().map(terminator).transpose()?;
    Ok(snapshot::ListenerSnapshot {
        name: Arc::clone(name),
        tls,
        certificates,
        http: listener.protocol.is_http(),
        pool: listener.pool.as_deref().map(Arc::from),
        passthrough: listener.passthrough.iter().map(passthrough).collect(),
        peeks_client_hello: listener.protocol == config::ListenerProtocol::TlsPassthrough
            || !listener.passthrough.is_empty(),
        proxy_protocol: listener.proxy_protocol.clone(),
        per_address: None,
        connection_rate: None,
        redirect: listener.redirect,
        handshake_timeout: listener.handshake_timeout,
        header_timeout: listener.header_timeout,
        notices: Notices::new(name),
        keep_alive: listener.keep_alive,
        header: listener.header,
    })
}
