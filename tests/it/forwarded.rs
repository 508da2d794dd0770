//! Fields that describe the client to the backend, and which peers may set them.

use crate::support::{Backend, Message, Proxy, Raw, message, within};

const SPOOF: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n\
    X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 666\r\nX-Forwarded-Prefix: /evil\r\n\
    Forwarded: for=6.6.6.6;host=evil.test;proto=gopher\r\nX-Real-IP: 6.6.6.6\r\n\
    X-Request-Id: forged\r\n";

async fn seen_through(proxy: &Proxy, backend: &Backend, headers: &str) -> Message {
    let reply = Raw::ask(proxy.web(), message::get("/", headers)).await;
    assert_eq!(reply.status(), 200);
    backend.requests().last().unwrap().clone()
}

#[tokio::test]
async fn fault_125_spoofed_forwarding_headers() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let twice = format!("{SPOOF}x-forwarded-for: 7.7.7.7\r\n");
    let seen = seen_through(&proxy, &backend, &twice).await;
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["app.test"]);
    assert_eq!(seen.all("x-forwarded-port"), ["80"]);
    assert_eq!(seen.all("x-real-ip"), ["127.0.0.1"]);
    assert!(seen.all("forwarded").is_empty());
    let id = seen.header("x-request-id").unwrap();
    assert!(!id.is_empty() && id != "forged");
    for claim in ["6.6.6.6", "7.7.7.7", "evil", "gopher", "666", "forged"] {
        assert!(!backend.saw(claim), "{claim} reached the backend");
    }
    let line = proxy.wait_for_log("the request", |line| line["id"] == id).await;
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1"), "{line}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_125_spoofed_forwarding_headers_on_an_upgrade() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(crate::support::websocket::request("/chat", SPOOF)).await;
    let peer = backend.peer(0).await;
    let seen = peer.head().await.unwrap();
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-host"), ["app.test"]);
    assert!(!backend.saw("evil") && !backend.saw("6.6.6.6") && !backend.saw("forged"));
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_125_fields_of_a_trusted_peer_are_used() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("trusted_proxies", "[\"127.0.0.0/8\"]");
    })
    .await;
    let seen = seen_through(&proxy, &backend, SPOOF).await;
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("gopher"));
    assert_eq!(seen.header("x-forwarded-host"), Some("evil.test"));
    assert_eq!(seen.header("x-request-id"), Some("forged"));
    assert_eq!(seen.header("x-real-ip"), Some("6.6.6.6"));
    assert_eq!(seen.header("x-forwarded-port"), Some("666"));
    let forwarded = "for=6.6.6.6;proto=gopher;host=\"evil.test:666\", for=127.0.0.1";
    assert_eq!(seen.header("forwarded"), Some(forwarded));
    // Names with underscores do not bypass the rules, for any peer.
    let seen = seen_through(&proxy, &backend, "X_Forwarded_For: 5.5.5.5\r\n").await;
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert!(!backend.saw("5.5.5.5"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_125_another_address_is_not_trusted() {
    let backend = Backend::replying("ok").await;
    for (trusted, expected) in
        [("127.0.0.1/32", "6.6.6.6, 127.0.0.1"), ("127.0.0.2/32", "127.0.0.1")]
    {
        assert_eq!(seen_trusting(trusted, &backend).await, expected, "trusting {trusted}");
    }
}

#[tokio::test]
async fn fault_125_a_mapped_address_is_an_ipv4_address() {
    let backend = Backend::replying("ok").await;
    for (trusted, expected) in
        [("::ffff:127.0.0.1/128", "6.6.6.6, 127.0.0.1"), ("::ffff:127.0.0.2/128", "127.0.0.1")]
    {
        assert_eq!(seen_trusting(trusted, &backend).await, expected, "trusting {trusted}");
    }
}

/// Returns the `X-Forwarded-For` that the backend receives if the peer sends an address.
async fn seen_trusting(trusted: &str, backend: &Backend) -> String {
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.top("trusted_proxies", &format!("[\"{trusted}\"]"));
    })
    .await;
    let headers = "X-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n";
    let seen = seen_through(&proxy, backend, headers).await;
    proxy.finish().await;
    seen.all("x-forwarded-for").join(" and ")
}

/// A proxy that trusts the tests' own address, with these further settings.
async fn trusting(backend: &Backend, top: &[(&str, &str)]) -> Proxy {
    Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("trusted_proxies", "[\"127.0.0.0/8\"]");
        for (key, value) in top {
            settings.top(key, value);
        }
    })
    .await
}

/// Fields that the peer sends, and the value of each field that the backend gets. `""`: no field.
type Case = (&'static str, [(&'static str, &'static str); 6]);

fn fields(values: [&'static str; 6]) -> [(&'static str, &'static str); 6] {
    let names = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-real-ip",
        "forwarded",
    ];
    std::array::from_fn(|at| (names[at], values[at]))
}

async fn assert_translated(proxy: &Proxy, backend: &Backend, cases: &[Case]) {
    for (sent, expected) in cases {
        let seen = seen_through(proxy, backend, sent).await;
        for (name, value) in expected {
            let wanted = if value.is_empty() { vec![] } else { vec![*value] };
            assert_eq!(seen.all(name), wanted, "{name} after {sent:?}");
        }
    }
}

#[tokio::test]
async fn fault_128_x_forwarded_fields_decide_what_forwarded_says() {
    let backend = Backend::replying("ok").await;
    let proxy = trusting(&backend, &[("forwarded", "\"always\"")]).await;
    let cases: [Case; 8] = [
        // From a proxy in front that terminates TLS: the browser's connection counts.
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\n",
            fields([
                "203.0.113.9, 127.0.0.1",
                "https",
                "app.test",
                "443",
                "203.0.113.9",
                "for=203.0.113.9;proto=https;host=app.test, for=127.0.0.1",
            ]),
        ),
        // Only the peer is known.
        (
            "",
            fields([
                "127.0.0.1",
                "http",
                "app.test",
                "80",
                "127.0.0.1",
                "for=127.0.0.1;proto=http;host=app.test",
            ]),
        ),
        (
            "X-Forwarded-Proto: https\r\n",
            fields([
                "127.0.0.1",
                "https",
                "app.test",
                "443",
                "127.0.0.1",
                "for=127.0.0.1;proto=https;host=app.test",
            ]),
        ),
        // Several values: one for each address, then the proxy's own.
        (
            "X-Forwarded-For: 203.0.113.9, 127.0.0.7\r\nX-Forwarded-Proto: https, http\r\n",
            fields([
                "203.0.113.9, 127.0.0.7, 127.0.0.1",
                "https, http, http",
                "app.test",
                "443",
                "203.0.113.9",
                "for=203.0.113.9;proto=https;host=app.test, for=127.0.0.7;proto=http, \
                 for=127.0.0.1;proto=http",
            ]),
        ),
        // More values than addresses: the last values belong to the known hops.
        (
            "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
            fields([
                "203.0.113.9, 127.0.0.1",
                "http",
                "app.test",
                "80",
                "203.0.113.9",
                "for=203.0.113.9;proto=http;host=app.test, for=127.0.0.1",
            ]),
        ),
        // A separate port is written with the host in `Forwarded`.
        (
            "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: shop.test\r\nX-Forwarded-Port: 8443\r\n",
            fields([
                "203.0.113.9, 127.0.0.1",
                "https",
                "shop.test",
                "8443",
                "203.0.113.9",
                "for=203.0.113.9;proto=https;host=\"shop.test:8443\", for=127.0.0.1",
            ]),
        ),
        // Addresses with ports, and IPv6.
        (
            "X-Forwarded-For: [2001:DB8::1]:4711, 127.0.0.7:99\r\nX-Real-IP: 6.6.6.6\r\n",
            fields([
                "[2001:DB8::1]:4711, 127.0.0.7:99, 127.0.0.1",
                "http",
                "app.test",
                "80",
                "2001:db8::1",
                "for=\"[2001:db8::1]:4711\";proto=http;host=app.test, for=\"127.0.0.7:99\", \
                 for=127.0.0.1",
            ]),
        ),
        // X-Forwarded-* and Forwarded disagree.
        (
            "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
             Forwarded: for=6.6.6.6;proto=http;host=evil.test\r\n",
            fields([
                "203.0.113.9, 127.0.0.1",
                "https",
                "app.test",
                "443",
                "203.0.113.9",
                "for=203.0.113.9;proto=https;host=app.test, for=127.0.0.1",
            ]),
        ),
    ];
    assert_translated(&proxy, &backend, &cases).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_128_forwarded_alone_is_translated() {
    let backend = Backend::replying("ok").await;
    let proxy = trusting(&backend, &[]).await;
    let cases: [Case; 5] = [
        (
            "Forwarded: proto=https\r\n",
            fields([
                "127.0.0.1",
                "https",
                "app.test",
                "443",
                "127.0.0.1",
                "for=127.0.0.1;proto=https;host=app.test",
            ]),
        ),
        (
            "Forwarded: FOR=\"[2001:DB8::1]:4711\";Proto=HTTPS;host=\"shop.test:8443\";by=_edge\r\n",
            fields([
                "2001:db8::1, 127.0.0.1",
                "https",
                "shop.test:8443",
                "8443",
                "2001:db8::1",
                "for=\"[2001:db8::1]:4711\";proto=https;host=\"shop.test:8443\";by=_edge, \
                 for=127.0.0.1",
            ]),
        ),
        (
            "Forwarded: for=203.0.113.9;proto=https\r\nForwarded: for=127.0.0.7;proto=http\r\n",
            fields([
                "203.0.113.9, 127.0.0.7, 127.0.0.1",
                "https, http, http",
                "app.test",
                "443",
                "203.0.113.9",
                "for=203.0.113.9;proto=https;host=app.test, for=127.0.0.7;proto=http, \
                 for=127.0.0.1;proto=http",
            ]),
        ),
        // X-Forwarded-* and Forwarded agree, each with a part of the values.
        (
            "Forwarded: for=\"203.0.113.9:5555\";host=shop.test\r\nX-Forwarded-For: 203.0.113.9\r\n\
             X-Forwarded-Proto: https\r\n",
            fields([
                "203.0.113.9, 127.0.0.1",
                "https",
                "shop.test",
                "443",
                "203.0.113.9",
                "for=\"203.0.113.9:5555\";proto=https;host=shop.test, for=127.0.0.1",
            ]),
        ),
        // Without Forwarded from the peer, the backend gets none: few backends read it, and they prefer it.
        (
            "X-Forwarded-For: 203.0.113.9\r\n",
            fields(["203.0.113.9, 127.0.0.1", "http", "app.test", "80", "203.0.113.9", ""]),
        ),
    ];
    assert_translated(&proxy, &backend, &cases).await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_128_forwarded_of_an_untrusted_peer_is_dropped() {
    let backend = Backend::replying("ok").await;
    for (setting, forwarded) in
        [("\"pass\"", ""), ("\"always\"", "for=127.0.0.1;proto=http;host=app.test")]
    {
        let proxy = Proxy::with(|settings| {
            settings.backends(&[backend.address]).top("forwarded", setting);
        })
        .await;
        let fields = fields(["127.0.0.1", "http", "app.test", "80", "127.0.0.1", forwarded]);
        assert_translated(&proxy, &backend, &[(SPOOF, fields)]).await;
        proxy.finish().await;
    }
    assert!(!backend.saw("/evil"));
}

#[tokio::test]
async fn x_forwarded_prefix_of_a_trusted_peer_is_forwarded() {
    let backend = Backend::replying("ok").await;
    let proxy = trusting(&backend, &[]).await;
    let seen = seen_through(&proxy, &backend, "X-Forwarded-Prefix: /shop\r\n").await;
    assert_eq!(seen.all("x-forwarded-prefix"), ["/shop"]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn the_port_is_taken_from_the_clients_host() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let request = "GET / HTTP/1.1\r\nHost: app.test:8123\r\n\r\n";
    assert_eq!(Raw::ask(proxy.web(), request).await.status(), 200);
    let seen = backend.requests().last().unwrap().clone();
    assert_eq!(seen.all("x-forwarded-host"), ["app.test:8123"]);
    assert_eq!(seen.all("x-forwarded-port"), ["8123"]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_129_client_addresses_are_read_in_every_form() {
    let backend = Backend::replying("ok").await;
    let proxy = trusting(&backend, &[]).await;
    for (sent, client) in [
        ("X-Forwarded-For: 203.0.113.9:5555", "203.0.113.9:5555"),
        ("X-Forwarded-For: [2001:db8::1]", "[2001:db8::1]:0"),
        ("X-Forwarded-For: [2001:DB8::1]:5555", "[2001:db8::1]:5555"),
        ("X-Forwarded-For: 2001:db8::1", "[2001:db8::1]:0"),
        ("X-Forwarded-For: \"203.0.113.9\"", "203.0.113.9:0"),
        ("X-Forwarded-For: ::ffff:203.0.113.9", "203.0.113.9:0"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.9:1 , 127.0.0.8:2", "203.0.113.9:1"),
        ("Forwarded: for=\"[2001:db8::1]:4711\"", "[2001:db8::1]:4711"),
        ("Forwarded: For=\"[2001:db8::1]\"", "[2001:db8::1]:0"),
        ("Forwarded: for=203.0.113.9", "203.0.113.9:0"),
        (
            "Forwarded: for=6.6.6.6, for=\"203.0.113.9:80\";by=\"_a,b\\\"\", for=127.0.0.9",
            "203.0.113.9:80",
        ),
        ("Forwarded: for=\"203.0.113.9:_obfuscated\"", "203.0.113.9:0"),
    ] {
        let id = format!("id-{:x}", fastrand::u64(..));
        seen_through(&proxy, &backend, &format!("{sent}\r\nX-Request-Id: {id}\r\n")).await;
        let line = proxy.wait_for_log(sent, |line| line["id"] == id.as_str()).await;
        assert_eq!(line["client"], client, "{sent}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_129_an_invalid_address_is_logged_once_and_the_peer_address_is_used() {
    let backend = Backend::replying("ok").await;
    let proxy = trusting(&backend, &[]).await;
    for sent in [
        "X-Forwarded-For: 6.6.6.6, garbage",
        "X-Forwarded-For: garbage",
        "Forwarded: for=\"6.6.6.6",
    ] {
        let id = format!("id-{:x}", fastrand::u64(..));
        seen_through(&proxy, &backend, &format!("{sent}\r\nX-Request-Id: {id}\r\n")).await;
        let line = proxy.wait_for_log(sent, |line| line["id"] == id.as_str()).await;
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{sent}: {line}");
    }
    let warning = "cannot be read";
    proxy.wait_for_stderr("the warning", |line| line.contains(warning)).await;
    assert_eq!(proxy.stderr().iter().filter(|line| line.contains(warning)).count(), 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn dropped_forwarding_fields_are_logged_once_with_the_setting_to_use() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    for _ in 0..3 {
        seen_through(&proxy, &backend, SPOOF).await;
    }
    let warning = |line: &&String| line.contains("trusted_proxies = [\"127.0.0.1\"]");
    proxy.wait_for_stderr("the warning", |line| warning(&&line.to_owned())).await;
    assert_eq!(proxy.stderr().iter().filter(warning).count(), 1);
    let line = proxy.stderr().into_iter().find(|line| warning(&line)).unwrap();
    assert!(line.contains("X-Forwarded-For") && line.contains("listener=\"web\""), "{line}");
    // Nothing is dropped or logged for a trusted peer.
    proxy.reload(|settings| _ = settings.top("trusted_proxies", "\"private\"")).await;
    seen_through(&proxy, &backend, SPOOF).await;
    assert_eq!(proxy.stderr().iter().filter(warning).count(), 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn trusted_proxies_accept_private_and_a_watched_file() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("trusted_proxies", "\"private\"");
    })
    .await;
    let chain = |seen: &Message| seen.header("x-forwarded-for").unwrap().to_owned();
    let claim = "X-Forwarded-For: 203.0.113.9\r\n";
    let seen = seen_through(&proxy, &backend, claim).await;
    assert_eq!(chain(&seen), "203.0.113.9, 127.0.0.1");
    let file = proxy.directory().join("proxies.txt");
    std::fs::write(&file, "# the balancers\n192.0.2.0/24 # old\n").unwrap();
    proxy
        .reload(|settings| {
            settings.top("trusted_proxies", "[\"198.51.100.7\", { file = \"proxies.txt\" }]");
        })
        .await;
    assert_eq!(chain(&seen_through(&proxy, &backend, claim).await), "127.0.0.1");
    // The file alone changes: it is watched.
    std::fs::write(&file, "private\n192.0.2.0/24\n").unwrap();
    within("the file is read again", async {
        while chain(&seen_through(&proxy, &backend, claim).await) == "127.0.0.1" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn the_secure_attribute_follows_trusted_forwarded_fields() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).top("trusted_proxies", "\"private\"");
        settings.pool("sticky", "{ cookie = { set_on = \"always\" } }");
    })
    .await;
    for (sent, secure) in [
        ("X-Forwarded-Proto: https\r\n", true),
        ("X-Forwarded-Proto: HTTPS\r\n", true),
        ("X-Forwarded-Proto: wss\r\n", true),
        ("Forwarded: for=203.0.113.9;proto=https\r\n", true),
        ("X-Forwarded-For: 203.0.113.9, 127.0.0.7\r\nX-Forwarded-Proto: https, http\r\n", true),
        ("X-Forwarded-For: 127.0.0.7, 203.0.113.9\r\nX-Forwarded-Proto: https, http\r\n", false),
        ("X-Forwarded-Proto: http\r\nForwarded: proto=https\r\n", false),
        ("", false),
    ] {
        let reply = Raw::ask(proxy.web(), message::get("/", sent)).await;
        let cookie = reply.header("set-cookie").expect("a cookie is set").to_lowercase();
        assert_eq!(cookie.contains("secure"), secure, "{sent}: {cookie}");
    }
    drop(backend);
    proxy.finish().await;
}
