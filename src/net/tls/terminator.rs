//! How a listener terminates TLS, and the handshake by it.

use std::{error::Error, fmt, io, sync::Arc};

use rustls::{
    NamedGroup, ProtocolVersion, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{Acceptor, ClientHello, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{PROVIDER, Resolver, SEND_LIMIT, TicketKeys, client_auth, key_log, kind::UnknownName};
use crate::{
    config::{self, TlsVersion, UnknownSni},
    net::tls::TlsInfo,
};

/// The fatal alert `unrecognized_name` (RFC 6066 section 3) in a record of its own. rustls knows no
/// way to say it: where its resolver gives nothing, it says `access_denied`.
pub const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// Why a listener's terms cannot be served by.
#[derive(Debug)]
pub enum Unusable {
    /// rustls refuses them.
    Refused(rustls::Error),
    /// The file for its sessions' secrets cannot be written to; the text names it.
    KeyLog(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::KeyLog(error) => error.fmt(f),
        }
    }
}

impl Error for Unusable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(error) => Some(error),
            Self::KeyLog(error) => Some(error),
        }
    }
}

impl From<rustls::Error> for Unusable {
    fn from(error: rustls::Error) -> Self {
        Self::Refused(error)
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct Refused {
    /// The socket's error, or [`io::ErrorKind::InvalidData`] with a [`rustls::Error`] inside where the
    /// client's bytes are no TLS, it is not let in or nothing could be agreed on;
    /// [`kind`](super::kind) knows them all.
    pub error: io::Error,
    /// Where the client can still be told: the socket, and what has to be said. Whoever closes it without
    /// reading what the client still sends takes an alert back that rustls has sent: in TLS 1.3 a request
    /// may come with the handshake's last part.
    pub parting: Option<(TcpStream, &'static [u8])>,
}

impl Refused {
    fn new(error: io::Error, socket: Option<TcpStream>, words: &'static [u8]) -> Self {
        let socket = socket.filter(|_| error.kind() == io::ErrorKind::InvalidData);
        Self { error, parting: socket.map(|socket| (socket, words)) }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self { error, parting: None }
    }
}

/// A listener's terms of TLS, in force. They never change; its certificates can, see [`Resolver`].
#[derive(Debug)]
pub struct Terminator {
    config: Arc<ServerConfig>,
    /// One for each key exchange group, in order of preference. rustls takes the first of the client's
    /// groups that is among ours; whoever is served by one of these has no choice.
    preferred: Vec<Preferred>,
    resolver: Arc<Resolver>,
    unknown_sni: UnknownSni,
    /// Who looks at clients' certificates, where they are asked for some.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// Terms with one key exchange group.
#[derive(Debug)]
struct Preferred {
    group: NamedGroup,
    /// Whether TLS 1.2 knows it.
    old: bool,
    config: Arc<ServerConfig>,
}

/// How a client is served that offers a certain protocol and no other.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Its name in ALPN.
    pub protocol: &'static [u8],
    /// By what.
    pub config: Arc<ServerConfig>,
}

impl Beside {
    fn is_for(&self, hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|offered| offered.eq([self.protocol]))
    }
}

impl Terminator {
    /// By these settings and what all listeners share. `alpn`: the protocols spoken inside, in order
    /// of preference.
    ///
    /// # Errors
    /// Settings that exclude each other, or a key log that cannot be opened.
    pub fn new(
        tls: &config::Tls,
        alpn: &[&str],
        resolver: Arc<Resolver>,
        tickets: &TicketKeys,
    ) -> Result<Self, Unusable> {
        let verifier = tls.client_auth.as_ref().map(client_auth::verifier).transpose()?;
        let key_log = tls.key_log.as_deref().map(key_log::Writer::of).transpose();
        let key_log = key_log.map_err(Unusable::KeyLog)?;
        let context = client_auth::context(tls.client_auth.as_ref());
        let (ticketer, cache) = (tickets.tickets(context), tickets.cache(context));
        let config = |provider: CryptoProvider| -> Result<Arc<ServerConfig>, Unusable> {
            let versions = versions(tls.min_version, &provider);
            let builder = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&versions)?;
            let builder = match &verifier {
                Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
                None => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(resolver.clone());
            // All suites are good; which of them is for who pays for the machine to say.
            config.ignore_client_order = true;
            config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
            config.ticketer = Arc::clone(&ticketer);
            config.session_storage = Arc::clone(&cache);
            // A replayed request could open a second session or repeat a poll.
            config.max_early_data_size = 0;
            // Two, because a ticket is used once and browsers open more than one connection.
            config.send_tls13_tickets = 2;
            if let Some(writer) = &key_log {
                config.key_log = writer.clone();
            }
            Ok(Arc::new(config))
        };
        let provider = provider(tls);
        let preferred = provider.kx_groups.iter().map(|group| {
            let alone = CryptoProvider { kx_groups: vec![*group], ..provider.clone() };
            let old = group.usable_for_version(ProtocolVersion::TLSv1_2);
            Ok(Preferred { group: group.name(), old, config: config(alone)? })
        });
        let preferred = preferred.collect::<Result<_, Unusable>>()?;
        let config = config(provider)?;
        Ok(Self { config, preferred, resolver, unknown_sni: tls.unknown_sni, verifier })
    }

    /// Runs the handshake, with no deadline of its own: the caller knows when the client was accepted.
    /// What the client has said of itself is in `told` as soon as it was understood.
    ///
    /// # Errors
    /// It failed; nothing has been closed.
    pub async fn accept(
        &self,
        socket: TcpStream,
        told: &mut TlsInfo,
    ) -> Result<Box<TlsStream<TcpStream>>, Refused> {
        self.accept_beside(None, socket, told).await
    }

    /// The same; a client that offers a protocol of its own and no other is served by what is beside.
    ///
    /// # Errors
    /// As for [`accept`](Self::accept).
    pub async fn accept_beside(
        &self,
        beside: Option<Beside>,
        socket: TcpStream,
        told: &mut TlsInfo,
    ) -> Result<Box<TlsStream<TcpStream>>, Refused> {
        // Boxed: it is big, and over long before the connection is.
        Box::pin(self.handshake(beside, socket, told)).await
    }

    async fn handshake(
        &self,
        beside: Option<Beside>,
        socket: TcpStream,
        told: &mut TlsInfo,
    ) -> Result<Box<TlsStream<TcpStream>>, Refused> {
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let start = match (&mut acceptor).await {
            Ok(start) => start,
            Err(error) => return Err(Refused::new(error, acceptor.take_io(), b"")),
        };
        tell(&start.client_hello(), told);
        let config = match beside.filter(|beside| beside.is_for(&start.client_hello())) {
            Some(beside) => beside.config,
            None => {
                if let Err(unknown) = self.serves(told.sni.as_deref()) {
                    let error = io::Error::new(io::ErrorKind::InvalidData, unknown);
                    return Err(Refused::new(error, Some(start.io), UNRECOGNIZED_NAME));
                }
                Arc::clone(self.by_preference(&start.client_hello()))
            }
        };
        let handshake =
            start.into_stream_with(config, |tls| tls.set_buffer_limit(Some(SEND_LIMIT)));
        let stream = match handshake.into_fallible().await {
            Ok(stream) => stream,
            Err((error, socket)) => return Err(Refused::new(error, Some(socket), b"")),
        };
        self.still_valid(&stream)?;
        Ok(Box::new(stream))
    }

    /// The terms with the first of our key exchange groups that the client knows; where it knows none,
    /// rustls says so. A client of TLS 1.3 that has sent no share for it is asked for one.
    fn by_preference(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let offered = hello.named_groups().unwrap_or_default();
        // Suites are of one version or the other, and so tell which will be spoken.
        let suites = &self.config.crypto_provider().cipher_suites;
        let new = suites
            .iter()
            .any(|suite| suite.tls13().is_some() && hello.cipher_suites().contains(&suite.suite()));
        let known = |terms: &&Preferred| offered.contains(&terms.group) && (new || terms.old);
        self.preferred.iter().find(known).map_or(&self.config, |terms| &terms.config)
    }

    fn serves(&self, name: Option<&str>) -> Result<(), UnknownName> {
        let served = match self.unknown_sni {
            UnknownSni::Default => true,
            UnknownSni::Refuse => name.is_some_and(|name| self.resolver.knows(name)),
        };
        served.then_some(()).ok_or_else(|| UnknownName(name.map(Box::from)))
    }

    /// A session that goes on asks for no proof, and may go on for longer than its client's certificate
    /// is valid. By then the handshake is over: no alert says so.
    fn still_valid(&self, stream: &TlsStream<TcpStream>) -> io::Result<()> {
        let session = stream.get_ref().1;
        let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let Some((own, others)) = session.peer_certificates().and_then(<[_]>::split_first) else {
            return Ok(());
        };
        match &self.verifier {
            Some(verifier) if resumed => verifier
                .verify_client_cert(own, others, UnixTime::now())
                .map(|_| ())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            _ => Ok(()),
        }
    }
}

/// Cryptography with the suites and groups that are wanted, in that order.
fn provider(tls: &config::Tls) -> CryptoProvider {
    let mut provider = CryptoProvider::clone(&PROVIDER);
    if !tls.cipher_suites.is_empty() {
        let known = aws_lc_rs::ALL_CIPHER_SUITES;
        let find = |wanted| known.iter().find(|suite| suite.suite() == wanted).copied();
        provider.cipher_suites = tls.cipher_suites.iter().copied().filter_map(find).collect();
    }
    if !tls.curves.is_empty() {
        let known = aws_lc_rs::ALL_KX_GROUPS;
        let find = |wanted| known.iter().find(|group| group.name() == wanted).copied();
        provider.kx_groups = tls.curves.iter().copied().filter_map(find).collect();
    }
    provider
}

/// The versions that are spoken: one for which there is no suite cannot be.
fn versions(
    oldest: TlsVersion,
    provider: &CryptoProvider,
) -> Vec<&'static SupportedProtocolVersion> {
    let spoken = |version: &&SupportedProtocolVersion| {
        let new_enough = oldest == TlsVersion::V1_2 || version.version == ProtocolVersion::TLSv1_3;
        let usable = provider.cipher_suites.iter().any(|suite| suite.version() == *version);
        new_enough && usable
    };
    [&TLS13, &TLS12].into_iter().filter(spoken).collect()
}

fn tell(hello: &ClientHello<'_>, told: &mut TlsInfo) {
    told.sni = hello.server_name().map(Box::from);
    let offered = hello.alpn().and_then(|mut names| names.next());
    told.alpn = offered.map(|name| String::from_utf8_lossy(name).into());
}
