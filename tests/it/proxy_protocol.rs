//! PROXY protocol: headers from proxies in front, and headers to backends.

mod layer4;
mod to_backends;

use serde_json::Value;
use tokio::process::Command;

use crate::support::{
    Backend, End, Proxy, Raw, backend, eventually, haproxy::Haproxy, message, proxy::Setup,
    tls::Certificate,
};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

const TRUSTED: &str = "{ mode = \"required\", from = [\"127.0.0.0/8\"] }";

/// A header of version 2 from 192.0.2.7:4711 to 198.51.100.1:443, with these TLVs.
fn binary(tlvs: &[u8]) -> Vec<u8> {
    let length = (12 + tlvs.len() as u16).to_be_bytes();
    let ends = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &ends, tlvs].concat()
}

/// A proxy whose listeners `web` and `secure` have this `proxy_protocol` setting; the listener `bare` has none.
async fn receiving(backend: &Backend, setting: &str) -> (Proxy, Certificate) {
    receiving_within(backend, setting, "\"60s\"").await
}

/// Like [`receiving`], with this `handshake_timeout` on `web`.
async fn receiving_within(backend: &Backend, setting: &str, timeout: &str) -> (Proxy, Certificate) {
    let setup = Setup::new();
    let site = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).listener("proxy_protocol", setting);
            settings.listener("handshake_timeout", timeout);
            settings.table("[listeners.bare]\nbind = \"127.0.0.1:0\"\n");
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\nproxy_protocol = {setting}\n",
                site.setting()
            ));
        })
        .start()
        .await;
    (proxy, site)
}

/// Waits for the log line of the request for this path.
async fn line_of(proxy: &Proxy, path: &str) -> Value {
    proxy.wait_for_log("the request", |line| line["path"] == path).await
}

/// Opens a connection that begins with these bytes and that the proxy must close; returns its log line.
async fn rejection_line(proxy: &Proxy, bytes: &[u8]) -> Value {
    let before = proxy.log_lines().len();
    let mut client = Raw::connect(proxy.web()).await;
    client.try_send(bytes).await;
    client.assert_closed().await;
    eventually("the log line", || proxy.log_lines().len() > before).await;
    let lines = proxy.log_lines();
    assert_eq!(lines.len(), before + 1, "one line");
    lines[before].clone()
}

#[tokio::test]
async fn the_log_has_the_client_address_from_the_header_of_curl() {
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
async fn the_client_address_of_a_header_is_used_in_log_and_fields() {
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
    // `UNKNOWN` and `LOCAL`: the client is the proxy in front.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x02??".to_vec();
    for (n, header) in [b"PROXY UNKNOWN\r\n".to_vec(), local].iter().enumerate() {
        let path = format!("/own/{n}");
        let first = [&header[..], &message::get(&path, "")].concat();
        assert_eq!(Raw::ask(proxy.web(), first).await.text(), "ok");
        let client = line_of(&proxy, &path).await["client"].as_str().unwrap().to_owned();
        assert!(client.starts_with("127.0.0.1:"), "{client}");
    }
    // `trusted_proxies` is matched against the client address of the header.
    proxy.reload(|settings| _ = settings.top("trusted_proxies", "[\"192.0.2.0/24\"]")).await;
    let claim = message::get("/claim", "X-Forwarded-For: 203.0.113.5\r\n");
    Raw::ask(proxy.web(), [LINE.as_bytes(), &claim].concat()).await;
    assert_eq!(line_of(&proxy, "/claim").await["client"], "203.0.113.5:0");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_header_can_arrive_in_two_segments() {
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
    // The first parts of all headers have arrived by now.
    for (n, (mut client, rest)) in clients.into_iter().enumerate() {
        let request = message::get(&format!("/{n}"), "Connection: close\r\n");
        client.send([rest, request].concat()).await;
        assert_eq!(client.response().await.text(), "ok", "split {n}");
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
        let setting = format!("{{ mode = \"{mode}\", from = [\"192.0.2.0/24\"] }}");
        let (proxy, _) = receiving(&backend, &setting).await;
        for header in [LINE.as_bytes().to_vec(), binary(&[])] {
            let line = rejection_line(&proxy, &[&header[..], &request].concat()).await;
            assert_eq!(line["termination"], "client_proxy_header_untrusted", "{line}");
            assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        }
        backend.assert_untouched();
        if without == 200 {
            assert_eq!(Raw::ask(proxy.web(), &request).await.status(), 200);
        } else {
            let line = rejection_line(&proxy, &request).await;
            assert_eq!(line["termination"], "client_proxy_header_untrusted", "{line}");
        }
        proxy.finish().await;
    }
}

#[tokio::test]
async fn fault_126_malformed_missing_and_incomplete_proxy_headers() {
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
        let line = rejection_line(&proxy, &[&bytes[..], &request].concat()).await;
        assert_eq!(line["termination"], "client_proxy_header_malformed", "{line}");
        assert!(line["error"].as_str().unwrap().contains(why), "{line}");
    }
    let line = rejection_line(&proxy, &request).await;
    assert_eq!(line["termination"], "client_proxy_header_missing", "{line}");

    // Silence after zero bytes, and after a part of a header.
    let silent = [(&b""[..], "timed_out"), (&LINE.as_bytes()[..20], "timed_out")];
    for (bytes, kind) in silent {
        let line = rejection_line(&proxy, bytes).await;
        assert_eq!(line["termination"], format!("client_proxy_header_{kind}"), "{line}");
    }
    let mut client = Raw::connect(proxy.web()).await;
    client.send(&LINE[..20]).await;
    client.finish().await;
    client.assert_closed().await;
    let line = proxy.wait_for_log("the log line", |line| {
        line["termination"] == "client_proxy_header_incomplete"
    });
    line.await;
    backend.assert_untouched();
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_is_silent_after_the_header_is_closed() {
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
async fn the_header_is_optional_with_mode_optional_and_not_read_without_the_setting() {
    let backend = Backend::replying("ok").await;
    let setting = "{ mode = \"optional\", from = [\"127.0.0.0/8\"] }";
    let (proxy, site) = receiving(&backend, setting).await;
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

/// HAProxy frontend whose reply fields have the values of the PROXY header.
const ECHO_HEADER: &str = "  mode http\n  http-request return status 200 hdr x-src %[src]:%[src_port] \
    hdr x-dst %[dst]:%[dst_port] hdr x-authority %[fc_pp_authority] hdr x-id %[fc_pp_unique_id]\n";

#[tokio::test]
async fn headers_of_haproxy_in_front_are_read() {
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
        eventually("the log of HAProxy", || haproxy.log().contains(&from)).await;
        drop(haproxy);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn headers_with_ipv6_addresses_are_read_and_sent() {
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
        let line = proxy.wait_for_log("the log line", |line| line["listener"] == listener).await;
        assert_eq!(line["client"], from.to_string());
    }
    drop(backend);
    proxy.finish().await;
}

/// A server that sends the first bytes, like SMTP.
async fn server_speaks_first() -> Backend {
    Backend::start(backend::script(|peer| async move {
        peer.send("220 hello\r\n").await;
        peer.ended().await;
    }))
    .await
}

#[tokio::test]
async fn a_late_header_is_read_on_http_listeners_and_relayed_on_tcp_listeners() {
    let (pages, greeting) = (Backend::replying("ok").await, server_speaks_first().await);
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
        proxy.wait_for_metric("the connection is accepted", &open, |open| open == 1.0).await;
    }
    // After the first bytes of the server, the listener no longer waits for a header, with trusted and
    // untrusted clients.
    for listener in ["raw", "stranger"] {
        let mut client = Raw::connect(proxy.listener(listener)).await;
        assert_eq!(client.exact(11).await, b"220 hello\r\n");
        client.send(LINE).await;
        eventually("the header at the backend", || greeting.saw(LINE)).await;
        drop(client);
        let line = proxy.wait_for_log("the log line", |line| line["listener"] == listener).await;
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
        .wait_for_log("the log line", |line| line["termination"] == "client_proxy_header_untrusted")
        .await;
    drop((plain, secure, pages, greeting));
    proxy.finish().await;
}
