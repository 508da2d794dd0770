//! The operator's endpoint: metrics and readiness over plain HTTP, on an address of its own that no
//! proxied request can reach.

pub mod api;
pub mod handlers;
pub mod server;

pub use handlers::State;
pub use server::serve;
