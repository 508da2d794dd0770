//! Rebalancing of tunnels after a pool grows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Backend, Proxy, Raw, eventually, node::cookie_field, proxy::TUNNELS, websocket,
};

/// Number of clients.
const CLIENTS: usize = 40;

/// Connects, and reconnects at once with its cookie after each close by the proxy.
async fn keep_connected(address: std::net::SocketAddr, closes: Arc<AtomicUsize>) {
    let close = websocket::close("rebalancing");
    let mut cookie = String::new();
    loop {
        let mut client = Raw::connect(address).await;
        client.send(websocket::request("/chat", &cookie)).await;
        let reply = client.response().await;
        assert_eq!(reply.status(), 101, "{}", reply.text());
        if let Some(set) = reply.header("set-cookie") {
            cookie = cookie_field(set.split(';').next().unwrap());
        }
        let (bytes, answered) =
            (exact_without_timeout(&mut client, close.len()).await, websocket::CLOSE_REPLY);
        assert_eq!(bytes, close);
        closes.fetch_add(1, Ordering::SeqCst);
        client.send(answered).await;
        client.assert_closed().await;
    }
}

/// Reads `count` bytes without a time limit: a client that is not moved waits forever.
async fn exact_without_timeout(client: &mut Raw, count: usize) -> Vec<u8> {
    while !client.has_received(count).await {}
    client.exact(count).await
}

fn sessions(backend: &Backend) -> String {
    format!("moorline_backend_sessions{{pool=\"app\",backend=\"{}\"}}", backend.address)
}

#[tokio::test]
async fn a_pool_that_grows_is_rebalanced_once() {
    let (old, new) =
        (Backend::start(websocket::silent()).await, Backend::start(websocket::silent()).await);
    let (first, second) = (old.address, new.address);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[first]).pool("rebalance", "{ rate = \"20/s\" }");
    })
    .await;
    let closes = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(keep_connected(proxy.web(), Arc::clone(&closes)));
    }
    let all = |count: f64| count == CLIENTS as f64;
    proxy.wait_for_metric("all tunnels are open", TUNNELS, all).await;
    proxy
        .reload(|settings| {
            settings.backends(&[first, second]);
        })
        .await;
    let half = |count: f64| count == (CLIENTS / 2) as f64;
    proxy.wait_for_metric("half of the tunnels on the new backend", &sessions(&new), half).await;
    proxy.wait_for_metric("half of the tunnels on the old backend", &sessions(&old), half).await;
    let moved = closes.load(Ordering::SeqCst);
    assert_eq!(moved, CLIENTS / 2, "a client was moved twice");
    // No further close within two seconds, in which the rate allows 40.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(closes.load(Ordering::SeqCst), moved);
    eventually("a log line for each close", || {
        let lines = proxy.log_lines();
        lines.iter().filter(|line| line["termination"] == "rebalanced").count() == moved
    })
    .await;
    clients.shutdown().await;
    drop((old, new));
    proxy.finish().await;
}
