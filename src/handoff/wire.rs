//! The channel between the two processes: messages over a stream socket, some with a file descriptor.
//!
//! A message is its length (4 bytes, big endian), the number of descriptors (one byte, 0 or 1) and a JSON
//! text. A descriptor is sent with the first byte of its message (`SCM_RIGHTS`, unix(7)). Messages and
//! descriptors stay in order, so that each descriptor is matched to its message. Must not know the meaning
//! of the messages.

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

/// Longest message in bytes. Actual messages are far shorter.
const LONGEST: usize = 16 << 20;
/// Length of a message's header in bytes.
const HEADER: usize = 5;
/// Maximum number of bytes per read.
const READ_SIZE: usize = 64 * 1024;

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Arc<UnixStream>,
    /// Bytes of messages that are not parsed yet.
    buffer: Vec<u8>,
    /// Descriptors of messages that are not parsed yet.
    descriptors: VecDeque<OwnedFd>,
}

/// Sends on a channel while [`Channel::receive`] waits. Only one sender may be used at a time, otherwise
/// messages would be mixed.
#[derive(Debug)]
pub(crate) struct ChannelSender(Arc<UnixStream>);

impl ChannelSender {
    /// Sends a message, as [`Channel::send`] does.
    ///
    /// # Errors
    /// As for [`Channel::send`].
    pub(crate) async fn send(&self, message: &impl Serialize) -> io::Result<()> {
        transmit(&self.0, message, None).await
    }
}

impl Channel {
    /// Creates a channel over one end of a socket pair. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub(crate) fn new(socket: Stream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UnixStream::from_std(socket)?);
        Ok(Self { socket, buffer: Vec::new(), descriptors: VecDeque::new() })
    }

    /// Returns a sender for use during [`receive`](Self::receive). Do not call [`send`](Self::send) then.
    pub(crate) fn sender(&self) -> ChannelSender {
        ChannelSender(Arc::clone(&self.socket))
    }

    /// Sends a message. After a cancelled call the channel is unusable.
    ///
    /// # Errors
    /// The other end is closed, or the message is too long.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        transmit(&self.socket, message, None).await
    }

    /// Sends a message with a duplicate of a descriptor.
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

    /// Receives the next message and its descriptor; `None`: the other end is closed. Cancel-safe.
    ///
    /// # Errors
    /// The message is invalid, or the socket failed.
    pub(crate) async fn receive<M: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(M, Option<OwnedFd>)>> {
        loop {
            if let Some((length, descriptors)) = header(&self.buffer)? {
                let end = HEADER + length;
                if self.buffer.len() >= end {
                    let message = serde_json::from_slice(&self.buffer[HEADER..end])
                        .map_err(|error| invalid_json(&error))?;
                    self.buffer.drain(..end);
                    let descriptor = (descriptors > 0).then(|| self.descriptors.pop_front());
                    return match descriptor {
                        Some(None) => Err(invalid("a message has no descriptor")),
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
            buffer.resize(start + READ_SIZE, 0);
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
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEADER;
    if length > LONGEST {
        return Err(invalid("a message is longer than 16 MiB"));
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

/// Returns the length of the text and the number of descriptors, if the header is complete.
fn header(buffer: &[u8]) -> io::Result<Option<(usize, u8)>> {
    let Some((&[a, b, c, d, descriptors], _)) = buffer.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    match length <= LONGEST && descriptors <= 1 {
        true => Ok(Some((length, descriptors))),
        false => Err(invalid("not a message of the upgrade protocol")),
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
    // The kernel ends a read before the next message with a descriptor.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    // Set if this process cannot open another descriptor.
    match received.flags.contains(ReturnFlags::CTRUNC) {
        true => Err(invalid("cannot receive a descriptor; raise the limit of open files")),
        false => Ok(received.bytes),
    }
}

/// Describes invalid JSON without its text, which may be a key.
fn invalid_json(error: &serde_json::Error) -> io::Error {
    let (kind, place) = (error.classify(), error.column());
    invalid(&format!("invalid message: {kind:?} error at byte {place}"))
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
        let (a, b) = Stream::pair().unwrap();
        (Channel::new(a).unwrap(), Channel::new(b).unwrap())
    }

    fn half() -> (Stream, Channel) {
        let (a, b) = Stream::pair().unwrap();
        (a, Channel::new(b).unwrap())
    }

    #[tokio::test]
    async fn messages_arrive_in_order_with_their_descriptors() {
        let (mut sender, mut receiver) = pair();
        let sockets: Vec<TcpListener> =
            (0..300).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let sending = tokio::spawn(async move {
            for (n, socket) in sockets.iter().enumerate() {
                sender.send(&format!("before {n}")).await.unwrap();
                sender.send_with(&n, socket).await.unwrap();
            }
        });
        for (n, address) in addresses.iter().enumerate() {
            let (text, descriptor) = receiver.receive::<String>().await.unwrap().unwrap();
            assert_eq!((text, descriptor.is_none()), (format!("before {n}"), true));
            let (number, descriptor) = receiver.receive::<usize>().await.unwrap().unwrap();
            let socket = TcpListener::from(descriptor.unwrap());
            assert_eq!((number, socket.local_addr().unwrap()), (n, *address));
            let flags = rustix::io::fcntl_getfd(&socket).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{}", socket.as_raw_fd());
        }
        sending.await.unwrap();
        assert!(receiver.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn long_message_is_sent_in_parts() {
        let (mut sender, mut receiver) = pair();
        let text = "x".repeat(3 << 20);
        let sending = async { sender.send(&text).await.unwrap() };
        let receiving = async { receiver.receive::<String>().await.unwrap().unwrap().0 };
        let ((), received) = tokio::join!(sending, receiving);
        assert!(received == text);
    }

    #[tokio::test]
    async fn invalid_message_is_an_error() {
        for bytes in [&b"hello\n"[..], &[0, 0, 0, 2, 0, b'{', b'x'], &[0, 0, 0, 1, 1, b'1']] {
            let (mut raw, mut receiver) = half();
            raw.write_all(bytes).unwrap();
            let error = receiver.receive::<serde_json::Value>().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let (mut raw, mut receiver) = half();
        raw.write_all(&[0, 0, 0, 9, 0, b'1']).unwrap();
        drop(raw);
        let error = receiver.receive::<serde_json::Value>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn message_is_a_length_a_count_and_json() {
        let (raw, mut receiver) = half();
        receiver.send(&[1, 2]).await.unwrap();
        drop(receiver);
        let mut bytes = Vec::new();
        (&raw).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\0\0\0\x05\0[1,2]");
    }

    #[tokio::test]
    async fn sending_to_a_closed_end_is_an_error_and_no_signal() {
        let (raw, mut receiver) = half();
        drop(raw);
        let error = receiver.send(&1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
