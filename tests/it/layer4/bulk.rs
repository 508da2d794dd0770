//! Bulk transfer on a plaintext stream, which the kernel splices: no byte is lost, and no pipe stays open.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::tcp_proxy;
use crate::support::{Proxy, eventually, within};

/// More bytes than the socket buffers on the way can hold.
const MUCH: usize = 48 << 20;

/// Streams through a proxy, with both ends.
struct Streams {
    proxy: Proxy,
    ends: Vec<(TcpStream, TcpStream)>,
}

impl Streams {
    async fn open(count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = tcp_proxy(&[listener.local_addr().unwrap()]).await;
        let mut ends = Vec::new();
        for _ in 0..count {
            let client = TcpStream::connect(proxy.web()).await.unwrap();
            let (backend, _) = within("a connection", listener.accept()).await.unwrap();
            ends.push((client, backend));
        }
        Self { proxy, ends }
    }
}

/// Blocks that contain their index. The length of a block is not a power of two, so that lost bytes are noticed.
fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 10_000);
    for block in 0_u64.. {
        bytes.extend(block.to_be_bytes());
        bytes.resize(bytes.len() + 9_999 - 8, block as u8);
        if bytes.len() >= length {
            break;
        }
    }
    bytes.truncate(length);
    bytes
}

fn send(mut to: TcpStream, bytes: Vec<u8>) -> JoinHandle<TcpStream> {
    tokio::spawn(async move {
        to.write_all(&bytes).await.unwrap();
        to
    })
}

async fn assert_receives(from: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within("all bytes", from.read_exact(&mut got)).await.unwrap();
    assert!(got == expected, "received other bytes than were sent");
}

#[tokio::test]
async fn bulk_transfer_holds_pipes_only_while_its_reader_stalls() {
    let Streams { proxy, ends } = Streams::open(4).await;
    let (open, sent) = (proxy.descriptors(), pattern(MUCH));
    let (mut sending, mut reading) = (Vec::new(), Vec::new());
    for (client, backend) in ends {
        sending.push(send(client, sent.clone()));
        reading.push(backend);
    }
    eventually("each stream has a pipe", || proxy.descriptors() >= open + 2 * 4).await;
    for backend in &mut reading {
        assert_receives(backend, &sent).await;
    }
    eventually("no pipe is left", || proxy.descriptors() == open).await;
    // The other direction, and the FINs.
    for (mut backend, client) in reading.into_iter().zip(sending) {
        let mut client = client.await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(within("the client's end", backend.read(&mut [0])).await.unwrap(), 0);
        let backend = send(backend, sent[..1 << 20].to_vec());
        assert_receives(&mut client, &sent[..1 << 20]).await;
        drop(backend.await.unwrap());
        assert_eq!(within("the backend's end", client.read(&mut [0])).await.unwrap(), 0);
    }
    proxy.finish().await;
}

#[tokio::test]
async fn bulk_is_copied_in_user_space_without_free_descriptors() {
    let Streams { proxy, ends } = Streams::open(2).await;
    let pid = Pid::from_raw(i32::try_from(proxy.pid()).unwrap());
    let limit = |current| {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap()
    };
    let before = limit(Some(3));
    let (open, sent) = (proxy.descriptors(), pattern(MUCH));
    for (client, mut backend) in ends {
        let sending = send(client, sent.clone());
        assert_receives(&mut backend, &sent).await;
        assert!(proxy.descriptors() <= open);
        drop(sending.await.unwrap());
        assert_eq!(within("the end", backend.read(&mut [0])).await.unwrap(), 0);
    }
    limit(before.current);
    proxy.finish().await;
}
