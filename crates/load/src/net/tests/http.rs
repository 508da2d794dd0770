use ::http::{Method, StatusCode};
use bytes::Bytes;

use super::*;
use crate::net::Http;

async fn open(address: SocketAddr) -> Http {
    Connector::plain(address).dialer(0).http().await.unwrap()
}

async fn get(http: &mut Http) -> Result<crate::net::Reply, Failure> {
    http.send(Method::GET, "/a?b=c", &HeaderMap::new(), Bytes::new()).await
}

#[tokio::test]
async fn requests_share_a_connection_until_the_server_closes_it() {
    let address = server(|mut tcp| async move {
        let first = head(&mut tcp).await;
        assert!(first.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{first}");
        assert!(first.contains("host: test\r\n"), "{first}");
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        let second = head(&mut tcp).await;
        assert!(second.starts_with("POST /p HTTP/1.1\r\n"), "{second}");
        let mut body = [0; 4];
        tcp.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"body");
        let chunked = b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\nx-node: a\r\n\r\n\
            5\r\n\nwait\r\n0\r\n\r\n";
        tcp.write_all(chunked).await.unwrap();
    })
    .await;
    let mut http = open(address).await;
    let first = get(&mut http).await.unwrap();
    assert_eq!((first.status, &first.body[..]), (StatusCode::OK, &b"hi"[..]));
    assert!(http.is_open().await);
    let extra = HeaderMap::from_iter([(::http::header::COOKIE, "a=b".parse().unwrap())]);
    let second = http.send(Method::POST, "/p", &extra, "body".into()).await.unwrap();
    assert_eq!(second.headers["x-node"], "a");
    assert_eq!(second.description(), "the server answered 503 Service Unavailable (wait)");
    while http.is_open().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn invalid_replies_are_failures() {
    for (reply, kind, description) in [
        (&b""[..], ErrorKind::Disconnect, "the server closed the connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", ErrorKind::Disconnect, "closed"),
        (b"220 mail.example ESMTP\r\n\r\n", ErrorKind::Protocol, "is not HTTP"),
    ] {
        let failure = get(&mut open(replies(reply).await).await).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.detail.contains(description), "{failure}");
    }
}

#[tokio::test]
async fn long_poll_does_not_block_other_futures() {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    let address = server(move |mut tcp| {
        let mut receiver = receiver.clone();
        async move {
            head(&mut tcp).await;
            receiver.wait_for(|answer| *answer).await.unwrap();
            tcp.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let mut http = open(address).await;
    let mut reply = std::pin::pin!(get(&mut http));
    tokio::select! {
        _ = &mut reply => panic!("nothing was answered"),
        () = tokio::task::yield_now() => {}
    }
    sender.send_replace(true);
    assert_eq!(reply.await.unwrap().status, StatusCode::NO_CONTENT);
}
