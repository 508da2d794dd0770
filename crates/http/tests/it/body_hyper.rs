//! hyper as an oracle: it accepts each body that the decoder accepts, and reads the same data.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use moorline_http::{BodyFault, ChunkedOutput};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::mpsc,
};

use crate::{
    body_checks::decode,
    generators::{damaged_bodies, syntax, valid_bodies},
};

/// Data and number of trailers, as hyper's server reads them; `None` if it rejects the body.
fn read_by_hyper(body: &[u8]) -> Option<(Vec<u8>, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let input = [head, body].concat();
        let (mut client, server) = duplex(input.len() + 4096);
        client.write_all(&input).await.unwrap();
        client.shutdown().await.unwrap();
        let (sender, mut read) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                let _ = sender.send(request.into_body().collect().await.ok());
                Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = http1::Builder::new();
        let connection = builder.half_close(true).serve_connection(TokioIo::new(server), service);
        let _ = connection.await;
        let _ = client.read_to_end(&mut Vec::new()).await;
        let body = read.recv().await.flatten()?;
        let trailers = body.trailers().map_or(0, |fields| fields.len());
        Some((body.to_bytes().to_vec(), trailers))
    })
}

/// Compares the decoder with hyper. Only the decoder may be stricter.
fn compare(body: &[u8]) -> Result<(), TestCaseError> {
    let ours = decode(body, ChunkedOutput::Framed, []);
    let hyper = read_by_hyper(body);
    match (&ours.trailers, hyper) {
        (Ok(trailers), Some((data, count))) => {
            prop_assert_eq!(&ours.data, &data);
            let passed = trailers.iter().filter(|byte| **byte == b'\n').count();
            prop_assert!(passed <= count, "{} of {} trailers", passed, count);
            let output = read_by_hyper(&ours.output);
            prop_assert_eq!(output, Some((data, passed)), "the output differs");
        }
        (Ok(_), None) => prop_assert!(false, "hyper rejects the body"),
        (Err(BodyFault::Incomplete), Some(_)) => {
            prop_assert!(false, "hyper reads the end of an incomplete body")
        }
        // hyper accepts spaces after a size, sizes with many zeros, controls in extensions, and more
        // in trailers.
        (Err(_), _) => {}
    }
    Ok(())
}

proptest! {
    #[test]
    fn hyper_reads_the_same_from_valid_bodies(body in valid_bodies()) {
        let (data, _) = read_by_hyper(&body.bytes).expect("a valid body");
        prop_assert_eq!(&data, &body.data);
        compare(&body.bytes)?;
    }

    #[test]
    fn hyper_accepts_what_the_decoder_accepts(body in prop_oneof![damaged_bodies(), syntax()]) {
        compare(&body)?;
    }
}
