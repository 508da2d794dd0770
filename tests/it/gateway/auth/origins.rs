//! Which pages may open sessions and WebSockets.

use super::{
    super::{get, routed},
    guarded,
    issuer::Issuer,
    logged, with_route,
};
use crate::support::{Backend, Proxy, Raw, node::handshake_target, websocket};

/// The status of a WebSocket handshake and of a handshake by polling.
async fn statuses(proxy: &Proxy, fields: &str) -> (u16, u16) {
    let upgrade = Raw::ask(proxy.web(), websocket::request("/ws", fields)).await.status();
    (upgrade, get(proxy, &handshake_target("t0"), fields).await.status())
}

#[tokio::test]
async fn only_pages_of_the_host_use_credentials_that_browsers_add() {
    let (issuer, backend) = (Issuer::new(), Backend::start(websocket::echo()).await);
    let proxy =
        guarded(&issuer, &backend, "token = [\"cookie:id\", \"query:token\", \"header\"]").await;
    let token = issuer.valid("anna");
    let cookie = format!("Cookie: id={token}\r\n");
    let (own, foreign) = ("Origin: https://app.test\r\n", "Origin: https://evil.test\r\n");
    for (origin, allowed) in [
        ("", true),
        (own, true),
        ("Origin: http://APP.test:80\r\n", true),
        (foreign, false),
        ("Origin: null\r\n", false),
        ("Origin: https://app.test.evil.test\r\n", false),
        ("Origin: https://app.test\r\nOrigin: https://app.test\r\n", false),
    ] {
        let (upgrade, polling) = statuses(&proxy, &format!("{cookie}{origin}")).await;
        assert_eq!((upgrade == 403, polling == 403), (!allowed, !allowed), "{origin}");
        assert!(!allowed || upgrade == 101, "{upgrade}");
    }
    let reply = get(&proxy, &handshake_target("t0"), &format!("{cookie}{foreign}")).await;
    let line = logged(&proxy, &reply).await;
    assert_eq!(line["termination"], "proxy_select_origin_denied");
    let reason = "a page of https://evil.test may not use a cookie of this host; add the origin to `origins`";
    assert!(line["error"].as_str().unwrap().contains(reason), "{line}");
    // Any page can send a credential that it knows, and other requests have other means (SameSite, CORS).
    let bearer = format!("Authorization: Bearer {token}\r\n{foreign}");
    assert_eq!(statuses(&proxy, &bearer).await.0, 101);
    let target = format!("/ws?token={token}");
    assert_eq!(Raw::ask(proxy.web(), websocket::request(&target, foreign)).await.status(), 101);
    assert_ne!(get(&proxy, "/page", &format!("{cookie}{foreign}")).await.status(), 403);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn origins_of_the_route_decide_with_and_without_credentials() {
    let (issuer, backend) = (Issuer::new(), Backend::start(websocket::echo()).await);
    let cookie = format!("Cookie: id={}\r\n", issuer.valid("anna"));
    let keys = "token = \"cookie:id\"";
    let origin = |host: &str| format!("{cookie}Origin: https://{host}\r\n");
    let route = "origins = [\"https://*.example.org\", \"same-host\"]";
    for proxy in [with_route(&issuer, &backend, keys, route).await, routed(&backend, route).await] {
        for (host, allowed) in [("a.example.org", true), ("app.test", true), ("evil.test", false)] {
            let (upgrade, polling) = statuses(&proxy, &origin(host)).await;
            assert_eq!((upgrade == 101, polling != 403), (allowed, allowed), "{host}");
        }
        let reply = get(&proxy, &handshake_target("t0"), &origin("evil.test")).await;
        let line = logged(&proxy, &reply).await;
        assert!(
            line["error"].as_str().unwrap().contains("not in `origins` of the route"),
            "{line}"
        );
        proxy.finish().await;
    }
    // A page that may read responses with credentials may open sessions; `"*"` lets every page.
    let cors = "cors = { origins = \"https://a.test\", credentials = true }";
    let proxy = with_route(&issuer, &backend, keys, cors).await;
    assert_eq!(statuses(&proxy, &origin("a.test")).await.0, 101);
    assert_eq!(statuses(&proxy, &origin("b.test")).await.0, 403);
    proxy.finish().await;
    let proxy = with_route(&issuer, &backend, keys, "origins = \"*\"").await;
    assert_eq!(statuses(&proxy, &origin("b.test")).await.0, 101);
    drop(backend);
    proxy.finish().await;
}
