//! Moorline: the front door for Socket.IO and WebSocket apps.
//!
//! One process terminates TLS, keeps every session on its node — by the Engine.IO session id, without
//! any cookie, or by a cookie — passes upgraded connections through as raw bytes, and takes changes
//! to the backend list without dropping anyone.
//!
//! # The way data flows
//!
//! ```text
//! listener → conn → PROXY header → TLS → http::server → http::respond → route → sticky / balance → forward
//!                                                                                101 → tunnel → Termination → observe
//!                   └ layer4 → balance → dial ────────────────────────────────────────┘
//! file → config::check ─┐
//! discovery, orders ────┴→ control: overlay → Snapshot ⇄ one swap → conn, http read
//! health probes, failures under traffic → atomics on Backend
//! admin (unix socket, TCP) ⇄ control::Operator ⇄ the control task
//! drains, rebalancing, age → tunnel registry → a Close at the next frame's end
//! old process ── sockets, keys, sessions ──→ upgrade ──→ new process
//! ```
//!
//! # Who owns what
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | [`error`] | the vocabulary of failures and endings | anybody |
//! | [`drain`] | asking work to finish, waiting for it | anybody |
//! | [`observe`] | access log, metrics, the process's own log | who is observed |
//! | [`config`] | what was typed, what it means, every fault of it | any runtime module |
//! | [`net`] | sockets, TLS both ways, PROXY headers, byte streams | HTTP, routes, backends |
//! | [`acme`] | certificates that are ordered: when, how, where they are kept | who listens, who gives its answers out |
//! | [`route`] | host and path → pool | I/O |
//! | [`upstream`] | live backends, balance, connections to them | HTTP |
//! | [`sticky`] | sids, cookies, the decision between them | HTTP exchanges, I/O |
//! | [`tunnel`] | two byte streams and a guard, where their frames end | HTTP |
//! | [`http`] | requests, replies, retries, owner search, upgrades | reloads |
//! | `layer4` | streams of bytes: a backend for each, a tunnel | HTTP, reloads |
//! | [`snapshot`] | one consistent view for the data path | who builds it |
//! | [`admin`] | the operators' sockets, the API and its shapes | how orders are carried out |
//! | [`cli`] | the command line: one process's start, or a client of the API | — |
//! | [`upgrade`] | handing over to a new process, and taking over from an old one | who orders it |
//! | [`systemd`] | passed sockets, what the service manager is told | why |
//! | [`control`] | reloads, discovery, health, drains, rebalancing, orders, handing over | — |
//! | `entry`, [`proxy`] | the one ending of every stream; what the streams of a process have in common | HTTP |
//! | [`conn`], [`app`] | one connection; one process | — |
//!
//! Dependencies point down this list only where a row needs the one above; `route`, `sticky`,
//! `upstream` and `tunnel` are free of the HTTP implementation, so that it can be replaced.
//!
//! # Invariants
//!
//! 1. A request loads the snapshot once. A tunnel keeps its backend and nothing else of it.
//! 2. A backend is its pool, name and address, never a place in a list: a reload that names it again
//!    finds the same counters, health, sessions and tunnels.
//! 3. A sid is stored before the handshake's reply is released: the next poll may be on its way
//!    before the reply's last byte is.
//! 4. A poll is never sent twice and never beside itself. The only request that is repeated after a
//!    backend may have seen it is an idempotent one outside any session, or one that a backend has
//!    refused as not its own. A request that a hung node has demonstrably not read, because the node has
//!    closed its connection as an idle one, is sent again on another.
//! 5. Where sid and cookie disagree, the sid is right.
//! 6. Nothing from a client names an address. Cookies carry a keyed id.
//! 7. An idle tunnel holds no buffer, and no descriptor beside its sockets; memory per connection is
//!    bounded, a stalled reader stops its writer.
//! 8. Every stream ends with one [`error::Termination`]: one access-log line, one metric.
//! 9. Errors become replies in one place (`http/reply.rs`) and labels in one other
//!    (`observe/names.rs`).
//! 10. A panic costs one connection.
//! 11. What is in force is what the file says with what sources found and operators ordered upon it;
//!     all of it goes through one function of the control task.
//! 12. A frame of ours goes to a client only where one of its backend's has ended, and nothing after it.
//! 13. A process that hands over serves until the other one accepts; a session that it knows is known
//!     there by then.
//! 14. A TLS session is resumed under the terms of client certificates that it was made under, or not at
//!     all: who a client is said to be it has proved where the same terms hold.

pub mod acme;
pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod conn;
pub mod control;
#[cfg(feature = "demo")]
pub mod demo;
pub mod error;
pub mod handoff;
pub mod http;
mod layer4;
pub mod net;
pub mod observe;
pub mod route;
pub mod shared;
pub mod shutdown;
pub mod snapshot;
pub mod sticky;
mod stream_log;
pub mod systemd;
pub mod tunnel;
pub mod upstream;
