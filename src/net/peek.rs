//! Inspects the first bytes of a client and leaves them in the socket for a later reader.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::TcpStream};

/// Passes all bytes received so far to `look`, again after each arrival, until it returns a value. The caller
/// provides the buffer; no bytes are consumed.
///
/// Has no deadline. Cancel-safe.
///
/// # Errors
/// Errors of the socket; [`io::ErrorKind::UnexpectedEof`] if the client ends its stream too early, and
/// [`io::ErrorKind::InvalidData`] if a full buffer is not enough.
pub async fn peek_into<T>(
    socket: &TcpStream,
    buffer: &mut [u8],
    mut look: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let mut seen = 0;
    while seen < buffer.len() {
        seen = more(socket, buffer, seen).await?;
        if let Some(found) = look(&buffer[..seen]) {
            return Ok(found);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Like [`peek_into`], with an internal buffer that starts at `first` bytes and grows to `most`.
///
/// # Errors
/// As for [`peek_into`]; the whole buffer is `most`.
pub async fn peek<T>(
    socket: &TcpStream,
    (first, most): (usize, usize),
    mut look: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let mut buffer = vec![0; first];
    let mut seen = 0;
    loop {
        seen = more(socket, &mut buffer, seen).await?;
        if let Some(found) = look(&buffer[..seen]) {
            return Ok(found);
        }
        if seen == buffer.len() {
            if seen >= most {
                return Err(io::ErrorKind::InvalidData.into());
            }
            buffer.resize((seen * 2).min(most), 0);
        }
    }
}

/// Waits for more bytes than `seen` and returns their number.
async fn more(socket: &TcpStream, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        // Bytes already seen stay readable, but only new bytes make the socket ready again. Finding no new bytes
        // therefore clears readiness until more arrive.
        let count = socket.try_io(Interest::READABLE, || {
            let (_, count) = recv(socket, &mut *buffer, RecvFlags::PEEK)?;
            if count == seen && count > 0 {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(count)
            }
        });
        match count {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            // EOF keeps the socket ready permanently.
            Err(_) if ready.is_read_closed() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    fn whole(bytes: &[u8]) -> Option<usize> {
        (bytes.len() >= 300).then_some(bytes.len())
    }

    #[tokio::test]
    async fn peeked_bytes_stay_in_the_socket() {
        let (mut client, mut socket) = pair().await;
        let sent = async {
            for piece in [7; 300].chunks(30) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (peeked, ()) = tokio::join!(peek(&socket, (8, 512), whole), sent);
        assert_eq!(peeked.unwrap(), 300);
        let mut bytes = [0; 300];
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [7; 300]);
    }

    #[tokio::test]
    async fn waiting_for_bytes_does_not_busy_loop() {
        let (mut client, socket) = pair().await;
        client.write_all(b"some").await.unwrap();
        let mut looks = 0;
        let look = |_: &[u8]| {
            looks += 1;
            None::<()>
        };
        let waited = timeout(Duration::from_millis(100), peek(&socket, (64, 64), look)).await;
        assert!(waited.is_err());
        assert_eq!(looks, 1);
    }

    #[tokio::test]
    async fn early_eof_is_an_error() {
        for sent in [&b""[..], b"some"] {
            let (mut client, socket) = pair().await;
            client.write_all(sent).await.unwrap();
            let ends = async {
                tokio::task::yield_now().await;
                client.shutdown().await.unwrap();
            };
            let (peeked, ()) = tokio::join!(peek(&socket, (64, 64), whole), ends);
            assert_eq!(peeked.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn peek_buffer_is_bounded() {
        let (mut client, socket) = pair().await;
        client.write_all(&[7; 300]).await.unwrap();
        let error = peek(&socket, (8, 100), whole).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
