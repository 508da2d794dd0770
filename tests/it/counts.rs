//! Session counts are equal in all commands, and tables fit a terminal.

use serde_json::Value;

use crate::{
    configuration::drop_ref,
    support::{Backend, Node, Proxy, Raw, node::handshake, websocket},
};

/// The backend of pool `app`.
async fn backend_json(proxy: &Proxy) -> Value {
    proxy.api().get("/v1/pools/app").await["backends"][0].clone()
}

/// Waits until the backend has these numbers of sessions and tunnels.
async fn wait_until_counts(proxy: &Proxy, sessions: u64, tunnels: u64) {
    let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
    loop {
        let backend = backend_json(proxy).await;
        if backend["sessions"] == sessions && backend["tunnels"] == tunnels {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{backend}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Opens a tunnel, for this session if one is given.
async fn open_tunnel(proxy: &Proxy, sid: Option<&str>) -> Raw {
    let mut client = Raw::connect(proxy.web()).await;
    let sid = sid.map_or_else(String::new, |sid| format!("&sid={sid}"));
    let target = format!("/socket.io/?EIO=4&transport=websocket{sid}");
    client.send(websocket::request(&target, "")).await;
    assert_eq!(client.response().await.status(), 101);
    client
}

#[tokio::test]
async fn four_clients_are_four_sessions_in_every_command() {
    let (node, other) = (Node::start("a").await, Backend::replying("other").await);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[node.backend.address]).pool("drain", "\"1h\"");
        settings.top("reload", "{ watch = false }");
    })
    .await;
    let mut poller = Raw::connect(proxy.web()).await;
    let sessions = [
        handshake(&mut poller, "1", "").await,
        handshake(&mut poller, "2", "").await,
        handshake(&mut poller, "3", "").await,
    ];
    // One client has upgraded its session, one never polled.
    let moved = open_tunnel(&proxy, Some(&sessions[0].sid)).await;
    let direct = open_tunnel(&proxy, None).await;
    wait_until_counts(&proxy, 4, 2).await;
    let all = "4 sessions (2 tunnels, 2 polling)";
    let status = proxy.command(&["status"]).await.done();
    assert!(status.contains(&format!("3 connections, {all}\n")), "{status}");
    let json = proxy.command(&["status", "--json"]).await.json();
    assert_eq!((&json["sessions"], &json["tunnels"]), (&4.into(), &2.into()));
    let listed = proxy.command(&["sessions", "--json"]).await.json();
    assert_eq!((&listed["total"], listed["sessions"].as_array().unwrap().len()), (&4.into(), 4));
    // Polling sessions are listed with client and age.
    for session in listed["sessions"].as_array().unwrap() {
        assert!(session["client"].as_str().unwrap().starts_with("127.0.0.1"), "{session}");
        assert!(session["age"].as_f64().unwrap() < 60.0, "{session}");
    }
    let drained = proxy.command(&["drain", "app"]).await.done();
    assert!(drained.contains(&format!("{all} left")), "{drained}");
    proxy.command(&["undrain", "app"]).await.done();
    let remaining = [other.address];
    proxy.rewrite(|settings| drop_ref(settings.backends(&remaining)));
    let plan = proxy.command(&["plan"]).await.done();
    assert!(plan.contains(&format!("{all} would be disconnected")), "{plan}");
    let refused = proxy.command(&["reload", "--max-disconnects", "3"]).await;
    refused.refused("would disconnect 4 sessions (2 with a tunnel)");
    let reloaded = proxy.command(&["reload", "--max-disconnects", "4"]).await.done();
    assert!(reloaded.contains(&format!("{all} are disconnected")), "{reloaded}");
    drop((moved, direct, poller, node, other));
    drop(proxy);
}

#[tokio::test]
async fn sessions_of_ended_tunnels_are_not_counted() {
    let node = Node::start("a").await;
    let proxy = Proxy::for_backends(&[node.backend.address]).await;
    let mut poller = Raw::connect(proxy.web()).await;
    let mut tunnels = Vec::new();
    for number in ["1", "2", "3"] {
        let session = handshake(&mut poller, number, "").await;
        tunnels.push(open_tunnel(&proxy, Some(&session.sid)).await);
    }
    wait_until_counts(&proxy, 3, 3).await;
    drop((tunnels, poller));
    wait_until_counts(&proxy, 0, 0).await;
    let json = proxy.api().get("/v1/status").await;
    assert_eq!((&json["sessions"], &json["tunnels"]), (&0.into(), &0.into()), "{json}");
    let status = proxy.command(&["status"]).await.done();
    assert!(status.contains(", 0 sessions\n"), "{status}");
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn undrain_counts_only_drained_backends() {
    let nodes =
        [Backend::replying("a").await, Backend::replying("b").await, Backend::replying("c").await];
    let proxy = Proxy::for_backends(&nodes.each_ref().map(|node| node.address)).await;
    let one = format!("app/{}", nodes[1].address);
    proxy.command(&["drain", &one]).await.done();
    let ended = proxy.command(&["undrain", "app"]).await.done();
    assert!(ended.starts_with("1 backend no longer drained\n"), "{ended}");
    assert!(!ended.contains(&nodes[0].address.to_string()), "{ended}");
    proxy.command(&["drain", "--all"]).await.done();
    let ended = proxy.command(&["undrain", "--all"]).await.done();
    assert!(ended.starts_with("3 backends no longer drained\n"), "{ended}");
    drop(nodes);
    proxy.finish().await;
}

#[tokio::test]
async fn status_shows_no_reload_after_a_start() {
    let backend = Backend::replying("a").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let status = proxy.command(&["status"]).await.done();
    assert!(status.contains("\nlast reload: none yet\n"), "{status}");
    assert_eq!(proxy.api().get("/v1/status").await["reload"], Value::Null);
    proxy.command(&["reload"]).await.done();
    let status = proxy.command(&["status"]).await.done();
    assert!(status.contains("\nlast reload ") && status.contains(" ago\n"), "{status}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_reload_logs_its_changes() {
    let backend = Backend::replying("a").await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.host("other.test", "other", &[backend.address]);
    })
    .await;
    let text = proxy.settings.text();
    let other = "host = \"other.test\"\npool = \"other\"";
    for (from, to, message) in [
        (
            other,
            "host = \"other.test\"\npool = \"app\"",
            "route other.test/ changed: from pool other to pool app",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"http\"\nconnections_per_address = 9",
            "listener web changed: ",
        ),
        ("[pools.app]\n", "[pools.app]\nslow_start = \"9s\"\n", "pool app changed: slow_start"),
    ] {
        let edited = text.replace(from, to);
        assert_ne!(edited, text);
        proxy.write(&edited);
        proxy.hangup();
        let is = |line: &str| line.contains("reloaded") && line.contains(message);
        proxy.wait_for_stderr(message, is).await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn every_table_fits_eighty_columns() {
    let long = "a-name-that-is-as-long-as-names-in-large-clusters-come-to-be-17";
    let (node, other) = (Node::start("a").await, Backend::replying("b").await);
    let proxy = Proxy::with(|settings| {
        settings.unrouted().backends(&[other.address]).table(&format!(
            "[[routes]]\nhost = \"{long}.test\"\npath = \"/{long}\"\npool = \"app\"\n\
             [[routes]]\npath = \"/\"\npool = \"{long}\"\n\
             [pools.{long}]\nbackends = [{{ name = \"{long}\", address = \"{}\" }}]\n\
             health = {{ probe = \"off\" }}\nreuse = {{ idle_timeout = \"1s\" }}\n",
            node.backend.address
        ));
        settings.top("reload", "{ watch = false }");
    })
    .await;
    let mut client = Raw::connect(proxy.web()).await;
    handshake(&mut client, "h", "").await;
    let tunnel = open_tunnel(&proxy, None).await;
    let changed = proxy.settings.text().replace(&node.backend.address.to_string(), "127.0.0.1:9");
    proxy.write(&changed);
    for words in [&["status"][..], &["backends"], &["sessions"], &["plan"], &["drain", long]] {
        let output = proxy.command(words).await.done();
        let wide = output.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{words:?}:\n{output}");
        assert!(output.contains('…') && output.contains("-17"), "{words:?}:\n{output}");
    }
    // Output for programs is never truncated.
    assert!(proxy.command(&["backends", "--json"]).await.out.contains(long));
    drop((client, tunnel, node, other));
    drop(proxy);
}
