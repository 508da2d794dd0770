//! Changes of JSON bodies: fields that are renamed, dropped or masked, and templates.
//!
//! A change works on a whole body in memory, up to a limit. The caller has read the body; this module reads nothing.
//!
//! A body that cannot be changed is refused, unless the configuration lets it pass. It cannot do so for a change that
//! protects, which is one that drops or masks fields. [`DocumentFault`] says why a body cannot be changed.
//!
//! Cost: the time of a mapping is linear in the size of the body. A template is bounded by its fuel and the size of its result.

use std::{fmt, sync::Arc};

use crate::config::BodyChange;

mod mapping;
mod scan;
mod template;
mod values;

use mapping::Mapping;
use template::BodyTemplate;

/// A change of JSON bodies.
#[derive(Debug)]
pub(crate) struct Document {
    /// Maximum size of a body that is changed, in bytes.
    pub(super) limit: u64,
    /// Bodies with another media type than JSON pass unchanged.
    pub(super) passes_others: bool,
    /// Bodies that cannot be changed pass unchanged.
    pub(super) passes_faults: bool,
    mapping: Option<Mapping>,
    template: Option<BodyTemplate>,
}

/// What a template can use besides the body.
#[derive(Clone, Debug)]
pub(crate) struct DocumentFacts {
    pub(super) method: Box<str>,
    pub(super) host: Box<str>,
    pub(super) path: Box<str>,
    /// Status of a response.
    pub(super) status: Option<u16>,
}

/// Why a body cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DocumentFault {
    /// It is not valid JSON in UTF-8, or nested too deeply.
    NotJson,
    /// It is larger than the limit.
    TooLarge,
    /// The template has failed, or its result is too large or not JSON.
    Template(String),
}

impl Document {
    /// Creates the change that a configuration describes; `None` if it changes nothing.
    pub(super) fn new(config: &BodyChange) -> Option<Arc<Self>> {
        let mapping = Mapping::new(config);
        let template = config.template.as_deref().and_then(BodyTemplate::new);
        let BodyChange { limit, passes_others, passes_faults, .. } = *config;
        (mapping.is_some() || template.is_some())
            .then(|| Arc::new(Self { limit, passes_others, passes_faults, mapping, template }))
    }

    /// Whether a change of this body takes so long that other connections must not wait for it.
    pub(super) fn is_slow(&self, body: &[u8]) -> bool {
        self.template.is_some() || body.len() > 64 << 10
    }

    /// Returns the changed body.
    ///
    /// # Errors
    /// It cannot be changed.
    pub(super) fn apply(
        &self,
        body: &[u8],
        facts: &DocumentFacts,
    ) -> Result<Vec<u8>, DocumentFault> {
        if body.len() as u64 > self.limit {
            return Err(DocumentFault::TooLarge);
        }
        let text = std::str::from_utf8(body).map_err(|_| DocumentFault::NotJson)?;
        let mapped = self.mapping.as_ref().map(|mapping| mapping.apply(text)).transpose()?;
        match &self.template {
            Some(template) => template.render(mapped.as_deref().unwrap_or(text), facts),
            None => Ok(mapped.unwrap_or_default().into()),
        }
    }
}

impl fmt::Display for DocumentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("the body is not valid JSON, or nested too deeply"),
            Self::TooLarge => {
                f.write_str("the body is larger than the limit of the transformation")
            }
            Self::Template(fault) => write!(f, "the template failed: {fault}"),
        }
    }
}

impl std::error::Error for DocumentFault {}

/// Whether a media type is one of JSON documents.
pub(super) fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type == "text/json" || media_type.ends_with("+json")
}

#[cfg(test)]
mod tests;
