//! `[listeners.NAME]`: where connections are accepted and what is spoken there.

use std::{collections::HashMap, net::SocketAddr};

use super::{
    Certificate, Listener, Protocol, Redirect,
    address::bind,
    certs,
    fault::{Wrong, quoted},
    file::{Table, Value},
    names, schema,
};

/// The protocols of the design that this version does not speak.
const LATER: [&str; 3] = ["tcp", "tls", "tls-passthrough"];

/// Every listener, in file order.
pub(super) fn all(top: &Table<'_>, claims: &mut Claims) -> Vec<Listener> {
    let typed = top.value("listeners");
    let named = typed.map(|value| value.named()).unwrap_or_default();
    // What is no table was faulted as such.
    if named.is_empty() && typed.is_none_or(|value| value.node.get_ref().is_table()) {
        let wrong = Wrong::new("there is no listener")
            .help("add `[listeners.web]` with `bind = \"0.0.0.0:8080\"`");
        top.file().missing(top.at(), wrong);
    }
    named
        .into_iter()
        .filter_map(|(at, name, value)| {
            names::check(top.file(), &at, name);
            let table = value.table(&schema::LISTENER, "a table")?;
            Some(listener(name, &table, claims))
        })
        .collect()
}

/// What a listener's `protocol` says; `None`: a fault was noted.
#[derive(Clone, Copy, PartialEq)]
enum Spoken {
    Http,
    Https,
}

fn listener(name: &str, table: &Table<'_>, claims: &mut Claims) -> Listener {
    let addresses = table
        .need("bind", "`bind = \"0.0.0.0:8080\"`")
        .map(|value| addresses(&value, claims))
        .unwrap_or_default();
    let spoken = match table.value("protocol") {
        Some(value) => value.parsed(spoken),
        None => Some(Spoken::Http),
    };
    let certificates = table.value("certificates");
    match spoken {
        Some(Spoken::Http) => table.refuse(&["certificates", "handshake_timeout"], |key| {
            Wrong::new(format!("`{key}` has no meaning where `protocol` is \"http\""))
                .help("write `protocol = \"https\"`, or leave it out")
        }),
        Some(Spoken::Https) => {
            if certificates.is_none() {
                let wrong = Wrong::new("an https listener needs `certificates`").help(
                    "write `certificates = [{ cert = \"certs/site.pem\", key = \"certs/site.key\" }]`",
                );
                table.file().missing(table.at(), wrong);
            }
            table.refuse(&["redirect"], |_| {
                Wrong::new("`redirect` leads to https, which this listener speaks already")
            });
        }
        None => {}
    }
    let certificates = match (spoken, certificates) {
        (Some(Spoken::Https) | None, Some(value)) => chains(&value),
        _ => Vec::new(),
    };
    let protocol = match spoken {
        Some(Spoken::Https) => Protocol::Https { certificates },
        _ => Protocol::Http,
    };
    let mut listener = Listener::new(name, addresses, protocol);
    listener.redirect = table.value("redirect").and_then(|value| value.parsed(redirect));
    listener.handshake_timeout = table.deadline("handshake_timeout", listener.handshake_timeout);
    listener.header_timeout = table.deadline("header_timeout", listener.header_timeout);
    listener
}

/// One address, or an array of them.
fn addresses(value: &Value<'_>, claims: &mut Claims) -> Vec<SocketAddr> {
    let one = |value: Value<'_>, claims: &mut Claims| {
        let address = value.parsed(bind)?;
        claims.claim(&value, address);
        Some(address)
    };
    let Some(elements) = value.elements() else {
        if !value.node.get_ref().is_str() {
            value.is_not("a string or an array of strings");
            return Vec::new();
        }
        return one(*value, claims).into_iter().collect();
    };
    let addresses: Vec<Value<'_>> = elements.collect();
    if addresses.is_empty() {
        value.fault(Wrong::new("`bind` names no address"));
    }
    addresses.into_iter().filter_map(|element| one(element, claims)).collect()
}

fn spoken(typed: &str) -> Result<Spoken, Wrong> {
    match typed {
        "http" => Ok(Spoken::Http),
        "https" => Ok(Spoken::Https),
        _ if LATER.contains(&typed) => {
            Err(Wrong::new(format!("protocol \"{typed}\" is not available in this version"))
                .help("\"http\" and \"https\" are"))
        }
        _ => {
            let words = ["http", "https"].into_iter().chain(LATER);
            let help = match schema::nearest(typed, words) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "it can be \"http\" or \"https\"".to_owned(),
            };
            Err(Wrong::new(format!("{} is no protocol", quoted(typed))).help(help))
        }
    }
}

fn redirect(typed: &str) -> Result<Redirect, Wrong> {
    let port = match typed.strip_prefix("https") {
        Some("") => return Ok(Redirect::Https { port: None }),
        Some(rest) => rest.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()),
        None => None,
    };
    match port {
        Some(port) if port > 0 => {
            // 443 is what https means: the target leaves it out either way.
            Ok(Redirect::Https { port: (port != 443).then_some(port) })
        }
        _ => Err(Wrong::new(format!("{} is no redirect", quoted(typed)))
            .help("it can be \"https\", or \"https:8443\" for another port")),
    }
}

fn chains(value: &Value<'_>) -> Vec<Certificate> {
    let wanted = "an array of tables `{ cert = \"…\", key = \"…\" }`";
    let Some(elements) = value.elements() else {
        value.is_not(wanted);
        return Vec::new();
    };
    let elements: Vec<Value<'_>> = elements.collect();
    if elements.is_empty() {
        value.fault(Wrong::new("`certificates` names no certificate"));
    }
    elements
        .into_iter()
        .filter_map(|element| {
            let table = element.table(&schema::CERTIFICATE, "a table `{ cert = …, key = … }`")?;
            certs::certificate(&table)
        })
        .collect()
}

/// The addresses that are taken, with the line that took them.
#[derive(Default)]
pub(super) struct Claims {
    exact: HashMap<SocketAddr, usize>,
    /// By port and whether it is IPv4: the first that listens on every address, the first at all.
    ports: HashMap<(u16, bool), (Option<usize>, usize)>,
}

impl Claims {
    /// Takes an address for the value that names it, or notes who has it. Every address of a
    /// family covers each single one; port 0 is another port each time.
    pub(super) fn claim(&mut self, value: &Value<'_>, address: SocketAddr) {
        if address.port() == 0 {
            return;
        }
        let line = value.file.line(value.at().start);
        let all = address.ip().is_unspecified();
        let port = self.ports.entry((address.port(), address.is_ipv4())).or_insert((None, line));
        let same = self.exact.get(&address).copied();
        let taken = same.or(port.0).or((all && port.1 != line).then_some(port.1));
        if let Some(earlier) = taken {
            let wrong = Wrong::new(format!("{address} is taken already"));
            value.fault(wrong.help(format!("line {earlier} listens there")));
            return;
        }
        self.exact.insert(address, line);
        if all {
            port.0 = Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Redirect, redirect, spoken};

    #[test]
    fn redirects_lead_to_https_on_a_port() {
        assert_eq!(redirect("https"), Ok(Redirect::Https { port: None }));
        assert_eq!(redirect("https:443"), Ok(Redirect::Https { port: None }));
        assert_eq!(redirect("https:8443"), Ok(Redirect::Https { port: Some(8443) }));
        for bad in ["", "http", "https:", "https:0", "https:65536", "https:x", "https8443"] {
            assert!(redirect(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn protocols_of_later_versions_are_told_apart_from_misspelt_ones() {
        let message = |typed| spoken(typed).err().unwrap().to_string();
        assert!(message("tls-passthrough").contains("not available in this version"));
        assert!(message("htps").contains("did you mean \"https\"?"));
        assert!(message("quic").contains("it can be"));
    }
}
