//! One client connection, step by step: accept, PROXY header, TLS, HTTP.
//!
//! The accept loop only accepts; everything that can wait or fail happens in a task of the
//! connection's own. What comes before the application's first byte has one deadline, from accept. A
//! connection that does not come so far still ends once: one line, one metric.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};

use crate::{
    drain,
    error::{Kind, Phase, ProxyError, Side, Termination},
    http::{server, visitor::Visitor},
    net::{listener, stream::Client, tls},
    observe::{ChosenBy, End, ListenerMetrics, Record, Secured, Start},
    proxy::Proxy,
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
        let until = Instant::now() + policy.handshake_timeout;
        let arrival = Arrival { door: door.clone(), policy, peer, secured: None, until };
        tokio::spawn(arrival.serve(stream));
    }
}

/// A connection just accepted, and what is known of it so far.
struct Arrival {
    door: Door,
    policy: Arc<snapshot::Listener>,
    /// Where it comes from.
    peer: SocketAddr,
    /// What TLS has told of the client; there from the moment that TLS is expected.
    secured: Option<Arc<Secured>>,
    /// By when the application's first byte may come.
    until: Instant,
}

impl Arrival {
    async fn serve(mut self, socket: TcpStream) {
        let _open = self.door.metrics.accept();
        match self.open(socket).await {
            Ok(stream) => self.requests(stream).await,
            Err(error) => self.fail(&error),
        }
    }

    /// Everything that comes before the application's first byte.
    async fn open(&mut self, socket: TcpStream) -> Result<Client, ProxyError> {
        self.announced(&socket).await?;
        let Some(terms) = &self.policy.tls else { return Ok(Client::Plain(socket)) };
        let mut told = Secured::default();
        let handshake = terms.accept(socket, &mut told);
        let outcome = in_time(self.until, Phase::Handshake, handshake).await;
        self.secured = Some(Arc::new(told));
        let stream = Client::Tls(outcome?);
        self.door.metrics.handshake(stream.is_resumed());
        self.secured = stream.secured().map(Arc::new);
        Ok(stream)
    }

    /// The PROXY header, where the listener has connections begin with one: whom it names is the peer
    /// from here on.
    async fn announced(&mut self, _socket: &TcpStream) -> Result<(), ProxyError> {
        Ok(())
    }

    /// HTTP, request by request.
    async fn requests(self, stream: Client) {
        let visitor = Visitor {
            peer: self.peer,
            secured: self.secured.clone(),
            listener: Arc::clone(&self.policy),
            metrics: Arc::clone(&self.door.metrics),
            patience: Arc::default(),
            drain: self.door.drain.clone(),
        };
        let Err(error) = server::serve(Arc::clone(&self.door.proxy), visitor, stream).await else {
            return;
        };
        tracing::debug!(peer = %self.peer, %error, "connection ended");
        if error.is_parse() {
            // No request came of it, so nobody else tells.
            let broken = Termination::Failed(Side::Client, Phase::Request, Kind::Malformed);
            self.tell(broken, &error.to_string());
        }
    }

    fn fail(&self, error: &ProxyError) {
        let text = error.source.as_ref().map(ToString::to_string);
        self.tell(error.into(), text.as_deref().unwrap_or_default());
    }

    fn tell(&self, termination: Termination, error: &str) {
        let record = Record::new(Start {
            id: "",
            client: self.peer,
            listener: &self.door.name,
            secured: self.secured.as_ref(),
            host: "",
            method: "",
            target: "",
        });
        let end = End { error: Some(error), ..End::new(termination) };
        self.door.metrics.ended(&termination, ChosenBy::None, 0, 0);
        self.door.proxy.log.load().write(&record, &end);
    }
}

/// What a step brings before the deadline, or the client's failure in that phase.
async fn in_time<T>(
    until: Instant,
    phase: Phase,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, ProxyError> {
    let outcome = timeout_at(until, step).await;
    let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    outcome.map_err(|error| ProxyError::new(Side::Client, phase, tls::kind(&error)).because(error))
}
