use std::time::Duration;

use moorline_http::FieldId;
use serde_json::json;

use super::*;
use crate::{
    auth::Identity,
    config::{ClientSecretPlace, JwtAlgorithm, SharedKeys},
    proxy::testing::request,
    sticky::cookie::CookieKeys,
};

pub(super) fn config() -> OidcConfig {
    OidcConfig {
        issuer: "https://id.test".to_owned(),
        client_id: "chat".to_owned(),
        client_secret: None,
        client_auth: ClientSecretPlace::Basic,
        scopes: vec!["openid".to_owned()],
        claims: vec!["email".to_owned()],
        algorithms: vec![JwtAlgorithm::ES256],
        callback: "/oidc/callback".to_owned(),
        logout: "/oidc/logout".to_owned(),
        after_logout: None,
        session: None,
        leeway: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
    }
}

fn seal(keys: &[&[u8]]) -> LoginSeal {
    let keys = keys.iter().map(|key| key.to_vec()).collect();
    LoginSeal::new(&CookieKeys::new(&SharedKeys::Configured(keys)))
}

fn login(config: OidcConfig, seal: LoginSeal) -> OidcLogin {
    OidcLogin::new(Arc::new(OidcProvider::new(config)), seal)
}

const KEY: &[u8] = &[1; 32];
const FACTS: LoginFacts<'_> =
    LoginFacts { secure: true, host: "app.test", path: "/room", query: Some("a=1") };

/// A request with the cookies that a reply has set.
fn with_cookies(cookies: &[String]) -> RequestHead {
    let pairs: Vec<&str> = cookies.iter().filter_map(|cookie| cookie.split(';').next()).collect();
    request(&format!(
        "GET /room HTTP/1.1\r\nHost: app.test\r\nCookie: x=1; {}\r\n",
        pairs.join("; ")
    ))
}

/// The cookies of a login of `anna`.
fn logged_in(login: &OidcLogin, claims: serde_json::Value, lifetime: u64) -> Vec<String> {
    let serde_json::Value::Object(claims) = claims else { unreachable!() };
    let expires = Some(now() + lifetime - 30);
    let token = Identity { subject: "anna".into(), expires, claims, ..Identity::default() };
    let session = LoginSession::new(&token, None, login.config(), now()).unwrap();
    let sealed = login.seal.seal(&login.names.session_context(true), &session.to_bytes()).unwrap();
    login.names.set_session(&sealed, lifetime, true, 0).unwrap()
}

#[test]
fn a_login_has_an_identity_with_the_claims_that_are_kept() {
    let login = login(config(), seal(&[KEY]));
    let cookies = logged_in(&login, json!({ "email": "anna@id.test", "secret": "x" }), 60);
    assert!(cookies[0].starts_with("__Host-moorline-login-"), "{cookies:?}");
    assert!(cookies[0].ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"));
    let identity = login.identity(&with_cookies(&cookies).head, true).unwrap();
    assert_eq!((&*identity.subject, &*identity.issuer), ("anna", "https://id.test"));
    assert!(identity.login.is_some() && identity.has_scope("openid"));
    assert_eq!(
        (identity.text("email"), identity.text("secret")),
        ("anna@id.test".into(), "".into())
    );
    let ended = logged_in(&login, json!({}), 0);
    let fault = login.identity(&with_cookies(&ended).head, true).unwrap_err();
    assert!(matches!(fault, AuthFault::Expired(_)), "{fault}");
    let none = request("GET / HTTP/1.1\r\nHost: app.test\r\n");
    assert!(matches!(login.identity(&none.head, true), Err(AuthFault::Missing)));
}

#[test]
fn a_large_login_is_in_several_cookies_and_no_part_can_be_another_one() {
    let login = login(config(), seal(&[KEY]));
    let cookies = logged_in(&login, json!({ "email": "e".repeat(5000) }), 60);
    assert_eq!(cookies.len(), 2);
    assert!(cookies.iter().all(|cookie| cookie.len() < 4096));
    let whole = with_cookies(&cookies);
    assert_eq!(login.identity(&whole.head, true).unwrap().claims["email"], "e".repeat(5000));
    assert_eq!(login.names.session_parts(&whole.head, true), 2);
    let other = logged_in(&login, json!({ "email": "f".repeat(5000) }), 60);
    let mixed = [cookies[0].clone(), other[1].clone()];
    let twice = [cookies[0].clone(), cookies[1].clone(), cookies[1].clone()];
    for cookies in [&mixed[..], &twice, &cookies[..1]] {
        assert!(login.identity(&with_cookies(cookies).head, true).is_err());
    }
    // A smaller login removes what is left.
    let small = login.names.set_session("x", 60, true, 2).unwrap();
    assert_eq!((small.len(), small[1].contains("-2=; Path=/; Max-Age=0;")), (2, true));
    assert!(login.names.set_session(&"x".repeat(3 * 3800 + 1), 60, true, 0).is_none());
    assert_eq!(login.leave(&whole.head, &FACTS).ok().unwrap().cookies.len(), 2);
}

#[test]
fn a_cookie_is_valid_only_for_its_login_and_for_known_keys() {
    let first = login(config(), seal(&[KEY]));
    let cookies = logged_in(&first, json!({}), 60);
    let head = with_cookies(&cookies).head;
    let rotated = login(config(), seal(&[&[2; 32], KEY]));
    assert!(rotated.identity(&head, true).is_ok());
    let fault = login(config(), seal(&[&[2; 32]])).identity(&head, true).unwrap_err();
    assert_eq!(fault.to_string(), "malformed credential: the cookie of the login");
    // Over TLS, a cookie that http could have set does not count.
    assert!(matches!(first.identity(&head, false), Err(AuthFault::Missing)));
    let moved = cookies[0].replace("__Host-", "");
    assert!(first.identity(&with_cookies(&[moved]).head, false).is_err());
    let (pair, _) = cookies[0].split_once(';').unwrap();
    let (_, value) = pair.split_once('=').unwrap();
    for other in [
        OidcConfig { client_id: "admin".to_owned(), ..config() },
        OidcConfig { issuer: "https://other.test".to_owned(), ..config() },
        OidcConfig { claims: Vec::new(), ..config() },
        OidcConfig { scopes: vec!["openid".to_owned(), "email".to_owned()], ..config() },
    ] {
        let other = login(other, seal(&[KEY]));
        assert!(matches!(other.identity(&head, true), Err(AuthFault::Missing)));
        let renamed = other.names.set_session("x", 60, true, 0).unwrap()[0].replace("1.x", value);
        assert!(other.identity(&with_cookies(&[renamed]).head, true).is_err());
    }
    for at in [2, 20, value.len() / 2, value.len() - 1] {
        let flipped = if value.as_bytes()[at] == b'A' { "B" } else { "A" };
        let mut changed = value.to_owned();
        changed.replace_range(at..=at, flipped);
        let tampered = [cookies[0].replace(value, &changed)];
        assert!(first.identity(&with_cookies(&tampered).head, true).is_err(), "{at}");
    }
}

#[test]
fn a_state_belongs_to_the_browser_that_has_begun() {
    let login = login(config(), seal(&[KEY]));
    let context = login.names.state_context();
    let (mine, theirs) = (BrowserSecret::new(now()).unwrap(), BrowserSecret::new(now()).unwrap());
    let begin = |secret, target: &str| {
        PendingLogin::new(secret, target.to_owned(), &login.seal, &context).unwrap()
    };
    let ((one, state), (two, other)) = (begin(&mine, "/a?b=c"), begin(&mine, "/"));
    let open = |secret, state: &str| PendingLogin::open(secret, state, &login.seal, &context);
    let opened = open(&mine, &state).unwrap();
    assert_eq!(opened.target(), "/a?b=c");
    assert_eq!((opened.nonce(), opened.verifier()), (one.nonce(), one.verifier()));
    assert!(one.verifier().len() == 43 && one.nonce() != one.verifier());
    assert!(two.nonce() != one.nonce() && two.challenge() != one.challenge() && state != other);
    assert!(open(&theirs, &state).is_none());
    assert!(open(&mine, &state[1..]).is_none() && open(&mine, "").is_none());
    assert!(PendingLogin::open(&mine, &state, &login.seal, b"other").is_none());
    assert!(opened.is_open(now() + 599) && !opened.is_open(now() + 601));
    let again = BrowserSecret::parse(&mine.to_bytes()).unwrap();
    assert!(open(&again, &state).is_some() && !again.is_young(now() + 300));
    assert!(BrowserSecret::parse(b"short").is_none());
}

#[test]
fn a_target_is_a_short_path_of_this_host() {
    let long = "x".repeat(600);
    for (path, query, expected) in [
        ("/room", Some("a=1&b=%2F"), "/room?a=1&b=%2F"),
        ("/room", None, "/room"),
        // With the own origin before it, this is a path.
        ("//evil.test", None, "//evil.test"),
        ("/room", Some(&*long), "/room"),
        (&*format!("/{long}"), Some("a"), "/"),
        ("*", None, "/"),
        ("", None, "/"),
        ("/r\u{e9}", None, "/"),
    ] {
        assert_eq!(pending::target(path, query), expected);
    }
}

#[test]
fn a_login_needs_tls_or_this_machine() {
    let login = login(config(), seal(&[KEY]));
    let head = request("GET / HTTP/1.1\r\nHost: app.test\r\n").head;
    for (secure, host, allowed) in [
        (true, "app.test", true),
        (false, "app.test", false),
        (false, "localhost:8080", true),
        (false, "app.localhost", true),
        (false, "127.0.0.1:80", true),
        (false, "[::1]:80", true),
        (false, "localhost.evil.test", false),
        (false, "127.0.0.1.evil.test", false),
        (true, "", false),
    ] {
        let facts = LoginFacts { secure, host, ..FACTS };
        assert_eq!(login.start(&head, &facts).is_ok(), allowed, "{host}");
    }
}

#[test]
fn only_pages_are_navigations() {
    let with = |method: &str, fields: &str| {
        is_navigation(&request(&format!("{method} / HTTP/1.1\r\nHost: app.test\r\n{fields}")))
    };
    assert!(with("GET", "Sec-Fetch-Mode: navigate\r\n"));
    assert!(with("GET", "Accept: text/html,application/xhtml+xml\r\n"));
    assert!(with("GET", "Accept: image/png, TEXT/HTML;q=0.9\r\n"));
    for (method, fields) in [
        ("GET", ""),
        ("GET", "Accept: */*\r\n"),
        ("GET", "Accept: text/event-stream\r\n"),
        ("GET", "Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n"),
        ("GET", "Sec-Fetch-Mode: websocket\r\n"),
        ("POST", "Sec-Fetch-Mode: navigate\r\n"),
        ("HEAD", "Accept: text/html\r\n"),
    ] {
        assert!(!with(method, fields), "{method} {fields}");
    }
}

#[test]
fn the_parameters_of_a_callback_occur_once() {
    let read = |query: &str| AnswerParameters::of(query).map_err(|fault| fault.to_string());
    let answer = read("code=a%2Fb&state=s&x=1&iss=https%3A%2F%2Fid.test").unwrap();
    assert_eq!((answer.code.as_deref(), answer.state.as_deref()), (Some("a/b"), Some("s")));
    assert_eq!((answer.issuer.as_deref(), answer.error), (Some("https://id.test"), None));
    assert_eq!(read("").unwrap(), AnswerParameters::default());
    for query in ["code=a&code=b", "state=a&state=a", "iss=a&iss=b", "error=a&error=b"] {
        assert!(read(query).unwrap_err().contains("twice"), "{query}");
    }
}

#[test]
fn cookies_of_logins_do_not_reach_backends() {
    let login = login(config(), seal(&[KEY]));
    let mut head = with_cookies(&logged_in(&login, json!({}), 60)).head;
    OidcLogin::strip(&mut head);
    assert_eq!(head.text(FieldId::Cookie), Some("x=1"));
    let mut head = request("GET / HTTP/1.1\r\nHost: a\r\nCookie: moorline-login-1-new=x\r\n").head;
    OidcLogin::strip(&mut head);
    assert!(!head.has(FieldId::Cookie));
    let mut head = request("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=moorline-login-1;b=2\r\n").head;
    OidcLogin::strip(&mut head);
    assert_eq!(head.text(FieldId::Cookie), Some("a=moorline-login-1;b=2"));
}

#[test]
fn an_id_token_belongs_to_this_login_and_this_client() {
    let check = |claims: serde_json::Value, issued| {
        let serde_json::Value::Object(claims) = claims else { unreachable!() };
        let token = Identity { issued, claims, ..Identity::default() };
        exchange::check_id_token(&token, &config(), "n", 1000).map_err(|fault| fault.to_string())
    };
    assert!(check(json!({ "nonce": "n", "aud": "chat" }), Some(1029)).is_ok());
    let aud = json!(["chat", "other"]);
    assert!(check(json!({ "nonce": "n", "aud": aud, "azp": "chat" }), Some(1)).is_ok());
    for (claims, issued, reason) in [
        (json!({ "nonce": "m", "aud": "chat" }), Some(1000), "nonce"),
        (json!({ "nonce": ["n"], "aud": "chat" }), Some(1000), "nonce"),
        (json!({ "aud": "chat" }), Some(1000), "nonce"),
        (json!({ "nonce": "n", "aud": aud }), Some(1000), "several audiences"),
        (json!({ "nonce": "n", "aud": "chat", "azp": "other" }), Some(1000), "another client"),
        (json!({ "nonce": "n", "aud": "chat", "azp": 7 }), Some(1000), "another client"),
        (json!({ "nonce": "n", "aud": "chat" }), None, "`iat`"),
        (json!({ "nonce": "n", "aud": "chat" }), Some(1031), "future"),
    ] {
        let fault = check(claims.clone(), issued).unwrap_err();
        assert!(fault.contains(reason), "{claims}: {fault}");
    }
}

#[test]
fn a_logout_leads_to_the_page_of_the_configuration() {
    let head = request("GET / HTTP/1.1\r\nHost: app.test\r\n").head;
    for (after, expected) in [
        (None, None),
        (Some("/bye"), Some("https://app.test/bye")),
        (Some("https://www.test/"), Some("https://www.test/")),
    ] {
        let config = OidcConfig { after_logout: after.map(str::to_owned), ..config() };
        let login = login(config, seal(&[KEY]));
        let ended = login.leave(&head, &FACTS).ok().unwrap();
        let page = login.page_after_logout(&ended.origin);
        assert_eq!((page.as_deref(), ended.cookies.len()), (expected, 0));
    }
}
