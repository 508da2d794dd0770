//! Request targets and header names are forwarded byte for byte.

use crate::support::{Backend, Proxy, Raw, message};

#[tokio::test]
async fn fault_131_unambiguous_characters_are_forwarded() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let targets = [
        "/a\"b",
        "/{id}",
        "/a|b",
        "/a^b",
        "/grüße/日本語",
        "/?filter={a:[1|2]}",
        "/?a^b`c",
        "/?q=grüße&x=日本語",
        "/[a]?b[]=c",
        "/~a;b=c,d@e!$&'()*+:",
    ];
    for target in targets {
        let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
        assert_eq!(reply.status(), 200, "{target}");
    }
    let starts: Vec<String> = backend.requests().into_iter().map(|r| r.start).collect();
    let sent = targets.map(|target| format!("GET {target} HTTP/1.1"));
    assert_eq!(starts, sent);
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_131_spaces_and_control_characters_get_400() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for target in ["/a b", "/a\tb", "/a\x7fb", "/a\x01b", "/?a b"] {
        let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
        assert_eq!(reply.status(), 400, "{target:?}");
        assert!(reply.text().contains("Request id: "), "{target:?}: {}", reply.text());
    }
    backend.assert_untouched();
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn header_names_keep_their_case_in_both_directions() {
    let backend = Backend::answering(|_| {
        let fields = "X-Camel-CASE: 1\r\nx-lower: 2\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n\
             Connection: keep-alive, X-Hop\r\nX-Hop: 3\r\nETag: \"x\"\r\n";
        message::reply("200 OK", fields, "ok")
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let fields = "X-Camel-CASE: 1\r\nx-lower: 2\r\nACCEPT: */*\r\ncookie: a=b\r\n\
         Connection: x-hop\r\nX-Hop: 3\r\nX-Twice: 1\r\nx-twice: 2\r\n";
    for request in [message::get("/", fields), message::post("/", fields, "body")] {
        let reply = Raw::ask(proxy.web(), request).await;
        let names: Vec<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["X-Camel-CASE", "x-lower", "Set-Cookie", "set-cookie", "ETag"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert_eq!(reply.header("x-hop"), None);
        let seen = backend.requests().pop().unwrap();
        let names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["Host", "X-Camel-CASE", "x-lower", "ACCEPT", "cookie", "X-Twice", "x-twice"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert_eq!(seen.all("x-twice"), ["1", "2"]);
        assert_eq!((seen.header("x-hop"), seen.all("x-forwarded-for")), (None, vec!["127.0.0.1"]));
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn header_names_of_an_upgrade_keep_their_case() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(crate::support::websocket::request("/ws", "X-Camel-CASE: 1\r\n")).await;
    let peer = backend.peer(0).await;
    let request = peer.request().await.unwrap();
    assert!(request.headers.iter().any(|(name, _)| name == "X-Camel-CASE"), "{request:?}");
    assert!(request.headers.iter().any(|(name, _)| name == "Sec-WebSocket-Key"), "{request:?}");
    peer.send(crate::support::websocket::switching(&request)).await;
    let reply = client.head().await;
    assert_eq!(reply.status(), 101);
    assert!(reply.headers.iter().any(|(name, _)| name == "Sec-WebSocket-Accept"), "{reply:?}");
    peer.close();
    client.assert_closed().await;
    drop((client, backend));
    proxy.finish().await;
}
