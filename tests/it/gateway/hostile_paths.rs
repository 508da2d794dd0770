//! Tricks with paths against rules, and requests that are to cost much.

use std::time::{Duration, Instant};

use super::get;
use crate::support::{Backend, Proxy, Raw, message, proxy::Setup, websocket};

/// A proxy whose `/admin` is for another network, `/app` is stripped, and the header field `X-Beta` chooses the
/// pool `beta`.
async fn start(app: &Backend, beta: &Backend) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.backends(&[app.address]);
        settings.table(&format!(
            "[pools.beta]\nbackends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n",
            beta.address
        ));
        settings.table(
            r#"
            [[routes]]
            path = "/admin"
            pool = "app"
            allow = ["10.0.0.0/8"]
            [[routes]]
            path = "/app"
            pool = "app"
            rewrite = { strip_prefix = "/app" }
            deny = ["192.0.2.0/24"]
            [[routes]]
            path = "/users"
            pool = "app"
            rewrite = { regex = { pattern = "/users/([^/]+)(/.*)?", with = "/u/$1$2" } }
            [[routes]]
            path = "/api"
            match = { header = { X-Beta = "1" } }
            pool = "beta"
            [[routes]]
            path = "/api/admin"
            match.cel = "request.headers['x-beta'] == '1'"
            respond = { status = 418 }
            "#,
        );
    });
    setup.start().await
}

/// A request line that no client library sends.
async fn raw(proxy: &Proxy, target: &[u8]) -> u16 {
    let request = [b"GET ", target, b" HTTP/1.1\r\nHost: app.test\r\nX-Beta: 1\r\n\r\n"].concat();
    Raw::ask(proxy.web(), request).await.status()
}

#[tokio::test]
async fn no_spelling_of_a_path_avoids_its_rule() {
    let (app, beta) = (Backend::replying("app").await, Backend::replying("beta").await);
    let proxy = start(&app, &beta).await;
    for target in [
        "/admin",
        "/admin/",
        "/admin?x",
        "//admin",
        "/%61dmin",
        "/%61%64%6D%69%6e//x",
        "///%61dmin///",
        "http://app.test/admin",
        "http://app.test//%61dmin",
    ] {
        assert_eq!(raw(&proxy, target.as_bytes()).await, 403, "{target}");
    }
    for target in [
        &b"/admin/../x"[..],
        b"/x/../admin",
        b"/./admin",
        b"/x/%2e%2e/admin",
        b"/%2E/admin",
        b"/x/.%2e/admin",
        b"/x/..;/admin",
        b"/..%2fadmin",
        b"/admin%2fx",
        b"/%2Fadmin",
        b"/admin;x=1",
        b"/admin;/x",
        b"\\admin",
        b"/x\\..\\admin",
        b"/admin%5cx",
        b"/%5Cadmin",
        b"/admin%00",
        b"/admin\x00",
        b"/ad\x00min",
        b"/admin\x7f",
        b"/admin#",
        b"/app/../admin",
        b"/app/%2e%2e/admin",
        b"/app%2f../admin",
        b"/app/..%2fadmin",
        b"/app/..;/admin",
        b"/users/../admin",
        b"/users/%2e%2e/admin",
        b"/users/..%5cadmin",
        b"/api/x/../admin",
        b"/api%2fadmin",
        b"/api/admin;x",
        b"http://app.test/x/../admin",
        b"admin",
        b"http://app.test\\admin",
        b"http://app.test@evil.test/admin",
    ] {
        let text = String::from_utf8_lossy(target);
        assert_eq!(raw(&proxy, target).await, 400, "{text}");
    }
    app.assert_untouched();
    beta.assert_untouched();
    // Conditions hold for each spelling, too.
    for target in ["/api/admin", "//api//admin", "/%61pi/admin", "/api/%61dmin/x"] {
        assert_eq!(raw(&proxy, target.as_bytes()).await, 418, "{target}");
    }
    assert_eq!(raw(&proxy, b"/%61pi/other").await, 200);
    assert_eq!((beta.requests().len(), app.connections()), (1, 0));
    let mut upgrade = Raw::connect(proxy.web()).await;
    upgrade.send(websocket::request("/%61dmin//", "")).await;
    assert_eq!(upgrade.response().await.status(), 403);
    app.assert_untouched();
    drop((upgrade, app, beta));
    proxy.finish().await;
}

#[tokio::test]
async fn a_rewritten_path_is_one_that_rules_could_have() {
    let (app, beta) = (Backend::replying("app").await, Backend::replying("beta").await);
    let proxy = start(&app, &beta).await;
    for (target, expected) in [
        ("/app//evil.test/x", "/evil.test/x"),
        ("/%61pp///x", "/x"),
        ("/app%3fx/y", "/app%3fx/y"),
        ("/app/%3Fx", "/%3Fx"),
        ("/app/%20%0d%0aX:%20y", "/%20%0D%0AX:%20y"),
        ("/users//7//x", "/u/7/x"),
        ("/users/$1", "/u/$1"),
        ("/users/%24%7B1%7D", "/u/$%7B1%7D"),
        ("/users/7?a=/../x", "/u/7?a=/../x"),
    ] {
        assert_eq!(get(&proxy, target, "").await.status(), 200, "{target}");
        assert_eq!(app.requests().last().unwrap().target(), expected, "{target}");
    }
    drop((app, beta));
    proxy.finish().await;
}

#[tokio::test]
async fn patterns_and_expressions_take_linear_time() {
    let (app, beta) = (Backend::replying("app").await, Backend::replying("beta").await);
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[app.address]);
        settings.table(&format!("[pools.beta]\nbackends = [\"{}\"]\n", beta.address));
        settings.table(
            r#"
            [[routes]]
            pool = "app"
            rewrite = { regex = { pattern = "/(a*)*(b|c+)+d", with = "/x" } }
            [[routes]]
            match = { query = { q = { regex = "^(([a-z])+.)+[A-Z]([a-z])+$" } } }
            pool = "beta"
            [[routes]]
            match.cel = "request.path.matches('^(/(a|a)*)*$') && request.headers['x-a'].matches('(x+x+)+y')"
            pool = "beta"
            "#,
        );
    });
    let proxy = setup.start().await;
    let long = "a".repeat(24_000);
    let started = Instant::now();
    for (target, fields) in [
        (format!("/{long}"), String::new()),
        (format!("/{long}c?q={}", &long[..8_000]), String::new()),
        (format!("/{}", "a/".repeat(10_000)), format!("X-A: {}\r\n", "x".repeat(20_000))),
    ] {
        let reply = Raw::ask(proxy.web(), message::get(&target, &fields)).await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "app"));
    }
    // A debug build; a backtracking engine would take years.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop((app, beta));
    proxy.finish().await;
}

#[tokio::test]
async fn a_location_cannot_be_moved_to_another_host() {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
        settings.table("[[routes]]\nredirect = \"/new{path}{query}\"\n");
    });
    let proxy = setup.start().await;
    for (target, expected) in [
        ("//evil.test/", "/new//evil.test/"),
        ("/%2F%2Fevil.test", "/new/%2F%2Fevil.test"),
        ("/?//evil.test", "/new/?//evil.test"),
    ] {
        let reply = get(&proxy, target, "").await;
        assert_eq!((reply.status(), reply.header("location")), (308, Some(expected)));
    }
    let text = proxy.settings.text();
    for location in ["/{path}", "/{query}", "/{host}/x"] {
        let text = text.replace("/new{path}{query}", location);
        proxy.refuses(&text, &["could name another host"]).await;
    }
    proxy.finish().await;
}
