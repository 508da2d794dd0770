//! Moorline: the front door for Socket.IO and WebSocket apps.
//!
//! One process terminates TLS and keeps every session on its node: by the Engine.IO session id without
//! any cookie, or by a cookie. It passes upgraded connections through as raw bytes, and changes the
//! backend list without dropping a client.
//!
//! # Data flow
//!
//! ```text
//! listener → conn → PROXY header → TLS → proxy: request → route → sticky / balance → exchange
//!                                                                                101 → tunnel → Termination → observe
//!                   └ layer4 → balance → connector ───────────────────────────────────┘
//! file → config::check ─┐
//! discovery, commands ──┴→ control: overlay → Snapshot ⇄ one swap → conn, http read
//! health probes, failures under traffic → atomics on Backend
//! admin (unix socket, TCP) ⇄ control::ControlHandle ⇄ the control task
//! drains, rebalancing, age → tunnel registry → a Close at the end of the next frame
//! old process ── sockets, keys, sessions ──→ handoff ──→ new process
//! ```
//!
//! # Modules
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | [`error`] | the vocabulary of failures and terminations | any other module |
//! | [`shutdown`] | the phases of a shutdown, waiting for open work | any other module |
//! | [`observe`] | access log, metrics, the process's own log | the modules that it observes |
//! | [`config`] | the file as written, its meaning, all its errors | any runtime module |
//! | [`net`] | sockets, TLS on both sides, PROXY headers, byte streams | HTTP, routes, backends |
//! | `throttle` | rates, and counters by key in bounded memory | what is counted |
//! | [`acme`] | ACME certificates: when, how, where they are stored | listeners, and the reply to its challenges |
//! | [`route`] | host and path → pool | I/O |
//! | [`upstream`] | live backends, balance, connections to them, which backend is tried next | HTTP |
//! | [`sticky`] | sids, cookies, the choice between them | HTTP exchanges, I/O |
//! | [`tunnel`] | two byte streams and a guard, where their frames end | HTTP |
//! | `moorline_http` (`crates/http`) | bytes ⇄ messages: heads, framing, bodies | pools, sids, configuration |
//! | `moorline_heap` (`crates/heap`) | one call of the C library: free memory returns to the system | any other module |
//! | `proxy` | requests, replies, retries, owner search, upgrades | reloads |
//! | `auth` | credentials, identities, and those of sessions and tunnels | routes, backends, the log of requests |
//! | `gateway` | filters of a route: what is done with heads besides relaying them | backends, connections, sessions, the log |
//! | `layer4` | byte streams: a backend for each, a tunnel | HTTP, reloads |
//! | [`snapshot`] | one consistent view for the data path | how it is built |
//! | `http_client` | the requests that this process sends, except those of clients | URLs, TLS, the meaning of a response |
//! | [`api`] | the shapes of the admin API, and its description | any other module |
//! | [`admin`] | the admin sockets, and the API on them | how commands are carried out |
//! | [`cli`] | the command line: starting a process, or a client of the API | — |
//! | [`handoff`] | handing over to a new process, and taking over from an old one | the command that started it |
//! | [`systemd`] | passed sockets, notifications to the service manager | the reasons for them |
//! | [`control`] | reloads, discovery, health, drains, rebalancing, commands, explain, handoff | — |
//! | `stream_log`, [`shared`] | the termination of every stream; the state that all streams share | HTTP |
//! | [`runtimes`] | the threads: workers for connections, control for the rest | what runs on them |
//! | [`conn`], [`app`] | one connection; one process | — |
//! | `demo` | embedded Socket.IO nodes and the chat page | any other module |
//!
//! A module depends on another one only if its work needs it, and no two modules depend on each other.
//! `route`, `sticky`, `upstream` and `tunnel` do not use the HTTP implementation, so that it can be replaced.
//!
//! # Invariants
//!
//! 1. A request loads the snapshot once. A tunnel keeps its backend and no other part of the snapshot.
//! 2. A backend is its pool, name and address, never a place in a list. A reload that names it again
//!    finds the same counters, health, sessions and tunnels.
//! 3. A sid is stored before the handshake's reply is released: the next poll may be on its way
//!    before the last byte of the reply is.
//! 4. A poll is never sent twice, and never while another poll of its session is open. Only two kinds of
//!    requests are repeated after a backend may have read them: idempotent requests outside any session, and
//!    requests that a backend has rejected because it does not know the session. A request that a hung backend
//!    has demonstrably not read, because it closed the connection as idle, is sent to the same backend again, on
//!    a new connection.
//! 5. If sid and cookie disagree, the sid decides.
//! 6. Nothing from a client names an address. Cookies carry a keyed id.
//! 7. An idle tunnel holds no buffer, and no descriptor except its sockets. Memory per connection is
//!    bounded; a stalled reader stops its writer.
//! 8. Every stream ends with one [`error::Termination`]: one access-log line, one metric.
//! 9. Errors become replies in one place (`proxy/reply.rs`) and labels in one other
//!    (`observe/names.rs`).
//! 10. A panic costs one connection.
//! 11. The effective configuration is the file, plus what sources found, plus what commands changed. The
//!     control task plans and applies every change, in one swap of the snapshot or not at all.
//! 12. The proxy sends its own frame to a client only after a frame of the backend has ended, and sends
//!     nothing after it.
//! 13. A process that hands over serves until the new one accepts. By then the new process knows every
//!     session that the old one knew.
//! 14. A TLS session is resumed only under the client-certificate rules that it was created under. So a
//!     client identity was always verified under the current rules.

pub mod acme;
pub mod admin;
pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod conn;
pub mod control;
#[cfg(feature = "demo")]
pub mod demo;
pub mod error;
mod gateway;
pub mod handoff;
mod http_client;
mod layer4;
pub mod net;
pub mod observe;
mod openapi;
mod proxy;
mod publication;
pub mod route;
pub mod runtimes;
pub mod shared;
pub mod shutdown;
pub mod snapshot;
pub mod sticky;
mod stream_log;
mod strict_json;
pub mod systemd;
mod throttle;
pub mod tunnel;
pub mod upstream;
