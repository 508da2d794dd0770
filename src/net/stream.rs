//! Byte streams to clients and backends, plain or TLS, and the options of every socket.
//!
//! [`ClientStream`] and [`BackendStream`] are enums instead of trait objects: a read costs a branch and no allocation. The TLS
//! half is boxed, so that a plain connection does not carry its size.

use std::{
    fmt,
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{CommonState, HandshakeKind};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use super::tls_stream::{ClientTlsStream, ServerTlsStream};

/// Idle time before the first keepalive probe, well below the 5 minutes after which common NAT gateways drop a
/// connection.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Interval between unanswered probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// Unanswered probes until the peer counts as dead: two minutes after its last byte.
const KEEPALIVE_PROBES: u32 = 4;
/// Maximum time that sent data may stay unacknowledged. Keepalive does not run while data is in flight; without
/// this limit a dead peer would hold its connection for the kernel's 15 minutes. Linux applies the limit to a peer
/// with a closed window too, so it also bounds how long a reader may stall.
const UNACKNOWLEDGED: Duration = Duration::from_secs(90);

/// A byte stream that can be reset instead of closed.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes dropping the stream send RST, so that the peer does not mistake what it received for complete. Unsent
    /// data is lost.
    fn reset_on_drop(&self);

    /// Sends FIN without a TLS close_notify.
    ///
    /// # Errors
    /// The socket is no longer connected.
    fn shut(&self) -> io::Result<()>;

    /// Whether the socket has failed meanwhile, for example by a reset from the peer.
    fn has_failed(&self) -> bool {
        false
    }

    /// Returns why the stream refuses what its peer sends, as a code of the stream; `None`: it does not.
    fn refusal(&self) -> Option<u8> {
        None
    }

    /// Returns the socket if the stream passes its bytes through unchanged and unbuffered.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl ByteStream for TcpStream {
    fn has_failed(&self) -> bool {
        !matches!(self.take_error(), Ok(None))
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn shut(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(Shutdown::Write)
    }

    fn reset_on_drop(&self) {
        // Fails only on a socket that is no longer connected.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// Sets the options of every connection, to clients and to backends: no Nagle delay, and dead peers are detected
/// within two minutes. Errors are ignored: a closed socket reports them when used.
pub fn tune(socket: &TcpStream) {
    set_options(&SockRef::from(socket));
}

/// Sets the options of a listening socket before it listens, so that every accepted connection inherits them.
pub fn tune_listener(socket: &Socket) {
    if cfg!(target_os = "linux") {
        set_options(socket);
    }
}

/// Whether accepted connections inherit the options. Not if another program made the listening socket: connections
/// that already wait in its queue have none.
pub fn is_tuned_listener(listener: &TcpListener) -> bool {
    #[cfg(target_os = "linux")]
    {
        // Set last.
        let timeout = SockRef::from(listener).tcp_user_timeout();
        timeout.is_ok_and(|timeout| timeout == Some(UNACKNOWLEDGED))
    }
    #[cfg(not(target_os = "linux"))]
    false
}

fn set_options(socket: &Socket) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// A client connection, after the TLS handshake if there is one.
pub enum ClientStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<ServerTlsStream>),
}

impl ClientStream {
    /// Returns the underlying socket.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Returns the address that the client connected to.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// Returns the protocol negotiated by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.session()?.alpn_protocol()
    }

    /// Whether the TLS session was resumed from an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.session()
            .is_some_and(|session| session.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Whether TLS has a message to send on its own account, such as an alert. A flush sends it.
    pub fn has_unsent_tls(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.has_unsent(),
        }
    }

    fn session(&self) -> Option<&CommonState> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.session()),
        }
    }
}

/// A backend connection, ready for application data.
pub enum BackendStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<ClientTlsStream>),
}

impl BackendStream {
    /// Returns the underlying socket.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether a read may find something that has left the socket already.
    pub fn has_received(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.has_received(),
        }
    }
}

/// Delegates reads and writes to the active variant.
macro_rules! plain_or_tls {
    ($stream:ident) => {
        impl ByteStream for $stream {
            fn reset_on_drop(&self) {
                self.socket().reset_on_drop();
            }

            fn shut(&self) -> io::Result<()> {
                self.socket().shut()
            }

            fn has_failed(&self) -> bool {
                self.socket().has_failed()
            }

            fn plain(&self) -> Option<&TcpStream> {
                match self {
                    Self::Plain(socket) => Some(socket),
                    Self::Tls(_) => None,
                }
            }
        }

        impl fmt::Debug for $stream {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = if self.is_tls() { "Tls" } else { "Plain" };
                f.debug_tuple(name).field(self.socket()).finish()
            }
        }

        impl AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
                }
            }
        }

        impl AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    Self::Plain(socket) => socket.is_write_vectored(),
                    Self::Tls(stream) => stream.is_write_vectored(),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
                }
            }
        }
    };
}

plain_or_tls!(ClientStream);
plain_or_tls!(BackendStream);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_dropped_stream_ends_with_fin_or_with_reset_if_requested() {
        let (mut peer, socket) = pair().await;
        drop(ClientStream::Plain(socket));
        assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 0);

        let (mut peer, socket) = pair().await;
        let client = ClientStream::Plain(socket);
        client.reset_on_drop();
        drop(client);
        let error = peer.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn tuning_sets_the_socket_options() {
        let (_peer, socket) = pair().await;
        tune(&socket);
        assert_tuned(&socket);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn accepted_connections_inherit_the_options_of_their_listener() {
        use crate::net::listener;
        let address = "127.0.0.1:0".parse().unwrap();
        let own = listener::bind_one(address).unwrap();
        let foreign = TcpListener::bind(address).await.unwrap();
        assert!(is_tuned_listener(&own) && !is_tuned_listener(&foreign));
        let pauses = Default::default();
        let _peer = TcpStream::connect(own.local_addr().unwrap()).await.unwrap();
        // Accepted without the acceptor, which would set missing options.
        assert_tuned(&own.accept().await.unwrap().0);
        for listener in [own, foreign] {
            let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let acceptor = listener::Acceptor::new(std::sync::Arc::new(listener));
            assert_tuned(&acceptor.accept(&pauses).await.0);
        }
    }

    fn assert_tuned(socket: &TcpStream) {
        let socket = SockRef::from(socket);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }

    #[tokio::test]
    async fn plain_stream_passes_bytes_and_half_close() {
        let (mut peer, socket) = pair().await;
        let mut client = ClientStream::Plain(socket);
        assert!(!client.is_tls() && client.alpn().is_none() && !client.is_resumed());
        assert_eq!(client.local().unwrap(), peer.peer_addr().unwrap());

        let parts = [IoSlice::new(b"two "), IoSlice::new(b"parts")];
        assert!(client.is_write_vectored());
        assert_eq!(client.write_vectored(&parts).await.unwrap(), 9);
        client.shutdown().await.unwrap();
        let mut got = String::new();
        peer.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "two parts");

        peer.write_all(b"after").await.unwrap();
        let mut reply = [0; 5];
        client.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"after");
    }

    #[test]
    fn plain_stream_does_not_carry_the_size_of_tls() {
        assert!(size_of::<ClientStream>() <= size_of::<TcpStream>() + size_of::<usize>());
    }
}
