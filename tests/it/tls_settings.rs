//! TLS settings of a listener.

mod scanners;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Backend, Proxy, Settings, message,
    openssl::{assert_says, certificates, file, request, s_client},
    proxy::{RELOADS_OK, Setup},
    tls::Certificate,
    wait_for,
};

/// Makes `web` an https listener with these TLS settings.
fn https<'s>(settings: &'s mut Settings, backend: &Backend, tls: &str) -> &'s mut Settings {
    settings.backends(&[backend.address]).listener("protocol", "\"https\"");
    settings.listener("certificates", &certificates()).listener("tls", &format!("{{ {tls} }}"))
}

/// Adds an https listener with other TLS settings.
fn add_https<'s>(settings: &'s mut Settings, name: &str, tls: &str) -> &'s mut Settings {
    settings.table(&format!(
        "[listeners.{name}]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
         certificates = {}\ntls = {{ {tls} }}\n",
        certificates()
    ))
}

#[tokio::test]
async fn versions_suites_groups_and_protocols_are_as_set() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        https(settings, &backend, "");
        let strict = "min_version = \"1.3\", curves = [\"secp384r1\", \"X25519\"], \
            cipher_suites = [\"TLS_CHACHA20_POLY1305_SHA256\", \"TLS_AES_128_GCM_SHA256\"]";
        add_https(settings, "strict", strict);
        // One cipher suite for each key type of the certificates.
        let old = "cipher_suites = [\"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256\", \
            \"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256\"]";
        add_https(settings, "old", old);
    })
    .await;
    let web = proxy.web();
    let output = request(web, "-tls1_3 -status -alpn http/1.1").await;
    assert_says(&output, &["Cipher is TLS_AES_256_GCM_SHA384", "Verify return code: 0", "200 OK"]);
    assert_says(&output, &["OCSP Response Status: successful", "ALPN protocol: http/1.1"]);
    let output = request(web, "-tls1_2 -status").await;
    assert_says(&output, &["Cipher is ECDHE-ECDSA-AES256-GCM-SHA384", "200 OK"]);
    assert_says(&output, &["OCSP Response Status: successful", "Compression: NONE"]);
    let output = request(web, "-servername other.test").await;
    assert_says(&output, &["CN = moorline other test"]);
    let output = request(web, "-alpn h2").await;
    assert_says(&output, &["alert no application protocol"]);
    let line = proxy.wait_for_log("no protocol", |line| line["alpn"] == "h2").await;
    assert_eq!(line["termination"], "client_handshake_alert", "{line}");

    let strict = proxy.listener("strict");
    let output = request(strict, "").await;
    // The client prefers AES-256; the order of the server wins.
    assert_says(&output, &["Cipher is TLS_CHACHA20_POLY1305_SHA256", "secp384r1", "200 OK"]);
    assert_says(&request(strict, "-tls1_2").await, &["alert protocol version"]);
    let old = proxy.listener("old");
    assert_says(&request(old, "").await, &["ECDHE-ECDSA-CHACHA20-POLY1305", "200 OK"]);
    assert_says(&request(old, "-tls1_3").await, &["alert protocol version"]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn the_post_quantum_key_exchange_is_preferred() {
    let backend = Backend::replying("ok").await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    // The client supports the same four groups and prefers a different one.
    let stream = certificate.resuming_client().connect(proxy.listener("secure")).await;
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
    drop((stream, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_060_unknown_or_absent_server_name() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        https(settings, &backend, "");
        add_https(settings, "known", "unknown_sni = \"refuse\"");
    })
    .await;
    for words in ["-servername unknown.test", "-noservername"] {
        let output = request(proxy.web(), words).await;
        assert_says(&output, &["subject=CN = localhost", "200 OK"]);
    }
    let known = proxy.listener("known");
    for name in ["localhost", "chat.example.test", "OTHER.test"] {
        assert_says(&request(known, &format!("-servername {name}")).await, &["200 OK"]);
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let output = request(known, &format!("{version} -servername unknown.test")).await;
        assert_says(&output, &["unrecognized name", "alert number 112"]);
        let output = request(known, &format!("{version} -noservername")).await;
        assert_says(&output, &["alert number 112"]);
    }
    let refused = |line: &Value| line["termination"] == "client_handshake_unknown_name";
    let line =
        proxy.wait_for_log("a refusal", |line| refused(line) && line["sni"].is_string()).await;
    assert_eq!(line["sni"], "unknown.test");
    assert!(line["error"].as_str().unwrap().contains("unknown.test"), "{line}");
    proxy.wait_for_log("another", |line| refused(line) && line["sni"].is_null()).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_062_renegotiation_and_old_versions() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| drop_ref(https(settings, &backend, ""))).await;
    for version in ["-tls1", "-tls1_1"] {
        let words = format!("{version} -cipher ALL:@SECLEVEL=0");
        let output = request(proxy.web(), &words).await;
        assert_says(&output, &["alert"]);
        assert!(!output.contains("200 OK"), "{output}");
    }
    let refused = |line: &Value| line["termination"] == "client_handshake_alert";
    proxy.wait_for_log("an old version", refused).await;
    let output = s_client(proxy.web(), "-tls1_2", "R\n").await;
    assert_says(&output, &["RENEGOTIATING", "no renegotiation"]);
    assert_says(&request(proxy.web(), "").await, &["200 OK"]);
    drop(backend);
    proxy.finish().await;
}

/// Changes an OpenSSL session in a PEM file so that the client sends early data.
fn allow_early_data(session: &Path) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let pem = fs::read_to_string(session).unwrap();
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(text).unwrap();
    assert_eq!(der[..2], [0x30, 0x82], "a long SEQUENCE");
    let mut rest = &der[4..];
    let mut fields = Vec::new();
    // `max_early_data` is the field with the tag 15; fields are in order of their tags.
    while let Some(field) = rest.first() {
        if *field > 0xaf {
            break;
        }
        let (length, header) = match rest[1] {
            0x81 => (usize::from(rest[2]), 3),
            0x82 => (usize::from(rest[2]) << 8 | usize::from(rest[3]), 4),
            short => (usize::from(short), 2),
        };
        fields.extend_from_slice(&rest[..header + length]);
        rest = &rest[header + length..];
    }
    fields.extend_from_slice(&[0xaf, 4, 2, 2, 0x40, 0]);
    fields.extend_from_slice(rest);
    let length = u16::try_from(fields.len()).unwrap().to_be_bytes();
    let der = [&[0x30, 0x82], &length[..], &fields].concat();
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let [begin, end] =
        ["BEGIN", "END"].map(|word| format!("-----{word} SSL SESSION PARAMETERS-----"));
    fs::write(session, format!("{begin}\n{}\n{end}\n", lines.join("\n"))).unwrap();
}

#[tokio::test]
async fn fault_063_early_data() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| drop_ref(https(settings, &backend, ""))).await;
    let [session, early] = ["session.pem", "early"].map(|name| proxy.directory().join(name));
    let words = format!("-tls1_3 -sess_out {}", session.display());
    assert_says(&request(proxy.web(), &words).await, &["Max Early Data: 0", "200 OK"]);
    allow_early_data(&session);
    fs::write(&early, message::get("/early", "")).unwrap();
    let words = format!("-tls1_3 -sess_in {} -early_data {}", session.display(), early.display());
    let output = request(proxy.web(), &words).await;
    assert_says(&output, &["Reused", "Early data was rejected", "200 OK"]);
    assert!(
        !backend.saw("/early"),
        "early data, which an attacker can replay, reached the backend"
    );
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_064_expired_or_invalid_certificate_at_reload() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::with(|settings| drop_ref(https(settings, &backend, ""))).await;
    let served = async |proxy: &Proxy| {
        assert_says(&request(proxy.web(), "").await, &["subject=CN = localhost", "200 OK"]);
    };
    let with = |settings: &Settings, cert: &Path, key: &Path| {
        let mut settings = settings.clone();
        settings.listener("certificates", &format!("[{{ cert = {cert:?}, key = {key:?} }}]"));
        settings.text()
    };
    let good = proxy.settings.clone();
    let (expired, expired_key) = expired(proxy.directory());
    let text = with(&good, &expired, &expired_key);
    let words = ["listener web", "old.test", "expired on 2021-02-03T00:00:00Z"];
    proxy.refuses(&text, &words).await;
    served(&proxy).await;
    let text = with(&good, &file("signed.pem"), &file("other.key"));
    proxy.refuses(&text, &["does not match the certificate"]).await;
    served(&proxy).await;
    let broken = proxy.directory().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nnothing\n").unwrap();
    proxy.refuses(&with(&good, &broken, &file("signed.key")), &["PEM"]).await;
    served(&proxy).await;
    // A reload with an unchanged, valid certificate still succeeds.
    proxy.reload(|settings| drop_ref(settings.listener("header_timeout", "\"50s\""))).await;
    served(&proxy).await;
    proxy.finish().await;

    let setup = Setup::new();
    let (expired, expired_key) = self::expired(setup.directory());
    let proxy = setup
        .with(|settings| {
            https(settings, &backend, "");
            let table = format!("[{{ cert = {expired:?}, key = {expired_key:?} }}]");
            settings.listener("certificates", &table);
        })
        .start()
        .await;
    proxy
        .wait_for_stderr("a warning", |line| line.contains("expired on 2021-02-03T00:00:00Z"))
        .await;
    assert_says(&request(proxy.web(), "").await, &["200 OK"]);
    drop(backend);
    proxy.finish().await;
}

/// Writes an expired certificate and its key to files.
fn expired(directory: &Path) -> (PathBuf, PathBuf) {
    let mut params = rcgen::CertificateParams::new(["old.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 2, 3);
    let key = rcgen::KeyPair::generate().unwrap();
    let [cert_file, key_file] = ["old.pem", "old.key"].map(|name| directory.join(name));
    fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    (cert_file, key_file)
}

#[tokio::test]
async fn an_ocsp_response_is_stapled_until_it_expires() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let response = setup.directory().join("site.ocsp");
    let good = fs::read(file("signed.ocsp")).unwrap();
    let [until, past] = [b"21261102015259Z", b"20201102015259Z"];
    let mut old = good.clone();
    let place = good.windows(until.len()).position(|part| part == until).unwrap();
    old[place..place + past.len()].copy_from_slice(past);
    fs::write(&response, &old).unwrap();
    let [cert, key] = ["signed.pem", "signed.key"].map(file);
    let table = format!("[{{ cert = {cert:?}, key = {key:?}, ocsp = {response:?} }}]");
    let proxy = setup
        .with(|settings| drop_ref(https(settings, &backend, "").listener("certificates", &table)))
        .start()
        .await;
    proxy.wait_for_stderr("a warning", |line| line.contains("has expired")).await;
    let serves = async |words: &str| {
        let output = request(proxy.web(), "-status").await;
        assert_says(&output, &[words, "200 OK"]);
    };
    serves("OCSP response: no response sent").await;
    for (bytes, words) in
        [(&good, "OCSP Response Status: successful"), (&old, "OCSP response: no response sent")]
    {
        let before = proxy.metric(RELOADS_OK).await;
        let fresh = proxy.directory().join("fresh");
        fs::write(&fresh, bytes).unwrap();
        fs::rename(&fresh, &response).unwrap();
        proxy.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
        serves(words).await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn proxies_with_the_same_ticket_keys_resume_each_others_sessions() {
    let backend = Backend::replying("ok").await;
    let shared = tempfile::tempdir().unwrap();
    let keys = shared.path().join("ticket.keys");
    let [old, new] = ["old key ", "new key "].map(|word| word.repeat(5));
    fs::write(&keys, &old).unwrap();
    let change = |settings: &mut Settings| {
        https(settings, &backend, "").top("ticket_keys", &format!("{{ file = {keys:?} }}"));
    };
    let (one, other) = (Proxy::with(change).await, Proxy::with(change).await);
    let certificate = Certificate::read(&file("signed.pem"), &file("signed.key"), "localhost");
    let mut open = certificate.client_trusting(&file("ca.pem")).connect(one.web()).await;

    let versions = ["-tls1_2", "-tls1_3"];
    let session = |version: &str| shared.path().join(version);
    let resumed = async |proxy: &Proxy, version: &str| {
        let words = format!("{version} -sess_in {}", session(version).display());
        let output = request(proxy.web(), &words).await;
        assert_says(&output, &["200 OK"]);
        output.contains("Reused")
    };
    for version in versions {
        let words = format!("{version} -sess_out {}", session(version).display());
        assert_says(&request(one.web(), &words).await, &["New", "200 OK"]);
        assert!(resumed(&other, version).await, "by the other proxy, {version}");
    }
    // The proxy watches the file, so no signal is needed.
    let rotate = async |text: String| {
        let mut before = Vec::new();
        for proxy in [&one, &other] {
            before.push(proxy.metric(RELOADS_OK).await);
        }
        let fresh = shared.path().join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &keys).unwrap();
        for (proxy, before) in [&one, &other].into_iter().zip(before) {
            proxy.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
        }
    };
    rotate(format!("{new}\n{old}\n")).await;
    for version in versions {
        for proxy in [&one, &other] {
            assert!(resumed(proxy, version).await, "by the previous key, {version}");
        }
    }
    rotate(new).await;
    for version in versions {
        for proxy in [&one, &other] {
            assert!(!resumed(proxy, version).await, "by a removed key, {version}");
        }
    }
    // The connection from before the changes still works.
    open.write_all(&message::get("/still", "Connection: close\r\n")).await.unwrap();
    let mut reply = String::new();
    open.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("ok"), "{reply}");
    drop((open, backend));
    one.finish().await;
    other.finish().await;
}

#[tokio::test]
async fn session_secrets_are_written_to_the_key_log_file_only() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let [ours, theirs] = ["ours.log", "theirs.log"].map(|name| setup.directory().join(name));
    // The file exists already, and all users can read it.
    fs::write(&ours, "").unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o644)).unwrap();
    let proxy = setup
        .with(|settings| {
            let tls = format!("key_log = {ours:?}");
            https(settings, &backend, &tls);
            add_https(settings, "second", &tls);
        })
        .start()
        .await;
    for name in ["web", "second"] {
        let needle = format!("listener=\"{name}\"");
        let is =
            |line: &str| line.contains("secrets of every TLS session") && line.contains(&needle);
        proxy.wait_for_stderr("a warning", is).await;
        for version in ["-tls1_2", "-tls1_3"] {
            let words = format!("{version} -keylogfile {}", theirs.display());
            assert_says(&request(proxy.listener(name), &words).await, &["200 OK"]);
        }
    }
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o777, 0o600);
    let secrets = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        lines.collect::<std::collections::BTreeSet<_>>()
    };
    let (ours, theirs) = (secrets(&ours), secrets(&theirs));
    assert!(ours.len() >= 10 && theirs.len() >= 10, "{ours:?}\n{theirs:?}");
    assert!(ours.is_subset(&theirs), "{ours:?}\n{theirs:?}");
    for label in ["CLIENT_RANDOM ", "CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "] {
        assert_eq!(ours.iter().filter(|line| line.starts_with(label)).count(), 2, "{label}");
    }
    let open = crate::support::process::open_files(proxy.pid());
    assert_eq!(open.iter().filter(|file| file.ends_with("ours.log")).count(), 1, "{open:?}");
    let [path, rotated] = ["ours.log", "rotated.log"].map(|name| proxy.directory().join(name));
    fs::rename(&path, &rotated).unwrap();
    proxy.hangup();
    wait_for("a new file", || path.exists().then_some(())).await;
    let words = format!("-tls1_3 -keylogfile {}", proxy.directory().join("later.log").display());
    assert_says(&request(proxy.web(), &words).await, &["200 OK"]);
    assert!(!secrets(&path).is_empty() && secrets(&rotated) == ours);
    proxy.finish().await;

    let setup = Setup::new().with(|settings| {
        https(settings, &backend, "key_log = \"/nowhere/at/all\"");
    });
    let ended = setup.fails_to_start().await;
    assert_says(&ended.stderr, &["key log /nowhere/at/all"]);
}

/// Makes a closure that returns the changed settings return `()`.
fn drop_ref(_: &mut Settings) {}
