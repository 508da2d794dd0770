//! hyper as an oracle for heads: it accepts what the parsers accept, and decides on the same body length.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Body, Incoming},
    client, header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use moorline_http::{BodyLength, FieldId, Head};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::{Builder, Runtime},
    sync::mpsc,
};

use crate::{
    generators::{damaged_heads, request_heads, response_heads},
    head_checks::{self, exact_length},
};

/// A head as hyper reads it: first line, fields, exact length of the body.
type OracleHead = (String, HeaderMap, Option<u64>);

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// Reads a request; `None` if hyper rejects it.
fn request_by_hyper(input: &[u8]) -> Option<OracleHead> {
    runtime().block_on(async {
        let (mut client, server) = duplex(input.len() + 4096);
        client.write_all(input).await.unwrap();
        client.shutdown().await.unwrap();
        let (sender, mut read) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let line = format!("{} {}", request.method(), request.uri());
            let length = request.body().size_hint().exact();
            let _ = sender.send((line, request.headers().clone(), length));
            async { Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new())) }
        });
        let mut builder = http1::Builder::new();
        let connection = builder.half_close(true).serve_connection(TokioIo::new(server), service);
        let _ = connection.await;
        read.recv().await
    })
}

/// Reads the response to a request with this method; `None` if hyper rejects it.
fn response_by_hyper(input: &[u8], method: &Method) -> Option<OracleHead> {
    runtime().block_on(async {
        let (client, mut server) = duplex(input.len() + 4096);
        let (mut sender, connection) =
            client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
        let request = Request::builder().method(method).uri("/").header(header::HOST, "a");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let reply = async {
            let _ = server.read(&mut [0; 1024]).await;
            server.write_all(input).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let response = async {
            let response = sender.send_request(request).await.ok()?;
            let line = response.status().as_str().to_owned();
            Some((line, response.headers().clone(), response.body().size_hint().exact()))
        };
        let connection = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            (response, ()) = async { tokio::join!(response, reply) } => response,
            () = connection => None,
        }
    })
}

/// Asserts that both have the same fields, except for those about the length of the body.
fn compare_fields(ours: &Head, hyper: &HeaderMap) -> Result<(), TestCaseError> {
    let framing = [FieldId::ContentLength, FieldId::TransferEncoding];
    let mut ours: Vec<_> = ours
        .fields()
        .filter(|field| !framing.contains(&field.id))
        .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
        .collect();
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let mut hyper: Vec<_> = hyper
        .iter()
        .filter(|(name, _)| !framing.contains(name))
        .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect();
    ours.sort();
    hyper.sort();
    prop_assert_eq!(ours, hyper);
    Ok(())
}

fn compare_request(input: &[u8]) -> Result<(), TestCaseError> {
    let Ok(Some(read)) = head_checks::request(input, &[]) else { return Ok(()) };
    let head = read.head;
    // hyper accepts fewer characters in a target.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/?=&".contains(&byte);
    if !head.target().starts_with('/') || !head.target().bytes().all(plain) {
        return Ok(());
    }
    let Some((line, fields, length)) = request_by_hyper(input) else {
        prop_assert!(false, "hyper rejects the request");
        return Ok(());
    };
    prop_assert_eq!(line, format!("{} {}", head.method, head.target()));
    prop_assert_eq!(length, exact_length(head.length()));
    compare_fields(&head.head, &fields)
}

fn compare_response(input: &[u8], method: &Method) -> Result<(), TestCaseError> {
    let Ok(Some(read)) = head_checks::response(input, method, &[]) else { return Ok(()) };
    let head = read.head;
    if head.status.is_informational() {
        return Ok(());
    }
    let Some((line, fields, length)) = response_by_hyper(input, method) else {
        prop_assert!(false, "hyper rejects the response");
        return Ok(());
    };
    prop_assert_eq!(line, head.status.as_str());
    if head.length() != BodyLength::UntilClose || length.is_some() {
        prop_assert_eq!(length, exact_length(head.length()));
    }
    compare_fields(&head.head, &fields)
}

proptest! {
    #[test]
    fn hyper_reads_the_same_requests(head in prop_oneof![request_heads(), damaged_heads()]) {
        compare_request(&head)?;
    }

    #[test]
    fn hyper_reads_the_same_responses(
        head in prop_oneof![response_heads(), damaged_heads()],
        asks_for_body in any::<bool>(),
    ) {
        let method = if asks_for_body { Method::GET } else { Method::HEAD };
        compare_response(&head, &method)?;
    }
}
