//! Sockets: listeners, TLS, PROXY protocol headers and byte streams.
//!
//! This module knows nothing of the application protocol: no HTTP, no routes, no backends.

pub mod answer_first;
pub mod bind_error;
pub mod client_hello;
pub mod half_close;
pub mod inherited;
pub mod listener;
pub mod peek;
pub mod per_address;
pub mod proxy_protocol;
pub mod request_clock;
pub mod stream;
mod tickets;
pub mod tls;
pub mod tls_client;
