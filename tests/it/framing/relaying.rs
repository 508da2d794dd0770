//! What passes unchanged, and what is cut out: targets, names, chunks, trailers and interim responses.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Backend, Proxy, Raw, eventually, message, within};

/// The head of a request whose client waits for `100 Continue`.
const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\n\
    Content-Length: 4\r\n\r\n";

#[tokio::test]
async fn fault_131_characters_in_targets_pass_unchanged() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let targets = [
        "/\"quoted\"",
        "/<tag>",
        "/{id}",
        "/a|b^c`d",
        "/[0]?filter[name]={\"a\":\"<b>\"}|^`",
        "/\u{fc}ber/\u{1f600}?q=\u{e9}",
        "/a%20b?c=%7B%7D&d=%C3%A9",
        "/?",
        "/??a=/../b",
        "//double//slash",
        "/semi;colon=1?a;b",
    ];
    for (n, target) in targets.iter().enumerate() {
        client.send(message::get(target, "")).await;
        assert_eq!(client.response().await.status(), 200, "{target}");
        assert_eq!(backend.requests()[n].start, format!("GET {target} HTTP/1.1"));
    }
    for bad in [&b"/a b"[..], b"/a\tb", b"/a\x01", b"/a\x7f", b"/\xff\xfe", b"/a#b", b""] {
        let request = [b"GET ", bad, b" HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat();
        crate::request::assert_refused(&proxy, request, &[400]).await;
    }
    assert_eq!(backend.requests().len(), targets.len());
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn names_keep_their_case() {
    let backend = Backend::answering(|_| {
        message::reply("200 Very Well", "x-lower: a\r\nX-UPPER:b\r\nX-MiXeD:  c d \r\n", "ok")
    })
    .await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = TcpStream::connect(proxy.web()).await.unwrap();
    let fields =
        "x-lower: a\r\nX-UPPER:b\r\nX-MiXeD:  c d \r\naccept: */*\r\nCoNTeNT-TyPe: a/b\r\n";
    let request = format!("GET / HTTP/1.1\r\nhOST: app.test\r\nConnection: close\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    within("the response", client.read_to_string(&mut reply)).await.unwrap();
    let passed = "x-lower: a\r\nX-UPPER: b\r\nX-MiXeD: c d\r\n";
    assert!(reply.starts_with(&format!("HTTP/1.1 200 Very Well\r\n{passed}")), "{reply}");
    let passed = format!("hOST: app.test\r\n{passed}accept: */*\r\nCoNTeNT-TyPe: a/b\r\n");
    assert!(backend.saw(passed), "{:?}", backend.requests());
    drop((client, backend));
    proxy.finish().await;
}

/// Chunks as a peer sends them, and as the other side gets them.
const SENT: &str = "3;a=1\r\nabc\r\n0002 ; b=\"c\"\r\nde\r\n2 \t\r\nfg\r\n0;last\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\
    content-length: 9\r\nTransfer_Encoding: chunked\r\nx-other:2\r\nAuthorization: c\r\n\r\n";
const PASSED: &str = "3\r\nabc\r\n0002\r\nde\r\n2\r\nfg\r\n0\r\nX-Sum: 1\r\nx-other:2\r\n\r\n";

#[tokio::test]
async fn fault_009_and_026_chunks_pass_without_extensions_and_forbidden_trailers() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let fields = "Host: app.test\r\nTransfer-Encoding: chunked\r\n";
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    // In one piece, then byte by byte.
    for whole in [true, false] {
        let pieces = |text: &str| -> Vec<Vec<u8>> {
            let size = if whole { text.len() } else { 1 };
            text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect()
        };
        let target = if whole { "/whole" } else { "/pieces" };
        for piece in pieces(&format!("POST {target} HTTP/1.1\r\n{fields}\r\n{SENT}")) {
            client.send(piece).await;
        }
        let peer = backend.peer_for(target).await;
        backend.request(target).await;
        assert!(backend.received().ends_with(format!("\r\n\r\n{PASSED}").as_bytes()));
        for piece in pieces(&format!("{response}{SENT}")) {
            peer.send(piece).await;
        }
        assert_eq!(client.head().await.header("transfer-encoding"), Some("chunked"));
        let passed = client.exact(PASSED.len()).await;
        assert_eq!(String::from_utf8_lossy(&passed), PASSED);
    }
    assert_eq!(backend.requests().len(), 2);
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn the_head_of_a_response_and_its_body_arrive_in_one_write() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let mut client = TcpStream::connect(proxy.web()).await.unwrap();
    for (target, response) in [
        ("/length", String::from_utf8(message::ok("whole")).unwrap()),
        (
            "/chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"
                .to_owned(),
        ),
    ] {
        client.write_all(&message::post(target, "", "body")).await.unwrap();
        let peer = backend.peer_for(target).await;
        backend.request(target).await;
        peer.send(&response).await;
        let mut buffer = [0; 4096];
        let read = within("the response", client.read(&mut buffer)).await.unwrap();
        let end = response.split_once("\r\n\r\n").unwrap().1;
        assert!(buffer[..read].ends_with(end.as_bytes()), "the first read has the header only");
    }
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn interim_responses_are_relayed_to_clients_of_http_1_1_only() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (index, version) in ["1.1", "1.0"].into_iter().enumerate() {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(format!("GET / HTTP/{version}\r\nHost: app.test\r\n\r\n")).await;
        let peer = backend.peer(index).await;
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n")
            .await;
        if version == "1.1" {
            let hints = client.response().await;
            assert_eq!((hints.status(), hints.header("link")), (103, Some("</a>")));
            assert_eq!((hints.header("x-hop"), hints.header("connection")), (None, None));
        }
        let close = message::reply("200 OK", "Connection: close\r\n", "ok");
        peer.send(
            [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", &close[..]].concat(),
        )
        .await;
        if version == "1.1" {
            assert_eq!(client.response().await.status(), 100);
            assert_eq!(client.response().await.status(), 103);
        }
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
        assert!(reply.start.starts_with(&format!("HTTP/{version} ")), "{}", reply.start);
        peer.close();
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_waits_for_100_continue_and_for_one_second_without_it() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (index, continues) in [true, false].into_iter().enumerate() {
        let mut client = Raw::connect(proxy.web()).await;
        client.send(EXPECTING).await;
        let peer = backend.peer(index).await;
        assert_eq!(peer.head().await.unwrap().header("expect"), Some("100-continue"));
        if continues {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        // Without the backend's, the proxy sends its own.
        assert_eq!(client.response().await.status(), 100);
        assert_eq!(peer.rest(), b"");
        client.send("body").await;
        peer.wait_for_rest(b"body").await;
        peer.send(message::reply("200 OK", "Connection: close\r\n", "ok")).await;
        assert_eq!(client.response().await.text(), "ok");
        peer.close();
    }
    // A client that does not wait: the body is held until the backend wants it, or ignores the field.
    let mut client = Raw::connect(proxy.web()).await;
    client.send(format!("{EXPECTING}body")).await;
    let peer = backend.peer(2).await;
    peer.head().await.unwrap();
    peer.wait_for_rest(b"body").await;
    peer.send(message::ok("ok")).await;
    assert_eq!(client.final_response().await.text(), "ok");
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_140_an_early_413_of_a_backend_that_reads_no_more_is_relayed() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let large = "x".repeat(16 << 20);
    let mut client = Raw::connect(proxy.web()).await;
    let request = message::post("/", "", &large);
    let sending = async {
        client.try_send(&request).await;
        client.response().await
    };
    let answering = async {
        let peer = backend.peer(0).await;
        peer.stall();
        eventually("a part of the request", || !backend.bytes(0).is_empty()).await;
        // Neither reads nor closes.
        peer.send(message::reply("413 Content Too Large", "", "no")).await;
        peer
    };
    let (reply, peer) = tokio::join!(sending, answering);
    assert_eq!((reply.status(), reply.text().as_str()), (413, "no"));
    assert_eq!(reply.header("connection"), Some("close"));
    peer.resume();
    backend.ended(0).await;
    client.finish().await;
    client.assert_closed().await;
    drop((peer, backend));
    proxy.finish().await;
}
