//! Looking at what a client sends first, and leaving it in the socket for whoever is to get it.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::TcpStream};

/// Looks at the bytes that have come, again with each that comes, until `look` has seen enough. The
/// buffer is the caller's; nothing is consumed.
///
/// There is no deadline here. Cancel-safe.
///
/// # Errors
/// The socket's; [`io::ErrorKind::UnexpectedEof`] where the client ends its stream before there is enough,
/// and [`io::ErrorKind::InvalidData`] where the whole buffer is not.
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

/// The same with a buffer of its own, which begins at `first` bytes and grows to `most`.
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

/// Waits until there are more bytes than `seen`, and says how many.
async fn more(socket: &TcpStream, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        // What was seen stays readable, but only what is new makes the socket ready again: to find
        // nothing new is to wait for that.
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
            // The end makes it ready for ever.
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
    async fn bytes_are_waited_for_and_stay() {
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
    async fn it_waits_without_running() {
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
    async fn an_end_before_there_is_enough_is_an_error_at_any_moment() {
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
    async fn no_more_is_kept_than_allowed() {
        let (mut client, socket) = pair().await;
        client.write_all(&[7; 300]).await.unwrap();
        let error = peek(&socket, (8, 100), whole).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
