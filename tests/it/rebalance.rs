//! A pool that grows, and whose tunnels are brought to a level.

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

/// Clients of the test.
const CLIENTS: usize = 40;

/// Connects and connects again at once whenever it is closed, with the cookie that it was given.
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

/// Bytes whenever they come: a client of a level pool waits for good.
async fn exact_without_timeout(client: &mut Raw, count: usize) -> Vec<u8> {
    while !client.has_received(count).await {}
    client.exact(count).await
}

fn sessions(backend: &Backend) -> String {
    format!("moorline_backend_sessions{{pool=\"app\",backend=\"{}\"}}", backend.address)
}

#[tokio::test]
async fn a_pool_that_grows_is_levelled_and_then_left_alone() {
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
    proxy.wait_for_metric("all are there", TUNNELS, all).await;
    proxy
        .reload(|settings| {
            settings.backends(&[first, second]);
        })
        .await;
    let half = |count: f64| count == (CLIENTS / 2) as f64;
    proxy.wait_for_metric("the new one has its half", &sessions(&new), half).await;
    proxy.wait_for_metric("and the old one", &sessions(&old), half).await;
    let level = closes.load(Ordering::SeqCst);
    assert_eq!(level, CLIENTS / 2, "each that moved moved once");
    // Nothing further, for longer than two seconds of its rate.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(closes.load(Ordering::SeqCst), level);
    eventually("a line for each", || {
        let lines = proxy.log_lines();
        lines.iter().filter(|line| line["termination"] == "rebalanced").count() == level
    })
    .await;
    clients.shutdown().await;
    drop((old, new));
    proxy.finish().await;
}
