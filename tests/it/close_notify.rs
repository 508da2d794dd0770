//! Responses of TLS backends that end the connection without `close_notify`.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{End, Raw, front::Authority, message, proxy::Setup, within};

/// Answers the first request of each connection with these bytes, and ends the connection with FIN
/// only, without close_notify.
fn serve(listener: TcpListener, config: ServerConfig, answer: Vec<u8>) -> AbortHandle {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).await.is_err() {
                    break;
                }
                head.extend(byte);
            }
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
            // Send FIN on the TCP socket, then wait for the proxy's end.
            let (socket, _) = stream.get_mut();
            socket.shutdown().await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    });
    task.abort_handle()
}

/// Returns the bytes that a client receives, how they ended, and the log line.
async fn relayed(answer: &[u8]) -> (Vec<u8>, End, String) {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = serve(listener, ca.issue("127.0.0.1", |_| {}).server_config(), answer.to_vec());
    let proxy = setup
        .with(|settings| {
            settings.backends(&[address]).pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"off\" }");
        })
        .start()
        .await;
    let mut client = Raw::connect(proxy.web()).await;
    client.send(message::get("/", "Connection: close\r\n")).await;
    let (bytes, end) = within("the end of the response", client.rest()).await;
    let line = proxy.wait_for_log("the log line", |line| line["path"] == "/").await;
    let termination = line["termination"].as_str().unwrap().to_owned();
    task.abort();
    proxy.finish().await;
    (bytes, end, termination)
}

#[tokio::test]
async fn a_response_with_a_length_is_delivered_without_close_notify() {
    let body = "x".repeat(100_000);
    let length = body.len();
    for fields in ["", "Connection: close\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
        let (bytes, end, termination) = relayed(answer.as_bytes()).await;
        assert_eq!((end, termination.as_str()), (End::Fin, "complete"));
        assert!(bytes.ends_with(body.as_bytes()), "{} bytes", bytes.len());
    }
}

#[tokio::test]
async fn a_response_in_chunks_is_delivered_without_close_notify() {
    let body = "x".repeat(0x4000);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         4000\r\n{body}\r\n3\r\nend\r\n0\r\n\r\n"
    );
    let (bytes, end, termination) = relayed(answer.as_bytes()).await;
    assert_eq!((end, termination.as_str()), (End::Fin, "complete"));
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("end") && text.ends_with("0\r\n\r\n"), "{}", text.len());
}

#[tokio::test]
async fn a_response_without_a_body_is_delivered_without_close_notify() {
    let (bytes, end, termination) = relayed(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!((end, termination.as_str()), (End::Fin, "complete"));
    assert!(bytes.starts_with(b"HTTP/1.1 204 "), "{}", bytes.escape_ascii());
}

#[tokio::test]
async fn a_response_without_length_is_visibly_cut_without_close_notify() {
    let (bytes, end, termination) = relayed(b"HTTP/1.1 200 OK\r\n\r\nhalf of").await;
    assert_eq!(termination, "backend_response_body_incomplete");
    // Either the connection is reset, or its last chunk is missing.
    let cut = end != End::Fin || !bytes.ends_with(b"0\r\n\r\n");
    assert!(cut, "{end:?} {}", bytes.escape_ascii());
}
