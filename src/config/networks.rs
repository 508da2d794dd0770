//! Lists of addresses and networks: inline, in a file, or by the word `private`.

use std::str;

use ipnet::IpNet;

use super::{
    address::network,
    fault::{InvalidValue, SourceText, quoted},
    file::TomlValue,
    schema,
};

/// The networks of the word `private`: no host on the internet has these addresses.
const PRIVATE: [&str; 9] = [
    // Loopback.
    "127.0.0.0/8",
    "::1/128",
    // Link-local (RFC 3927, RFC 4291).
    "169.254.0.0/16",
    "fe80::/10",
    // Private networks (RFC 1918) and unique local addresses (RFC 4193).
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    // Shared address space, which clouds use internally (RFC 6598).
    "100.64.0.0/10",
];

/// Maximum number of networks in a list: each request compares them one by one.
const MOST: usize = 4096;

/// Reads a network, a file `{ file = "…" }`, or an array of both.
pub(super) fn all(value: &TomlValue<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    match value.elements() {
        Some(elements) => elements.for_each(|element| one(&element, &mut networks)),
        None => one(value, &mut networks),
    }
    if networks.len() > MOST {
        value.fault(
            InvalidValue::new(format!("more than {MOST} networks")).help("use larger networks"),
        );
    }
    networks
}

fn one(value: &TomlValue<'_>, networks: &mut Vec<IpNet>) {
    if value.node.get_ref().is_table() {
        listed(value, networks);
    } else if value.node.get_ref().is_str() {
        networks.extend(value.parsed(named).unwrap_or_default());
    } else {
        value.wrong_type(
            "an address, a network, \"private\" or a table `{ file = \"proxies.txt\" }`",
        );
    }
}

/// Reads the networks of a file: one per line, with `#` comments.
fn listed(value: &TomlValue<'_>, networks: &mut Vec<IpNet>) {
    let wanted = "a table `{ file = \"proxies.txt\" }`";
    let Some(table) = value.table(&schema::NETWORKS, wanted) else { return };
    let Some(file) = table.need("file", "`file = \"proxies.txt\"`") else { return };
    let Some(path) = file.string().map(|typed| file.resolve(typed)) else { return };
    let Some(bytes) = file.checked(file.read(&path)) else { return };
    let text = str::from_utf8(&bytes).map_err(|_| {
        InvalidValue::new(format!("{} is not UTF-8 text", quoted(&path.to_string_lossy())))
    });
    let Some(text) = file.checked(text) else { return };
    let source = SourceText::new(&path, text);
    for (start, line) in source.lines() {
        let typed = line.split('#').next().unwrap_or_default();
        let word = typed.trim();
        if word.is_empty() {
            continue;
        }
        match named(word) {
            Ok(found) => networks.extend(found),
            Err(wrong) => {
                let start = start + typed.len() - typed.trim_start().len();
                file.file.elsewhere(&file.at(), source.fault(&(start..start + word.len()), wrong));
            }
        }
    }
}

/// A network, or the networks of a word.
fn named(typed: &str) -> Result<Vec<IpNet>, InvalidValue> {
    if typed != "private" {
        return network(typed).map(|network| vec![network]);
    }
    PRIVATE.iter().map(|text| network(text)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::named;

    #[test]
    fn private_means_addresses_that_are_not_on_the_internet() {
        let networks = named("private").unwrap();
        let covers = |ip: &str| {
            let ip: IpAddr = ip.parse().unwrap();
            networks.iter().any(|network| network.contains(&ip))
        };
        for ip in ["127.0.0.2", "::1", "10.1.2.3", "172.31.255.255", "192.168.0.1", "169.254.1.1"] {
            assert!(covers(ip), "{ip}");
        }
        for ip in ["fd00::1", "fe80::1", "100.64.0.1", "100.127.255.255"] {
            assert!(covers(ip), "{ip}");
        }
        for ip in ["172.32.0.1", "100.128.0.1", "11.0.0.1", "2001:db8::1", "8.8.8.8", "0.0.0.0"] {
            assert!(!covers(ip), "{ip}");
        }
    }
}
