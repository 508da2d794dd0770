//! Lifecycle of streams: half-close, resets, stalls, drains, reloads and binary upgrades.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{connect, named_backend, stream_line, tcp, tcp_proxy};
use crate::support::{
    Backend, End, Peer, Proxy, Raw, Refusing, eventually, process,
    proxy::{Setup, TUNNELS},
    tls::Certificate,
    within,
};

/// Opens a stream to a backend that the test controls.
async fn stream(proxy: &Proxy, backend: &Backend) -> (Raw, Peer) {
    let next = backend.connections();
    let client = Raw::connect(proxy.web()).await;
    (client, backend.peer(next).await)
}

#[tokio::test]
async fn fault_071_fin_of_a_stream_from_either_side() {
    let backend = Backend::manual().await;
    let proxy = tcp_proxy(&[backend.address]).await;
    let (mut client, peer) = stream(&proxy, &backend).await;
    client.send("question").await;
    client.finish().await;
    assert_eq!(peer.ended().await, End::Fin);
    peer.wait_for_rest(b"question").await;
    peer.send("answer").await;
    assert_eq!(client.exact(6).await, b"answer");
    peer.close();
    assert_eq!(client.assert_closed().await, End::Fin);
    let line = stream_line(&proxy, "client_closed").await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&8.into(), &6.into()));

    let (mut client, peer) = stream(&proxy, &backend).await;
    peer.send("banner").await;
    peer.finish();
    assert_eq!(client.rest().await, (b"banner".to_vec(), End::Fin));
    client.send("still here").await;
    peer.wait_for_rest(b"still here").await;
    drop(client);
    assert_eq!(peer.ended().await, End::Fin);
    stream_line(&proxy, "backend_closed").await;
    drop((peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_072_reset_of_a_stream_from_either_side() {
    let backend = Backend::manual().await;
    let proxy = tcp_proxy(&[backend.address]).await;
    let (client, peer) = stream(&proxy, &backend).await;
    client.reset();
    assert_eq!(peer.ended().await, End::Reset);
    stream_line(&proxy, "client_tunnel_reset").await;
    drop(peer);
    let (mut client, peer) = stream(&proxy, &backend).await;
    peer.reset();
    assert_eq!(client.assert_closed().await, End::Reset);
    stream_line(&proxy, "backend_tunnel_reset").await;
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_073_stalled_reader_of_a_stream_stops_its_writer() {
    const MOST: usize = 64 << 20;
    let quiet = Duration::from_secs(1);
    let backend = Backend::manual().await;
    let proxy = tcp_proxy(&[backend.address]).await;
    let (mut client, peer) = stream(&proxy, &backend).await;
    peer.check_pattern();
    peer.stall();
    let sent = client.fill(MOST, quiet).await;
    assert!(sent < MOST, "the client was not stopped");
    let memory = process::peak(proxy.pid());
    peer.resume();
    eventually("every byte", || peer.checked() == sent).await;
    let sent = peer.fill(MOST, quiet).await;
    assert!(sent < MOST, "the backend was not stopped");
    assert!(process::peak(proxy.pid()) < memory + (8 << 20), "memory grew");
    peer.close();
    assert_eq!(client.check_pattern().await, (sent, End::Fin));
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_074_client_of_a_stream_gone_while_the_backend_sends() {
    let backend = Backend::manual().await;
    let proxy = tcp_proxy(&[backend.address]).await;
    let (client, peer) = stream(&proxy, &backend).await;
    let sending = tokio::spawn({
        let peer = peer.clone();
        async move {
            while !peer.is_ended() {
                peer.send(vec![7; 10_000]).await;
            }
        }
    });
    drop(client);
    within("the end", peer.ended()).await;
    sending.await.unwrap();
    proxy.wait_for_metric("no tunnel", TUNNELS, |count| count == 0.0).await;
    drop((peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_076_keepalive_finds_dead_peers_of_streams() {
    let backend = Backend::manual().await;
    let proxy = tcp_proxy(&[backend.address]).await;
    let (client, peer) = stream(&proxy, &backend).await;
    let (web, target) = (proxy.web().port(), backend.address.port());
    for filter in [format!("( sport = :{web} )"), format!("( dport = :{target} )")] {
        let lines = process::sockets(&filter).await;
        assert!(lines.len() == 1 && lines[0].contains("timer:(keepalive,"), "{lines:?}");
    }
    drop((client, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_077_one_way_traffic_keeps_a_stream_and_silence_ends_it() {
    let backend = Backend::manual().await;
    let proxy = Proxy::with(|settings| {
        tcp(settings, &[backend.address]).timeouts("tunnel_idle = \"1500ms\"");
    })
    .await;
    let (mut client, peer) = stream(&proxy, &backend).await;
    let (mut silent, _silent_peer) = stream(&proxy, &backend).await;
    let start = Instant::now();
    let talking = async {
        while start.elapsed() < Duration::from_secs(4) {
            assert!(client.feed(b".").await, "the stream ended while bytes went one way");
        }
    };
    let ((), end) = tokio::join!(talking, silent.assert_closed());
    assert_eq!(end, End::Fin);
    stream_line(&proxy, "idle").await;
    drop((client, silent, peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_drain_closes_idle_streams_first_and_busy_streams_at_the_deadline() {
    let (backend, other) = (Backend::manual().await, named_backend("o").await);
    let mut proxy = Proxy::with(|settings| {
        tcp(settings, &[backend.address]);
        settings.pool("drain", "{ within = \"8s\", spread = \"4s\" }");
    })
    .await;
    let (mut idle, idle_peer) = stream(&proxy, &backend).await;
    let (mut busy, busy_peer) = stream(&proxy, &backend).await;
    let remaining = [other.address];
    let start = Instant::now();
    let draining = async {
        let reloaded = proxy.reload(|settings| {
            settings.backends(&remaining);
        });
        reloaded.await;
        // The drained backend gets no new streams, and its open streams continue.
        let (new, name) = connect(proxy.web()).await;
        assert_eq!(name, 'o');
        new
    };
    // The stream becomes idle only after that.
    let serving = async { while idle.feed(b"o").await {} };
    let _new = tokio::select! {
        new = draining => new,
        () = serving => panic!("the stream was closed while it was busy"),
    };
    idle.send("n").await;
    eventually("the stream continues", || idle_peer.rest().ends_with(b"n")).await;
    let quiet = async {
        assert_eq!(idle.assert_closed().await, End::Fin);
        idle_peer.ended().await;
    };
    let talking = async {
        while busy.feed(b"x").await {}
        start.elapsed()
    };
    let ((), lived) = tokio::join!(quiet, talking);
    assert!(lived > Duration::from_millis(7500), "cut after {lived:?}");
    let drained = |line: &&Value| line["termination"] == "drained";
    eventually("two lines", || proxy.log_lines().iter().filter(drained).count() == 2).await;
    drop((idle, busy, busy_peer, _new, backend, other));
    proxy.finish().await;
}

#[tokio::test]
async fn reloads_and_binary_upgrades_keep_open_streams() {
    let backend = Backend::manual().await;
    let setup = Setup::new().installed().with(|settings| {
        tcp(settings, &[backend.address]);
        settings.top("upgrade", "{ drain = \"60s\" }");
    });
    let mut proxy = setup.start().await;
    let (mut client, peer) = stream(&proxy, &backend).await;
    for round in 0..3 {
        proxy
            .reload(|settings| {
                settings.pool("slow_start", &format!("\"{}s\"", round + 1));
            })
            .await;
        client.send("a").await;
        peer.send("b").await;
        assert_eq!(client.exact(1).await, b"b");
    }
    let before = proxy.upgrade().await;
    let (mut newer, newer_peer) = stream(&proxy, &backend).await;
    newer.send("new").await;
    newer_peer.wait_for_rest(b"new").await;
    client.send("a").await;
    peer.wait_for_rest(b"aaaa").await;
    assert!(process::is_running(before), "the old process keeps its stream");
    peer.close();
    assert_eq!(client.assert_closed().await, End::Fin);
    drop(client);
    stream_line(&proxy, "backend_closed").await;
    drop((newer, newer_peer, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn shutdown_waits_for_open_streams() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::with(|settings| {
        tcp(settings, &[backend.address]);
        settings.top("drain", "{ within = \"8s\", spread = \"1s\" }");
    })
    .await;
    let (mut client, peer) = stream(&proxy, &backend).await;
    proxy.terminate();
    let refuses = || std::net::TcpStream::connect(proxy.web()).is_err();
    eventually("the proxy refuses connections", refuses).await;
    client.send("still").await;
    peer.wait_for_rest(b"still").await;
    peer.close();
    assert_eq!(client.assert_closed().await, End::Fin);
    assert_eq!(proxy.exited().await.code(), Some(0), "{}", proxy.stderr_text());
}

#[tokio::test]
async fn rebalancing_keeps_streams_and_max_connection_age_closes_them() {
    let (a, b) = (named_backend("a").await, named_backend("b").await);
    let mut proxy = Proxy::with(|settings| {
        tcp(settings, &[a.address]).pool("rebalance", "{ rate = \"1000/s\" }");
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(connect(proxy.web()).await.0);
    }
    let both = [a.address, b.address];
    proxy
        .reload(|settings| {
            settings.backends(&both);
        })
        .await;
    for stream in &mut streams {
        assert!(!stream.has_received(1).await, "received a byte");
    }
    assert_eq!(proxy.metric(TUNNELS).await, 6.0);
    proxy
        .reload(|settings| {
            settings.pool("max_connection_age", "\"1s\"");
        })
        .await;
    for stream in &mut streams {
        assert_eq!(stream.assert_closed().await, End::Fin);
    }
    let aged = |line: &&Value| line["termination"] == "aged";
    eventually("six lines", || proxy.log_lines().iter().filter(aged).count() == 6).await;
    drop((streams, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn streams_are_listed_and_can_be_closed() {
    let backend = Backend::manual().await;
    let proxy = tcp_proxy(&[backend.address]).await;
    let (mut client, peer) = stream(&proxy, &backend).await;
    let sessions = proxy.command(&["sessions", "--json"]).await.json();
    let session = &sessions["sessions"][0];
    assert_eq!(session["kind"], "stream", "{sessions}");
    let status = proxy.command(&["status", "--json"]).await.json();
    assert_eq!(status["tunnels"], 1, "{status}");
    let port = proxy.web().port();
    let url = format!("http://app.test:{port}/");
    let explained = proxy.command(&["explain", &url, "--client", "192.0.2.7"]).await.done();
    assert!(explained.contains("Listener web passes bytes on to pool app"), "{explained}");
    let id = session["id"].as_str().unwrap();
    proxy.command(&["sessions", "close", id]).await.done();
    client.assert_closed().await;
    stream_line(&proxy, "proxy_closed").await;
    drop((client, peer, backend));
    proxy.finish().await;
}

/// Starts a proxy with a `tls` listener `secure` in front of `backend`.
async fn secure(backend: SocketAddr) -> (Proxy, Certificate) {
    let setup = Setup::new();
    let ours = Certificate::make(setup.directory(), "app.test");
    let certificates = ours.setting();
    let listener = format!(
        "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\npool = \"app\"\n\
         certificates = {certificates}\n"
    );
    let setup = setup.with(|settings| {
        tcp(settings, &[backend]).table(&listener);
    });
    (setup.start().await, ours)
}

#[tokio::test]
async fn tls_clients_get_close_notify_when_a_stream_ends() {
    let (refusing, backend) = (Refusing::new(), Backend::manual().await);
    let (proxy, ours) = secure(refusing.address()).await;
    let mut client = Raw::tls(proxy.listener("secure"), &ours).await;
    assert_eq!(client.assert_closed().await, End::Fin, "no backend is reachable");
    stream_line(&proxy, "backend_connect_refused").await;
    drop(client);
    proxy.finish().await;

    let (proxy, ours) = secure(backend.address).await;
    let mut client = Raw::tls(proxy.listener("secure"), &ours).await;
    backend.peer(0).await;
    let sessions = proxy.command(&["sessions", "--json"]).await.json();
    let id = sessions["sessions"][0]["id"].as_str().unwrap();
    proxy.command(&["sessions", "close", id]).await.done();
    assert_eq!(client.assert_closed().await, End::Fin, "closed by a command");
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn eof_without_close_notify_is_forwarded_as_fin() {
    let backend = Backend::manual().await;
    let (proxy, ours) = secure(backend.address).await;
    let mut cut = Raw::tls(proxy.listener("secure"), &ours).await;
    cut.send("half a mess").await;
    let peer = backend.peer(0).await;
    peer.wait_for_rest(b"half a mess").await;
    // The client has read all bytes, so the drop sends FIN, not RST, and no close_notify.
    peer.send("x").await;
    cut.exact(1).await;
    drop(cut);
    // A reset could discard bytes that the backend has not read yet.
    assert_eq!(peer.ended().await, End::Fin);
    peer.close();
    stream_line(&proxy, "client_closed").await;

    let mut client = Raw::tls(proxy.listener("secure"), &ours).await;
    client.finish().await;
    let peer = backend.peer(1).await;
    assert_eq!(peer.ended().await, End::Fin);
    peer.close();
    drop(client);
    // The backend closes after a close_notify.
    let mut client = Raw::tls(proxy.listener("secure"), &ours).await;
    let peer = backend.peer(2).await;
    peer.finish();
    assert_eq!(client.assert_closed().await, End::Fin);
    drop(client);
    stream_line(&proxy, "backend_closed").await;
    drop((peer, backend));
    proxy.finish().await;
}
