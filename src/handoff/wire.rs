//! The channel between the two processes: messages over a stream socket, a descriptor with some.
//!
//! A message is its length (4 bytes, big endian), the number of descriptors that come with it (one
//! byte, 0 or 1) and its text, JSON. A descriptor travels with the message's first byte (`SCM_RIGHTS`,
//! unix(7)); both ends keep their order, so that each message gets its own. Must not know what the
//! messages mean.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as Stream,
    },
    sync::Arc,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

/// Longest message that is taken; ours are far shorter.
const LONGEST: usize = 16 << 20;
/// Bytes before a message's text.
const HEAD: usize = 5;
/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Arc<UnixStream>,
    /// Read and not yet taken.
    buffer: Vec<u8>,
    /// Received, for messages that are still to be taken.
    descriptors: VecDeque<OwnedFd>,
}

/// Sends on a channel whose own end is being listened on. One of them at a time: two would break into
/// each other's messages.
#[derive(Debug)]
pub(crate) struct ChannelSender(Arc<UnixStream>);

impl ChannelSender {
    /// As [`Channel::send`].
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn send(&self, message: &impl Serialize) -> io::Result<()> {
        transmit(&self.0, message, None).await
    }
}

impl Channel {
    /// Over this end of a socket pair. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn new(socket: Stream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UnixStream::from_std(socket)?);
        Ok(Self { socket, buffer: Vec::new(), descriptors: VecDeque::new() })
    }

    /// For sending while this end is listened on; nothing else is to be sent over it then.
    pub(crate) fn sender(&self) -> ChannelSender {
        ChannelSender(Arc::clone(&self.socket))
    }

    /// Sends a message. Where this is given up halfway the channel is of no use any more.
    ///
    /// # Errors
    /// The other end is closed, or the message too long.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        transmit(&self.socket, message, None).await
    }

    /// Sends a message with a descriptor, of which the other process gets its own.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) async fn send_with(
        &mut self,
        message: &impl Serialize,
        descriptor: impl AsFd,
    ) -> io::Result<()> {
        transmit(&self.socket, message, Some(descriptor.as_fd())).await
    }

    /// The next message, and the descriptor that came with it; `None`: the other end is closed.
    /// Cancel-safe.
    ///
    /// # Errors
    /// What came is no such message, or the socket's.
    pub(crate) async fn receive<M: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(M, Option<OwnedFd>)>> {
        loop {
            if let Some((text, descriptors)) = head(&self.buffer)? {
                let end = HEAD + text;
                if self.buffer.len() >= end {
                    let message = serde_json::from_slice(&self.buffer[HEAD..end])
                        .map_err(|error| misread(&error))?;
                    self.buffer.drain(..end);
                    let descriptor = (descriptors > 0).then(|| self.descriptors.pop_front());
                    return match descriptor {
                        Some(None) => Err(invalid("a descriptor is missing")),
                        descriptor => Ok(Some((message, descriptor.flatten()))),
                    };
                }
            }
            if self.read().await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let Self { socket, buffer, descriptors } = self;
        let read = || {
            let start = buffer.len();
            buffer.resize(start + PIECE, 0);
            let outcome = read(socket, &mut buffer[start..], descriptors);
            buffer.truncate(start + outcome.as_ref().copied().unwrap_or(0));
            outcome
        };
        socket.async_io(Interest::READABLE, read).await
    }
}

async fn transmit(
    socket: &UnixStream,
    message: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEAD;
    if length > LONGEST {
        return Err(invalid("a message is too long"));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    bytes[4] = u8::from(descriptor.is_some());
    let mut sent = 0;
    while sent < bytes.len() {
        let descriptor = descriptor.filter(|_| sent == 0);
        let write = || write(socket, &bytes[sent..], descriptor);
        sent += socket.async_io(Interest::WRITABLE, write).await?;
    }
    Ok(())
}

/// Length of the text and number of descriptors, where that much is there.
fn head(buffer: &[u8]) -> io::Result<Option<(usize, u8)>> {
    let Some((&[a, b, c, d, descriptors], _)) = buffer.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let text = u32::from_be_bytes([a, b, c, d]) as usize;
    match text <= LONGEST && descriptors <= 1 {
        true => Ok(Some((text, descriptors))),
        false => Err(invalid("this is no message of an upgrade")),
    }
}

fn write(
    socket: &UnixStream,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

fn read(
    socket: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    // One read never goes past a descriptor's message into the next one's.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(buffer)];
    let got = recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    // Also where this process may open no further descriptor.
    match got.flags.contains(ReturnFlags::CTRUNC) {
        true => Err(invalid("a descriptor was lost; is the limit of open files too low?")),
        false => Ok(got.bytes),
    }
}

/// What a message says may be a secret, and is not repeated.
fn misread(error: &serde_json::Error) -> io::Error {
    let (kind, place) = (error.classify(), error.column());
    invalid(&format!("a message is not understood: {kind:?} at byte {place}"))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        os::fd::AsRawFd,
    };

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = Stream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    fn half() -> (Stream, Channel) {
        let (one, other) = Stream::pair().unwrap();
        (one, Channel::new(other).unwrap())
    }

    #[tokio::test]
    async fn messages_come_in_order_and_each_with_its_own_descriptor() {
        let (mut here, mut there) = pair();
        let sockets: Vec<TcpListener> =
            (0..300).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let sending = tokio::spawn(async move {
            for (n, socket) in sockets.iter().enumerate() {
                here.send(&format!("before {n}")).await.unwrap();
                here.send_with(&n, socket).await.unwrap();
            }
        });
        for (n, address) in addresses.iter().enumerate() {
            let (text, descriptor) = there.receive::<String>().await.unwrap().unwrap();
            assert_eq!((text, descriptor.is_none()), (format!("before {n}"), true));
            let (number, descriptor) = there.receive::<usize>().await.unwrap().unwrap();
            let socket = TcpListener::from(descriptor.unwrap());
            assert_eq!((number, socket.local_addr().unwrap()), (n, *address));
            let flags = rustix::io::fcntl_getfd(&socket).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{}", socket.as_raw_fd());
        }
        sending.await.unwrap();
        assert!(there.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_long_message_crosses_in_pieces() {
        let (mut here, mut there) = pair();
        let text = "x".repeat(3 << 20);
        let sending = async { here.send(&text).await.unwrap() };
        let receiving = async { there.receive::<String>().await.unwrap().unwrap().0 };
        let ((), received) = tokio::join!(sending, receiving);
        assert!(received == text);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for bytes in [&b"hello\n"[..], &[0, 0, 0, 2, 0, b'{', b'x'], &[0, 0, 0, 1, 1, b'1']] {
            let (mut raw, mut there) = half();
            raw.write_all(bytes).unwrap();
            let error = there.receive::<serde_json::Value>().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let (mut raw, mut there) = half();
        raw.write_all(&[0, 0, 0, 9, 0, b'1']).unwrap();
        drop(raw);
        let error = there.receive::<serde_json::Value>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_message_is_a_length_a_count_and_json() {
        let (raw, mut there) = half();
        there.send(&[1, 2]).await.unwrap();
        drop(there);
        let mut bytes = Vec::new();
        (&raw).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\0\0\0\x05\0[1,2]");
    }

    #[tokio::test]
    async fn a_closed_end_is_an_error_and_no_signal() {
        let (raw, mut there) = half();
        drop(raw);
        let error = there.send(&1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
