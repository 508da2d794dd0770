//! Requests that do not match the API description of their route are refused.
//!
//! The head is checked when it arrives. A body with a schema is checked when it is in memory, before a byte of it is sent.
//! This filter protects: what it cannot read, it refuses.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use moorline_http::{BodyLength, FieldId, Head, RequestHead};

use super::variables::FilterFacts;
use crate::{
    config::{OpenApiConfig, path},
    error::{FailureKind, Phase, ProxyError, Side},
    openapi::{
        ApiDocument, ApiOperation, OperationMatch, RequestFault, RequestParts, RequestRefusal,
        query_values, without_base,
    },
};

/// Largest body that is checked at once, in bytes.
const QUICK: usize = 32 << 10;

/// The API description of a route.
#[derive(Debug)]
pub(super) struct ApiFilter {
    document: Arc<ApiDocument>,
    base: Option<Box<str>>,
    refuse_unknown: bool,
    max_body: u64,
    /// Bodies are decoded before they are checked.
    decodes: bool,
}

/// The check of a body that is still to be read.
#[derive(Debug)]
pub(crate) struct BodyCheck {
    filter: Arc<ApiFilter>,
    /// Index of the operation.
    operation: usize,
    content_type: Box<str>,
}

/// A request that does not match the description.
#[derive(Debug)]
pub(crate) struct InvalidRequest {
    /// The failure.
    pub(crate) error: ProxyError,
    /// What is said about it; `None`: the request is refused for another reason.
    pub(crate) report: Option<ApiReport>,
}

/// What a reply says about a request that does not match the description.
#[derive(Debug, Default)]
pub(crate) struct ApiReport {
    /// What is wrong.
    pub(crate) faults: Vec<RequestFault>,
    /// Methods of the path, if the method is wrong.
    pub(crate) allow: String,
}

impl ApiFilter {
    pub(super) fn new(config: &OpenApiConfig, decodes: bool) -> Arc<Self> {
        let OpenApiConfig { file: _, document, base, refuse_unknown, max_body } = config;
        Arc::new(Self {
            document: Arc::clone(document.document()),
            base: base.as_deref().map(Box::from),
            refuse_unknown: *refuse_unknown,
            max_body: *max_body,
            decodes,
        })
    }

    /// Checks the head of a request. Returns the check of its body, if it needs one.
    pub(super) fn check(
        self: &Arc<Self>,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<Option<Box<BodyCheck>>, Box<InvalidRequest>> {
        if is_preflight(request) {
            return Ok(None);
        }
        let found = match self.find(request, facts) {
            Ok(found) => found,
            Err(RequestRefusal::UnknownPath) if facts.reaches_engine() => return Ok(None),
            Err(_) if !self.refuse_unknown => return Ok(None),
            Err(refusal) => return Err(refused(refusal)),
        };
        let content_type = content_type(&request.head).map_err(refused)?;
        let query = query_values(facts.query.unwrap_or_default());
        let cookies = cookies(&request.head);
        let parts = RequestParts {
            query: &query,
            header: &|name| values(&request.head, name),
            cookies: &cookies,
            content_type,
            has_body: request.has_body(),
        };
        let checked = found.operation.check_head(&found.path, &parts);
        checked.map_err(|refusal| refused(refusal).in_operation(found.operation))?;
        if !(request.has_body() && found.operation.checks_body(content_type)) {
            return Ok(None);
        }
        self.body(request, found.index, content_type.unwrap_or_default()).map(Some)
    }

    fn find(
        &self,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<OperationMatch<'_>, RequestRefusal> {
        // Routes compare paths in this form, and many backends read them in it.
        let path = path::normal(facts.path);
        let below = match &self.base {
            Some(base) => without_base(&path, base),
            None => self.document.below_server(&path),
        };
        self.document.find(&request.method, below.ok_or(RequestRefusal::UnknownPath)?)
    }

    fn body(
        self: &Arc<Self>,
        request: &RequestHead,
        operation: usize,
        content_type: &str,
    ) -> Result<Box<BodyCheck>, Box<InvalidRequest>> {
        let mut codings = request.head.tokens(FieldId::ContentEncoding);
        let is_coded = codings.any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        if is_coded && !self.decodes {
            return Err(InvalidRequest::of(body_failure(FailureKind::ContentCoding)));
        }
        if let BodyLength::Exactly(length) = request.length()
            && length > self.max_body
        {
            return Err(InvalidRequest::of(body_failure(FailureKind::BodyTooLarge)));
        }
        let (filter, content_type) = (Arc::clone(self), content_type.into());
        Ok(Box::new(BodyCheck { filter, operation, content_type }))
    }
}

impl BodyCheck {
    /// Maximum size of the body.
    pub(crate) fn max_body(&self) -> u64 {
        self.filter.max_body
    }

    /// Checks the whole body. A large one takes time, on a separate thread.
    ///
    /// # Errors
    /// It is too large, or does not match its schema.
    pub(crate) async fn check(self: Box<Self>, body: &Bytes) -> Result<(), Box<InvalidRequest>> {
        if body.len() as u64 > self.max_body() {
            return Err(InvalidRequest::of(body_failure(FailureKind::BodyTooLarge)));
        }
        if body.len() <= QUICK {
            return self.matches(body);
        }
        let body = body.clone();
        let task = tokio::task::spawn_blocking(move || self.matches(&body));
        task.await.unwrap_or_else(|_| {
            let report = ApiReport::default();
            let error = body_failure(FailureKind::InvalidRequest);
            Err(Box::new(InvalidRequest { error, report: Some(report) }))
        })
    }

    fn matches(&self, body: &[u8]) -> Result<(), Box<InvalidRequest>> {
        let Some(operation) = self.filter.document.operations().get(self.operation) else {
            return Ok(());
        };
        let checked = operation.check_body(Some(&self.content_type), body);
        checked.map_err(|refusal| refused(refusal).in_operation(operation).in_body())
    }
}

impl From<ProxyError> for Box<InvalidRequest> {
    fn from(error: ProxyError) -> Self {
        Self::new(InvalidRequest { error, report: None })
    }
}

impl InvalidRequest {
    /// A refused request about which there is nothing more to say.
    fn of(error: ProxyError) -> Box<Self> {
        Box::new(Self { error, report: Some(ApiReport::default()) })
    }

    /// Names the operation for the log, with the first fault.
    fn in_operation(mut self: Box<Self>, operation: &ApiOperation) -> Box<Self> {
        let first = self.report.as_ref().and_then(|report| report.faults.first());
        let source = match first {
            Some(first) => format!("{operation}: {first}"),
            None => operation.to_string(),
        };
        self.error.source = Some(source.into());
        self
    }

    /// Marks the body as the reason.
    fn in_body(mut self: Box<Self>) -> Box<Self> {
        self.error.phase = Phase::RequestBody;
        self
    }
}

/// A question of a browser, which has no parameters, no body and no credentials.
fn is_preflight(request: &RequestHead) -> bool {
    let head = &request.head;
    request.method == Method::OPTIONS
        && !request.has_body()
        && head.has(FieldId::Origin)
        && head.has(FieldId::AccessControlRequestMethod)
}

/// The type of the body. Two readers must not see different types.
fn content_type(head: &Head) -> Result<Option<&str>, RequestRefusal> {
    if !head.has(FieldId::ContentType) {
        return Ok(None);
    }
    let only = head.only(FieldId::ContentType).and_then(|value| std::str::from_utf8(value).ok());
    only.map(Some).ok_or(RequestRefusal::MediaType)
}

fn values(head: &Head, name: &str) -> Vec<String> {
    head.named(name).map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned()).collect()
}

fn cookies(head: &Head) -> Vec<(String, String)> {
    let fields = head.all(FieldId::Cookie).map(String::from_utf8_lossy);
    let pairs = |field: std::borrow::Cow<'_, str>| -> Vec<(String, String)> {
        let pairs = field.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
    };
    fields.flat_map(pairs).collect()
}

fn failure(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Client, Phase::Select, kind)
}

fn body_failure(kind: FailureKind) -> ProxyError {
    ProxyError::new(Side::Client, Phase::RequestBody, kind)
}

fn refused(refusal: RequestRefusal) -> Box<InvalidRequest> {
    let (kind, report) = match refusal {
        RequestRefusal::UnknownPath => (FailureKind::NoOperation, ApiReport::default()),
        RequestRefusal::UnknownMethod(methods) => {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let allow = names.join(", ");
            (FailureKind::NoOperationMethod, ApiReport { allow, ..ApiReport::default() })
        }
        RequestRefusal::MediaType => (FailureKind::MediaType, ApiReport::default()),
        RequestRefusal::Invalid(faults) => {
            (FailureKind::InvalidRequest, ApiReport { faults, ..ApiReport::default() })
        }
    };
    Box::new(InvalidRequest { error: failure(kind), report: Some(report) })
}
