//! Changes the body of a backend's response before the client gets anything of it.
//!
//! The changed body takes the place of the bytes that were read with the head. The delivery then passes it on as it does with
//! every response whose body is there already.

use bytes::Bytes;
use http::Method;
use moorline_http::{BodyDecoder, Buffer, ChunkedOutput};

use super::{
    arrival::Arrival,
    attempt::AttemptOutcome,
    client::ClientSide,
    exchange::BackendResponse,
    reply,
    whole_body::{self, BodyLimits, ReadBody},
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    gateway::{BodyCopy, DocumentChange, ResponseBodyChange},
};

impl Arrival<'_> {
    /// Changes a response. The cache stores what the backend sent.
    ///
    /// # Errors
    /// The response must not reach the client.
    pub(super) async fn change_response(
        &mut self,
        client: &mut ClientSide,
        reached: &mut AttemptOutcome,
        (change, copy): (ResponseBodyChange, &mut Option<Box<BodyCopy>>),
    ) -> Result<(), ProxyError> {
        self.state.scope.enter(Phase::ResponseBody);
        let answer = &mut reached.answer;
        match change {
            ResponseBodyChange::Refused(error) => Err(error),
            ResponseBodyChange::ErrorPage => {
                *copy = None;
                discard(answer);
                let (context, id) = (&self.state.reply_context, self.state.scope.record().id());
                let has_body = self.state.method != Method::HEAD;
                let page = reply::replace(&mut answer.head, context, id, has_body);
                answer.input = (!page.is_empty()).then(|| Buffer::of(&page));
                Ok(())
            }
            ResponseBodyChange::Document(change) => {
                let changed = self.change_document(client, answer, (change, copy)).await;
                if changed.as_ref().is_err_and(|error| error.side == Side::Backend) {
                    answer.lease.aborted(&self.state.proxy.metrics);
                }
                changed
            }
        }
    }

    async fn change_document(
        &mut self,
        client: &mut ClientSide,
        answer: &mut BackendResponse,
        (change, copy): (DocumentChange, &mut Option<Box<BodyCopy>>),
    ) -> Result<(), ProxyError> {
        let passes = change.passes_faults();
        let limits = BodyLimits {
            most: change.limit(),
            pause: self.state.timeouts().body_idle,
            memory: &self.state.proxy.body_memory,
            keeps: passes,
        };
        let sides = (client, &mut self.outgoing);
        let body = match whole_body::of_response(sides, answer, &limits).await? {
            ReadBody::Whole(body) => Bytes::from(body),
            ReadBody::TooLarge if passes => return Ok(()),
            ReadBody::TooLarge => {
                let kind = FailureKind::BodyTooLarge;
                return Err(ProxyError::new(Side::Backend, Phase::ResponseBody, kind));
            }
        };
        if let Some(copy) = copy.take().and_then(|copy| copy.push(&body)) {
            copy.complete();
        }
        if answer.input.take().is_some() {
            // Bytes behind the response.
            answer.lease.keep = None;
        }
        let changed = match change.change(body.clone(), &mut answer.head.head).await {
            Ok(changed) => changed,
            Err(error) if passes => {
                tracing::debug!(%error, "the body of a response passes unchanged");
                body
            }
            Err(error) => return Err(error),
        };
        answer.head.set_length(changed.len() as u64);
        answer.input = (!changed.is_empty()).then(|| Buffer::of(&changed));
        Ok(())
    }
}

/// Gives up the body of a response. Its connection is kept only if all of the body is there.
fn discard(answer: &mut BackendResponse) {
    let mut input = answer.input.take().unwrap_or_default();
    let mut decoder = BodyDecoder::new(answer.head.length(), ChunkedOutput::Decoded);
    let all = input.len();
    let consumed = decoder.decode(input.filled_mut(), |_| ()).map_or(0, |decoded| decoded.consumed);
    if !decoder.is_ended() || consumed != all {
        answer.lease.keep = None;
    }
}
