//! Certificates of backends: invalid and pinned certificates, failed handshakes, and client certificates.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{
    backend_tls::{ask, failure, pool},
    support::{
        Backend, Proxy, Raw, eventually,
        front::{Authority, Issued, TlsFront},
        proxy::Setup,
    },
};

#[tokio::test]
async fn fault_065_invalid_backend_certificates() {
    let setup = Setup::new();
    let (ca, other) =
        (Authority::make(setup.directory(), "ca"), Authority::make(setup.directory(), "other"));
    let node = Backend::replying("ok").await;
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let future = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2901, 1, 1);
        params.not_after = rcgen::date_time_ymd(2902, 1, 1);
    };
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let for_clients = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    let cases = [
        (
            "expired",
            ca.issue("node.test", past),
            "certificate_expired",
            "(subject CN=node.test, issuer CN=ca) expired on 2002-01-01T00:00:00Z; renew it",
        ),
        (
            "early",
            ca.issue("node.test", future),
            "certificate_expired",
            "is not valid before 2901-01-01T00:00:00Z; check the clocks",
        ),
        (
            "name",
            ca.issue("else.test", |_| {}),
            "certificate_name",
            "is for else.test, not for node.test; set `tls.name`",
        ),
        (
            "ca",
            other.issue("node.test", |_| {}),
            "certificate_untrusted",
            "issuer CN=other) is not from an authority of `tls.ca`; add the issuer's certificate",
        ),
        (
            "itself",
            Issued::self_signed("node.test"),
            "certificate_untrusted",
            "is self-signed and is not in `tls.ca`; add it there",
        ),
        (
            "authority",
            ca.issue("node.test", authority),
            "certificate_invalid",
            "is the certificate of an authority, used as a server's; add exactly this certificate",
        ),
        (
            "client",
            ca.issue("node.test", for_clients),
            "certificate_invalid",
            "its extended key usage lacks serverAuth",
        ),
        (
            "nameless",
            ca.issue("node.test", |params| params.subject_alt_names.clear()),
            "certificate_name",
            "has no subjectAltName, and its common name is not used; issue it for node.test",
        ),
    ];
    let mut fronts = Vec::new();
    let mut tables = String::new();
    for (host, issued, ..) in &cases {
        let front = TlsFront::before(&node, issued.server_config()).await;
        let tls = format!("tls = {{ ca = {:?}, name = \"node.test\" }}", ca.file);
        tables += &pool(host, front.address, &tls);
        fronts.push(front);
    }
    let proxy = setup.with(|settings| _ = settings.backends(&[node.address]).table(&tables));
    let proxy = proxy.start().await;
    for (host, _, kind, sentence) in cases {
        let (label, error) = failure(&proxy, host).await;
        assert_eq!(label, format!("backend_handshake_{kind}"), "{host}");
        assert!(error.contains(sentence), "{host}: {error}");
    }
    let text = ask(&proxy, "expired").await.text();
    assert!(text.starts_with("The backend's certificate is not valid."), "{text}");
    node.assert_untouched();
    drop((fronts, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_probe_marks_a_backend_with_an_invalid_certificate_down() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let good = TlsFront::before(&node, ca.issue("127.0.0.1", |_| {}).server_config()).await;
    let bad = TlsFront::before(&node, Issued::self_signed("127.0.0.1").server_config()).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("tls", &tls);
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
            settings.pool("balance", "\"round-robin\"");
        })
        .start()
        .await;
    let line = proxy
        .wait_for_stderr("the log line", |line| {
            line.contains("backend is down") && line.contains(&bad.address.to_string())
        })
        .await;
    assert!(line.contains("is self-signed"), "{line}");
    for n in 0..4 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    drop((good, bad, node));
    proxy.finish().await;
}

/// A `tls` setting with this certificate as `ca`.
fn pinned(issued: &Issued, setup: &Setup, name: &str) -> String {
    issued.write(setup.directory(), name);
    format!("tls = {{ ca = {:?} }}", setup.directory().join(format!("{name}.pem")))
}

#[tokio::test]
async fn a_self_signed_certificate_as_its_own_ca_is_accepted() {
    let setup = Setup::new();
    let node = Backend::replying("ok").await;
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let nameless = |params: &mut rcgen::CertificateParams| params.subject_alt_names.clear();
    // Like a certificate of `openssl req -x509`: an authority with a common name only.
    let (cert, key) = (setup.directory().join("made.pem"), setup.directory().join("made.key"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=me"])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl, which tests/setup installs");
    assert!(made.status.success());
    let accepted = [
        ("authority", Issued::self_signed_with("127.0.0.1", authority)),
        ("leaf", Issued::self_signed("127.0.0.1")),
        ("elsewhere", Issued::self_signed("else.test")),
        ("nameless", Issued::self_signed_with("127.0.0.1", nameless)),
        ("openssl", Issued::from_files(&cert, &key)),
    ];
    let expired = Issued::self_signed_with("127.0.0.1", past);
    let other = Issued::self_signed_with("127.0.0.1", authority);
    let mut fronts = Vec::new();
    let mut tables = String::new();
    for (host, issued) in &accepted {
        let front = TlsFront::before(&node, issued.server_config()).await;
        tables += &pool(host, front.address, &pinned(issued, &setup, host));
        fronts.push(front);
    }
    let front = TlsFront::before(&node, expired.server_config()).await;
    tables += &pool("expired", front.address, &pinned(&expired, &setup, "expired"));
    fronts.push(front);
    // Another certificate with the same names is not accepted.
    let front = TlsFront::before(&node, other.server_config()).await;
    tables += &pool("other", front.address, &pinned(&accepted[0].1, &setup, "authority"));
    fronts.push(front);
    let proxy = setup.with(|settings| _ = settings.backends(&[node.address]).table(&tables));
    let proxy = proxy.start().await;
    for (host, _) in accepted {
        assert_eq!(ask(&proxy, host).await.text(), "ok", "{host}: {:?}", proxy.log_lines());
    }
    let (label, error) = failure(&proxy, "expired").await;
    assert_eq!(label, "backend_handshake_certificate_expired");
    assert!(error.contains("expired on 2002-01-01T00:00:00Z"), "{error}");
    let (label, error) = failure(&proxy, "other").await;
    assert!(label.starts_with("backend_handshake_certificate_"), "{label}: {error}");
    assert!(error.contains("tls.ca"), "{error}");
    drop((fronts, node));
    proxy.finish().await;
}

/// Uses one certificate in the first handshake and another in later handshakes.
#[derive(Debug)]
struct ChangingCertificate {
    first: Arc<dyn ResolvesServerCert>,
    then: Arc<dyn ResolvesServerCert>,
    changed: AtomicBool,
}

impl ResolvesServerCert for ChangingCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.changed.swap(true, Ordering::Relaxed) {
            true => self.then.resolve(hello),
            false => self.first.resolve(hello),
        }
    }
}

#[tokio::test]
async fn a_failed_handshake_is_retried_and_counts_as_a_health_failure() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let config = ca.issue("127.0.0.1", |_| {}).server_config();
    let good = TlsFront::before(&node, config.clone()).await;
    let mut changing = config;
    changing.cert_resolver = Arc::new(ChangingCertificate {
        first: changing.cert_resolver,
        then: Issued::self_signed("127.0.0.1").server_config().cert_resolver,
        changed: AtomicBool::new(false),
    });
    changing.send_tls13_tickets = 0;
    let bad = TlsFront::before(&node, changing).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("tls", &tls);
            // The first probes succeed; the next probes are much later.
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
            settings.pool("balance", "\"round-robin\"");
        })
        .start()
        .await;
    bad.handshake(0).await;
    good.handshake(0).await;
    for n in 0..4 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    assert_eq!(proxy.metric("moorline_retries_total").await, 1.0);
    let line = proxy
        .wait_for_stderr("the log line", |line| {
            line.contains("failed under traffic") && line.contains(&bad.address.to_string())
        })
        .await;
    assert!(line.contains("Down"), "{line}");
    drop((good, bad, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_failed_handshake_is_retried_and_counts_for_ejection() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let good = TlsFront::before(&node, ca.issue("127.0.0.1", |_| {}).server_config()).await;
    let bad = TlsFront::before(&node, Issued::self_signed("127.0.0.1").server_config()).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("tls", &tls);
            settings.pool("balance", "\"round-robin\"");
            settings.pool("outlier", "{ consecutive = 2 }");
        })
        .start()
        .await;
    for n in 0..6 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok", "request {n}");
    }
    assert_eq!(proxy.metric("moorline_retries_total").await, 2.0);
    assert_eq!(proxy.metric("moorline_ejections_total").await, 1.0);
    drop((good, bad, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_certificate_is_sent_to_a_backend_that_requires_one() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let config = ca.issue("node.test", |_| {}).server_config_verifying(ca.client_verifier());
    let front = TlsFront::before(&node, config).await;
    let ours = ca.issue("moorline.test", |_| {}).write(setup.directory(), "ours");
    let tls = |more: &str| format!("tls = {{ ca = {:?}, name = \"node.test\"{more} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[node.address]);
            let ours = format!(", client_cert = {ours}");
            settings.table(&pool("with", front.address, &tls(&ours)));
            settings.table(&pool("without", front.address, &tls("")));
            settings.table(
                "[listeners.stream]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npool = \"without\"\n",
            );
        })
        .start()
        .await;
    assert_eq!(ask(&proxy, "with").await.text(), "ok");
    // In TLS 1.3, the server rejects the client after the client's handshake is complete.
    let (label, error) = failure(&proxy, "without").await;
    assert_eq!(label, "backend_response_header_alert");
    assert!(error.contains("CertificateRequired"), "{error}");
    assert_eq!(node.requests().len(), 1);
    // At this time, a stream is already established.
    let mut stream = Raw::connect(proxy.listener("stream")).await;
    stream.assert_closed().await;
    let of_stream = |line: &serde_json::Value| line["kind"] == "stream";
    let line = proxy.wait_for_log("the stream's line", of_stream).await;
    assert_eq!(line["termination"], "backend_tunnel_alert", "{line}");
    assert!(line["error"].as_str().unwrap().contains("CertificateRequired"), "{line}");
    drop((front, node));
    proxy.finish().await;
}

#[tokio::test]
async fn each_change_that_disables_verification_is_warned_about() {
    const OFF: &str = "backend certificates of the pool app are not verified";
    let node = Backend::replying("ok").await;
    let front = TlsFront::before(&node, Issued::self_signed("node.test").server_config()).await;
    let mut proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[front.address]).pool("tls", "{ verify = false }");
            settings.pool("timeouts", "{ connect = \"9s\" }");
        })
        .start()
        .await;
    let warnings = |proxy: &Proxy| proxy.stderr().iter().filter(|l| l.contains(OFF)).count();
    let line = proxy.wait_for_stderr("the warning", |line| line.contains(OFF)).await;
    assert!(line.contains("WARN") && line.contains("moorline.toml:"), "{line}");
    assert_eq!(ask(&proxy, "any").await.text(), "ok");
    proxy.reload(|s| _ = s.pool("timeouts", "{ connect = \"8s\" }")).await;
    assert_eq!(warnings(&proxy), 1, "no new warning");
    proxy.reload(|s| _ = s.pool("tls", "false")).await;
    proxy.reload(|s| _ = s.pool("tls", "{ verify = false }")).await;
    eventually("the second warning", || warnings(&proxy) == 2).await;
    drop((front, node));
    proxy.finish().await;
}
