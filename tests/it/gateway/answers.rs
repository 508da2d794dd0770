//! Answers without a backend: redirects, fixed responses, refused addresses, maintenance.

use serde_json::Value;

use super::{get, routed};
use crate::support::{Backend, Raw, message, node::handshake_target, proxy::Setup, websocket};

const ORIGIN: &str = "Origin: https://page.test\r\n";

#[tokio::test]
async fn a_route_redirects_and_another_answers() {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
        settings.table(
            "[[routes]]\nhost = [\"old.test\", \"older.test\"]\nredirect = \"https://new.test{path}{query}\"\n",
        );
        for (path, status) in [("/found", 302), ("/other", 303)] {
            settings.table(&format!(
                "[[routes]]\npath = \"{path}\"\nredirect = {{ to = \"/ping\", status = {status} }}\n"
            ));
        }
        settings.table("[[routes]]\npath = \"/ping\"\nrespond = { body = \"pong {client_ip}\\n\" }\n");
        settings.table(
            "[[routes]]\npath = \"/gone\"\nrespond = { status = 410, body = \"{{}}\", type = \"application/json\" }\n",
        );
    });
    let proxy = setup.start().await;
    for host in ["old.test", "older.test"] {
        let request = format!("GET /a?b=c HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!(
            (reply.status(), reply.header("location")),
            (308, Some("https://new.test/a?b=c"))
        );
    }
    let mut client = Raw::connect(proxy.web()).await;
    for _ in 0..2 {
        client.send(message::get("/ping", "")).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "pong 127.0.0.1\n"));
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    for (path, status) in [("/found", 302), ("/other", 303)] {
        let reply = get(&proxy, path, "").await;
        assert_eq!((reply.status(), reply.header("location")), (status, Some("/ping")));
    }
    let gone = get(&proxy, "/gone", "").await;
    assert_eq!((gone.status(), gone.text().as_str()), (410, "{}"));
    let id = gone.header("x-request-id").unwrap();
    let line = proxy.wait_for_log("the line", |line| line["id"] == id).await;
    assert_eq!((&line["status"], &line["route"]), (&410.into(), &"/gone".into()));
    assert_eq!((&line["pool"], &line["backend"]), (&Value::Null, &Value::Null));
    drop(client);
    proxy.finish().await;
}

#[tokio::test]
async fn sockets_and_engine_io_are_not_redirected() {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
        settings.table("[[routes]]\nredirect = \"https://new.test{path}\"\n");
    });
    let proxy = setup.start().await;
    let handshake = message::get(&handshake_target("t0"), ORIGIN);
    for request in [handshake, websocket::request("/", ORIGIN)] {
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!((reply.status(), reply.header("location")), (404, None));
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_redirect_cannot_be_split_by_the_path() {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
        settings.table("[[routes]]\nredirect = \"https://new.test{path}{query}\"\n");
    });
    let proxy = setup.start().await;
    let reply = get(&proxy, "/%0d%0aSet-Cookie:%20a=b?\u{fc}", "").await;
    assert_eq!(reply.status(), 308);
    assert!(reply.header("set-cookie").is_none());
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_of_another_network_gets_a_403() {
    let backend = Backend::replying("ok").await;
    let keys = "allow = [\"10.0.0.0/8\"]\n";
    let proxy = routed(&backend, keys).await;
    for request in [message::get("/", ""), websocket::request("/", "")] {
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!(reply.status(), 403);
        assert!(
            reply.text().contains("This address may not use this resource."),
            "{}",
            reply.text()
        );
        let id = reply.header("x-request-id").unwrap();
        let line = proxy.wait_for_log("the line", |line| line["id"] == id).await;
        assert_eq!(line["termination"], "proxy_select_forbidden");
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_denied_client_is_named_by_a_trusted_proxy() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.top("trusted_proxies", "[\"127.0.0.0/8\"]");
        settings.table("[[routes]]\npool = \"app\"\ndeny = [\"192.0.2.0/24\"]\n");
    });
    let proxy = setup.start().await;
    for (client, expected) in [("192.0.2.7", 403), ("198.51.100.7", 200)] {
        let reply = get(&proxy, "/", &format!("X-Forwarded-For: {client}\r\n")).await;
        assert_eq!(reply.status(), expected, "{client}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_closed_route_makes_clients_come_back_later() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, "maintenance = { retry_after = \"2m\" }\n").await;
    for request in [message::get("/", ORIGIN), message::get(&handshake_target("t0"), ORIGIN)] {
        let reply = Raw::ask(proxy.web(), request).await;
        assert_eq!((reply.status(), reply.header("retry-after")), (503, Some("120")));
        // A page must be able to read it.
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://page.test"));
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_closed_route_can_be_open_for_some() {
    let backend = Backend::replying("ok").await;
    let proxy = routed(&backend, "maintenance = { except = [\"127.0.0.0/8\"] }\n").await;
    assert_eq!(get(&proxy, "/", "").await.status(), 200);
    drop(backend);
    proxy.finish().await;
}
