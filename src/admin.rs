//! Admin endpoints: metrics and readiness, which need no authentication, and the admin API.
//!
//! Both are plain HTTP on separate sockets, which proxied requests cannot reach. This module owns
//! authentication, paths and replies; [`ControlHandle`](crate::control::ControlHandle) executes the
//! queries and commands.

mod access;
mod configuration;
pub mod handlers;
#[cfg(test)]
mod openapi;
mod problem;
mod routes;
mod server;
mod service;
mod socket;
mod sockets;

pub use handlers::AdminState;
pub use service::{CONFIG_HEADER, PROCESS_HEADER};
pub use socket::{SocketPlaces, UnixSocket, places};
pub use sockets::{AdminSockets, ServedAdminSockets};
