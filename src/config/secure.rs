//! TLS settings of listeners and of connections to backends.

use std::{cell::RefCell, collections::HashSet, path::PathBuf};

use rustls::{
    CipherSuite, NamedGroup, ProtocolVersion, SignatureAlgorithm, SupportedCipherSuite,
    crypto::aws_lc_rs,
};

use super::{
    Acme, BackendTls, Certificate, CertificateSource, ClientAuth, TlsConfig, TlsVersion,
    UnknownSni,
    address::dns_name,
    certs,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    folders, schema,
    tls::suite_name,
};

/// Maximum number of names of an ACME certificate, as for Let's Encrypt.
const MOST_DOMAINS: usize = 100;

/// Longest protocol name that ALPN can carry (RFC 7301 §3.1).
const LONGEST_PROTOCOL: usize = 255;

/// Reads `certificates`. A table alone is an array of one.
pub(super) fn certificates(value: &TomlValue<'_>) -> Option<CertificateSource> {
    let wanted = "an array of tables `{ cert = \"…\", key = \"…\" }`";
    if value.node.get_ref().is_table() {
        let table = value.table(&schema::CERTIFICATE, wanted)?;
        let Some(terms) = table.value("acme") else {
            return Some(CertificateSource::Given(vec![certs::certificate(&table)?]));
        };
        table.refuse(&["cert", "key", "ocsp"], |key| {
            InvalidValue::new(format!("`{key}` is not used together with `acme`"))
                .help("remove one of the two")
        });
        return acme(&terms).map(CertificateSource::Acme);
    }
    let Some(elements) = value.elements() else {
        value.is_not(wanted);
        return None;
    };
    let elements: Vec<TomlValue<'_>> = elements.collect();
    if elements.is_empty() {
        value.fault(InvalidValue::new("`certificates` is empty").help(
            "write `certificates = [{ cert = \"certs/site.pem\", key = \"certs/site.key\" }]`",
        ));
    }
    let mut chains: Vec<Certificate> = Vec::new();
    for element in elements {
        let Some(certificate) = listed(&element) else { continue };
        element.checked(is_served(&certificate, &chains));
        chains.push(certificate);
    }
    Some(CertificateSource::Given(chains))
}

/// Reads an element of an array of certificates.
fn listed(element: &TomlValue<'_>) -> Option<Certificate> {
    let table = element.table(&schema::CERTIFICATE, "a table `{ cert = …, key = … }`")?;
    if let Some(value) = table.value("acme") {
        let wrong = InvalidValue::new("`acme` cannot be an element of an array");
        value.fault(wrong.help("write `certificates = { acme = { … } }`"));
        return None;
    }
    certs::certificate(&table)
}

/// Checks that a certificate after these is ever used: by its names, or in place of the default with
/// another type of key.
fn is_served(certificate: &Certificate, before: &[Certificate]) -> Result<(), InvalidValue> {
    let key = |certificate: &Certificate| certificate.key.key.algorithm();
    let mut default =
        before.iter().enumerate().filter(|(n, other)| *n == 0 || other.names.is_empty());
    if !certificate.names.is_empty()
        || before.is_empty()
        || !default.any(|(_, other)| key(other) == key(certificate))
    {
        return Ok(());
    }
    Err(InvalidValue::new("this certificate has no DNS name, so it would never be served")
        .help("put it first to serve clients without a known server name, or issue it with a subjectAltName"))
}

fn acme(value: &TomlValue<'_>) -> Option<Acme> {
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
    let names = strings(value, |typed| {
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

/// Reads an array of at least one string, or one string.
pub(super) fn strings<T>(
    value: &TomlValue<'_>,
    parse: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Vec<T> {
    let Some(elements) = value.elements() else {
        if !value.node.get_ref().is_str() {
            value.is_not("a string or an array of strings");
            return Vec::new();
        }
        return value.parsed(parse).into_iter().collect();
    };
    let elements: Vec<TomlValue<'_>> = elements.collect();
    if elements.is_empty() {
        let wrong = InvalidValue::new(format!("`{}` is empty", value.key));
        value.fault(wrong.help("write at least one value, or remove the key"));
    }
    elements.iter().filter_map(|element| element.parsed(&parse)).collect()
}

/// Parses the name of an ALPN protocol.
pub(super) fn protocol(typed: &str) -> Result<String, InvalidValue> {
    let valid = (1..=LONGEST_PROTOCOL).contains(&typed.len());
    valid.then(|| typed.to_owned()).ok_or_else(|| {
        InvalidValue::new(format!("invalid ALPN protocol {}", quoted(typed)))
            .help("write its name, for example \"http/1.1\" or \"h2\"")
    })
}

/// Reads `[listeners.NAME.tls]` into the settings that have the certificates.
pub(super) fn settings(value: &TomlValue<'_>, tls: &mut TlsConfig, https: bool) {
    let Some(table) = value.table(&schema::TLS, "a table such as `{ min_version = \"1.3\" }`")
    else {
        return;
    };
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    if let Some(value) = table.value("min_version") {
        tls.min_version = value.choice(&versions).unwrap_or_default();
    }
    if let Some(value) = table.value("cipher_suites") {
        tls.cipher_suites = strings(&value, cipher_suite);
        value.checked(suites_fit(tls));
    }
    if let Some(value) = table.value("curves") {
        tls.curves = strings(&value, curve);
        value.checked(curves_fit(tls));
    }
    if let Some(value) = table.value("alpn") {
        tls.alpn = strings(&value, protocol);
        if https {
            value.fault(
                InvalidValue::new("an https listener always offers HTTP/1.1")
                    .help("remove `alpn`; it is for `protocol = \"tls\"`"),
            );
        }
    }
    if let Some(value) = table.value("unknown_sni") {
        let choices = [("default", UnknownSni::Default), ("refuse", UnknownSni::Refuse)];
        tls.unknown_sni = value.choice(&choices).unwrap_or_default();
    }
    tls.client_auth = table.value("client_auth").and_then(|value| client_auth(&value));
    tls.key_log = table.value("key_log").and_then(|value| Some(value.resolve(value.string()?)));
}

/// Checks that the suites, if some are set, fit an accepted version and the key of every certificate.
/// Suites of TLS 1.3 fit every key.
fn suites_fit(tls: &TlsConfig) -> Result<(), InvalidValue> {
    let (suites, oldest) = (offered(tls), tls.min_version);
    if tls.cipher_suites.is_empty() || suites.iter().any(|suite| suite.tls13().is_some()) {
        return Ok(());
    }
    if suites.is_empty() {
        let message = format!("none of these suites works with TLS {oldest} or newer");
        return Err(InvalidValue::new(message).help("add \"TLS_AES_128_GCM_SHA256\""));
    }
    let keys = match &tls.certificates {
        CertificateSource::Given(given) => given.iter().map(|c| c.key.key.algorithm()).collect(),
        CertificateSource::Acme(_) => vec![SignatureAlgorithm::ECDSA],
    };
    let fits =
        |key: &SignatureAlgorithm| suites.iter().any(|s| s.usable_for_signature_algorithm(*key));
    match keys.iter().find(|key| !fits(key)) {
        None => Ok(()),
        Some(key) => {
            let key = match *key {
                SignatureAlgorithm::RSA => "RSA",
                SignatureAlgorithm::ECDSA => "ECDSA",
                _ => "Ed25519",
            };
            let message =
                format!("none of these suites works with a certificate that has an {key} key");
            Err(InvalidValue::new(message).help(
                "add a suite of TLS 1.3, which works with every key, or one of TLS 1.2 with the key type \
                 in its name",
            ))
        }
    }
}

/// Checks that one of the key exchange groups, if some are set, fits the offered versions.
fn curves_fit(tls: &TlsConfig) -> Result<(), InvalidValue> {
    let old = !offered(tls).iter().any(|suite| suite.tls13().is_some());
    let fits = aws_lc_rs::ALL_KX_GROUPS.iter().any(|group| {
        tls.curves.contains(&group.name()) && group.usable_for_version(ProtocolVersion::TLSv1_2)
    });
    match tls.curves.is_empty() || !old || fits {
        true => Ok(()),
        false => Err(InvalidValue::new(
            "none of these curves works with TLS 1.2, and the suites are for TLS 1.2",
        )
        .help("add \"X25519\"")),
    }
}

/// The suites that these settings offer.
fn offered(tls: &TlsConfig) -> Vec<&'static SupportedCipherSuite> {
    let set = |known: &&SupportedCipherSuite| {
        let wanted = tls.cipher_suites.is_empty() || tls.cipher_suites.contains(&known.suite());
        wanted && (known.tls13().is_some() || tls.min_version == TlsVersion::V1_2)
    };
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(set).collect()
}

/// Parses the IANA name of a cipher suite.
fn cipher_suite(typed: &str) -> Result<CipherSuite, InvalidValue> {
    let mut known = aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| suite.suite());
    known.find(|suite| suite_name(*suite) == typed).ok_or_else(|| {
        let names = aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| suite_name(suite.suite()));
        let names: Vec<&str> = names.collect();
        let wrong = InvalidValue::new(format!("unsupported cipher suite {}", quoted(typed)));
        match schema::nearest(typed, names.iter().copied()) {
            Some(near) => wrong.help(format!("did you mean \"{near}\"?")),
            None => wrong.help(format!("use one of {}", names.join(", "))),
        }
    })
}

/// Parses the IANA or OpenSSL name of a key exchange group.
fn curve(typed: &str) -> Result<NamedGroup, InvalidValue> {
    let known = [
        ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
        ("X25519", NamedGroup::X25519),
        ("secp256r1", NamedGroup::secp256r1),
        ("P-256", NamedGroup::secp256r1),
        ("secp384r1", NamedGroup::secp384r1),
        ("P-384", NamedGroup::secp384r1),
    ];
    let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(typed));
    found.map(|(_, group)| *group).ok_or_else(|| {
        InvalidValue::new(format!("unsupported curve {}", quoted(typed)))
            .help("use one of X25519MLKEM768, X25519, secp256r1 and secp384r1")
    })
}

fn client_auth(value: &TomlValue<'_>) -> Option<ClientAuth> {
    let table = value.table(&schema::CLIENT_AUTH, "a table `{ ca = \"…\" }`")?;
    let required = match table.value("mode") {
        Some(value) => value.choice(&[("required", true), ("optional", false)]),
        None => Some(true),
    };
    let ca = table.need("ca", "`ca = \"clients-ca.pem\"`").and_then(|v| certs::authorities(&v));
    let crl = match table.value("crl") {
        Some(value) => certs::revocations(&value),
        None => Some(Vec::new()),
    };
    Some(ClientAuth { ca: ca?, crl: crl?, required: required? })
}

/// Reads `tls` of a pool: `true`, `false` or a table. `http`: the plural noun of what uses HTTP/1.1 with its
/// backends.
pub(super) fn backend(value: &TomlValue<'_>, http: Option<&str>) -> Option<BackendTls> {
    let mut tls =
        BackendTls { ca: None, name: None, alpn: Vec::new(), client_cert: None, verify: true };
    if let Some(on) = value.switch() {
        return on.then_some(tls);
    }
    let table = value
        .table(&schema::BACKEND_TLS, "true, false or a table such as `{ ca = \"ca.pem\" }`")?;
    tls.ca = table.value("ca").and_then(|value| certs::authorities(&value));
    tls.name = table.value("name").and_then(|value| value.parsed(server_name));
    if let Some(value) = table.value("alpn") {
        tls.alpn = strings(&value, protocol);
        if let Some(users) = http.filter(|_| tls.alpn.iter().any(|name| name != "http/1.1")) {
            let wrong = InvalidValue::new(format!("{users} to this pool use HTTP/1.1 only"));
            value.fault(wrong.help("write `alpn = \"http/1.1\"`, or remove it"));
        }
    }
    tls.client_cert = table.value("client_cert").and_then(|value| client_cert(&value));
    tls.verify = table.boolean("verify", true);
    if !tls.verify {
        table.refuse(&["ca"], |_| {
            InvalidValue::new("`ca` is not used when `verify` is false")
                .help("remove one of the two")
        });
    }
    Some(tls)
}

fn server_name(typed: &str) -> Result<String, InvalidValue> {
    typed.parse::<std::net::IpAddr>().map_or_else(|_| dns_name(typed), |ip| Ok(ip.to_string()))
}

fn client_cert(value: &TomlValue<'_>) -> Option<Certificate> {
    let table = value.table(&schema::CLIENT_CERT, "a table `{ cert = \"…\", key = \"…\" }`")?;
    certs::pair(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_curves_have_their_usual_names() {
        assert_eq!(
            cipher_suite("TLS_AES_128_GCM_SHA256"),
            Ok(CipherSuite::TLS13_AES_128_GCM_SHA256)
        );
        let old = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(cipher_suite(old), Ok(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256));
        assert!(cipher_suite("TLS_RSA_WITH_AES_128_CBC_SHA").is_err());
        assert_eq!(curve("x25519"), Ok(NamedGroup::X25519));
        assert_eq!(curve("P-256"), Ok(NamedGroup::secp256r1));
        assert!(curve("secp256k1").is_err());
    }

    #[test]
    fn suites_and_curves_fit_versions_and_keys() {
        let rsa = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        let ecdsa = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
        let new = CipherSuite::TLS13_AES_128_GCM_SHA256;
        let file =
            |name| std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs").join(name);
        let site = Certificate::from_files(&file("site.pem"), &file("site.key")).unwrap();
        let other = Certificate::from_files(&file("other.pem"), &file("other.key")).unwrap();
        let with = |suites: &[CipherSuite], min_version, certificates: &[&Certificate]| {
            let given = certificates.iter().copied().cloned().collect();
            let tls = TlsConfig::new(CertificateSource::Given(given));
            TlsConfig { cipher_suites: suites.to_vec(), min_version, ..tls }
        };
        let fit = |suites: &[CipherSuite], oldest, certificates: &[&Certificate]| {
            suites_fit(&with(suites, oldest, certificates)).is_ok()
        };
        let (v1_2, v1_3) = (TlsVersion::V1_2, TlsVersion::V1_3);
        assert!(fit(&[], v1_3, &[&site]) && fit(&[new], v1_3, &[&site, &other]));
        assert!(!fit(&[rsa], v1_3, &[&other]), "an older version alone");
        assert!(fit(&[rsa], v1_2, &[&other]) && fit(&[ecdsa], v1_2, &[&site]));
        assert!(!fit(&[rsa], v1_2, &[&site]) && !fit(&[ecdsa], v1_2, &[&site, &other]));
        assert!(fit(&[rsa, ecdsa], v1_2, &[&site, &other]) && fit(&[rsa, new], v1_2, &[&site]));

        let curves = |suites: &[CipherSuite], curves: &[NamedGroup]| {
            let tls = with(suites, v1_2, &[&site]);
            curves_fit(&TlsConfig { curves: curves.to_vec(), ..tls }).is_ok()
        };
        let (hybrid, classic) = (NamedGroup::X25519MLKEM768, NamedGroup::X25519);
        assert!(curves(&[], &[hybrid]) && curves(&[new], &[hybrid]));
        assert!(!curves(&[ecdsa], &[hybrid]) && curves(&[ecdsa], &[hybrid, classic]));
    }

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
