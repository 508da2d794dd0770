//! Closing a tunnel of WebSocket frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

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
async fn a_client_that_does_not_answer_the_close_is_cut() {
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
async fn a_tunnel_without_a_frame_boundary_stays_open_until_it_is_cut() {
    let mut scene = Scene::framed(64);
    scene.pass_down(b"\x83 not a frame").await;
    scene.close(CloseReason::Drained);
    tokio::time::sleep(ANSWER_TIMEOUT * 100).await;
    scene.pass_down(b"goes on").await;
    assert_eq!(scene.registry.cut(7), 1);
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(scene.end().await.termination, Termination::Drained);
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
        let mut mid_frame = Scene::framed(16);
        mid_frame.pass_down(b"\x82\x7e\x40\0").await;
        for mut scene in [unread, mid_frame] {
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
