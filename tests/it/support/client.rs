//! A client that sends the bytes it is told and no others, in the clear or over TLS.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::client::TlsStream;

use super::{End, Message, message::Framing, tls::Certificate, websocket, within};

/// One connection to the proxy.
pub(crate) struct Raw {
    stream: Stream,
    buffer: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Raw {
    /// Connects in the clear.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("connecting", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Plain(stream), buffer: Vec::new() }
    }

    /// Connects in the clear from an address of this host's.
    pub(crate) async fn from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let stream = within("connecting", socket.connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Plain(stream), buffer: Vec::new() }
    }

    /// Connects and shakes hands, trusting this certificate only.
    pub(crate) async fn tls(address: SocketAddr, certificate: &Certificate) -> Self {
        let tcp = within("connecting", TcpStream::connect(address)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream = within("the TLS handshake", certificate.client(tcp)).await.unwrap();
        Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new() }
    }

    /// Connects, sends this in the clear, and then shakes hands, trusting this certificate only.
    pub(crate) async fn tls_after(
        address: SocketAddr,
        first: &[u8],
        certificate: &Certificate,
    ) -> Self {
        Self::connect(address).await.into_tls_after(first, certificate).await
    }

    /// Sends this in the clear and then shakes hands, trusting this certificate only.
    pub(crate) async fn into_tls_after(self, first: &[u8], certificate: &Certificate) -> Self {
        let Stream::Plain(mut tcp) = self.stream else { panic!("it speaks TLS already") };
        tcp.write_all(first).await.unwrap();
        let stream = within("the TLS handshake", certificate.client(tcp)).await.unwrap();
        Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new() }
    }

    /// Where it connects from.
    pub(crate) fn local(&self) -> SocketAddr {
        self.tcp().local_addr().unwrap()
    }

    /// Goes on over a stream whose handshake is done.
    pub(crate) fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new() }
    }

    /// Sends one request on a connection of its own and gives its response.
    pub(crate) async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Message {
        let mut client = Self::connect(address).await;
        client.send(request).await;
        client.response().await
    }

    /// Sends all of it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = within("sending", self.write_all(bytes.as_ref())).await;
        sent.expect("the proxy takes the bytes");
    }

    /// Sends all of it, or as much as the proxy takes before it closes.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("sending", self.write_all(bytes.as_ref())).await;
    }

    /// Sends a few bytes a while after the last ones; false once the proxy has closed.
    pub(crate) async fn feed(&mut self, bytes: &[u8]) -> bool {
        let pause = tokio::time::timeout(Duration::from_millis(50), self.read_some());
        match pause.await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => false,
            Err(_) => self.write_all(bytes).await.is_ok(),
        }
    }

    /// Sends the pattern until the socket takes no more for `quiet`, up to `limit` bytes; gives
    /// their number.
    pub(crate) async fn fill(&mut self, limit: usize, quiet: Duration) -> usize {
        let mut sent = 0;
        while sent < limit {
            let bytes = websocket::pattern(sent, (limit - sent).min(websocket::PIECE));
            let write = async {
                match &mut self.stream {
                    Stream::Plain(stream) => stream.write(bytes).await,
                    Stream::Tls(stream) => stream.write(bytes).await,
                }
            };
            match tokio::time::timeout(quiet, write).await {
                Ok(Ok(count)) => sent += count,
                Ok(Err(error)) => panic!("the proxy closed while it should stall: {error}"),
                Err(_) => return sent,
            }
        }
        sent
    }

    /// The next complete response, interim ones included. One without a length is read until the
    /// connection closes in order.
    pub(crate) async fn response(&mut self) -> Message {
        loop {
            if let Some((message, taken)) = Message::read(&self.buffer) {
                self.buffer.drain(..taken);
                return message;
            }
            if let Err(end) = self.more().await {
                let head = Message::head(&self.buffer);
                if let (Some((mut message, taken)), End::Fin) = (head, end)
                    && message.framing() == Framing::Close
                {
                    message.body = self.buffer.split_off(taken);
                    self.buffer.clear();
                    return message;
                }
                panic!("{end:?} within a response: {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    /// The next response that is not an interim one.
    pub(crate) async fn final_response(&mut self) -> Message {
        loop {
            let response = self.response().await;
            if response.status() >= 200 {
                return response;
            }
        }
    }

    /// The next response's head alone, as of a response to `HEAD`, or of one whose body is looked
    /// at by itself.
    pub(crate) async fn head(&mut self) -> Message {
        loop {
            if let Some((message, taken)) = Message::head(&self.buffer) {
                self.buffer.drain(..taken);
                return message;
            }
            if let Err(end) = self.more().await {
                panic!("{end:?} within a head: {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    /// The next `count` bytes.
    pub(crate) async fn exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            if let Err(end) = self.more().await {
                panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
        self.buffer.drain(..count).collect()
    }

    /// Whether `count` bytes are there within a while, however often that is asked.
    pub(crate) async fn has(&mut self, count: usize) -> bool {
        if self.buffer.len() < count {
            let read = tokio::time::timeout(Duration::from_secs(1), self.read_some()).await;
            assert!(!matches!(read, Ok(Err(_))), "an end in place of {count} bytes");
        }
        self.buffer.len() >= count
    }

    /// Whether these bytes are the next ones; false if others come, or an end.
    pub(crate) async fn brings(&mut self, expected: &[u8]) -> bool {
        while self.buffer.len() < expected.len() {
            if self.more().await.is_err() {
                return false;
            }
        }
        self.buffer.drain(..expected.len()).eq(expected.iter().copied())
    }

    /// Everything until the proxy ends the connection, and how it did.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.more().await {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    /// Asserts that the proxy ends the connection without another byte; gives how it did.
    pub(crate) async fn assert_closed(&mut self) -> End {
        let (bytes, end) = self.rest().await;
        assert!(bytes.is_empty(), "before the close came {:?}", String::from_utf8_lossy(&bytes));
        end
    }

    /// Reads until the proxy ends the connection, compares with the pattern and keeps nothing;
    /// gives the number of bytes and the end.
    pub(crate) async fn check_pattern(&mut self) -> (usize, End) {
        let mut checked = 0;
        loop {
            let expected = websocket::pattern(checked, self.buffer.len());
            assert!(expected == self.buffer, "after {checked}");
            checked += self.buffer.len();
            self.buffer.clear();
            if let Err(end) = self.more().await {
                return (checked, end);
            }
        }
    }

    /// Half-closes: FIN (over TLS after a `close_notify`), while reading goes on.
    pub(crate) async fn finish(&mut self) {
        let done = match &mut self.stream {
            Stream::Plain(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
        };
        done.expect("the connection is open");
    }

    /// Closes by RST.
    pub(crate) fn reset(self) {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn read_some(&mut self) -> Result<(), End> {
        // More than the few bytes by which a buffer grows by itself.
        self.buffer.reserve(1 << 16);
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read_buf(&mut self.buffer).await,
            Stream::Tls(stream) => stream.read_buf(&mut self.buffer).await,
        };
        match read {
            Ok(0) => Err(End::Fin),
            Ok(_) => Ok(()),
            Err(error) => Err(End::from(&error)),
        }
    }

    async fn more(&mut self) -> Result<(), End> {
        match tokio::time::timeout(super::TIMEOUT, self.read_some()).await {
            Ok(read) => read,
            Err(_) => panic!(
                "neither bytes nor a close; so far: {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
        }
    }
}
