//! Pools whose backends come from a list over HTTP.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    discovery::{
        PARTLY_UNUSED, SOURCE_FAILS, SOURCE_RECOVERS, answering_backend, assert_answered_by,
        count_lines, node,
    },
    support::{
        Backend, Proxy, backend, eventually, message, proxy::Setup, tls::Certificate, wait_for,
    },
};

/// An HTTP server with a list of backends that a test can change.
struct ListServer {
    backend: Backend,
    reply: Arc<Mutex<Vec<u8>>>,
}

impl ListServer {
    async fn start(reply: Vec<u8>) -> Self {
        let reply = Arc::new(Mutex::new(reply));
        let current = Arc::clone(&reply);
        let backend = Backend::answering(move |_| current.lock().unwrap().clone()).await;
        Self { backend, reply }
    }

    fn set_reply(&self, reply: Vec<u8>) {
        *self.reply.lock().unwrap() = reply;
    }

    fn source(&self) -> String {
        let address = self.backend.address;
        format!(
            "{{ http = \"http://{address}/nodes?up\", interval = \"500ms\", timeout = \"500ms\" }}"
        )
    }
}

async fn proxy_by_list(source: &str) -> Proxy {
    Proxy::with(|settings| {
        settings.pool("backends", source).pool("balance", "\"round-robin\"");
    })
    .await
}

#[tokio::test]
async fn a_list_over_http_is_polled() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let list = ListServer::start(message::ok(&format!("[\"{}\"]", a.address))).await;
    let proxy = proxy_by_list(&list.source()).await;
    assert_answered_by(&proxy, &["a"]).await;
    let request = list.backend.requests()[0].clone();
    assert_eq!(request.target(), "/nodes?up");
    assert_eq!(request.header("host"), Some(list.backend.address.to_string().as_str()));
    list.set_reply(message::ok(&format!(
        "{{\"backends\": [{{\"address\": \"{}\", \"name\": \"second\", \"weight\": 2}}]}}",
        b.address
    )));
    assert_answered_by(&proxy, &["b"]).await;
    proxy.wait_for_log("the backend's name", |line| line["backend"] == "second").await;
    // An answer of Consul. A service without an address has the address of its node.
    let consul = format!(
        "[{{\"Node\": {{\"Node\": \"n1\", \"Address\": \"127.0.0.1\"}}, \"Service\": {{\"ID\": \"chat-1\", \
          \"Service\": \"chat\", \"Address\": \"\", \"Port\": {}, \"Weights\": {{\"Passing\": 1}}}}, \
          \"Checks\": []}}]",
        a.address.port()
    );
    list.set_reply(message::ok(&consul));
    assert_answered_by(&proxy, &["a"]).await;
    proxy.wait_for_log("the service id", |line| line["backend"] == "chat-1@n1").await;
    // The list has not changed.
    list.set_reply(message::reply("200 OK", "ETag: \"v1\"\r\n", &format!("[\"{}\"]", b.address)));
    assert_answered_by(&proxy, &["b"]).await;
    list.set_reply(message::reply("304 Not Modified", "ETag: \"v1\"\r\n", ""));
    let has_tag = |request: &message::Message| request.header("if-none-match") == Some("\"v1\"");
    eventually("requests with the tag", || {
        list.backend.requests().iter().filter(|request| has_tag(request)).count() > 2
    })
    .await;
    assert_answered_by(&proxy, &["b"]).await;
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    drop((a, b, list));
    proxy.finish().await;
}

#[tokio::test]
async fn an_invalid_entry_of_a_list_does_not_affect_the_others() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let list = ListServer::start(message::ok(&format!("[\"{}\", 7]", a.address))).await;
    let proxy = proxy_by_list(&list.source()).await;
    assert_answered_by(&proxy, &["a"]).await;
    let line = proxy.wait_for_stderr("the warning", |line| line.contains(PARTLY_UNUSED)).await;
    assert!(line.contains("entry 2 is not used"), "{line}");
    list.set_reply(message::ok(&format!("[\"nowhere\", \"{}\", \"{}\"]", a.address, b.address)));
    assert_answered_by(&proxy, &["a", "b"]).await;
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    drop((a, b, list));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_087_a_list_that_fails_changes_nothing() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let (one, other) = (format!("[\"{}\"]", a.address), format!("[\"{}\"]", b.address));
    let list = ListServer::start(message::ok(&one)).await;
    let proxy = proxy_by_list(&list.source()).await;
    assert_answered_by(&proxy, &["a"]).await;
    let huge = format!("[\"{}\"{}]", b.address, " ".repeat(1 << 20));
    let elsewhere = format!("Location: http://{}/\r\n", list.backend.address);
    let failures = [
        (message::reply("500 Oops", "", &other), "expected status 200, got 500"),
        (message::reply("302 Found", &elsewhere, &other), "redirects are not followed"),
        (message::ok(&huge), "longer than 1 MiB"),
        (message::ok("[7, \"127.0.0.1\"]"), "entry 1 is not used"),
        (message::ok("<html>"), "not JSON"),
        (message::ok("[]"), "no backend"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec(), "end of file"),
        (b"no HTTP\r\n\r\n".to_vec(), SOURCE_FAILS),
        (Vec::new(), SOURCE_FAILS),
    ];
    for (rounds, (reply, why)) in failures.into_iter().enumerate() {
        list.set_reply(reply);
        let line = wait_for(why, || {
            proxy.stderr().into_iter().filter(|line| line.contains(SOURCE_FAILS)).nth(rounds)
        })
        .await;
        assert!(line.contains(why), "{why}: {line}");
        assert_answered_by(&proxy, &["a"]).await;
        list.set_reply(message::ok(&one));
        eventually(why, || count_lines(&proxy, SOURCE_RECOVERS) == rounds + 1).await;
    }
    drop((a, b, list));
    proxy.finish().await;
}

#[tokio::test]
async fn a_slow_list_ends_at_the_deadline() {
    let slow = Backend::start(backend::script(|peer| async move {
        if peer.request().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n[").await;
            while !peer.is_ended() {
                peer.send(" ").await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }))
    .await;
    let source = format!("{{ http = \"http://{}/\", interval = \"300ms\" }}", slow.address);
    let proxy = proxy_by_list(&source).await;
    let line = proxy.wait_for_stderr("the failure", |line| line.contains(SOURCE_FAILS)).await;
    assert!(line.contains("no complete answer in time"), "{line}");
    slow.ended(0).await;
    drop(slow);
    proxy.finish().await;
}

#[tokio::test]
async fn at_most_1024_backends_of_a_list_are_used() {
    let all: Vec<String> =
        (0..10_000).map(|n| format!("\"127.1.{}.{}:9\"", n / 250, n % 250 + 1)).collect();
    let list = ListServer::start(message::ok(&format!("[{}]", all.join(",")))).await;
    let source = list.source().replace("timeout = \"500ms\"", "timeout = \"5s\"");
    let proxy = proxy_by_list(&source.replace("interval = \"500ms\"", "interval = \"5s\"")).await;
    proxy
        .wait_for_stderr("the limit", |line| line.contains("only 1024 of 10000 backends are used"))
        .await;
    let up = "moorline_backend_up{";
    proxy.wait_for_metric("1024 backends", up, |count| count == 1024.0).await;
    drop(list);
    proxy.finish().await;
}

#[tokio::test]
async fn a_list_over_https_needs_a_certificate_that_the_system_trusts() {
    let a = Backend::start(node("a")).await;
    let list = ListServer::start(message::ok(&format!("[\"{}\"]", a.address))).await;
    // A second proxy serves the list over TLS.
    let setup = Setup::new();
    let certificate = Certificate::make(setup.directory(), "localhost");
    let setting = certificate.setting();
    let front = setup
        .with(|settings| {
            settings.backends(&[list.backend.address]);
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {setting}\n"
            ));
        })
        .start()
        .await;
    let port = front.listener("secure").port();
    let source = format!("{{ http = \"https://localhost:{port}/nodes\", interval = \"300ms\" }}");
    let trusting = Setup::new().env("SSL_CERT_FILE", certificate.cert.display().to_string());
    let trusting = trusting.with(|settings| {
        settings.pool("backends", &source);
    });
    let trusting = trusting.start().await;
    assert_answered_by(&trusting, &["a"]).await;
    trusting.finish().await;
    let distrusting = proxy_by_list(&source).await;
    let line = distrusting.wait_for_stderr("the refusal", |line| line.contains(SOURCE_FAILS)).await;
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(answering_backend(&distrusting).await, "503");
    distrusting.finish().await;
    drop((a, list));
    front.finish().await;
}
