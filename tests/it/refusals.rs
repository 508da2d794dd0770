//! Requests that cannot be parsed, and connections without a request.

use serde_json::Value;

use crate::support::{Backend, End, Message, Proxy, Raw, message, proxy::Setup, tls::Certificate};

/// Asserts that the reply to a rejected request has a sentence and an id, and that it is logged with its status.
async fn assert_rejected(
    proxy: &Proxy,
    what: &str,
    reply: &Message,
    status: u16,
    termination: &str,
) {
    assert_eq!(reply.status(), status, "{what}");
    let text = reply.text();
    let id = reply.header("x-request-id").unwrap_or_else(|| panic!("{what}: no id")).to_owned();
    let (sentence, rest) = text.split_once('\n').unwrap_or_default();
    assert!(sentence.contains(' ') && sentence.ends_with('.'), "{what}: {text}");
    assert_eq!(rest, format!("Request id: {id}\n"), "{what}");
    let line = proxy.wait_for_log(what, |line| line["id"] == id.as_str()).await;
    assert_eq!(line["status"], status, "{what}: {line}");
    assert_eq!(line["termination"], termination, "{what}: {line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains(' ')), "{what}: {line}");
}

/// Creates a request with a number of fields besides `Host`.
fn with_fields(count: usize) -> String {
    let fields: String = (0..count).map(|n| format!("X-Field-{n}: a\r\n")).collect();
    format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")
}

#[tokio::test]
async fn fault_132_every_rejection_has_a_sentence_an_id_and_a_log_line() {
    let backend = Backend::replying("ok").await;
    let (proxy, certificate) = Proxy::plain_and_secure(backend.address).await;
    let malformed = "client_request_malformed";
    let host = "Host: app.test\r\n";
    let cases: Vec<(String, u16, &str)> = vec![
        (with_fields(100), 431, "client_request_header_too_large"),
        (
            format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(80_000)),
            431,
            "client_request_header_too_large",
        ),
        (format!("GET / HTTP/1.1\r\n{host} : nameless\r\n\r\n"), 400, malformed),
        (format!("GET / HTTP/1.1\r\n{host}no colon\r\n\r\n"), 400, malformed),
        (format!("GET / HTTP/1.1\r\n{host}Name : a\r\n\r\n"), 400, malformed),
        (format!("GET / HTTP/1.1\r\n{host}A: b\0c\r\n\r\n"), 400, malformed),
        (format!("G@T / HTTP/1.1\r\n{host}\r\n"), 400, malformed),
        (format!("GET /a b HTTP/1.1\r\n{host}\r\n"), 400, malformed),
        (format!("GET /\x01 HTTP/1.1\r\n{host}\r\n"), 400, malformed),
        (format!("GET / HTTP/3.0\r\n{host}\r\n"), 505, "client_request_unsupported_version"),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
            505,
            "client_request_unsupported_version",
        ),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: x\r\n\r\n"), 400, malformed),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 5, 5\r\n\r\nhello"), 400, malformed),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n\r\n"), 400, malformed),
        (format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n"), 400, malformed),
    ];
    for secure in [false, true] {
        for (request, status, termination) in &cases {
            let mut client = match secure {
                false => Raw::connect(proxy.web()).await,
                true => Raw::tls(proxy.listener("secure"), &certificate).await,
            };
            client.try_send(request).await;
            let reply = client.response().await;
            let what: String = request.chars().take(60).collect();
            assert_rejected(&proxy, &what, &reply, *status, termination).await;
            client.finish().await;
            assert_eq!(client.assert_closed().await, End::Fin, "{what}: the reply is complete");
        }
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_132_the_log_line_of_a_rejected_request_has_its_method_and_target() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let reply =
        Raw::ask(proxy.web(), "PUT /files/7?token=s3cr3t HTTP/1.1\r\nno colon\r\n\r\n").await;
    assert_eq!(reply.status(), 400);
    let line = proxy.wait_for_log("the line", |line| line["status"] == 400).await;
    assert_eq!((&line["method"], &line["path"]), (&"PUT".into(), &"/files/7?token=-".into()));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_132_a_rejection_follows_the_responses_to_earlier_requests() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let good = String::from_utf8(message::get("/", "")).unwrap();
    client.send(format!("{good}{good}GET / HTTP/1.1\r\nno colon\r\n\r\n")).await;
    assert_eq!(client.response().await.text(), "ok");
    assert_eq!(client.response().await.text(), "ok");
    let reply = client.response().await;
    assert_rejected(&proxy, "the third", &reply, 400, "client_request_malformed").await;
    client.finish().await;
    client.assert_closed().await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn header_limits_of_a_listener_are_settable() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.listener("header_size", "\"256KiB\"").listener("header_fields", "300");
    })
    .await;
    assert_eq!(Raw::ask(proxy.web(), with_fields(298)).await.status(), 200);
    let large = format!("X: {}\r\n", "a".repeat(150_000));
    assert_eq!(Raw::ask(proxy.web(), message::get("/", &large)).await.status(), 200);
    let mut client = Raw::connect(proxy.web()).await;
    client.try_send(with_fields(300)).await;
    assert_eq!(client.response().await.status(), 431);
    let mut client = Raw::connect(proxy.web()).await;
    client.try_send(message::get(&format!("/{}", "a".repeat(100_000)), "")).await;
    let reply = client.response().await;
    assert_rejected(&proxy, "a long target", &reply, 414, "client_request_target_too_long").await;
    drop(client);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn half_a_header_at_the_deadline_gets_408_and_a_log_line() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).listener("header_timeout", "\"300ms\"");
    })
    .await;
    let mut kept = Raw::connect(proxy.web()).await;
    kept.send(message::get("/", "")).await;
    assert_eq!(kept.response().await.text(), "ok");
    kept.send("GET /kept HTTP/1.1\r\nHo").await;
    let mut fresh = Raw::connect(proxy.web()).await;
    fresh.send("GET /fresh").await;
    for client in [&mut kept, &mut fresh] {
        let reply = client.response().await;
        let id = reply.header("x-request-id").unwrap().to_owned();
        assert_eq!(reply.status(), 408);
        assert!(reply.text().contains(&id), "{}", reply.text());
        let line = proxy.wait_for_log("a line", |line| line["id"] == id.as_str()).await;
        assert_eq!(line["status"], 408);
        assert_eq!(line["termination"], "client_request_timed_out");
        assert!(line["duration_ms"].as_f64().unwrap() >= 300.0, "{line}");
        client.finish().await;
        client.assert_closed().await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn an_incomplete_header_gets_400_and_a_log_line() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send("GET /half HTTP/1.1\r\nHo").await;
    client.finish().await;
    let reply = client.response().await;
    assert_rejected(&proxy, "half a header", &reply, 400, "client_request_incomplete").await;
    // A connection without a byte is not logged as a request: balancers probe ports like this.
    let mut probe = Raw::connect(proxy.web()).await;
    probe.finish().await;
    probe.assert_closed().await;
    let before = proxy.log_lines().len();
    assert_eq!(Raw::ask(proxy.web(), message::get("/after", "")).await.status(), 200);
    proxy.wait_for_log("the next line", |line| line["path"] == "/after").await;
    assert_eq!(proxy.log_lines().len(), before + 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_keep_alive_and_not_for_header_timeout() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.listener("header_timeout", "\"300ms\"").listener("keep_alive", "\"1h\"");
    })
    .await;
    let mut idle = Raw::connect(proxy.web()).await;
    idle.send(message::get("/first", "")).await;
    assert_eq!(idle.response().await.text(), "ok");
    // Opened after the first one has become idle: once this one is closed, the deadline has passed.
    let mut silent = Raw::connect(proxy.web()).await;
    silent.assert_closed().await;
    idle.send(message::get("/second", "")).await;
    assert_eq!(idle.response().await.text(), "ok");
    drop((idle, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keep_alive_without_a_reply() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.listener("header_timeout", "\"1h\"").listener("keep_alive", "\"300ms\"");
    })
    .await;
    let mut idle = Raw::connect(proxy.web()).await;
    for _ in 0..2 {
        idle.send(message::get("/", "")).await;
        assert_eq!(idle.response().await.text(), "ok");
    }
    assert_eq!(idle.assert_closed().await, End::Fin);
    assert!(proxy.log_lines().iter().all(|line| line["status"] == 200));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_handshake_that_times_out_is_logged_with_its_duration() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let certificate = Certificate::make(setup.directory(), "app.test");
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).listener("protocol", "\"https\"");
            settings.listener("certificates", &certificate.setting());
            settings.listener("handshake_timeout", "\"300ms\"");
        })
        .start()
        .await;
    let mut stuck = Raw::connect(proxy.web()).await;
    stuck.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    stuck.rest().await;
    let timed_out = |line: &Value| line["termination"] == "client_handshake_timed_out";
    let line = proxy.wait_for_log("the handshake's line", timed_out).await;
    assert!(line["duration_ms"].as_f64().unwrap() >= 300.0, "{line}");
    drop(backend);
    proxy.finish().await;
}
