//! Secrets in queries stay out of the access log, and reach the backend.

use crate::support::{Backend, Proxy, Raw, message};

/// Returns the path in the log line of a request for this target, which must have a unique last parameter.
async fn logged(proxy: &Proxy, target: &str) -> String {
    let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
    assert_eq!(reply.status(), 200, "{target}");
    let last = target.rsplit('&').next().unwrap_or_default();
    let matches = |path: &str| path.ends_with(last);
    let line = proxy.wait_for_log(target, |line| line["path"].as_str().is_some_and(matches)).await;
    line["path"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn fault_136_secrets_are_redacted_by_parts_of_names() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let names = [
        "accessToken",
        "refresh_token",
        "session_id",
        "connectionToken",
        "sig",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "client_secret",
        "apiKey",
        "sessionId",
        "csrf-token",
        "sid",
        "pass",
        "refresh%5Ftoken",
        "oauth%5Btoken%5D",
    ];
    for (at, name) in names.into_iter().enumerate() {
        let path = logged(&proxy, &format!("/x?a=1&{name}=TOPSECRET&n=q{at}")).await;
        assert_eq!(path, format!("/x?a=1&{name}=-&n=q{at}"));
    }
    for (at, name) in ["monkey", "author", "zip_code", "design", "EIO", "t"].into_iter().enumerate()
    {
        let path = logged(&proxy, &format!("/x?{name}=shown&n=r{at}")).await;
        assert_eq!(path, format!("/x?{name}=shown&n=r{at}"));
    }
    assert!(backend.saw("TOPSECRET"));
    let log = proxy.access_log();
    assert!(!String::from_utf8_lossy(&log).contains("TOPSECRET"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn redacted_parameters_can_be_configured() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let target = |n: u8| format!("/?loginTicket=1&sort_key=2&token=3&n={n}");
    assert_eq!(logged(&proxy, &target(1)).await, "/?loginTicket=1&sort_key=-&token=-&n=1");
    let file = proxy.directory().join("access.log");
    let setting = format!("{{ file = {file:?}, redact = [\"ticket\", \"!sort_key\"] }}");
    proxy.reload(|settings| _ = settings.top("access_log", &setting)).await;
    assert_eq!(logged(&proxy, &target(2)).await, "/?loginTicket=-&sort_key=2&token=-&n=2");
    drop(backend);
    proxy.finish().await;
}
