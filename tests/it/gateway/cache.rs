//! Stored responses.

mod counting;
mod disk;
mod renewal;

use super::{get, routed};
use crate::support::{
    Backend, Message, Proxy, Raw, message, node::handshake_target, proxy::Setup, websocket,
};

const FRESH: &str = "Cache-Control: max-age=600\r\n";

/// A backend that numbers its responses and adds the fields that the query names, and a proxy that stores them.
async fn caching(fields: &'static str, keys: &str) -> (Backend, Proxy) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend = Backend::answering(move |_| {
        let number = 1 + count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        message::reply("200 OK", fields, &format!("body {number}"))
    })
    .await;
    let proxy = routed(&backend, keys).await;
    (backend, proxy)
}

/// Requests a target twice, and returns the second body.
async fn second(proxy: &Proxy, target: &str, fields: &str) -> String {
    get(proxy, target, fields).await;
    get(proxy, target, fields).await.text()
}

fn cache_status(reply: &Message) -> String {
    let status = reply.header("cache-status").unwrap_or_default();
    // The time that is left changes.
    status.split("; ").filter(|part| !part.starts_with("ttl=")).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn a_stored_response_needs_no_backend() {
    let (backend, proxy) = caching(FRESH, "cache = true\n").await;
    let first = get(&proxy, "/a?b=c", "").await;
    assert_eq!(
        (first.text().as_str(), cache_status(&first).as_str()),
        ("body 1", "moorline; fwd=uri-miss; stored")
    );
    let second = get(&proxy, "/a?b=c", "").await;
    assert_eq!(
        (second.text().as_str(), cache_status(&second).as_str()),
        ("body 1", "moorline; hit")
    );
    assert!(second.header("age").is_some() && second.header("date").is_some());
    let id = second.header("x-request-id").unwrap();
    let line = proxy.wait_for_log("the line", |line| line["id"] == id).await;
    assert_eq!((&line["status"], &line["backend"]), (&200.into(), &serde_json::Value::Null));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn other_targets_hosts_and_schemes_are_other_responses() {
    let (backend, proxy) = caching(FRESH, "cache = true\n").await;
    for (number, request) in [
        "GET /a HTTP/1.1\r\nHost: one.test\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: two.test\r\n\r\n",
        "GET /A HTTP/1.1\r\nHost: one.test\r\n\r\n",
        "GET /a? HTTP/1.1\r\nHost: one.test\r\n\r\n",
        "GET /a?x=1 HTTP/1.1\r\nHost: one.test\r\n\r\n",
    ]
    .iter()
    .enumerate()
    {
        let reply = Raw::ask(proxy.web(), *request).await;
        assert_eq!(reply.text(), format!("body {}", number + 1), "{request}");
    }
    let again = Raw::ask(proxy.web(), "GET /a HTTP/1.1\r\nHost: ONE.test\r\n\r\n").await;
    assert_eq!(again.text(), "body 1");
    drop(backend);
    proxy.finish().await;
}

/// A client behind a trusted proxy that does not remove these fields cannot put a foreign host into a page of others.
#[tokio::test]
async fn forwarding_fields_of_trusted_proxies_select_the_response() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend = Backend::answering(move |_| {
        let number = 1 + count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        message::reply("200 OK", FRESH, &format!("body {number}"))
    })
    .await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.top("trusted_proxies", "[\"127.0.0.1\"]");
        settings.table("[[routes]]\npool = \"app\"\ncache = true\n");
    });
    let proxy = setup.start().await;
    for (fields, body) in [
        ("", "body 1"),
        ("X-Forwarded-Host: evil.test\r\n", "body 2"),
        ("X-Forwarded-Port: 81\r\n", "body 3"),
        ("Forwarded: for=192.0.2.1;host=other.test\r\n", "body 4"),
        ("", "body 1"),
        ("X-Forwarded-Host: evil.test\r\n", "body 2"),
        ("X-Forwarded-For: 192.0.2.1\r\n", "body 1"),
    ] {
        assert_eq!(get(&proxy, "/", fields).await.text(), body, "{fields}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn responses_for_one_client_are_not_stored() {
    for fields in [
        "Cache-Control: max-age=600, private\r\n",
        "Cache-Control: max-age=600\r\nSet-Cookie: session=secret\r\n",
        "Cache-Control: max-age=600\r\nVary: *\r\n",
        "Cache-Control: max-age=600\r\nVary: X-Forwarded-Host\r\n",
        "Cache-Control: max-age=600\r\nVary: X-Client-Cert-Subject\r\n",
        "Cache-Control: max-age=600\r\nVary: X_Client_Cert_Fingerprint\r\n",
        "Cache-Control: no-store\r\n",
        "",
    ] {
        let (backend, proxy) = caching(fields, "cache = true\n").await;
        assert_eq!(second(&proxy, "/", "").await, "body 2", "{fields}");
        drop(backend);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_request_with_credentials_gets_and_gives_nothing_that_is_not_public() {
    let (backend, proxy) = caching(FRESH, "cache = true\n").await;
    assert_eq!(second(&proxy, "/", "Authorization: Bearer x\r\n").await, "body 2");
    assert_eq!(get(&proxy, "/", "").await.text(), "body 3", "nothing was stored");
    drop(backend);
    proxy.finish().await;
    let (backend, proxy) =
        caching("Cache-Control: public, max-age=600\r\n", "cache = true\n").await;
    assert_eq!(second(&proxy, "/", "Authorization: Bearer x\r\n").await, "body 1");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn engine_io_and_websockets_pass() {
    let (backend, proxy) = caching(FRESH, "cache = true\n").await;
    let target = handshake_target("t0");
    let request = message::get(&target, "");
    let first = Raw::ask(proxy.web(), request.clone()).await;
    let second = Raw::ask(proxy.web(), request).await;
    assert_eq!((first.text().as_str(), second.text().as_str()), ("body 1", "body 2"));
    assert_eq!(second.header("cache-status"), None);
    Raw::ask(proxy.web(), websocket::request("/", "")).await;
    assert_eq!(backend.requests().len(), 3);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn vary_selects_and_its_responses_are_bounded() {
    let (backend, proxy) =
        caching("Cache-Control: max-age=600\r\nVary: X-Kind\r\n", "cache = true\n").await;
    assert_eq!(second(&proxy, "/", "X-Kind: a\r\n").await, "body 1");
    assert_eq!(second(&proxy, "/", "X-Kind: b\r\n").await, "body 2");
    assert_eq!(second(&proxy, "/", "").await, "body 3");
    assert_eq!(get(&proxy, "/", "X-Kind: a\r\n").await.text(), "body 1");
    for kind in 0..40 {
        get(&proxy, "/", &format!("X-Kind: {kind}\r\n")).await;
    }
    assert_eq!(get(&proxy, "/", "X-Kind: a\r\n").await.text(), "body 44", "the oldest made room");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_part_of_a_stored_response_is_a_206_and_a_part_alone_is_not_stored() {
    let (backend, proxy) =
        caching("Cache-Control: max-age=600\r\nETag: \"x\"\r\n", "cache = true\n").await;
    assert_eq!(second(&proxy, "/part", "Range: bytes=0-1\r\n").await, "body 2");
    get(&proxy, "/", "").await;
    for (range, status, body, content_range) in [
        ("bytes=0-3", 206, "body", Some("bytes 0-3/6")),
        ("bytes=-1", 206, "3", Some("bytes 5-5/6")),
        ("bytes=9-", 416, "", Some("bytes */6")),
        ("bytes=0-0,2-3", 200, "body 3", None),
        ("lines=0-3", 200, "body 3", None),
    ] {
        let reply = get(&proxy, "/", &format!("Range: {range}\r\n")).await;
        assert_eq!((reply.status(), reply.text().as_str()), (status, body), "{range}");
        assert_eq!(reply.header("content-range"), content_range, "{range}");
    }
    let changed = get(&proxy, "/", "Range: bytes=0-3\r\nIf-Range: \"y\"\r\n").await;
    assert_eq!((changed.status(), changed.text().as_str()), (200, "body 3"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_has_the_response_gets_a_304() {
    let (backend, proxy) =
        caching("Cache-Control: max-age=600\r\nETag: \"x\"\r\n", "cache = true\n").await;
    get(&proxy, "/", "").await;
    for (tag, status) in
        [("\"x\"", 304), ("W/\"x\"", 304), ("\"a\", \"x\"", 304), ("*", 304), ("\"y\"", 200)]
    {
        let reply = get(&proxy, "/", &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((reply.status(), reply.header("etag")), (status, Some("\"x\"")), "{tag}");
    }
    assert_eq!(backend.requests().len(), 1);
    drop(backend);
    proxy.finish().await;
}

/// Otherwise the backend could answer with a part of another version than that of which the client has the beginning.
#[tokio::test]
async fn a_range_of_a_stale_response_keeps_its_condition() {
    let backend = Backend::answering(|request| match request.header("if-range") {
        Some("\"v1\"") => message::reply("200 OK", "ETag: \"v2\"\r\n", "new version"),
        _ => message::reply("200 OK", "ETag: \"v1\"\r\nCache-Control: max-age=0\r\n", "stored"),
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    get(&proxy, "/", "").await;
    let reply = get(&proxy, "/", "Range: bytes=3-\r\nIf-Range: \"v1\"\r\n").await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "new version"));
    let seen = backend.requests().pop().unwrap();
    assert_eq!(
        (seen.header("if-none-match"), seen.header("range")),
        (Some("\"v1\""), Some("bytes=3-"))
    );
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_half_closed_client_gets_the_response_that_it_waited_for() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "cache = true\n").await;
    let mut first = Raw::connect(proxy.web()).await;
    first.send(message::get("/slow", "")).await;
    let peer = backend.peer_for("/slow").await;
    let mut second = Raw::connect(proxy.web()).await;
    second.send(message::get("/slow", "")).await;
    second.finish().await;
    proxy.wait_for_metric("the wait", "moorline_cache_waits_total", |count| count > 0.0).await;
    peer.send(message::reply("200 OK", FRESH, "stored")).await;
    assert_eq!(first.response().await.text(), "stored");
    assert_eq!(second.response().await.text(), "stored");
    drop((first, second, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_stale_response_is_validated_and_renewed() {
    let backend = Backend::answering(|request| match request.header("if-none-match") {
        Some("\"x\"") => message::reply(
            "304 Not Modified",
            "ETag: \"x\"\r\nX-New: yes\r\nCache-Control: max-age=600\r\n",
            "",
        ),
        _ => message::reply("200 OK", "ETag: \"x\"\r\nCache-Control: max-age=0\r\n", "stored"),
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    get(&proxy, "/", "").await;
    let renewed = get(&proxy, "/", "").await;
    assert_eq!(
        (renewed.status(), renewed.text().as_str(), renewed.header("x-new")),
        (200, "stored", Some("yes"))
    );
    assert_eq!(cache_status(&renewed), "moorline; fwd=stale; fwd-status=304; stored");
    assert_eq!(cache_status(&get(&proxy, "/", "").await), "moorline; hit");
    assert_eq!(backend.requests().len(), 2);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_stale_response_replaces_an_error() {
    let backend = Backend::answering({
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => message::reply(
                "200 OK",
                "ETag: \"x\"\r\nCache-Control: max-age=0, stale-if-error=600\r\n",
                "old",
            ),
            1 => message::reply("503 Service Unavailable", "", "error"),
            // Not HTTP.
            _ => b"nonsense\r\n\r\n".to_vec(),
        }
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    for expected in
        ["moorline; fwd=uri-miss; stored", "moorline; hit; fwd-status=503", "moorline; hit"]
    {
        let reply = get(&proxy, "/", "").await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "old"));
        assert_eq!(cache_status(&reply), expected);
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_that_is_cut_or_too_large_is_not_stored() {
    let backend = Backend::answering(|request| match request.target() {
        "/large" => message::reply("200 OK", FRESH, &"x".repeat(5000)),
        _ => format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 9\r\nConnection: close\r\n\r\nabc")
            .into_bytes(),
    })
    .await;
    let proxy = routed(&backend, "cache = { max_entry = \"4KiB\" }\n").await;
    for _ in 0..2 {
        assert_eq!(get(&proxy, "/large", "").await.text().len(), 5000);
    }
    assert_eq!(backend.requests().len(), 2);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_post_removes_what_it_changes() {
    let backend = Backend::answering({
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |request| {
            let number = 1 + count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let location = if request.method() == "POST" { "Location: /b\r\n" } else { "" };
            message::reply("200 OK", &format!("{FRESH}{location}"), &format!("body {number}"))
        }
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    assert_eq!(get(&proxy, "/a", "").await.text(), "body 1");
    assert_eq!(get(&proxy, "/b", "").await.text(), "body 2");
    Raw::ask(proxy.web(), message::post("/a", "", "x")).await;
    assert_eq!(get(&proxy, "/a", "").await.text(), "body 4");
    assert_eq!(get(&proxy, "/b", "").await.text(), "body 5");
    drop(backend);
    proxy.finish().await;
}

/// Fields that select nothing by `Vary` must not reach what others get.
#[tokio::test]
async fn an_unkeyed_field_does_not_poison_a_response() {
    let backend = Backend::answering(|request| {
        let host = request.header("x-forwarded-host").unwrap_or_default();
        message::reply("200 OK", FRESH, &format!("<script src=//{host}/a.js>"))
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    let host = "X-Forwarded-Host: evil.test\r\nForwarded: host=evil.test\r\n";
    let first = get(&proxy, "/", host).await.text();
    let second = get(&proxy, "/", "").await.text();
    assert_eq!(first, second);
    assert!(!second.contains("evil"), "{second}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_head_request_stores_nothing_and_gets_what_is_stored() {
    let (backend, proxy) = caching(FRESH, "cache = true\n").await;
    let head = async || {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(b"HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
        client.head().await
    };
    head().await;
    assert_eq!(get(&proxy, "/", "").await.text(), "body 2");
    let stored = head().await;
    assert_eq!(stored.header("content-length"), Some("6"));
    assert_eq!(cache_status(&stored), "moorline; hit");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_large_body_is_whole_from_the_cache() {
    let body = "0123456789".repeat(40_000);
    let backend = Backend::answering(move |_| message::reply("200 OK", FRESH, &body)).await;
    let proxy = routed(&backend, "cache = true\n").await;
    get(&proxy, "/", "").await;
    let whole = get(&proxy, "/", "").await;
    assert_eq!((whole.text().len(), cache_status(&whole).as_str()), (400_000, "moorline; hit"));
    let part = get(&proxy, "/", "Range: bytes=100000-299999\r\n").await;
    assert_eq!((part.status(), part.text().len()), (206, 200_000));
    assert_eq!(backend.requests().len(), 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_purge_removes_what_it_names() {
    let backend = Backend::answering(|request| {
        let tag = request.target().trim_start_matches('/');
        message::reply("200 OK", &format!("{FRESH}Cache-Tag: all, {tag}\r\n"), "")
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    let fill = async || {
        for target in ["/a", "/b", "/c?d"] {
            get(&proxy, target, "").await;
        }
    };
    let purge =
        async |words: &[&str]| proxy.command(&[&["cache", "purge"], words].concat()).await.done();
    fill().await;
    let state = proxy.command(&["cache"]).await.done();
    assert_eq!(state, "stored responses of 3 URLs: 1 of 128 MiB\n");
    for (words, expected) in [
        (&["--url", "http://app.test/a"][..], "1 URL"),
        (&["--url", "http://app.test/"], "0 URLs"),
        (&["--prefix", "http://app.test/c"], "1 URL"),
        (&["--prefix", "https://app.test/"], "0 URLs"),
        (&["--tag", "b"], "1 URL"),
        (&["--tag", "all"], "3 URLs"),
        (&["--all"], "3 URLs"),
    ] {
        fill().await;
        let said = purge(words).await;
        assert_eq!(said, format!("removed the stored responses of {expected}\n"), "{words:?}");
    }
    assert_eq!(cache_status(&get(&proxy, "/a", "").await), "moorline; fwd=uri-miss; stored");
    assert_eq!(proxy.command(&["cache", "purge"]).await.code, 2);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn requests_for_one_response_go_to_the_backend_once() {
    let backend = Backend::manual().await;
    let proxy = routed(&backend, "cache = true\n").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(message::get("/", "")).await;
        clients.push(client);
    }
    let peer = backend.peer_for("/").await;
    peer.send(message::reply("200 OK", FRESH, "one")).await;
    for client in &mut clients {
        assert_eq!(client.response().await.text(), "one");
    }
    assert_eq!(backend.requests().len(), 1);
    drop((clients, peer, backend));
    proxy.finish().await;
}
