//! Keys from a URL, and keys that change.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{super::get, guarded, issuer::Issuer};
use crate::support::{Backend, Message, Proxy, Raw, backend, message, proxy::Setup};

/// A server of keys: what it answers can change.
struct KeyServer {
    backend: Backend,
    answer: Arc<Mutex<Vec<u8>>>,
    count: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(keys: &[&Issuer]) -> Self {
        let (answer, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (shown, counted) = (Arc::clone(&answer), Arc::clone(&count));
        let script = backend::answering(move |_: &Message| {
            counted.fetch_add(1, Ordering::SeqCst);
            shown.lock().unwrap().clone()
        });
        let server = Self { backend: Backend::start(script).await, answer, count };
        server.publish(keys);
        server
    }

    fn publish(&self, keys: &[&Issuer]) {
        let keys: Vec<Value> = keys.iter().map(|issuer| issuer.jwk()).collect();
        self.answer(message::ok(&json!({ "keys": keys }).to_string()));
    }

    fn answer(&self, answer: Vec<u8>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

async fn with_url(url: &str, backend: &Backend, keys: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\n[routes.auth.jwt]\njwks = \"{url}\"\nissuer = \"https://id.test\"\n\
             audience = \"chat\"\n{keys}\n"
        ));
    });
    setup.start().await
}

async fn status(proxy: &Proxy, token: &str) -> u16 {
    get(proxy, "/", &format!("Authorization: Bearer {token}\r\n")).await.status()
}

#[tokio::test]
async fn the_metadata_of_a_provider_names_its_keys() {
    let (issuer, backend) = (Issuer::named("one"), Backend::replying("ok").await);
    let server = KeyServer::start(&[]).await;
    let own = format!("http://{}", server.backend.address);
    let metadata = |issuer_url: &str, keys: &str| {
        message::ok(
            &json!({ "issuer": issuer_url, "jwks_uri": keys, "keys": [issuer.jwk()] }).to_string(),
        )
    };
    let proxy = with_url(&format!("{own}/.well-known/openid-configuration"), &backend, "").await;
    server.answer(metadata("https://other.test", &own));
    assert_eq!(status(&proxy, &issuer.valid("anna")).await, 503);
    proxy.finish().await;
    let proxy = with_url(&format!("{own}/.well-known/openid-configuration"), &backend, "").await;
    server.answer(metadata(&own, &format!("{own}/jwks.json")));
    assert_eq!(status(&proxy, &issuer.valid("anna")).await, 200);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn keys_from_a_url_are_fetched_once_and_rotate() {
    let (old, new) = (Issuer::named("old"), Issuer::named("new"));
    let (server, backend) = (KeyServer::start(&[&old]).await, Backend::replying("ok").await);
    let url = format!("http://{}/jwks.json", server.backend.address);
    let proxy = with_url(&url, &backend, "").await;
    assert_eq!(server.count(), 0);
    // Requests at once share one fetch.
    let tokens: Vec<String> = (0..8).map(|n| old.valid(&format!("user-{n}"))).collect();
    let asked = tokens.iter().map(|token| status(&proxy, token));
    let statuses = all(asked).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(server.count(), 1);
    // An unknown key id: fetched again, once in 30 seconds.
    server.publish(&[&new, &old]);
    assert_eq!(status(&proxy, &new.valid("anna")).await, 200);
    assert_eq!((status(&proxy, &old.valid("anna")).await, server.count()), (200, 2));
    for n in 0..5 {
        let invented = Issuer::named(["a", "b", "c", "d", "e"][n]);
        assert_eq!(status(&proxy, &invented.valid("anna")).await, 401);
    }
    assert_eq!(server.count(), 2);
    drop((backend, server));
    proxy.finish().await;
}

#[tokio::test]
async fn keys_stay_in_use_if_their_server_lies_or_fails() {
    let issuer = Issuer::new();
    let (server, backend) = (KeyServer::start(&[&issuer]).await, Backend::replying("ok").await);
    let url = format!("http://{}/", server.backend.address);
    let proxy = with_url(&url, &backend, "refresh = \"1ms\"\ntimeout = \"300ms\"").await;
    let token = issuer.valid("anna");
    assert_eq!(status(&proxy, &token).await, 200);
    for lie in [
        message::ok("{\"keys\":[]}"),
        message::ok("<html>"),
        message::ok(&format!("{{\"keys\":[{}]}}", "{},".repeat(100_000))),
        message::ok(
            r#"{"keys":[{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#,
        ),
        message::reply("302 Found", "Location: http://127.0.0.1:1/\r\n", ""),
        message::reply("500 Internal Server Error", "", ""),
        b"garbage".to_vec(),
    ] {
        server.answer(lie);
        let before = server.count();
        while server.count() == before {
            assert_eq!(status(&proxy, &token).await, 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(status(&proxy, &token).await, 200);
    drop((backend, server));
    proxy.finish().await;
}

#[tokio::test]
async fn without_keys_every_token_is_refused_in_time() {
    // This server accepts connections and never answers.
    let (silent, backend) = (Backend::manual().await, Backend::replying("ok").await);
    let url = format!("http://{}/", silent.address);
    let proxy = with_url(&url, &backend, "timeout = \"200ms\"").await;
    let token = Issuer::new().valid("anna");
    let began = Instant::now();
    let fields = format!("Authorization: Bearer {token}\r\n");
    let reply = get(&proxy, "/", &fields).await;
    assert_eq!((reply.status(), reply.header("retry-after")), (503, Some("5")));
    assert!(began.elapsed() >= Duration::from_millis(200));
    let line = super::logged(&proxy, &reply).await;
    assert_eq!(line["termination"], "proxy_select_auth_unavailable");
    // A request without a token does not wait.
    assert_eq!(get(&proxy, "/", "").await.status(), 401);
    backend.assert_untouched();
    drop((backend, silent));
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_fetch_of_others() {
    let (silent, backend) = (Backend::manual().await, Backend::replying("ok").await);
    let issuer = Issuer::new();
    let url = format!("http://{}/", silent.address);
    let proxy = with_url(&url, &backend, "timeout = \"10s\"").await;
    let request = message::get("/", &format!("Authorization: Bearer {}\r\n", issuer.valid("anna")));
    let mut first = Raw::connect(proxy.web()).await;
    first.send(&request).await;
    let peer = silent.peer(0).await;
    peer.head().await.unwrap();
    let mut second = Raw::connect(proxy.web()).await;
    second.send(&request).await;
    drop(first);
    let left = |line: &Value| line["termination"] == "client_select_incomplete";
    proxy.wait_for_log("the client that has left", left).await;
    peer.send(message::ok(&json!({ "keys": [issuer.jwk()] }).to_string())).await;
    assert_eq!(second.response().await.status(), 200);
    drop((second, backend, silent));
    proxy.finish().await;
}

#[tokio::test]
async fn a_changed_key_file_takes_effect() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let backend = Backend::replying("ok").await;
    let proxy = guarded(&old, &backend, "").await;
    let (before, after) = (old.valid("anna"), new.valid("anna"));
    assert_eq!((status(&proxy, &before).await, status(&proxy, &after).await), (200, 401));
    std::fs::write(proxy.directory().join("keys.pem"), new.public_key()).unwrap();
    while status(&proxy, &after).await != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Tokens of the old key are no longer valid, even if they were verified before.
    assert_eq!(status(&proxy, &before).await, 401);
    drop(backend);
    proxy.finish().await;
}

/// Runs requests at once.
async fn all<F: Future<Output = u16>>(asked: impl Iterator<Item = F>) -> Vec<u16> {
    let mut pending: Vec<_> = asked.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        pending.retain_mut(|asked| match asked.as_mut().poll(cx) {
            std::task::Poll::Ready(status) => {
                done.push(status);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
