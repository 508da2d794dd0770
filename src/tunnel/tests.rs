//! Guarantees of a tunnel, over in-memory streams with a paused clock.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
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
        assert!(read.await.is_err(), "something came");
    }
}

/// A client's Close with status 1012, masked by zeros.
const ANSWERED: &[u8] = b"\x88\x82\0\0\0\0\x03\xf4";

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_end_of_the_frame_and_the_backend_gets_the_clients_answer() {
    let mut scene = Scene::framed(64);
    scene.pass_down(b"\x81\x02hi\x01\x05he").await;
    scene.close(CloseReason::Rebalanced);
    scene.client_gets_nothing().await;
    scene.backend.write_all(b"llo\x80\x01!\x81\x04late").await.unwrap();
    // A fragmented message may be interrupted between two fragments; nothing follows.
    scene.client_gets(b"llo").await;
    scene.client_gets(CloseReason::Rebalanced.frame()).await;
    scene.backend.write_all(&[b'x'; 1000]).await.unwrap();
    scene.client_gets_nothing().await;
    scene.client.write_all(b"\x81\x81\0\0\0\0x").await.unwrap();
    scene.client.write_all(ANSWERED).await.unwrap();
    scene.backend_gets(b"\x81\x81\0\0\0\0x").await;
    scene.backend_gets(ANSWERED).await;
    assert_eq!(scene.backend.read(&mut [0]).await.unwrap(), 0, "FIN follows");
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0, "the client gets FIN, too");
    // The backend's own Close is dropped.
    scene.backend.write_all(b"\x88\0").await.unwrap();
    scene.backend.shutdown().await.unwrap();
    let ended = scene.end().await;
    assert_eq!(ended.termination, Termination::Rebalanced);
    let close = CloseReason::Rebalanced.frame().len() as u64;
    assert_eq!((ended.to_backend, ended.to_client), (7 + 8, 4 + 7 + close));
}

#[tokio::test(start_paused = true)]
async fn a_close_while_a_write_is_short_waits_for_the_rest_of_its_frame() {
    let mut scene = Scene::framed(16);
    // The second frame is cut by the client's 16 bytes of room, the third has not begun.
    let frames = [&b"\x82\x08"[..], &[1; 8], b"\x82\x10", &[2; 16], b"\x82\x02", &[3; 2]].concat();
    scene.backend.write_all(&frames[..16]).await.unwrap();
    scene.backend.write_all(&frames[16..32]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    scene.close(CloseReason::Aged);
    tokio::time::sleep(Duration::from_millis(1)).await;
    scene.client_gets(&frames[..28]).await;
    scene.client_gets(CloseReason::Aged.frame()).await;
    scene.client.write_all(ANSWERED).await.unwrap();
    scene.backend_gets(ANSWERED).await;
    scene.backend.shutdown().await.unwrap();
    assert_eq!(scene.end().await.termination, Termination::Aged);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_is_cut() {
    let mut scene = Scene::framed(64);
    let start = tokio::time::Instant::now();
    scene.close(CloseReason::Operator);
    scene.client_gets(CloseReason::Operator.frame()).await;
    // Other bytes do not answer the Close and do not extend the deadline.
    for _ in 0..4 {
        tokio::time::sleep(ANSWER_TIMEOUT / 5).await;
        scene.client.write_all(b"\x89\x80\0\0\0\0").await.unwrap();
    }
    assert_eq!(scene.end().await.termination, Termination::Closed(Side::Proxy));
    assert_eq!(start.elapsed().as_secs(), ANSWER_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_sent_close_is_not_interrupted() {
    let answer = &b"\x88\x02\x03\xe8"[..];
    // By the backend.
    let mut scene = Scene::framed(64);
    scene.pass_down(answer).await;
    scene.close(CloseReason::Drained);
    scene.client_gets_nothing().await;
    scene.client.write_all(ANSWERED).await.unwrap();
    scene.client.shutdown().await.unwrap();
    scene.backend_gets(ANSWERED).await;
    scene.backend.shutdown().await.unwrap();
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(scene.end().await.termination, Termination::Closed(Side::Client));
    // By the client: the backend's answer is on its way.
    let mut scene = Scene::framed(64);
    scene.client.write_all(ANSWERED).await.unwrap();
    scene.backend_gets(ANSWERED).await;
    scene.close(CloseReason::Drained);
    scene.client_gets_nothing().await;
    scene.pass_down(answer).await;
    // A peer that never ends is cut, half-closed or not.
    scene.client.shutdown().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(scene.end().await.termination, Termination::Drained);
    assert!(start.elapsed() <= ANSWER_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_without_a_boundary_lives_until_it_is_cut() {
    let mut scene = Scene::framed(64);
    scene.pass_down(b"\x83 not a frame").await;
    scene.close(CloseReason::Drained);
    tokio::time::sleep(ANSWER_TIMEOUT * 100).await;
    scene.pass_down(b"goes on").await;
    assert_eq!(scene.registry.cut(7), 1);
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(scene.end().await.termination, Termination::Drained);
}

/// Half of the silence that ends a tunnel without frames.
async fn less_than_a_pause() {
    tokio::time::sleep(QUIET_TIME / 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_unframed_tunnel_is_closed_at_a_pause() {
    for (reason, termination) in
        [(CloseReason::Drained, Termination::Drained), (CloseReason::Aged, Termination::Aged)]
    {
        let mut scene = Scene::open(64, None, b"");
        scene.pass_down(b"before").await;
        scene.close(reason);
        for _ in 0..20 {
            less_than_a_pause().await;
            scene.pass_down(b"more").await;
        }
        // A peer that has sent FIN may still be answered, without a pause.
        scene.client.shutdown().await.unwrap();
        for _ in 0..6 {
            less_than_a_pause().await;
            scene.pass_down(b"and more").await;
        }
        let silent = tokio::time::Instant::now();
        assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(silent.elapsed(), QUIET_TIME);
        assert_eq!(scene.end().await.termination, termination, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_drain_waits_forever_for_a_pause_of_an_unframed_tunnel() {
    for reason in [CloseReason::Drained, CloseReason::Aged] {
        let mut scene = Scene::open(64, None, b"");
        scene.close(reason);
        let ordered = tokio::time::Instant::now();
        while !scene.task.is_finished() && ordered.elapsed() < CLOSE_TIMEOUT * 3 {
            less_than_a_pause().await;
            let _ = scene.backend.write_all(b"x").await;
            let _ = tokio::time::timeout(QUIET_TIME / 10, scene.client.read(&mut [0])).await;
        }
        let lives = !scene.task.is_finished();
        assert_eq!(lives, reason == CloseReason::Drained, "{reason:?}");
        assert_eq!(scene.registry.cut(7), usize::from(lives));
        assert_eq!(scene.end().await.termination, reason.termination());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_of_an_unframed_tunnel_is_not_a_pause() {
    for reason in [CloseReason::Drained, CloseReason::Aged] {
        let mut scene = Scene::open(16, None, b"");
        // Bytes in the client's buffer, in the tunnel, and waiting for the tunnel.
        scene.backend.write_all(&[7; 48]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        scene.close(reason);
        let ordered = tokio::time::Instant::now();
        tokio::time::sleep(CLOSE_TIMEOUT - QUIET_TIME * 2).await;
        scene.client_gets(&[7; 48]).await;
        assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
        assert!(ordered.elapsed() >= CLOSE_TIMEOUT - QUIET_TIME, "cut while bytes were moving");
        assert_eq!(scene.end().await.termination, reason.termination(), "{reason:?}");

        // A peer that never reads is cut, too.
        let mut scene = Scene::open(16, None, b"");
        scene.backend.write_all(&[7; 48]).await.unwrap();
        scene.close(reason);
        let ordered = tokio::time::Instant::now();
        tokio::time::sleep(CLOSE_TIMEOUT * 2).await;
        assert_eq!(scene.registry.cut(7), usize::from(reason == CloseReason::Drained));
        let ended = scene.end().await;
        assert_eq!(ended.termination, reason.termination(), "{reason:?}");
        assert!(ordered.elapsed() >= CLOSE_TIMEOUT && ended.to_client == 16);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_ends_an_unframed_tunnel_at_once_and_rebalancing_never() {
    let mut scene = Scene::open(64, None, b"");
    assert_eq!(scene.registry.close(7, 1, CloseReason::Rebalanced), 0);
    scene.pass_down(b"goes on").await;
    scene.close(CloseReason::Operator);
    let ordered = tokio::time::Instant::now();
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(ordered.elapsed(), Duration::ZERO);
    assert_eq!(scene.end().await.termination, Termination::Closed(Side::Proxy));
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_drain_has_a_deadline() {
    let reasons = [
        (CloseReason::Operator, Termination::Closed(Side::Proxy)),
        (CloseReason::Rebalanced, Termination::Rebalanced),
        (CloseReason::Aged, Termination::Aged),
    ];
    for (reason, termination) in reasons {
        // The client does not read the Close.
        let unread = Scene::framed(4);
        // The frame never ends: more bytes always arrive.
        let mut amid = Scene::framed(16);
        amid.pass_down(b"\x82\x7e\x40\0").await;
        for mut scene in [unread, amid] {
            scene.close(reason);
            let start = tokio::time::Instant::now();
            while !scene.task.is_finished() {
                let second = Duration::from_secs(1);
                let pings = scene.client.write_all(b"\x89\x80\0\0\0\0");
                let _ = tokio::time::timeout(second, pings).await;
                let _ = tokio::time::timeout(second, scene.backend.read(&mut [0; 6])).await;
                tokio::time::sleep(second).await;
                assert!(start.elapsed() < CLOSE_TIMEOUT * 2, "{reason:?}: the tunnel was not cut");
            }
            assert!(start.elapsed() >= CLOSE_TIMEOUT, "{reason:?}: too early");
            assert_eq!(scene.end().await.termination, termination);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_failure_after_the_close_does_not_keep_it_from_the_client() {
    let mut scene = Scene::framed(64);
    scene.close(CloseReason::Drained);
    scene.client_gets(CloseReason::Drained.frame()).await;
    drop(std::mem::replace(&mut scene.backend, duplex(1).0));
    scene.client.write_all(ANSWERED).await.unwrap();
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
    scene.client.shutdown().await.unwrap();
    assert_eq!(scene.end().await.termination, Termination::Drained);
}

/// Creates a binary frame whose payload looks like headers of Close frames.
fn frame(masked: bool, payload: usize) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x82];
    match payload {
        0..=125 => frame.push(mask | payload as u8),
        _ => {
            frame.push(mask | 126);
            frame.extend((payload as u16).to_be_bytes());
        }
    }
    frame.resize(frame.len() + payload + if masked { 4 } else { 0 }, 0x88);
    frame
}

/// Writes in pieces and lets the other tasks run between them.
async fn write_in_pieces(writer: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], cut: usize) {
    for piece in bytes.chunks(cut) {
        writer.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// Sends frames both ways, split anywhere, and closes at any moment; returns what client and backend
/// received.
async fn closed_amid(
    (up, down): (&[Vec<u8>], &[Vec<u8>]),
    (room, cut, early): (usize, usize, usize),
    turns: usize,
) -> (Vec<u8>, Vec<u8>, TunnelSummary) {
    let (first, rest) = (down.concat(), up.to_vec());
    let early = early.min(first.len());
    let options = TunnelOptions { framed: true, ..TunnelOptions::default() };
    let Scene { client, mut backend, endings, registry, task } =
        Scene::with(room, options, Bytes::new(), first[..early].to_vec());
    let scene_end = (endings, task);
    let close = CloseReason::Drained.frame();
    let (mut reads, mut writes) = tokio::io::split(client);
    let closed = Arc::new(tokio::sync::Notify::new());
    let heard = Arc::clone(&closed);
    let client = tokio::spawn(async move {
        let mut got = Vec::new();
        while reads.read_buf(&mut got).await.unwrap() > 0 {
            // Payloads do not contain these bytes.
            if got.ends_with(close) {
                heard.notify_one();
            }
        }
        got
    });
    let client_writes = tokio::spawn(async move {
        for frame in rest {
            write_in_pieces(&mut writes, &frame, cut).await;
            if tokio::time::timeout(Duration::ZERO, closed.notified()).await.is_ok() {
                closed.notify_one();
                break;
            }
        }
        closed.notified().await;
        write_in_pieces(&mut writes, ANSWERED, cut).await;
    });
    let orders = tokio::spawn(async move {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        assert_eq!(registry.close(7, 1, CloseReason::Drained), 1);
    });
    let (mut far_reads, mut far_writes) = tokio::io::split(backend);
    let backend_end = tokio::spawn(async move {
        let mut got = Vec::new();
        far_reads.read_to_end(&mut got).await.unwrap();
        (got, far_reads)
    });
    // All of the client's bytes are taken, before and after the close.
    write_in_pieces(&mut far_writes, &first[early..], cut).await;
    orders.await.unwrap();
    client_writes.await.unwrap();
    let (far_got, far_reads) = backend_end.await.unwrap();
    backend = far_reads.unsplit(far_writes);
    drop(backend);
    let client_got = client.await.unwrap();
    scene_end.1.await.unwrap();
    let ended = scene_end.0.0.lock().unwrap()[0];
    (client_got, far_got, ended)
}

fn payloads() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![4 => 0..200_usize, 1 => 200..5_000_usize];
    prop::collection::vec(size, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_close_at_any_moment_leaves_whole_frames_and_one_close(
        up in payloads(),
        down in payloads(),
        room in 1..600_usize,
        cut in 1..3_000_usize,
        early in 0..300_usize,
        turns in 0..200_usize,
    ) {
        let up: Vec<_> = up.into_iter().map(|payload| frame(true, payload)).collect();
        let down: Vec<_> = down.into_iter().map(|payload| frame(false, payload)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (client, backend, ended) = runtime
            .block_on(closed_amid((&up, &down), (room, cut, early), turns));
        prop_assert_eq!(ended.termination, Termination::Drained);
        let whole = |frames: &[Vec<u8>], last: &[u8], got: &[u8]| {
            (0..=frames.len()).any(|n| got == [&frames[..n].concat(), last].concat())
        };
        prop_assert!(whole(&down, CloseReason::Drained.frame(), &client), "{:?}", client);
        prop_assert!(whole(&up, ANSWERED, &backend), "{:?}", backend);
        prop_assert_eq!(ended.to_client, client.len() as u64);
        prop_assert_eq!(ended.to_backend, backend.len() as u64);
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
