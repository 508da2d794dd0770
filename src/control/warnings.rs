//! What is accepted but should not go unnoticed.

use crate::{
    config::{Config, Listener},
    net::tls,
};

/// Says what of the listeners' TLS gives them away, or is out of date: at every start, and again
/// where a reload has changed the listener.
pub(super) fn of_listeners(config: &Config, before: &Config) {
    let changed = |listener: &&Listener| !before.listeners.contains(listener);
    for listener in config.listeners.iter().filter(changed) {
        let Some(tls) = listener.protocol.tls() else { continue };
        let name = &listener.name;
        if let Some(file) = &tls.key_log {
            let file = file.display();
            tracing::warn!(listener = name, %file, "the secrets of every TLS session are written to a file");
        }
        let lists = tls.client_auth.as_ref().map_or(&[][..], |auth| &auth.crl);
        let overdue = tls::overdue(lists);
        if overdue > 0 {
            tracing::warn!(
                listener = name,
                lists = overdue,
                "revocation lists are overdue; they count on"
            );
        }
    }
}
