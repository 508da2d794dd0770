//! API keys, passwords, certificates, and conditions of identities.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{super::get, issuer::Issuer, logged, with_route};
use crate::{
    client_auth::{self, ADA},
    support::{
        Backend, Node, Proxy, eventually, message,
        node::{Session, handshake, handshake_target, poll, poll_target},
        openssl::{assert_says, s_client},
        proxy::Setup,
    },
};

/// Hashes of `secret`, made by other implementations.
const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
const ARGON2: &str = "$argon2id$v=19$m=16,t=2,p=1$MTIzNDU2Nzg$ZlgCW0V2GfYHJSpwaUWU1w";

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A proxy with one route to a backend; FILE in the keys of `auth` is a file with these lines.
async fn with_file(backend: std::net::SocketAddr, lines: &str, route: &str) -> Proxy {
    let setup = Setup::new();
    let path = setup.directory().join("credentials.txt");
    fs::write(&path, lines).unwrap();
    let route = route.replace("FILE", &format!("{path:?}"));
    let setup = setup.with(|settings| {
        settings.unrouted().backends(&[backend]);
        settings.table(&format!("[[routes]]\npool = \"app\"\n{route}"));
    });
    setup.start().await
}

#[tokio::test]
async fn an_api_key_is_that_of_a_client_and_never_logged() {
    let backend = Backend::replying("ok").await;
    let (old, new, late) = (sha256("key-old"), sha256("key-new"), sha256("key-late"));
    let lines = format!(
        "# clients\nmobile {old}\nmobile {new} scope=chat\nweb {late} expires=2001-01-01\n"
    );
    let route = "auth = { api_keys = { file = FILE, key = [\"header:X-API-Key\", \"query:k\", \"header\"] } }\n\
                 headers = { request = { set = { X-Client = \"{api_key}\", X-Scope = \"{jwt.scope}\" } } }";
    let proxy = with_file(backend.address, &lines, route).await;
    for (target, fields, expected) in [
        ("/", "X-API-Key: key-old\r\n", 200),
        ("/", "x-api-key: key-new\r\nX-Client: root\r\n", 200),
        ("/?k=key%2Dnew", "", 200),
        ("/", "Authorization: Bearer key-new\r\n", 200),
        ("/?k=key-old", "X-API-Key: wrong\r\n", 401),
        ("/", "X-API-Key: key-old\r\nX-API-Key: key-old\r\n", 401),
        ("/", "X-API-Key: \r\n", 401),
        ("/", "", 401),
    ] {
        let reply = get(&proxy, target, fields).await;
        assert_eq!(reply.status(), expected, "{target} {fields}");
        let challenge = (expected == 401).then_some("ApiKey");
        assert_eq!(reply.header("www-authenticate"), challenge, "{target} {fields}");
    }
    for seen in backend.requests() {
        assert_eq!(seen.all("x-client"), ["mobile"]);
    }
    assert_eq!(backend.requests()[1].all("x-scope"), ["chat"]);
    let reply = get(&proxy, "/", "X-API-Key: key-late\r\n").await;
    let line = logged(&proxy, &reply).await;
    assert!(line["error"].as_str().unwrap().contains("expired"), "{line}");
    eventually("all lines", || proxy.log_lines().len() >= 9).await;
    let log = format!("{:?}{:?}", proxy.log_lines(), proxy.stderr());
    assert!(!log.contains("key-new") && !log.contains("key%2Dnew"), "{log}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_removed_api_key_is_refused_at_once_and_limits_count_by_client() {
    let backend = Backend::replying("ok").await;
    let lines = format!("mobile {}\nmobile {}\nweb {}\n", sha256("a"), sha256("b"), sha256("c"));
    let route = "auth = { api_keys = { file = FILE } }\n\
                 limits = [{ key = \"api_key\", quota = \"2/d\" }, { key = \"client\", rate = \"1000/s\" }]";
    let mut proxy = with_file(backend.address, &lines, route).await;
    let status = async |proxy: &Proxy, key: &str| {
        get(proxy, "/", &format!("X-API-Key: {key}\r\n")).await.status()
    };
    // Requests without a valid key do not count.
    assert_eq!(status(&proxy, "x").await, 401);
    assert_eq!((status(&proxy, "a").await, status(&proxy, "b").await), (200, 200));
    assert_eq!((status(&proxy, "a").await, status(&proxy, "c").await), (429, 200));
    let path = proxy.directory().join("credentials.txt");
    fs::write(path, format!("mobile {}\nweb {}\n", sha256("b"), sha256("c"))).unwrap();
    proxy.reload(|_| {}).await;
    assert_eq!((status(&proxy, "a").await, status(&proxy, "c").await), (401, 200));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn passwords_are_checked_for_names_that_exist_and_for_others() {
    let backend = Backend::replying("ok").await;
    let lines = format!("anna:{BCRYPT}\nbert:{ARGON2}\n");
    let route = "auth = { basic = { file = FILE } }\n\
                 headers = { request = { set = { X-User = \"{subject}\" } } }";
    let proxy = with_file(backend.address, &lines, route).await;
    let ask = async |scheme: &str, text: &str| {
        let fields = format!("Authorization: {scheme} {}\r\n", STANDARD.encode(text));
        get(&proxy, "/", &fields).await
    };
    for (scheme, text, expected) in [
        ("Basic", "anna:secret", 200),
        ("basic", "bert:secret", 200),
        ("Basic", "anna:secret", 200),
        ("Basic", "anna:wrong", 401),
        ("Basic", "carl:secret", 401),
        ("Basic", "anna", 401),
        ("Bearer", "anna:secret", 401),
    ] {
        let reply = ask(scheme, text).await;
        assert_eq!(reply.status(), expected, "{scheme} {text}");
        let challenge = "Basic realm=\"restricted\", charset=\"UTF-8\"";
        let challenge = (expected == 401).then_some(challenge);
        assert_eq!(reply.header("www-authenticate"), challenge, "{scheme} {text}");
    }
    let users: Vec<String> =
        backend.requests().iter().map(|seen| seen.header("x-user").unwrap().to_owned()).collect();
    assert_eq!(users, ["anna", "bert", "anna"]);
    let reply = ask("Basic", "carl:secret").await;
    assert!(logged(&proxy, &reply).await["error"].as_str().unwrap().contains("name or password"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn an_identity_must_meet_the_conditions_of_the_route() {
    let (issuer, backend) = (Issuer::new(), Backend::replying("ok").await);
    let keys = "[routes.auth.require]\nscopes = [\"chat\", \"files\"]\n\
                claims = { role = [\"admin\", \"editor\"], \"org.id\" = \"7\", banned = false }";
    let proxy = with_route(&issuer, &backend, keys, "").await;
    let good = json!({ "scope": "files chat", "role": ["x", "editor"], "org": { "id": 7 } });
    let mut cases = vec![(good.clone(), None)];
    for (name, value, reason) in [
        ("scope", json!("chat"), "scope files"),
        ("role", json!(["reader"]), "claim role"),
        ("role", json!(null), "claim role"),
        ("org", json!({ "id": "8" }), "claim org.id"),
        ("banned", json!(true), "claim banned"),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        cases.push((claims, Some(reason)));
    }
    for (claims, reason) in cases {
        let fields = format!("Authorization: Bearer {}\r\n", issuer.claims(&claims));
        let reply = get(&proxy, "/", &fields).await;
        assert_eq!(reply.status(), if reason.is_some() { 403 } else { 200 }, "{claims}");
        if let Some(reason) = reason {
            let line = logged(&proxy, &reply).await;
            assert!(line["error"].as_str().unwrap().contains(reason), "{reason}: {line}");
        }
    }
    assert_eq!(backend.requests().len(), 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn limits_count_by_a_claim_after_authentication() {
    let (issuer, backend) = (Issuer::new(), Backend::replying("ok").await);
    let route = "limits = { key = \"jwt:org\", quota = \"1/d\" }";
    let proxy = with_route(&issuer, &backend, "", route).await;
    let status = async |org: &str| {
        let token = issuer.claims(&json!({ "org": org }));
        get(&proxy, "/", &format!("Authorization: Bearer {token}\r\n")).await.status()
    };
    assert_eq!((status("a").await, status("a").await, status("b").await), (200, 429, 200));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_certificate_is_an_identity_or_a_condition() {
    let node = Node::start("a").await;
    let setup = Setup::new();
    let path = setup.directory().join("keys.txt");
    fs::write(&path, format!("mobile {}\n", sha256("k"))).unwrap();
    let setup = setup.with(|settings| {
        client_auth::mutual(settings, &node.backend, "mode = \"optional\"").unrouted();
        settings.table(
            "[[routes]]\npool = \"app\"\nauth = { require = { certificate = true } }\n\
             headers = { response = { set = { X-User = \"{subject}\" } } }\n",
        );
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\npath = \"/key\"\n[routes.auth]\napi_keys = {{ file = {path:?} }}\n\
             require = {{ certificate = {{ subject = {ADA:?} }} }}\n"
        ));
    });
    let proxy = setup.start().await;
    let mut ada = client_auth::connect(&proxy, "client").await;
    let Session { sid, reply, .. } = handshake(&mut ada, "t0", "").await;
    assert_eq!(reply.header("x-user"), Some(ADA));
    assert_eq!(poll(&mut ada, &sid, "t1", "").await.status(), 200);
    for (fields, expected) in [("X-API-Key: k\r\n", false), ("", true)] {
        ada.send(message::get("/key", fields)).await;
        assert_eq!(ada.response().await.status() == 401, expected);
    }
    // Neither a key nor the sid of a session replaces the certificate.
    for target in ["/key".to_owned(), handshake_target("t0"), poll_target(&sid, "t2")] {
        let request = message::get(&target, "Connection: close\r\nX-API-Key: k\r\n");
        assert_says(&s_client(proxy.web(), "", &request).await, &["403 Forbidden"]);
    }
    let line = proxy.wait_for_log("a refusal", |line| line["status"] == 403).await;
    assert!(line["error"].as_str().unwrap().contains("client certificate"), "{line}");
    drop((ada, node));
    proxy.finish().await;
}
