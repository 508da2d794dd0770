//! `moorline-load`: does a Socket.IO deployment hold this many users, does a deploy lose anyone, and
//! what does the front door cost?
//!
//! # The way data flows
//!
//! ```text
//! flags, file → cli → scenario::check → Scenario → drive → client × N → net → the target
//!                                                    │        └ stats::Recorder → stats::Collector
//!                                  node (child processes)          └ report: live view, summary, JSON, HTML
//! ```
//!
//! # Who owns what
//!
//! | module | owns | must not know |
//! |---|---|---|
//! | [`scenario`] | what a run is to do; every fault of a scenario; what the machine can carry | how it is done |
//! | [`wire`] | Engine.IO and Socket.IO packets, as pure functions | I/O |
//! | [`net`] | TCP from many source addresses, TLS, HTTP/1.1, WebSocket | Engine.IO, statistics |
//! | [`client`] | one simulated user, from its first connection to its last | other users, the course of a run |
//! | [`drive`] | the course of a run: arrivals, the herd, the rolling deploy, chaos, another's orders, the end | protocols |
//! | [`node`] | Socket.IO nodes and an echo origin to aim at | clients |
//! | [`stats`] | counts, latencies and errors, gathered by second | who looks at them |
//! | [`report`] | what people and programs see of them, assertions | how they were gathered |
//! | [`cost`] | what another process spends: CPU time and memory | what it does |
//!
//! Nothing of the proxy is used here: its frames, parsers and tunnels are not shared, so that one
//! bug cannot hide in both.

mod cli;
mod client;
mod cost;
mod drive;
mod net;
mod node;
mod report;
mod scenario;
mod stats;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
