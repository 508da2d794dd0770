use super::*;

async fn error(address: SocketAddr) -> (u16, String, Failure) {
    let error = websocket(address).await.unwrap_err();
    let UpgradeError::Rejected(reply) = &error else { panic!("{error:?}") };
    let (status, body) = (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned());
    (status, body, error.into())
}

#[tokio::test]
async fn rejected_upgrade_has_status_and_body() {
    let lengthy = replies(
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 18\r\nx-node: a\r\n\r\nSession ID unknown",
    );
    let (status, body, failure) = error(lengthy.await).await;
    assert_eq!((status, body.as_str()), (400, "Session ID unknown"));
    assert_eq!(failure.kind, ErrorKind::UpgradeRefused);
    assert_eq!(
        failure.detail,
        "the server answered 400 Bad Request (Session ID unknown) to the upgrade"
    );

    let chunked = b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nno \r\n7\r\nbackend\r\n0\r\n\r\n";
    assert_eq!(error(replies(chunked).await).await.1, "no backend");
    let ended = b"HTTP/1.1 200 OK\r\n\r\n<html>";
    assert_eq!(error(replies(ended).await).await.1, "<html>");
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n<html>";
    assert_eq!(error(replies(cut).await).await.1, "<html>");
}

#[tokio::test]
async fn invalid_upgrade_replies_are_failures() {
    let foreign = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
        connection: upgrade\r\nsec-websocket-accept: AAAA\r\n\r\n";
    for (reply, kind, description) in [
        (&foreign[..], ErrorKind::Protocol, "does not match the Sec-WebSocket-Key"),
        (b"220 mail.example ESMTP\r\n", ErrorKind::Protocol, "is not HTTP"),
        (b"HTTP/1.1 101 Swi", ErrorKind::Disconnect, "the server closed the connection"),
        (b"", ErrorKind::Disconnect, "the server closed the connection"),
    ] {
        let failure: Failure = websocket(replies(reply).await).await.unwrap_err().into();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.detail.contains(description), "{failure}");
    }
}

#[tokio::test]
async fn upgrade_request_has_all_headers() {
    let address = server(|mut tcp| async move {
        let request = head(&mut tcp).await;
        let reply = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n", request.len());
        tcp.write_all(reply.as_bytes()).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
    })
    .await;
    let connector = connector(format!("ws://{address}"), |options| {
        options.headers =
            ["Origin: http://here", "X-Twice: 1", "X-Twice: 2"].map(Into::into).into();
    });
    let extra = HeaderMap::from_iter([(::http::header::COOKIE, "a=b".parse().unwrap())]);
    let error = connector.dialer(0).websocket("/p/?q=1", &extra).await.unwrap_err();
    let UpgradeError::Rejected(reply) = error else { panic!("{error:?}") };
    let request = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(request.starts_with("GET /p/?q=1 HTTP/1.1\r\n"), "{request}");
    let host = format!("host: {address}");
    for line in [
        host.as_str(),
        "origin: http://here",
        "x-twice: 1",
        "x-twice: 2",
        "cookie: a=b",
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
    ] {
        assert_eq!(request.lines().filter(|sent| *sent == line).count(), 1, "{line} in {request}");
    }
}
