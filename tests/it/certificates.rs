//! Selection of server certificates, OCSP responses, and certificate files with a byte order mark.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use crate::support::{
    Backend, Proxy, Settings,
    openssl::{assert_says, file, request},
    proxy::{RELOADS_OK, Setup},
    tls::Certificate,
};

/// Makes a self-signed certificate whose common name is its file name. Returns the TOML table with its paths.
fn make(
    folder: &Path,
    file: &str,
    names: &[&str],
    algorithm: &'static rcgen::SignatureAlgorithm,
) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, file);
    let pair = KeyPair::generate_for(algorithm).unwrap();
    let (cert, key) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
    fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    format!("{{ cert = {cert:?}, key = {key:?} }}")
}

fn https(settings: &mut Settings, backend: &Backend, certificates: &str) {
    settings.backends(&[backend.address]).listener("protocol", "\"https\"");
    settings.listener("certificates", certificates);
}

#[tokio::test]
async fn the_certificate_matches_the_clients_server_name_and_algorithms() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory();
    let all = [
        make(folder, "default", &["default.test"], &PKCS_ECDSA_P256_SHA256),
        make(folder, "wildcard-rsa", &["*.w.test"], &PKCS_RSA_SHA256),
        make(folder, "exact-ecdsa", &["x.w.test"], &PKCS_ECDSA_P256_SHA256),
        make(folder, "nameless-rsa", &[], &PKCS_RSA_SHA256),
    ];
    let certificates = format!("[{}]", all.join(", "));
    let proxy = setup.with(|settings| https(settings, &backend, &certificates)).start().await;
    let (rsa, ecdsa) = ("-tls1_2 -cipher aRSA", "-tls1_2 -cipher aECDSA");
    let modern_rsa = "-tls1_3 -sigalgs rsa_pss_rsae_sha256";
    for (words, name, subject) in [
        ("", "x.w.test", "exact-ecdsa"),
        (ecdsa, "x.w.test", "exact-ecdsa"),
        (rsa, "x.w.test", "wildcard-rsa"),
        (modern_rsa, "x.w.test", "wildcard-rsa"),
        (rsa, "y.w.test", "wildcard-rsa"),
        ("", "default.test", "default"),
        ("", "unknown.test", "default"),
        (rsa, "unknown.test", "nameless-rsa"),
    ] {
        let output = request(proxy.web(), &format!("{words} -servername {name}")).await;
        assert_says(&output, &[&format!("subject=CN = {subject}"), "200 OK"]);
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn check_reports_a_certificate_that_is_never_served() {
    let setup = Setup::new();
    let folder = setup.directory();
    let first = make(folder, "first", &["a.test"], &PKCS_ECDSA_P256_SHA256);
    let nameless = make(folder, "nameless", &[], &PKCS_ECDSA_P256_SHA256);
    let backend = Backend::replying("ok").await;
    let both = format!("[{first}, {nameless}]");
    let ended = setup.with(|settings| https(settings, &backend, &both)).fails_to_start().await;
    let text = ended.stderr;
    assert!(text.contains("has no DNS name, so it would never be served"), "{text}");
    assert!(text.contains("put it first"), "{text}");
    drop(backend);
}

/// Copies a file and puts a byte order mark before its text.
fn with_mark(folder: &Path, path: &Path) -> PathBuf {
    let to = folder.join(format!("with_mark-{}", path.file_name().unwrap().to_str().unwrap()));
    let bytes = fs::read(path).unwrap();
    fs::write(&to, [b"\xef\xbb\xbf", &bytes[..]].concat()).unwrap();
    to
}

#[tokio::test]
async fn every_file_may_begin_with_a_byte_order_mark() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let [cert, key, ca, crl] = ["signed.pem", "signed.key", "ca.pem", "revoked.crl"]
        .map(|name| with_mark(&folder, &file(name)));
    // Two certificates in one file, each with a byte order mark, as after `cat`.
    let both = [&ca, &cert].map(|path| fs::read(path).unwrap()).concat();
    fs::write(&ca, both).unwrap();
    let list = folder.join("list.txt");
    fs::write(&list, format!("\u{feff}{} name=node\n", backend.address)).unwrap();
    let cookie_key = folder.join("cookie.key");
    fs::write(&cookie_key, format!("\u{feff}{}\n", "k".repeat(40))).unwrap();
    let ticket_keys = folder.join("ticket.keys");
    fs::write(&ticket_keys, format!("\u{feff}{}\n", "t".repeat(40))).unwrap();
    let text = format!(
        "\u{feff}admin = \"127.0.0.1:0\"\ncookie_key = {{ file = {cookie_key:?} }}\nticket_keys = {{ file = {ticket_keys:?} }}\n\
         access_log = {{ file = \"access.log\" }}\n\
         [listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
         certificates = {{ cert = {cert:?}, key = {key:?} }}\n\
         tls = {{ client_auth = {{ ca = {ca:?}, crl = {crl:?}, mode = \"optional\" }} }}\n\
         [[routes]]\npool = \"app\"\n[pools.app]\nbackends = {{ file = {list:?} }}\n"
    );
    let proxy = setup.text(text).start().await;
    let client = Certificate::read(&file("signed.pem"), &file("signed.key"), "localhost");
    let client = client.client_trusting(&file("ca.pem"));
    drop(client.connect(proxy.web()).await);
    let output = request(proxy.web(), "").await;
    assert_says(&output, &["Verify return code: 0", "ok"]);
    proxy.wait_for_log("the backend name of the list", |line| line["backend"] == "node").await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_stale_ocsp_response_does_not_block_a_renewed_certificate() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let (cert, key) = (folder.join("site.pem"), folder.join("site.key"));
    let response = folder.join("site.ocsp");
    let put = |path: &Path, bytes: &[u8]| {
        let fresh = folder.join("fresh");
        fs::write(&fresh, bytes).unwrap();
        fs::rename(&fresh, path).unwrap();
    };
    let copy = |name: &str, to: &Path| put(to, &fs::read(file(name)).unwrap());
    copy("signed.pem", &cert);
    copy("signed.key", &key);
    copy("signed.ocsp", &response);
    let table = format!("[{{ cert = {cert:?}, key = {key:?}, ocsp = {response:?} }}]");
    let mut proxy = setup
        .with(|settings| {
            https(settings, &backend, &table);
            settings.top("reload", "{ watch = false }");
        })
        .start()
        .await;
    assert_says(&request(proxy.web(), "-status").await, &["OCSP Response Status: successful"]);
    // The certificate is renewed, but the OCSP response is about the old certificate.
    make(&folder, "renewed", &["localhost"], &PKCS_ECDSA_P256_SHA256);
    put(&cert, &fs::read(folder.join("renewed.pem")).unwrap());
    put(&key, &fs::read(folder.join("renewed.key")).unwrap());
    reloaded(&mut proxy).await;
    let stale = |line: &str| line.contains("for localhost is about another certificate");
    proxy.wait_for_stderr("the warning", stale).await;
    let output = request(proxy.web(), "-status").await;
    assert_says(&output, &["subject=CN = renewed", "OCSP response: no response sent", "200 OK"]);
    // A response with an error status does not block it either.
    put(&response, b"\x30\x03\x0a\x01\x03");
    reloaded(&mut proxy).await;
    proxy
        .wait_for_stderr("the warning", |line| line.contains("is not a successful response"))
        .await;
    assert_says(&request(proxy.web(), "-status").await, &["no response sent", "200 OK"]);
    copy("signed.ocsp", &response);
    // The same at a start.
    let again = proxy.crash().start().await;
    again.wait_for_stderr("the warning", stale).await;
    let output = request(again.web(), "-status").await;
    assert_says(&output, &["subject=CN = renewed", "no response sent", "200 OK"]);
    drop(backend);
    again.finish().await;
}

async fn reloaded(proxy: &mut Proxy) {
    let before = proxy.metric(RELOADS_OK).await;
    proxy.hangup();
    proxy.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
}
