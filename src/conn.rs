//! One client connection, step by step: accept, PROXY header, what it is, TLS, and then requests or a
//! stream of layer 4.
//!
//! The accept loop only accepts; everything that can wait or fail happens in a task of the
//! connection's own. What comes before the application's first byte has one deadline, from accept. A
//! connection that does not come so far still ends once: one line, one metric.
//!
//! Until it is known who gets a connection, its bytes are looked at and left in the socket: one that
//! is passed on undecrypted needs no replay, and TLS begins on the socket as it was accepted.

mod log;
mod sniff;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};

use self::{
    log::{ConnectionFacts, log_rejected},
    sniff::Sniffed,
};

use crate::{
    acme,
    config::ProxyIn,
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    http::{PLAIN_ON_TLS, TOO_MANY, connection_info::ConnectionInfo, server},
    layer4,
    net::{
        client_hello::ClientHello,
        listener,
        per_address::CountedConnection,
        proxy_protocol,
        stream::ClientStream,
        tls::{self, TlsInfo},
    },
    observe::{ListenerMetrics, StreamKind},
    shared::SharedState,
    shutdown, snapshot,
};

/// One listening socket's identity towards its connections.
#[derive(Clone, Debug)]
pub struct ListenerHandle {
    /// Everything a connection may need.
    pub proxy: Arc<SharedState>,
    /// Name of the listener it belongs to.
    pub name: Arc<str>,
    /// Numbers of that listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Tells connections of a drain, and the drain of connections.
    pub drain: shutdown::Watch,
}

/// Accepts until it is dropped.
pub async fn accept(socket: Arc<TcpListener>, handle: ListenerHandle) {
    let pauses = handle.proxy.metrics.accept_pauses.clone();
    let mut last = None;
    loop {
        let (stream, peer) = listener::accept(&socket, &pauses).await;
        // The policy is the one in force now; the connection keeps it.
        // A listener that is being renamed is served by the last one it had.
        let current = handle.proxy.snapshot.load().listeners.get(&handle.name).cloned();
        last = current.or(last);
        let Some(policy) = last.clone() else { continue };
        let accepted = Instant::now();
        let until = accepted + policy.handshake_timeout;
        let handle = handle.clone();
        let (counted, destination, tls_info) = (None, None, None);
        let connection = AcceptedConnection {
            handle,
            policy,
            peer,
            counted,
            destination,
            tls_info,
            accepted,
            until,
        };
        tokio::spawn(connection.serve(stream));
    }
}

/// A connection just accepted, and what is known of it so far.
struct AcceptedConnection {
    handle: ListenerHandle,
    policy: Arc<snapshot::ListenerSnapshot>,
    /// Where it comes from.
    peer: SocketAddr,
    /// Its place among those of its address, where they are counted.
    counted: Option<Arc<CountedConnection>>,
    /// What it connected to, where a PROXY header has told.
    destination: Option<SocketAddr>,
    /// What TLS has told of the client; there once nothing more is to be told.
    tls_info: Option<Arc<TlsInfo>>,
    accepted: Instant,
    /// By when the application's first byte may come.
    until: Instant,
}

/// What a connection is good for.
enum ConnectionUse {
    /// Requests are read from it.
    Requests(ClientStream),
    /// Nothing more: an ACME server has seen what it wants to see.
    Challenge(ClientStream),
    /// It is a stream to the pool of this name.
    Stream(ClientStream, Arc<str>),
}

/// Why a connection ends before it was good for anything.
struct Rejection {
    error: ProxyError,
    /// It is closed in order.
    reply: Option<FinalReply>,
}

/// The last that a client hears.
struct FinalReply {
    client: ClientStream,
    bytes: &'static [u8],
    /// Status of the words, where they are a reply; else 0.
    status: u16,
}

impl From<ProxyError> for Rejection {
    fn from(error: ProxyError) -> Self {
        Self { error, reply: None }
    }
}

impl Rejection {
    fn new(phase: Phase, kind: FailureKind) -> Self {
        ProxyError::new(Side::Client, phase, kind).into()
    }

    fn after(mut self, client: ClientStream, bytes: &'static [u8]) -> Self {
        self.reply = Some(FinalReply { client, bytes, status: 0 });
        self
    }

    fn answered(mut self, client: ClientStream, bytes: &'static [u8], status: u16) -> Self {
        self.reply = Some(FinalReply { client, bytes, status });
        self
    }
}

impl AcceptedConnection {
    async fn serve(mut self, socket: TcpStream) {
        let _open = self.handle.metrics.accept();
        match self.open(socket).await {
            Ok(ConnectionUse::Requests(stream)) => self.serve_requests(stream).await,
            Ok(ConnectionUse::Challenge(stream)) => self.serve_challenge(stream).await,
            // Neither is to make the task of a connection larger that serves requests for days.
            Ok(ConnectionUse::Stream(stream, pool)) => {
                Box::pin(self.serve_stream(stream, &pool)).await
            }
            Err(Rejection { error, reply }) => {
                if error.phase != Phase::ProxyHeader && self.expects_tls() {
                    // TLS it was to be, even where it has told nothing.
                    self.tls_info.get_or_insert_default();
                }
                self.fail(&error, reply.as_ref().map_or(0, |reply| reply.status));
                if let Some(FinalReply { client, bytes, .. }) = reply {
                    Box::pin(sniff::close_with(client, bytes)).await;
                }
            }
        }
    }

    /// Everything that comes before the application's first byte.
    async fn open(&mut self, socket: TcpStream) -> Result<ConnectionUse, Rejection> {
        let policy = Arc::clone(&self.policy);
        if !self.admit_address()
            || (self.read_proxy_header(&socket).await? && !self.admit_address())
        {
            let rejection = Rejection::new(Phase::Select, FailureKind::TooMany);
            let readable = policy.http && policy.tls.is_none();
            return Err(match readable {
                true => rejection.answered(ClientStream::Plain(socket), TOO_MANY, 503),
                false => rejection,
            });
        }
        if !self.expects_tls() {
            return self.opened(ClientStream::Plain(socket));
        }
        let first = async {
            // Few listeners need all of it: not in every connection's future.
            if policy.looks {
                Box::pin(sniff::hello(&socket)).await
            } else {
                sniff::protocol(&socket).await
            }
        };
        match in_time(self.until, Phase::Handshake, first).await? {
            Sniffed::Tls => {}
            Sniffed::Hello(hello) => {
                let passed_on = policy.passed_on(&hello);
                if passed_on.is_some() || policy.tls.is_none() {
                    self.tls_info = Some(Arc::new(hello_info(&hello)));
                }
                if let Some(pool) = passed_on {
                    return Ok(ConnectionUse::Stream(
                        ClientStream::Plain(socket),
                        Arc::clone(pool),
                    ));
                }
                if policy.tls.is_none() {
                    let rejection = Rejection::new(Phase::Select, FailureKind::NoRoute);
                    return Err(
                        rejection.after(ClientStream::Plain(socket), tls::UNRECOGNIZED_NAME)
                    );
                }
            }
            Sniffed::Broken(why) => {
                let error = ProxyError::new(Side::Client, Phase::Handshake, FailureKind::Malformed);
                let rejection = Rejection::from(error.with_source(why));
                return Err(rejection.after(ClientStream::Plain(socket), sniff::DECODE_ERROR));
            }
            Sniffed::Http if policy.http => {
                let rejection = Rejection::new(Phase::Handshake, FailureKind::NotTls);
                return Err(rejection.answered(ClientStream::Plain(socket), PLAIN_ON_TLS, 400));
            }
            Sniffed::Http | Sniffed::Other => {
                return Err(Rejection::new(Phase::Handshake, FailureKind::NotTls));
            }
        }
        self.accept_tls(socket).await
    }

    /// Counts it among those of its address from here on, and of no other; false where that has as many
    /// as one may.
    fn admit_address(&mut self) -> bool {
        self.counted = None;
        let Some((most, open)) = &self.policy.per_address else { return true };
        let ip = self.peer.ip();
        // Many clients share the address of a proxy in front.
        let is_proxy = |terms: &ProxyIn| self.destination.is_none() && terms.believes(ip);
        let terms = self.policy.proxy_protocol.as_ref();
        if self.handle.proxy.snapshot.load().trusts(ip) || terms.is_some_and(is_proxy) {
            return true;
        }
        self.counted = open.admit(ip, *most);
        self.counted.is_some()
    }

    /// The PROXY header, where the listener has connections begin with one: whom it names is the peer
    /// from here on. Whether it names anybody.
    async fn read_proxy_header(&mut self, socket: &TcpStream) -> Result<bool, ProxyError> {
        let Some(terms) = &self.policy.proxy_protocol else { return Ok(false) };
        // Of all that is spoken here only what is passed on as it comes may begin with the server.
        let server_first = !(self.policy.http || self.expects_tls());
        let wait = proxy_protocol::HeaderWait { deadline: self.until, server_first };
        // Most listeners have none: not in every connection's future.
        let received = Box::pin(proxy_protocol::receive(socket, terms, self.peer, wait));
        let received = received.await.map_err(|error| {
            ProxyError::new(Side::Client, Phase::ProxyHeader, error.kind()).with_source(error)
        })?;
        let Some(announced) = received else { return Ok(false) };
        self.peer = announced.source;
        self.destination = Some(announced.destination);
        Ok(true)
    }

    /// TLS, up to the end of the handshake.
    async fn accept_tls(&mut self, socket: TcpStream) -> Result<ConnectionUse, Rejection> {
        let Some(terms) = &self.policy.tls else { return self.opened(ClientStream::Plain(socket)) };
        let mut told = TlsInfo::default();
        // Offered while an ACME server is to ask for it, and at no other time.
        let challenge = self.handle.proxy.challenges.tls();
        let handshake = terms.accept_with_override(challenge, socket, &mut told);
        let outcome = timeout_at(self.until, handshake).await;
        let outcome = outcome.unwrap_or_else(|_| {
            Err(tls::FailedHandshake::from(io::Error::from(io::ErrorKind::TimedOut)))
        });
        let stream = match outcome {
            Ok(stream) => ClientStream::Tls(stream),
            Err(refused) => {
                self.tls_info = Some(Arc::new(told));
                return Err(self.refused(refused));
            }
        };
        self.handle.metrics.handshake(stream.is_resumed());
        self.tls_info = stream.secured().map(Arc::new);
        if stream.alpn() == Some(acme::PROTOCOL) {
            return Ok(ConnectionUse::Challenge(stream));
        }
        self.opened(stream)
    }

    fn refused(&self, refused: tls::FailedHandshake) -> Rejection {
        let tls::FailedHandshake { error, alert } = refused;
        let failed = ProxyError::new(Side::Client, Phase::Handshake, tls::kind(&error));
        let rejection =
            Rejection::from(self.explain_missing_certificate(failed.with_source(error)));
        match alert {
            Some((socket, bytes)) => rejection.after(ClientStream::Plain(socket), bytes),
            None => rejection,
        }
    }

    /// The failure of a handshake, ours where there was nothing to show; rustls has no error of its own
    /// for it.
    fn explain_missing_certificate(&self, error: ProxyError) -> ProxyError {
        let source = error.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        let told = source.and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
        let nothing = matches!(told, Some(rustls::Error::General(_)));
        if !(nothing || error.kind == FailureKind::UnknownName)
            || !self.policy.certificates.are_missing()
        {
            return error;
        }
        let missing =
            ProxyError::new(Side::Proxy, Phase::Handshake, FailureKind::CertificateMissing);
        missing.with_source("no certificate has been issued yet")
    }

    fn opened(&self, stream: ClientStream) -> Result<ConnectionUse, Rejection> {
        match &self.policy.pool {
            _ if self.policy.http => Ok(ConnectionUse::Requests(stream)),
            Some(pool) => Ok(ConnectionUse::Stream(stream, Arc::clone(pool))),
            None => Err(Rejection::new(Phase::Select, FailureKind::NoRoute).after(stream, b"")),
        }
    }

    /// Layer 4: one stream, which goes on in a task of its own. Its pool is the one that has the name
    /// now: a handshake may take long.
    async fn serve_stream(self, stream: ClientStream, pool: &str) {
        let Some(pool) = self.handle.proxy.snapshot.load().pool(pool).cloned() else {
            self.fail(&ProxyError::new(Side::Proxy, Phase::Select, FailureKind::NoRoute), 0);
            return sniff::close_with(stream, b"").await;
        };
        let arrived = layer4::NewStream {
            client: stream,
            peer: self.peer,
            destination: self.destination,
            tls_info: self.tls_info,
            pool,
            listener: self.handle.metrics,
            counted: self.counted,
            drain: self.handle.drain,
        };
        if let Some(client) = layer4::serve(&self.handle.proxy, arrived).await {
            sniff::close_with(client, b"").await;
        }
    }

    /// An ACME server, for whom the handshake was all (RFC 8737 §3).
    async fn serve_challenge(self, mut stream: ClientStream) {
        // Where it has gone already, it has seen it all the same.
        let _ = timeout_at(self.until, stream.shutdown()).await;
        self.facts().log(self.form(), 0, Termination::Answered, None);
    }

    /// HTTP, request by request. What the future holds it holds for days: only what the connection's end
    /// needs, and nothing of how it began.
    fn serve_requests(self, stream: ClientStream) -> impl Future<Output = ()> {
        let introduces = self.handle.proxy.snapshot.load().introduces;
        let local = || introduces.then(|| stream.local().ok()).flatten();
        let destination = self.destination.or_else(local);
        let ListenerHandle { proxy, metrics, drain, .. } = self.handle;
        let info = Arc::new(ConnectionInfo {
            peer: self.peer,
            destination,
            tls_info: self.tls_info,
            listener: self.policy,
            metrics,
            counted: self.counted,
            client_signal: Arc::default(),
            clock: Arc::default(),
            has_body: AtomicBool::new(false),
            tunnel: Mutex::default(),
            drain,
        });
        async move {
            server::serve(proxy, info, stream, log_rejected).await;
        }
    }

    fn fail(&self, error: &ProxyError, status: u16) {
        self.facts().fail(self.form(), status, error);
    }

    fn expects_tls(&self) -> bool {
        self.policy.tls.is_some() || self.policy.looks
    }

    fn form(&self) -> StreamKind {
        if self.policy.http { StreamKind::Http } else { StreamKind::Stream }
    }

    fn facts(&self) -> ConnectionFacts<'_> {
        ConnectionFacts {
            proxy: &self.handle.proxy,
            metrics: &self.handle.metrics,
            peer: self.peer,
            tls_info: self.tls_info.as_ref(),
            since: self.accepted,
        }
    }
}

/// What a ClientHello that is not answered here tells.
fn hello_info(hello: &ClientHello) -> TlsInfo {
    let alpn = hello.first_protocol().map(|name| name.as_ref().into());
    TlsInfo { sni: hello.sni.clone(), alpn, ..TlsInfo::default() }
}

/// What a step brings before the deadline, or the client's failure in that phase.
async fn in_time<T>(
    until: Instant,
    phase: Phase,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, ProxyError> {
    let outcome = timeout_at(until, step).await;
    let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    outcome
        .map_err(|error| ProxyError::new(Side::Client, phase, tls::kind(&error)).with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_served<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection costs while it waits for requests, beside hyper's share: its task is this future.
    #[test]
    fn a_connection_that_waits_remembers_little_of_how_it_began() {
        let served =
            size_of_served(|proxy, info, stream| server::serve(proxy, info, stream, log_rejected));
        let whole = size(AcceptedConnection::serve);
        assert!(whole <= served + 600, "{whole} bytes, of which HTTP has {served}");
    }
}
