//! `connections_per_address`: maximum connections of one client address.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;

use crate::support::{
    Backend, Proxy, Raw, eventually, message, proxy::Setup, tls::Certificate, websocket, within,
};

const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Number of log lines about connections over the limit.
fn refusals(proxy: &Proxy) -> usize {
    let refused = |line: &&Value| line["termination"] == "client_select_too_many";
    proxy.log_lines().iter().filter(refused).count()
}

/// Sends requests from a source address until one is below the limit.
async fn wait_until_admitted(source: Ipv4Addr, address: SocketAddr) {
    let admitted = async {
        loop {
            let mut client = Raw::from(source, address).await;
            client.send(message::get("/", "Connection: close\r\n")).await;
            match client.response().await.status() {
                200 => return,
                status => assert_eq!(status, 503),
            }
        }
    };
    within("a request is admitted", admitted).await;
}

#[tokio::test]
async fn fault_059_one_address_cannot_hold_all_handshakes() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).listener("protocol", "\"https\"");
            settings.listener("certificates", &site.setting());
            settings.listener("handshake_timeout", "\"60s\"");
            settings.listener("connections_per_address", "3");
        })
        .start()
        .await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(b"\x16\x03\x01\x02").await;
        silent.push(client);
    }
    let open = "moorline_connections{listener=\"web\"}";
    proxy.wait_for_metric("all are accepted", open, |open| open == 3.0).await;
    for n in 1..3 {
        Raw::connect(proxy.web()).await.assert_closed().await;
        eventually("the log line", || refusals(&proxy) == n).await;
    }
    let count = "moorline_streams_total{listener=\"web\",termination=\"client_select_too_many\"}";
    assert_eq!(proxy.metric(count).await, 2.0);

    // Other addresses are not limited.
    let assert_served = |source| {
        let (address, site) = (proxy.web(), &site);
        async move {
            let client = Raw::from(source, address).await;
            let mut client = client.into_tls_after(b"", site).await;
            client.send(message::get("/", "")).await;
            assert_eq!(client.response().await.text(), "ok");
        }
    };
    assert_served(OTHER).await;
    // The first address can connect again after its connections are closed.
    drop(silent);
    proxy.wait_for_metric("the connections are closed", open, |open| open == 0.0).await;
    assert_served(Ipv4Addr::LOCALHOST).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_078_tunnels_of_one_address_are_capped() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).listener("connections_per_address", "2");
    })
    .await;
    let first = websocket::tunnel(&proxy, &backend).await;
    let second = websocket::tunnel(&proxy, &backend).await;
    let refused = Raw::ask(proxy.web(), websocket::request("/chat", "")).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()));
    assert_eq!(refused.text(), "Too many connections from your address are open.\n");
    eventually("the log line", || refusals(&proxy) == 1).await;
    assert!(proxy.log_lines().iter().any(|line| line["status"] == 503));
    let other = websocket::tunnel_over(Raw::from(OTHER, proxy.web()).await, &backend).await;

    // After a reload the new limit counts the connections that are open.
    proxy.reload(|settings| _ = settings.listener("connections_per_address", "3")).await;
    let third = websocket::tunnel(&proxy, &backend).await;
    assert_eq!(Raw::ask(proxy.web(), "").await.status(), 503);
    proxy.reload(|settings| _ = settings.listener("connections_per_address", "1")).await;
    for (client, peer) in [first, second] {
        drop(client);
        peer.close();
    }
    let closed = "moorline_tunnels{listener=\"web\"}";
    proxy.wait_for_metric("two are closed", closed, |open| open == 2.0).await;
    assert_eq!(Raw::ask(proxy.web(), "").await.status(), 503);
    drop(third.0);
    third.1.close();
    proxy.wait_for_metric("the third is closed", closed, |open| open == 1.0).await;
    let fourth = websocket::tunnel(&proxy, &backend).await;
    drop((fourth, other, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn connections_of_one_address_beyond_the_rate_are_refused() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).top("trusted_proxies", "[\"127.0.0.3\"]");
            settings.listener("connection_rate", "\"3/h\"");
            settings.table(&format!(
                "[listeners.tls]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 connection_rate = \"5/h\"\nconnection_burst = 1\ncertificates = {}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    let ask = async |source, address| {
        let mut client = Raw::from(source, address).await;
        client.send(message::get("/", "Connection: close\r\n")).await;
        client.response().await
    };
    for _ in 0..3 {
        assert_eq!(ask(Ipv4Addr::LOCALHOST, proxy.web()).await.status(), 200);
    }
    let refused = ask(Ipv4Addr::LOCALHOST, proxy.web()).await;
    assert_eq!(refused.status(), 429);
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1150..=1200).contains(&wait), "{wait}");
    assert_eq!(refused.text(), "Your address opens too many connections too fast.\n");
    let is_it = |line: &Value| line["termination"] == "client_select_rate_limited";
    assert_eq!(proxy.wait_for_log("the line", is_it).await["status"], 429);
    // Other clients are not limited, and proxies in front never are.
    assert_eq!(ask(OTHER, proxy.web()).await.status(), 200);
    for _ in 0..5 {
        assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 3), proxy.web()).await.status(), 200);
    }
    // Another listener counts apart, and refuses before TLS.
    let mut client = Raw::tls(proxy.listener("tls"), &site).await;
    client.send(message::get("/", "")).await;
    assert_eq!(client.response().await.status(), 200);
    Raw::connect(proxy.listener("tls")).await.assert_closed().await;
    // Reloads keep what was counted, except those that change the rate.
    proxy.reload(|settings| _ = settings.listener("keep_alive", "\"9s\"")).await;
    assert_eq!(ask(Ipv4Addr::LOCALHOST, proxy.web()).await.status(), 429);
    proxy.reload(|settings| _ = settings.listener("connection_rate", "\"4/h\"")).await;
    assert_eq!(ask(Ipv4Addr::LOCALHOST, proxy.web()).await.status(), 200);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_078_streams_of_one_address_are_capped() {
    let backend = Backend::start(crate::support::backend::script(|peer| async move {
        peer.send("a").await;
        peer.ended().await;
    }))
    .await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.table(
            "[listeners.raw]\nbind = \"[::1]:0\"\nprotocol = \"tcp\"\nconnections_per_address = 2\n",
        );
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut client = Raw::connect(proxy.listener("raw")).await;
        assert_eq!(client.exact(1).await, b"a");
        streams.push(client);
    }
    Raw::connect(proxy.listener("raw")).await.assert_closed().await;
    eventually("the log line", || refusals(&proxy) == 1).await;
    let line = proxy.log_lines().pop().unwrap();
    assert_eq!((&line["kind"], &line["listener"]), (&"stream".into(), &"raw".into()), "{line}");
    assert_eq!(backend.connections(), 2);
    drop(streams.pop());
    let open = "moorline_tunnels{listener=\"raw\"}";
    proxy.wait_for_metric("one is closed", open, |open| open == 1.0).await;
    let mut client = Raw::connect(proxy.listener("raw")).await;
    assert_eq!(client.exact(1).await, b"a");
    drop((client, streams, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn clients_of_a_trusted_proxy_are_counted_and_the_proxy_itself_is_not() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).listener("connections_per_address", "1");
        settings.top("trusted_proxies", "[\"127.0.0.2\"]");
        settings.table(
            "[listeners.named]\nbind = \"127.0.0.1:0\"\nconnections_per_address = 1\n\
             proxy_protocol = { mode = \"required\", from = [\"127.0.0.1\"] }\n",
        );
    })
    .await;
    let named = |source: &str| {
        let line = format!("PROXY TCP4 {source} 198.51.100.1 4711 443\r\n").into_bytes();
        let address = proxy.listener("named");
        async move {
            let mut client = Raw::connect(address).await;
            client.send([line, message::get("/", "")].concat()).await;
            let status = client.response().await.status();
            (client, status)
        }
    };
    let (first, status) = named("192.0.2.7").await;
    assert_eq!(status, 200);
    assert_eq!(named("192.0.2.7").await.1, 503);
    let line = proxy.wait_for_log("the log line", |line| line["status"] == 503).await;
    assert_eq!(line["client"], "192.0.2.7:4711");
    let (second, status) = named("192.0.2.8").await;
    assert_eq!(status, 200);
    // Requests of the trusted proxy itself.
    let mut probes = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::connect(proxy.listener("named")).await;
        client.send([b"PROXY UNKNOWN\r\n".to_vec(), message::get("/", "")].concat()).await;
        assert_eq!(client.response().await.status(), 200);
        probes.push(client);
    }
    for _ in 0..3 {
        let mut client = Raw::from(OTHER, proxy.web()).await;
        client.send(message::get("/", "")).await;
        assert_eq!(client.response().await.status(), 200);
        probes.push(client);
    }
    let mut only = Raw::connect(proxy.web()).await;
    only.send(message::get("/", "")).await;
    assert_eq!(only.response().await.status(), 200);
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.status(), 503);
    drop(only);
    wait_until_admitted(Ipv4Addr::LOCALHOST, proxy.web()).await;
    drop((first, second, probes, backend));
    proxy.finish().await;
}
