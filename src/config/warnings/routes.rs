//! Routes that no request follows because of conditions.

use super::{
    super::{CertificateCondition, Config, ListenerConfig, RouteConfig},
    WarningCollector,
};

/// Warns of routes with conditions that an earlier route takes all requests of, or that no request meets.
pub(super) fn routes(found: &mut WarningCollector<'_>) {
    let config = found.config;
    let conditional = |route: &&RouteConfig| !route.conditions.is_empty();
    for (index, route) in config.routes.iter().enumerate() {
        if !conditional(&route) || route.conditions.operation.is_some() {
            continue;
        }
        let path = format!("routes[{index}].match");
        let earlier = config.routes[..index].iter().filter(conditional);
        if let Some(first) = earlier.filter(|first| shares_place(first, route)).find(|first| {
            let all = first.listeners.is_empty();
            let listens = |name: &String| first.listeners.contains(name);
            let covers = all || !route.listeners.is_empty() && route.listeners.iter().all(listens);
            covers && first.conditions.cover(&route.conditions)
        }) {
            let message = format!(
                "no request follows the route {route}: the route {first} takes them before"
            );
            found.add(&path, message, "write the route with more conditions first");
        }
        let needs = matches!(
            route.conditions.certificate,
            Some(CertificateCondition::Present | CertificateCondition::Identity { .. })
        );
        if needs && !asks_for_certificates(config, route) {
            let message = format!(
                "no request follows the route {route}: none of its listeners asks clients for a certificate"
            );
            let help = "set `tls.client_auth` of the listener, or remove `certificate`";
            found.add(&format!("{path}.certificate"), message, help);
        }
    }
}

/// Whether two routes have the same host and path.
fn shares_place(one: &RouteConfig, other: &RouteConfig) -> bool {
    let plain = |route: &RouteConfig| {
        super::super::path::normal(&route.path).trim_end_matches('/').to_owned()
    };
    one.host == other.host && plain(one) == plain(other)
}

fn asks_for_certificates(config: &Config, route: &RouteConfig) -> bool {
    let follows = |listener: &&ListenerConfig| {
        route.listeners.is_empty() || route.listeners.contains(&listener.name)
    };
    let asks = |listener: &ListenerConfig| {
        listener.protocol.tls().is_some_and(|tls| tls.client_auth.is_some())
    };
    config.listeners.iter().filter(follows).any(asks)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::super::check, *};

    /// The warnings about routes with these conditions.
    fn warnings(conditions: &[&str]) -> Vec<String> {
        let mut text = "listeners.web.bind = \"127.0.0.1:0\"\n".to_owned();
        for condition in conditions {
            text += &format!("[[routes]]\npool = \"app\"\nmatch = {{ {condition} }}\n");
        }
        text += "[pools.app]\nbackends = [\"127.0.0.1:1\"]\n";
        let config = check::text(&text, Path::new("m.toml")).unwrap();
        let mut found = WarningCollector { config: &config, warnings: Vec::new() };
        routes(&mut found);
        found.warnings.into_iter().map(|warning| warning.message).collect()
    }

    #[test]
    fn a_route_behind_a_wider_one_is_reported() {
        let (wide, strict) = ("method = \"GET\"", "method = \"GET\", header = { X-Beta = \"1\" }");
        assert_eq!(warnings(&[strict, wide]), [""; 0]);
        let [message] = &warnings(&[wide, strict])[..] else { panic!("one warning") };
        assert_eq!(
            message,
            "no request follows the route / (method GET, header X-Beta = 1): the route / (method GET) takes them before"
        );
    }

    #[test]
    fn a_route_for_certificates_needs_a_listener_that_asks_for_them() {
        assert_eq!(warnings(&["certificate = true"]).len(), 1);
        assert_eq!(warnings(&["certificate = false"]), [""; 0]);
    }
}
