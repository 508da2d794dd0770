//! `[limits]`: maximum of open client connections, and of TLS handshakes at the same time.

use crate::support::{
    Backend, Proxy, Raw, message, proxy::Setup, tls::Certificate, websocket, within,
};

const PAUSES: &str = "moorline_connection_limit_pauses_total";
const OPEN: &str = "moorline_client_connections ";

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let tunnels = Backend::manual().await;
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("limits", "{ connections = 3 }");
        settings.table(&format!("[pools.chat]\nbackends = [\"{}\"]\n", tunnels.address));
        settings.table("[[routes]]\npath = \"/chat\"\npool = \"chat\"\n");
    })
    .await;
    assert_eq!(proxy.metric("moorline_client_connections_max").await, 3.0);
    // A tunnel counts, and so does a connection without a request.
    let tunnel = websocket::tunnel(&proxy, &tunnels).await;
    let mut kept = Raw::connect(proxy.web()).await;
    kept.send(message::get("/", "")).await;
    assert_eq!(kept.response().await.text(), "ok");
    let silent = Raw::connect(proxy.web()).await;
    proxy.wait_for_metric("all are open", OPEN, |open| open == 3.0).await;

    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/", "")).await;
    proxy.wait_for_metric("accepting pauses", PAUSES, |pauses| pauses == 1.0).await;
    // Open connections are served.
    kept.send(message::get("/", "")).await;
    assert_eq!(kept.response().await.text(), "ok");
    assert_eq!(proxy.metric(OPEN).await, 3.0);
    drop(silent);
    assert_eq!(waiting.response().await.text(), "ok");

    let mut last = Raw::connect(proxy.web()).await;
    last.send(message::get("/", "")).await;
    proxy.wait_for_metric("accepting pauses", PAUSES, |pauses| pauses == 2.0).await;
    drop(tunnel.0);
    tunnel.1.close();
    assert_eq!(last.response().await.text(), "ok");

    // A raised limit applies at once.
    let mut more = Raw::connect(proxy.web()).await;
    more.send(message::get("/", "")).await;
    proxy.wait_for_metric("accepting pauses", PAUSES, |pauses| pauses == 3.0).await;
    proxy.reload(|settings| _ = settings.top("limits", "{ connections = 4 }")).await;
    assert_eq!(more.response().await.text(), "ok");
    drop((kept, waiting, last, more, backend, tunnels));
    proxy.wait_for_metric("all are closed", OPEN, |open| open == 0.0).await;
    proxy.finish().await;
}

#[tokio::test]
async fn handshakes_beyond_the_limit_wait_within_their_deadline() {
    const WAITING: &str = "moorline_tls_handshakes_waiting";
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).top("limits", "{ handshakes = 1 }");
            settings.listener("protocol", "\"https\"").listener("certificates", &site.setting());
            settings.table(&format!(
                "[listeners.hasty]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\nhandshake_timeout = \"100ms\"\n",
                site.setting()
            ));
        })
        .start()
        .await;
    let mut stalled = Raw::connect(proxy.web()).await;
    stalled.send(b"\x16\x03\x01\x02").await;
    let running = "moorline_tls_handshakes_in_progress";
    proxy.wait_for_metric("a handshake", running, |running| running == 1.0).await;

    let mut hasty = Raw::connect(proxy.listener("hasty")).await;
    hasty.send(b"\x16\x03\x01\x02").await;
    hasty.assert_closed().await;
    proxy
        .wait_for_log("the log line", |line| line["termination"] == "proxy_handshake_timed_out")
        .await;

    let served = async {
        let mut client = Raw::tls(proxy.web(), &site).await;
        client.send(message::get("/", "")).await;
        assert_eq!(client.response().await.text(), "ok");
    };
    let released = async {
        proxy.wait_for_metric("the other waits", WAITING, |waiting| waiting == 1.0).await;
        drop(stalled);
    };
    within("the handshake", async { tokio::join!(served, released) }).await;
    assert_eq!(proxy.metric(WAITING).await, 0.0);
    drop(backend);
    proxy.finish().await;
}
