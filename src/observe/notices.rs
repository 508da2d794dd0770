//! Warnings that traffic could cause at any rate: each is logged once per listener.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Why forwarding fields of a trusted peer are not used as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingFault {
    /// Parts of this field are malformed.
    Unreadable(&'static str),
    /// `Forwarded` and `X-Forwarded-*` contradict each other.
    Contradiction,
}

/// Warnings that have been logged for one listener.
#[derive(Debug, Default)]
pub struct Notices {
    listener: Arc<str>,
    dropped: AtomicBool,
    unreadable: AtomicBool,
    contradiction: AtomicBool,
}

impl Notices {
    /// Creates the state for a listener without any warnings yet.
    pub fn new(listener: &Arc<str>) -> Self {
        Self { listener: Arc::clone(listener), ..Self::default() }
    }

    /// Warns that forwarding fields of an untrusted peer were dropped; `field` is the name of one, in lower case.
    pub fn dropped(&self, field: &str, peer: IpAddr) {
        if first(&self.dropped) {
            let (listener, peer) = (&*self.listener, peer.to_canonical());
            tracing::warn!(
                listener,
                "dropped {} sent by {peer}: this peer is not a trusted proxy; if it is your load balancer, \
                 set trusted_proxies = [\"{peer}\"]; further cases on this listener are not logged",
                shown(field),
            );
        }
    }

    /// Warns that forwarding fields of a trusted peer are not used as sent.
    pub fn forwarding_fault(&self, fault: ForwardingFault, peer: IpAddr) {
        let (listener, peer) = (&*self.listener, peer.to_canonical());
        match fault {
            ForwardingFault::Unreadable(field) if first(&self.unreadable) => tracing::warn!(
                listener,
                "{field} sent by trusted proxy {peer} cannot be read; the part that cannot be read is \
                 ignored; check what this proxy sends; further cases on this listener are not logged",
            ),
            ForwardingFault::Contradiction if first(&self.contradiction) => tracing::warn!(
                listener,
                "Forwarded and X-Forwarded-* sent by trusted proxy {peer} contradict each other; \
                 X-Forwarded-* is used; let this proxy remove the Forwarded field of its clients; \
                 further cases on this listener are not logged",
            ),
            _ => {}
        }
    }
}

/// Whether the flag was not set before; otherwise only a plain read.
fn first(logged: &AtomicBool) -> bool {
    !logged.load(Ordering::Relaxed) && !logged.swap(true, Ordering::Relaxed)
}

/// Formats a field name in its usual case, such as `X-Forwarded-For`.
fn shown(name: &str) -> String {
    let part = |part: &str| match part {
        "ip" => "IP".to_owned(),
        part => part[..1].to_uppercase() + &part[1..],
    };
    name.split('-').filter(|part| !part.is_empty()).map(part).collect::<Vec<_>>().join("-")
}
