//! Faults of documents and of requests.

use std::{fmt, ops::Range};

use http::Method;
use serde_json::{Value, json};

/// Why a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiDocumentFault {
    /// JSON pointer of the place; empty for the whole document.
    pub(crate) at: String,
    /// Bytes of the place in the text, if they are known.
    pub(crate) place: Option<Range<usize>>,
    /// What is wrong, in one sentence without a full stop.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
}

impl ApiDocumentFault {
    pub(super) fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: at.into(), place: None, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ApiDocumentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.at {
            "" => f.write_str(&self.message),
            at => write!(f, "{} at `{at}`", self.message),
        }
    }
}

/// Where in a request a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParameterPlace {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// A header field.
    Header,
    /// A cookie.
    Cookie,
}

impl ParameterPlace {
    /// The word of a document.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Path, Self::Query, Self::Header, Self::Cookie]
            .into_iter()
            .find(|place| place.word() == name)
    }
}

/// What of a request does not match its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestFault {
    /// A parameter: its place, its name, and what is wrong.
    Parameter(ParameterPlace, String, String),
    /// A part of the body: its JSON pointer, and what is wrong.
    Body(String, String),
}

impl RequestFault {
    /// The fault as an element of `errors` of a problem report (RFC 9457 §3). It contains no value of the request.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Parameter(place, name, why) => {
                json!({ "in": place.word(), "name": name, "detail": why })
            }
            Self::Body(pointer, why) => json!({ "in": "body", "pointer": pointer, "detail": why }),
        }
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(place, name, why) => {
                write!(f, "{} parameter {name}: {why}", place.word())
            }
            Self::Body(pointer, why) if pointer.is_empty() => write!(f, "body: {why}"),
            Self::Body(pointer, why) => write!(f, "body at {pointer}: {why}"),
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestRefusal {
    /// No path of the document matches.
    UnknownPath,
    /// The path has no operation for the method; these are the methods that it has.
    UnknownMethod(Vec<Method>),
    /// The operation accepts no body of this type or coding.
    MediaType,
    /// These parts are missing or not valid.
    Invalid(Vec<RequestFault>),
}
