//! TCP and TLS.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue, header};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::{Http, Stream, UpgradeError, WebSocket, fault, tls, upgrade};
use crate::{
    scenario::Scenario,
    stats::{ErrorKind, Failure},
};

/// The first of the loopback addresses that clients connect from; the next ones follow it. Servers
/// on this machine mostly live below, so that nothing is hidden by a client of the same address.
const FIRST_SOURCE: u32 = u32::from_be_bytes([127, 1, 0, 1]);

/// Opens connections as a scenario wants them. One for all clients of a run.
#[derive(Debug)]
pub(crate) struct Connector {
    addresses: Vec<SocketAddr>,
    sources: u32,
    tls: Option<TlsTarget>,
    /// Sent with every request: `Host` and what the scenario adds.
    headers: HeaderMap,
}

#[derive(Debug)]
struct TlsTarget {
    name: ServerName<'static>,
    resume: bool,
    config: Arc<ClientConfig>,
}

/// The connections of one client: its source address, its TLS sessions.
#[derive(Debug)]
pub(crate) struct Dialer {
    connector: Arc<Connector>,
    number: u32,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// Reads the authorities that are to be trusted.
    ///
    /// # Errors
    ///
    /// A sentence for the user, where the file of authorities cannot be used.
    pub(crate) fn new(scenario: &Scenario) -> Result<Self, String> {
        let target = &scenario.target;
        let tls = match target.tls {
            true => Some(TlsTarget {
                name: ServerName::try_from(target.host.clone())
                    .map_err(|_| format!("{} is no name that TLS could verify", target.host))?,
                resume: scenario.tls.resume,
                config: Arc::new(tls::config(&scenario.tls)?),
            }),
            false => None,
        };
        let host = HeaderValue::from_str(&target.authority)
            .map_err(|_| format!("{} is no host", target.authority))?;
        let mut headers = HeaderMap::from_iter([(header::HOST, host)]);
        // What the user says wins, `Host` included; fields named twice are sent twice.
        for (name, _) in &scenario.headers {
            headers.remove(name);
        }
        headers.extend(scenario.headers.iter().cloned());
        Ok(Self { addresses: target.addresses.clone(), sources: scenario.sources, tls, headers })
    }

    /// To one address, in plain text.
    #[cfg(test)]
    pub(crate) fn plain(address: SocketAddr) -> Arc<Self> {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("test"))]);
        Arc::new(Self { addresses: vec![address], sources: 1, tls: None, headers })
    }

    /// For client `number`. With resumption on, what it connects to later resumes what it connected
    /// to earlier: a new user needs a new one.
    pub(crate) fn dialer(self: &Arc<Self>, number: u32) -> Dialer {
        let tls = self.tls.as_ref().map(|target| match target.resume {
            true => Arc::new(tls::resuming(&target.config)),
            false => Arc::clone(&target.config),
        });
        Dialer { connector: Arc::clone(self), number, tls }
    }

    /// Where client `number` connects from; `None` leaves it to the kernel.
    fn source(&self, number: u32, target: SocketAddr) -> Option<Ipv4Addr> {
        match target.ip() {
            IpAddr::V4(ip) if ip.is_loopback() && self.sources > 1 => {
                Some(Ipv4Addr::from(FIRST_SOURCE + number % self.sources))
            }
            _ => None,
        }
    }
}

impl Dialer {
    /// Connects, over TLS where the target asks for it. The caller sets the deadline.
    ///
    /// # Errors
    ///
    /// `Connect` or `Tls`.
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        let tcp = self.connect_tcp().await?;
        let (Some(tls), Some(target)) = (&self.tls, &self.connector.tls) else {
            return Ok(Stream::Plain(tcp));
        };
        // On the heap from the start: the handshake's state is not to be part of a client's future.
        let tls = TlsConnector::from(Arc::clone(tls));
        match Box::pin(tls.connect(target.name.clone(), tcp)).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(fault::handshake(&error)),
        }
    }

    /// Connects and upgrades to WebSocket. `path_and_query` as in a request line; `extra` joins the
    /// fields of every request, such as a cookie. The caller sets the deadline. Also returns the
    /// fields of the 101 reply.
    ///
    /// # Errors
    ///
    /// What [`Dialer::connect`] fails with, `Disconnect`, `Protocol`, or the reply that refused.
    pub(crate) async fn websocket(
        &self,
        path_and_query: &str,
        extra: &HeaderMap,
    ) -> Result<(WebSocket, HeaderMap), UpgradeError> {
        let stream = self.connect().await?;
        upgrade::upgrade(stream, path_and_query, [&self.connector.headers, extra]).await
    }

    /// Connects for HTTP/1.1 requests. The caller sets the deadline.
    ///
    /// # Errors
    ///
    /// What [`Dialer::connect`] fails with.
    pub(crate) async fn http(&self) -> Result<Http, Failure> {
        Http::open(self.connect().await?, Arc::clone(&self.connector)).await
    }

    /// Begins with the client's own share of the target's addresses, goes on to the others where
    /// one does not listen (`localhost` is two addresses).
    async fn connect_tcp(&self) -> Result<TcpStream, Failure> {
        let addresses = &self.connector.addresses;
        let first = self.number as usize % addresses.len().max(1);
        let mut failure = Failure::new(ErrorKind::Connect, "the target has no address");
        for address in addresses.iter().cycle().skip(first).take(addresses.len()) {
            match self.connect_to(*address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failure = refused(*address, &error),
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        // A bound source takes its port from those of its own address, of which each has a full
        // range: the kernel may choose the port now, before it knows the target.
        if let Some(source) = self.connector.source(self.number, address) {
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        socket.connect(address).await
    }
}

impl Connector {
    /// Fields of every request.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

fn refused(address: SocketAddr, error: &io::Error) -> Failure {
    let clause = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on {address}; start the server, or check the URL")
        }
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
            format!("no free port to connect to {address} from")
        }
        _ => format!("cannot connect to {address}: {error}"),
    };
    Failure::new(ErrorKind::Connect, clause)
}
