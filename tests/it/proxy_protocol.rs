//! The PROXY protocol: whom a proxy in front names, and whom the backends behind are told of.

use serde_json::Value;
use tokio::process::Command;

use crate::support::{
    Backend, End, Proxy, Raw, backend, eventually,
    front::{Authority, TlsFront},
    haproxy::Haproxy,
    message,
    nginx::Nginx,
    proxy::Setup,
    tls::Certificate,
    websocket, within,
};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

const TRUSTED: &str = "{ mode = \"required\", from = [\"127.0.0.0/8\"] }";

/// A header of version 2 from 192.0.2.7:4711 to 198.51.100.1:443, with these TLVs.
fn binary(tlvs: &[u8]) -> Vec<u8> {
    let length = (12 + tlvs.len() as u16).to_be_bytes();
    let ends = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &ends, tlvs].concat()
}

/// A proxy whose listeners `web` and `secure` take PROXY headers by these terms; `bare` takes none.
async fn receiving(backend: &Backend, terms: &str) -> (Proxy, Certificate) {
    receiving_within(backend, terms, "\"60s\"").await
}

/// The same, where a header has to come to `web` in time.
async fn receiving_within(backend: &Backend, terms: &str, time: &str) -> (Proxy, Certificate) {
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).listener("proxy_protocol", terms);
            settings.listener("handshake_timeout", time);
            settings.table("[listeners.bare]\nbind = \"127.0.0.1:0\"\n");
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\nproxy_protocol = {terms}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    (proxy, site)
}

async fn line_of(proxy: &Proxy, path: &str) -> Value {
    proxy.wait_for_log("the request", |line| line["path"] == path).await
}

/// What becomes of a connection that begins like this: the label of its one line.
async fn label(proxy: &Proxy, bytes: &[u8]) -> Value {
    let before = proxy.log_lines().len();
    let mut client = Raw::connect(proxy.web()).await;
    client.try_send(bytes).await;
    client.assert_closed().await;
    eventually("its line", || proxy.log_lines().len() > before).await;
    let lines = proxy.log_lines();
    assert_eq!(lines.len(), before + 1, "one line");
    lines[before].clone()
}

#[tokio::test]
async fn curl_and_the_log_agree_on_who_the_client_is() {
    let backend = Backend::replying("ok").await;
    let (proxy, site) = receiving(&backend, TRUSTED).await;
    let targets = [("http", proxy.web(), "/plain"), ("https", proxy.listener("secure"), "/tls")];
    for (scheme, address, path) in targets {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--haproxy-protocol", "--cacert"])
            .arg(&site.cert)
            .args(["--resolve", &format!("app.test:{}:127.0.0.1", address.port())])
            .args(["--write-out", " %{local_ip}:%{local_port}"])
            .arg(format!("{scheme}://app.test:{}{path}", address.port()))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, from) = said.split_once(' ').unwrap_or_default();
        assert_eq!(body, "ok", "{}", String::from_utf8_lossy(&output.stderr));
        let line = line_of(&proxy, path).await;
        assert_eq!(line["client"], from);
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn whom_a_header_names_is_the_client_everywhere() {
    let backend = Backend::replying("ok").await;
    let (mut proxy, site) = receiving(&backend, TRUSTED).await;
    let tlvs = b"\x02\0\x08app.test\x05\0\x04id-1\x20\0\x05\x01\0\0\0\0\xe7\0\x01x";
    let headers = [LINE.as_bytes().to_vec(), binary(&[]), binary(tlvs)];
    for (n, header) in headers.iter().enumerate() {
        let (plain, secure) = (format!("/plain/{n}"), format!("/secure/{n}"));
        // The header and the first request in one segment.
        let first = [&header[..], &message::get(&plain, "")].concat();
        assert_eq!(Raw::ask(proxy.web(), first).await.text(), "ok");
        let mut client = Raw::tls_after(proxy.listener("secure"), header, &site).await;
        client.send(message::get(&secure, "")).await;
        assert_eq!(client.response().await.text(), "ok");
        for path in [&plain, &secure] {
            assert_eq!(line_of(&proxy, path).await["client"], "192.0.2.7:4711");
            let seen = backend.request(path).await;
            assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.7"), "{path}");
        }
    }
    // Of its own connections, and of those that it knows nothing of, the proxy in front says so.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x02??".to_vec();
    for (n, header) in [b"PROXY UNKNOWN\r\n".to_vec(), local].iter().enumerate() {
        let path = format!("/own/{n}");
        let first = [&header[..], &message::get(&path, "")].concat();
        assert_eq!(Raw::ask(proxy.web(), first).await.text(), "ok");
        let client = line_of(&proxy, &path).await["client"].as_str().unwrap().to_owned();
        assert!(client.starts_with("127.0.0.1:"), "{client}");
    }
    // Whose word counts for HTTP fields is decided by that address, not by the proxy's in front.
    proxy.reload(|settings| _ = settings.top("trusted_proxies", "[\"192.0.2.0/24\"]")).await;
    let claim = message::get("/claim", "X-Forwarded-For: 203.0.113.5\r\n");
    Raw::ask(proxy.web(), [LINE.as_bytes(), &claim].concat()).await;
    assert_eq!(line_of(&proxy, "/claim").await["client"], "203.0.113.5:0");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_header_may_come_in_any_two_pieces() {
    let backend = Backend::replying("ok").await;
    let (proxy, _) = receiving(&backend, TRUSTED).await;
    let mut clients = Vec::new();
    for header in [LINE.as_bytes().to_vec(), binary(b"\x05\0\x02id")] {
        for split in 1..header.len() {
            let mut client = Raw::connect(proxy.web()).await;
            client.send(&header[..split]).await;
            clients.push((client, header[split..].to_vec()));
        }
    }
    // By now each first piece was there for a while.
    for (n, (mut client, rest)) in clients.into_iter().enumerate() {
        let request = message::get(&format!("/{n}"), "Connection: close\r\n");
        client.send([rest, request].concat()).await;
        assert_eq!(client.response().await.text(), "ok", "piece {n}");
    }
    eventually("all lines", || proxy.log_lines().len() == LINE.len() - 1 + 32).await;
    assert!(proxy.log_lines().iter().all(|line| line["client"] == "192.0.2.7:4711"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_126_proxy_header_from_an_untrusted_source() {
    let backend = Backend::replying("ok").await;
    let request = message::get("/", "");
    for (mode, without) in [("required", 0), ("optional", 200)] {
        let terms = format!("{{ mode = \"{mode}\", from = [\"192.0.2.0/24\"] }}");
        let (proxy, _) = receiving(&backend, &terms).await;
        for header in [LINE.as_bytes().to_vec(), binary(&[])] {
            let line = label(&proxy, &[&header[..], &request].concat()).await;
            assert_eq!(line["termination"], "client_proxy_header_untrusted", "{line}");
            assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        }
        backend.assert_untouched();
        if without == 200 {
            assert_eq!(Raw::ask(proxy.web(), &request).await.status(), 200);
        } else {
            let line = label(&proxy, &request).await;
            assert_eq!(line["termination"], "client_proxy_header_untrusted", "{line}");
        }
        proxy.finish().await;
    }
}

#[tokio::test]
async fn fault_126_proxy_headers_that_are_none() {
    let backend = Backend::replying("ok").await;
    let (proxy, _) = receiving_within(&backend, TRUSTED, "\"2s\"").await;
    let request = message::get("/", "");
    let long_line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
    let long_binary = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", &[0; 200][..]].concat();
    let mut garbage = b"PROXY ".to_vec();
    garbage.extend((0..100).map(|n| (n * 37 % 251) as u8));
    garbage.extend(b"\r\n");
    let broken = [
        (long_line.into_bytes(), "too long"),
        (long_binary, "too long"),
        (binary(b"\x02\0\x09app.test"), "a TLV extends beyond the end"),
        (binary(b"\x03\0\x04\0\0\0\0"), "checksum"),
        (b"\r\n\r\n\0\r\nQUIT\n\x2f\x11".to_vec(), "command"),
        (LINE.replace("4711", "+4711").into_bytes(), "port"),
        (garbage, ""),
    ];
    for (bytes, why) in broken {
        let line = label(&proxy, &[&bytes[..], &request].concat()).await;
        assert_eq!(line["termination"], "client_proxy_header_malformed", "{line}");
        assert!(line["error"].as_str().unwrap().contains(why), "{line}");
    }
    let line = label(&proxy, &request).await;
    assert_eq!(line["termination"], "client_proxy_header_missing", "{line}");

    // Nothing, part of one, and all of one, with silence after it.
    let silent = [(&b""[..], "timed_out"), (&LINE.as_bytes()[..20], "timed_out")];
    for (bytes, kind) in silent {
        let line = label(&proxy, bytes).await;
        assert_eq!(line["termination"], format!("client_proxy_header_{kind}"), "{line}");
    }
    let mut client = Raw::connect(proxy.web()).await;
    client.send(&LINE[..20]).await;
    client.finish().await;
    client.assert_closed().await;
    let line = proxy
        .wait_for_log("its line", |line| line["termination"] == "client_proxy_header_incomplete");
    line.await;
    backend.assert_untouched();
    proxy.finish().await;
}

#[tokio::test]
async fn a_header_alone_and_then_silence_ends_as_any_silent_client() {
    let backend = Backend::replying("ok").await;
    let proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[backend.address]).listener("proxy_protocol", TRUSTED);
            settings.listener("header_timeout", "\"500ms\"");
        })
        .start()
        .await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(LINE).await;
    let (_, end) = client.rest().await;
    assert_eq!(end, End::Fin);
    backend.assert_untouched();
    proxy.finish().await;
}

#[tokio::test]
async fn optional_is_with_or_without_and_no_listener_looks_unasked() {
    let backend = Backend::replying("ok").await;
    let terms = "{ mode = \"optional\", from = [\"127.0.0.0/8\"] }";
    let (proxy, site) = receiving(&backend, terms).await;
    let with = [LINE.as_bytes(), &message::get("/with", "")].concat();
    assert_eq!(Raw::ask(proxy.web(), with.clone()).await.status(), 200);
    assert_eq!(line_of(&proxy, "/with").await["client"], "192.0.2.7:4711");
    let mut client = Raw::tls(proxy.listener("secure"), &site).await;
    client.send(message::get("/without", "")).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(line_of(&proxy, "/without").await["client"], client.local().to_string());
    drop(client);

    assert_eq!(Raw::ask(proxy.listener("bare"), with).await.status(), 400);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn backends_are_told_of_each_client_on_a_connection_of_its_own() {
    let backend = Backend::manual().await;
    let pages = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("proxy_protocol", "\"v1\"");
        settings.host("pages.test", "pages", &[pages.address]);
        // Goes on with that pool's table.
        settings.table("proxy_protocol = \"v1\"\n");
    })
    .await;
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = Raw::connect(proxy.web()).await;
        // Twice on the first connection, once on another.
        for _ in 0..=(n % 2) {
            client.send(b"GET / HTTP/1.1\r\nHost: pages.test\r\n\r\n").await;
            assert_eq!(client.response().await.text(), "ok");
            let index = pages.connections() - 1;
            let text = String::from_utf8(pages.bytes(index)).unwrap();
            let (from, to) = (client.local().port(), proxy.web().port());
            let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nGET / ");
            assert!(text.starts_with(&line), "{text}");
            assert_eq!(text.matches("PROXY").count(), 1, "{text}");
        }
        clients.push(client);
    }
    assert_eq!(pages.connections(), 6);
    let mut client = Raw::connect(proxy.web()).await;
    client.send(websocket::request("/chat", "")).await;
    let peer = backend.peer(0).await;
    eventually("the request", || backend.saw("GET /chat ")).await;
    let text = String::from_utf8(backend.bytes(0)).unwrap();
    let from = client.local().port();
    assert!(text.starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} ")), "{text}");
    drop((clients, client, backend, pages, peer));
    proxy.finish().await;
}

/// Tells who asks, as far as a PROXY header has told HAProxy.
const TELLING: &str = "  mode http\n  http-request return status 200 hdr x-src %[src]:%[src_port] \
    hdr x-dst %[dst]:%[dst_port] hdr x-authority %[fc_pp_authority] hdr x-id %[fc_pp_unique_id]\n";

#[tokio::test]
async fn haproxy_behind_is_told_in_either_version() {
    for version in ["v1", "v2"] {
        let setup = Setup::new();
        let site = Certificate::make(setup.directory(), "app.test");
        let haproxy = Haproxy::start(setup.directory(), "accept-proxy", TELLING, "");
        let health = "{ probe = \"http\", interval = \"60s\", fall = 1 }";
        let proxy = setup
            .with(|settings| {
                settings.backends(&[haproxy.address]).pool("health", health);
                let told = match version {
                    "v2" => "{ tlvs = [\"unique-id\", \"authority\", \"crc32c\"] }",
                    _ => "\"v1\"",
                };
                settings.pool("proxy_protocol", told);
                settings.listener("proxy_protocol", TRUSTED);
                settings.table(&format!(
                    "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                     certificates = {}\n",
                    site.setting()
                ));
            })
            .start()
            .await;
        let up = "moorline_backend_up{pool=\"app\"";
        proxy.wait_for_metric("the probe's verdict", up, |up| up == 1.0).await;
        // What came in by a header goes out by one.
        let request = message::get("/named", "");
        let reply = Raw::ask(proxy.web(), [LINE.as_bytes(), &request].concat()).await;
        assert_eq!(reply.header("x-src"), Some("192.0.2.7:4711"));
        assert_eq!(reply.header("x-dst"), Some("198.51.100.1:443"));
        let mut client = Raw::tls(proxy.listener("secure"), &site).await;
        client.send(message::get("/real", "")).await;
        let reply = client.response().await;
        assert_eq!(reply.header("x-src"), Some(client.local().to_string().as_str()));
        let secure = proxy.listener("secure").to_string();
        assert_eq!(reply.header("x-dst"), Some(secure.as_str()));
        let line = line_of(&proxy, "/real").await;
        let (authority, id) = match version {
            "v2" => ("app.test", line["id"].as_str().unwrap()),
            _ => ("", ""),
        };
        assert_eq!(reply.header("x-authority").unwrap_or_default(), authority);
        assert_eq!(reply.header("x-id").unwrap_or_default(), id);
        drop((client, haproxy));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn probes_say_that_they_are_our_own() {
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", local)] {
        let backend = Backend::manual().await;
        let proxy = Proxy::with(|settings| {
            settings.backends(&[backend.address]);
            settings.pool("health", "{ probe = \"http\", interval = \"60s\", timeout = \"30s\" }");
            settings.pool("proxy_protocol", &format!("\"{version}\""));
        })
        .await;
        let peer = backend.peer(0).await;
        let begins = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        eventually("the probe", || backend.bytes(0).len() >= begins.len()).await;
        let bytes = backend.bytes(0);
        assert!(bytes.starts_with(&begins), "{}", bytes.escape_ascii());
        drop((peer, backend));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn haproxy_behind_takes_the_header_before_tls() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let joined = setup.directory().join("joined.pem");
    ca.issue("127.0.0.1", |_| {}).write_joined(&joined);
    let bind = format!("accept-proxy ssl crt {}", joined.display());
    let haproxy = Haproxy::start(setup.directory(), &bind, TELLING, "");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[haproxy.address]).pool("proxy_protocol", "\"v2\"");
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
        })
        .start()
        .await;
    let up = "moorline_backend_up{pool=\"app\"";
    proxy.wait_for_metric("the probe's verdict", up, |up| up == 1.0).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", "")).await;
    let reply = client.response().await;
    assert_eq!(reply.header("x-src"), Some(client.local().to_string().as_str()));
    drop((client, haproxy));
    proxy.finish().await;
}

#[tokio::test]
async fn nginx_behind_takes_the_header_before_tls_from_every_listener() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    ca.issue("127.0.0.1", |_| {}).write(setup.directory(), "node");
    let folder = setup.directory().display().to_string();
    let nginx = Nginx::start(
        setup.directory(),
        "ssl proxy_protocol",
        &format!(
            "    ssl_certificate {folder}/node.pem;\n    ssl_certificate_key {folder}/node.key;\n\
             location / {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }}"
        ),
    )
    .await;
    let table = |told: &str| {
        format!(
            "backends = [\"{}\"]\nproxy_protocol = {told}\ntls = {{ ca = {:?} }}\n\
             health = {{ probe = \"off\" }}\n",
            nginx.address, ca.file
        )
    };
    let proxy = setup
        .with(|settings| {
            settings.backends(&[nginx.address]).pool("proxy_protocol", "\"v2\"");
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"http\", interval = \"60s\", fall = 1 }");
            for (name, told) in
                [("one", "\"v1\""), ("sum", "{ tlvs = [\"crc32c\", \"unique-id\"] }")]
            {
                settings.table(&format!(
                    "[[routes]]\nhost = \"{name}.test\"\npool = \"{name}\"\n[pools.{name}]\n{}",
                    table(told)
                ));
            }
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    let up = "moorline_backend_up{pool=\"app\"";
    proxy.wait_for_metric("the probe's verdict", up, |up| up == 1.0).await;
    for host in ["app", "one", "sum"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n");
        let mut plain = Raw::connect(proxy.web()).await;
        plain.send(&request).await;
        assert_eq!(plain.response().await.text(), plain.local().to_string(), "{host}");
        // With all that TLS tells, the header is as short.
        let mut secure = Raw::tls(proxy.listener("secure"), &site).await;
        secure.send(&request).await;
        assert_eq!(secure.response().await.text(), secure.local().to_string(), "{host}");
    }
    drop(nginx);
    proxy.finish().await;
}

#[tokio::test]
async fn haproxy_in_front_names_its_clients() {
    let backend = Backend::replying("ok").await;
    let cases = [
        ("http", "httplog", "send-proxy-v2"),
        ("http", "httplog", "send-proxy"),
        ("tcp", "tcplog", "send-proxy-v2"),
    ];
    for (mode, log, send) in cases {
        let (proxy, _) = receiving(&backend, TRUSTED).await;
        let front = format!("  mode {mode}\n  option {log}\n  default_backend moorline\n");
        let behind =
            format!("backend moorline\n  mode {mode}\n  server m {} {send}\n", proxy.web());
        let haproxy = Haproxy::start(proxy.directory(), "", &front, &behind);
        let mut client = Raw::connect(haproxy.address).await;
        client.send(message::get("/front", "Connection: close\r\n")).await;
        assert_eq!(client.response().await.text(), "ok", "{}", haproxy.log());
        let from = client.local().to_string();
        drop(client);
        assert_eq!(line_of(&proxy, "/front").await["client"], from.as_str());
        eventually("its log", || haproxy.log().contains(&from)).await;
        drop(haproxy);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn haproxy_in_front_of_layer_4_names_its_clients() {
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
        let line = proxy.wait_for_log("its line", |line| line["listener"] == listener).await;
        assert_eq!(line["client"], from.as_str());
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_header_before_a_connection_that_is_passed_on_undecrypted_is_all_that_is_taken() {
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
            // At once; within the header; between the two; within the ClientHello.
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
                eventually("its line", || proxy.log_lines().len() == count).await;
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
async fn ipv6_from_end_to_end() {
    let socket = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let backend = Backend::on(socket, backend::answering(|_| message::reply("200 OK", "", "ok")));
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).listener("bind", "\"[::1]:0\"");
        settings.pool("proxy_protocol", "\"v2\"");
        settings.table(
            "[listeners.named]\nbind = \"[::1]:0\"\n\
             proxy_protocol = { mode = \"required\", from = [\"::1\"] }\n\
             [listeners.raw]\nbind = \"[::1]:0\"\nprotocol = \"tcp\"\npool = \"app\"\n",
        );
    })
    .await;
    let line = "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
    for (index, listener) in ["web", "raw", "named"].into_iter().enumerate() {
        let mut client = Raw::connect(proxy.listener(listener)).await;
        let (mut from, mut to) = (client.local(), proxy.listener(listener));
        if listener == "named" {
            client.send(line).await;
            (from, to) =
                ("[2001:db8::7]:4711".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        }
        client.send(message::get("/six", "")).await;
        assert_eq!(client.response().await.text(), "ok");
        let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) = (from.ip(), to.ip())
        else {
            panic!("{from} {to}")
        };
        let ends = [&source.octets()[..], &target.octets()].concat();
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let bytes = backend.bytes(index);
        assert_eq!(&bytes[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x21", "{listener}");
        assert_eq!(&bytes[16..52], [ends, ports].concat(), "{listener}");
        if listener != "raw" {
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            assert!(text.contains(&format!("x-forwarded-for: {source}\r\n")), "{text}");
        }
        drop(client);
        let line = proxy.wait_for_log("its line", |line| line["listener"] == listener).await;
        assert_eq!(line["client"], from.to_string());
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_tls_backend_sees_the_header_first_and_a_reload_brings_it_to_running_probes() {
    let setup = Setup::new();
    let backend = Backend::replying("ok").await;
    let ca = Authority::make(setup.directory(), "ca");
    let front = TlsFront::before(&backend, ca.issue("127.0.0.1", |_| {}).server_config()).await;
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[front.address]);
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
        })
        .start()
        .await;
    let up = "moorline_backend_up{pool=\"app\"";
    proxy.wait_for_metric("up", up, |up| up == 1.0).await;
    within("the probe", front.handshake(0)).await;
    // A server of TLS takes a PROXY header for no ClientHello.
    proxy.reload(|settings| _ = settings.pool("proxy_protocol", "\"v2\"")).await;
    proxy.wait_for_metric("down", up, |up| up == 0.0).await;
    drop((front, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn streams_of_layer_4_are_named_on_their_way_in_and_out() {
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let haproxy = Haproxy::start(setup.directory(), "accept-proxy", TELLING, "");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[haproxy.address]);
            let told = "{ version = \"v2\", tlvs = [\"unique-id\", \"authority\"] }";
            settings.pool("proxy_protocol", told);
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
    let line = proxy.wait_for_log("its line", |line| line["listener"] == "tls").await;
    assert_eq!(reply.header("x-id"), line["id"].as_str());
    assert_eq!(line["client"], "192.0.2.7:4711");
    drop(haproxy);
    proxy.finish().await;
}

/// Says so as soon as somebody has connected, and listens.
async fn greeting() -> Backend {
    Backend::start(backend::script(|peer| async move {
        peer.send("220 hello\r\n").await;
        peer.ended().await;
    }))
    .await
}

#[tokio::test]
async fn a_late_header_counts_where_the_client_speaks_first_and_is_bytes_where_the_server_may() {
    let (pages, greeting) = (Backend::replying("ok").await, greeting().await);
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let table = |name: &str, from: &str, more: &str| {
        format!(
            "[listeners.{name}]\nbind = \"127.0.0.1:0\"\n{more}\n\
             handshake_timeout = \"60s\"\n\
             proxy_protocol = {{ mode = \"optional\", from = [\"{from}\"] }}\n"
        )
    };
    let https = format!("protocol = \"https\"\ncertificates = {}", site.setting());
    let tcp = "protocol = \"tcp\"\npool = \"mail\"";
    let proxy = setup
        .with(|settings| {
            settings.backends(&[pages.address]).host("mail.test", "mail", &[greeting.address]);
            let listeners = [
                table("plain", "127.0.0.0/8", "protocol = \"http\""),
                table("secure", "127.0.0.0/8", &https),
                table("elsewhere", "192.0.2.0/24", "protocol = \"http\""),
                table("raw", "127.0.0.0/8", tcp),
                table("stranger", "192.0.2.0/24", tcp),
            ];
            settings.table(&listeners.concat());
        })
        .start()
        .await;
    let mut plain = Raw::connect(proxy.listener("plain")).await;
    let secure = Raw::connect(proxy.listener("secure")).await;
    let mut elsewhere = Raw::connect(proxy.listener("elsewhere")).await;
    for listener in ["plain", "secure", "elsewhere"] {
        let open = format!("moorline_connections{{listener=\"{listener}\"}}");
        proxy.wait_for_metric("it is accepted", &open, |open| open == 1.0).await;
    }
    // What the server says first tells that its listener waits no longer, whoever the client is.
    for listener in ["raw", "stranger"] {
        let mut client = Raw::connect(proxy.listener(listener)).await;
        assert_eq!(client.exact(11).await, b"220 hello\r\n");
        client.send(LINE).await;
        eventually("bytes like any others", || greeting.saw(LINE)).await;
        drop(client);
        let line = proxy.wait_for_log("its line", |line| line["listener"] == listener).await;
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    plain.send([LINE.as_bytes(), &message::get("/late/plain", "")].concat()).await;
    assert_eq!(plain.response().await.text(), "ok");
    let mut secure = secure.into_tls_after(LINE.as_bytes(), &site).await;
    secure.send(message::get("/late/secure", "")).await;
    assert_eq!(secure.response().await.text(), "ok");
    for path in ["/late/plain", "/late/secure"] {
        assert_eq!(line_of(&proxy, path).await["client"], "192.0.2.7:4711");
    }
    elsewhere.send([LINE.as_bytes(), &message::get("/late/elsewhere", "")].concat()).await;
    elsewhere.assert_closed().await;
    proxy
        .wait_for_log("its line", |line| line["termination"] == "client_proxy_header_untrusted")
        .await;
    drop((plain, secure, pages, greeting));
    proxy.finish().await;
}
