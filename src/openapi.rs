//! API descriptions: OpenAPI 3.0 and 3.1.
//!
//! Owns the reading of documents, their operations, and the validation of requests against them. A document is read and
//! compiled once, with the configuration; a request costs the search of its operation and the validation of what the
//! operation describes.
//!
//! Invariants:
//!
//! - References lead only within the document. Nothing is fetched.
//! - The time of a validation is linear in the request: patterns use an engine without backtracking.
//! - A fault of a document has the JSON pointer of its place.
//!
//! This module must not know routes, the proxy or connections.

mod document;
mod fault;
mod listing;
mod operation;
mod parameter;
mod path;
mod places;
mod references;
mod rules;
mod schemas;

pub(crate) use self::{
    document::{ApiDocument, OperationMatch, ReadDocument, value as document_value},
    fault::{ApiDocumentFault, RequestFault, RequestRefusal},
    operation::{ApiOperation, RequestParts},
    parameter::query_values,
    path::{PathTemplate, without_base},
    places::{PlacedContent, PlacedNode},
    rules::{
        ApiRules, ROUTE as ROUTE_KEY, ROUTES as ROUTES_KEY, RuleReading, RuleSet, SchemeKind,
        SecurityRule, SecurityScheme,
    },
};
