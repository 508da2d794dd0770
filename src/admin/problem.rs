//! Errors of API requests, and their replies: one sentence as `{"error":"…"}`.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use crate::api::ApiError;
use crate::control::CommandError;

/// Why an API request failed.
#[derive(Debug)]
pub(super) enum Problem {
    /// Missing or wrong token.
    Unauthorized {
        /// Whether the request has a token.
        given: bool,
    },
    /// Unknown path.
    NoPath,
    /// The path does not allow the method; the text lists the allowed methods.
    Method(String),
    /// The `Content-Type` of the body is not JSON.
    MediaType,
    /// The body is longer than this number of bytes.
    TooLong(usize),
    /// The body did not arrive in time.
    TooSlow,
    /// Invalid path, query or body; the text says why.
    Invalid(String),
    /// The query or command failed.
    Command(CommandError),
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::NoPath | Self::Command(CommandError::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Invalid(_) | Self::Command(CommandError::Invalid(_)) => StatusCode::BAD_REQUEST,
            Self::Command(CommandError::Conflict(_)) => StatusCode::CONFLICT,
            // A valid request that cannot be executed, for example because the file is invalid or
            // the new binary crashes.
            Self::Command(CommandError::Failed(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Command(CommandError::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Unauthorized { given: false } => {
                "the admin API needs a token; send `Authorization: Bearer TOKEN`".to_owned()
            }
            Self::Unauthorized { given: true } => {
                "wrong token; use the one that `admin.token` of the process's configuration names"
                    .to_owned()
            }
            Self::NoPath => "unknown path; /v1/openapi.json lists the paths".to_owned(),
            Self::Method(allow) => format!("this path allows only {allow}"),
            Self::MediaType => "the body must be application/json".to_owned(),
            Self::TooLong(limit) => format!("the body is longer than {limit} bytes"),
            Self::TooSlow => "the body did not arrive in time".to_owned(),
            Self::Invalid(reason) => reason.clone(),
            Self::Command(error) => error.to_string(),
        }
    }

    /// Creates the error reply.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = json(self.status(), &ApiError { error: self.sentence() });
        let headers = response.headers_mut();
        match self {
            Self::Unauthorized { .. } => {
                let challenge = HeaderValue::from_static("Bearer realm=\"moorline\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::Method(allow) => {
                if let Ok(allow) = HeaderValue::try_from(allow) {
                    headers.insert(header::ALLOW, allow);
                }
            }
            // The rest of the body is not read.
            Self::TooLong(_) | Self::TooSlow | Self::MediaType => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// Creates a reply with a value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => raw(status, body.into()),
        // Fails only for maps with keys that are not strings; no API type has one.
        Err(_) => raw(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"{\"error\":\"?\"}")),
    }
}

/// Creates a reply with a body that is already JSON.
pub(super) fn raw(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
