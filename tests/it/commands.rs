//! The command line against a running proxy: what it prints, how it exits, and what it says where
//! there is nobody to speak to.

use std::{ffi::OsStr, fs};

use serde_json::Value;

use crate::support::{
    Backend, Node, Peer, Proxy, Raw,
    admin::command,
    message::get,
    node::handshake,
    process,
    proxy::{RELOADS_REFUSED, Setup, message_after},
    websocket::{self, tunnel},
};

/// The cells of a printed table's rows, columns being two blanks or more apart.
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
    // A pipe gets neither colours nor blanks at the end of a line.
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
async fn backends_are_added_weighed_and_removed() {
    let (first, second) = (Backend::replying("a").await, Backend::replying("b").await);
    let mut proxy = Proxy::for_backends(&[first.address]).await;
    let address = second.address.to_string();
    let add = ["backends", "add", "app", &address, "--name", "extra", "--weight", "2"];
    assert_eq!(proxy.command(&add).await.done(), "app/extra is added, until restart\n");
    proxy.command(&add).await.refused("extra");
    let weight = proxy.command(&["backends", "weight", "app", "extra", "5", "--json"]).await;
    assert_eq!(weight.json()["weight"], 5);
    let listed = proxy.command(&["backends"]).await.done();
    assert!(listed.contains(&format!("at {address}; added by order, until restart")), "{listed}");
    assert_eq!(proxy.command(&["backends", "weight", "app", "extra", "0"]).await.code, 2);
    proxy.command(&["backends", "weight", "app", "none", "2"]).await.refused("none");
    let named = first.address.to_string();
    proxy.command(&["backends", "remove", "app", &named]).await.refused("drain it instead");
    let removed = proxy.command(&["backends", "remove", "app", "extra"]).await.done();
    assert!(removed.starts_with("app/extra is removed"), "{removed}");
    proxy.wait_for_baseline().await;
    drop((first, second));
    proxy.finish().await;
}

#[tokio::test]
async fn a_drain_is_ordered_once_and_ended() {
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
    // Words that make no sense never reach the process.
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
async fn a_drain_is_waited_for_until_its_backend_is_empty() {
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
async fn by_is_the_clock_of_who_types() {
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
async fn plans_tell_and_reloads_do() {
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
    // Another list of backends costs the one who is connected.
    let mut wanted = proxy.settings.clone();
    wanted.backends(&[other.address]);
    fs::write(proxy.directory().join("new.toml"), wanted.text()).unwrap();
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
    // Nothing has changed by all that.
    open.send("still").await;
    far.wait_for_rest(b"still").await;
    drop(open);
    far.close();
    proxy.wait_for_baseline().await;
    drop((backend, other));
    proxy.finish().await;
}

/// A proxy whose file, since it was read by these `reload` terms, names another backend than the one
/// that holds a tunnel.
async fn costly(terms: &str) -> Costly {
    let (backend, other) = (Backend::manual().await, Backend::replying("other").await);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("drain", "\"1h\"").top("reload", terms);
    })
    .await;
    let (open, far) = tunnel(&proxy, &backend).await;
    proxy.rewrite(|settings| {
        settings.backends(&[other.address]);
    });
    Costly { proxy, backend, other, open, far }
}

struct Costly {
    proxy: Proxy,
    backend: Backend,
    other: Backend,
    open: Raw,
    far: Peer,
}

impl Costly {
    /// The tunnel has noticed nothing.
    async fn assert_unharmed(&mut self) {
        self.open.send("still").await;
        self.far.wait_for_rest(b"still").await;
    }

    /// Puts the file in force, at its price, and ends.
    async fn pay(mut self) {
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
async fn a_reload_that_costs_too_much_is_refused() {
    let mut site = costly("{ watch = false }").await;
    let refused = site.proxy.command(&["reload", "--max-disconnects", "0"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("at most 0"), "{refused:?}");
    // Nobody looks at the file who would put it in force all the same.
    assert_eq!(process::watched_folders(site.proxy.pid()), 0);
    let told = site.proxy.command(&["status"]).await.done();
    assert!(told.contains("refused"), "{told}");
    site.assert_unharmed().await;
    site.pay().await;
}

#[tokio::test]
async fn a_configuration_limits_what_its_successor_costs() {
    let mut site = costly("{ max_disconnects = 0 }").await;
    assert!(process::watched_folders(site.proxy.pid()) > 0);
    // Whether the watch over the file asks, a signal, or a command that names no limit.
    let told = |line: &str| line.contains("would disconnect 1 session");
    site.proxy.wait_for_stderr("the refusal", told).await;
    site.proxy.hangup();
    site.proxy.wait_for_metric("both refusals", RELOADS_REFUSED, |count| count >= 2.0).await;
    assert_eq!(site.proxy.command(&["reload"]).await.code, 1);
    site.assert_unharmed().await;
    site.pay().await;
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
    let nobody = proxy.command(&["sessions", "find", "nobody"]).await;
    assert_eq!(nobody.code, 1);
    assert!(nobody.out.starts_with("no pool knows it\n-- process "), "{nobody:?}");
    let polling = listed.iter().find(|row| row[3] == "polling").unwrap();
    let closed = proxy.command(&["sessions", "close", &polling[0]]).await.done();
    assert_eq!(closed, format!("{} is closed\n", polling[0]));
    proxy.command(&["sessions", "close", &polling[0]]).await.refused("");
    proxy.command(&["sessions", "unknown"]).await.refused("unknown");
    drop((client, open, node));
    proxy.finish().await;
}

#[tokio::test]
async fn explanations_are_the_process_own() {
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

#[tokio::test]
async fn where_nobody_is_one_sentence_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let ran = command(folder.path(), &["status"], "", &[]).await;
    let here = folder.path().join("moorline.sock").display().to_string();
    // Where the runtime folder is set, no other place is asked.
    assert_eq!((ran.code, ran.err.trim_end().lines().count()), (1, 1), "{ran:?}");
    assert!(ran.err.contains(&here) && ran.err.contains("--socket"), "{ran:?}");
    let named = command(folder.path(), &["status", "--socket", "none.sock"], "", &[]).await;
    named.refused("there is no socket none.sock");
    let env = [("MOORLINE_SOCKET", OsStr::new("other.sock"))];
    let named = command(folder.path(), &["status"], "", &env).await;
    named.refused("there is no socket other.sock");
    fs::write(folder.path().join("file"), "").unwrap();
    let file = command(folder.path(), &["status", "--socket", "file"], "", &[]).await;
    file.refused("no process listens on file");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let dead = command(folder.path(), &["status", "--socket", "dead.sock"], "", &[]).await;
    dead.refused("has ended");
    let url = ["status", "--api", "http://127.0.0.1:1"];
    let ran = command(folder.path(), &url, "", &[]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let token = [("MOORLINE_TOKEN", OsStr::new("xxxxxxxxxxxxxxxx"))];
    command(folder.path(), &url, "", &token).await.refused("cannot connect to 127.0.0.1:1");
}

#[tokio::test]
async fn every_answer_names_the_process_its_file_and_its_socket() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let (pid, file, socket) = (proxy.pid(), proxy.file(), proxy.socket());
    let line = format!("-- process {pid}, {}, {}\n", file.display(), socket.display());
    for words in
        [&["status"][..], &["backends"], &["plan"], &["sessions"], &["config"], &["reload"]]
    {
        let ran = proxy.command(words).await;
        assert!(ran.out.ends_with(&line) && ran.code == 0, "{ran:?}");
        let json = proxy.command(&[words, &["--json"]].concat()).await.json();
        let whose = &json["process"];
        assert_eq!(
            (&whose["pid"], &whose["at"]),
            (&pid.into(), &socket.display().to_string().into())
        );
        assert_eq!(whose["config"], file.display().to_string());
    }
    let refused = proxy.command(&["drain", "app/unknown"]).await;
    assert!(refused.err.ends_with(&line), "{refused:?}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_proxy_from_flags_takes_its_socket_by_a_flag() {
    let backend = Backend::replying("ok").await;
    let address = backend.address.to_string();
    let setup = Setup::new();
    let socket = setup.directory().join("own.sock").display().to_string();
    let words =
        ["proxy", "--backend", &address, "--listen", "127.0.0.1:0", "--admin-socket", &socket];
    let proxy = setup.arguments(&words).run().await;
    // Without its own socket in the runtime folder, it is not found by chance.
    proxy.command(&["status"]).await.refused("no running Moorline");
    let ran = proxy.command(&["status", "--socket", &socket]).await;
    let whose = format!("-- process {}, no configuration file, {socket}\n", proxy.pid());
    assert!(ran.out.ends_with(&whose), "{ran:?}");
    assert!(proxy.stderr_text().contains("configuration from flags"), "{}", proxy.stderr_text());
    drop(backend);
}

#[tokio::test]
async fn flags_that_are_wrong_say_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    for (words, advice) in [
        (&["proxy", "--backend", "22001"][..], "\"127.0.0.1:22001\""),
        (&["proxy", "--backend", "a:1", "--listen", "22300"], "\"127.0.0.1:22300\""),
        (&["proxy", "--backend", "http://a:1"], "\"a:1\""),
        (&["proxy", "--backend", "a:1,b"], "\"b:3000\""),
        (&["proxy", "--backend", "a:1", "--metrics", "9090"], "\"127.0.0.1:9090\""),
        (&["demo", "--listen", "localhost:80"], "\"127.0.0.1:80\""),
    ] {
        let ran = command(folder.path(), words, "", &[]).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(advice), "{words:?}: {ran:?}");
    }
}

#[tokio::test]
async fn version_and_help_are_commands_too() {
    let folder = tempfile::tempdir().unwrap();
    let version = command(folder.path(), &["version"], "", &[]).await.done();
    let expected = format!("moorline {}", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected) && version.contains("\nfeatures: demo\n"), "{version}");
    let flag = command(folder.path(), &["--version"], "", &[]).await.done();
    assert_eq!(flag, version);
    let short = command(folder.path(), &["-V"], "", &[]).await.done();
    assert_eq!(short, format!("{expected}\n"));
    for words in [&["help"][..], &["help", "--help"], &["help", "help"]] {
        let help = command(folder.path(), words, "", &[]).await.done();
        assert!(help.contains("Usage:"), "{words:?}: {help}");
    }
    let drain = command(folder.path(), &["help", "backends", "add"], "", &[]).await.done();
    assert!(drain.contains("Usage: moorline backends add"), "{drain}");
    command(folder.path(), &["help", "nothing"], "", &[]).await.refused("no command `nothing`");
}

#[tokio::test]
async fn the_token_comes_from_the_environment_or_a_file() {
    let backend = Backend::replying("ok").await;
    let token = "a-token-for-tests-that-is-long-enough";
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).top(
            "admin",
            "{ metrics = \"127.0.0.1:0\", listen = \"127.0.0.1:0\", token = { file = \"token\" } }",
        );
    });
    fs::write(setup.directory().join("token"), token).unwrap();
    let proxy = setup.start().await;
    let lines = proxy.stderr();
    let url = lines.iter().find_map(|line| message_after(line, "admin API on http")).unwrap();
    let url = format!("http{url}");
    let words = ["status", "--json", "--api", &url];
    let status = proxy.command(&[&words[..], &["--token-file", "token"]].concat()).await;
    assert_eq!(status.json()["pid"], proxy.pid());
    let env = [("MOORLINE_TOKEN", OsStr::new(token))];
    let status = command(proxy.directory(), &words, "", &env).await;
    assert_eq!(status.json()["pid"], proxy.pid());
    proxy.command(&words).await.refused("MOORLINE_TOKEN");
    let env = [("MOORLINE_TOKEN", OsStr::new("another-token-of-good-length"))];
    let wrong = command(proxy.directory(), &words, "", &env).await;
    assert!(!wrong.err.contains("another-token"), "{wrong:?}");
    wrong.refused("wrong token; use the one that `admin.token`");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn what_a_server_says_cannot_steer_the_terminal() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let evil = "x\u{1b}[2J\u{9b}31m\u{202e}";
    for words in [&["drain", evil][..], &["drain", evil, "--json"], &["sessions", "close", evil]] {
        let ran = proxy.command(words).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        let all = format!("{}{}", ran.out, ran.err);
        let stray = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!all.contains(stray), "{all:?}");
    }
    assert_eq!(Raw::ask(proxy.web(), get("/", "Connection: close\r\n")).await.text(), "ok");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn each_subcommand_helps_with_examples() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "status", "backends", "drain", "undrain", "reload", "plan", "sessions", "explain",
        "config", "upgrade",
    ] {
        let ran = command(folder.path(), &[name, "--help"], "", &[]).await;
        let help = ran.done();
        assert!(help.contains(&format!("Examples:\n  moorline {name}")), "{help}");
        assert!(help.contains("--socket") && help.contains("--json"), "{help}");
    }
}
