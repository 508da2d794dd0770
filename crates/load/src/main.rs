//! `moorline-load`: does a Socket.IO deployment hold this number of users, does a deploy lose clients, and
//! what does the proxy in front cost?
//!
//! # Data flow
//!
//! ```text
//! flags, file → cli → scenario::check → Scenario → runner → client × N → net → the target
//!                                                    │        └ stats::Recorder → stats::Collector
//!                                  node (child processes)          └ report: live view, summary, JSON, HTML
//! ```
//!
//! # Modules
//!
//! | module | owns | does not know about |
//! |---|---|---|
//! | [`scenario`] | what a run does; validation of scenarios; limits of this machine | how a run is done |
//! | [`wire`] | Engine.IO and Socket.IO packets, as pure functions | I/O |
//! | [`net`] | TCP from many source addresses, TLS, HTTP/1.1, WebSocket | Engine.IO, statistics |
//! | [`client`] | one virtual user, from its first connection to its last | other users, the phases of a run |
//! | [`runner`] | the phases of a run: arrivals, herd, rolling deploy, chaos, commands of another program, the end | protocols |
//! | [`node`] | Socket.IO nodes and an echo server, as targets | clients |
//! | [`stats`] | counts, latencies and errors, per second | reports |
//! | [`report`] | live view, summary, files, assertions | how the figures were collected |
//! | [`cost`] | CPU time and memory of other processes | what these processes do |
//!
//! The harness shares no code with the proxy (frames, parsers, tunnels), so that one bug cannot hide in both.

mod cli;
mod client;
mod cost;
mod net;
mod node;
mod report;
mod runner;
mod scenario;
mod stats;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
