//! HTTP/1.1 between clients and backends.
//!
//! Each request passes through these modules in order:
//!
//! 1. [`server`] parses the request, `hops` reads the forwarding fields, and `validation` rejects
//!    requests that no backend should see.
//! 2. `respond` finds the pool, `decision` chooses the destination, and `exchange` keeps what
//!    belongs to the request.
//! 3. `outgoing` prepares the request for the backend. `attempt` sends it to a backend and retries
//!    on another one under strict rules. `session` sends requests of a known session to the
//!    session's backend. `retry_plan` chooses backends and queues new sessions. `owner_search` finds
//!    the backend of an unknown session.
//! 4. `forward` talks to the backend over a new connection or a `kept` one. `session_detection`
//!    reads the id of a new session from the response. `body` and `relay` stream the bodies.
//!
//! A WebSocket upgrade leaves through `upgrade` into a tunnel. Every failure becomes a reply in
//! `reply`, with a body from `error_body`. Every stream ends once, in its
//! `StreamScope`.
//!
//! Modules below this one do not depend on hyper: `route`, `sticky`, `upstream` and `tunnel` would
//! work with another HTTP implementation.

mod attempt;
mod body;
pub mod connection_info;
mod cookie;
mod deadline;
pub(crate) mod decision;
mod error_body;
mod exchange;
mod forward;
mod framing;
mod headers;
mod hops;
mod kept;
mod long_poll;
mod outgoing;
mod owner_search;
pub mod refusal;
mod relay;
mod reply;
mod respond;
mod retry_plan;
pub mod server;
mod session;
mod session_detection;
pub(crate) mod upgrade;
mod validation;

pub(crate) use self::reply::{PLAIN_ON_TLS, TOO_MANY};
/// The pure functions of the data path that `explain` reports with.
pub(crate) use self::{
    attempt::EngineRequest,
    cookie::AffinityCookie,
    owner_search::candidates as search_candidates,
    reply::{sentence as error_sentence, status as error_status},
    respond::engine as engine_request,
    validation::{ValidatedRequest, without_port},
};
