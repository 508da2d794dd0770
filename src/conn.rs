//! One client connection: accept, TLS, HTTP.
//!
//! The accept loop only accepts; everything that can wait or fail happens in a task of the
//! connection's own, under a deadline.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    drain,
    error::{Kind, Phase, Side, Termination},
    http::{
        proxy::{Proxy, Visitor},
        server,
    },
    net::{listener, stream::Client, tls},
    observe::{ChosenBy, End, ListenerMetrics, Record, Secured, Start},
    snapshot,
};

/// One listening socket's identity towards its connections.
#[derive(Clone, Debug)]
pub struct Door {
    /// Everything a connection may need.
    pub proxy: Arc<Proxy>,
    /// Name of the listener it belongs to.
    pub name: Arc<str>,
    /// Numbers of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Tells connections of a drain, and the drain of connections.
    pub drain: drain::Watch,
}

/// Accepts until it is dropped.
pub async fn accept(socket: Arc<TcpListener>, door: Door) {
    let pauses = door.proxy.metrics.accept_pauses.clone();
    let mut last = None;
    loop {
        let (stream, peer) = listener::accept(&socket, &pauses).await;
        // The policy is the one in force now; the connection keeps it.
        // A listener that is being renamed is served by the last one it had.
        let current = door.proxy.snapshot.load().listeners.get(&door.name).cloned();
        last = current.or(last);
        let Some(policy) = last.clone() else { continue };
        let door = door.clone();
        tokio::spawn(async move {
            serve(door, policy, stream, peer).await;
        });
    }
}

async fn serve(door: Door, policy: Arc<snapshot::Listener>, stream: TcpStream, peer: SocketAddr) {
    let _open = door.metrics.accept();
    let stream = match &policy.tls {
        None => Client::Plain(stream),
        Some(config) => {
            let handshake = timeout(policy.handshake_timeout, tls::handshake(config, stream));
            let outcome = handshake.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let stream = match outcome {
                Ok(stream) => Client::Tls(stream),
                Err(error) => {
                    return tell_failed_handshake(&door, peer, &error);
                }
            };
            door.metrics.handshake(stream.is_resumed());
            stream
        }
    };
    let secured = stream.secured().map(Arc::new);
    let visitor = Visitor {
        peer,
        secured: secured.clone(),
        listener: policy,
        metrics: Arc::clone(&door.metrics),
        patience: Arc::default(),
        drain: door.drain.clone(),
    };
    if let Err(error) = server::serve(Arc::clone(&door.proxy), visitor, stream).await {
        tracing::debug!(%peer, %error, "connection ended");
        if error.is_parse() {
            // No request came of it, so nobody else tells.
            let broken = Termination::Failed(Side::Client, Phase::Request, Kind::Malformed);
            tell(&door, peer, secured.as_ref(), broken, &error.to_string());
        }
    }
}

/// A client that never came to speak HTTP still ends once: one line, one metric.
fn tell_failed_handshake(door: &Door, peer: SocketAddr, error: &io::Error) {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => Kind::TimedOut,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Kind::Reset,
        io::ErrorKind::UnexpectedEof => Kind::Incomplete,
        io::ErrorKind::InvalidData => Kind::Malformed,
        _ => Kind::Io,
    };
    let termination = Termination::Failed(Side::Client, Phase::Handshake, kind);
    tell(door, peer, Some(&Arc::default()), termination, &error.to_string());
}

fn tell(
    door: &Door,
    peer: SocketAddr,
    secured: Option<&Arc<Secured>>,
    termination: Termination,
    error: &str,
) {
    let record = Record::new(Start {
        id: "",
        client: peer,
        listener: &door.name,
        secured,
        host: "",
        method: "",
        target: "",
    });
    let end = End { error: Some(error), ..End::new(termination) };
    door.metrics.ended(&termination, ChosenBy::None, 0, 0);
    door.proxy.log.load().write(&record, &end);
}
