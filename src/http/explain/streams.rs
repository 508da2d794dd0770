//! Connections that are streams of layer 4, which no route is asked for.

use super::asked::Asked;
use crate::{
    api::{Explanation, ListenerState},
    snapshot::{PoolSnapshot, Snapshot},
};

/// Where a stream of layer 4 goes.
pub(super) enum Led<'s> {
    To(&'s PoolSnapshot),
    Nowhere,
}

/// Says where a connection goes that is a stream of layer 4; `None`: it is not one.
pub(super) fn streams<'s>(
    asked: &Asked,
    listeners: &'s [ListenerState],
    snapshot: &'s Snapshot,
    told: &mut Explanation,
) -> Option<Led<'s>> {
    if asked.stream && asked.port.is_none() {
        told.steps.push("A stream of layer 4 goes to a port, and the URL has none.".to_owned());
        return Some(Led::Nowhere);
    }
    let port = asked.port();
    let name = Some(asked.host.as_str()).filter(|_| asked.tls);
    let mut here = listeners.iter().filter(|l| l.addresses.iter().any(|a| a.port() == port));
    let Some(door) = here.find_map(|listener| Door::of(listener, name, snapshot)) else {
        let none = format!("No listener accepts streams of layer 4 on port {port}.");
        return asked.stream.then(|| {
            told.steps.push(none);
            Led::Nowhere
        });
    };
    told.listener = Some(door.listener.name.clone());
    told.steps.push(door.sentence(&asked.host));
    Some(door.pool.map_or(Led::Nowhere, Led::To))
}

/// A listener that takes a connection for a stream.
struct Door<'s> {
    listener: &'s ListenerState,
    /// Where it goes; `None`: nowhere.
    pool: Option<&'s PoolSnapshot>,
    /// By a rule about its name.
    ruled: bool,
}

impl<'s> Door<'s> {
    /// What this listener does with TLS for `name`, or with a connection in the clear; `None`: it reads
    /// requests from it.
    fn of(listener: &'s ListenerState, name: Option<&str>, snapshot: &'s Snapshot) -> Option<Self> {
        let policy = snapshot.listeners.get(listener.name.as_str())?;
        let mut rules = policy.passthrough.iter();
        let rule = name.and_then(|name| rules.find(|passed| passed.rule.names(name)));
        if rule.is_none() && policy.http {
            return None;
        }
        let pool = rule.map(|passed| &passed.pool).or(policy.pool.as_ref());
        let pool = pool.and_then(|pool| snapshot.pool(pool)).map(|pool| &**pool);
        Some(Self { listener, pool, ruled: rule.is_some() })
    }

    fn sentence(&self, host: &str) -> String {
        let ListenerState { name, protocol, .. } = self.listener;
        let Some(pool) = self.pool.map(|pool| pool.upstream.name()) else {
            return format!(
                "No rule of listener {name} covers the name {host}: the connection is closed after an alert."
            );
        };
        match self.ruled {
            true => format!(
                "Listener {name} passes connections for {host} on to pool {pool}, undecrypted; routes are \
                 not asked."
            ),
            false => format!(
                "Listener {name} passes bytes on to pool {pool}; it speaks {protocol}, which has no routes."
            ),
        }
    }
}
