//! Origin and clients: WebSocket handshakes written by hand, bytes after them.
//!
//! No proxy here looks into a tunnel, so what goes through is not framed.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs},
};

use crate::proxies::{CERTS, Proxy};

/// Bytes of an echoed message.
pub(crate) const MESSAGE: usize = 64;
/// Bytes that the origin sends for one that it gets.
pub(crate) const BLOCK: usize = 1024 * 1024;
/// Bytes written and read at a time, in bulk.
const CHUNK: usize = 256 * 1024;

/// The pair of the example in RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What the origin does with a tunnel.
#[derive(Clone, Copy)]
pub(crate) enum Wish {
    /// Sends back what it gets.
    Echo,
    /// Sends a block for each byte that it gets.
    Blocks,
}

/// The server behind the proxies.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
}

/// Opens tunnels to one proxy.
#[derive(Clone)]
pub(crate) struct Client {
    proxy: SocketAddr,
    tls: Option<TlsConnector>,
}

/// An open tunnel, at the client's end.
pub(crate) struct Tunnel(Box<dyn Stream>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Wish {
    fn path(self) -> &'static str {
        match self {
            Self::Echo => "/echo",
            Self::Blocks => "/blocks",
        }
    }
}

impl Origin {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A proxy that ends with its tunnels open resets them.
                tokio::spawn(async move { serve(socket).await.is_ok() });
            }
        });
        Ok(Self { address })
    }
}

async fn serve(mut socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let header = header(&mut socket).await?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await?;
    let mut got = [0; MESSAGE];
    if header.starts_with("GET /echo ") {
        loop {
            match socket.read(&mut got).await? {
                0 => return Ok(()),
                length => socket.write_all(&got[..length]).await?,
            }
        }
    }
    let chunk = vec![b'x'; CHUNK];
    while socket.read(&mut got[..1]).await? > 0 {
        for _ in 0..BLOCK / CHUNK {
            socket.write_all(&chunk).await?;
        }
    }
    Ok(())
}

impl Client {
    /// Over TLS everyone gets the same cipher, the one that browsers ask for first.
    pub(crate) fn new(proxy: &Proxy, tls: bool) -> anyhow::Result<Self> {
        if !tls {
            return Ok(Self { proxy: proxy.plain, tls: None });
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(Path::new(CERTS).join("site.pem"))?)?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { proxy: proxy.tls, tls: Some(Arc::new(config).into()) })
    }

    /// Opens a tunnel.
    pub(crate) async fn open(&self, wish: Wish) -> anyhow::Result<Tunnel> {
        let socket = TcpStream::connect(self.proxy).await.context("connecting")?;
        socket.set_nodelay(true)?;
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = ServerName::try_from("localhost")?;
                Box::new(tls.connect(name, socket).await.context("TLS handshake")?)
            }
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
             Origin: https://localhost\r\nUser-Agent: bench\r\n\r\n",
            wish.path()
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let answer = header(&mut stream).await?;
        ensure!(answer.starts_with("HTTP/1.1 101 "), "answered with {answer:?}");
        ensure!(answer.contains(ACCEPT), "not accepted: {answer:?}");
        Ok(Tunnel(stream))
    }
}

impl Tunnel {
    /// Sends messages one after the other, each after the last has come back.
    pub(crate) async fn echo(mut self, messages: usize) -> anyhow::Result<()> {
        let message = [b'm'; MESSAGE];
        let mut got = [0; MESSAGE];
        for _ in 0..messages {
            self.0.write_all(&message).await?;
            self.0.flush().await?;
            self.0.read_exact(&mut got).await?;
            ensure!(got == message, "an echo that differs");
        }
        Ok(())
    }

    /// Asks for so many blocks and reads them.
    pub(crate) async fn blocks(mut self, count: usize) -> anyhow::Result<()> {
        self.0.write_all(&vec![b'!'; count]).await?;
        self.0.flush().await?;
        let mut chunk = vec![0; CHUNK];
        let mut left = count * BLOCK;
        while left > 0 {
            match self.0.read(&mut chunk).await? {
                0 => bail!("{left} bytes are missing"),
                length => left -= length,
            }
        }
        Ok(())
    }
}

/// Reads a header to its empty line and not a byte further.
async fn header(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<String> {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        ensure!(header.len() < 8192, "a header without an end");
        // Neither side sends before it has been asked to: nothing follows the empty line.
        ensure!(stream.read_buf(&mut header).await? > 0, "closed within a header");
    }
    Ok(String::from_utf8(header)?)
}
