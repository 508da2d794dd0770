//! TLS to backends: connections, session resumption, probes and streams.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    Backend, Message, Node, Proxy, Raw, TIMEOUT, backend, eventually,
    front::{Authority, TlsFront},
    message, process,
    proxy::Setup,
    tls::Certificate,
    websocket, within,
};

/// A route for `NAME.test` and its pool with one backend and these further lines.
pub(crate) fn pool(name: &str, backend: SocketAddr, lines: &str) -> String {
    format!(
        "[[routes]]\nhost = \"{name}.test\"\npool = \"{name}\"\n[pools.{name}]\n\
         backends = [\"{backend}\"]\nhealth = {{ probe = \"off\" }}\n\
         reuse = {{ idle_timeout = \"1s\" }}\n{lines}\n"
    )
}

pub(crate) async fn ask(proxy: &Proxy, host: &str) -> Message {
    let request = format!("GET /{host} HTTP/1.1\r\nHost: {host}.test\r\n\r\n");
    Raw::ask(proxy.web(), request).await
}

/// Sends a request that must fail with 502. Returns the termination and the error of its log line.
pub(crate) async fn failure(proxy: &Proxy, host: &str) -> (String, String) {
    let reply = ask(proxy, host).await;
    assert_eq!(reply.status(), 502, "{host}: {}", reply.text());
    let path = format!("/{host}");
    let line = proxy.wait_for_log("the request", |line| line["path"] == path.as_str()).await;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("termination"), text("error"))
}

#[tokio::test]
async fn requests_and_websockets_use_tls_to_the_backend() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    let echo = Backend::start(websocket::echo()).await;
    let closing =
        Backend::answering(|_| message::reply("200 OK", "Connection: close\r\n", "ok")).await;
    let mut config = ca.issue("node.test", |_| {}).server_config();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (sockets, pages) =
        (TlsFront::before(&echo, config.clone()).await, TlsFront::before(&closing, config).await);
    let tls = format!("tls = {{ ca = {:?}, name = \"node.test\", alpn = \"http/1.1\" }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[sockets.address]);
            settings.pool("tls", tls.strip_prefix("tls = ").unwrap());
            settings.table(&pool("pages", pages.address, &tls));
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\n",
                site.setting()
            ));
        })
        .start()
        .await;

    for (index, resumed) in [false, true, true].into_iter().enumerate() {
        assert_eq!(ask(&proxy, "pages").await.text(), "ok");
        let handshake = pages.handshake(index).await;
        assert_eq!(handshake.sni.as_deref(), Some("node.test"));
        assert_eq!(handshake.alpn.as_deref(), Some("http/1.1"));
        assert_eq!(handshake.resumed, resumed, "connection {index}");
    }

    let mut client = Raw::tls(proxy.listener("secure"), &site).await;
    client.send(websocket::request("/chat", "")).await;
    assert_eq!(client.response().await.status(), 101);
    let frame = websocket::large_frame(300_000);
    client.send(&frame).await;
    assert!(client.exact(frame.len()).await == frame);
    drop(client);
    let line = proxy.wait_for_log("the tunnel", |line| line["kind"] == "tunnel").await;
    assert!(line["bytes_in"].as_u64() >= Some(300_000), "{line}");
    drop((sockets, pages, echo, closing));
    proxy.finish().await;
}

#[tokio::test]
async fn a_pooled_connection_is_reused_until_the_tls_settings_change() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let front = TlsFront::before(&node, ca.issue("127.0.0.1", |_| {}).server_config()).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[front.address]).pool("tls", &tls);
            settings.pool("reuse", "{ idle_timeout = \"60s\" }");
        })
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "any").await.text(), "ok");
    }
    assert_eq!(node.connections(), 1);
    assert_eq!(front.handshake(0).await.sni, None, "no SNI for an IP address");

    // The certificate is not for this name.
    let named = format!("{{ ca = {:?}, name = \"node.test\" }}", ca.file);
    proxy.reload(|settings| _ = settings.pool("tls", &named)).await;
    let (label, _) = failure(&proxy, "other").await;
    assert_eq!(label, "backend_handshake_certificate_name");
    proxy.reload(|settings| _ = settings.pool("tls", &tls)).await;
    assert_eq!(ask(&proxy, "again").await.text(), "ok");
    assert_eq!(node.connections(), 2);
    drop((front, node));
    proxy.reload(|settings| _ = settings.pool("reuse", "{ idle_timeout = \"1s\" }")).await;
    proxy.finish().await;
}

#[tokio::test]
async fn fault_065_plaintext_before_tls() {
    let setup = Setup::new();
    let answers_plaintext = Backend::replying("plain").await;
    let greeting = Backend::start(backend::script(|peer| async move {
        peer.send("220 mail.test ESMTP\r\n").await;
        peer.ended().await;
    }))
    .await;
    let closing = Backend::start(backend::script(|_| async {})).await;
    let ca = Authority::make(setup.directory(), "ca");
    let tls = format!("tls = {{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[answers_plaintext.address]);
            settings.pool("timeouts", "{ connect = \"1s\" }");
            settings.pool("tls", tls.strip_prefix("tls = ").unwrap());
            settings.table(&pool("greeting", greeting.address, &tls));
            settings.table(&pool("closing", closing.address, &tls));
        })
        .start()
        .await;
    let (label, error) = failure(&proxy, "greeting").await;
    assert_eq!(label, "backend_handshake_not_tls");
    assert!(error.contains("not TLS; leave `tls` out"), "{error}");
    let (label, _) = failure(&proxy, "closing").await;
    assert!(
        ["backend_handshake_incomplete", "backend_handshake_reset"].contains(&label.as_str()),
        "{label}"
    );
    // A plaintext server waits for a line, or answers in plaintext: no TLS either way.
    let reply = ask(&proxy, "any").await;
    assert!([502, 504].contains(&reply.status()), "{}", reply.status());
    assert!(!answers_plaintext.saw("GET"), "sent in plaintext");
    drop((answers_plaintext, greeting, closing));
    proxy.finish().await;
}

/// Maximum growth of the proxy's memory by a stream, independent of its bytes.
const MAX_GROWTH: usize = 8 << 20;

#[tokio::test]
async fn fault_075_tls_to_tls_streams_use_constant_memory() {
    const BULK: usize = 64 << 20;
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    let node = Backend::manual().await;
    let front = TlsFront::before(&node, ca.issue("127.0.0.1", |_| {}).server_config()).await;
    let proxy = setup
        .with(|settings| {
            settings.unrouted().backends(&[front.address]);
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.listener("protocol", "\"tls\"").listener("certificates", &site.setting());
        })
        .start()
        .await;
    let mut client = Raw::tls(proxy.web(), &site).await;
    // Allocate the buffers before the measurement.
    client.send("warm").await;
    let peer = node.peer(0).await;
    peer.wait_for_rest(b"warm").await;
    process::reset_peak(proxy.pid());
    let before = process::resident(proxy.pid());
    peer.check_pattern();
    assert_eq!(client.fill(BULK, TIMEOUT).await, BULK);
    client.finish().await;
    peer.ended().await;
    assert_eq!(peer.checked(), BULK);
    let grown = process::peak(proxy.pid()).saturating_sub(before);
    assert!(grown < MAX_GROWTH, "memory grew by {grown}");
    drop((client, peer, front, node));
    proxy.finish().await;
}

#[tokio::test]
async fn eof_without_close_notify_is_forwarded_without_close_notify() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(ca.issue("127.0.0.1", |_| {}).server_config()));
    let proxy = setup
        .with(|settings| {
            settings.unrouted().backends(&[node.local_addr().unwrap()]);
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"off\" }");
            settings.listener("protocol", "\"tls\"").listener("certificates", &site.setting());
        })
        .start()
        .await;
    for notifies in [true, false] {
        let mut client = Raw::tls(proxy.web(), &site).await;
        let (socket, _) = within("a connection", node.accept()).await.unwrap();
        let mut stream = within("a handshake", acceptor.accept(socket)).await.unwrap();
        client.send("last words").await;
        let mut buffer = [0; 10];
        within("the message", stream.read_exact(&mut buffer)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        // The client has read all bytes, so the drop sends FIN, not RST.
        client.exact(1).await;
        if notifies {
            client.finish().await;
        } else {
            drop(client);
        }
        let end = within("the end", stream.read(&mut buffer)).await;
        match end {
            Ok(0) => assert!(notifies, "close_notify that the client did not send"),
            Err(error) => assert!(!notifies && error.kind() == ErrorKind::UnexpectedEof, "{error}"),
            Ok(count) => panic!("{count} bytes"),
        }
    }
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn every_probe_uses_tls() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Node::start("a").await;
    let sockets = Backend::start(backend::script(|peer| async move {
        let Some(request) = peer.head().await else { return };
        peer.send(websocket::switching(&request)).await;
        peer.send(websocket::close("bye")).await;
        peer.ended().await;
    }))
    .await;
    let issued = ca.issue("node.test", |_| {});
    let engine = TlsFront::before(&node.backend, issued.server_config()).await;
    let socket = TlsFront::before(&sockets, issued.server_config()).await;
    let probes = [
        ("tcp", engine.address, "probe = \"tcp\""),
        ("page", engine.address, "probe = \"http\", path = \"/socket.io/?transport=polling\""),
        ("socket", socket.address, "probe = \"websocket\""),
    ];
    let mut tables = String::new();
    for (name, address, probe) in probes {
        let lines = format!("tls = {{ ca = {:?}, name = \"node.test\" }}", ca.file);
        let health = format!("health = {{ {probe}, interval = \"60s\", fall = 1 }}");
        tables += &pool(name, address, &lines).replace("health = { probe = \"off\" }", &health);
    }
    let proxy =
        setup.with(|settings| _ = settings.backends(&[node.backend.address]).table(&tables));
    let proxy = proxy.start().await;
    eventually("the probes' connections", || {
        node.backend.connections() >= 2 && sockets.connections() == 1
    })
    .await;
    for (name, ..) in probes {
        let up = format!("moorline_backend_up{{pool=\"{name}\"");
        proxy.wait_for_metric("the backend is up", &up, |up| up == 1.0).await;
    }
    let lines = proxy.stderr();
    assert!(!lines.iter().any(|line| line.contains("backend is down")), "{lines:#?}");
    assert_eq!(engine.handshake(0).await.sni.as_deref(), Some("node.test"));
    drop((engine, socket, node, sockets));
    proxy.finish().await;
}

#[tokio::test]
async fn layer_4_streams_use_tls_to_the_backend() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let greeting = Backend::start(backend::script(|peer| async move {
        peer.send("220 hello\r\n").await;
        peer.ended().await;
    }))
    .await;
    let good = TlsFront::before(&greeting, ca.issue("node.test", |_| {}).server_config()).await;
    let bad = TlsFront::before(&greeting, ca.issue("else.test", |_| {}).server_config()).await;
    let tls = format!("tls = {{ ca = {:?}, name = \"node.test\" }}", ca.file);
    let listener = |name: &str| {
        format!(
            "[listeners.{name}]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npool = \"{name}\"\n"
        )
    };
    let tables = [
        pool("good", good.address, &tls),
        pool("bad", bad.address, &tls),
        listener("good"),
        listener("bad"),
    ];
    let proxy = setup.with(|settings| {
        settings.backends(&[greeting.address]).table(&tables.concat());
    });
    let proxy = proxy.start().await;
    let mut client = Raw::connect(proxy.listener("good")).await;
    assert_eq!(client.exact(11).await, b"220 hello\r\n");
    client.send("helo\r\n").await;
    eventually("the client's answer", || greeting.saw("helo\r\n")).await;
    Raw::connect(proxy.listener("bad")).await.assert_closed().await;
    let line = proxy.wait_for_log("the stream's line", |line| line["listener"] == "bad").await;
    assert_eq!(line["termination"], "backend_handshake_certificate_name", "{line}");
    drop((client, good, bad, greeting));
    proxy.finish().await;
}

#[tokio::test]
async fn tls_sessions_are_resumed_per_backend() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node =
        Backend::answering(|_| message::reply("200 OK", "Connection: close\r\n", "ok")).await;
    let issued = ca.issue("node.test", |_| {});
    let one = TlsFront::before(&node, issued.server_config()).await;
    let two = TlsFront::before(&node, issued.server_config()).await;
    let tls = format!("{{ ca = {:?}, name = \"node.test\" }}", ca.file);
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[one.address, two.address]).pool("tls", &tls);
            settings.pool("balance", "\"round-robin\"");
        })
        .start()
        .await;
    for n in 0..4 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    // A reload that does not change the pool's TLS settings keeps the TLS sessions.
    proxy.reload(|settings| _ = settings.pool("timeouts", "{ connect = \"9s\" }")).await;
    for n in 4..6 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    for front in [&one, &two] {
        for (index, resumed) in [false, true, true].into_iter().enumerate() {
            assert_eq!(front.handshake(index).await.resumed, resumed, "connection {index}");
        }
    }
    drop((one, two, node));
    proxy.finish().await;
}
