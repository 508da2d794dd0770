//! What a client learns of a failure: the status of the reply and its sentence.

use http::StatusCode;
use moorline_http::HeadFault;

use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    sticky::engine_io::UNKNOWN_SID,
};

/// Creates the failure of a request whose head violates the rules.
pub(crate) fn invalid_head(fault: HeadFault) -> ProxyError {
    let kind = match fault {
        HeadFault::TooLarge | HeadFault::TooManyFields => FailureKind::HeaderTooLarge,
        HeadFault::TargetTooLong => FailureKind::TargetTooLong,
        HeadFault::Version | HeadFault::Http2Preface => FailureKind::UnsupportedVersion,
        HeadFault::Coding => FailureKind::UnsupportedCoding,
        _ => FailureKind::Malformed,
    };
    ProxyError::new(Side::Client, Phase::Request, kind).with_source(fault.sentence())
}

/// Status of the reply to a failed request.
pub(crate) fn status(error: &ProxyError) -> StatusCode {
    match error.kind {
        FailureKind::BadRequest(_) | FailureKind::SessionGone => StatusCode::BAD_REQUEST,
        FailureKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        FailureKind::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
        FailureKind::BodyTooLarge | FailureKind::MediaType | FailureKind::ContentCoding
            if error.side == Side::Backend =>
        {
            StatusCode::BAD_GATEWAY
        }
        FailureKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FailureKind::MediaType | FailureKind::ContentCoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        FailureKind::HeaderTooLarge if error.side == Side::Client => {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        }
        FailureKind::TargetTooLong => StatusCode::URI_TOO_LONG,
        FailureKind::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        FailureKind::UnsupportedCoding => StatusCode::NOT_IMPLEMENTED,
        FailureKind::NoRoute | FailureKind::NoFile | FailureKind::NoOperation => {
            StatusCode::NOT_FOUND
        }
        FailureKind::NoOperationMethod => StatusCode::METHOD_NOT_ALLOWED,
        FailureKind::InvalidRequest => StatusCode::BAD_REQUEST,
        FailureKind::Io if error.side == Side::Proxy && error.phase == Phase::ResponseBody => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        FailureKind::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        FailureKind::Loop => StatusCode::LOOP_DETECTED,
        FailureKind::NoBackend
        | FailureKind::Saturated
        | FailureKind::TooMany
        | FailureKind::NotAdmitted
        | FailureKind::Maintenance
        | FailureKind::AuthUnavailable
        | FailureKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        FailureKind::Forbidden
        | FailureKind::Denied
        | FailureKind::OriginDenied
        | FailureKind::LoginFailed => StatusCode::FORBIDDEN,
        FailureKind::RateLimited | FailureKind::QuotaUsed | FailureKind::TooManyAtOnce => {
            StatusCode::TOO_MANY_REQUESTS
        }
        FailureKind::TimedOut if error.side == Side::Client => StatusCode::REQUEST_TIMEOUT,
        FailureKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        FailureKind::Incomplete
        | FailureKind::Reset
        | FailureKind::Malformed
        | FailureKind::Unchangeable
            if error.side == Side::Client =>
        {
            StatusCode::BAD_REQUEST
        }
        FailureKind::Refused
        | FailureKind::Reset
        | FailureKind::Incomplete
        | FailureKind::Malformed
        | FailureKind::Unchangeable
        | FailureKind::HeaderTooLarge
        | FailureKind::BadUpgrade
        | FailureKind::Untrusted
        | FailureKind::Missing
        | FailureKind::NotTls
        | FailureKind::UnknownName
        | FailureKind::CertificateExpired
        | FailureKind::CertificateName
        | FailureKind::CertificateUntrusted
        | FailureKind::CertificateRevoked
        | FailureKind::CertificateMissing
        | FailureKind::CertificateInvalid
        | FailureKind::Alert
        | FailureKind::MessageTooLarge
        | FailureKind::MessageRate
        | FailureKind::Io => StatusCode::BAD_GATEWAY,
    }
}

/// Sentence of the reply that describes the failure.
pub(crate) fn sentence(error: &ProxyError) -> &'static str {
    match (error.kind, error.phase) {
        (FailureKind::BadRequest(sentence), _) => sentence,
        (FailureKind::MethodNotAllowed, _) => "This method is not supported.",
        (FailureKind::UpgradeRequired, _) => "Only WebSocket version 13 is supported.",
        (FailureKind::BodyTooLarge, Phase::RequestBody) => "The request body is too large.",
        (
            FailureKind::BodyTooLarge
            | FailureKind::MediaType
            | FailureKind::ContentCoding
            | FailureKind::Unchangeable,
            Phase::ResponseBody,
        ) => "The backend's response has a body that the proxy cannot change as it must.",
        (FailureKind::MediaType, _) => "The media type of the request body is not supported here.",
        (FailureKind::ContentCoding, _) => {
            "The content coding of the request body is not supported here."
        }
        (FailureKind::Unchangeable, _) => "The request body is not valid JSON, or lacks a field.",
        (FailureKind::Forbidden, _) => "This address may not use this resource.",
        (FailureKind::RateLimited, _) => "Too many requests; try again later.",
        (FailureKind::QuotaUsed, _) => "The quota of requests is used up.",
        (FailureKind::TooManyAtOnce, _) => {
            "Too many requests or connections are open; close one or try again later."
        }
        (FailureKind::Maintenance, _) => "This service is closed for maintenance; try again later.",
        (FailureKind::BodyTooLarge, _) => {
            "The request body is too large to search for the backend of an unknown session."
        }
        (FailureKind::HeaderTooLarge, _) if error.side == Side::Backend => {
            "The header of the backend's response is too large or has too many fields."
        }
        (FailureKind::HeaderTooLarge, _) => {
            "The request header is too large or has too many fields."
        }
        (FailureKind::TargetTooLong, _) => "The request target is too long.",
        (FailureKind::UnsupportedVersion, _) => "Only HTTP/1.1 and HTTP/1.0 are supported.",
        (FailureKind::UnsupportedCoding, _) => "Only the chunked transfer coding is supported.",
        (FailureKind::Misdirected, _) => {
            "This host is not served over this connection; open one for it."
        }
        (FailureKind::Loop, _) => {
            "The request leads back to this proxy: a backend of its pool is the proxy itself."
        }
        (FailureKind::Unauthenticated(_), _) => "The credentials are missing or not valid.",
        (FailureKind::Denied, _) => "You may not do this with these credentials.",
        (FailureKind::OriginDenied, _) => "Pages of this origin may not use this resource.",
        (FailureKind::LoginFailed, _) => "The login has failed: open the page again to log in.",
        (FailureKind::AuthUnavailable, _) => {
            "Credentials cannot be checked at present; try again in a moment."
        }
        (FailureKind::NoRoute, _) => "No route covers this host and path.",
        (FailureKind::NoFile, _) => "There is no such file.",
        (FailureKind::NoOperation, _) => "The API has no such path.",
        (FailureKind::NoOperationMethod, _) => "The path of the API does not allow this method.",
        (FailureKind::InvalidRequest, _) => "The request does not match the API description.",
        (FailureKind::Io, Phase::ResponseBody) if error.side == Side::Proxy => {
            "The file cannot be read."
        }
        (FailureKind::NoBackend, _) => "No backend is available.",
        (FailureKind::SessionGone, _) => UNKNOWN_SID,
        (FailureKind::Saturated, Phase::RequestBody | Phase::ResponseBody) => {
            "The proxy holds too many bodies in memory; try again in a moment."
        }
        (FailureKind::Saturated, _) => "Every connection to the backend is in use.",
        (FailureKind::TooMany, _) => "Too many connections from your address are open.",
        (FailureKind::NotAdmitted, _) => "Too many new sessions at once; try again in a moment.",
        (FailureKind::Exhausted, _) => {
            "The proxy has no free port or file descriptor for a connection to the backend."
        }
        (FailureKind::Refused, _) => "The backend refused the connection.",
        (FailureKind::TimedOut, Phase::Connect | Phase::Handshake) => {
            "The connection to the backend timed out."
        }
        (FailureKind::TimedOut, Phase::Request) => "The request header did not arrive in time.",
        (FailureKind::TimedOut, Phase::RequestBody) if error.side == Side::Backend => {
            "The backend did not read the request body in time."
        }
        (FailureKind::TimedOut, Phase::RequestBody) => "The request body did not arrive in time.",
        (FailureKind::TimedOut, _) => "The backend did not answer in time.",
        (FailureKind::Incomplete | FailureKind::Reset, _) if error.side == Side::Client => {
            "The request body is incomplete."
        }
        (FailureKind::Reset, _) => "The backend reset the connection before it answered.",
        (FailureKind::Incomplete, _) => "The backend closed the connection before it answered.",
        (FailureKind::Malformed | FailureKind::UnknownName, Phase::Handshake) => {
            "The TLS handshake with the backend failed."
        }
        (FailureKind::Malformed, _) => {
            "The backend's response is not valid HTTP. If the backend uses TLS, set `tls = true` in its pool."
        }
        (FailureKind::BadUpgrade, _) => "The backend's response to the upgrade is not valid.",
        (
            FailureKind::CertificateExpired
            | FailureKind::CertificateName
            | FailureKind::CertificateUntrusted
            | FailureKind::CertificateRevoked
            | FailureKind::CertificateMissing
            | FailureKind::CertificateInvalid,
            _,
        ) => "The backend's certificate is not valid.",
        (FailureKind::NotTls | FailureKind::Alert, _) => {
            "The TLS handshake with the backend failed."
        }
        (
            FailureKind::Untrusted
            | FailureKind::Missing
            | FailureKind::UnknownName
            | FailureKind::MessageTooLarge
            | FailureKind::MessageRate
            | FailureKind::Io,
            _,
        ) => "The backend could not be reached.",
    }
}
