//! Clients that prove who they are, and those that cannot.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::Value;

use crate::support::{
    Backend, Message, Proxy, Raw, Settings, TIMEOUT, message,
    openssl::{as_client, assert_says, file, request, run, s_client},
    proxy::{RELOADS_OK, Setup},
    tls::{Certificate, ResumingClient},
    wait_for, websocket,
};

const ADA: &str = "CN=ada,O=moorline";
const SPOOF: &str = "X-Client-Cert-Subject: CN=eve\r\nX-Client-Cert-Fingerprint: 666\r\n\
    X_Client_Cert_Subject: CN=eve\r\nx-client-cert-serial: 1\r\n";

/// Makes `web` speak https to clients that prove who they are by these terms.
fn mutual<'s>(settings: &'s mut Settings, backend: &Backend, terms: &str) -> &'s mut Settings {
    settings.backends(&[backend.address]).listener("protocol", "\"https\"");
    settings.listener("certificates", &certificates()).listener("tls", &tls(terms))
}

/// Adds a listener with other terms; `None`: it asks for no proof.
fn beside<'s>(settings: &'s mut Settings, name: &str, terms: Option<&str>) -> &'s mut Settings {
    settings.table(&format!(
        "[listeners.{name}]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
         certificates = {}\ntls = {}\n",
        certificates(),
        terms.map_or("{}".to_owned(), tls),
    ))
}

fn certificates() -> String {
    format!("[{{ cert = {:?}, key = {:?} }}]", file("signed.pem"), file("signed.key"))
}

fn tls(terms: &str) -> String {
    format!("{{ client_auth = {{ ca = {:?}, {terms} }} }}", file("ca.pem"))
}

/// A client that proves to be whom these test files are of.
fn client(name: &str) -> ResumingClient {
    let [cert, key] = ["pem", "key"].map(|kind| file(&format!("{name}.{kind}")));
    Certificate::read(&cert, &key, "a client").authenticating_client(&file("ca.pem"), "localhost")
}

async fn connect(proxy: &Proxy, name: &str) -> Raw {
    Raw::over(client(name).connect(proxy.web()).await)
}

/// TLVs of a PROXY header, one after the other.
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
async fn a_proxy_header_tells_who_the_client_has_proved_to_be() {
    let backend = Backend::replying("ok").await;
    let wanted = "[\"authority\", \"ssl\", \"ssl-cipher\", \"cert-cn\", \"cert-subject\", \
                \"cert-fingerprint\", \"unique-id\"]";
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "mode = \"optional\"")
            .pool("proxy_protocol", &format!("{{ version = \"v2\", tlvs = {wanted} }}"));
    })
    .await;
    let mut ada = connect(&proxy, "client").await;
    ada.send(message::get("/ada", "")).await;
    assert_eq!(ada.response().await.text(), "ok");
    let bytes = backend.bytes(0);
    let length = usize::from(bytes[14]) << 8 | usize::from(bytes[15]);
    let told = tlvs(&bytes[28..16 + length]);
    let value = |kind: u8| {
        let mut of_kind = told.iter().filter(|(this, _)| *this == kind);
        let value = of_kind.next().map(|(_, value)| value.clone()).unwrap_or_default();
        assert!(of_kind.next().is_none(), "{kind:#x} is there twice");
        value
    };
    assert_eq!(value(0x02), b"localhost");
    assert_eq!(value(0xe0), ADA.as_bytes());
    assert_eq!(value(0xe1), fingerprint("client").await.into_bytes());
    let tls = value(0x20);
    // Over TLS, a certificate in this session, and verified.
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

/// The fingerprint as OpenSSL tells it, in our form.
async fn fingerprint(name: &str) -> String {
    let path = file(&format!("{name}.pem")).display().to_string();
    let words = ["x509", "-noout", "-fingerprint", "-sha256", "-in", &path].map(str::to_owned);
    let said = run("openssl", &words, b"", TIMEOUT).await;
    said.trim().split_once('=').unwrap().1.replace(':', "").to_lowercase()
}

fn assert_told(seen: &Message, subject: &str, fingerprint: &str) {
    assert_eq!(seen.all("x-client-cert-subject"), [subject]);
    assert_eq!(seen.all("x-client-cert-fingerprint"), [fingerprint]);
}

#[tokio::test]
async fn backends_and_the_log_are_told_who_a_client_has_proved_to_be() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "").top("trusted_proxies", "[\"127.0.0.1\"]");
    })
    .await;
    let print = fingerprint("client").await;
    let mut ada = connect(&proxy, "client").await;
    ada.send(message::get("/request", SPOOF)).await;
    let peer = backend.asked("/request").await;
    let seen = backend.request("/request").await;
    peer.send(message::ok("ok")).await;
    assert_eq!(ada.response().await.text(), "ok");
    assert_told(&seen, ADA, &print);
    ada.send(websocket::request("/chat", SPOOF)).await;
    let far = backend.asked("/chat").await;
    let upgrade = backend.request("/chat").await;
    far.send(websocket::switching(&upgrade)).await;
    assert_eq!(ada.response().await.status(), 101);
    assert_told(&upgrade, ADA, &print);
    for claim in ["eve", "666", "x-client-cert-serial", "X_Client", "x_client"] {
        assert!(!backend.saw(claim), "{claim} reached the backend");
    }
    let line = proxy.wait_for_log("the request", |line| line["path"] == "/request").await;
    assert_eq!(line["client_cert"], ADA, "{line}");
    drop((ada, peer));
    far.ended().await;
    far.close();
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
        beside(settings, "open", None);
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
        let said = s_client(others[0], "-servername inner.test", get(host, path)).await;
        assert!(said.contains(&format!("HTTP/1.1 {status}")), "{host}{path}: {said}");
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
async fn whoever_has_no_certificate_of_its_own_claims_none() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "mode = \"optional\"");
        // A balancer that is trusted with addresses hands on fields that it does not know.
        settings.top("trusted_proxies", "[\"127.0.0.1\"]");
        beside(settings, "open", None);
        settings.table("[listeners.plain]\nbind = \"127.0.0.1:0\"\n");
    })
    .await;
    let anonymous = message::get("/anonymous", &format!("Connection: close\r\n{SPOOF}"));
    for listener in ["web", "open"] {
        let said = s_client(proxy.listener(listener), "", &anonymous).await;
        assert_says(&said, &["200 OK"]);
    }
    Raw::ask(proxy.listener("plain"), &anonymous).await;
    let said = s_client(proxy.web(), &as_client("client"), &anonymous).await;
    assert_says(&said, &["200 OK"]);
    let names = "X-Client-Cert-Subject, X_Client_Cert_Subject, X-Forwarded-For, X-Checksum";
    let late = format!(
        "POST /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTrailer: {names}\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
         X-Client-Cert-Subject: CN=eve\r\nX_Client_Cert_Subject: CN=eve\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX-Checksum: 77\r\n\r\n"
    );
    Raw::ask(proxy.listener("plain"), &late).await;
    assert!(backend.saw("77") && !backend.saw("6.6.6.6"), "of trailers, claims alone are dropped");
    let seen = backend.requests();
    assert_eq!(seen.len(), 5);
    for request in &seen[..3] {
        assert!(request.all("x-client-cert-subject").is_empty(), "{request:?}");
    }
    assert_told(&seen[3], ADA, &fingerprint("client").await);
    assert!(!backend.saw("eve") && !backend.saw("666"));
    for line in proxy.log_lines() {
        assert!(line["client_cert"].is_null() || line["client_cert"] == ADA, "{line}");
    }
    drop(backend);
    proxy.finish().await;
}

/// A client's certificate in files, for the options of OpenSSL and curl.
struct Issued {
    cert: String,
    key: String,
}

impl Issued {
    fn words(&self) -> String {
        format!("-cert {} -key {}", self.cert, self.key)
    }
}

/// The authority of the test files, or one that only calls itself so.
fn authority(key: KeyPair) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "moorline");
    params.distinguished_name.push(DnType::CommonName, "moorline test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::new(params, key)
}

fn genuine() -> Issuer<'static, KeyPair> {
    authority(KeyPair::from_pem(&fs::read_to_string(file("ca.key")).unwrap()).unwrap())
}

fn issue(
    folder: &Path,
    name: &str,
    by: &Issuer<'static, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Issued {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let [cert, key_file] = ["pem", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
    fs::write(&cert, params.signed_by(&key, by).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    Issued { cert: cert.display().to_string(), key: key_file.display().to_string() }
}

#[tokio::test]
async fn clients_without_a_good_certificate_are_told_why_they_are_refused() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let stranger = authority(KeyPair::generate().unwrap());
    let elsewhere =
        Issuer::new(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    let past = issue(&folder, "past", &genuine(), |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let server = issue(&folder, "server", &genuine(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let other = issue(&folder, "other", &elsewhere, |_| {});
    let forged = issue(&folder, "forged", &stranger, |_| {});
    let terms = format!("crl = {:?}", file("revoked.crl"));
    let proxy = setup
        .with(|settings| {
            mutual(settings, &backend, &terms);
            beside(settings, "optional", Some(&format!("{terms}, mode = \"optional\"")));
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
                let said = request(proxy.listener(listener), &format!("{version} {words}")).await;
                assert_says(&said, &[alert]);
                assert!(!said.contains("200 OK"), "{said}");
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
    // The same by curl, which in TLS 1.3 hears of it when it reads.
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

/// A revocation list of the test authority that names these serial numbers.
fn revoking(serials: &[u64], due: (i32, u8, u8)) -> String {
    let day = date_time_ymd(2026, 1, 1);
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: day,
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: day,
        next_update: date_time_ymd(due.0, due.1, due.2),
        crl_number: SerialNumber::from(2),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&genuine()).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_client_that_a_new_list_revokes_is_refused_and_open_connections_live_on() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let list = setup.directory().join("clients.crl");
    fs::copy(file("revoked.crl"), &list).unwrap();
    let session = setup.directory().join("session.pem");
    let proxy = setup
        .with(|settings| drop_ref(mutual(settings, &backend, &format!("crl = {list:?}"))))
        .start()
        .await;
    let mut open = connect(&proxy, "client").await;
    open.send(message::get("/before", "")).await;
    assert_eq!(open.response().await.text(), "ok");
    let ada = as_client("client");
    let words = format!("{ada} -sess_out {}", session.display());
    assert_says(&request(proxy.web(), &words).await, &["200 OK"]);
    let returning = format!("-sess_in {}", session.display());
    assert_says(&request(proxy.web(), &returning).await, &["Reused", "200 OK"]);

    // The file is watched: nobody asks for anything.
    let replace = async |text: String| {
        let before = proxy.metric(RELOADS_OK).await;
        let fresh = list.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &list).unwrap();
        proxy.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
    };
    // Ada's number beside mallory's.
    replace(revoking(&[1002, 1003], (2099, 1, 1))).await;
    assert_says(&request(proxy.web(), &ada).await, &["alert certificate revoked"]);
    let said = request(proxy.web(), &format!("{ada} {returning}")).await;
    assert_says(&said, &["alert certificate revoked"]);
    assert_says(&request(proxy.web(), &returning).await, &["alert certificate required"]);
    open.send(message::get("/after", "")).await;
    assert_eq!(open.response().await.text(), "ok");

    // A list that should have been replaced counts on, and locks nobody out.
    replace(revoking(&[1003], (2026, 1, 2))).await;
    proxy.wait_for_stderr("a warning", |line| line.contains("overdue")).await;
    assert_says(&request(proxy.web(), &ada).await, &["200 OK"]);
    let said = request(proxy.web(), &as_client("revoked")).await;
    assert_says(&said, &["alert certificate revoked"]);
    drop((open, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_061_resumption_does_not_cross_terms_of_client_certificates() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "");
        beside(settings, "again", Some(""));
        beside(settings, "optional", Some("mode = \"optional\""));
        beside(settings, "open", None);
        beside(settings, "also_open", None);
    })
    .await;
    let session = proxy.directory().join("session.pem");
    let at = |listener| proxy.listener(listener);
    let ada = as_client("client");
    let (keep, offer) = ("-sess_out", "-sess_in");
    let file = session.display();
    // Tickets of both versions, and the sessions that are kept here for who takes none.
    for how in ["-tls1_3", "-tls1_2", "-tls1_2 -no_ticket"] {
        let (keep, offer) = (format!("{how} {keep} {file}"), format!("{how} {offer} {file}"));
        assert_says(&request(at("open"), &keep).await, &["New, ", "200 OK"]);
        assert_says(&request(at("also_open"), &offer).await, &["Reused, ", "200 OK"]);
        assert_says(&request(at("web"), &offer).await, &["alert certificate required"]);
        assert_says(&request(at("optional"), &offer).await, &["New, ", "200 OK"]);

        let known = format!("{ada} {keep}");
        assert_says(&request(at("optional"), &known).await, &["New, ", "200 OK"]);
        assert_says(&request(at("web"), &offer).await, &["alert certificate required"]);
        assert_says(&request(at("open"), &offer).await, &["New, ", "200 OK"]);

        // By the same terms it is the same client, and known as such.
        assert_says(&request(at("web"), &known).await, &["New, ", "200 OK"]);
        let before = backend.requests().len();
        assert_says(&request(at("again"), &offer).await, &["Reused, ", "200 OK"]);
        let seen = backend.requests();
        assert_eq!(seen[before].all("x-client-cert-subject"), [ADA], "{how}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_does_not_outlive_its_clients_certificate() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let proxy = setup.with(|settings| drop_ref(mutual(settings, &backend, ""))).start().await;
    let session = folder.join("session.pem");
    let mut life = Duration::from_secs(3);
    // On a slow machine it may be over before it was of use.
    loop {
        let soon = SystemTime::now() + life;
        let brief = issue(&folder, "brief", &genuine(), |params| params.not_after = soon.into());
        let words = format!("{} -sess_out {}", brief.words(), session.display());
        if request(proxy.web(), &words).await.contains("200 OK") {
            break;
        }
        life *= 2;
    }
    let offer = format!("-sess_in {}", session.display());
    let deadline = Instant::now() + life + TIMEOUT;
    loop {
        let said = request(proxy.web(), &offer).await;
        if !said.contains("200 OK") {
            assert_says(&said, &["Reused"]);
            break;
        }
        assert!(Instant::now() < deadline, "a session for ever");
    }
    let expired = |line: &Value| line["termination"] == "client_handshake_certificate_expired";
    proxy.wait_for_log("the end of it", expired).await;
    drop(backend);
    proxy.finish().await;
}

/// For settings that are changed in place.
fn drop_ref(_: &mut Settings) {}
