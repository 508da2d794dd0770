//! TLS settings of listeners and of connections to backends.

mod acme;
mod suites;

use self::suites::{cipher_suite, curve, curves_fit, suites_fit};
use super::{
    BackendTls, Certificate, CertificateSource, ClientAuth, TlsConfig, TlsVersion, UnknownSni,
    address::dns_name,
    certs,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// Longest protocol name that ALPN can carry (RFC 7301 §3.1).
const LONGEST_PROTOCOL: usize = 255;

/// Reads `certificates`. A table alone is an array of one.
pub(super) fn certificates(value: &TomlValue<'_>) -> Option<CertificateSource> {
    let wanted = "an array of tables `{ cert = \"…\", key = \"…\" }`";
    if value.node.get_ref().is_table() {
        let table = value.table(&schema::CERTIFICATE, wanted)?;
        let Some(terms) = table.value("acme") else {
            return Some(CertificateSource::Configured(vec![certs::certificate(&table)?]));
        };
        table.refuse(&["cert", "key", "ocsp"], |key| {
            InvalidValue::new(format!("`{key}` is not used together with `acme`"))
                .help("remove one of the two")
        });
        return acme::settings(&terms).map(CertificateSource::Acme);
    }
    let Some(elements) = value.elements() else {
        value.wrong_type(wanted);
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
    Some(CertificateSource::Configured(chains))
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

/// Parses the name of an ALPN protocol.
pub(super) fn alpn_protocol(typed: &str) -> Result<String, InvalidValue> {
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
        tls.cipher_suites = value.strings(cipher_suite);
        value.checked(suites_fit(tls));
    }
    if let Some(value) = table.value("curves") {
        tls.curves = value.strings(curve);
        value.checked(curves_fit(tls));
    }
    if let Some(value) = table.value("alpn") {
        tls.alpn = value.strings(alpn_protocol);
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
        tls.alpn = value.strings(alpn_protocol);
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
