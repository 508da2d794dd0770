//! Reads the beginning of a response's body, which stays where it is.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use moorline_http::{BodyDecoder, BodyLength, ChunkedOutput, ResponseHead};
use tokio::time::Instant;

use super::{
    client::ClientSide,
    exchange::{BackendResponse, read_error},
    session_detect::Detection,
};
use crate::error::{FailureKind, Phase, ProxyError, Side};

/// Reads until `decide` has decided. It gets the head, the decoded body so far, and whether the body is complete. At
/// most `pause` may pass without a byte.
pub(super) async fn inspect<T>(
    answer: &mut BackendResponse,
    client: &mut ClientSide,
    pause: Duration,
    mut decide: impl FnMut(&ResponseHead, &[u8], bool) -> Detection<T>,
) -> Result<T, ProxyError> {
    let mut ended = false;
    loop {
        let (complete, detection) = match answer.head.length() {
            BodyLength::Chunked => {
                let mut bytes =
                    answer.input.as_ref().map_or(&[][..], |input| input.filled()).to_vec();
                let mut decoder = BodyDecoder::new(BodyLength::Chunked, ChunkedOutput::Decoded);
                let decoded = decoder.decode(&mut bytes, |_| ());
                let kept = decoded
                    .map_err(|fault| failed(FailureKind::Malformed).with_source(fault))?
                    .kept;
                let complete = decoder.is_ended();
                (complete, decide(&answer.head, &bytes[..kept], complete))
            }
            length => {
                let bytes = answer.input.as_ref().map_or(&[][..], |input| input.filled());
                let most = match length {
                    BodyLength::Exactly(length) => usize::try_from(length).unwrap_or(usize::MAX),
                    BodyLength::Chunked | BodyLength::UntilClose => usize::MAX,
                };
                let complete = bytes.len() >= most || (ended && most == usize::MAX);
                (complete, decide(&answer.head, &bytes[..bytes.len().min(most)], complete))
            }
        };
        match detection {
            Detection::Decided(decided) => return Ok(decided),
            Detection::NeedsMore if complete || ended => {
                return Err(failed(FailureKind::Incomplete));
            }
            Detection::NeedsMore => {}
        }
        let until = Instant::now() + pause;
        ended = poll_fn(|cx| poll_more(cx, answer, client, until)).await?;
    }
}

/// Reads more of the body; true at the end of the input.
fn poll_more(
    cx: &mut Context<'_>,
    answer: &mut BackendResponse,
    client: &mut ClientSide,
    until: Instant,
) -> Poll<Result<bool, ProxyError>> {
    let buffer = answer.input.get_or_insert_default();
    if buffer.is_full() {
        buffer.reserve(buffer.capacity());
    }
    match buffer.poll_fill(cx, answer.lease.stream()) {
        Poll::Ready(Ok(read)) => Poll::Ready(Ok(read == 0)),
        Poll::Ready(Err(error)) => {
            Poll::Ready(Err(ProxyError { phase: Phase::ResponseBody, ..read_error(error) }))
        }
        Poll::Pending if client.timer.poll_until(cx, until).is_ready() => {
            Poll::Ready(Err(failed(FailureKind::TimedOut)))
        }
        Poll::Pending => Poll::Pending,
    }
}

fn failed(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Backend, Phase::ResponseBody, kind)
}
