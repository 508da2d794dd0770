//! Answers a request by a response that takes time to be made, or whose body is a stream: a file, for example.
//!
//! The request ends here. It has no backend, and its scope stays open until the last byte of the body.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::Bytes;
use http::StatusCode;
use moorline_http::{BodyLength, FieldId};

use super::{
    client::ClientSide,
    connection::{self, Answered, Flow},
    reply::{self, ReplyContext},
    streamed::StreamedDelivery,
};
use crate::{
    error::{Phase, ProxyError},
    gateway::{
        BodyStream, FileRequest, LocalReply, ReplyBody, ResponseBodyChange, ResponseFilters,
    },
    stream_log::StreamScope,
};

/// A request that is answered piece by piece.
pub(super) struct DeferredReply {
    pub(super) scope: StreamScope,
    pub(super) context: ReplyContext,
    pub(super) filters: Option<Box<ResponseFilters>>,
    pub(super) source: ReplySource,
}

/// The source of a reply.
pub(super) enum ReplySource {
    /// A file, which is to be found.
    File(FileRequest),
    /// It is there.
    Ready(Box<LocalReply>),
}

impl DeferredReply {
    /// Makes the response and delivers it.
    pub(super) async fn answer(self, client: &mut ClientSide, request: Answered) -> Flow {
        let Self { mut scope, context, filters, source } = self;
        let file = match source {
            ReplySource::File(file) => file,
            ReplySource::Ready(mut made) => {
                let mut filters = filters;
                if let Some(filters) = &mut filters
                    && let Err(error) =
                        transform(&mut made, filters, (&context, &mut scope), &request).await
                {
                    let reply = reply::refuse(scope, &error, &context);
                    return connection::answer(client, reply, request).await;
                }
                return deliver(client, scope, (*made, filters.as_deref()), request).await;
            }
        };
        scope.enter(Phase::ResponseHeader);
        let mut making = pin!(file.reply());
        let made = poll_fn(|cx| match making.as_mut().poll(cx) {
            Poll::Ready(made) => Poll::Ready(Some(made)),
            Poll::Pending => client.poll_departure(cx).map(|_| None),
        });
        match made.await {
            Some(Ok(made)) => deliver(client, scope, (made, filters.as_deref()), request).await,
            Some(Err(error)) => {
                let reply = reply::refuse(scope, &error, &context);
                connection::answer(client, reply, request).await
            }
            None => {
                scope.client_lost(crate::error::FailureKind::Incomplete);
                Flow::Drop
            }
        }
    }
}

/// Transforms a stored response, as one of a backend.
///
/// # Errors
/// It must not reach the client.
async fn transform(
    made: &mut LocalReply,
    filters: &mut ResponseFilters,
    (context, scope): (&ReplyContext, &mut StreamScope),
    request: &Answered,
) -> Result<(), ProxyError> {
    let LocalReply { head, body } = made;
    let ReplyBody::Bytes(bytes) = body else { return Ok(()) };
    if !bytes.is_empty() {
        head.set_length(bytes.len() as u64);
    }
    match filters.begin(head) {
        None => {}
        Some(ResponseBodyChange::Refused(error)) => return Err(error),
        Some(ResponseBodyChange::ErrorPage) => {
            *bytes = reply::replace(head, context, scope.record().id(), !request.is_head);
        }
        Some(ResponseBodyChange::Document(change)) => {
            let passes = change.passes_faults();
            match change.change(bytes.clone(), &mut head.head).await {
                Ok(changed) => *bytes = changed,
                Err(_) if passes => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Delivers a response that is made here, piece by piece.
async fn deliver(
    client: &mut ClientSide,
    mut scope: StreamScope,
    (made, filters): (LocalReply, Option<&ResponseFilters>),
    request: Answered,
) -> Flow {
    let LocalReply { mut head, body } = made;
    let stream = match body {
        ReplyBody::Stream(stream) => stream,
        ReplyBody::Bytes(bytes) => BodyStream::of(bytes),
    };
    head.head.set(FieldId::XRequestId, scope.record().id());
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if stream.length() == Some(0) && !bodiless && !head.head.has(FieldId::ContentLength) {
        head.head.set(FieldId::ContentLength, "0");
    }
    let length = stream.length().map_or(BodyLength::Chunked, BodyLength::Exactly);
    let filter = filters.and_then(|filters| {
        filters.apply(&mut head);
        filters.body(&mut head, length)
    });
    scope.record().status = head.status.as_u16();
    scope.enter(Phase::ResponseBody);
    let stream = if request.is_head { BodyStream::of(Bytes::new()) } else { stream };
    let body = (stream, filter);
    let mut delivery = Box::new(StreamedDelivery::of_stream(client, scope, &head, body, request));
    poll_fn(|cx| delivery.poll(cx, client, None)).await
}
