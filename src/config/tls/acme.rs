//! `[listeners.NAME.certificates.acme]`: a certificate that is ordered from an ACME server.

use std::{cell::RefCell, collections::HashSet, path::PathBuf};

use crate::config::{
    Acme,
    address::dns_name,
    certs,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    folders, schema,
};

/// Maximum number of names of an ACME certificate, as for Let's Encrypt.
const MOST_DOMAINS: usize = 100;

/// Reads `certificates = { acme = … }`.
pub(super) fn settings(value: &TomlValue<'_>) -> Option<Acme> {
    let table = value.table(&schema::ACME, "a table `{ directory = …, domains = […] }`")?;
    let directory = table
        .need("directory", "`directory = \"https://acme-v02.api.letsencrypt.org/directory\"`")
        .and_then(|value| value.parsed(directory));
    let email = table.value("email").and_then(|value| value.parsed(email));
    let domains = table
        .need("domains", "`domains = [\"chat.example.com\"]`")
        .map(|value| domains(&value))
        .unwrap_or_default();
    let ca = table.value("ca").and_then(|value| certs::authorities(&value));
    let storage = storage(&table, value)?;
    Some(Acme { directory: directory?, email, domains, storage, ca })
}

/// Reads the folder of the ACME account and certificates; the default is beside the main file.
fn storage(table: &TomlTable<'_>, acme: &TomlValue<'_>) -> Option<PathBuf> {
    let typed = table.value("storage");
    let name = typed.as_ref().map_or(Some("acme"), |value| value.string())?;
    // Without the key, a listener may move to another file: the folder stays.
    let folder = match &typed {
        Some(value) => value.resolve(name),
        None => acme.file.beside_main(name),
    };
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let usable = folders::can_be_used(&folder).map_err(|why| {
        InvalidValue::new(format!("{} {why}", quoted(name))).help(
            "ACME certificates and their keys are stored there: name a folder that this user can write to",
        )
    });
    typed.as_ref().unwrap_or(acme).checked(usable)?;
    Some(folder)
}

fn directory(typed: &str) -> Result<String, InvalidValue> {
    let uri = typed.parse::<http::Uri>().ok();
    let https = uri.filter(|uri| uri.scheme_str() == Some("https") && uri.authority().is_some());
    https.map(|_| typed.to_owned()).ok_or_else(|| {
        InvalidValue::new(format!("invalid ACME directory {}", quoted(typed)))
            .help("write its URL: \"https://acme-v02.api.letsencrypt.org/directory\"")
    })
}

fn email(typed: &str) -> Result<String, InvalidValue> {
    let well_formed = typed.split_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && dns_name(host).is_ok() && typed.bytes().all(|b| b.is_ascii_graphic())
    });
    match well_formed {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid e-mail address {}", quoted(typed)))
            .help("write the address alone: \"ops@example.com\"")),
    }
}

fn domains(value: &TomlValue<'_>) -> Vec<String> {
    let seen = RefCell::new(HashSet::new());
    let names = value.strings(|typed| {
        if typed.starts_with("*.") {
            return Err(InvalidValue::new(format!(
                "the wildcard name {} cannot be ordered",
                quoted(typed)
            ))
            .help(
                "wildcard names need the DNS-01 challenge, which is not supported; list each name",
            ));
        }
        if typed.parse::<std::net::IpAddr>().is_ok() {
            return Err(InvalidValue::new(format!(
                "{} is an IP address, not a DNS name",
                quoted(typed)
            ))
            .help("write the names that clients use: \"chat.example.com\""));
        }
        let name = dns_name(typed)?;
        if name.contains('_') {
            return Err(InvalidValue::new(format!(
                "no certificate is issued for {}",
                quoted(typed)
            ))
            .help("host names have letters, digits and hyphens, but no underscores"));
        }
        let name = name.trim_end_matches('.').to_owned();
        match seen.borrow_mut().insert(name.clone()) {
            true => Ok(name),
            false => Err(InvalidValue::new(format!("{} is listed twice", quoted(typed)))
                .help("remove one of the two")),
        }
    });
    if names.len() > MOST_DOMAINS {
        value.fault(
            InvalidValue::new(format!("a certificate has at most {MOST_DOMAINS} names"))
                .help("spread the names over several listeners"),
        );
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acme_directories_and_addresses_are_checked() {
        assert!(directory("https://ca.test/directory").is_ok());
        for bad in ["", "ca.test", "http://ca.test/directory", "https://"] {
            assert!(directory(bad).is_err(), "{bad}");
        }
        assert!(email("ops@example.com").is_ok());
        for bad in ["", "ops", "@example.com", "mailto:ops@", "a b@example.com"] {
            assert!(email(bad).is_err(), "{bad}");
        }
    }
}
