//! One client connection, step by step: accept, PROXY header, TLS, HTTP.
//!
//! The accept loop only accepts; everything that can wait or fail happens in a task of the
//! connection's own. What comes before the application's first byte has one deadline, from accept. A
//! connection that does not come so far still ends once: one line, one metric.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};

use crate::{
    acme, drain,
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
            Ok(stream) if stream.alpn() == Some(acme::PROTOCOL) => self.challenged(stream).await,
            Ok(stream) => self.requests(stream).await,
            Err(error) => self.fail(&error),
        }
    }

    /// Everything that comes before the application's first byte.
    async fn open(&mut self, socket: TcpStream) -> Result<Client, ProxyError> {
        self.announced(&socket).await?;
        let Some(config) = &self.policy.tls else { return Ok(Client::Plain(socket)) };
        self.secured = Some(Arc::default());
        // That protocol is offered while somebody is to ask for it, and at no other time.
        let stream = match self.door.proxy.challenges.tls() {
            None => in_time(self.until, Phase::Handshake, tls::handshake(config, socket)).await?,
            Some(challenge) => {
                let beside = (acme::PROTOCOL, challenge);
                let handshake = tls::handshake_beside(config, beside, socket);
                in_time(self.until, Phase::Handshake, handshake).await?
            }
        };
        let stream = Client::Tls(stream);
        self.door.metrics.handshake(stream.is_resumed());
        self.secured = stream.secured().map(Arc::new);
        Ok(stream)
    }

    /// The PROXY header, where the listener has connections begin with one: whom it names is the peer
    /// from here on.
    async fn announced(&mut self, _socket: &TcpStream) -> Result<(), ProxyError> {
        Ok(())
    }

    /// An ACME server, which has seen what it wants to see with the handshake (RFC 8737 §3).
    async fn challenged(self, mut stream: Client) {
        // Where it has gone already, it has seen it all the same.
        let _ = timeout_at(self.until, stream.shutdown()).await;
        self.tell(Termination::Answered, "");
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
        if self.lacks_certificate(error) {
            let missing =
                Termination::Failed(Side::Proxy, Phase::Handshake, Kind::CertificateMissing);
            return self.tell(missing, "no certificate has been issued yet");
        }
        let text = error.source.as_ref().map(ToString::to_string);
        self.tell(error.into(), text.as_deref().unwrap_or_default());
    }

    /// Whether this came of having nothing to show; rustls has no error of its own for it.
    fn lacks_certificate(&self, error: &ProxyError) -> bool {
        let source = error.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        let told = source.and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
        matches!(told, Some(rustls::Error::General(_))) && self.policy.certificates.are_missing()
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
    outcome.map_err(|error| ProxyError::new(Side::Client, phase, kind(&error)).because(error))
}

/// What a client's failure to come to its first byte means in our vocabulary.
fn kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::TimedOut => Kind::TimedOut,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Kind::Reset,
        io::ErrorKind::UnexpectedEof => Kind::Incomplete,
        io::ErrorKind::InvalidData => Kind::Malformed,
        _ => Kind::Io,
    }
}
