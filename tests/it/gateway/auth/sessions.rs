//! Identities of sessions and tunnels: which clients may use a session, and when it ends.

use serde_json::Value;

use super::{
    super::get,
    issuer::{Issuer, now},
    with_route,
};
use crate::support::{
    Backend, Node, Proxy, Raw, message,
    node::{handshake_target, poll_target},
    proxy::Setup,
    websocket,
};

/// A Close frame.
pub(super) fn closed(status: u16, reason: &str) -> Vec<u8> {
    let status = status.to_be_bytes();
    [&[0x88, reason.len() as u8 + 2], &status[..], reason.as_bytes()].concat()
}

async fn ask(proxy: &Proxy, target: &str, token: &str) -> crate::support::Message {
    let target = format!("{target}&token={token}");
    Raw::ask(proxy.web(), message::get(target.trim_end_matches("&token="), "")).await
}

async fn with_session(keys: &str, node: &Node, issuer: &Issuer) -> Proxy {
    let keys = format!("token = [\"header\", \"query:token\"]\nleeway = \"0s\"\n{keys}");
    with_route(issuer, &node.backend, &keys, "").await
}

/// Opens a session by polling.
async fn open(proxy: &Proxy, token: &str) -> String {
    let reply = ask(proxy, &handshake_target("t0"), token).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let body = reply.text();
    let open: Value = serde_json::from_str(&body[1..]).unwrap();
    open["sid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_belongs_to_the_identity_of_its_handshake() {
    let (issuer, node) = (Issuer::new(), Node::start("a").await);
    let proxy = with_session("", &node, &issuer).await;
    let anna = issuer.valid("anna");
    assert_eq!(ask(&proxy, &handshake_target("t0"), "").await.status(), 401);
    let sid = open(&proxy, &anna).await;
    let poll = poll_target(&sid, "t1");
    for (token, expected) in [
        (anna.clone(), 200),
        // Another token of the same identity.
        (issuer.until("anna", now() + 900), 200),
        // An expired token, or none, follows the session.
        (issuer.until("anna", now() - 10), 200),
        (String::new(), 200),
        // Another identity does not, whether or not its token has expired.
        (issuer.valid("bert"), 403),
        (issuer.until("bert", now() - 10), 403),
        (Issuer::new().valid("anna"), 401),
        ("x".to_owned(), 401),
    ] {
        assert_eq!(ask(&proxy, &poll, &token).await.status(), expected, "{token}");
    }
    // Nor an upgrade.
    let upgrade = |token: &str| {
        let target = poll.replace("polling", "websocket");
        websocket::request(&target, &format!("Authorization: Bearer {token}\r\n"))
    };
    let refused = Raw::ask(proxy.web(), upgrade(&issuer.valid("bert"))).await;
    assert_eq!(refused.status(), 403);
    let line = super::logged(&proxy, &refused).await;
    assert_eq!(line["termination"], "proxy_select_denied");
    let mut client = Raw::connect(proxy.web()).await;
    client.send(upgrade(&anna)).await;
    assert_eq!(client.response().await.status(), 101);
    // An unknown session needs a token.
    let unknown = poll_target("0123456789abcdefghij", "t2");
    assert_eq!(ask(&proxy, &unknown, "").await.status(), 401);
    assert_eq!(ask(&proxy, &unknown, &anna).await.status(), 400);
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_opens_no_other_path() {
    let (issuer, node) = (Issuer::new(), Node::start("a").await);
    let route = "path = \"/socket.io\"";
    let setup = Setup::new();
    let path = setup.directory().join("keys.pem");
    std::fs::write(&path, issuer.public_key()).unwrap();
    let proxy = setup
        .with(|settings| {
            settings.unrouted().backends(&[node.backend.address]);
            let jwt = |audience| {
                format!("[routes.auth.jwt]\nkeys = {path:?}\nissuer = \"https://id.test\"\naudience = \"{audience}\"\ntoken = [\"header\", \"query:token\"]\n")
            };
            settings.table(&format!("[[routes]]\npool = \"app\"\n{route}\n{}", jwt("chat")));
            settings.table(&format!("[[routes]]\npool = \"app\"\npath = \"/admin\"\n{}", jwt("admin")));
        })
        .start()
        .await;
    let token = issuer.valid("anna");
    let sid = open(&proxy, &token).await;
    let before = node.backend.requests().len();
    for target in
        ["/admin/export", "/socket.io/../admin/export", "/admin/socket.io/", "/socket.io/x"]
    {
        let target = format!("{target}?EIO=4&transport=polling&sid={sid}");
        assert!([400, 401].contains(&get(&proxy, &target, "").await.status()), "{target}");
        let bearer = format!("Authorization: Bearer {token}\r\n");
        if target.starts_with("/admin") {
            assert_eq!(get(&proxy, &target, &bearer).await.status(), 401, "{target}");
        }
    }
    assert_eq!(node.backend.requests().len(), before);
    // The session of another client is refused at every path, and a credential is needed elsewhere.
    let elsewhere = format!("/socket.io/x?EIO=4&transport=polling&sid={sid}");
    for (token, expected) in [(issuer.valid("bert"), 403), (issuer.until("anna", now() - 100), 401)]
    {
        let bearer = format!("Authorization: Bearer {token}\r\n");
        assert_eq!(get(&proxy, &elsewhere, &bearer).await.status(), expected);
    }
    assert_eq!(node.backend.requests().len(), before);
    let own = format!("/socket.io/?EIO=4&transport=polling&sid={sid}&t=own");
    assert_eq!(get(&proxy, &own, "").await.status(), 200);
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn an_expired_session_ends_and_a_fresh_token_opens_another() {
    let (issuer, node) = (Issuer::new(), Node::start("a").await);
    let proxy = with_session("", &node, &issuer).await;
    let brief = issuer.until("anna", now() + 2);
    let sid = open(&proxy, &brief).await;
    let poll = poll_target(&sid, "t1");
    assert_eq!(ask(&proxy, &poll, &brief).await.status(), 200);
    let last = loop {
        let reply = ask(&proxy, &poll, &brief).await;
        if reply.status() != 200 {
            break reply;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    // The error of Engine.IO that makes the client open a new session.
    assert_eq!(
        (last.status(), last.text().as_str()),
        (400, "{\"code\":1,\"message\":\"Session ID unknown\"}")
    );
    // Not even a fresh token continues the session, but it opens another.
    let fresh = issuer.valid("anna");
    assert_eq!(ask(&proxy, &poll, &fresh).await.status(), 400);
    open(&proxy, &fresh).await;
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn tunnels_are_closed_between_two_frames_when_their_identity_expires() {
    let (issuer, backend) = (Issuer::new(), Backend::start(websocket::echo()).await);
    let keys = "leeway = \"0s\"\n[routes.auth]\ngrace = \"1s\"\nclose_code = 4401";
    let proxy = with_route(&issuer, &backend, keys, "").await;
    let upgrade =
        |token: &str| websocket::request("/ws", &format!("Authorization: Bearer {token}\r\n"));
    let mut brief = Raw::connect(proxy.web()).await;
    brief.send(upgrade(&issuer.until("anna", now() + 1))).await;
    assert_eq!(brief.response().await.status(), 101);
    let mut long = Raw::connect(proxy.web()).await;
    long.send(upgrade(&issuer.valid("anna"))).await;
    assert_eq!(long.response().await.status(), 101);
    // The first half of a frame: the Close waits for the other half.
    long.send(websocket::EARLY).await;
    long.exact(websocket::EARLY.len()).await;
    let expected = closed(4401, "credentials expired");
    assert_eq!(brief.exact(expected.len()).await, expected);
    brief.send(b"\x88\x82\x00\x00\x00\x00\x11\x31").await;
    brief.assert_closed().await;
    proxy.wait_for_log("the end", |line| line["termination"] == "expired").await;
    // The other tunnel is still open.
    long.send(websocket::EARLY).await;
    long.exact(websocket::EARLY.len()).await;
    drop((long, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_revocation_ends_all_sessions_of_a_subject_at_once() {
    let (issuer, node) = (Issuer::new(), Node::start("a").await);
    let proxy = with_session("", &node, &issuer).await;
    let (anna, bert) = (issuer.valid("anna"), issuer.valid("bert"));
    let polling = open(&proxy, &anna).await;
    let others = open(&proxy, &bert).await;
    let upgraded = open(&proxy, &anna).await;
    let target = poll_target(&upgraded, "t1").replace("polling", "websocket");
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request(&target, "")).await;
    assert_eq!(client.response().await.status(), 101);
    let done = proxy.command(&["revoke", "anna"]).await.done();
    assert!(done.contains("revoked anna: 2 sessions and 1 tunnel end"), "{done}");
    let expected = closed(1008, "credentials revoked");
    assert_eq!(client.exact(expected.len()).await, expected);
    assert_eq!(ask(&proxy, &poll_target(&polling, "t1"), &anna).await.status(), 400);
    assert_eq!(ask(&proxy, &poll_target(&others, "t1"), &bert).await.status(), 200);
    // Tokens from before are refused, later ones are not.
    assert_eq!(ask(&proxy, &handshake_target("t0"), &anna).await.status(), 401);
    let mut reply = 401;
    while reply == 401 {
        reply = ask(&proxy, &handshake_target("t0"), &issuer.valid("anna")).await.status();
    }
    assert_eq!(reply, 200);
    let again = proxy.command(&["revoke", "anna"]).await.done();
    assert!(again.contains("revoked anna: 1 session and 0 tunnels end"), "{again}");
    proxy.command(&["revoke", ""]).await.refused("the subject is empty");
    drop((client, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_reload_keeps_the_identities_of_sessions() {
    let (issuer, node) = (Issuer::new(), Node::start("a").await);
    let mut proxy = with_session("", &node, &issuer).await;
    let sid = open(&proxy, &issuer.valid("anna")).await;
    proxy
        .reload(|settings| {
            settings.top("forwarded", "\"always\"");
        })
        .await;
    let poll = poll_target(&sid, "t1");
    assert_eq!(ask(&proxy, &poll, &issuer.valid("bert")).await.status(), 403);
    assert_eq!(ask(&proxy, &poll, "").await.status(), 200);
    drop(node);
    proxy.finish().await;
}
