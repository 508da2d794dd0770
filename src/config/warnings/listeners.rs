//! Listeners and routes that contradict each other or what is in front of the proxy.

use std::time::Duration;

use ipnet::IpNet;

use super::{
    super::{Config, ListenerConfig, ListenerProtocol},
    WarningCollector,
};

/// Idle timeout of the usual cloud balancers. A connection must be kept for longer: the balancer would
/// send a request while the proxy closes.
const BALANCER_IDLE: Duration = Duration::from_secs(60);

/// Warns of listeners, of routes that no request reaches, and of proxies in front.
pub(super) fn listeners(found: &mut WarningCollector<'_>) {
    let config = found.config;
    for listener in config.listeners.iter().filter(|listener| listener.protocol.is_http()) {
        redirects(found, listener);
        unrouted(found, listener);
        keep_alive(found, listener);
    }
    for (index, route) in config.routes.iter().enumerate() {
        let of_route = |listener: &&ListenerConfig| route.listeners.contains(&listener.name);
        let mut named = config.listeners.iter().filter(of_route).peekable();
        if named.peek().is_some() && named.all(|listener| listener.redirect.is_some()) {
            let message = format!(
                "no request follows the route {route}: its listeners redirect every request"
            );
            let help = "name the listener that the redirect leads to, or remove `listeners`";
            found.add(&format!("routes[{index}].listeners"), message, help);
        }
    }
    trust(found);
}

/// A redirect to https without an https listener.
fn redirects(found: &mut WarningCollector<'_>, listener: &ListenerConfig) {
    let config = found.config;
    let secure =
        config.listeners.iter().any(|other| matches!(other.protocol, ListenerProtocol::Https(_)));
    let layer_4 = config.listeners.iter().any(|other| {
        matches!(other.protocol, ListenerProtocol::TlsPassthrough | ListenerProtocol::Tls(_))
    });
    if listener.redirect.is_some() && !secure && !layer_4 && !only_redirects(config) {
        let message =
            format!("listener {} redirects to https, but no listener serves https", listener.name);
        let help = "add an https listener; if a proxy in front terminates TLS, remove `redirect`: the redirect \
                    would have no end";
        found.add(&format!("listeners.{}.redirect", listener.name), message, help);
    }
}

/// Whether a process only redirects, and another one serves https.
fn only_redirects(config: &Config) -> bool {
    config.pools.is_empty()
}

/// A listener that no route is for.
fn unrouted(found: &mut WarningCollector<'_>, listener: &ListenerConfig) {
    let routes = &found.config.routes;
    let routed = routes
        .iter()
        .any(|route| route.listeners.is_empty() || route.listeners.contains(&listener.name));
    if listener.redirect.is_none() && !routed {
        let message =
            format!("no route is for the listener {}: every request gets an error", listener.name);
        let help = format!("add \"{}\" to the `listeners` of a route", listener.name);
        found.add(&format!("listeners.{}", listener.name), message, help);
    }
}

/// A connection that a balancer in front keeps for longer than the proxy.
fn keep_alive(found: &mut WarningCollector<'_>, listener: &ListenerConfig) {
    let behind = !found.config.trusted_proxies.is_empty() || listener.proxy_protocol.is_some();
    if behind && listener.keep_alive <= BALANCER_IDLE {
        let message = format!(
            "`keep_alive` of {} is not longer than the 60s for which balancers in front keep idle connections: \
             some of their requests fail with 502",
            humantime::format_duration(listener.keep_alive)
        );
        let help = "use more than the idle timeout of the balancer, for example \"75s\"";
        found.add(&format!("listeners.{}.keep_alive", listener.name), message, help);
    }
}

/// Trust in every address.
fn trust(found: &mut WarningCollector<'_>) {
    let every = |networks: &[IpNet]| networks.iter().any(|network| network.prefix_len() == 0);
    let help = "write the addresses of the proxies in front";
    let config = found.config;
    if every(&config.trusted_proxies) {
        let message =
            "`trusted_proxies` has every address: each client can claim the address of another";
        found.add("trusted_proxies", message, help);
    }
    for listener in &config.listeners {
        let from = listener.proxy_protocol.as_ref().map(|proxy| &proxy.from);
        if from.is_some_and(|from| every(from) && *from != config.trusted_proxies) {
            let message = format!(
                "listener {} takes PROXY headers from every address: each client can claim the address of another",
                listener.name
            );
            found.add(&format!("listeners.{}.proxy_protocol", listener.name), message, help);
        }
    }
}
