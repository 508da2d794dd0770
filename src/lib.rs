//! Moorline: the front door for Socket.IO and WebSocket apps.

pub mod admin;
pub mod cli;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod drain;
pub mod error;
pub mod net;
pub mod observe;
pub mod route;
pub mod upstream;
