//! TLS towards clients: which certificate a name gets, how sessions are resumed, and the handshake.
//!
//! A [`rustls::ServerConfig`] is built anew at each reload; what makes resumption work ([`TicketKeys`])
//! is made once per process and outlives them all, and goes on in the next process at a binary
//! upgrade. No client certificates are asked for, so sharing
//! it between listeners cannot turn one client into another; rustls itself refuses to resume under
//! another server name than the session was made for.
//!
//! # What an idle connection holds
//!
//! Measured: 8.2 kB, all of it in user space (x86-64, rustls 0.23, TLS 1.3; 1.2 is the same, and
//! sending tickets or not makes no difference). Half of it is the receive buffer: the deframer of
//! rustls reads 4 KiB at a time (`READ_SIZE`, no setting for it), grows to a full record while one
//! comes in, and is cut back to 4 KiB by the next read, the one that then waits. The rest is the
//! connection itself (1.2 kB), two cipher contexts (0.6 kB each), its secrets and the empty queues of
//! what it sent and received; the handshake's own state is freed when it is over. [`SEND_LIMIT`]
//! bounds what waits to be sent, nothing is reserved for it. Only the unbuffered API, which
//! tokio-rustls does not use, would do without the 4 KiB.

mod resolver;
mod self_signed;

use std::{
    io,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{Acceptor, ServerSessionMemoryCache, StoresServerSessions},
};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

pub use self::{
    resolver::Resolver,
    self_signed::{SelfSignedError, self_signed},
};
pub use super::tickets::TicketKey;
use super::tickets::Ticketer;
use crate::config;

/// Most bytes a connection takes before they are written to its socket; past it, writing waits. Four
/// full records: enough to fill the socket's buffer in one go, and the bound for a stalled reader.
pub const SEND_LIMIT: usize = 64 * 1024;
/// Sessions kept for TLS 1.2 clients without ticket support; everyone else brings a ticket.
const CACHED_SESSIONS: usize = 4096;

/// Cryptography by aws-lc-rs, named here so that no process-wide default is needed.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// The cryptography that all TLS here is done by.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// What resumption needs to remember: the ticket keys, which roll every 6 hours and are accepted
/// for 12, and the session cache. Make one per process and hand it to every [`server_config`].
#[derive(Clone, Debug)]
pub struct TicketKeys {
    tickets: Arc<Ticketer>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl TicketKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// No randomness.
    pub fn new() -> Result<Self, rustls::Error> {
        Self::adopt(&[])
    }

    /// Those of the process before this one, as [`export`](Self::export) gave them; fresh ones where
    /// there are none. The cache, for clients without tickets, begins empty.
    ///
    /// # Errors
    /// No randomness.
    pub fn adopt(handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        let sessions = ServerSessionMemoryCache::new(CACHED_SESSIONS);
        Ok(Self { tickets: Ticketer::new(handed)?, sessions })
    }

    /// The ticket keys, for the next process.
    pub fn export(&self) -> Vec<TicketKey> {
        self.tickets.export()
    }
}

/// What a listener serves TLS by: 1.2 and 1.3, `http/1.1` by ALPN, tickets and a session cache, no
/// early data. Certificates that are not given are `issued`: who gives them out may have none yet.
///
/// # Errors
/// No certificate given, and none issued elsewhere.
pub fn server_config(
    tls: &config::Tls,
    issued: Option<&Arc<Resolver>>,
    shared: &TicketKeys,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = match (&tls.certificates, issued) {
        (config::Certificates::Given(certificates), _) if !certificates.is_empty() => {
            Arc::new(Resolver::new(certificates))
        }
        (config::Certificates::Acme(_), Some(issued)) => Arc::clone(issued),
        _ => {
            let why = "a TLS listener without a certificate".to_owned();
            return Err(rustls::Error::General(why));
        }
    };
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = shared.tickets.clone();
    config.session_storage = shared.sessions.clone();
    // A replayed request could open a second session or repeat a poll.
    config.max_early_data_size = 0;
    // Two, because a ticket is used once and browsers open more than one connection.
    config.send_tls13_tickets = 2;
    Ok(Arc::new(config))
}

/// What we ask others by, as a client that trusts whom the system trusts (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` are honoured). Reads files.
///
/// # Errors
/// The system trusts nobody that can be read.
pub(crate) fn system_client() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let (taken, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 {
        return Err(rustls::Error::General("the system has no trusted certificates".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Runs the handshake, with no deadline of its own: the caller knows when the client was accepted.
///
/// # Errors
/// The socket's, or [`io::ErrorKind::InvalidData`] with a [`rustls::Error`] inside where the client's
/// bytes are no TLS or nothing could be agreed on; an alert has been sent where that was possible.
pub async fn handshake(
    config: &Arc<ServerConfig>,
    socket: TcpStream,
) -> io::Result<Box<TlsStream<TcpStream>>> {
    let acceptor = TlsAcceptor::from(config.clone());
    let handshake = acceptor.accept_with(socket, |tls| tls.set_buffer_limit(Some(SEND_LIMIT)));
    handshake.await.map(Box::new)
}

/// As [`handshake`], but a client that offers `protocol` and no other is served by `other`.
///
/// # Errors
/// As for [`handshake`].
pub async fn handshake_beside(
    config: &Arc<ServerConfig>,
    (protocol, other): (&[u8], Arc<ServerConfig>),
    socket: TcpStream,
) -> io::Result<Box<TlsStream<TcpStream>>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let alone = start.client_hello().alpn().is_some_and(|offered| offered.eq([protocol]));
    let config = if alone { other } else { Arc::clone(config) };
    let handshake = start.into_stream_with(config, |tls| tls.set_buffer_limit(Some(SEND_LIMIT)));
    handshake.await.map(Box::new)
}

#[cfg(test)]
mod tests {
    use rustls::{
        ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
        version::{TLS12, TLS13},
    };
    use rustls_pki_types::ServerName;
    use tokio::{io::AsyncWriteExt, net::TcpListener};
    use tokio_rustls::{TlsConnector, client};

    use super::*;
    use crate::{config::Certificate, net::stream::Client};

    fn certificate(names: &[&str]) -> Certificate {
        self_signed(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn client_config(
        trusted: &[&Certificate],
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.key.cert[0].clone()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone());
        let builder = builder.with_protocol_versions(versions).unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    }

    /// Connects once; both ends, or what the server failed with.
    async fn connect(
        server: &Arc<ServerConfig>,
        client: &Arc<ClientConfig>,
        name: &str,
    ) -> (io::Result<Client>, io::Result<client::TlsStream<TcpStream>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let ours = async {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = handshake(server, socket).await?;
            // Tickets reach a client when it reads.
            stream.write_all(b"!").await?;
            Ok(Client::Tls(stream))
        };
        let theirs = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut stream = TlsConnector::from(client.clone()).connect(name, socket).await?;
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0; 1]).await?;
            Ok(stream)
        };
        tokio::join!(ours, theirs)
    }

    fn terms(certificates: &[Certificate]) -> config::Tls {
        config::Tls::new(config::Certificates::Given(certificates.to_vec()))
    }

    #[tokio::test]
    async fn both_versions_are_spoken_and_the_connection_tells_its_terms() {
        let certificates = [certificate(&["default.test"]), certificate(&["*.example.com"])];
        let server =
            server_config(&terms(&certificates), None, &TicketKeys::new().unwrap()).unwrap();
        let versions = [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)];
        for (version, agreed) in versions {
            let mut client = client_config(&[&certificates[1]], &[version]);
            client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let (ours, theirs) = connect(&server, &Arc::new(client), "Chat.Example.Com").await;
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(ours.server_name(), Some("chat.example.com"));
            assert_eq!(ours.alpn(), Some(&b"http/1.1"[..]));
            assert_eq!(ours.tls_version(), Some(agreed));
            assert!(ours.is_tls() && !ours.is_resumed());
            let chain = theirs.get_ref().1.peer_certificates().unwrap();
            assert_eq!(chain, certificates[1].key.cert);
        }
    }

    #[tokio::test]
    async fn sessions_are_resumed_over_a_reload_and_an_upgrade_but_not_with_other_keys() {
        let certificates = [certificate(&["chat.test"])];
        for version in [&TLS12, &TLS13] {
            let keys = TicketKeys::new().unwrap();
            let client = Arc::new(client_config(&[&certificates[0]], &[version]));
            let mut resumed = Vec::new();
            let next = TicketKeys::adopt(&keys.export()).unwrap();
            for keys in [&keys, &keys, &next, &TicketKeys::new().unwrap()] {
                let server = server_config(&terms(&certificates), None, keys).unwrap();
                let (ours, theirs) = connect(&server, &client, "chat.test").await;
                theirs.unwrap();
                resumed.push(ours.unwrap().is_resumed());
            }
            assert_eq!(resumed, [false, true, true, false], "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_cannot_be_served_is_an_error() {
        let certificates = [certificate(&["chat.test"])];
        let server =
            server_config(&terms(&certificates), None, &TicketKeys::new().unwrap()).unwrap();
        let mut client = client_config(&[&certificates[0]], &[&TLS13]);
        client.alpn_protocols = vec![b"h2".to_vec()];
        let (ours, theirs) = connect(&server, &Arc::new(client), "chat.test").await;
        assert_eq!(ours.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(theirs.is_err());
    }

    #[tokio::test]
    async fn what_is_no_tls_is_an_error() {
        let certificates = [certificate(&["chat.test"])];
        let server =
            server_config(&terms(&certificates), None, &TicketKeys::new().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let error = handshake(&server, socket).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
    }

    #[test]
    fn no_certificate_is_an_error() {
        assert!(server_config(&terms(&[]), None, &TicketKeys::new().unwrap()).is_err());
    }

    #[tokio::test]
    async fn a_made_certificate_is_valid_for_an_address() {
        let certificates = [certificate(&["localhost", "127.0.0.1"])];
        let server =
            server_config(&terms(&certificates), None, &TicketKeys::new().unwrap()).unwrap();
        let client = Arc::new(client_config(&[&certificates[0]], &[&TLS13]));
        let (ours, theirs) = connect(&server, &client, "127.0.0.1").await;
        theirs.unwrap();
        assert_eq!(ours.unwrap().server_name(), None);
    }
}
