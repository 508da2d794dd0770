//! TLS settings of a listener, and the handshake.

use std::{error::Error, fmt, future::poll_fn, io, sync::Arc};

use moorline_http::{BULK_SIZE, Buffer, HEAD_SIZE};
use rustls::{
    CommonState, NamedGroup, ProtocolVersion, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        Accepted, Acceptor, ClientHello, UnbufferedServerConnection, danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::UnixTime;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    CertificateResolver, TicketKeys, client_auth, identity, key_log, kind::UnknownName,
    provider::PROVIDER,
};
use crate::{
    config::{self, TlsVersion, UnknownSni, suite_name},
    net::{
        tls::TlsInfo,
        tls_stream::{ServerTlsStream, TlsStream},
    },
};

/// The fatal alert `unrecognized_name` (RFC 6066 section 3) as a record. rustls has no way to send it: if its
/// resolver returns nothing, rustls sends `access_denied`.
pub const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// Why a terminator cannot be built.
#[derive(Debug)]
pub enum TerminatorError {
    /// rustls does not accept the settings.
    Settings(rustls::Error),
    /// The key log cannot be written; the text names the file.
    KeyLog(io::Error),
}

impl fmt::Display for TerminatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::KeyLog(error) => error.fmt(f),
        }
    }
}

impl Error for TerminatorError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Settings(error) => Some(error),
            Self::KeyLog(error) => Some(error),
        }
    }
}

impl From<rustls::Error> for TerminatorError {
    fn from(error: rustls::Error) -> Self {
        Self::Settings(error)
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct FailedHandshake {
    /// The socket's error, or [`io::ErrorKind::InvalidData`] around a [`rustls::Error`] if the client does not use TLS,
    /// is not allowed, or shares no parameters with the listener. [`kind`](super::kind()) classifies all of them.
    pub error: io::Error,
    /// The socket and an alert still to be sent, if the client can be informed. rustls may already have sent one.
    /// Read pending input before closing, or the close discards the alert: in TLS 1.3 a request may arrive with
    /// the last handshake message.
    pub alert: Option<(TcpStream, &'static [u8])>,
}

impl FailedHandshake {
    fn new(error: io::Error, socket: Option<TcpStream>, words: &'static [u8]) -> Self {
        let socket = socket.filter(|_| error.kind() == io::ErrorKind::InvalidData);
        Self { error, alert: socket.map(|socket| (socket, words)) }
    }
}

impl From<io::Error> for FailedHandshake {
    fn from(error: io::Error) -> Self {
        Self { error, alert: None }
    }
}

/// TLS settings of a listener. They never change; the certificates can, see [`CertificateResolver`].
#[derive(Debug)]
pub struct Terminator {
    config: Arc<ServerConfig>,
    /// One configuration per key exchange group, in order of preference. rustls takes the first group of the client
    /// that is also ours; a configuration with a single group enforces our preference.
    preferred: Vec<GroupConfig>,
    resolver: Arc<CertificateResolver>,
    unknown_sni: UnknownSni,
    /// Verifier of client certificates, if they are requested.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// A configuration with one key exchange group.
#[derive(Debug)]
struct GroupConfig {
    group: NamedGroup,
    /// Whether TLS 1.2 supports the group.
    old: bool,
    config: Arc<ServerConfig>,
}

/// The configuration for clients that offer one certain protocol only.
#[derive(Clone, Debug)]
pub struct AlpnOverride {
    /// ALPN name of the protocol.
    pub protocol: &'static [u8],
    /// Configuration of the handshake.
    pub config: Arc<ServerConfig>,
}

impl AlpnOverride {
    fn is_for(&self, hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|offered| offered.eq([self.protocol]))
    }
}

impl Terminator {
    /// Creates a terminator from the listener's settings and the state shared by all listeners. `alpn`: supported
    /// protocols in order of preference.
    ///
    /// # Errors
    /// Conflicting settings, or a key log that cannot be opened.
    pub fn new(
        tls: &config::TlsConfig,
        alpn: &[&str],
        resolver: Arc<CertificateResolver>,
        tickets: &TicketKeys,
    ) -> Result<Self, TerminatorError> {
        let verifier = tls.client_auth.as_ref().map(client_auth::verifier).transpose()?;
        let key_log = tls.key_log.as_deref().map(key_log::KeyLogWriter::of).transpose();
        let key_log = key_log.map_err(TerminatorError::KeyLog)?;
        let context = client_auth::context(tls.client_auth.as_ref());
        let (ticketer, cache) = (tickets.tickets(context), tickets.cache(context));
        let config = |provider: CryptoProvider| -> Result<Arc<ServerConfig>, TerminatorError> {
            let versions = versions(tls.min_version, &provider);
            let builder = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&versions)?;
            let builder = match &verifier {
                Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
                None => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(resolver.clone());
            // All suites are secure; the operator of the machine chooses among them by cost.
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
            Ok(GroupConfig { group: group.name(), old, config: config(alone)? })
        });
        let preferred = preferred.collect::<Result<_, TerminatorError>>()?;
        let config = config(provider)?;
        Ok(Self { config, preferred, resolver, unknown_sni: tls.unknown_sni, verifier })
    }

    /// Performs the handshake. It has no deadline: the caller knows when the client was accepted. `secured` gets the
    /// wishes of the client as soon as the ClientHello has been parsed, and what was agreed after the handshake.
    ///
    /// # Errors
    /// The handshake failed; the socket has not been closed.
    pub async fn accept(
        &self,
        socket: TcpStream,
        secured: &mut TlsInfo,
    ) -> Result<Box<ServerTlsStream>, FailedHandshake> {
        self.accept_with_override(None, socket, secured).await
    }

    /// Like [`accept`](Self::accept), but a client that offers exactly the protocol of `alpn_override` gets its configuration.
    ///
    /// # Errors
    /// As for [`accept`](Self::accept).
    pub async fn accept_with_override(
        &self,
        alpn_override: Option<AlpnOverride>,
        socket: TcpStream,
        secured: &mut TlsInfo,
    ) -> Result<Box<ServerTlsStream>, FailedHandshake> {
        // Boxed: the future is large and ends long before the connection does.
        Box::pin(self.handshake(alpn_override, socket, secured)).await
    }

    async fn handshake(
        &self,
        alpn_override: Option<AlpnOverride>,
        mut socket: TcpStream,
        secured: &mut TlsInfo,
    ) -> Result<Box<ServerTlsStream>, FailedHandshake> {
        let (hello, received) = match receive_hello(&mut socket).await {
            Ok(received) => received,
            Err(error) => return Err(FailedHandshake::new(error, Some(socket), b"")),
        };
        record_hello(&hello.client_hello(), secured);
        let config = match alpn_override
            .filter(|alpn_override| alpn_override.is_for(&hello.client_hello()))
        {
            Some(alpn_override) => alpn_override.config,
            None => {
                if let Err(unknown) = self.serves(secured.sni.as_deref()) {
                    let error = io::Error::new(io::ErrorKind::InvalidData, unknown);
                    return Err(FailedHandshake::new(error, Some(socket), UNRECOGNIZED_NAME));
                }
                Arc::clone(self.by_preference(&hello.client_hello()))
            }
        };
        // rustls reads the ClientHello again: it has no unbuffered way to continue with this one.
        drop(hello);
        let session = UnbufferedServerConnection::new(config)
            .map_err(|error| FailedHandshake::from(io::Error::other(error)))?;
        let mut stream = Box::new(TlsStream::new(session, socket, Some(received)));
        if let Err(error) = stream.handshake().await {
            return Err(FailedHandshake::new(error, Some(stream.into_socket()), b""));
        }
        self.still_valid(stream.session())?;
        record_session(stream.session(), secured);
        Ok(stream)
    }

    /// Returns the configuration for the first of our key exchange groups that the client supports. If there is none,
    /// rustls reports it. A TLS 1.3 client without a share for the group gets a HelloRetryRequest.
    fn by_preference(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let offered = hello.named_groups().unwrap_or_default();
        // Cipher suites belong to one TLS version, so they show which version will be used.
        let suites = &self.config.crypto_provider().cipher_suites;
        let new = suites
            .iter()
            .any(|suite| suite.tls13().is_some() && hello.cipher_suites().contains(&suite.suite()));
        let known = |terms: &&GroupConfig| offered.contains(&terms.group) && (new || terms.old);
        self.preferred.iter().find(known).map_or(&self.config, |terms| &terms.config)
    }

    fn serves(&self, name: Option<&str>) -> Result<(), UnknownName> {
        let served = match self.unknown_sni {
            UnknownSni::Default => true,
            UnknownSni::Refuse => name.is_some_and(|name| self.resolver.knows(name)),
        };
        served.then_some(()).ok_or_else(|| UnknownName(name.map(Box::from)))
    }

    /// Verifies the client certificate of a resumed session again: resumption needs no new proof and may outlive the
    /// certificate. The handshake is already complete, so the client gets no alert.
    fn still_valid(&self, session: &CommonState) -> io::Result<()> {
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

/// Returns the provider with the configured suites and groups, in that order.
fn provider(tls: &config::TlsConfig) -> CryptoProvider {
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

/// Returns the enabled versions; a version without a cipher suite is left out.
fn versions(
    oldest: TlsVersion,
    provider: &CryptoProvider,
) -> Vec<&'static SupportedProtocolVersion> {
    let enabled = |version: &&SupportedProtocolVersion| {
        let new_enough = oldest == TlsVersion::V1_2 || version.version == ProtocolVersion::TLSv1_3;
        let usable = provider.cipher_suites.iter().any(|suite| suite.version() == *version);
        new_enough && usable
    };
    [&TLS13, &TLS12].into_iter().filter(enabled).collect()
}

/// Reads from the socket until there is a ClientHello. Returns all bytes read, too.
async fn receive_hello(socket: &mut TcpStream) -> io::Result<(Accepted, Buffer)> {
    let mut acceptor = Acceptor::default();
    let mut received = Buffer::new();
    while received.len() < BULK_SIZE {
        if received.is_full() {
            received.reserve(HEAD_SIZE);
        }
        let read = poll_fn(|cx| received.poll_fill(cx, socket)).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &received.filled()[received.len() - read..];
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
            match acceptor.accept() {
                Ok(Some(hello)) => return Ok((hello, received)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    // An error of the socket would hide the first one.
                    let _ = socket.write_all(&bytes).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is too long"))
}

/// Records what was agreed in a handshake.
fn record_session(session: &CommonState, secured: &mut TlsInfo) {
    let agreed = session.alpn_protocol();
    secured.alpn = agreed.map(|name| String::from_utf8_lossy(name).into());
    let version = session.protocol_version().zip(session.negotiated_cipher_suite());
    secured.version =
        version.map(|(version, suite)| (version_name(version), suite_name(suite.suite())));
    secured.client = session.peer_certificates().and_then(<[_]>::first).map(identity::of);
}

/// Returns a TLS version in OpenSSL's notation, which other tools use as well.
fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        // Other versions are never negotiated.
        _ => "?",
    }
}

/// Records server name and first ALPN protocol.
fn record_hello(hello: &ClientHello<'_>, secured: &mut TlsInfo) {
    secured.sni = hello.server_name().map(Box::from);
    let offered = hello.alpn().and_then(|mut names| names.next());
    secured.alpn = offered.map(|name| String::from_utf8_lossy(name).into());
}
