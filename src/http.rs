//! HTTP/1.1 between clients and backends.
//!
//! One request goes down this list: [`server`] parses it, `hops` reads who sent it, `gate` refuses what no
//! backend should see, `respond` finds its pool, `decision` says where it goes, `call` looks at what it
//! brings along, `outgoing` makes it fit to be sent, `attempt` sends it
//! to one backend or, by strict rules, to another, `session` sends that of a known session to its own, `way` says which and makes a new session wait for its
//! turn, `search` finds the backend of a session that is not known here, `forward` talks to that backend on a new connection or one that was `kept`, `learn` reads a new session's id from the reply, and `body` and
//! `relay` stream the rest. An upgrade leaves through `upgrade` into a tunnel. Whatever fails becomes a
//! reply in `reply`, with a body from `error_body`, and ends once, in its [`entry`](crate::stream_log).
//!
//! hyper is known here and nowhere below: `route`, `sticky`, `upstream` and `tunnel` would work under
//! another HTTP implementation.

mod attempt;
mod body;
pub mod connection_info;
mod cookie;
mod deadline;
mod decision;
mod error_body;
mod exchange;
mod explain;
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
