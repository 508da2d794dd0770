//! What a route does with requests and responses besides relaying them, and its conditions beyond host and path.
//!
//! A route whose configuration asks for anything of this module has a [`FilterChain`]. It is built with the snapshot and is
//! immutable; what filters remember between requests lives in the process, not here. Requests of other routes pay one
//! comparison.
//!
//! Filters run in a fixed order, whatever the file says: addresses, maintenance, CORS, origins, size of the body, limits,
//! messages, authentication, limits of identities, API description, rewriting, fields, transformation. On the way back: transformation, fields,
//! then CORS, so that no edit can forge a grant, then compression.
//!
//! Invariants:
//!
//! - A filter sees heads, pieces of bodies and [`FilterFacts`], never a socket. It answers with a reply or a failure; [`reply`](crate::proxy)
//!   makes error replies from failures, as everywhere.
//! - Facts are those of the client's request. A rewrite changes what the backend gets, never what another filter sees.
//! - A filter that protects refuses what it cannot decide. A filter that only improves lets it pass.
//! - A filter that needs I/O pauses the request ([`PausedRequest`]). Requests of other routes pay nothing for that.
//! - What a response needs from its request is computed when the request arrives, and held in [`ResponseFilters`].
//!
//! This module must not know backends, connections, session tables or the log.

mod addresses;
mod api;
mod auth;
mod body;
mod cache;
mod chain;
mod compress;
mod conditions;
mod cors;
mod decoding;
mod document;
mod fields;
mod files;
mod limits;
mod local;
mod origins;
mod rewrite;
mod transform;
mod variables;

pub(crate) use self::{
    api::{ApiReport, InvalidRequest},
    auth::AuthState,
    body::{BodyFilter, BodyStream, ReplyBody},
    cache::{BodyCopy, CacheMetrics, CacheStore, CacheTicket, PurgeTarget, ResponseStep},
    chain::{
        FilterChain, FilterState, FilteredRequest, Interception, PausedRequest, ResponseFilters,
        describe_limit,
    },
    conditions::{Conditions, Forcing, RouteFacts},
    files::{FileRequest, StaticFiles},
    limits::Limiters,
    local::{LocalAnswer, LocalOutcome, LocalReply},
    transform::{DocumentChange, RequestBodyChange, ResponseBodyChange, describe_nothing},
    variables::{ClaimedOrigin, FilterFacts, RequestClass},
};
