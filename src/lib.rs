//! Moorline: the front door for Socket.IO and WebSocket apps.

pub mod config;
pub mod error;
