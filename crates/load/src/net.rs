//! Connections to the target: TCP from many source addresses, TLS, HTTP/1.1, WebSocket.
//!
//! Must not know Engine.IO or statistics: what fails is returned as a [`Failure`] of the right kind.
//!
//! [`Failure`]: crate::stats::Failure

mod connector;
mod discard;
mod failures;
pub(crate) mod frame;
mod http;
mod message;
mod stream;
mod tls;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    connector::{Connector, Dialer},
    http::{Http, Reply},
    message::{CloseFrame, Kind, Message},
    stream::Stream,
    upgrade::{UpgradeError, accept},
    websocket::WebSocket,
};
