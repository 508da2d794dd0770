//! Transformation of requests and responses: JSON bodies, statuses and error pages; and decoding of request bodies.
//!
//! This file decides by heads what happens to a body. The data path then reads the body, and has it
//! [changed](RequestBodyChange::change).
//!
//! Never touched: requests of Engine.IO and upgrades (the chain leaves them out), event streams, and messages without a body.
//! Responses with a part of a body (206) cannot be changed; requests therefore lose their `Range`, so that backends send
//! none.
//!
//! Digests and lengths of a changed body are removed or corrected; its entity tag becomes a weak one, as equal
//! bodies of a backend are changed equally.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use moorline_http::{BodyLength, FieldId, Head, RequestHead, ResponseHead};

use super::{
    api::{BodyCheck, InvalidRequest},
    compress::{DIGESTS, media_type, weaken},
    decoding::{BodyCoding, DecodingFault},
    document::{Document, DocumentFacts, DocumentFault, is_json},
    variables::FilterFacts,
};
use crate::{
    config::{DecompressConfig, TransformConfig},
    error::{FailureKind, Phase, ProxyError, Side},
};

/// The transformation of a route.
#[derive(Debug)]
pub(super) struct Transform {
    request: Option<Arc<Document>>,
    response: Option<Arc<Document>>,
    status: Arc<[(u16, u16)]>,
    error_pages: Arc<[u16]>,
}

/// The transformation of the response to one request.
#[derive(Debug)]
pub(super) struct ResponseTransform {
    document: Option<Arc<Document>>,
    status: Arc<[(u16, u16)]>,
    error_pages: Arc<[u16]>,
    facts: DocumentFacts,
    is_head: bool,
}

/// What is done with the body of a request before a backend gets it.
#[derive(Debug, Default)]
pub(crate) struct RequestBodyChange {
    /// The check by an API description, before it is transformed.
    check: Option<Box<BodyCheck>>,
    decoding: Option<(BodyCoding, DecompressConfig)>,
    document: Option<(Arc<Document>, DocumentFacts)>,
}

/// What is done with the body of a response before the client gets it.
#[derive(Debug)]
pub(crate) enum ResponseBodyChange {
    /// An error page of the proxy takes its place.
    ErrorPage,
    /// It is changed.
    Document(DocumentChange),
    /// It must not reach the client.
    Refused(ProxyError),
}

/// The change of one JSON body.
#[derive(Debug)]
pub(crate) struct DocumentChange {
    document: Arc<Document>,
    facts: DocumentFacts,
    coding: Option<BodyCoding>,
}

impl Transform {
    pub(super) fn new(config: &TransformConfig) -> Option<Self> {
        let TransformConfig { request, response, status, error_pages } = config;
        (!config.is_empty()).then(|| Self {
            request: request.as_ref().and_then(Document::new),
            response: response.as_ref().and_then(Document::new),
            status: status.as_slice().into(),
            error_pages: error_pages.as_slice().into(),
        })
    }

    /// Decides about the body of a request.
    ///
    /// # Errors
    /// The body cannot be changed, and must not pass.
    pub(super) fn request(
        &self,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
        change: &mut Option<Box<RequestBodyChange>>,
    ) -> Result<(), ProxyError> {
        let Some(document) = self.request.as_ref().filter(|_| request.has_body()) else {
            return Ok(());
        };
        if !is_json(&media_type(&request.head).unwrap_or_default()) {
            return match document.passes_others {
                true => Ok(()),
                false => Err(request_failure(FailureKind::MediaType)),
            };
        }
        let is_decoded = change.as_ref().is_some_and(|change| change.decoding.is_some());
        if !is_decoded && BodyCoding::of(&request.head) != Ok(None) {
            return match document.passes_faults {
                true => Ok(()),
                false => Err(request_failure(FailureKind::ContentCoding)),
            };
        }
        let facts = DocumentFacts::of(facts);
        change.get_or_insert_default().document = Some((Arc::clone(document), facts));
        Ok(())
    }

    /// Prepares the transformation of the response, and asks the backend for one that can be changed.
    pub(super) fn response(
        &self,
        request: &mut RequestHead,
        facts: &FilterFacts<'_>,
    ) -> ResponseTransform {
        if self.response.is_some() {
            request.head.set(FieldId::AcceptEncoding, "identity");
            request.head.remove_named(b"range");
            request.head.remove_named(b"if-range");
        }
        ResponseTransform {
            document: self.response.clone(),
            status: Arc::clone(&self.status),
            error_pages: Arc::clone(&self.error_pages),
            facts: DocumentFacts::of(facts),
            is_head: request.method == Method::HEAD,
        }
    }
}

impl ResponseTransform {
    /// Changes the head of a response of a backend, and decides about its body; `None`: the body stays as it is.
    pub(super) fn begin(mut self, head: &mut ResponseHead) -> Option<ResponseBodyChange> {
        let kind = media_type(&head.head).unwrap_or_default();
        if head.status.is_informational() || kind == "text/event-stream" {
            return None;
        }
        let status = head.status.as_u16();
        if let Some((_, to)) = self.status.iter().find(|(from, _)| *from == status) {
            head.set_status(StatusCode::from_u16(*to).unwrap_or(head.status));
        }
        if self.error_pages.iter().any(|page| *page == status || *page == status / 100) {
            return Some(ResponseBodyChange::ErrorPage);
        }
        let document = self.document.take()?;
        let bodiless = self.is_head
            || head.length() == BodyLength::Exactly(0)
            || matches!(status, 204 | 205 | 304);
        if bodiless {
            match status {
                304 => weaken(&mut head.head),
                _ if self.is_head && is_json(&kind) => describe_changed(&mut head.head),
                _ => {}
            }
            return None;
        }
        let refused = |kind, passes: bool| {
            let error = ProxyError::new(Side::Backend, Phase::ResponseBody, kind);
            (!passes).then_some(ResponseBodyChange::Refused(error))
        };
        if !is_json(&kind) {
            return refused(FailureKind::MediaType, document.passes_others);
        }
        if status == 206 || head.head.named("content-range").next().is_some() {
            return refused(FailureKind::Unchangeable, document.passes_faults);
        }
        let Ok(coding) = BodyCoding::of(&head.head) else {
            return refused(FailureKind::ContentCoding, document.passes_faults);
        };
        if let BodyLength::Exactly(length) = head.length()
            && length > document.limit
        {
            return refused(FailureKind::BodyTooLarge, document.passes_faults);
        }
        self.facts.status = Some(head.status.as_u16());
        Some(ResponseBodyChange::Document(DocumentChange { document, facts: self.facts, coding }))
    }
}

impl DocumentChange {
    /// Maximum size of the body, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.document.limit
    }

    /// Whether a body that cannot be changed passes as it is.
    pub(crate) fn passes_faults(&self) -> bool {
        self.document.passes_faults
    }

    /// Returns the changed body, and changes the head of its response accordingly.
    ///
    /// # Errors
    /// The body cannot be changed. The head is that of the backend.
    pub(crate) async fn change(self, body: Bytes, head: &mut Head) -> Result<Bytes, ProxyError> {
        let Self { document, facts, coding } = self;
        let limits = DecompressConfig { ratio: u32::MAX, max: document.limit };
        let decoding = coding.map(|coding| (coding, limits));
        let body = decoded(decoding, body).await.map_err(|fault| match fault {
            DecodingFault::Coding => FailureKind::ContentCoding,
            DecodingFault::TooLarge => FailureKind::BodyTooLarge,
        });
        let failure = |kind| ProxyError::new(Side::Backend, Phase::ResponseBody, kind);
        let changed = changed(&document, &facts, &body.map_err(failure)?).await;
        let body = changed.map_err(|fault| failure(fault.kind()).with_source(fault))?;
        describe_changed(head);
        head.remove(FieldId::ContentEncoding);
        Ok(body)
    }
}

impl RequestBodyChange {
    /// Creates a change that only checks the body.
    pub(super) fn checked(check: Box<BodyCheck>) -> Box<Self> {
        Box::new(Self { check: Some(check), ..Self::default() })
    }

    /// Decides how the body of a request is decoded, if it has a coding.
    ///
    /// # Errors
    /// The coding is not known.
    pub(super) fn decode(
        change: &mut Option<Box<Self>>,
        limits: DecompressConfig,
        request: &RequestHead,
    ) -> Result<(), ProxyError> {
        if !request.has_body() {
            return Ok(());
        }
        let coding = BodyCoding::of(&request.head)
            .map_err(|_| request_failure(FailureKind::ContentCoding))?;
        if let Some(coding) = coding {
            change.get_or_insert_default().decoding = Some((coding, limits));
        }
        Ok(())
    }

    /// Maximum size of the body that the client sends, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        match (&self.decoding, &self.check, &self.document) {
            // No coding is worth it if it makes a body larger.
            (Some((_, limits)), ..) => limits.max,
            (None, Some(check), _) => check.max_body(),
            (None, None, document) => document.as_ref().map_or(0, |(document, _)| document.limit),
        }
    }

    /// Whether a body beyond the limit passes as it is.
    pub(crate) fn passes_large(&self) -> bool {
        self.decoding.is_none()
            && self.check.is_none()
            && self.document.as_ref().is_some_and(|(document, _)| document.passes_faults)
    }

    /// Maximum size of a body of this size after decoding, in bytes.
    pub(crate) fn most_decoded(&self, body: u64) -> u64 {
        self.decoding.map_or(body, |(_, limits)| limits.most(body))
    }

    /// Returns the body for the backend, and changes the head of the request accordingly. `most`: maximum size after
    /// decoding.
    ///
    /// # Errors
    /// The body cannot be decoded or changed, and must not pass.
    pub(crate) async fn change(
        self,
        body: Bytes,
        most: u64,
        head: &mut Head,
    ) -> Result<Bytes, Box<InvalidRequest>> {
        let Self { check, decoding, document } = self;
        let decoding = decoding.map(|(coding, limits)| {
            (coding, DecompressConfig { max: limits.max.min(most), ..limits })
        });
        let is_decoded = decoding.is_some();
        let mut body = decoded(decoding, body).await.map_err(|fault| {
            request_failure(match fault {
                DecodingFault::Coding => FailureKind::BadRequest(
                    "The request body is not encoded as its Content-Encoding says.",
                ),
                DecodingFault::TooLarge => FailureKind::BodyTooLarge,
            })
        })?;
        if let Some(check) = check {
            check.check(&body).await?;
        }
        let mut is_changed = is_decoded;
        if let Some((document, facts)) = document {
            let change = match body.len() as u64 > document.limit {
                true => Err(DocumentFault::TooLarge),
                false => changed(&document, &facts, &body).await,
            };
            match change {
                Ok(other) => (body, is_changed) = (other, true),
                Err(fault) if document.passes_faults => {
                    tracing::debug!(%fault, "the body of a request passes unchanged");
                }
                Err(fault) => return Err(request_failure(fault.kind()).with_source(fault).into()),
            }
        }
        if is_decoded {
            head.remove(FieldId::ContentEncoding);
        }
        if is_changed {
            DIGESTS.iter().for_each(|name| head.remove_named(name));
        }
        Ok(body)
    }
}

/// Decodes a body. The time may be long: threads of their own do it.
async fn decoded(
    decoding: Option<(BodyCoding, DecompressConfig)>,
    body: Bytes,
) -> Result<Bytes, DecodingFault> {
    let Some((coding, limits)) = decoding.filter(|_| !body.is_empty()) else { return Ok(body) };
    let task = tokio::task::spawn_blocking(move || coding.decode(&body, &limits));
    task.await.map_err(|_| DecodingFault::Coding)?.map(Bytes::from)
}

async fn changed(
    document: &Arc<Document>,
    facts: &DocumentFacts,
    body: &Bytes,
) -> Result<Bytes, DocumentFault> {
    if body.is_empty() {
        return Ok(Bytes::new());
    }
    if !document.is_slow(body) {
        return document.apply(body, facts).map(Bytes::from);
    }
    let (document, facts, body) = (Arc::clone(document), facts.clone(), body.clone());
    let task = tokio::task::spawn_blocking(move || document.apply(&body, &facts));
    task.await.map_err(|_| DocumentFault::NotJson)?.map(Bytes::from)
}

/// Removes what describes the body before its change.
fn describe_changed(head: &mut Head) {
    head.remove(FieldId::ContentLength);
    head.remove_named(b"accept-ranges");
    DIGESTS.iter().for_each(|name| head.remove_named(name));
    weaken(head);
}

/// Removes everything that describes the body of a response.
pub(crate) fn describe_nothing(head: &mut Head) {
    const FIELDS: [&[u8]; 8] = [
        b"accept-ranges",
        b"content-disposition",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-range",
        b"etag",
        b"last-modified",
    ];
    FIELDS.iter().chain(&DIGESTS).for_each(|name| head.remove_named(name));
    head.remove(FieldId::ContentLength);
    head.remove(FieldId::ContentEncoding);
    head.remove(FieldId::ContentType);
}

fn request_failure(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Client, Phase::RequestBody, kind)
}

impl DocumentFacts {
    fn of(facts: &FilterFacts<'_>) -> Self {
        Self {
            method: facts.method.into(),
            host: facts.host.into(),
            path: facts.path.into(),
            status: None,
        }
    }
}

impl DocumentFault {
    fn kind(&self) -> FailureKind {
        match self {
            Self::TooLarge => FailureKind::BodyTooLarge,
            Self::NotJson | Self::Template(_) => FailureKind::Unchangeable,
        }
    }
}
