//! Findings of TLS scanners with the default settings.

use std::{fs, time::Duration};

use serde_json::Value;

use super::{drop_ref, https};
use crate::support::{
    Backend, Proxy,
    openssl::{file, run},
};

/// Time limit for a scanner. The longest scan takes 90 seconds on two busy cores.
const SCAN_TIMEOUT: Duration = Duration::from_secs(900);

#[tokio::test]
async fn sslscan_finds_nothing_weak() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| drop_ref(https(settings, &backend, ""))).await;
    let words = ["--xml=-", "--no-colour", &proxy.web().to_string()].map(str::to_owned);
    let output = run("sslscan", &words, b"", SCAN_TIMEOUT).await;
    let start = output.find("<?xml").unwrap_or_else(|| panic!("no XML in {output}"));
    let document = roxmltree::Document::parse(output[start..].trim()).unwrap();
    let all = |name: &'static str| {
        document.descendants().filter(move |node| node.has_tag_name(name)).collect::<Vec<_>>()
    };
    let enabled: Vec<_> = all("protocol")
        .into_iter()
        .filter(|node| node.attribute("enabled") == Some("1"))
        .map(|node| node.attribute("version").unwrap())
        .collect();
    assert_eq!(enabled, ["1.2", "1.3"], "{output}");
    let ciphers = all("cipher");
    assert_eq!(ciphers.len(), 6, "{output}");
    for cipher in ciphers {
        let strength = cipher.attribute("strength").unwrap();
        assert!(["acceptable", "strong"].contains(&strength), "{cipher:?}");
    }
    for (name, attribute) in
        [("renegotiation", "supported"), ("compression", "supported"), ("heartbleed", "vulnerable")]
    {
        let found = all(name).into_iter().any(|node| node.attribute(attribute) == Some("1"));
        assert!(!found, "{name}: {output}");
    }
    let groups = all("group");
    assert!(groups.iter().all(|group| group.attribute("bits").unwrap() >= "128"), "{output}");
    assert!(groups.iter().any(|group| group.attribute("name") == Some("x25519")), "{output}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn testssl_has_no_finding() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| drop_ref(https(settings, &backend, ""))).await;
    // Protocols, cipher categories, forward secrecy, preferences, renegotiation, compression: the quick checks
    // that do not concern the certificate.
    let report = testssl(&proxy, &["-p", "-s", "-f", "-P", "-R", "-C"]).await;
    for id in ["TLS1_2", "TLS1_3", "cipher_order", "secure_client_renego", "CRIME_TLS"] {
        assert_fine(&report, id);
    }
    // The name of this finding depends on the version of testssl.
    let secrecy = |finding: &&Value| finding["id"] == "FS" || finding["id"] == "PFS";
    assert!(report.iter().any(|finding| secrecy(&finding)), "{report:#?}");
    assert_eq!(bad(&report), [""; 0], "{report:#?}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn testssl_finds_no_vulnerability_and_no_weak_server_default() {
    /// Accepted findings, with reasons.
    const ACCEPTED: [(&str, &str); 4] = [
        ("cert_serialNumberLen", "the test authority counts"),
        ("cert_validityPeriod", "test certificates are for 100 years"),
        ("cert_revocation", "the test authority has no responder; its response is stapled"),
        ("DNS_CAArecord", "an address has no records"),
    ];
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| drop_ref(https(settings, &backend, ""))).await;
    let report = testssl(&proxy, &["-S", "-U"]).await;
    for id in ["cert_trust", "cert_chain_of_trust", "OCSP_stapling", "heartbleed", "ticketbleed"] {
        assert_fine(&report, id);
    }
    for id in ["ROBOT", "secure_renego", "fallback_SCSV", "SWEET32", "LOGJAM", "BEAST", "LUCKY13"] {
        assert_fine(&report, id);
    }
    let mut others = bad(&report);
    others.retain(|id| ACCEPTED.iter().all(|(accepted, _)| accepted != id));
    assert_eq!(others, [""; 0], "{report:#?}");
    drop(backend);
    proxy.finish().await;
}

/// Returns the findings of these checks of testssl, which trusts the test authority.
async fn testssl(proxy: &Proxy, checks: &[&str]) -> Vec<Value> {
    let report = proxy.directory().join("report.json");
    let mut words = ["--quiet", "--color", "0", "--warnings", "off"].map(str::to_owned).to_vec();
    words.extend(["--jsonfile".to_owned(), report.display().to_string()]);
    words.extend(["--add-ca".to_owned(), file("ca.pem").display().to_string()]);
    words.extend(checks.iter().map(|&check| check.to_owned()));
    words.push(proxy.web().to_string());
    let output = run("testssl", &words, b"", SCAN_TIMEOUT).await;
    let text = fs::read_to_string(report).unwrap_or_else(|error| panic!("{error}: {output}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Asserts that the report has a finding with this id and severity `OK`.
fn assert_fine(report: &[Value], id: &str) {
    let fine = |finding: &Value| finding["id"] == id && finding["severity"] == "OK";
    assert!(report.iter().any(fine), "{id}: {report:#?}");
}

/// Returns the ids of negative findings. `engine_problem` concerns the OpenSSL of the scanner, which has no GOST
/// engine.
fn bad(report: &[Value]) -> Vec<&str> {
    let fine = |finding: &Value| {
        finding["id"] == "engine_problem"
            || matches!(finding["severity"].as_str(), Some("OK" | "INFO" | "DEBUG"))
    };
    let bad = report.iter().filter(|finding| !fine(finding));
    bad.map(|finding| finding["id"].as_str().unwrap()).collect()
}
