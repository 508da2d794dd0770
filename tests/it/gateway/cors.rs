//! Cross-origin requests that the proxy answers.

use super::{get, routed};
use crate::support::{Backend, Message, Proxy, Raw, message};

const KEYS: &str = r#"
    [routes.cors]
    origins = ["https://app.test", "https://*.example.com"]
    methods = ["PUT"]
    headers = ["X-App", "Authorization"]
    expose = ["X-Total"]
    credentials = true
"#;

async fn preflight(proxy: &Proxy, origin: &str, method: &str) -> Message {
    let request = format!(
        "OPTIONS /x HTTP/1.1\r\nHost: app.test\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: x-app\r\n\r\n"
    );
    Raw::ask(proxy.web(), request).await
}

#[tokio::test]
async fn a_preflight_does_not_reach_the_backend() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, KEYS).await;
    let reply = preflight(&proxy, "https://a.example.com", "PUT").await;
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.all("access-control-allow-origin"), ["https://a.example.com"]);
    assert_eq!(reply.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("X-App, Authorization"));
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(reply.header("access-control-max-age"), Some("600"));
    for (origin, method) in [("https://evil.test", "PUT"), ("https://app.test", "DELETE")] {
        let reply = preflight(&proxy, origin, method).await;
        assert_eq!((reply.status(), reply.header("access-control-allow-methods")), (204, None));
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_response_has_one_grant() {
    let backend = Backend::answering(|_| {
        let fields = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nVary: Accept\r\n";
        message::reply("200 OK", fields, "ok")
    })
    .await;
    let proxy = routed(&backend, KEYS).await;
    let reply = get(&proxy, "/", "Origin: https://app.test\r\n").await;
    assert_eq!(reply.all("access-control-allow-origin"), ["https://app.test"]);
    assert_eq!(reply.all("access-control-allow-credentials"), ["true"]);
    assert_eq!(reply.header("access-control-expose-headers"), Some("X-Total"));
    assert_eq!(reply.all("vary"), ["Accept", "Origin"]);
    let reply = get(&proxy, "/", "Origin: https://evil.test\r\n").await;
    assert!(reply.all("access-control-allow-origin").is_empty());
    assert!(reply.all("access-control-allow-credentials").is_empty());
    assert_eq!(reply.all("vary"), ["Accept", "Origin"]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn an_error_reply_follows_the_grant() {
    let backend = Backend::replying("ok").await;
    let keys = format!("max_body = 1\n{KEYS}");
    let proxy = routed(&backend, &keys).await;
    for (origin, expected) in
        [("https://app.test", Some("https://app.test")), ("https://evil.test", None)]
    {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nOrigin: {origin}\r\nContent-Length: 2\r\n\r\nab"
        );
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!(reply.status(), 413);
        assert_eq!(reply.header("access-control-allow-origin"), expected);
    }
    drop(backend);
    proxy.finish().await;
}
