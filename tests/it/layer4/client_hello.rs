//! Routing by the ClientHello, and clients that send something else.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{App, stream_line};
use crate::support::{
    Backend, End, Message, Proxy, Raw, eventually, message, proxy::Setup, tls::Certificate, within,
};

/// A complete ClientHello for `name`.
fn hello(name: &'static str, certificate: &Certificate) -> Vec<u8> {
    certificate.client_hello(name)
}

/// Sends a request over TLS, with the certificate's name as SNI, and returns the reply body.
async fn fetch(proxy: &Proxy, listener: &str, certificate: &Certificate) -> String {
    let tcp = TcpStream::connect(proxy.listener(listener)).await.unwrap();
    let mut stream = within("the handshake", certificate.client(tcp)).await.unwrap();
    let request = message::get("/", "Connection: close\r\n");
    stream.write_all(&request).await.unwrap();
    let mut reply = Vec::new();
    within("the reply", stream.read_to_end(&mut reply)).await.unwrap();
    Message::read(&reply).unwrap().0.text()
}

/// Starts a proxy whose listener `secure` has passthrough rules. Returns the certificates of `app.test`, whose
/// connections the proxy terminates (if `protocol` can), and of `own.test`, whose connections pass through.
async fn proxy_with_rules(
    protocol: &str,
    backend: &Backend,
    timeout: &str,
) -> (Proxy, App, [Certificate; 2]) {
    let setup = Setup::new();
    let ours = Certificate::make(setup.directory(), "app.test");
    let own = Certificate::make(setup.directory(), "own.test");
    let app = App::start(&own, "from the app").await;
    let certificates = match protocol {
        "tls-passthrough" => String::new(),
        _ => format!("certificates = {}\n", ours.setting()),
    };
    let pool = if protocol == "tls" { "pool = \"app\"\n" } else { "" };
    let listener = format!(
        "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n\
         handshake_timeout = {timeout}\n{certificates}{pool}\
         passthrough = [{{ sni = [\"own.test\", \"*.own.test\"], pool = \"own\" }}, \
         {{ alpn = \"acme-tls/1\", pool = \"own\" }}, \
         {{ sni = \"h2.test\", alpn = \"h2\", pool = \"own\" }}]\n\
         [pools.own]\nbackends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n",
        app.address
    );
    let setup = setup.with(|settings| {
        settings.backends(&[backend.address]).table(&listener);
    });
    (setup.start().await, app, [ours, own])
}

#[tokio::test]
async fn one_listener_terminates_some_names_and_passes_others_through() {
    let backend = Backend::replying("ours").await;
    let (proxy, app, [ours, own]) = proxy_with_rules("https", &backend, "\"10s\"").await;
    assert_eq!(fetch(&proxy, "secure", &ours).await, "ours");
    assert_eq!(fetch(&proxy, "secure", &own).await, "from the app");
    for (url, words) in [
        ("https://own.test", "Listener secure passes connections for own.test on to pool own"),
        ("tls://a.own.test", "Listener secure passes connections for a.own.test on to pool own"),
        ("https://app.test", "Listener secure accepts https"),
        ("tls://app.test", "No listener accepts layer-4 streams"),
    ] {
        let url = format!("{url}:{}", proxy.listener("secure").port());
        let explained = proxy.command(&["explain", &url]).await.done();
        assert!(explained.contains(words), "{explained}");
    }
    let by_name = |name: &'static str| move |line: &Value| line["sni"] == name;
    let line = proxy.wait_for_log("the terminated connection", by_name("app.test")).await;
    assert_eq!((&line["kind"], &line["tls_version"]), (&"http".into(), &"TLSv1.3".into()));
    assert_eq!((&line["alpn"], &line["pool"]), (&Value::Null, &"app".into()), "{line}");
    let line = proxy.wait_for_log("the connection passed through", by_name("own.test")).await;
    assert_eq!((&line["kind"], &line["tls_version"]), (&"stream".into(), &Value::Null), "{line}");
    assert_eq!(line["pool"], "own");
    drop((app, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_061_passthrough_host_on_a_terminated_connection_is_misdirected() {
    let backend = Backend::replying("ours").await;
    let (proxy, app, [ours, _own]) = proxy_with_rules("https", &backend, "\"10s\"").await;
    for host in ["own.test", "OWN.test:443", "a.own.test."] {
        let mut client = Raw::tls(proxy.listener("secure"), &ours).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let reply = client.response().await;
        assert_eq!(reply.status(), 421, "{host}");
        assert!(reply.text().starts_with("This host is not served over this connection"));
    }
    backend.assert_untouched();
    let line = proxy
        .wait_for_log("a line", |line| line["termination"] == "client_select_misdirected")
        .await;
    assert_eq!((&line["status"], &line["sni"]), (&421.into(), &"app.test".into()));
    // A host with a passthrough rule for another ALPN protocol only is served on this connection.
    let mut client = Raw::tls(proxy.listener("secure"), &ours).await;
    for host in ["app.test", "h2.test"] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.response().await.text(), "ours", "{host}");
    }
    drop((client, app, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn passthrough_rules_match_the_offered_alpn_protocols() {
    let backend = Backend::replying("ours").await;
    let (proxy, app, [ours, _own]) = proxy_with_rules("https", &backend, "\"10s\"").await;
    // The handshake fails: the app does not have this protocol, and has another certificate.
    let tcp = TcpStream::connect(proxy.listener("secure")).await.unwrap();
    ours.offering(&["acme-tls/1"], tcp).await.unwrap_err();
    let line = proxy.wait_for_log("the log line", |line| line["alpn"] == "acme-tls/1").await;
    assert_eq!((&line["pool"], &line["sni"]), (&"own".into(), &"app.test".into()), "{line}");
    drop((app, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn an_unmatched_name_gets_a_tls_alert() {
    let backend = Backend::manual().await;
    let (proxy, app, [ours, own]) = proxy_with_rules("tls-passthrough", &backend, "\"10s\"").await;
    let tcp = TcpStream::connect(proxy.listener("secure")).await.unwrap();
    let error = within("the handshake", ours.client(tcp)).await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    let line = stream_line(&proxy, "client_select_no_route").await;
    assert_eq!(line["sni"], "app.test");
    assert_eq!(fetch(&proxy, "secure", &own).await, "from the app");
    drop((app, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_058_hello_in_pieces() {
    let backend = Backend::manual().await;
    let (proxy, app, [_ours, own]) = proxy_with_rules("https", &backend, "\"10s\"").await;
    let bytes = hello("own.test", &own);
    // TLS records of a few bytes, in TCP segments of another size.
    for (record, segment) in [(bytes.len(), 1), (7, 16), (100, 333)] {
        let cut: Vec<u8> = bytes[5..]
            .chunks(record)
            .flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8][..], piece].concat())
            .collect();
        let cut = if record == bytes.len() { bytes.clone() } else { cut };
        let mut client = Raw::connect(proxy.listener("secure")).await;
        for piece in cut.chunks(segment) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        // The answer of the server: a handshake record.
        assert_eq!(client.exact(2).await, [22, 3], "records of {record}");
        drop(client);
    }
    drop((app, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_058_hello_that_ends_or_is_too_long() {
    let backend = Backend::manual().await;
    for protocol in ["https", "tls", "tls-passthrough"] {
        let (proxy, app, [_ours, own]) = proxy_with_rules(protocol, &backend, "\"10s\"").await;
        let bytes = hello("own.test", &own);
        for end in [1, 4, 5, 9, 100, bytes.len() - 1] {
            let mut client = Raw::connect(proxy.listener("secure")).await;
            client.send(&bytes[..end]).await;
            client.finish().await;
            client.assert_closed().await;
        }
        let is = |line: &&Value| line["termination"] == "client_handshake_incomplete";
        let all = || proxy.log_lines().iter().filter(is).count() == 6;
        eventually("six lines", all).await;

        let mut client = Raw::connect(proxy.listener("secure")).await;
        client.send(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff").await;
        assert_eq!(client.rest().await, (b"\x15\x03\x03\x00\x02\x02\x32".to_vec(), End::Fin));
        let broken = |line: &Value| line["termination"] == "client_handshake_malformed";
        let line = proxy.wait_for_log("a malformed ClientHello", broken).await;
        assert_eq!(line["error"], "the ClientHello is too long");
        backend.assert_untouched();
        drop((client, app));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn fault_059_dribbled_handshake() {
    tokio::join!(dribbled("https"), dribbled("tls"), dribbled("tls-passthrough"));
}

async fn dribbled(protocol: &str) {
    let backend = Backend::manual().await;
    let (proxy, app, [_ours, own]) = proxy_with_rules(protocol, &backend, "\"2s\"").await;
    let bytes = hello("own.test", &own);
    let mut dribbling = Raw::connect(proxy.listener("secure")).await;
    let mut silent = Raw::connect(proxy.listener("secure")).await;
    let mut sent = 0;
    // One byte after another, each sooner than any idle timeout.
    while sent < bytes.len() && dribbling.feed(&bytes[sent..=sent]).await {
        sent += 1;
    }
    assert!((1..400).contains(&sent), "{sent}");
    silent.assert_closed().await;
    let is = |line: &&Value| line["termination"] == "client_handshake_timed_out";
    let both = || proxy.log_lines().iter().filter(is).count() == 2;
    eventually("two lines", both).await;
    drop((dribbling, silent, app));
    proxy.finish().await;
}

/// Starts a proxy without rules, with listeners named `https`, `tls` and `tls-passthrough` after their protocols.
async fn proxy_without_rules(backend: &Backend) -> (Proxy, Certificate) {
    let setup = Setup::new();
    let ours = Certificate::make(setup.directory(), "app.test");
    let mut tables = String::new();
    for protocol in ["https", "tls", "tls-passthrough"] {
        tables +=
            &format!("[listeners.{protocol}]\nbind = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n");
        if protocol != "tls-passthrough" {
            tables += &format!("certificates = {}\n", ours.setting());
        }
    }
    let setup = setup.with(|settings| {
        settings.backends(&[backend.address]).table(&tables);
    });
    (setup.start().await, ours)
}

#[tokio::test]
async fn plain_http_on_a_tls_listener_is_answered_or_closed() {
    let backend = Backend::manual().await;
    let (proxy, ours) = proxy_without_rules(&backend).await;
    for request in ["GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", "G", "OPTIONS * HTTP/1.1\r\n"] {
        let reply = {
            let mut client = Raw::connect(proxy.listener("https")).await;
            client.send(request).await;
            let reply = client.response().await;
            assert_eq!(client.assert_closed().await, End::Fin);
            reply
        };
        assert_eq!(reply.status(), 400, "{request}");
        assert_eq!(reply.text(), "This port uses TLS; use https://.\n");
        for listener in ["tls", "tls-passthrough"] {
            let mut client = Raw::connect(proxy.listener(listener)).await;
            client.send(request).await;
            client.assert_closed().await;
        }
    }
    for garbage in ["\0\0\0\0", "SSH-2.0-x\r\n", "\u{16}\u{1}", "\u{80}.\u{1}"] {
        for listener in ["https", "tls", "tls-passthrough"] {
            let mut client = Raw::connect(proxy.listener(listener)).await;
            client.send(garbage).await;
            client.assert_closed().await;
        }
    }
    backend.assert_untouched();
    let logged = || {
        let lines = proxy.log_lines();
        let of = |listener| lines.iter().filter(move |line| line["listener"] == listener);
        lines.iter().all(|line| line["termination"] == "client_handshake_not_tls")
            && of("https").count() == 7
            && of("https").filter(|line| line["status"] == 400).count() == 3
            && of("tls").count() == 7
            && of("tls-passthrough").filter(|line| line["kind"] == "stream").count() == 7
    };
    eventually("a line for each", logged).await;
    // TLS on a listener for plain HTTP.
    let mut client = Raw::connect(proxy.web()).await;
    client.send(hello("app.test", &ours)).await;
    let reply = client.response().await;
    assert_eq!((reply.status(), reply.text().lines().count()), (400, 2));
    assert!(reply.text().starts_with("This port does not use TLS"));
    client.assert_closed().await;
    let line = proxy.wait_for_log("the log line", |line| line["listener"] == "web").await;
    assert_eq!(
        (&line["termination"], &line["status"]),
        (&"client_request_malformed".into(), &400.into())
    );
    // TLS clients are served as before.
    let client = Raw::tls(proxy.listener("tls"), &ours).await;
    backend.peer(0).await;
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn passthrough_without_rules_sends_every_connection_to_its_pool() {
    let setup = Setup::new();
    let own = Certificate::make(setup.directory(), "own.test");
    let app = App::start(&own, "from the app").await;
    let proxy = setup
        .with(|settings| {
            super::tcp(settings, &[app.address]).listener("protocol", "\"tls-passthrough\"");
        })
        .start()
        .await;
    assert_eq!(fetch(&proxy, "web", &own).await, "from the app");
    let line = proxy.wait_for_log("the log line", |line| line["sni"] == "own.test").await;
    assert_eq!((&line["pool"], &line["chosen_by"]), (&"app".into(), &"balance".into()));
    drop(app);
    proxy.finish().await;
}
