//! Backup backends.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    Backend, Node, Proxy, Raw,
    node::{cookie_field, handshake, poll},
    proxy::Setup,
    websocket,
};

const HEALTH: &str = "{ probe = \"tcp\", interval = \"50ms\", rise = 1, fall = 1 }";

async fn start(primary: &Node, backup: &Node) -> Proxy {
    let backends = format!(
        "[\"{}\", {{ name = \"backup\", address = \"{}\", backup = true }}]",
        primary.backend.address, backup.backend.address
    );
    let setup = Setup::new().with(|settings| {
        settings.pool("backends", &backends).pool("health", HEALTH);
        settings.pool("sticky", "{ cookie = { set_on = \"always\" } }");
    });
    setup.start().await
}

async fn wait_for_state(proxy: &Proxy, backend: usize, state: &str) {
    for _ in 0..1000 {
        let pools: Value = proxy.api().ask("GET", "/v1/pools", "").await.json();
        if pools["pools"][0]["backends"][backend]["state"] == state {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("backend {backend} is never {state}");
}

#[tokio::test]
async fn a_backup_is_used_only_while_no_other_backend_is_healthy() {
    let (primary, backup) = (Node::start("primary").await, Node::start("backup").await);
    let proxy = start(&primary, &backup).await;
    let address = primary.backend.address;
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..6 {
        assert_eq!(handshake(&mut client, "t", "").await.node, "primary");
    }
    wait_for_state(&proxy, 1, "standby").await;
    let before = handshake(&mut client, "before", "").await;
    let kept = primary.sessions();
    drop(primary);
    wait_for_state(&proxy, 1, "up").await;
    // Its sessions have ended with it; clients open new ones.
    let lost = poll(&mut client, &before.sid, "lost", "").await;
    assert_eq!((lost.status(), lost.text().contains("\"code\":1")), (400, true));
    let during = handshake(&mut client, "during", &cookie_field(&before.cookie.unwrap())).await;
    assert_eq!(during.node, "backup");
    let mut tunnel = Raw::connect(proxy.web()).await;
    tunnel.send(websocket::request("/ws", "")).await;
    assert_eq!(tunnel.head().await.status(), 101);
    let listener = TcpListener::bind(address).await.unwrap();
    let primary = Node::restart(&kept, listener);
    wait_for_state(&proxy, 1, "standby").await;
    // New sessions return, even with the cookie of the backup; its own stay.
    let cookie = cookie_field(during.cookie.as_deref().unwrap());
    for headers in ["", &cookie] {
        assert_eq!(handshake(&mut client, "after", headers).await.node, "primary");
    }
    for _ in 0..2 {
        let reply = poll(&mut client, &during.sid, "poll", &cookie).await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some("backup")));
    }
    let log = proxy.stderr_text();
    assert!(log.contains("using the backups") && log.contains("leave the backups"), "{log}");
    drop((client, tunnel, primary, backup));
    proxy.finish().await;
}

#[tokio::test]
async fn a_drained_backend_leaves_its_requests_to_the_backup() {
    let (primary, backup) = (Node::start("primary").await, Node::start("backup").await);
    let mut proxy = start(&primary, &backup).await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "t", "").await;
    let name = primary.backend.address.to_string();
    let target = json!({ "pool": "app", "backend": name }).to_string();
    proxy.api().ask("POST", "/v1/drain", &target).await;
    assert_eq!(handshake(&mut client, "t", "").await.node, "backup");
    let reply = poll(&mut client, &session.sid, "poll", "").await;
    assert_eq!((reply.status(), reply.header("x-node")), (200, Some("primary")));
    let url = format!("http://app.test:{}/", proxy.web().port());
    let body = json!({ "url": url }).to_string();
    let reply: Value = proxy.api().ask("POST", "/v1/explain", &body).await.json();
    assert!(reply["steps"].to_string().contains("backup"), "{reply}");
    proxy.api().ask("POST", "/v1/undrain", &target).await;
    assert_eq!(handshake(&mut client, "t", "").await.node, "primary");
    // A reload that makes it an ordinary backend keeps it and its sessions.
    let both = json!([name, { "name": "backup", "address": backup.backend.address }]);
    let both = both.to_string().replace("\":", "\"=");
    proxy.reload(|settings| _ = settings.pool("backends", &both)).await;
    wait_for_state(&proxy, 1, "up").await;
    assert_eq!(poll(&mut client, &session.sid, "poll", "").await.status(), 200);
    drop((client, primary, backup));
    proxy.finish().await;
}

#[tokio::test]
async fn a_failed_request_is_sent_to_the_backup() {
    let (backend, backup) = (Backend::replying("first").await, Backend::replying("backup").await);
    let backends =
        format!("[\"{}\", {{ address = \"{}\", backup = true }}]", backend.address, backup.address);
    let setup = Setup::new().with(|settings| _ = settings.pool("backends", &backends));
    let proxy = setup.start().await;
    drop(backend);
    // The backend is not down: nothing checks its health.
    for _ in 0..2 {
        let reply = Raw::ask(proxy.web(), crate::support::message::get("/", "")).await;
        assert_eq!((reply.status(), reply.text()), (200, "backup".to_owned()));
    }
    drop(backup);
    proxy.finish().await;
}
