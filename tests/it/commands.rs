//! The command line against a running proxy: output, exit codes, and errors if no process is found.

mod client;

use std::{ffi::OsStr, fs};

use serde_json::Value;

use crate::support::{
    Backend, Node, Peer, Proxy, Raw,
    admin::command,
    node::handshake,
    process,
    proxy::RELOADS_REFUSED,
    websocket::{self, tunnel},
};

/// Splits a printed table into cells; columns are separated by at least two blanks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect()
    };
    text.lines().map(cells).collect()
}

#[tokio::test]
async fn status_and_backends_are_tables() {
    let (first, second) = (Backend::replying("a").await, Backend::replying("b").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[first.address, second.address]);
    })
    .await;
    let said = proxy.command(&["status"]).await.done();
    let head = format!("process {}, serving, up ", proxy.pid());
    assert!(said.contains(&head), "{said}");
    assert!(said.contains(&format!("web       http      {}\n", proxy.web())), "{said}");
    assert!(said.contains("app   least-sessions  configuration  2/2"), "{said}");
    // Output to a pipe has neither colors nor trailing blanks.
    assert!(!said.contains('\x1b') && !said.lines().any(|line| line.ends_with(' ')), "{said}");
    let listed = rows(&proxy.command(&["backends"]).await.done());
    assert_eq!(listed[0][..3], ["POOL", "BACKEND", "STATE"]);
    assert_eq!(listed[1][..4], ["app", &first.address.to_string(), "up", "1"]);
    let status = proxy.command(&["status", "--json"]).await;
    assert_eq!(status.out.lines().count(), 1);
    assert_eq!(status.json()["pid"], proxy.pid());
    let pools = proxy.command(&["--json", "backends"]).await;
    assert_eq!(pools.code, 2, "options belong to the subcommand: {pools:?}");
    let pools = proxy.command(&["backends", "--json"]).await.json();
    assert_eq!(pools["pools"][0]["backends"].as_array().unwrap().len(), 2);
    drop((first, second));
    proxy.finish().await;
}

#[tokio::test]
async fn backends_are_added_weighted_and_removed() {
    let (first, second) = (Backend::replying("a").await, Backend::replying("b").await);
    let mut proxy = Proxy::for_backends(&[first.address]).await;
    let address = second.address.to_string();
    let add = ["backends", "add", "app", &address, "--name", "extra", "--weight", "2"];
    assert_eq!(proxy.command(&add).await.done(), "added app/extra until restart\n");
    proxy.command(&add).await.refused("extra");
    let weight = proxy.command(&["backends", "weight", "app", "extra", "5", "--json"]).await;
    assert_eq!(weight.json()["weight"], 5);
    let listed = proxy.command(&["backends"]).await.done();
    assert!(
        listed.contains(&format!("at {address}; added by a command until restart")),
        "{listed}"
    );
    assert_eq!(proxy.command(&["backends", "weight", "app", "extra", "0"]).await.code, 2);
    proxy.command(&["backends", "weight", "app", "none", "2"]).await.refused("none");
    let named = first.address.to_string();
    proxy.command(&["backends", "remove", "app", &named]).await.refused("drain it instead");
    let removed = proxy.command(&["backends", "remove", "app", "extra"]).await.done();
    assert!(removed.starts_with("removed app/extra"), "{removed}");
    proxy.wait_for_baseline().await;
    drop((first, second));
    proxy.finish().await;
}

#[tokio::test]
async fn a_second_drain_is_rejected_and_undrain_ends_the_first() {
    let (first, second) = (Backend::replying("a").await, Backend::replying("b").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[first.address, second.address]);
    })
    .await;
    proxy
        .command(&["drain", "app/unknown"])
        .await
        .refused("pool app has no backend unknown; it has: 127.");
    proxy.command(&["drain", "unknown"]).await.refused("there is no pool unknown");
    let target = format!("app/{}", first.address);
    let said = proxy.command(&["drain", &target, "--within", "5m"]).await.done();
    assert!(said.contains("drain"), "{said}");
    proxy.command(&["drain", &target]).await.refused("already draining");
    let refused = proxy.command(&["drain", &target, "--json"]).await;
    assert!(refused.json()["error"].as_str().unwrap().contains("already draining"));
    assert_eq!(refused.code, 1);
    let ended = proxy.command(&["undrain", &target]).await.done();
    assert!(ended.starts_with("1 backend no longer drained"), "{ended}");
    proxy.command(&["undrain", &target]).await.refused("");
    // Invalid arguments are rejected before the process is contacted.
    for words in [
        &["drain"][..],
        &["drain", "app", "--all"],
        &["drain", "app", "--within", "soon"],
        &["drain", "app", "--by", "25:00"],
        &["drain", "app", "--by", "14:05", "--within", "5m"],
        &["drain", "/x"],
        &["undrain"],
        &["sessions", "--limit", "0"],
        &["reload", "--max-disconnects", "-1"],
        &["status", "--api", "10.0.0.1:9091"],
    ] {
        let ran = proxy.command(words).await;
        assert_eq!(ran.code, 2, "{words:?}: {ran:?}");
    }
    drop((first, second));
    proxy.finish().await;
}

#[tokio::test]
async fn drain_wait_returns_when_the_backend_is_empty() {
    let (manual, other) = (Backend::manual().await, Backend::replying("b").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[manual.address]);
        settings.host("other.test", "other", &[other.address]);
    })
    .await;
    let (open, far) = tunnel(&proxy, &manual).await;
    let words = ["drain", "app", "--wait"];
    let leave = async {
        let draining = |pool: &Value| pool["backends"][0]["state"] == "draining";
        while !draining(&proxy.api().get("/v1/pools/app").await) {
            tokio::task::yield_now().await;
        }
        drop(open);
        far.close();
    };
    let (ran, ()) = tokio::join!(proxy.command(&words), leave);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with(&format!("empty: app/{}\n-- process ", manual.address)), "{ran:?}");
    assert!(ran.err.contains("1 session (1 tunnel) left, no deadline"), "{ran:?}");
    let again = proxy.command(&["drain", "other", "--within", "1m", "--wait", "--json"]).await;
    assert_eq!(again.json()["backends"][0]["state"], "drained");
    drop((manual, other));
    proxy.finish().await;
}

#[tokio::test]
async fn drain_by_uses_the_local_time_zone() {
    let backend = Backend::manual().await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let (open, far) = tunnel(&proxy, &backend).await;
    let zone: [(&str, &OsStr); 1] = [("TZ", OsStr::new("<+14>-14"))];
    let words = ["drain", "app", "--by", "00:00", "--json"];
    let ran = command(proxy.directory(), &words, "", &zone).await;
    let left = ran.json()["backends"][0]["drain"]["seconds_left"].as_f64().unwrap();
    // To midnight of a zone 14 hours ahead of UTC.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let expected = 86_400.0 - (now.as_secs_f64() + 14.0 * 3600.0) % 86_400.0;
    let apart = (left - expected).rem_euclid(86_400.0);
    assert!(!(60.0..86_340.0).contains(&apart), "{left} is not {expected}");
    drop((open, far, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn plan_shows_changes_without_applying_them() {
    let backend = Backend::manual().await;
    let other = Backend::replying("other").await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("drain", "\"1h\"");
    })
    .await;
    let (mut open, far) = tunnel(&proxy, &backend).await;
    assert_eq!(proxy.command(&["plan"]).await.done(), "nothing would change\n");
    assert_eq!(proxy.command(&["reload"]).await.done(), "nothing has changed\n");
    fs::write(proxy.directory().join("broken.toml"), "[listeners.web\nbind = 1\n").unwrap();
    let broken = proxy.command(&["plan", "broken.toml"]).await;
    assert_eq!((broken.code, broken.out.as_str()), (1, ""));
    assert!(broken.err.contains("broken.toml:1:") && broken.err.contains('^'), "{broken:?}");
    proxy.command(&["plan", "none.toml"]).await.refused("cannot read none.toml");
    // A change of the backends disconnects the open tunnel.
    let mut new = proxy.settings.clone();
    new.backends(&[other.address]);
    fs::write(proxy.directory().join("new.toml"), new.text()).unwrap();
    let plan = proxy.command(&["plan", "new.toml"]).await.done();
    let table = rows(&plan);
    let row = |how: &str| {
        table.iter().find(|row| row.starts_with(&[how.to_owned(), "backend".to_owned()])).cloned()
    };
    assert!(row("added").is_some_and(|row| row[2].contains(&other.address.to_string())), "{plan}");
    assert!(row("removed").is_some_and(|row| row[3..5] == ["1", "1"]), "{plan}");
    let end = "1 session (1 tunnel) would be disconnected, the last within 1h\n";
    assert!(plan.ends_with(end), "{plan}");
    let json = proxy.command(&["plan", "new.toml", "--json"]).await.json();
    assert_eq!((&json["disconnected_tunnels"], &json["empty"]), (&1.into(), &false.into()));
    // The plans have changed nothing.
    open.send("still").await;
    far.wait_for_rest(b"still").await;
    drop(open);
    far.close();
    proxy.wait_for_baseline().await;
    drop((backend, other));
    proxy.finish().await;
}

/// Starts a proxy with these `reload` settings and a tunnel, and then replaces the backend of the tunnel
/// in the file.
async fn costly(reload: &str) -> Costly {
    let (backend, other) = (Backend::manual().await, Backend::replying("other").await);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("drain", "\"1h\"").top("reload", reload);
    })
    .await;
    let (open, far) = tunnel(&proxy, &backend).await;
    proxy.rewrite(|settings| {
        settings.backends(&[other.address]);
    });
    Costly { proxy, backend, other, open, far }
}

/// A proxy whose file would disconnect its open tunnel.
struct Costly {
    proxy: Proxy,
    backend: Backend,
    other: Backend,
    open: Raw,
    far: Peer,
}

impl Costly {
    /// Asserts that the tunnel still works.
    async fn assert_tunnel_open(&mut self) {
        self.open.send("still").await;
        self.far.wait_for_rest(b"still").await;
    }

    /// Reloads the file, which disconnects the tunnel, and ends the proxy.
    async fn reload_and_finish(mut self) {
        self.proxy.command(&["reload", "--max-disconnects", "1"]).await.done();
        let now = self.proxy.command(&["backends"]).await.done();
        assert!(now.contains(&self.other.address.to_string()), "{now}");
        drop(self.open);
        self.far.close();
        self.proxy.wait_for_baseline().await;
        drop((self.backend, self.other));
        self.proxy.finish().await;
    }
}

#[tokio::test]
async fn a_reload_above_max_disconnects_is_rejected() {
    let mut site = costly("{ watch = false }").await;
    let refused = site.proxy.command(&["reload", "--max-disconnects", "0"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("at most 0"), "{refused:?}");
    // The file is not watched, so nothing else reloads it.
    assert_eq!(process::watched_folders(site.proxy.pid()), 0);
    let status = site.proxy.command(&["status"]).await.done();
    assert!(status.contains("last reload rejected"), "{status}");
    site.assert_tunnel_open().await;
    site.reload_and_finish().await;
}

#[tokio::test]
async fn max_disconnects_of_the_configuration_limits_every_reload() {
    let mut site = costly("{ max_disconnects = 0 }").await;
    assert!(process::watched_folders(site.proxy.pid()) > 0);
    // The limit is for the file watch, a signal, and a command without a limit.
    let rejected = |line: &str| line.contains("would disconnect 1 session");
    site.proxy.wait_for_stderr("the rejected reload", rejected).await;
    site.proxy.hangup();
    site.proxy
        .wait_for_metric("both rejected reloads", RELOADS_REFUSED, |count| count >= 2.0)
        .await;
    assert_eq!(site.proxy.command(&["reload"]).await.code, 1);
    site.assert_tunnel_open().await;
    site.reload_and_finish().await;
}

#[tokio::test]
async fn sessions_are_listed_found_and_closed() {
    let node = Node::start("a").await;
    let proxy = Proxy::for_backends(&[node.backend.address]).await;
    assert_eq!(proxy.command(&["sessions"]).await.done(), "no sessions\n");
    let mut open = Raw::connect(proxy.web()).await;
    open.send(websocket::request("/chat", "")).await;
    assert_eq!(open.response().await.status(), 101);
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "h", "").await;
    let target = format!("app/{}", node.backend.address);
    let listed = rows(&proxy.command(&["sessions", &target]).await.done());
    assert_eq!(listed[0][..4], ["ID", "POOL", "BACKEND", "KIND"]);
    assert_eq!(listed.len(), 3, "{listed:?}");
    let folder = proxy.directory();
    let found = command(folder, &["sessions", "find", "-"], &session.sid, &[]).await.done();
    assert!(found.contains("polling") && !found.contains(&session.sid), "{found}");
    let unknown = proxy.command(&["sessions", "find", "unknown"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.out.starts_with("unknown session id\n-- process "), "{unknown:?}");
    let polling = listed.iter().find(|row| row[3] == "polling").unwrap();
    let closed = proxy.command(&["sessions", "close", &polling[0]]).await.done();
    assert_eq!(closed, format!("closed {}\n", polling[0]));
    proxy.command(&["sessions", "close", &polling[0]]).await.refused("");
    proxy.command(&["sessions", "unknown"]).await.refused("unknown");
    drop((client, open, node));
    proxy.finish().await;
}

#[tokio::test]
async fn explain_uses_the_state_of_the_running_process() {
    let node = Node::start("a").await;
    let proxy = Proxy::for_backends(&[node.backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "h", "").await;
    let url =
        format!("http://{}/socket.io/?EIO=4&transport=polling&sid={}", proxy.web(), session.sid);
    let words = ["explain", &url, "--client", "192.0.2.7", "--user-agent", "x"];
    let said = proxy.command(&words).await.done();
    let table = rows(&said);
    let value = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line[11..].to_owned()
    };
    assert_eq!((value("listener"), value("pool")), ("web".to_owned(), "app".to_owned()));
    assert_eq!(value("backend"), node.backend.address.to_string());
    assert_eq!(value("chosen by"), "sid", "{table:?}");
    assert!(!said.contains(&session.sid), "{said}");
    let json = proxy.command(&["explain", &url, "--json"]).await.json();
    assert_eq!(json["chosen_by"], "sid");
    proxy.command(&["explain", "nonsense url"]).await.refused("");
    drop((client, node));
    proxy.finish().await;
}
