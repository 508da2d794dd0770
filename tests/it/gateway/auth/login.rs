//! Logins at an OpenID provider.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    issuer::{Issuer, now},
    logged,
    provider::{Browser, PAGE, Provider, parameters},
    sessions::closed,
};
use crate::support::{
    Backend, Node, Proxy, Raw, message,
    node::{handshake_target, poll_target},
    proxy::Setup,
    websocket,
};

/// Keys of the route, besides those of its login.
const HEADERS: &str =
    "headers = { request = { set = { X-User = \"{subject}\", X-Mail = \"{jwt.email}\" } } }";

/// A proxy with one route to a backend that needs a login; `keys` are more keys of the table `oidc`.
async fn guarded(issuer: &str, backend: &Backend, keys: &str) -> Proxy {
    let setup = Setup::new();
    std::fs::write(setup.directory().join("oidc.secret"), "a secret\n").unwrap();
    let key = setup.directory().join("cookie.key");
    std::fs::write(&key, "1".repeat(64)).unwrap();
    let setup = setup.with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.top("trusted_proxies", "[\"127.0.0.1\"]");
        settings.top("cookie_key", "{ file = \"cookie.key\" }");
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\n{HEADERS}\n[routes.auth.oidc]\nissuer = \"{issuer}\"\nclient_id = \"chat\"\n\
             client_secret = {{ file = \"oidc.secret\" }}\nclaims = \"email\"\n{keys}\n"
        ));
    });
    setup.start().await
}

#[tokio::test]
async fn a_browser_logs_in_and_out() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    let keys = "scopes = [\"openid\", \"email\"]\nafter_logout = \"/bye\"\nsession = \"1h\"";
    let proxy = guarded(&provider.url(), &backend, keys).await;
    let mut browser = Browser::secure(&proxy);
    let reply = browser.open("/room/7?a=1").await;
    assert_eq!((reply.status(), reply.header("cache-control")), (302, Some("no-store")));
    let location = reply.header("location").unwrap().to_owned();
    assert!(location.starts_with(&format!("{}/auth?", provider.url())), "{location}");
    let asked = parameters(&location);
    for (name, expected) in [
        ("response_type", "code"),
        ("client_id", "chat"),
        ("redirect_uri", "https://app.test/oidc/callback"),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(asked[name], expected, "{name}");
    }
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-moorline-login-"), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    // A second tab does not disturb the first one.
    browser.begin("/other").await;
    let reply = browser.answer(&provider.accept(&location, "anna")).await;
    assert_eq!(
        (reply.status(), reply.header("location")),
        (302, Some("https://app.test/room/7?a=1"))
    );
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.contains("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    assert_eq!(provider.form()["redirect_uri"], "https://app.test/oidc/callback");
    backend.assert_untouched();

    let reply = browser.ask("GET /data", "Sec-Fetch-Mode: cors\r\nX-User: root\r\n").await;
    assert_eq!(reply.status(), 200);
    let seen = backend.requests().last().unwrap().clone();
    assert_eq!((seen.all("x-user"), seen.all("x-mail")), (vec!["anna"], vec!["anna@id.test"]));
    assert_eq!(seen.header("cookie"), None);
    let log = format!("{:?}{:?}", proxy.log_lines(), proxy.stderr());
    assert!(!log.contains("code-0"), "the code is in the log: {log}");

    let stolen = browser.cookies.clone();
    let reply = browser.open("/oidc/logout").await;
    assert_eq!(reply.status(), 303);
    let location = reply.header("location").unwrap();
    assert!(location.starts_with(&format!("{}/out?from=here&", provider.url())), "{location}");
    let asked = parameters(location);
    assert_eq!(asked["client_id"], "chat");
    assert_eq!(asked["post_logout_redirect_uri"], "https://app.test/bye");
    assert!(browser.cookies.is_empty(), "{:?}", browser.cookies);
    browser.begin("/").await;
    // The cookie of an ended login is not valid any more.
    browser.cookies = stolen;
    assert_eq!(browser.ask("GET /data", "").await.status(), 401);
    browser.begin("/").await;
    drop((backend, provider));
    proxy.finish().await;
}

#[tokio::test]
async fn cookies_of_logins_reach_no_backend() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    let path = "\n[[routes]]\npool = \"app\"\npath = \"/blog\"\n";
    let proxy = guarded(&provider.url(), &backend, path).await;
    let cookie = "Cookie: a=1; __Host-moorline-login-x=SECRET; b=2; moorline-login-x.1=SECRET\r\n";
    assert_eq!(Raw::ask(proxy.web(), message::get("/blog", cookie)).await.status(), 200);
    assert_eq!(backend.requests().last().unwrap().header("cookie"), Some("a=1; b=2"));
    drop((backend, provider));
    proxy.finish().await;
}

#[tokio::test]
async fn only_pages_are_sent_to_the_provider() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    let proxy = guarded(&provider.url(), &backend, "").await;
    let engine = handshake_target("t0");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for (line, fields) in [
        ("GET /", ""),
        ("GET /", "Accept: */*\r\n"),
        ("GET /", "Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n"),
        ("GET /events", "Accept: text/event-stream\r\n"),
        ("POST /", PAGE),
        (&*format!("GET {engine}"), PAGE),
        ("GET /ws", &*format!("{PAGE}{upgrade}")),
    ] {
        let mut browser = Browser::new(&proxy);
        let reply = browser.ask(line, fields).await;
        assert_eq!((reply.status(), reply.header("location")), (401, None), "{line} {fields}");
        assert_eq!(reply.header("www-authenticate"), Some("Cookie"));
        assert!(browser.cookies.is_empty());
        assert_eq!(logged(&proxy, &reply).await["termination"], "proxy_select_unauthenticated");
    }
    provider.backend.assert_untouched();
    // Without TLS, a login is only for this machine.
    let reply = super::get(&proxy, "/", PAGE).await;
    assert_eq!((reply.status(), reply.header("set-cookie")), (403, None));
    let line = logged(&proxy, &reply).await;
    assert!(line["error"].as_str().unwrap().contains("needs https"), "{line}");
    let mut browser = Browser::new(&proxy);
    let reply = browser.open("/").await;
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with("moorline-login-") && !cookie.contains("Secure"), "{cookie}");
    drop((backend, provider));
    proxy.finish().await;
}

#[tokio::test]
async fn only_the_browser_that_began_a_login_can_finish_it() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    provider.publish(json!({ "authorization_response_iss_parameter_supported": true }));
    let proxy = guarded(&provider.url(), &backend, "").await;
    let iss = format!("&iss={}", provider.url());
    let (mut victim, mut attacker) = (Browser::new(&proxy), Browser::new(&proxy));
    let theirs = provider.accept(&attacker.begin("/").await, "mallory");
    let (their_code, their_state) = theirs.split_once('&').unwrap();
    // Without a login that has begun, nothing is accepted.
    let reply = victim.answer(&format!("{theirs}{iss}")).await;
    assert_eq!(reply.status(), 403);
    let line = logged(&proxy, &reply).await;
    assert_eq!(line["termination"], "proxy_select_login_failed");
    let begun = victim.begin("/").await;
    let mine = provider.accept(&begun, "anna");
    let (code, state) = mine.split_once('&').unwrap();
    let cut = &state[..state.len() - 1];
    for (query, reason) in [
        (String::new(), "no `state`"),
        (format!("{theirs}{iss}"), "not of a login of this browser"),
        (format!("{code}&{their_state}{iss}"), "not of a login of this browser"),
        (format!("{their_code}&{state}{iss}"), "does not accept the code"),
        (format!("{code}&{cut}{iss}"), "not of a login of this browser"),
        (format!("{code}{iss}"), "no `state`"),
        (format!("{code}&{state}"), "does not name its issuer"),
        (format!("{code}&{state}&iss=https://evil.test"), "from the issuer"),
        (format!("{code}&{state}{iss}{iss}"), "occurs twice"),
        (format!("{code}&{code}&{state}{iss}"), "occurs twice"),
        (format!("error=access_denied&{state}{iss}"), "access_denied"),
        (format!("{state}{iss}"), "no code"),
    ] {
        let reply = victim.answer(&query).await;
        assert_eq!((reply.status(), victim.has_login()), (403, false), "{query}");
        let line = logged(&proxy, &reply).await;
        assert!(line["error"].as_str().unwrap().contains(reason), "{reason}: {line}");
    }
    let finished = format!("{mine}{iss}");
    assert_eq!(victim.answer(&finished).await.status(), 302);
    // The same answer again: the browser is logged in. Without its login, the code is of no use.
    assert_eq!(victim.answer(&finished).await.status(), 302);
    victim.cookies.retain(|name, _| name.ends_with("-new"));
    assert_eq!((victim.answer(&finished).await.status(), victim.has_login()), (403, false));
    // No target leads to another host.
    for target in ["//evil.test/", "/%5cevil.test", "/x?next=https://evil.test"] {
        let mut browser = Browser::new(&proxy);
        let reply = browser.open(target).await;
        if reply.status() == 400 {
            continue;
        }
        let answer = provider.accept(reply.header("location").unwrap(), "anna");
        let reply = browser.answer(&format!("{answer}{iss}")).await;
        assert_eq!(reply.header("location"), Some(&*format!("http://localhost{target}")));
    }
    let long = format!("/page?{}", "x".repeat(4000));
    let mut browser = Browser::new(&proxy);
    let answer = provider.accept(&browser.begin(&long).await, "anna");
    let reply = browser.answer(&format!("{answer}{iss}")).await;
    assert_eq!(reply.header("location"), Some("http://localhost/page"));
    backend.assert_untouched();
    drop((backend, provider));
    proxy.finish().await;
}

#[tokio::test]
async fn answers_of_a_provider_that_lies_or_fails_are_refused() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    let proxy = guarded(&provider.url(), &backend, "timeout = \"300ms\"\nleeway = \"0s\"").await;
    let mut browser = Browser::new(&proxy);
    for (claims, reason) in [
        (json!({ "nonce": "x" }), "nonce"),
        (json!({ "iss": "https://id.test" }), "issuer"),
        (json!({ "aud": "other" }), "audience"),
        (json!({ "aud": ["chat", "other"] }), "azp"),
        (json!({ "azp": "other" }), "another client"),
        (json!({ "exp": now() - 1 }), "expired"),
        (json!({ "exp": "9999999999" }), "`exp`"),
        (json!({ "iat": now() + 60 }), "future"),
        (json!({ "iat": null }), "`iat`"),
        (json!({ "sub": "" }), "`sub`"),
        (json!({ "email": "e".repeat(5900) }), "too long"),
    ] {
        provider.claim(claims);
        let answer = provider.accept(&browser.begin("/").await, "anna");
        let reply = browser.answer(&answer).await;
        assert_eq!((reply.status(), browser.has_login()), (403, false), "{reason}");
        let line = logged(&proxy, &reply).await;
        assert!(line["error"].as_str().unwrap().contains(reason), "{reason}: {line}");
    }
    provider.claim(json!({}));
    provider.sign_with(Some(Issuer::new()));
    let answer = provider.accept(&browser.begin("/").await, "anna");
    assert_eq!(browser.answer(&answer).await.status(), 403);
    provider.sign_with(None);
    for answer in [
        message::ok("{}"),
        message::ok("<html>"),
        message::ok(&format!("{{\"id_token\":\"{}\"}}", "x".repeat(100_000))),
        message::reply("302 Found", "Location: http://127.0.0.1:1/\r\n", "{}"),
        message::reply("401 Unauthorized", "", "{\"error\":\"invalid_client\"}"),
        b"garbage".to_vec(),
    ] {
        provider.answer(Some(answer));
        let answer = provider.accept(&browser.begin("/").await, "anna");
        let reply = browser.answer(&answer).await;
        assert_eq!((reply.status(), reply.header("retry-after")), (503, Some("5")));
        assert_eq!(logged(&proxy, &reply).await["termination"], "proxy_select_auth_unavailable");
    }
    provider.answer(None);
    browser.log_in(&provider, "anna").await;
    backend.assert_untouched();
    drop((backend, provider));
    proxy.finish().await;
}

#[tokio::test]
async fn logins_go_on_while_the_provider_is_down_and_new_ones_wait() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    // The token endpoint accepts connections and never answers.
    let silent = Backend::manual().await;
    let proxy = guarded(&provider.url(), &backend, "timeout = \"200ms\"").await;
    provider.publish(json!({ "issuer": "http://127.0.0.1:1" }));
    let mut browser = Browser::new(&proxy);
    let reply = browser.open("/").await;
    assert_eq!((reply.status(), reply.header("retry-after")), (503, Some("5")));
    assert!(browser.cookies.is_empty());
    provider.publish(json!({ "token_endpoint": format!("http://{}/token", silent.address) }));
    let mut tries = 0;
    while browser.open("/").await.status() == 503 {
        tries += 1;
        assert!(tries < 200, "new logins go on once the provider is right again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = provider.accept(&browser.begin("/").await, "anna");
    let began = Instant::now();
    assert_eq!(browser.answer(&answer).await.status(), 503);
    assert!(began.elapsed() >= Duration::from_millis(200));
    drop((provider, silent));

    let provider = Provider::start().await;
    let other = guarded(&provider.url(), &backend, "").await;
    let mut browser = Browser::new(&other);
    browser.log_in(&provider, "anna").await;
    let (mut late, location) = (Browser::new(&other), provider.url());
    drop(provider);
    assert_eq!(browser.ask("GET /data", "").await.status(), 200);
    // The configuration of the provider is known: the browser sees for itself that it does not answer.
    assert!(late.begin("/").await.starts_with(&location));
    assert_eq!(browser.open("/oidc/logout").await.status(), 303);
    drop(backend);
    proxy.finish().await;
    other.finish().await;
}

#[tokio::test]
async fn routes_with_equal_settings_share_a_login() {
    let (provider, backend) = (Provider::start().await, Backend::replying("ok").await);
    let mut proxy = guarded(&provider.url(), &backend, "").await;
    let url = provider.url();
    proxy
        .reload(|settings| {
            let route = |path: &str, client: &str, more: &str| {
                format!(
                    "[[routes]]\npath = \"{path}\"\npool = \"app\"\n[routes.auth.oidc]\nissuer = \"{url}\"\n\
                     client_id = \"{client}\"\nclaims = \"email\"\n{more}"
                )
            };
            settings.table(&route("/same", "chat", ""));
            settings.table(&route("/other", "admin", ""));
            let require = "[routes.auth.require]\nclaims = { email = \"bert@id.test\" }\n";
            settings.table(&route("/bert", "chat", require));
        })
        .await;
    let mut browser = Browser::new(&proxy);
    browser.log_in(&provider, "anna").await;
    for (path, expected) in [("/", 200), ("/same", 200), ("/other", 401), ("/bert", 403)] {
        assert_eq!(browser.ask(&format!("GET {path}"), "").await.status(), expected, "{path}");
    }
    assert!(browser.begin("/other/x").await.contains("%2Fother%2Foidc%2Fcallback&"));
    // Keys rotate: the first one seals, all of them open.
    let key = proxy.directory().join("cookie.key");
    let before = browser.cookies.clone();
    for (keys, expected) in [(["2", "1"], 200), (["2", "3"], 401)] {
        std::fs::write(&key, keys.map(|key| key.repeat(64)).join("\n")).unwrap();
        proxy.reload(|_| {}).await;
        let mut browser = Browser::new(&proxy);
        browser.cookies = before.clone();
        assert_eq!(browser.ask("GET /", "").await.status(), expected, "{keys:?}");
    }
    drop((backend, provider));
    proxy.finish().await;
}

/// Opens a session by polling.
async fn open(browser: &mut Browser<'_>) -> String {
    let reply = browser.ask(&format!("GET {}", handshake_target("t0")), "").await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let open: Value = serde_json::from_str(&reply.text()[1..]).unwrap();
    open["sid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn sessions_and_tunnels_end_with_their_login() {
    let (provider, node) = (Provider::start().await, Node::start("a").await);
    let proxy = guarded(&provider.url(), &node.backend, "").await;
    let (mut anna, mut bert) = (Browser::new(&proxy), Browser::new(&proxy));
    anna.log_in(&provider, "anna").await;
    bert.log_in(&provider, "bert").await;
    let poll = poll_target(&open(&mut anna).await, "t1");
    let others = poll_target(&open(&mut bert).await, "t1");
    assert_eq!(anna.ask(&format!("GET {poll}"), "").await.status(), 200);
    assert_eq!(bert.ask(&format!("GET {poll}"), "").await.status(), 403);
    let upgrade = poll_target(&open(&mut anna).await, "t1").replace("polling", "websocket");
    let mut tunnel = Raw::connect(proxy.web()).await;
    tunnel.send(websocket::request(&upgrade, &anna.cookie())).await;
    assert_eq!(tunnel.response().await.status(), 101);
    // A page of another site cannot use the login for a session.
    let foreign = "Origin: https://evil.test\r\n";
    let reply = anna.ask(&format!("GET {}", handshake_target("t2")), foreign).await;
    assert_eq!(reply.status(), 403);
    let reply = anna.ask("POST /oidc/logout", "Content-Length: 0\r\n").await;
    assert_eq!((reply.status(), anna.has_login()), (303, false));
    let expected = closed(1008, "credentials revoked");
    assert_eq!(tunnel.exact(expected.len()).await, expected);
    assert_eq!(anna.ask(&format!("GET {poll}"), "").await.status(), 400);
    assert_eq!(bert.ask(&format!("GET {others}"), "").await.status(), 200);
    drop((tunnel, node, provider));
    proxy.finish().await;
}
