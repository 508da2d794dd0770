//! Metrics of stored responses.

use super::FRESH;
use crate::{
    gateway::{get, routed},
    support::{Backend, Proxy, Raw, message, proxy::Setup},
};

async fn assert_counts(proxy: &Proxy, expected: &[(&str, f64)]) {
    let text = proxy.metrics().await;
    for (series, value) in expected {
        assert!(text.contains(&format!("moorline_cache_{series} {value}\n")), "{series}: {text}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_what_the_cache_did() {
    let backend = Backend::answering(|request| match (request.target(), request.method()) {
        ("/stale", _) => {
            message::reply("200 OK", "Cache-Control: max-age=0, stale-while-revalidate=9\r\n", "")
        }
        ("/tagged", _) if request.header("if-none-match").is_some() => {
            message::reply("304 Not Modified", "ETag: \"x\"\r\nCache-Control: max-age=9\r\n", "")
        }
        ("/tagged", _) => {
            message::reply("200 OK", "ETag: \"x\"\r\nCache-Control: max-age=0\r\n", "")
        }
        _ => message::reply("200 OK", FRESH, "x"),
    })
    .await;
    let proxy = routed(&backend, "cache = true\n").await;
    for target in ["/a", "/a", "/a", "/stale", "/stale", "/tagged", "/tagged"] {
        get(&proxy, target, "").await;
    }
    get(&proxy, "/none", "Cache-Control: only-if-cached\r\n").await;
    // Changes nothing that is counted.
    Raw::ask(proxy.web(), message::post("/b", "", "x")).await;
    proxy
        .wait_for_metric("the renewal", "moorline_cache_stored_total", |stored| stored == 5.0)
        .await;
    proxy.command(&["cache", "purge", "--url", "http://app.test/a"]).await.done();
    assert_counts(
        &proxy,
        &[
            ("requests_total{result=\"hit\"}", 2.0),
            ("requests_total{result=\"stale\"}", 1.0),
            ("requests_total{result=\"revalidated\"}", 1.0),
            ("requests_total{result=\"miss\"}", 4.0),
            ("renewals_total", 1.0),
            ("waits_total", 0.0),
            ("purges_total", 1.0),
            ("entries{store=\"memory\"}", 2.0),
        ],
    )
    .await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn responses_that_make_room_are_counted() {
    let body = "x".repeat(300_000);
    let backend = Backend::answering(move |_| message::reply("200 OK", FRESH, &body)).await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table("[[routes]]\npool = \"app\"\ncache = true\n[cache]\nmemory = \"1MiB\"\n");
    });
    let proxy = setup.start().await;
    for number in 0..6 {
        get(&proxy, &format!("/{number}"), "").await;
    }
    proxy
        .wait_for_metric("evictions", "moorline_cache_evictions_total", |count| count >= 3.0)
        .await;
    assert!(proxy.metric("moorline_cache_bytes{store=\"memory\"}").await <= 1_048_576.0);
    drop(backend);
    proxy.finish().await;
}
