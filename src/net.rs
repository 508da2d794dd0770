//! Sockets: listeners, TLS, PROXY protocol headers and byte streams.
//!
//! This module knows no routes and no backends. Of HTTP it knows only when requests begin and end
//! ([`request_clock`]) and one interim response ([`half_close`]).

pub mod answer_first;
pub mod bind_error;
pub mod client_hello;
pub mod client_limits;
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
