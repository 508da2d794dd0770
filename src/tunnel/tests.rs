//! Guarantees of a tunnel, over in-memory streams with a paused clock.

mod close;
mod close_anytime;
mod ends_of_sockets;
mod unframed;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{
    CloseReason, TunnelEndpoint, TunnelObserver, TunnelOptions, TunnelRegistry, TunnelSummary,
    close::{ANSWER_TIMEOUT, CLOSE_TIMEOUT, QUIET_TIME},
    run,
};
use crate::{
    error::{Side, Termination},
    net::stream::ByteStream,
};

const HALF_CLOSED: Duration = Duration::from_secs(60);

impl ByteStream for DuplexStream {
    fn reset_on_drop(&self) {}

    fn shut(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Endings(Arc<Mutex<Vec<TunnelSummary>>>);

impl TunnelObserver for Endings {
    fn end(self, ended: TunnelSummary, _: Option<&io::Error>) {
        self.0.lock().unwrap().push(ended);
    }
}

/// A tunnel between two in-memory streams of `room` bytes.
struct Scene {
    client: DuplexStream,
    backend: DuplexStream,
    endings: Endings,
    registry: Arc<TunnelRegistry>,
    task: tokio::task::JoinHandle<()>,
}

impl Scene {
    fn open(room: usize, idle: Option<Duration>, early: &'static [u8]) -> Self {
        Self::with(room, TunnelOptions { idle, ..TunnelOptions::default() }, early, Bytes::new())
    }

    /// A tunnel between WebSocket peers.
    fn framed(room: usize) -> Self {
        Self::with(
            room,
            TunnelOptions { framed: true, ..TunnelOptions::default() },
            Bytes::new(),
            Bytes::new(),
        )
    }

    fn with(
        room: usize,
        options: TunnelOptions,
        early_up: impl Into<Bytes>,
        early_down: impl Into<Bytes>,
    ) -> Self {
        let (client, client_end) = duplex(room);
        let (backend, backend_end) = duplex(room);
        let (endings, registry) = (Endings::default(), Arc::new(TunnelRegistry::default()));
        let task = tokio::spawn(run(
            TunnelEndpoint { stream: client_end, early: early_up.into() },
            TunnelEndpoint { stream: backend_end, early: early_down.into() },
            endings.clone(),
            registry.enter(7, ([192, 0, 2, 1], 4711).into(), options.framed),
            options,
        ));
        Self { client, backend, endings, registry, task }
    }

    /// Returns how the tunnel ended; it must have ended exactly once.
    async fn end(self) -> TunnelSummary {
        self.task.await.unwrap();
        assert!(self.registry.is_empty(), "the tunnel is still registered");
        let endings = self.endings.0.lock().unwrap();
        assert_eq!(endings.len(), 1);
        endings[0]
    }

    fn close(&self, reason: CloseReason) {
        assert_eq!(self.registry.close(7, 1, reason), 1);
    }

    /// Sends from the backend and expects the bytes at the client.
    async fn pass_down(&mut self, bytes: &[u8]) {
        self.backend.write_all(bytes).await.unwrap();
        self.client_gets(bytes).await;
    }

    async fn client_gets(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, bytes);
    }

    async fn backend_gets(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.backend.read_exact(&mut got).await.unwrap();
        assert_eq!(got, bytes);
    }

    /// Lets the tunnel make progress, and asserts that the client receives nothing.
    async fn client_gets_nothing(&mut self) {
        let read = tokio::time::timeout(Duration::from_millis(1), self.client.read_u8());
        assert!(read.await.is_err(), "the client received a byte");
    }
}

/// A client's Close with status 1012, masked by zeros.
const ANSWERED: &[u8] = b"\x88\x82\0\0\0\0\x03\xf4";

#[tokio::test]
async fn bytes_pass_both_ways_with_early_bytes_first_and_are_counted() {
    let mut scene = Scene::open(64, None, b"early");
    scene.client.write_all(b" late").await.unwrap();
    scene.backend.write_all(b"hello").await.unwrap();
    let (mut up, mut down) = ([0; 10], [0; 5]);
    scene.backend.read_exact(&mut up).await.unwrap();
    scene.client.read_exact(&mut down).await.unwrap();
    assert_eq!((&up, &down), (b"early late", b"hello"));
    scene.client.shutdown().await.unwrap();
    assert_eq!(scene.backend.read(&mut up).await.unwrap(), 0, "the FIN goes through");
    scene.backend.write_all(b"still").await.unwrap();
    scene.client.read_exact(&mut down).await.unwrap();
    scene.backend.shutdown().await.unwrap();
    let ended = scene.end().await;
    assert_eq!(ended.termination, Termination::Closed(Side::Client));
    assert_eq!((ended.to_backend, ended.to_client), (10, 10));
}

#[tokio::test]
async fn a_stalled_reader_stops_its_writer_and_loses_no_bytes() {
    let mut scene = Scene::open(1024, None, b"");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let mut writer = scene.client;
    let expected = sent.clone();
    let mut writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished(), "a megabyte must not fit into a tunnel without a reader");
    let mut received = Vec::new();
    scene.backend.read_to_end(&mut received).await.unwrap();
    assert!(received == expected);
    scene.client = (&mut writing).await.unwrap();
    drop(scene.backend);
    scene.backend = duplex(1).0;
    assert_eq!(scene.end().await.to_backend, 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_ends_after_its_idle_timeout_without_a_byte() {
    let limit = Duration::from_secs(10);
    let mut scene = Scene::open(64, Some(limit), b"");
    let start = tokio::time::Instant::now();
    tokio::time::sleep(limit * 9 / 10).await;
    scene.backend.write_all(b"x").await.unwrap();
    let ended = scene.end().await;
    assert_eq!(ended.termination, Termination::Idle);
    assert!(start.elapsed() >= limit * 19 / 10, "traffic one way counts for both");
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_tunnel_waits_for_the_other_half_within_its_timeout() {
    let mut scene = Scene::open(64, None, b"");
    let start = tokio::time::Instant::now();
    scene.client.shutdown().await.unwrap();
    assert_eq!(scene.end().await.termination, Termination::HalfClosed);
    assert!(start.elapsed() >= HALF_CLOSED);
}

#[tokio::test]
async fn a_cut_ends_the_tunnels_of_that_backend_only() {
    let scene = Scene::open(64, None, b"");
    assert_eq!(scene.registry.cut(8), 0);
    assert_eq!(scene.registry.of(7), 1);
    assert_eq!(scene.registry.cut(7), 1);
    assert_eq!(scene.end().await.termination, Termination::Drained);
}
