//! Types of API descriptions: what the requests of a route must match.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::openapi::ApiDocument;

/// An API description of a route, and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenApiConfig {
    /// File of the document.
    pub file: PathBuf,
    /// The document.
    pub document: ApiDescription,
    /// Path before all paths of the document; `None`: that of its servers.
    pub base: Option<String>,
    /// Whether requests without an operation are refused.
    pub refuse_unknown: bool,
    /// Maximum size of a body that is checked, in bytes.
    pub max_body: u64,
}

/// A document that was read and compiled. Two are equal if their texts are equal.
#[derive(Clone)]
pub struct ApiDescription {
    text: Arc<str>,
    document: Arc<ApiDocument>,
}

impl ApiDescription {
    /// Creates a description from a text and its document.
    pub(crate) fn new(text: &str, document: ApiDocument) -> Self {
        Self { text: text.into(), document: Arc::new(document) }
    }

    /// Returns the text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the document.
    pub(crate) fn document(&self) -> &Arc<ApiDocument> {
        &self.document
    }
}

impl PartialEq for ApiDescription {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ApiDescription {}

impl fmt::Debug for ApiDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiDescription({} operations)", self.document.operations().len())
    }
}
