//! Which clients may use a route.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::AddressRules;

/// Whether a client may use the route. Denied networks count first.
pub(super) fn may_use(rules: &AddressRules, client: IpAddr) -> bool {
    !contains(&rules.deny, client) && (rules.allow.is_empty() || contains(&rules.allow, client))
}

/// Whether one of the networks contains the address.
pub(super) fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_denied_client_is_denied_even_if_it_is_allowed() {
        let rules = AddressRules {
            allow: networks(&["10.0.0.0/8", "2001:db8::/32"]),
            deny: networks(&["10.1.0.0/16"]),
        };
        for (client, expected) in [
            ("10.2.0.1", true),
            ("::ffff:10.2.0.1", true),
            ("10.1.2.3", false),
            ("::ffff:10.1.2.3", false),
            ("192.0.2.1", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(may_use(&rules, client.parse().unwrap()), expected, "{client}");
        }
        let open = AddressRules { allow: Vec::new(), ..rules };
        assert!(may_use(&open, "192.0.2.1".parse().unwrap()));
        assert!(!may_use(&open, "10.1.2.3".parse().unwrap()));
    }
}
