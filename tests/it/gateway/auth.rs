//! Tokens: which requests reach a backend, and what becomes of sessions.

mod credentials;
mod forward;
mod issuer;
mod keys;
mod login;
mod origins;
mod provider;
mod sessions;

use serde_json::json;

use self::issuer::Issuer;
use super::get;
use crate::support::{Backend, Message, Proxy, Raw, backend, message, proxy::Setup, websocket};

/// A proxy with one route to a backend that requires tokens of this issuer; `keys` are more keys of the table `jwt`.
async fn guarded(issuer: &Issuer, backend: &Backend, keys: &str) -> Proxy {
    with_route(issuer, backend, keys, "").await
}

async fn with_route(issuer: &Issuer, backend: &Backend, keys: &str, route: &str) -> Proxy {
    let setup = Setup::new();
    let path = setup.directory().join("keys.pem");
    std::fs::write(&path, issuer.public_key()).unwrap();
    let setup = setup.with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\n{route}\n[routes.auth.jwt]\nkeys = \"{}\"\nissuer = \"https://id.test\"\n\
             audience = \"chat\"\n{keys}\n",
            path.display()
        ));
    });
    setup.start().await
}

/// The line of the access log of a reply.
async fn logged(proxy: &Proxy, reply: &Message) -> serde_json::Value {
    let id = reply.header("x-request-id").unwrap().to_owned();
    proxy.wait_for_log("the line", |line| line["id"] == *id).await
}

#[tokio::test]
async fn only_valid_tokens_reach_a_backend() {
    let (issuer, backend) = (Issuer::new(), Backend::replying("ok").await);
    let route = "headers = { request = { set = { X-User = \"{jwt.sub}\", X-Roles = \"{jwt.roles}\", X-Subject = \"{subject}\" } } }";
    let proxy = with_route(&issuer, &backend, "", route).await;
    let none = get(&proxy, "/", "X-User: root\r\n").await;
    assert_eq!((none.status(), none.header("www-authenticate")), (401, Some("Bearer")));
    let line = logged(&proxy, &none).await;
    assert_eq!(line["termination"], "proxy_select_unauthenticated");
    assert!(line["error"].as_str().unwrap().contains("no credentials"), "{line}");
    let valid = issuer.valid("anna");
    let (head, payload) = valid.split_once('.').unwrap();
    let unsigned =
        format!("{}.{}.", issuer::base64(r#"{"alg":"none"}"#), payload.split('.').next().unwrap());
    let cases = [
        ("garbage".to_owned(), "three parts"),
        (unsigned, "algorithm is not allowed"),
        (issuer.with_public_key_as_secret("anna"), "algorithm is not allowed"),
        (Issuer::new().valid("anna"), "signature is not valid"),
        (issuer.claims(&json!({ "exp": (issuer::now() + 600).to_string() })), "`exp`"),
        (issuer.claims(&json!({ "exp": issuer::now() - 600 })), "expired"),
        (issuer.claims(&json!({ "aud": "other" })), "audience"),
        (
            issuer.text(
                r#"{"iss":"https://id.test","aud":"chat","sub":"a","sub":"b","exp":4102444800}"#,
            ),
            "twice",
        ),
        (format!("{head}.{}.{}", "A".repeat(9000), "A".repeat(86)), "too long"),
    ];
    for (token, reason) in cases {
        let reply = get(&proxy, "/", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(reply.status(), 401, "{reason}");
        let challenge = reply.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer error=\"invalid_token\""));
        let line = logged(&proxy, &reply).await;
        assert!(line["error"].as_str().unwrap().contains(reason), "{reason}: {line}");
    }
    let huge = format!("Authorization: Bearer {}\r\n", "A".repeat(1 << 20));
    assert_eq!(get(&proxy, "/", &huge).await.status(), 431);
    backend.assert_untouched();
    let token = issuer.claims(&json!({ "roles": ["a", "b"] }));
    // The scheme is case-insensitive, and the token is forwarded.
    let fields = format!(
        "authorization: bearer {token}\r\nX-User: root\r\nX_Roles: root\r\nX-Roles: root\r\n"
    );
    assert_eq!(get(&proxy, "/", &fields).await.status(), 200);
    let seen = backend.requests().last().unwrap().clone();
    assert_eq!((seen.all("x-user"), seen.all("x-roles")), (vec!["anna"], vec!["a,b"]));
    assert!(
        seen.all("x_roles").is_empty(),
        "backends of CGI would read it as the field that is set"
    );
    assert_eq!(seen.all("x-subject"), ["anna"]);
    assert_eq!(seen.all("authorization"), [format!("bearer {token}")]);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_token_is_found_in_each_place_and_never_logged() {
    let (issuer, backend) = (Issuer::new(), Backend::replying("ok").await);
    let keys = "token = [\"header\", \"cookie:id\", \"query:ticket\"]";
    let proxy = guarded(&issuer, &backend, keys).await;
    let token = issuer.valid("anna");
    let bad = Issuer::new().valid("anna");
    for (target, fields, expected) in [
        ("/a?ticket=TOKEN", "", 200),
        ("/b?x=1&%74icket=TOKEN", "", 200),
        ("/c", "Cookie: a=b; id=TOKEN; c=d\r\n", 200),
        ("/d", "Cookie: a=b\r\nCookie: id=\"TOKEN\"\r\n", 200),
        ("/e?ticket=BAD", "Authorization: Bearer TOKEN\r\n", 200),
        ("/f?ticket=TOKEN", "Authorization: Bearer BAD\r\n", 401),
        ("/g?ticket=TOKEN", "Authorization: Basic YTpi\r\n", 200),
        ("/h?ticket=TOKEN&ticket=TOKEN", "", 401),
        ("/i", "Cookie: id=TOKEN; id=TOKEN\r\n", 401),
        ("/j", "Authorization: Bearer TOKEN\r\nAuthorization: Bearer TOKEN\r\n", 401),
        ("/k", "Cookie: xid=TOKEN\r\n", 401),
        ("/l?Ticket=TOKEN", "", 401),
        ("/m", "Sec-WebSocket-Protocol: bearer, TOKEN\r\n", 401),
    ] {
        let fill = |text: &str| text.replace("TOKEN", &token).replace("BAD", &bad);
        let reply = get(&proxy, &fill(target), &fill(fields)).await;
        assert_eq!(reply.status(), expected, "{target} {fields}");
    }
    crate::support::eventually("all lines", || proxy.log_lines().len() >= 13).await;
    let log = format!("{:?}{:?}", proxy.log_lines(), proxy.stderr());
    assert!(!log.contains(token.split('.').nth(1).unwrap()), "the token is in the log");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_token_in_a_subprotocol_does_not_reach_the_backend() {
    let (issuer, backend) = (Issuer::new(), Backend::start(websocket::echo()).await);
    let proxy = guarded(&issuer, &backend, "token = \"subprotocol\"").await;
    let token = issuer.valid("anna");
    for (offered, kept, selected) in [
        (format!("bearer, {token}"), vec![], "bearer"),
        (format!("chat.v2, bearer, {token}, chat.v1"), vec!["chat.v2, chat.v1"], "bearer"),
    ] {
        let mut client = Raw::connect(proxy.web()).await;
        let fields = format!("Sec-WebSocket-Protocol: {offered}\r\n");
        client.send(websocket::request("/ws", &fields)).await;
        let reply = client.response().await;
        // A browser fails the connection if no offered subprotocol is selected.
        assert_eq!((reply.status(), reply.all("sec-websocket-protocol")), (101, vec![selected]));
        let seen = backend.requests().last().unwrap().clone();
        assert_eq!(seen.all("sec-websocket-protocol"), kept);
    }
    let fields = "Sec-WebSocket-Protocol: bearer\r\n";
    let reply = Raw::ask(proxy.web(), websocket::request("/ws", fields)).await;
    assert_eq!(reply.status(), 401);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_a_page_can_read_the_401() {
    let (issuer, backend) = (Issuer::new(), Backend::replying("ok").await);
    let proxy = guarded(&issuer, &backend, "").await;
    let preflight = "OPTIONS / HTTP/1.1\r\nHost: app.test\r\nOrigin: https://page.test\r\n\
                     Access-Control-Request-Method: GET\r\n\r\n";
    assert_eq!(Raw::ask(proxy.web(), preflight).await.status(), 200);
    let with_body = preflight.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(Raw::ask(proxy.web(), with_body).await.status(), 401);
    let plain = "OPTIONS / HTTP/1.1\r\nHost: app.test\r\nOrigin: https://page.test\r\n\r\n";
    assert_eq!(Raw::ask(proxy.web(), plain).await.status(), 401);
    let reply = get(&proxy, "/", "Origin: https://page.test\r\n").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://page.test"));
    let post = message::post("/", "", "x");
    assert_eq!(Raw::ask(proxy.web(), post).await.status(), 401);
    assert_eq!(backend.requests().len(), 1);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_response_to_an_authenticated_client_is_stored_only_if_it_is_public() {
    let issuer = Issuer::new();
    let script = backend::answering(|request: &Message| {
        let target = request.target();
        let control =
            if target.starts_with("/public") { "public, max-age=60" } else { "max-age=60" };
        let user = request.header("x-user").unwrap_or_default();
        format!(
            "HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: {}\r\n\r\n{user}",
            user.len()
        )
        .into_bytes()
    });
    let backend = Backend::start(script).await;
    let route = "cache = true\nheaders = { request = { set = { X-User = \"{subject}\" } } }";
    let proxy = with_route(&issuer, &backend, "token = \"cookie:id\"", route).await;
    for (path, expected) in [("/own", ["anna", "bert"]), ("/public", ["anna", "anna"])] {
        for (subject, expected) in ["anna", "bert"].into_iter().zip(expected) {
            let fields = format!("Cookie: id={}\r\n", issuer.valid(subject));
            assert_eq!(get(&proxy, path, &fields).await.text(), expected, "{path} {subject}");
        }
        // No stored response is for clients without a token.
        assert_eq!(get(&proxy, path, "").await.status(), 401, "{path}");
    }
    drop(backend);
    proxy.finish().await;
}
