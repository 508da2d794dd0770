//! Connections that carry layer-4 streams and have no route.

use super::request::ExplainedRequest;
use crate::{
    api::{Explanation, ListenerState},
    snapshot::{PoolSnapshot, Snapshot},
};

/// Destination of a layer-4 stream.
pub(super) enum StreamTarget<'s> {
    To(&'s PoolSnapshot),
    Nowhere,
}

/// Returns where a connection goes that carries a layer-4 stream, or `None` if requests are read from it.
/// Adds the listener and the steps to `explanation`.
pub(super) fn streams<'s>(
    request: &ExplainedRequest,
    listeners: &'s [ListenerState],
    snapshot: &'s Snapshot,
    explanation: &mut Explanation,
) -> Option<StreamTarget<'s>> {
    if request.stream && request.port.is_none() {
        explanation.steps.push("A layer-4 stream needs a port, and the URL has none.".to_owned());
        return Some(StreamTarget::Nowhere);
    }
    let port = request.port();
    let name = Some(request.host.as_str()).filter(|_| request.tls);
    let mut here = listeners.iter().filter(|l| l.addresses.iter().any(|a| a.port() == port));
    let Some(found) = here.find_map(|listener| StreamListener::of(listener, name, snapshot)) else {
        let none = format!("No listener accepts layer-4 streams on port {port}.");
        return request.stream.then(|| {
            explanation.steps.push(none);
            StreamTarget::Nowhere
        });
    };
    explanation.listener = Some(found.listener.name.clone());
    explanation.steps.push(found.sentence(&request.host));
    Some(found.pool.map_or(StreamTarget::Nowhere, StreamTarget::To))
}

/// A listener that treats a connection as a layer-4 stream.
struct StreamListener<'s> {
    listener: &'s ListenerState,
    /// The pool that the connection goes to; `None`: the connection is closed.
    pool: Option<&'s PoolSnapshot>,
    /// Whether a passthrough rule covers the name.
    ruled: bool,
}

impl<'s> StreamListener<'s> {
    /// Returns what this listener does with a TLS connection for `name`, or with a plain one. `None`: it
    /// reads requests.
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
                "No rule of listener {name} covers the name {host}: the connection is closed with an alert."
            );
        };
        match self.ruled {
            true => format!(
                "Listener {name} passes connections for {host} on to pool {pool}, undecrypted; routes are \
                 not used."
            ),
            false => format!(
                "Listener {name} passes bytes on to pool {pool}: its protocol {protocol} has no routes."
            ),
        }
    }
}
