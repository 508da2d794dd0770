//! Published API descriptions: what clients can request, over all routes.
//!
//! Owns the description of routes as an OpenAPI document, and the page that shows it. Both are made for each request,
//! from the configuration alone.
//!
//! Invariants:
//!
//! - Texts of documents are untrusted: the page escapes them, has no script, and is bounded.
//! - Nothing that only the proxy needs is published, unless the caller wants it: no pool, no backend, no `x-moorline-` key.

mod components;
mod document;
mod page;
mod schema_text;
mod security;
mod style;

pub(crate) use self::{
    document::{ALL, document, names},
    page::{PublishedPage, page},
};
