//! Clients that are slow, silent or half closed.

use crate::support::{
    Backend, End, Proxy, Raw,
    backend::{self},
    eventually, message,
    proxy::Setup,
    tls::Certificate,
};

#[tokio::test]
async fn fault_067_silent_connection() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).listener("header_timeout", "\"400ms\"");
        settings.listener("keep_alive", "\"400ms\"");
    })
    .await;
    // A client with a request in progress is not silent: another deadline applies.
    let mut waiting = Raw::connect(proxy.web()).await;
    waiting.send(message::get("/waits", "")).await;
    let peer = backend.peer(0).await;
    peer.request().await.unwrap();
    let mut silent = Raw::connect(proxy.web()).await;
    silent.assert_closed().await;
    for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nX: "] {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(part).await;
        let (bytes, _) = client.rest().await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{part:?} got {text}");
    }
    // Single bytes do not move the deadline.
    let mut trickling = Raw::connect(proxy.web()).await;
    let started = std::time::Instant::now();
    while trickling.feed(b"G").await {
        assert!(
            started.elapsed() < crate::support::TIMEOUT,
            "single bytes keep the connection open"
        );
    }
    assert_eq!(backend.connections(), 1, "none of them reached the backend");
    peer.send(message::ok("at last")).await;
    assert_eq!(waiting.response().await.text(), "at last");
    // Now it is silent, too.
    waiting.assert_closed().await;
    drop((peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_067_silent_tls_connection() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let certificate = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).listener("protocol", "\"https\"");
            settings.listener("certificates", &certificate.setting());
            settings.listener("handshake_timeout", "\"300ms\"");
            settings.listener("header_timeout", "\"400ms\"");
        })
        .start()
        .await;
    let mut silent = Raw::connect(proxy.web()).await;
    silent.rest().await;
    // Only the beginning of a ClientHello.
    let mut stuck = Raw::connect(proxy.web()).await;
    stuck.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    stuck.rest().await;
    let mut mute = Raw::tls(proxy.web(), &certificate).await;
    mute.assert_closed().await;
    backend.assert_untouched();
    let mut client = Raw::tls(proxy.web(), &certificate).await;
    client.send(message::get("/", "")).await;
    assert_eq!(client.response().await.text(), "ok");
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_070_half_close_after_the_request() {
    let backend = Backend::manual().await;
    let setup = Setup::new();
    let certificate = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]);
            let certificates = certificate.setting();
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {certificates}\n"
            ));
        })
        .start()
        .await;
    let secure = proxy.listener("secure");
    // A client may leave behind the packet that closes its session.
    let close = message::post("/socket.io/?EIO=4&transport=polling&sid=one", "", "1");
    let requests = [message::get("/", ""), message::post("/", "", "body"), close];
    let mut index = 0;
    for request in requests {
        for tls in [false, true] {
            let mut client = match tls {
                false => Raw::connect(proxy.web()).await,
                true => Raw::tls(secure, &certificate).await,
            };
            client.send(&request).await;
            client.finish().await;
            let peer = backend.peer(index).await;
            peer.request().await.expect("the whole request");
            // After another complete exchange, the proxy has certainly read the FIN.
            let beside = async {
                let mut other = Raw::connect(proxy.web()).await;
                other.send(message::get("/beside", "Connection: close\r\n")).await;
                let peer = backend.peer(index + 1).await;
                peer.request().await.unwrap();
                peer.send(message::reply("200 OK", "Connection: close\r\n", "beside")).await;
                assert_eq!(other.response().await.text(), "beside");
                peer.close();
            };
            beside.await;
            let large = "x".repeat(300_000);
            peer.send(message::reply("200 OK", "Connection: close\r\n", &large)).await;
            peer.close();
            // The proxy sends an interim response to detect whether the client is still connected.
            let reply = client.final_response().await;
            assert_eq!((reply.status(), reply.body.len()), (200, large.len()));
            assert_eq!(client.assert_closed().await, End::Fin);
            index += 2;
        }
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_070_client_closes_during_the_response() {
    // Counterpart of the half-close: after a full close, the proxy closes the backend connection.
    let backend = Backend::start(backend::script(|peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while !peer.is_ended() {
            peer.send("5\r\nhello\r\n").await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }))
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", "")).await;
    client.head().await;
    client.reset();
    eventually("the backend's end", || backend.end(0).is_some()).await;
    drop(backend);
    proxy.finish().await;
}
