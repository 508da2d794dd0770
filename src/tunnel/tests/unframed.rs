//! Closing a tunnel without WebSocket frames: at a pause.

use super::*;

/// Half of the pause that ends a tunnel without frames.
async fn half_a_pause() {
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
            half_a_pause().await;
            scene.pass_down(b"more").await;
        }
        // A peer that has sent FIN may still be answered, without a pause.
        scene.client.shutdown().await.unwrap();
        for _ in 0..6 {
            half_a_pause().await;
            scene.pass_down(b"and more").await;
        }
        let quiet = tokio::time::Instant::now();
        assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(quiet.elapsed(), QUIET_TIME);
        assert_eq!(scene.end().await.termination, termination, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_drain_waits_forever_for_a_pause_of_an_unframed_tunnel() {
    for reason in [CloseReason::Drained, CloseReason::Aged] {
        let mut scene = Scene::open(64, None, b"");
        scene.close(reason);
        let start = tokio::time::Instant::now();
        while !scene.task.is_finished() && start.elapsed() < CLOSE_TIMEOUT * 3 {
            half_a_pause().await;
            let _ = scene.backend.write_all(b"x").await;
            let _ = tokio::time::timeout(QUIET_TIME / 10, scene.client.read(&mut [0])).await;
        }
        let open = !scene.task.is_finished();
        assert_eq!(open, reason == CloseReason::Drained, "{reason:?}");
        assert_eq!(scene.registry.cut(7), usize::from(open));
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
        let start = tokio::time::Instant::now();
        tokio::time::sleep(CLOSE_TIMEOUT - QUIET_TIME * 2).await;
        scene.client_gets(&[7; 48]).await;
        assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
        assert!(start.elapsed() >= CLOSE_TIMEOUT - QUIET_TIME, "cut while bytes were moving");
        assert_eq!(scene.end().await.termination, reason.termination(), "{reason:?}");

        // A peer that never reads is cut, too.
        let mut scene = Scene::open(16, None, b"");
        scene.backend.write_all(&[7; 48]).await.unwrap();
        scene.close(reason);
        let start = tokio::time::Instant::now();
        tokio::time::sleep(CLOSE_TIMEOUT * 2).await;
        assert_eq!(scene.registry.cut(7), usize::from(reason == CloseReason::Drained));
        let ended = scene.end().await;
        assert_eq!(ended.termination, reason.termination(), "{reason:?}");
        assert!(start.elapsed() >= CLOSE_TIMEOUT && ended.to_client == 16);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_closes_an_unframed_tunnel_immediately_and_rebalancing_never() {
    let mut scene = Scene::open(64, None, b"");
    assert_eq!(scene.registry.close(7, 1, CloseReason::Rebalanced), 0);
    scene.pass_down(b"goes on").await;
    scene.close(CloseReason::Operator);
    let start = tokio::time::Instant::now();
    assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(scene.end().await.termination, Termination::Closed(Side::Proxy));
}
