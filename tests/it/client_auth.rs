//! Client certificates: verification, fields for backends, and refusals.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::Value;

use crate::support::{
    Backend, Message, Proxy, Raw, Settings, TIMEOUT, message,
    openssl::{as_client, assert_says, file, request, run, s_client},
    proxy::Setup,
    tls::{Certificate, ResumingClient},
    wait_for, websocket,
};

pub(crate) const ADA: &str = "CN=ada,O=moorline";
const SPOOF: &str = "X-Client-Cert-Subject: CN=eve\r\nX-Client-Cert-Fingerprint: forged\r\n\
    X_Client_Cert_Subject: CN=eve\r\nx-client-cert-serial: 1\r\n";

/// Makes `web` an https listener that verifies client certificates with these `client_auth` settings.
pub(crate) fn mutual<'s>(
    settings: &'s mut Settings,
    backend: &Backend,
    client_auth: &str,
) -> &'s mut Settings {
    settings.backends(&[backend.address]).listener("protocol", "\"https\"");
    settings.listener("certificates", &certificates()).listener("tls", &tls(client_auth))
}

/// Adds an https listener with other `client_auth` settings. `None`: without client certificates.
pub(crate) fn add_listener<'s>(
    settings: &'s mut Settings,
    name: &str,
    client_auth: Option<&str>,
) -> &'s mut Settings {
    settings.table(&format!(
        "[listeners.{name}]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
         certificates = {}\ntls = {}\n",
        certificates(),
        client_auth.map_or("{}".to_owned(), tls),
    ))
}

fn certificates() -> String {
    format!("[{{ cert = {:?}, key = {:?} }}]", file("signed.pem"), file("signed.key"))
}

fn tls(client_auth: &str) -> String {
    format!("{{ client_auth = {{ ca = {:?}, {client_auth} }} }}", file("ca.pem"))
}

/// A client that uses the certificate of this name from the test files.
fn client(name: &str) -> ResumingClient {
    let [cert, key] = ["pem", "key"].map(|kind| file(&format!("{name}.{kind}")));
    Certificate::read(&cert, &key, "a client").authenticating_client(&file("ca.pem"), "localhost")
}

pub(crate) async fn connect(proxy: &Proxy, name: &str) -> Raw {
    Raw::over(client(name).connect(proxy.web()).await)
}

/// Parses the TLVs of a PROXY header.
fn tlvs(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, after) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        all.push((*kind, value.to_vec()));
        bytes = after;
    }
    all
}

#[tokio::test]
async fn a_proxy_header_carries_the_clients_certificate() {
    let backend = Backend::replying("ok").await;
    let requested = "[\"authority\", \"ssl\", \"ssl-cipher\", \"cert-cn\", \"cert-subject\", \
                \"cert-fingerprint\", \"unique-id\"]";
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "mode = \"optional\"")
            .pool("proxy_protocol", &format!("{{ version = \"v2\", tlvs = {requested} }}"));
    })
    .await;
    let mut ada = connect(&proxy, "client").await;
    ada.send(message::get("/ada", "")).await;
    assert_eq!(ada.response().await.text(), "ok");
    let bytes = backend.bytes(0);
    let length = usize::from(bytes[14]) << 8 | usize::from(bytes[15]);
    let sent = tlvs(&bytes[28..16 + length]);
    let value = |kind: u8| {
        let mut of_kind = sent.iter().filter(|(this, _)| *this == kind);
        let value = of_kind.next().map(|(_, value)| value.clone()).unwrap_or_default();
        assert!(of_kind.next().is_none(), "{kind:#x} is repeated");
        value
    };
    assert_eq!(value(0x02), b"localhost");
    assert_eq!(value(0xe0), ADA.as_bytes());
    assert_eq!(value(0xe1), fingerprint("client").await.into_bytes());
    let tls = value(0x20);
    // Client flags: TLS, certificate in this connection and in this session. Verification succeeded.
    assert_eq!(tls[..5], [0x05, 0, 0, 0, 0]);
    let inner = tlvs(&tls[5..]);
    assert_eq!(inner[0], (0x21, b"TLSv1.3".to_vec()));
    assert_eq!(inner[2], (0x22, b"ada".to_vec()));
    let line = proxy.wait_for_log("the line", |line| line["path"] == "/ada").await;
    assert_eq!(value(0x05), line["id"].as_str().unwrap().as_bytes());
    let suite = String::from_utf8(inner[1].1.clone()).unwrap();
    assert!(inner[1].0 == 0x23 && suite.starts_with("TLS_AES_"), "{suite}");
    drop((ada, backend));
    proxy.finish().await;
}

/// The fingerprint of a certificate by OpenSSL, in the proxy's form.
async fn fingerprint(name: &str) -> String {
    let path = file(&format!("{name}.pem")).display().to_string();
    let words = ["x509", "-noout", "-fingerprint", "-sha256", "-in", &path].map(str::to_owned);
    let output = run("openssl", &words, b"", TIMEOUT).await;
    output.trim().split_once('=').unwrap().1.replace(':', "").to_lowercase()
}

fn assert_identity(seen: &Message, subject: &str, fingerprint: &str) {
    assert_eq!(seen.all("x-client-cert-subject"), [subject]);
    assert_eq!(seen.all("x-client-cert-fingerprint"), [fingerprint]);
}

#[tokio::test]
async fn backends_and_the_access_log_get_the_clients_certificate() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "").top("trusted_proxies", "[\"127.0.0.1\"]");
    })
    .await;
    let print = fingerprint("client").await;
    let mut ada = connect(&proxy, "client").await;
    ada.send(message::get("/request", SPOOF)).await;
    let peer = backend.peer_for("/request").await;
    let seen = backend.request("/request").await;
    peer.send(message::ok("ok")).await;
    assert_eq!(ada.response().await.text(), "ok");
    assert_identity(&seen, ADA, &print);
    ada.send(websocket::request("/chat", SPOOF)).await;
    let tunnel_peer = backend.peer_for("/chat").await;
    let upgrade = backend.request("/chat").await;
    tunnel_peer.send(websocket::switching(&upgrade)).await;
    assert_eq!(ada.response().await.status(), 101);
    assert_identity(&upgrade, ADA, &print);
    for claim in ["eve", "forged", "x-client-cert-serial", "X_Client", "x_client"] {
        assert!(!backend.saw(claim), "{claim} reached the backend");
    }
    let line = proxy.wait_for_log("the request", |line| line["path"] == "/request").await;
    assert_eq!(line["client_cert"], ADA, "{line}");
    drop((ada, peer));
    tunnel_peer.ended().await;
    tunnel_peer.close();
    let line = proxy.wait_for_log("the tunnel", |line| line["kind"] == "tunnel").await;
    assert_eq!(line["client_cert"], ADA, "{line}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_061_a_route_of_a_listener_with_client_certificates_is_not_reached_by_another() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "");
        add_listener(settings, "open", None);
        settings.table("[listeners.plain]\nbind = \"127.0.0.1:0\"\n");
        settings
            .unrouted()
            .table("[[routes]]\nhost = \"inner.test\"\npool = \"app\"\nlisteners = [\"web\"]\n");
        settings.table("[[routes]]\npath = \"/both\"\npool = \"app\"\nlisteners = \"web\"\n");
        settings.table("[[routes]]\npath = \"/\"\nhost = \"outer.test\"\npool = \"app\"\n");
    })
    .await;
    let get = |host: &str, path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    let ada = as_client("client");
    for (host, path) in [("inner.test", "/in"), ("any.test", "/both"), ("outer.test", "/out")] {
        assert_says(&s_client(proxy.web(), &ada, get(host, path)).await, &["200 OK"]);
        assert!(backend.saw(path), "{host}{path}");
    }
    let others = [proxy.listener("open"), proxy.listener("plain")];
    for (host, path, status) in [
        ("inner.test", "/other", 421),
        ("INNER.test.:443", "/other", 421),
        ("any.test", "/both/other", 421),
        ("any.test", "/other", 404),
        ("outer.test", "/both", 200),
    ] {
        let output = s_client(others[0], "-servername inner.test", get(host, path)).await;
        assert!(output.contains(&format!("HTTP/1.1 {status}")), "{host}{path}: {output}");
        let reply = Raw::ask(others[1], get(host, path)).await;
        assert_eq!(reply.status(), status, "{host}{path}");
    }
    assert!(!backend.saw("other"));
    let refused = |line: &Value| line["termination"] == "client_select_misdirected";
    let line = proxy.wait_for_log("a refusal", refused).await;
    assert_eq!(line["status"], 421, "{line}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn clients_without_a_certificate_cannot_forge_certificate_fields() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "mode = \"optional\"");
        // A load balancer that is trusted for addresses may forward fields that it does not know.
        settings.top("trusted_proxies", "[\"127.0.0.1\"]");
        add_listener(settings, "open", None);
        settings.table("[listeners.plain]\nbind = \"127.0.0.1:0\"\n");
    })
    .await;
    let anonymous = message::get("/anonymous", &format!("Connection: close\r\n{SPOOF}"));
    for listener in ["web", "open"] {
        let output = s_client(proxy.listener(listener), "", &anonymous).await;
        assert_says(&output, &["200 OK"]);
    }
    Raw::ask(proxy.listener("plain"), &anonymous).await;
    let output = s_client(proxy.web(), &as_client("client"), &anonymous).await;
    assert_says(&output, &["200 OK"]);
    let names = "X-Client-Cert-Subject, X_Client_Cert_Subject, X-Forwarded-For, X-Checksum";
    let late = format!(
        "POST /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTrailer: {names}\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
         X-Client-Cert-Subject: CN=eve\r\nX_Client_Cert_Subject: CN=eve\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX-Checksum: 77\r\n\r\n"
    );
    Raw::ask(proxy.listener("plain"), &late).await;
    assert!(
        backend.saw("X-Checksum: 77") && !backend.saw("6.6.6.6"),
        "only forged trailers are dropped"
    );
    let seen = backend.requests();
    assert_eq!(seen.len(), 5);
    for request in &seen[..3] {
        assert!(request.all("x-client-cert-subject").is_empty(), "{request:?}");
    }
    assert_identity(&seen[3], ADA, &fingerprint("client").await);
    assert!(!backend.saw("eve") && !backend.saw("forged"));
    for line in proxy.log_lines() {
        assert!(line["client_cert"].is_null() || line["client_cert"] == ADA, "{line}");
    }
    drop(backend);
    proxy.finish().await;
}

/// Files of a client's certificate and key, for the options of OpenSSL and curl.
pub(crate) struct CertificateFiles {
    cert: String,
    key: String,
}

impl CertificateFiles {
    pub(crate) fn words(&self) -> String {
        format!("-cert {} -key {}", self.cert, self.key)
    }
}

/// An authority with the name of the test authority and this key.
fn authority(key: KeyPair) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "moorline");
    params.distinguished_name.push(DnType::CommonName, "moorline test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::new(params, key)
}

/// The authority that issued the test files.
pub(crate) fn test_authority() -> Issuer<'static, KeyPair> {
    authority(KeyPair::from_pem(&fs::read_to_string(file("ca.key")).unwrap()).unwrap())
}

pub(crate) fn issue(
    folder: &Path,
    name: &str,
    by: &Issuer<'static, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateFiles {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let [cert, key_file] = ["pem", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
    fs::write(&cert, params.signed_by(&key, by).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    CertificateFiles { cert: cert.display().to_string(), key: key_file.display().to_string() }
}

#[tokio::test]
async fn the_tls_alert_says_why_a_client_certificate_is_rejected() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let impostor = authority(KeyPair::generate().unwrap());
    let other_authority =
        Issuer::new(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    let past = issue(&folder, "past", &test_authority(), |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let server = issue(&folder, "server", &test_authority(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let other = issue(&folder, "other", &other_authority, |_| {});
    let forged = issue(&folder, "forged", &impostor, |_| {});
    let client_auth = format!("crl = {:?}", file("revoked.crl"));
    let proxy = setup
        .with(|settings| {
            mutual(settings, &backend, &client_auth);
            add_listener(
                settings,
                "optional",
                Some(&format!("{client_auth}, mode = \"optional\"")),
            );
        })
        .start()
        .await;
    let cases = [
        ("", "certificate required", "certificate_missing"),
        (&as_client("revoked"), "certificate revoked", "certificate_revoked"),
        (&past.words(), "certificate expired", "certificate_expired"),
        (&other.words(), "unknown ca", "certificate_untrusted"),
        (&forged.words(), "alert", "certificate_invalid"),
        (&server.words(), "alert", "certificate_invalid"),
    ];
    for (words, alert, kind) in cases {
        for version in ["-tls1_2", "-tls1_3"] {
            for listener in ["web", "optional"] {
                if words.is_empty() && listener == "optional" {
                    continue;
                }
                let from = proxy.log_lines().len();
                let output = request(proxy.listener(listener), &format!("{version} {words}")).await;
                assert_says(&output, &[alert]);
                assert!(!output.contains("200 OK"), "{output}");
                let termination = format!("client_handshake_{kind}");
                let is = |line: &Value| line["termination"] == *termination;
                let line = wait_for(&termination, || {
                    proxy.log_lines().split_off(from).into_iter().find(is)
                });
                let line = line.await;
                assert!(line["error"].is_string() && line["sni"] == "localhost", "{line}");
            }
        }
    }
    backend.assert_untouched();
    // The same with curl, which receives the alert in TLS 1.3 when it reads.
    let curl = async |words: &str| {
        let url = format!("https://localhost:{}/", proxy.web().port());
        let ca = file("ca.pem").display().to_string();
        let mut all = ["-sS", "--cacert", &ca, &url].map(str::to_owned).to_vec();
        all.extend(
            words
                .split_whitespace()
                .map(|word| word.replace("-cert", "--cert"))
                .map(|word| if word == "-key" { "--key".to_owned() } else { word }),
        );
        run("curl", &all, b"", TIMEOUT).await
    };
    assert_says(&curl("").await, &["alert certificate required"]);
    assert_says(&curl(&as_client("revoked")).await, &["alert certificate revoked"]);
    assert_eq!(curl(&as_client("client")).await, "ok");
    drop(backend);
    proxy.finish().await;
}
