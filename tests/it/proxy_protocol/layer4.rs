//! Headers on listeners with the protocols `tcp`, `tls` and `tls-passthrough`.

use super::{ECHO_HEADER, LINE, TRUSTED, binary};
use crate::support::{
    Backend, Raw, eventually, haproxy::Haproxy, message, proxy::Setup, tls::Certificate,
};

#[tokio::test]
async fn layer_4_listeners_read_headers_of_haproxy_in_front() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.unrouted().backends(&[backend.address]);
            settings.listener("protocol", "\"tcp\"").listener("proxy_protocol", TRUSTED);
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\n\
                 certificates = {}\nproxy_protocol = {TRUSTED}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    for listener in ["web", "secure"] {
        let folder = proxy.directory().join(listener);
        std::fs::create_dir(&folder).unwrap();
        let behind = format!(
            "backend moorline\n  mode tcp\n  server m {} send-proxy-v2\n",
            proxy.listener(listener)
        );
        let front = "  mode tcp\n  option tcplog\n  default_backend moorline\n";
        let haproxy = Haproxy::start(&folder, "", front, &behind);
        let mut client = match listener {
            "web" => Raw::connect(haproxy.address).await,
            _ => Raw::tls(haproxy.address, &site).await,
        };
        client.send(message::get("/", "")).await;
        assert_eq!(client.response().await.text(), "ok", "{}", haproxy.log());
        let from = client.local().to_string();
        drop(client);
        let line = proxy.wait_for_log("the log line", |line| line["listener"] == listener).await;
        assert_eq!(line["client"], from.as_str());
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn tls_passthrough_removes_the_header_and_nothing_else() {
    let backend = Backend::manual().await;
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]);
            settings.table(&format!(
                "[listeners.passthrough]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls-passthrough\"\n\
                 pool = \"app\"\nproxy_protocol = {TRUSTED}\nhandshake_timeout = \"60s\"\n\
                 [listeners.https]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\nproxy_protocol = {TRUSTED}\nhandshake_timeout = \"60s\"\n\
                 passthrough = [{{ sni = \"own.test\", pool = \"app\" }}]\n",
                site.setting()
            ));
        })
        .start()
        .await;
    let hello = site.client_hello("own.test");
    let mut count = 0;
    for listener in ["passthrough", "https"] {
        for header in [LINE.as_bytes().to_vec(), binary(b"\x05\0\x02id")] {
            let length = header.len();
            let all = [&header[..], &hello].concat();
            // In one segment; or split within the header, between both, or within the ClientHello.
            for split in [0, 5, 20, length - 1, length, length + 3, all.len() - 1] {
                let mut client = Raw::connect(proxy.listener(listener)).await;
                client.send(&all[..split]).await;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                client.send(&all[split..]).await;
                let peer = backend.peer(count).await;
                peer.wait_for_rest(&hello).await;
                drop(client);
                peer.close();
                count += 1;
                eventually("the log line", || proxy.log_lines().len() == count).await;
                let line = proxy.log_lines().pop().unwrap();
                assert_eq!(line["client"], "192.0.2.7:4711", "{listener}, {split}");
                assert_eq!(line["sni"], "own.test");
            }
        }
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn layer_4_streams_read_headers_and_send_them_on() {
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let haproxy = Haproxy::start(setup.directory(), "accept-proxy", ECHO_HEADER, "");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[haproxy.address]);
            let setting = "{ version = \"v2\", tlvs = [\"unique-id\", \"authority\"] }";
            settings.pool("proxy_protocol", setting);
            settings.table(&format!(
                "[listeners.raw]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
                 proxy_protocol = {TRUSTED}\n\
                 [listeners.tls]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\n\
                 certificates = {}\nproxy_protocol = {TRUSTED}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    let request = message::get("/", "Connection: close\r\n");
    let reply = Raw::ask(proxy.listener("raw"), [LINE.as_bytes(), &request].concat()).await;
    assert_eq!(reply.header("x-src"), Some("192.0.2.7:4711"));
    assert_eq!(reply.header("x-dst"), Some("198.51.100.1:443"));
    let mut client = Raw::tls_after(proxy.listener("tls"), &binary(&[]), &site).await;
    client.send(&request).await;
    let reply = client.response().await;
    assert_eq!(reply.header("x-src"), Some("192.0.2.7:4711"));
    assert_eq!(reply.header("x-authority"), Some("app.test"));
    drop(client);
    let line = proxy.wait_for_log("the log line", |line| line["listener"] == "tls").await;
    assert_eq!(reply.header("x-id"), line["id"].as_str());
    assert_eq!(line["client"], "192.0.2.7:4711");
    drop(haproxy);
    proxy.finish().await;
}
