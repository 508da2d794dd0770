//! What a client says first on a listener that expects TLS, looked at and left in the socket.

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

/// Enough to tell HTTP by: its longest method that is in use, and the space after it.
const FEW: usize = 8;
/// Holds any ClientHello but those with very many or large extensions.
const USUAL: usize = 2048;

/// How long a client that is refused may take to read why.
const LAST_READ: Duration = Duration::from_secs(1);
/// Most of its bytes that are dropped meanwhile.
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

/// A fatal `decode_error` (RFC 8446, section 6).
pub(super) const DECODE_ERROR: &[u8] = b"\x15\x03\x03\x00\x02\x02\x32";

/// What a client speaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    /// TLS, by its first byte.
    Tls,
    /// TLS, and this is its ClientHello.
    Hello(ClientHello),
    /// TLS, with a ClientHello that cannot be understood.
    Broken(&'static str),
    /// HTTP in the clear.
    Http,
    /// Neither.
    Other,
}

/// What the client speaks, by its first byte that tells.
///
/// # Errors
/// As for [`peek_into`].
pub(super) async fn protocol(socket: &TcpStream) -> io::Result<Sniffed> {
    peek_into(socket, &mut [0; FEW], |bytes| Some(first(bytes))).await
}

/// The same, with its whole ClientHello.
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

/// Closes in order, so that the client reads these words, if there are any: bytes that nobody has read
/// would make it a reset, which overtakes them.
///
/// One that speaks TLS hears that it ends by its own means, and nothing else.
pub(super) async fn close_with(client: ClientStream, bytes: &[u8]) {
    let reply = async {
        let mut socket = match client {
            ClientStream::Plain(socket) => socket,
            ClientStream::Tls(mut stream) => {
                stream.shutdown().await?;
                stream.into_inner().0
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
    // Whatever fails, nobody is left to be told.
    let _ = timeout(LAST_READ, reply).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_tls_and_from_the_rest_by_whatever_has_come() {
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
