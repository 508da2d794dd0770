//! TCP and TLS.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::anyhow;
use http::{HeaderMap, HeaderValue, header};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::{Http, Stream, UpgradeError, WebSocket, failures, tls, upgrade};
use crate::{
    scenario::Scenario,
    stats::{ErrorKind, Failure},
};

/// First of the loopback addresses that clients connect from. Servers on this machine usually have lower
/// addresses, so client and server addresses differ.
const FIRST_SOURCE: u32 = u32::from_be_bytes([127, 1, 0, 1]);

/// Segment size of slow readers, usual for Ethernet. With the segments of a loopback, 64 KiB, the kernel would keep
/// a MiB of a response, and the server would not wait for the reader.
const SLOW_SEGMENT: u32 = 1448;

/// Opens connections as the scenario requires. All clients of a run share one connector.
#[derive(Debug)]
pub(crate) struct Connector {
    addresses: Vec<SocketAddr>,
    sources: u32,
    /// Maximum segment size; `None`: that of the interface.
    segment: Option<u32>,
    tls: Option<TlsTarget>,
    /// Headers of every request: `Host` and those of the scenario.
    headers: HeaderMap,
}

#[derive(Debug)]
struct TlsTarget {
    name: ServerName<'static>,
    resume: bool,
    config: Arc<ClientConfig>,
}

/// Opens the connections of one client, with its source address and its TLS sessions.
#[derive(Debug)]
pub(crate) struct Dialer {
    connector: Arc<Connector>,
    number: u32,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// Reads the certificate authorities.
    ///
    /// # Errors
    ///
    /// The file of certificate authorities is unusable, or the host is not valid for TLS or HTTP.
    pub(crate) fn new(scenario: &Scenario) -> anyhow::Result<Self> {
        let target = &scenario.target;
        let tls = match target.tls {
            true => Some(TlsTarget {
                name: ServerName::try_from(target.host.clone()).map_err(|_| {
                    anyhow!("invalid host {} for TLS: use a name or an address", target.host)
                })?,
                resume: scenario.tls.resume,
                config: Arc::new(tls::config(&scenario.tls)?),
            }),
            false => None,
        };
        let host = HeaderValue::from_str(&target.authority)
            .map_err(|_| anyhow!("invalid host {} in the URL", target.authority))?;
        let mut headers = HeaderMap::from_iter([(header::HOST, host)]);
        // Headers of the user replace the default ones, including `Host`. A header that is given twice is
        // sent twice.
        for (name, _) in &scenario.headers {
            headers.remove(name);
        }
        headers.extend(scenario.headers.iter().cloned());
        Ok(Self {
            addresses: target.addresses.clone(),
            sources: scenario.sources,
            segment: scenario.read_rate.map(|_| SLOW_SEGMENT),
            tls,
            headers,
        })
    }

    /// A connector to one address, without TLS.
    #[cfg(test)]
    pub(crate) fn plain(address: SocketAddr) -> Arc<Self> {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("test"))]);
        Arc::new(Self { addresses: vec![address], sources: 1, segment: None, tls: None, headers })
    }

    /// Returns the dialer of client `number`. With resumption, its later connections resume the TLS session
    /// of earlier ones; so a new user needs a new dialer.
    pub(crate) fn dialer(self: &Arc<Self>, number: u32) -> Dialer {
        let tls = self.tls.as_ref().map(|target| match target.resume {
            true => Arc::new(tls::with_resumption(&target.config)),
            false => Arc::clone(&target.config),
        });
        Dialer { connector: Arc::clone(self), number, tls }
    }

    /// Returns the source address of client `number`; `None`: the kernel chooses.
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
    /// Connects, over TLS if the target uses it. The caller sets the deadline.
    ///
    /// # Errors
    ///
    /// `Connect` or `Tls`.
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        let tcp = self.connect_tcp().await?;
        let (Some(tls), Some(target)) = (&self.tls, &self.connector.tls) else {
            return Ok(Stream::Plain(tcp));
        };
        // Boxed from the start, so that a client's future does not include the handshake.
        let tls = TlsConnector::from(Arc::clone(tls));
        match Box::pin(tls.connect(target.name.clone(), tcp)).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(failures::handshake(&error)),
        }
    }

    /// Connects and upgrades to WebSocket. `path_and_query` is as in a request line; the `extra` headers,
    /// such as a cookie, are sent after those of every request. The caller sets the deadline. Also returns
    /// the headers of the 101 reply.
    ///
    /// # Errors
    ///
    /// Those of [`Dialer::connect`], `Disconnect`, `Protocol`, or the reply of a server that does not
    /// upgrade.
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
    /// Those of [`Dialer::connect`].
    pub(crate) async fn http(&self) -> Result<Http, Failure> {
        Http::open(self.connect().await?, Arc::clone(&self.connector)).await
    }

    /// Tries the addresses of the target, starting with the one that this client's number selects
    /// (`localhost` has two addresses).
    async fn connect_tcp(&self) -> Result<TcpStream, Failure> {
        let addresses = &self.connector.addresses;
        let first = self.number as usize % addresses.len().max(1);
        let mut failure = Failure::new(ErrorKind::Connect, "the target has no address");
        for address in addresses.iter().cycle().skip(first).take(addresses.len()) {
            match self.connect_to(*address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failure = connect_failure(*address, &error),
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
        if let Some(segment) = self.connector.segment {
            SockRef::from(&socket).set_tcp_mss(segment)?;
        }
        // Each source address has its own range of ports, so the kernel may choose the port before it knows
        // the target.
        if let Some(source) = self.connector.source(self.number, address) {
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        socket.connect(address).await
    }
}

impl Connector {
    /// Headers of every request.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

fn connect_failure(address: SocketAddr, error: &io::Error) -> Failure {
    let description = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on {address}: start the server, or check the URL")
        }
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
            format!(
                "no free local port to connect to {address}: use more --sources or fewer clients"
            )
        }
        _ => format!("cannot connect to {address}: {error}"),
    };
    Failure::new(ErrorKind::Connect, description)
}
