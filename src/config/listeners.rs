//! `[listeners.NAME]`: addresses that accept connections, and their protocols.

mod claims;
mod protocol;

use std::{collections::HashMap, net::SocketAddr, num::NonZeroU32, path::PathBuf};

use ipnet::IpNet;

pub(super) use self::claims::AddressClaims;
use self::protocol::{PROTOCOLS, ProtocolKind, refuse_unused_keys};
use super::{
    Acme, CertificateSource, ListenerConfig, ListenerProtocol, PassthroughConfig, ProxyIn, Rate,
    Redirect, TlsConfig,
    address::{bind, host_pattern},
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    names, networks, resilience, routes, schema, tls,
};

/// The ALPN protocol of the TLS-ALPN-01 challenge (RFC 8737).
const ACME_ALPN: &str = "acme-tls/1";

/// Reads every listener, in file order. `trusted`: the default peers for PROXY headers.
pub(super) fn all(
    top: &TomlTable<'_>,
    claims: &mut AddressClaims,
    trusted: &[IpNet],
) -> Vec<ListenerConfig> {
    let typed = top.value("listeners");
    let named = typed.map(|value| value.named()).unwrap_or_default();
    // A value of another type has its own fault.
    if named.is_empty()
        && typed.is_none_or(|value| value.node.get_ref().is_table())
        && !top.misspells("listeners")
    {
        let wrong = InvalidValue::new("there is no listener")
            .help("add `[listeners.web]` with `bind = \"0.0.0.0:8080\"`");
        top.file().missing(top.at(), wrong);
    }
    let pools = routes::pools(top);
    let references = References { trusted, pools: pools.as_deref() };
    let mut accounts = HashMap::new();
    named
        .into_iter()
        .filter_map(|(at, name, value)| {
            names::check(top.file(), &at, name);
            let table = value.table(&schema::LISTENER, "a table with `bind`")?;
            let listener = listener(name, &table, claims, &references);
            if let (Some(terms), Some(value)) =
                (listener.protocol.acme(), table.value("certificates"))
            {
                reject_passed_through_domains(terms, &listener.passthrough, &value);
                reject_second_email(terms, &value, &mut accounts);
            }
            Some(listener)
        })
        .collect()
}

/// Notes ACME domains whose connections, and so their challenges, are passed through.
fn reject_passed_through_domains(
    terms: &Acme,
    rules: &[PassthroughConfig],
    certificates: &TomlValue<'_>,
) {
    let challenges = |rule: &PassthroughConfig| {
        rule.alpn.is_empty() || rule.alpn.iter().any(|name| name == ACME_ALPN)
    };
    let passed_through = |name: &String| {
        let covers = |rule: &PassthroughConfig| rule.sni.is_empty() || rule.names(name);
        rules.iter().any(|rule| covers(rule) && challenges(rule))
    };
    if let Some(name) = terms.domains.iter().find(|name| passed_through(name)) {
        let name = quoted(name);
        let message = format!("a `passthrough` rule forwards connections for {name} undecrypted");
        certificates.fault(InvalidValue::new(message).help(
            "the server that decrypts them must order the certificate: remove the name here, or the rule",
        ));
    }
}

/// Notes an ACME account with two e-mail addresses.
fn reject_second_email(
    terms: &Acme,
    certificates: &TomlValue<'_>,
    accounts: &mut HashMap<(PathBuf, String), Option<String>>,
) {
    let account = (terms.storage.clone(), terms.directory.clone());
    if *accounts.entry(account).or_insert_with(|| terms.email.clone()) != terms.email {
        let wrong =
            InvalidValue::new("another listener uses this ACME account with another `email`");
        certificates.fault(wrong.help("write the same `email`, or another `storage`"));
    }
}

/// Other parts of the configuration that a listener refers to.
struct References<'t> {
    trusted: &'t [IpNet],
    /// Names of the pools; `None`: they are not known.
    pools: Option<&'t [&'t str]>,
}

impl References<'_> {
    fn pool(&self, value: &TomlValue<'_>) -> Option<String> {
        routes::known_pool(value, self.pools)
    }
}

/// Rate of new connections per client address, and their burst.
fn connection_rate(table: &TomlTable<'_>) -> Option<(Rate, u32)> {
    if table.value("connection_rate").is_none() {
        table.refuse(&["connection_burst"], |key| {
            InvalidValue::new(format!("`{key}` needs a rate"))
                .help("add `connection_rate = \"20/s\"`")
        });
    }
    let burst = table.value("connection_burst").and_then(|value| value.integer(1..=1_000_000));
    let rate = table.value("connection_rate")?.rate()?;
    Some((rate, burst.unwrap_or(rate.times)))
}

fn listener(
    name: &str,
    table: &TomlTable<'_>,
    claims: &mut AddressClaims,
    references: &References<'_>,
) -> ListenerConfig {
    let addresses = table
        .need("bind", "`bind = \"0.0.0.0:8080\"`")
        .map(|value| addresses(&value, claims))
        .unwrap_or_default();
    let kind = match table.value("protocol") {
        Some(value) => value.choice(&PROTOCOLS),
        None => Some(ProtocolKind::Http),
    };
    if let Some(kind) = kind {
        refuse_unused_keys(kind, table);
    }
    let protocol = protocol(kind, table);
    let mut listener = ListenerConfig::new(name, addresses, protocol);
    listener.pool = pool(kind, table, references);
    if let Some(value) = table.value("passthrough") {
        listener.passthrough = passthrough(&value, references);
    }
    listener.proxy_protocol =
        table.value("proxy_protocol").and_then(|value| proxy_protocol(&value, references.trusted));
    listener.connections_per_address = table
        .value("connections_per_address")
        .and_then(|value| value.integer(1..=u32::MAX))
        .and_then(NonZeroU32::new);
    listener.connection_rate = connection_rate(table);
    listener.redirect = table.value("redirect").and_then(|value| value.parsed(redirect));
    listener.handshake_timeout = table.deadline("handshake_timeout", listener.handshake_timeout);
    listener.header_timeout = table.deadline("header_timeout", listener.header_timeout);
    listener.keep_alive = table.deadline("keep_alive", listener.keep_alive);
    listener.header = resilience::header_limits(table, listener.header);
    listener
}

fn protocol(kind: Option<ProtocolKind>, table: &TomlTable<'_>) -> ListenerProtocol {
    let terminates = kind.is_none_or(ProtocolKind::terminates);
    let certificates = table.value("certificates").filter(|_| terminates);
    if let (Some(kind), None, true) = (kind, certificates, terminates) {
        let article = if kind == ProtocolKind::Https { "an" } else { "a" };
        let wrong = InvalidValue::new(format!(
            "{article} {} listener needs `certificates`",
            kind.name()
        ))
        .help("write `certificates = [{ cert = \"certs/site.pem\", key = \"certs/site.key\" }]`");
        table.file().missing(table.at(), wrong);
    }
    let certificates = certificates.and_then(|value| tls::certificates(&value));
    let mut tls = TlsConfig::new(certificates.unwrap_or(CertificateSource::Configured(Vec::new())));
    if let Some(value) = table.value("tls").filter(|_| terminates) {
        tls::settings(&value, &mut tls, kind == Some(ProtocolKind::Https));
    }
    match kind {
        Some(ProtocolKind::Https) => ListenerProtocol::Https(tls),
        Some(ProtocolKind::Tls) => ListenerProtocol::Tls(tls),
        Some(ProtocolKind::Tcp) => ListenerProtocol::Tcp,
        Some(ProtocolKind::Passthrough) => ListenerProtocol::TlsPassthrough,
        Some(ProtocolKind::Http) | None => ListenerProtocol::Http,
    }
}

/// Reads the pool of a layer-4 listener. The default is the only pool.
fn pool(
    kind: Option<ProtocolKind>,
    table: &TomlTable<'_>,
    references: &References<'_>,
) -> Option<String> {
    let kind = kind.filter(|kind| !kind.is_http())?;
    if let Some(value) = table.value("pool") {
        return references.pool(&value);
    }
    let rules = table.value("passthrough").is_some();
    match references.pools? {
        _ if kind == ProtocolKind::Passthrough && rules => None,
        [only] => Some((*only).to_owned()),
        pools => {
            if table.misspells("pool") {
                return None;
            }
            let wrong = InvalidValue::new(format!("this {} listener has no pool", kind.name()));
            let name = pools.first().copied().unwrap_or("NAME");
            table.file().missing(table.at(), wrong.help(format!("add `pool = \"{name}\"`")));
            None
        }
    }
}

fn passthrough(value: &TomlValue<'_>, references: &References<'_>) -> Vec<PassthroughConfig> {
    let Some(elements) = value.elements() else {
        value.wrong_type("an array of tables `{ sni = \"…\", pool = \"…\" }`");
        return Vec::new();
    };
    let rules = elements.filter_map(|element| {
        let wanted = "a table such as `{ sni = \"db.example.com\", pool = \"NAME\" }`";
        let table = element.table(&schema::PASSTHROUGH, wanted)?;
        let sni = table.value("sni").map(|value| value.strings(host_pattern));
        let alpn = table.value("alpn").map(|value| value.strings(tls::alpn_protocol));
        if sni.is_none() && alpn.is_none() {
            let wrong = InvalidValue::new("this rule has no condition");
            let help = "add one: `sni = \"db.example.com\"` or `alpn = \"h2\"`";
            element.fault(wrong.help(help));
        }
        let pool =
            table.need("pool", "`pool = \"NAME\"`").and_then(|value| references.pool(&value));
        let (sni, alpn) = (sni.unwrap_or_default(), alpn.unwrap_or_default());
        Some(PassthroughConfig { sni, alpn, pool: pool? })
    });
    rules.collect()
}

/// Reads `"required"`, `"optional"`, or a table with the trusted peers.
fn proxy_protocol(value: &TomlValue<'_>, trusted: &[IpNet]) -> Option<ProxyIn> {
    let modes = [("required", true), ("optional", false)];
    let (required, from) = if value.node.get_ref().is_str() {
        (value.choice(&modes)?, None)
    } else {
        let wanted = "\"required\", \"optional\" or a table `{ mode = …, from = […] }`";
        let table = value.table(&schema::PROXY_PROTOCOL, wanted)?;
        let mode = table.need("mode", "`mode = \"required\"`")?;
        let from = table.value("from");
        (mode.choice(&modes)?, from.map(|value| (value, networks::all(&value))))
    };
    let from = match from {
        Some((value, from)) => {
            if from.is_empty() {
                value.fault(InvalidValue::new("`from` has no address").help(
                    "write the addresses of the proxies in front: `from = [\"10.0.0.0/8\"]`",
                ));
                return None;
            }
            from
        }
        None => trusted.to_vec(),
    };
    if from.is_empty() {
        let wrong = InvalidValue::new("no address may send a PROXY header");
        value.fault(wrong.help(
            "write `{ mode = \"required\", from = [\"10.0.0.0/8\"] }` with the proxies in front, or set \
             `trusted_proxies`",
        ));
    }
    Some(ProxyIn { required, from })
}

/// Reads one address or an array of addresses.
fn addresses(value: &TomlValue<'_>, claims: &mut AddressClaims) -> Vec<SocketAddr> {
    let one = |value: TomlValue<'_>, claims: &mut AddressClaims| {
        let address = value.parsed(bind)?;
        claims.claim(&value, address);
        Some(address)
    };
    let Some(elements) = value.elements() else {
        if !value.node.get_ref().is_str() {
            value.wrong_type_with_help("an address or an array of addresses", || {
                value.typed_number().map(|port| format!("write \"0.0.0.0:{port}\""))
            });
            return Vec::new();
        }
        return one(*value, claims).into_iter().collect();
    };
    let addresses: Vec<TomlValue<'_>> = elements.collect();
    if addresses.is_empty() {
        value.fault(
            InvalidValue::new("`bind` has no address").help("write `bind = \"0.0.0.0:8080\"`"),
        );
    }
    addresses.into_iter().filter_map(|element| one(element, claims)).collect()
}

fn redirect(typed: &str) -> Result<Redirect, InvalidValue> {
    let port = match typed.strip_prefix("https") {
        Some("") => return Ok(Redirect::Https { port: None }),
        Some(rest) => rest.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()),
        None => None,
    };
    match port {
        Some(port) if port > 0 => {
            // The target never names 443, the default port of https.
            Ok(Redirect::Https { port: (port != 443).then_some(port) })
        }
        _ => Err(InvalidValue::new(format!("invalid redirect {}", quoted(typed)))
            .help("write \"https\", or \"https:8443\" for another port")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Redirect, redirect};

    #[test]
    fn redirects_lead_to_https_on_a_port() {
        assert_eq!(redirect("https"), Ok(Redirect::Https { port: None }));
        assert_eq!(redirect("https:443"), Ok(Redirect::Https { port: None }));
        assert_eq!(redirect("https:8443"), Ok(Redirect::Https { port: Some(8443) }));
        for bad in ["", "http", "https:", "https:0", "https:65536", "https:x", "https8443"] {
            assert!(redirect(bad).is_err(), "{bad}");
        }
    }
}
