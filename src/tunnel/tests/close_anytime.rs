//! A close at any time, with frames that arrive in pieces.

use proptest::prelude::*;

use super::*;

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
async fn close_anytime(
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
    let received_close = Arc::clone(&closed);
    let client = tokio::spawn(async move {
        let mut got = Vec::new();
        while reads.read_buf(&mut got).await.unwrap() > 0 {
            // Payloads do not contain these bytes.
            if got.ends_with(close) {
                received_close.notify_one();
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
    let close_task = tokio::spawn(async move {
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
    close_task.await.unwrap();
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
    fn a_close_at_any_time_leaves_whole_frames_and_one_close(
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
            .block_on(close_anytime((&up, &down), (room, cut, early), turns));
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
