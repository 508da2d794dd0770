//! Guarantees of a tunnel, over sockets with spliced bulk data.

use std::{
    net::TcpStream as StdStream,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    error::{FailureKind, Phase, Side, Termination},
    net::stream::ByteStream,
    tunnel::{
        CloseReason, TunnelEndpoint, TunnelObserver, TunnelOptions, TunnelRegistry, TunnelSummary,
        close::QUIET_TIME, run,
    },
};

#[derive(Clone, Default)]
struct SpliceEndings(Arc<Mutex<Vec<TunnelSummary>>>);

impl TunnelObserver for SpliceEndings {
    fn end(self, ended: TunnelSummary, _: Option<&io::Error>) {
        self.0.lock().unwrap().push(ended);
    }
}

/// A tunnel between sockets, and its two peers.
struct SpliceScene {
    client: TcpStream,
    backend: TcpStream,
    endings: SpliceEndings,
    registry: Arc<TunnelRegistry>,
    task: JoinHandle<()>,
}

impl SpliceScene {
    async fn open() -> Self {
        Self::with(None, |socket| socket, |socket| socket).await
    }

    /// Creates a tunnel with this buffer size in every socket, and streams made from the tunnel's
    /// sockets.
    async fn with<A: ByteStream + 'static, B: ByteStream + 'static>(
        room: Option<usize>,
        near: impl FnOnce(TcpStream) -> A,
        backend_end: impl FnOnce(TcpStream) -> B,
    ) -> Self {
        let ((client, near_end), (backend, far_end)) = (pair(room).await, pair(room).await);
        let (endings, registry) = (SpliceEndings::default(), Arc::new(TunnelRegistry::default()));
        let task = tokio::spawn(run(
            TunnelEndpoint { stream: near(near_end), early: Bytes::new() },
            TunnelEndpoint { stream: backend_end(far_end), early: Bytes::new() },
            endings.clone(),
            registry.enter(7, ([192, 0, 2, 1], 4711).into(), false),
            TunnelOptions::default(),
        ));
        Self { client, backend, endings, registry, task }
    }

    /// Returns how the tunnel ended.
    async fn end(self) -> TunnelSummary {
        self.task.await.unwrap();
        let endings = self.endings.0.lock().unwrap();
        assert_eq!(endings.len(), 1);
        endings[0]
    }
}

async fn pair(room: Option<usize>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (one, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (one, other) = (one.unwrap(), accepted.unwrap().0);
    for socket in [&one, &other] {
        socket.set_nodelay(true).unwrap();
        if let Some(room) = room {
            SockRef::from(socket).set_send_buffer_size(room).unwrap();
            SockRef::from(socket).set_recv_buffer_size(room).unwrap();
        }
    }
    (one, other)
}

/// Creates bytes that differ at each position.
fn pattern(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// Writes everything in pieces of these sizes, then FIN.
async fn send(mut to: impl AsyncWrite + Unpin, bytes: Vec<u8>, pieces: Vec<usize>) {
    let (mut rest, mut sizes) = (&bytes[..], pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        to.write_all(piece).await.unwrap();
        rest = more;
        tokio::task::yield_now().await;
    }
    to.shutdown().await.unwrap();
}

/// Sends both ways at once, each with its half-close; returns what arrived, how the tunnel ended,
/// and the number of spliced bytes.
async fn exchange(
    scene: SpliceScene,
    up: Vec<u8>,
    down: Vec<u8>,
    pieces: Vec<usize>,
) -> (bool, TunnelSummary, u64) {
    let before = SPLICED.get();
    let SpliceScene { client, backend, endings, task, .. } = scene;
    let (mut client_reads, client_writes) = client.into_split();
    let (mut backend_reads, backend_writes) = backend.into_split();
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (_, _, read_up, read_down) = tokio::join!(
        send(client_writes, up.clone(), pieces.clone()),
        send(backend_writes, down.clone(), pieces),
        backend_reads.read_to_end(&mut got_up),
        client_reads.read_to_end(&mut got_down),
    );
    read_up.unwrap();
    read_down.unwrap();
    task.await.unwrap();
    let ended = endings.0.lock().unwrap()[0];
    (got_up == up && got_down == down, ended, SPLICED.get() - before)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_in_order_whatever_the_sizes(
        up in 0..900_000_usize,
        down in 0..900_000_usize,
        mut pieces in prop::collection::vec(1..200_000_usize, 1..8),
        room in prop::option::of(4_096..200_000_usize),
    ) {
        // Not only tiny pieces.
        pieces.push(1 << 16);
        let (all, ended, _) = block_on(async {
            let scene = SpliceScene::with(room, |socket| socket, |socket| socket).await;
            exchange(scene, pattern(up), pattern(down), pieces).await
        });
        prop_assert!(all, "received other bytes than sent");
        prop_assert_eq!((ended.to_backend, ended.to_client), (up as u64, down as u64));
        prop_assert!(matches!(ended.termination, Termination::Closed(_)), "{:?}", ended);
    }
}

#[tokio::test]
async fn bulk_goes_through_a_pipe_and_messages_do_not() {
    let (all, ended, spliced) =
        exchange(SpliceScene::open().await, pattern(9 << 20), pattern(100), vec![1 << 20]).await;
    assert!(all && ended.to_backend == 9 << 20);
    assert!(spliced > 4 << 20, "{spliced} bytes of 9 MiB were spliced");

    let mut scene = SpliceScene::open().await;
    let before = SPLICED.get();
    let mut echo = vec![0; 4096];
    for _ in 0..200 {
        scene.client.write_all(&pattern(4096)).await.unwrap();
        scene.backend.read_exact(&mut echo).await.unwrap();
    }
    assert_eq!(SPLICED.get(), before, "messages were spliced");
}

/// The bytes in the pipe of a blocked writer are bounded, and move on when the writer can take them.
#[tokio::test]
async fn a_reader_that_stalls_stops_its_writer_and_its_pipe_is_given_back_afterwards() {
    let mut scene = SpliceScene::open().await;
    let sent = pattern(64 << 20);
    let (mut writer, expected) = (scene.client, sent.clone());
    let mut writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let idle = Duration::from_millis(100);
    let stalled = tokio::time::timeout(idle, &mut writing).await;
    assert!(stalled.is_err(), "64 MiB must not fit into a tunnel without a reader");
    let mut got = vec![0; expected.len()];
    let before = SPLICED.get();
    scene.backend.read_exact(&mut got).await.unwrap();
    assert!(got == expected);
    assert!(SPLICED.get() > before);
    assert!(SPARE.take().is_none(), "a pipe is left");
    scene.client = writing.await.unwrap();
    scene.client.shutdown().await.unwrap();
    scene.backend.shutdown().await.unwrap();
    assert!(matches!(scene.end().await.termination, Termination::Closed(_)));
}

/// A drain waits until a stream without frames is silent for a while.
#[tokio::test(start_paused = true)]
async fn only_bulk_that_has_passed_counts_as_silence() {
    let mut scene = SpliceScene::open().await;
    let sent = pattern(64 << 20);
    // The direction is bulky by now, and idle.
    let mut first = vec![0; 4 << 20];
    let (_, read) = tokio::join!(scene.client.write_all(&sent[..4 << 20]), async {
        scene.backend.read_exact(&mut first).await
    });
    read.unwrap();
    tokio::time::sleep(QUIET_TIME).await;
    let (mut writer, expected) = (scene.client, sent.clone());
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    tokio::time::sleep(QUIET_TIME).await;
    assert_eq!(scene.registry.close(7, 1, CloseReason::Drained), 1);
    tokio::time::sleep(QUIET_TIME * 10).await;
    assert!(!scene.task.is_finished(), "the tunnel ended with bytes in its pipe");
    let mut got = Vec::new();
    scene.backend.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    scene.client = writing.await.unwrap();
    assert_eq!(scene.end().await.termination, Termination::Drained);
}

#[tokio::test]
async fn a_reset_within_bulk_is_passed_on() {
    let mut scene = SpliceScene::open().await;
    let mut got = vec![0; 8 << 20];
    let sent = pattern(got.len());
    let (client, backend) = (&mut scene.client, &mut scene.backend);
    let (written, read) = tokio::join!(client.write_all(&sent), backend.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    scene.client.write_all(&sent[..1000]).await.unwrap();
    SockRef::from(&scene.client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(std::mem::replace(&mut scene.client, pair(None).await.0));
    let error = scene.backend.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let ended = scene.end().await;
    assert_eq!(
        ended.termination,
        Termination::Failed(Side::Client, Phase::Tunnel, FailureKind::Reset)
    );
}

/// The kernel splices up to urgent data and then returns nothing, although the stream has not ended.
#[tokio::test]
async fn urgent_data_does_not_end_a_tunnel() {
    let mut scene = SpliceScene::open().await;
    let sent = pattern(3 << 20);
    let mut got = vec![0; sent.len()];
    for _ in 0..3 {
        let (client, backend) = (&mut scene.client, &mut scene.backend);
        let write = async {
            client.write_all(&sent).await.unwrap();
            client.writable().await.unwrap();
            SockRef::from(&*client).send_out_of_band(b"!").unwrap();
        };
        let passed = async { tokio::join!(write, backend.read_exact(&mut got)).1 };
        let passed = tokio::time::timeout(Duration::from_secs(20), passed).await;
        passed.expect("the bytes pass in time").unwrap();
        assert!(got == sent);
    }
    scene.client.shutdown().await.unwrap();
    assert_eq!(scene.backend.read(&mut got).await.unwrap(), 0);
    scene.backend.shutdown().await.unwrap();
    assert_eq!(scene.end().await.to_backend, 9 << 20);
}

/// A socket that cannot be spliced: its descriptor is replaced by another one.
struct Odd {
    socket: TcpStream,
    /// Descriptor that is ready and does not support splice.
    other: TcpStream,
}

impl Odd {
    fn new(socket: TcpStream) -> Self {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let other: OwnedFd = eventfd(1, flags).unwrap();
        Self { socket, other: TcpStream::from_std(StdStream::from(other)).unwrap() }
    }
}

impl ByteStream for Odd {
    fn reset_on_drop(&self) {}

    fn shut(&self) -> io::Result<()> {
        Ok(())
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(&self.other)
    }
}

impl AsyncRead for Odd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Odd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn everything_is_copied_if_the_kernel_cannot_splice() {
    // Filling a pipe fails in one direction, emptying a full one in the other.
    let scene = SpliceScene::with(None, Odd::new, |socket| socket).await;
    let (up, down) = (pattern(4 << 20), pattern((4 << 20) + 1));
    let (all, ended, spliced) = exchange(scene, up, down, vec![1 << 20]).await;
    assert!(all, "received other bytes than sent");
    assert_eq!((ended.to_backend, ended.to_client), (4 << 20, (4 << 20) + 1));
    assert_eq!(spliced, 0);
}

#[tokio::test]
async fn a_tunnel_closes_its_pipe_when_it_ends() {
    let mut scene = SpliceScene::open().await;
    let sent = pattern(64 << 20);
    let idle = Duration::from_millis(100);
    let writing = tokio::time::timeout(idle, scene.client.write_all(&sent)).await;
    assert!(writing.is_err(), "it fits");
    let spare = SPARE.take();
    assert!(spare.is_none(), "the blocked direction holds the pipe");
    scene.task.abort();
    assert!((&mut scene.task).await.unwrap_err().is_cancelled());
    let mut got = Vec::new();
    scene.backend.read_to_end(&mut got).await.unwrap();
    assert!(sent.starts_with(&got) && got.len() > BULKY as usize);
    assert!(SPARE.take().is_none(), "a pipe with bytes in it was given back");
}

#[test]
fn a_direction_becomes_bulky_after_much_data_and_stays_so_briefly() {
    let mut bulk = Bulk::default();
    for _ in 0..1000 {
        bulk.note(WORTHWHILE as usize);
    }
    assert!(!bulk.is_bulky(), "by messages");
    for _ in 0..6 {
        bulk.note(64 * 1024);
    }
    assert!(bulk.is_bulky());
    for _ in 0..1000 {
        bulk.note(64 * 1024);
    }
    let messages = (0..).take_while(|_| {
        bulk.note(100);
        bulk.is_bulky()
    });
    assert!(messages.count() <= 17);
    let mut never = Bulk::NEVER;
    never.note(1 << 20);
    assert!(!never.is_bulky());
}
