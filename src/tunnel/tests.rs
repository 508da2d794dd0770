//! What a tunnel promises, over in-memory streams and a paused clock.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{End, Ended, Guard, HALF_CLOSED_IDLE, Registry, run};
use crate::{
    error::{Side, Termination},
    net::stream::Stream,
};

impl Stream for DuplexStream {
    fn reset_on_drop(&self) {}
}

#[derive(Clone, Default)]
struct Endings(Arc<Mutex<Vec<Ended>>>);

impl Guard for Endings {
    fn end(self, ended: Ended) {
        self.0.lock().unwrap().push(ended);
    }
}

/// A tunnel between two in-memory streams of `room` bytes.
struct Scene {
    client: DuplexStream,
    backend: DuplexStream,
    endings: Endings,
    registry: Arc<Registry>,
    task: tokio::task::JoinHandle<()>,
}

impl Scene {
    fn open(room: usize, idle: Option<Duration>, early: &'static [u8]) -> Self {
        let (client, client_end) = duplex(room);
        let (backend, backend_end) = duplex(room);
        let (endings, registry) = (Endings::default(), Arc::new(Registry::default()));
        let task = tokio::spawn(run(
            End { stream: client_end, early: Bytes::from_static(early) },
            End { stream: backend_end, early: Bytes::new() },
            endings.clone(),
            registry.enter(7),
            idle,
        ));
        Self { client, backend, endings, registry, task }
    }

    /// How it ended; it must have ended exactly once.
    async fn end(self) -> Ended {
        self.task.await.unwrap();
        assert!(self.registry.is_empty(), "the registry still knows it");
        let endings = self.endings.0.lock().unwrap();
        assert_eq!(endings.len(), 1);
        endings[0]
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_early_ones_first_and_are_counted() {
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
async fn a_reader_that_stalls_stops_its_writer_and_loses_nothing() {
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
    assert!(!writing.is_finished(), "a megabyte must not fit into a tunnel that nobody reads from");
    let mut received = Vec::new();
    scene.backend.read_to_end(&mut received).await.unwrap();
    assert!(received == expected);
    scene.client = (&mut writing).await.unwrap();
    drop(scene.backend);
    scene.backend = duplex(1).0;
    assert_eq!(scene.end().await.to_backend, 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn without_a_byte_for_its_idle_timeout_it_ends() {
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
async fn half_closed_it_waits_for_the_other_half_but_not_for_ever() {
    let mut scene = Scene::open(64, None, b"");
    let start = tokio::time::Instant::now();
    scene.client.shutdown().await.unwrap();
    assert_eq!(scene.end().await.termination, Termination::Idle);
    assert!(start.elapsed() >= HALF_CLOSED_IDLE);
}

#[tokio::test]
async fn a_cut_ends_the_tunnels_of_that_backend_only() {
    let scene = Scene::open(64, None, b"");
    assert_eq!(scene.registry.cut(8), 0);
    assert_eq!(scene.registry.of(7), 1);
    assert_eq!(scene.registry.cut(7), 1);
    assert_eq!(scene.end().await.termination, Termination::Drained);
}
