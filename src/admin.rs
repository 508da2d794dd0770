//! The operator's side: metrics and readiness for anybody who reaches them, and the API.
//!
//! Both are plain HTTP on sockets of their own, that no proxied request can reach. Owns who is let
//! in, what paths there are and how they are answered; what is asked and ordered there is
//! [`ControlHandle`](crate::control::ControlHandle)'s business.

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
