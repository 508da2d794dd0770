//! A client that sends exactly the given bytes, in plaintext or over TLS.

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
    /// Connects in plaintext.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("connecting", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Plain(stream), buffer: Vec::new() }
    }

    /// Connects in plaintext from a given address of this host.
    pub(crate) async fn from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let stream = within("connecting", socket.connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Plain(stream), buffer: Vec::new() }
    }

    /// Connects over TLS and trusts this certificate only.
    pub(crate) async fn tls(address: SocketAddr, certificate: &Certificate) -> Self {
        let tcp = within("connecting", TcpStream::connect(address)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream = within("the TLS handshake", certificate.client(tcp)).await.unwrap();
        Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new() }
    }

    /// Connects, sends `first` in plaintext, then starts TLS and trusts this certificate only.
    pub(crate) async fn tls_after(
        address: SocketAddr,
        first: &[u8],
        certificate: &Certificate,
    ) -> Self {
        Self::connect(address).await.into_tls_after(first, certificate).await
    }

    /// Sends `first` in plaintext, then starts TLS and trusts this certificate only.
    pub(crate) async fn into_tls_after(self, first: &[u8], certificate: &Certificate) -> Self {
        let Stream::Plain(mut tcp) = self.stream else { panic!("the client already uses TLS") };
        tcp.write_all(first).await.unwrap();
        let stream = within("the TLS handshake", certificate.client(tcp)).await.unwrap();
        Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new() }
    }

    /// Local address of the connection.
    pub(crate) fn local(&self) -> SocketAddr {
        self.tcp().local_addr().unwrap()
    }

    /// Uses a TLS stream whose handshake is complete.
    pub(crate) fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), buffer: Vec::new() }
    }

    /// Sends one request on a new connection and returns the response.
    pub(crate) async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Message {
        let mut client = Self::connect(address).await;
        client.send(request).await;
        client.response().await
    }

    /// Sends all bytes.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = within("sending", self.write_all(bytes.as_ref())).await;
        sent.expect("the proxy accepts the bytes");
    }

    /// Sends all bytes, or as many as the proxy accepts before it closes.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("sending", self.write_all(bytes.as_ref())).await;
    }

    /// Sends a few bytes after a short pause. Returns `false` if the proxy has closed.
    pub(crate) async fn feed(&mut self, bytes: &[u8]) -> bool {
        let pause = tokio::time::timeout(Duration::from_millis(50), self.read_some());
        match pause.await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => false,
            Err(_) => self.write_all(bytes).await.is_ok(),
        }
    }

    /// Sends the pattern until the socket takes no byte for `quiet`, at most `limit` bytes. Returns the
    /// number of bytes.
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

    /// Waits for the next complete response, interim responses included. Reads a response without a length
    /// until the connection closes by FIN.
    pub(crate) async fn response(&mut self) -> Message {
        loop {
            if let Some((message, taken)) = Message::read(&self.buffer) {
                self.buffer.drain(..taken);
                return message;
            }
            if let Err(end) = self.read_more().await {
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

    /// Waits for the next response that is not interim.
    pub(crate) async fn final_response(&mut self) -> Message {
        loop {
            let response = self.response().await;
            if response.status() >= 200 {
                return response;
            }
        }
    }

    /// Waits for the head of the next response: of a response to `HEAD`, or if the test reads the body itself.
    pub(crate) async fn head(&mut self) -> Message {
        loop {
            if let Some((message, taken)) = Message::head(&self.buffer) {
                self.buffer.drain(..taken);
                return message;
            }
            if let Err(end) = self.read_more().await {
                panic!("{end:?} within a head: {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    /// Waits for the next `count` bytes.
    pub(crate) async fn exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            if let Err(end) = self.read_more().await {
                panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
        self.buffer.drain(..count).collect()
    }

    /// Whether `count` bytes arrive within a second. Takes none of them, so it can be called again.
    pub(crate) async fn has_received(&mut self, count: usize) -> bool {
        if self.buffer.len() < count {
            let read = tokio::time::timeout(Duration::from_secs(1), self.read_some()).await;
            assert!(!matches!(read, Ok(Err(_))), "the connection ended before {count} bytes");
        }
        self.buffer.len() >= count
    }

    /// Whether these bytes arrive next. `false`: other bytes arrive, or the connection ends.
    pub(crate) async fn receives(&mut self, expected: &[u8]) -> bool {
        while self.buffer.len() < expected.len() {
            if self.read_more().await.is_err() {
                return false;
            }
        }
        self.buffer.drain(..expected.len()).eq(expected.iter().copied())
    }

    /// Reads until the proxy ends the connection. Returns the bytes and how the connection ended.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.read_more().await {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    /// Asserts that the proxy ends the connection without another byte. Returns how it ended.
    pub(crate) async fn assert_closed(&mut self) -> End {
        let (bytes, end) = self.rest().await;
        assert!(
            bytes.is_empty(),
            "received before the close: {:?}",
            String::from_utf8_lossy(&bytes)
        );
        end
    }

    /// Reads until the proxy ends the connection and compares the bytes with the pattern, without keeping
    /// them. Returns the number of bytes and how the connection ended.
    pub(crate) async fn check_pattern(&mut self) -> (usize, End) {
        let mut checked = 0;
        loop {
            let expected = websocket::pattern(checked, self.buffer.len());
            assert!(expected == self.buffer, "after {checked}");
            checked += self.buffer.len();
            self.buffer.clear();
            if let Err(end) = self.read_more().await {
                return (checked, end);
            }
        }
    }

    /// Half-closes: sends FIN (over TLS after a `close_notify`) and still reads.
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
        // By default, the buffer grows by a few bytes only.
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

    async fn read_more(&mut self) -> Result<(), End> {
        match tokio::time::timeout(super::TIMEOUT, self.read_some()).await {
            Ok(read) => read,
            Err(_) => panic!(
                "no bytes and no close; received so far: {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
        }
    }
}
