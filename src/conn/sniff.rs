//! Detects the protocol of a connection on a TLS listener from its first bytes, which stay in the
//! socket.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::net::{
    client_hello::{self, ClientHello, Peeked},
    peek::{peek, peek_into},
    stream::ClientStream,
};

/// Enough bytes to detect HTTP: the longest common method and a space.
const FEW: usize = 8;
/// Holds any ClientHello except for those with very many or large extensions.
const USUAL: usize = 2048;

/// How long a rejected client may take to read the reason.
const LAST_READ: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read and dropped meanwhile.
const MOST_DROPPED: usize = 64 * 1024;

const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"OPTIONS ",
    b"PUT ",
    b"PATCH ",
    b"DELETE ",
    b"CONNECT ",
    b"TRACE ",
];

/// A fatal `decode_error` alert (RFC 8446 §6).
pub(super) const DECODE_ERROR: &[u8] = b"\x15\x03\x03\x00\x02\x02\x32";

/// Protocol of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    /// TLS, by its first byte.
    Tls,
    /// TLS, with its ClientHello.
    Hello(ClientHello),
    /// TLS, with an invalid ClientHello.
    Broken(&'static str),
    /// Plain HTTP.
    Http,
    /// Another protocol.
    Other,
}

/// Detects the protocol from the first bytes.
///
/// # Errors
/// As for [`peek_into`].
pub(super) async fn protocol(socket: &TcpStream) -> io::Result<Sniffed> {
    peek_into(socket, &mut [0; FEW], |bytes| Some(first(bytes))).await
}

/// Detects the protocol and reads the whole ClientHello.
///
/// # Errors
/// As for [`peek`].
pub(super) async fn hello(socket: &TcpStream) -> io::Result<Sniffed> {
    peek(socket, (USUAL, client_hello::MOST_PEEKED), |bytes| match client_hello::read(bytes) {
        Peeked::Incomplete => None,
        Peeked::NotTls => Some(first(bytes)),
        Peeked::Broken(why) => Some(Sniffed::Broken(why)),
        Peeked::Hello(hello) => Some(Sniffed::Hello(hello)),
    })
    .await
}

fn first(bytes: &[u8]) -> Sniffed {
    const HANDSHAKE: u8 = 22;
    match bytes {
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => Sniffed::Tls,
        _ if METHODS.iter().any(|m| m.starts_with(bytes) || bytes.starts_with(m)) => Sniffed::Http,
        _ => Sniffed::Other,
    }
}

/// Sends the last bytes, if any, and closes with FIN. Reads what the client has sent: unread bytes
/// would turn the close into a reset, which overtakes the last bytes.
///
/// A TLS client gets a close_notify instead of the bytes.
pub(super) async fn close_with(client: ClientStream, bytes: &[u8]) {
    let reply = async {
        let mut socket = match client {
            ClientStream::Plain(socket) => socket,
            ClientStream::Tls(mut stream) => {
                stream.shutdown().await?;
                stream.into_socket()
            }
        };
        socket.write_all(bytes).await?;
        socket.shutdown().await?;
        let (mut dropped, mut buffer) = (0, [0; 2048]);
        while dropped < MOST_DROPPED {
            match socket.read(&mut buffer).await? {
                0 => break,
                count => dropped += count,
            }
        }
        io::Result::Ok(())
    };
    // Errors are ignored: the connection ends in any case.
    let _ = timeout(LAST_READ, reply).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_and_tls_are_detected_from_the_first_bytes() {
        for http in [&b"G"[..], b"GET / HT", b"P", b"PU", b"OPTIONS ", b"DELETE /"] {
            assert_eq!(first(http), Sniffed::Http, "{http:?}");
        }
        for tls in [&b"\x16"[..], b"\x16\x03", b"\x16\x03\x01\x02\x00\x01\x00\x01"] {
            assert_eq!(first(tls), Sniffed::Tls, "{tls:?}");
        }
        for other in [&b"\x00"[..], b"GETX", b"get / ", b"SSH-2.0-", b"\x80\x2e", b"\x16\x02"] {
            assert_eq!(first(other), Sniffed::Other, "{other:?}");
        }
    }
}
