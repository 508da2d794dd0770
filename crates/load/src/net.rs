//! Connections to the target: TCP from many source addresses, TLS, HTTP/1.1, WebSocket.
//!
//! Does not know about Engine.IO or statistics. Returns errors as a [`Failure`].
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
