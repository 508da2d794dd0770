//! Stale responses that are renewed after the reply.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{FRESH, cache_status};
use crate::{
    gateway::{get, routed},
    support::{Backend, Raw, message, proxy::Setup, wait_for},
};

#[tokio::test]
async fn a_stale_response_is_renewed_behind_the_reply() {
    const STALE: &str = "ETag: \"x\"\r\nCache-Control: max-age=0, stale-while-revalidate=600\r\n";
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "cache = true\n").await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", "")).await;
    let peer = backend.peer_for("/").await;
    peer.send(message::reply("200 OK", STALE, "old")).await;
    assert_eq!(client.response().await.text(), "old");
    // Both get their reply before the backend answers; one of them renews it.
    for _ in 0..2 {
        let stale = get(&proxy, "/", "").await;
        assert_eq!(
            (stale.text().as_str(), cache_status(&stale).as_str()),
            ("old", "moorline; hit")
        );
    }
    wait_for("the validation", || (backend.requests().len() == 2).then_some(())).await;
    assert_eq!(backend.requests()[1].header("if-none-match"), Some("\"x\""));
    peer.send(message::reply("200 OK", FRESH, "new")).await;
    while get(&proxy, "/", "").await.text() != "new" {}
    drop((client, peer, backend));
    proxy.finish().await;
}

/// A client that is authenticated by something else than `Authorization` counts like one with it (RFC 9111 §3.5).
#[tokio::test]
async fn a_renewal_for_an_authenticated_client_is_stored_only_if_it_is_public() {
    const STALE: &str = "Cache-Control: public, max-age=0, stale-while-revalidate=600\r\n";
    let count = AtomicUsize::new(0);
    let backend = Backend::answering(move |_| {
        let number = 1 + count.fetch_add(1, Ordering::Relaxed);
        let fields = match number {
            1 => STALE,
            2 => FRESH,
            _ => "Cache-Control: public, max-age=600\r\n",
        };
        message::reply("200 OK", fields, &format!("body {number}"))
    })
    .await;
    let setup = Setup::new();
    let path = setup.directory().join("keys.txt");
    // SHA-256 of "k".
    let hash = "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a";
    std::fs::write(&path, format!("mobile {hash}\n")).unwrap();
    let setup = setup.with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\ncache = true\n\
             auth = {{ api_keys = {{ file = {path:?}, key = \"header:X-API-Key\" }} }}\n"
        ));
    });
    let proxy = setup.start().await;
    let ask = async || get(&proxy, "/", "X-API-Key: k\r\n").await.text();
    assert_eq!((ask().await.as_str(), ask().await.as_str()), ("body 1", "body 1"));
    wait_for("the renewal", || (backend.requests().len() == 2).then_some(())).await;
    let renewed = loop {
        let body = ask().await;
        if body != "body 1" {
            break body;
        }
    };
    assert_eq!(renewed, "body 3", "the second one was not public");
    drop(backend);
    proxy.finish().await;
}
