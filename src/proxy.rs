//! HTTP between clients and backends: one request as a straight list of stages.
//!
//! 1. [`connection`] reads the head of a request (the engine, `moorline_http`, rejects what is not valid).
//! 2. `handle` begins the request by `arrival`: `validate`, then the route and the destination in `affinity`, with the session id
//!    of `engine_request` and the cookie of `cookie`. `forwarding` edits the fields. None of these steps waits.
//! 3. `outgoing` holds the request for the backend. `attempt` sends it and retries under strict rules: `session` for
//!    a known session, `owner_search` for an unknown one, the balance policy for everything else.
//! 4. `backend` takes a kept connection or opens one. `exchange` drives it in the task of the request: it writes the
//!    request (`upload`), waits for the head of the response, and watches the client. `inspect` and
//!    `session_detect` read the session from the response.
//! 5. `deliver` moves the response to the client, `streamed` a response whose body is made or changed here, `local_reply` a file; `websocket` and `tunnel_start` turn the connection into a tunnel.
//!
//! Every failure becomes a reply in `reply`, with a body from `error_body`. Every stream ends once, in its
//! `StreamScope`. While a request waits, neither side holds a buffer, and its future is small: an `async fn` stores its
//! arguments twice, so the functions of the wait return an `async move` block, which stores them once. Steps that few
//! requests take are boxed.

pub(crate) mod affinity;
mod arrival;
mod attempt;
mod backend;
pub(crate) mod class;
mod client;
pub(crate) mod connection;
pub(crate) mod cookie;
mod deliver;
mod detached;
pub(crate) mod engine_request;
mod error_body;
mod exchange;
mod forwarding;
mod handle;
mod inspect;
mod local_reply;
mod long_poll;
mod lookup;
mod mirror;
mod opened_request;
mod outgoing;
mod owner_search;
pub(crate) mod refusal;
pub(crate) mod reply;
mod response_change;
mod revalidate;
mod session;
mod session_detect;
pub(crate) mod split;
mod streamed;
#[cfg(test)]
pub(crate) mod testing;
mod timer;
mod tunnel_start;
mod upload;
pub(crate) mod validate;
mod waiting;
pub(crate) mod websocket;
mod whole_body;
