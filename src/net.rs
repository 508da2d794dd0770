//! Sockets: listeners, TLS, PROXY protocol headers and byte streams.
//!
//! This module knows no HTTP, no routes and no backends.

pub mod bind_error;
pub mod client_hello;
pub mod client_limits;
pub mod connection_rate;
pub mod inherited;
pub mod listener;
pub mod peek;
pub mod per_address;
pub mod proxy_protocol;
pub mod stream;
mod tickets;
pub mod tls;
pub mod tls_client;
pub mod tls_stream;
