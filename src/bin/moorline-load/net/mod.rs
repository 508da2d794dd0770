//! Connections to the target: TCP from many source addresses, TLS, HTTP/1.1, WebSocket.
//!
//! Must not know Engine.IO or statistics: what fails is returned as a [`Failure`] of the right kind.

mod connector;

pub(crate) use self::connector::{Connector, Stream};
