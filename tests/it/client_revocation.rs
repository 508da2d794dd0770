//! Revocation, expiry and session resumption of clients with certificates.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::Value;

use crate::{
    client_auth::{ADA, add_listener, connect, issue, mutual, test_authority},
    configuration::drop_ref,
    support::{
        Backend, Proxy, TIMEOUT, message,
        openssl::{as_client, assert_says, file, request},
        proxy::{RELOADS_OK, Setup},
    },
};

/// A revocation list of the test authority with these serial numbers.
fn revocation_list(serials: &[u64], due: (i32, u8, u8)) -> String {
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
    list.signed_by(&test_authority()).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_new_revocation_list_applies_to_new_handshakes_only() {
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

    // The file is watched, so no reload is requested.
    let replace = async |text: String| {
        let before = proxy.metric(RELOADS_OK).await;
        let fresh = list.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &list).unwrap();
        proxy.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
    };
    // The serial numbers of ada and mallory.
    replace(revocation_list(&[1002, 1003], (2099, 1, 1))).await;
    assert_says(&request(proxy.web(), &ada).await, &["alert certificate revoked"]);
    let output = request(proxy.web(), &format!("{ada} {returning}")).await;
    assert_says(&output, &["alert certificate revoked"]);
    assert_says(&request(proxy.web(), &returning).await, &["alert certificate required"]);
    open.send(message::get("/after", "")).await;
    assert_eq!(open.response().await.text(), "ok");

    // An overdue list is still used and rejects no other client.
    replace(revocation_list(&[1003], (2026, 1, 2))).await;
    proxy.wait_for_stderr("a warning", |line| line.contains("overdue")).await;
    assert_says(&request(proxy.web(), &ada).await, &["200 OK"]);
    let output = request(proxy.web(), &as_client("revoked")).await;
    assert_says(&output, &["alert certificate revoked"]);
    drop((open, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_061_sessions_are_not_resumed_across_client_auth_settings() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        mutual(settings, &backend, "");
        add_listener(settings, "again", Some(""));
        add_listener(settings, "optional", Some("mode = \"optional\""));
        add_listener(settings, "open", None);
        add_listener(settings, "also_open", None);
    })
    .await;
    let session = proxy.directory().join("session.pem");
    let at = |listener| proxy.listener(listener);
    let ada = as_client("client");
    let (keep, offer) = ("-sess_out", "-sess_in");
    let file = session.display();
    // Tickets of both versions, and server-side sessions for clients without tickets.
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

        // With equal settings, the session is resumed with the client's identity.
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
async fn a_session_ends_with_its_client_certificate() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let folder = setup.directory().to_owned();
    let proxy = setup.with(|settings| drop_ref(mutual(settings, &backend, ""))).start().await;
    let session = folder.join("session.pem");
    let mut life = Duration::from_secs(3);
    // On a slow machine, the certificate may expire before its first use.
    loop {
        let soon = SystemTime::now() + life;
        let short_lived = issue(&folder, "short_lived", &test_authority(), |params| {
            params.not_after = soon.into()
        });
        let words = format!("{} -sess_out {}", short_lived.words(), session.display());
        if request(proxy.web(), &words).await.contains("200 OK") {
            break;
        }
        life *= 2;
    }
    let offer = format!("-sess_in {}", session.display());
    let deadline = Instant::now() + life + TIMEOUT;
    loop {
        let output = request(proxy.web(), &offer).await;
        if !output.contains("200 OK") {
            assert_says(&output, &["Reused"]);
            break;
        }
        assert!(Instant::now() < deadline, "the session does not end");
    }
    let expired = |line: &Value| line["termination"] == "client_handshake_certificate_expired";
    proxy.wait_for_log("the rejection", expired).await;
    drop(backend);
    proxy.finish().await;
}
