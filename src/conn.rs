//! One client connection, step by step: accept, PROXY header, sniffing, TLS, then requests or a
//! layer 4 stream.
//!
//! The accept loop only accepts; everything that can wait or fail happens in the task of the
//! connection. All steps before the application's first byte share one deadline, which starts at
//! accept. A connection that fails before still ends once: one log line, one metric.
//!
//! Until the destination is known, bytes are only peeked at and left in the socket. A passthrough
//! connection therefore needs no replay, and TLS begins on the socket as it was accepted.

mod log;
mod rejection;
mod sniff;

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};

use self::{
    log::{ConnectionFacts, log_rejected},
    rejection::{AddressLimit, FinalReply, Rejection},
    sniff::Sniffed,
};

use crate::{
    acme,
    config::ProxyIn,
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    layer4,
    net::{
        client_hello::ClientHello,
        client_limits::{ConnectionSlot, HandshakeSlot},
        listener::Acceptor,
        per_address::{AddressSlot, CountedConnection},
        proxy_protocol,
        stream::ClientStream,
        tls::{self, TlsInfo},
    },
    observe::{ListenerMetrics, StreamKind},
    proxy::{
        connection::{self, ConnectionInfo},
        reply::PLAIN_ON_TLS,
    },
    shared::SharedState,
    shutdown, snapshot,
    stream_log::StreamSinks,
};

/// A listening socket, as its connections see it.
#[derive(Clone, Debug)]
pub struct ListenerHandle {
    /// State shared by all streams.
    pub proxy: Arc<SharedState>,
    /// Name of the listener.
    pub name: Arc<str>,
    /// Metrics of the listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Signals a shutdown to the connections, and makes the shutdown wait for them.
    pub drain: shutdown::Watch,
}

/// Accepts connections until the future is dropped.
pub async fn accept(socket: Arc<TcpListener>, handle: ListenerHandle) {
    let pauses = handle.proxy.metrics.accept_pauses.clone();
    let acceptor = Acceptor::new(socket);
    let mut last = None;
    loop {
        handle.proxy.limits.below_connection_limit().await;
        let (stream, peer) = acceptor.accept(&pauses).await;
        // A connection keeps the policy that is current at accept. While a listener is being
        // renamed, its last policy applies.
        let current = handle.proxy.snapshot.load().listeners.get(&handle.name).cloned();
        last = current.or(last);
        let Some(policy) = last.clone() else { continue };
        let accepted = Instant::now();
        let until = accepted + policy.handshake_timeout;
        let handle = handle.clone();
        let slot = handle.proxy.limits.connection();
        let (address, destination, tls_info) = (None, None, None);
        let connection = AcceptedConnection {
            handle,
            policy,
            peer,
            slot,
            address,
            destination,
            tls_info,
            accepted,
            until,
        };
        tokio::spawn(connection.serve(stream));
    }
}

/// A connection that has just been accepted, and what is known about it.
struct AcceptedConnection {
    handle: ListenerHandle,
    policy: Arc<snapshot::ListenerSnapshot>,
    /// Address of the peer.
    peer: SocketAddr,
    /// Slot among the connections of the process.
    slot: ConnectionSlot,
    /// Slot among the connections of the peer's address, if those are limited.
    address: Option<Box<AddressSlot>>,
    /// Address that the client connected to, from a PROXY header.
    destination: Option<SocketAddr>,
    /// TLS properties; set once the handshake has ended.
    tls_info: Option<Arc<TlsInfo>>,
    accepted: Instant,
    /// Deadline for the first byte of the application.
    until: Instant,
}

/// A connection that serves requests.
struct RequestConnection {
    proxy: Arc<SharedState>,
    info: Arc<ConnectionInfo>,
    stream: ClientStream,
}

/// How a connection is used.
enum ConnectionUse {
    /// For requests.
    Requests(ClientStream),
    /// Not at all: an ACME server has validated the name by the handshake.
    Challenge(ClientStream),
    /// As a stream to the pool with this name.
    Stream(ClientStream, Arc<str>),
}

impl AcceptedConnection {
    /// Serves the connection until it ends. The future of a connection that serves requests lives for days: what
    /// only the start of the connection needs is on the heap.
    fn serve(self, socket: TcpStream) -> impl Future<Output = ()> + Send {
        let open = self.handle.metrics.accept();
        let start = Box::pin(self.start(socket));
        async move {
            let _open = open;
            let Some(RequestConnection { proxy, info, stream }) = start.await else { return };
            connection::serve(proxy, info, stream, log_rejected).await;
        }
    }

    /// Runs all steps before the first request. Does all the rest, too, if the connection is not for requests.
    async fn start(mut self, socket: TcpStream) -> Option<RequestConnection> {
        match self.open(socket).await {
            Ok(ConnectionUse::Requests(stream)) => return Some(self.requests(stream)),
            Ok(ConnectionUse::Challenge(stream)) => self.serve_challenge(stream).await,
            // Boxed, because most connections serve requests.
            Ok(ConnectionUse::Stream(stream, pool)) => {
                Box::pin(self.serve_stream(stream, &pool)).await;
            }
            Err(Rejection { error, reply }) => {
                if error.phase != Phase::ProxyHeader && self.expects_tls() {
                    // TLS listener: log the connection as TLS even if the handshake never started.
                    self.tls_info.get_or_insert_default();
                }
                self.fail(&error, reply.as_ref().map_or(0, |reply| reply.status));
                if let Some(reply) = reply {
                    let FinalReply { client, bytes, .. } = *reply;
                    Box::pin(sniff::close_with(client, &bytes)).await;
                }
            }
        }
        None
    }

    /// Runs all steps before the application's first byte.
    async fn open(&mut self, socket: TcpStream) -> Result<ConnectionUse, Rejection> {
        let policy = Arc::clone(&self.policy);
        let admitted = match self.admit_address() {
            Ok(()) if self.read_proxy_header(&socket).await? => self.admit_address(),
            admitted => admitted,
        };
        if let Err(limit) = admitted {
            let readable = policy.http && policy.tls.is_none();
            return Err(Rejection::over(limit, ClientStream::Plain(socket), readable));
        }
        if !self.expects_tls() {
            return self.opened(ClientStream::Plain(socket));
        }
        let first = async {
            // Boxed: few listeners need the whole hello.
            if policy.peeks_client_hello {
                Box::pin(sniff::hello(&socket)).await
            } else {
                sniff::protocol(&socket).await
            }
        };
        match in_time(self.until, Phase::Handshake, first).await? {
            Sniffed::Tls => {}
            Sniffed::Hello(hello) => {
                let passed_on = policy.passthrough_pool(&hello);
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

    /// Counts the connection for its current peer address, and for no other.
    ///
    /// # Errors
    /// The address has reached a limit.
    fn admit_address(&mut self) -> Result<(), AddressLimit> {
        self.address = None;
        let snapshot::ListenerSnapshot { per_address, connection_rate, .. } = &*self.policy;
        if per_address.is_none() && connection_rate.is_none() {
            return Ok(());
        }
        let ip = self.peer.ip();
        // Many clients share the address of a proxy in front.
        let is_proxy = |terms: &ProxyIn| self.destination.is_none() && terms.trusts(ip);
        let terms = self.policy.proxy_protocol.as_ref();
        if self.handle.proxy.snapshot.load().trusts(ip) || terms.is_some_and(is_proxy) {
            return Ok(());
        }
        let slot = match per_address {
            Some((most, open)) => Some(open.admit(ip, *most).ok_or(AddressLimit::Open)?),
            None => None,
        };
        if let Some(rate) = connection_rate {
            rate.take(ip).map_err(AddressLimit::Rate)?;
        }
        self.address = slot;
        Ok(())
    }

    /// Reads the PROXY header if the listener expects one, and takes the peer from it. Returns
    /// whether the header has an address.
    async fn read_proxy_header(&mut self, socket: &TcpStream) -> Result<bool, ProxyError> {
        let Some(terms) = &self.policy.proxy_protocol else { return Ok(false) };
        // Only in a passthrough or layer 4 stream may the server send first.
        let server_first = !(self.policy.http || self.expects_tls());
        let wait = proxy_protocol::HeaderWait { deadline: self.until, server_first };
        // Boxed: most listeners expect no PROXY header.
        let received = Box::pin(proxy_protocol::receive(socket, terms, self.peer, wait));
        let received = received.await.map_err(|error| {
            ProxyError::new(Side::Client, Phase::ProxyHeader, error.kind()).with_source(error)
        })?;
        let Some(announced) = received else { return Ok(false) };
        self.peer = announced.source;
        self.destination = Some(announced.destination);
        Ok(true)
    }

    /// Runs the TLS handshake.
    async fn accept_tls(&mut self, socket: TcpStream) -> Result<ConnectionUse, Rejection> {
        let Some(terms) = &self.policy.tls else { return self.opened(ClientStream::Plain(socket)) };
        let mut tls_info = TlsInfo::default();
        // Set only while an answer to an ACME server is posted.
        let challenge = self.handle.proxy.challenges.tls();
        let _slot = match self.handle.proxy.limits.try_handshake() {
            Some(slot) => slot,
            // Boxed: few handshakes wait.
            None => Box::pin(self.wait_for_handshake()).await?,
        };
        let handshake = terms.accept_with_override(challenge, socket, &mut tls_info);
        let outcome = timeout_at(self.until, handshake).await;
        let outcome = outcome.unwrap_or_else(|_| {
            Err(tls::FailedHandshake::from(io::Error::from(io::ErrorKind::TimedOut)))
        });
        let stream = match outcome {
            Ok(stream) => ClientStream::Tls(stream),
            Err(refused) => {
                self.tls_info = Some(Arc::new(tls_info));
                return Err(self.refused(refused));
            }
        };
        self.handle.metrics.handshake(stream.is_resumed());
        self.tls_info = Some(Arc::new(tls_info));
        if stream.alpn() == Some(acme::PROTOCOL) {
            return Ok(ConnectionUse::Challenge(stream));
        }
        self.opened(stream)
    }

    /// Waits until one of the allowed handshakes may begin.
    async fn wait_for_handshake(&self) -> Result<HandshakeSlot, ProxyError> {
        let slot = timeout_at(self.until, self.handle.proxy.limits.handshake()).await;
        slot.map_err(|_| {
            let error = ProxyError::new(Side::Proxy, Phase::Handshake, FailureKind::TimedOut);
            error.with_source("too many TLS handshakes at the same time; see `limits.handshakes`")
        })
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

    /// Replaces the failure of a handshake without any certificate by an error of the proxy; rustls
    /// has no specific error for it.
    fn explain_missing_certificate(&self, error: ProxyError) -> ProxyError {
        let source = error.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        let rustls_error =
            source.and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
        let nothing = matches!(rustls_error, Some(rustls::Error::General(_)));
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

    /// Serves a layer 4 stream, which continues in a separate task. The pool is looked up by name
    /// only now, because a handshake may take long.
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
            counted: Some(CountedConnection::new(self.slot, self.address)),
            drain: self.handle.drain,
        };
        if let Some(client) = layer4::serve(&self.handle.proxy, arrived).await {
            sniff::close_with(client, b"").await;
        }
    }

    /// Closes the connection of an ACME server, which needs only the handshake (RFC 8737 §3).
    async fn serve_challenge(self, mut stream: ClientStream) {
        // An error means that the server has left already, after the handshake.
        let _ = timeout_at(self.until, stream.shutdown()).await;
        self.facts().log(self.form(), 0, Termination::Answered, None);
    }

    /// The connection, for requests.
    fn requests(self, stream: ClientStream) -> RequestConnection {
        let needed = self.handle.proxy.snapshot.load().sends_proxy_headers;
        let local = || needed.then(|| stream.local().ok()).flatten();
        let destination = self.destination.or_else(local);
        let ListenerHandle { proxy, metrics, drain, .. } = self.handle;
        let sinks = StreamSinks {
            log: Arc::clone(&proxy.log),
            metrics: Arc::clone(&proxy.metrics),
            listener: Arc::clone(&metrics),
            drain,
        };
        let info = Arc::new(ConnectionInfo {
            peer: self.peer,
            destination,
            tls_info: self.tls_info,
            listener: self.policy,
            metrics,
            counted: Some(CountedConnection::new(self.slot, self.address)),
            sinks: Arc::new(sinks),
        });
        RequestConnection { proxy, info, stream }
    }

    fn fail(&self, error: &ProxyError, status: u16) {
        self.facts().fail(self.form(), status, error);
    }

    fn expects_tls(&self) -> bool {
        self.policy.tls.is_some() || self.policy.peeks_client_hello
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

/// TLS properties from a ClientHello that is not answered here.
fn hello_info(hello: &ClientHello) -> TlsInfo {
    let alpn = hello.first_protocol().map(|name| name.as_ref().into());
    TlsInfo { sni: hello.sni.clone(), alpn, ..TlsInfo::default() }
}

/// Runs a step within the deadline; an error is the client's failure in that phase.
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

    /// Cost of a connection that waits for requests: the task is this future.
    #[test]
    fn a_waiting_connection_holds_little_of_its_start() {
        let served = size_of_served(|proxy, info, stream| {
            connection::serve(proxy, info, stream, log_rejected)
        });
        let whole = size(AcceptedConnection::serve);
        assert!(whole <= 800 && whole <= served + 100, "{whole} bytes, of which HTTP has {served}");
    }
}
