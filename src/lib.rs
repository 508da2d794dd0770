//! Moorline: the front door for Socket.IO and WebSocket apps.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod conn;
pub mod control;
#[cfg(feature = "demo")]
pub mod demo;
pub mod drain;
pub mod error;
pub mod http;
pub mod net;
pub mod observe;
pub mod route;
pub mod snapshot;
pub mod sticky;
pub mod tunnel;
pub mod upstream;
