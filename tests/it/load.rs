//! Runs of the load harness: the faults that it injects, and its report on the proxy in front.

mod deploy;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::process::Command;

use crate::support::{
    Backend, Proxy, backend,
    controlled::{ClientStatus, ControlledClients},
    eventually,
    harness::harness,
    load::{Demo, Load, LoadNodes, Report},
    message, process,
    proxy::Setup,
    wait_for, websocket, within,
};

/// A proxy that reads its backends from a file that has none yet.
struct Front {
    proxy: Proxy,
    list: PathBuf,
}

impl Front {
    async fn start() -> Self {
        Self::with("\"5m\"").await
    }

    /// A proxy that keeps the sessions of a removed backend for `drain`.
    async fn with(drain: &str) -> Self {
        let setup = Setup::new();
        let list = setup.directory().join("backends.txt");
        fs::write(&list, "# no backends yet\n").unwrap();
        let setup = setup.with(|settings| {
            settings.pool("backends", "{ file = \"backends.txt\" }").pool("drain", drain);
        });
        Self { proxy: setup.start().await, list }
    }

    fn url(&self) -> String {
        format!("http://{}", self.proxy.web())
    }

    /// Arguments of a run that starts nodes behind this proxy.
    fn words(&self, command: &str, more: &str) -> Vec<String> {
        let list = self.list.to_str().unwrap();
        let mut words = vec![command.to_owned(), self.url(), "--backends-file".into(), list.into()];
        words.extend(more.split_whitespace().map(str::to_owned));
        words
    }

    async fn run(&self, words: &[String]) -> Report {
        Load::run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Asserts that the run restored the list, and what every scenario asserts.
    async fn finish(self) {
        assert_eq!(fs::read_to_string(&self.list).unwrap(), "# no backends yet\n");
        self.proxy.finish().await;
    }
}

#[tokio::test]
async fn interrupted_deploy_loses_no_client_and_leaves_no_node() {
    let front = Front::start().await;
    let words = front.words(
        "deploy",
        "--nodes 2 --after 2s --drain 1m --pause 0 --hold 5m --clients 10 --ramp 100ms \
         --every 100ms",
    );
    let run = Load::start(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let two = || {
        let list = fs::read_to_string(&front.list).unwrap();
        (list.matches(':').count() == 2).then_some(list)
    };
    let before = wait_for("two nodes", two).await;
    eventually("the first old node drains", || two().is_some_and(|list| list != before)).await;
    let nodes = process::children(run.pid());
    assert_eq!(nodes.len(), 3);
    run.signal("INT");
    let report = run.ended().await;
    report.assert_unharmed();
    assert_eq!((report.total("finished"), report.total("node_gone")), (10, 0));
    assert_eq!(report.marks().last(), Some(&"interrupted"));
    assert!(nodes.into_iter().all(|node| !process::is_running(node)));
    front.finish().await;
}

#[tokio::test]
async fn nodes_do_not_outlive_a_run_that_is_killed() {
    let front = Front::start().await;
    let words = front.words("chaos", "--nodes 2 --do '' --clients 2 --ramp 0 --hold 5m");
    let mut words: Vec<_> = words.iter().map(String::as_str).collect();
    // One node is stopped meanwhile and does not read its standard input.
    let event = words.iter().position(|word| *word == "''").unwrap();
    words[event] = "0s hang 1 for 1m";
    let run = Load::start(&words);
    let mut nodes = Vec::new();
    eventually("a node hangs", || {
        nodes = process::children(run.pid());
        nodes.iter().any(|node| process::state(*node) == Some('T'))
    })
    .await;
    assert_eq!(nodes.len(), 2);
    run.signal("KILL");
    assert_eq!(run.ended().await.code, None);
    eventually("all nodes have ended", || nodes.iter().all(|node| !process::is_running(*node)))
        .await;
    drop(front);
}

#[tokio::test]
async fn faults_of_a_node_affect_only_its_clients() {
    let front = Front::start().await;
    let mut words = front.words(
        "chaos",
        "--nodes 3 --clients 30 --ramp 300ms --every 100ms --hold 5s --max-errors 0",
    );
    for event in ["500ms kill 1 back 1s", "1s hang 2 for 1s", "3s reset 0"] {
        words.extend(["--do".to_owned(), event.to_owned()]);
    }
    let report = front.run(&words).await;
    report.assert_unharmed();
    // Ten clients per node; those of the killed node had reconnected to the others before the reset.
    assert!(report.total("node_gone") >= 20, "{}", report.json["totals"]);
    assert_eq!(report.total("finished"), 30);
    // The clients that waited for the stopped node count (coordinated omission).
    let longest = report.json["latency"]["message"]["max_us"].as_u64().unwrap();
    assert!(longest > 500_000, "{longest} µs");
    let expected = [
        "node-1 is killed",
        "node-2 hangs",
        "node-1 is started again as node-1.2",
        "node-2 continues",
        "node-0 resets its connections",
    ];
    let mut marks = report.marks();
    // Two events are due at nearly the same time.
    marks.sort_unstable();
    let mut sorted = expected;
    sorted.sort_unstable();
    assert_eq!(marks, sorted);
    front.finish().await;
}

#[tokio::test]
async fn node_killed_by_another_program_is_an_error() {
    let nodes = LoadNodes::start(&["--nodes", "1", "--listen", "127.0.0.1:0"], 1);
    let url = format!("http://{}", nodes.listening[0].1);
    let words = "--client websocket --clients 10 --ramp 100ms --every 100ms --hold 1m \
        --no-reconnect --max-errors 5";
    let mut line = vec!["run", &url];
    line.extend(words.split_whitespace());
    let run = Load::shown(&line);
    run.says("clients 10 ").await;
    nodes.signal("KILL");
    let report = run.ended().await;
    assert_eq!(report.code, Some(1), "{}", report.stderr);
    assert_eq!(report.total("disconnects"), 10, "{}", report.json["errors"]);
    assert_eq!(report.errors("disconnect"), 10);
    assert_eq!(report.total("node_gone"), 0);
    // No client is left, so the run ends before the minute is over.
    assert_eq!(report.marks(), ["all clients have disconnected"]);
}

/// A script that upgrades each connection. The first one is the probe's; it closes each later one with the next
/// of these codes.
fn closing(codes: &'static [u16]) -> backend::Script {
    let count = Arc::new(AtomicUsize::new(0));
    backend::script(move |peer| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let Some(request) = peer.request().await else { return };
            let named = String::from_utf8(websocket::switching(&request)).unwrap();
            peer.send(named.replacen("\r\n", "\r\nX-Node: a\r\n", 1)).await;
            if let Some(code) = number.checked_sub(1).and_then(|number| codes.get(number)) {
                peer.send([&[0x88, 2][..], &code.to_be_bytes()].concat()).await;
            }
            // The client's Close, or its answer.
            peer.skip(8).await;
        }
    })
}

#[tokio::test]
async fn controlled_run_reports_moved_lost_and_connected_clients() {
    let server = Backend::start(closing(&[1012, 1001, 1001])).await;
    let mut command = Command::new(harness());
    command.arg("controlled").arg(format!("ws://{}", server.address));
    command.args("--client ws --clients 1 --silent --quiet".split(' '));
    let mut run = ControlledClients::start(&mut command);
    // Each loss is seen before the next one: a client reconnects after half a second.
    let moved = until(&mut run, |status| status.totals.moved == 1).await;
    assert_eq!((moved.totals.errors, moved.totals.disconnects), (0, 0), "{moved:?}");
    let lost = until(&mut run, |status| status.totals.disconnects == 1).await;
    assert_eq!((lost.of_kind("disconnect"), lost.totals.moved), (1, 1), "{lost:?}");
    run.command("down a").await;
    let there = until(&mut run, |status| status.totals.connects == 4).await;
    assert_eq!((there.totals.node_gone, there.totals.errors), (1, 1), "{there:?}");
    assert_eq!((there.connected, there.on("a")), (1, 1));
    run.stop().await;
    drop(server);
}

/// Waits until `is` holds for the status of a run.
async fn until(run: &mut ControlledClients, is: impl Fn(&ClientStatus) -> bool) -> ClientStatus {
    within("the expected status", async {
        loop {
            let status = run.status().await;
            if is(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn unknown_command_ends_a_controlled_run() {
    let server = Backend::start(closing(&[])).await;
    let url = format!("ws://{}", server.address);
    let mut command = std::process::Command::new(harness());
    command.args(["controlled", &url, "--client", "ws", "--clients", "1", "--silent", "--quiet"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(b"mark all is well\nleave\n").unwrap();
    let said = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let said = within("the run's end", said).await.unwrap();
    assert_eq!(said.status.code(), Some(2));
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(words.starts_with("unknown command \"leave\""), "{words}");
    drop(server);
}

#[tokio::test]
async fn herd_reconnects_to_the_demo() {
    let mut demo = Demo::start().await;
    // TLS is slow in a debug build on a busy machine: all clients must be connected before they drop.
    let words = "--insecure --silent --clients 10 --ramp 200ms --after 2s --times 2 \
        --drop-every 3s --within 200ms --hold 8s --max-errors 0 --max-disconnects 0";
    let mut line = vec!["herd", &demo.url];
    line.extend(words.split_whitespace());
    let report = Load::run(&line).await;
    report.assert_unharmed();
    assert_eq!((report.total("dropped"), report.total("connects")), (20, 30));
    assert_eq!(report.total("finished"), 10);
    assert_eq!(
        report.marks(),
        ["disconnecting all clients (1 of 2)", "disconnecting all clients (2 of 2)"]
    );
    assert!(demo.is_running());
}

#[tokio::test]
async fn backend_list_that_the_target_does_not_read_is_reported() {
    let foreign = Backend::start(backend::answering(|_| message::ok("hello"))).await;
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("backends.txt");
    let url = format!("http://{}", foreign.address);
    let words = ["deploy", &url, "--nodes", "1", "--backends-file", list.to_str().unwrap()];
    let report = Load::run(&words).await;
    assert_eq!(report.code, Some(2), "{}", report.stderr);
    assert!(report.stderr.contains("its replies have no X-Node header"), "{}", report.stderr);
    assert_eq!(report.stderr.lines().count(), 1, "{}", report.stderr);
    assert!(report.json.is_null());
}

#[tokio::test]
async fn run_without_answers_fails() {
    let nodes = LoadNodes::start(&["--nodes", "1", "--listen", "127.0.0.1:0"], 1);
    let url = format!("http://{}", nodes.listening[0].1);
    // An event that nodes broadcast but never acknowledge.
    let words = ["run", &url, "--event", "all", "--every", "100ms", "--clients", "3"];
    for client in ["websocket", "polling"] {
        for limit in [&["--max-errors", "0"][..], &[]] {
            let more = [&["--client", client, "--hold", "1s"], limit].concat();
            let report = Load::run(&[&words[..], &more].concat()).await;
            assert_eq!(report.code, Some(1), "{}", report.stderr);
            assert!(report.total("sent") > 0);
            assert_eq!(report.total("unanswered"), report.total("sent"));
            assert!(
                report.stderr.contains("give an event that the server answers"),
                "{}",
                report.stderr
            );
        }
    }
}

#[tokio::test]
async fn nodes_print_their_addresses_and_stop_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("backends.txt");
    let words = ["--nodes", "2", "--listen", "127.0.0.1:0", "--echo", "127.0.0.1:0"];
    let file = ["--backends-file", list.to_str().unwrap()];
    let mut nodes = LoadNodes::start(&[&words[..], &file].concat(), 3);
    let names: Vec<_> = nodes.listening.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["node-0", "node-1", "echo"]);
    let [first, second, echo] = [0, 1, 2].map(|at| nodes.listening[at].1);
    assert_eq!(fs::read_to_string(&list).unwrap(), format!("{first}\n{second}\n"));
    let url = format!("http://{second}");
    let echo = format!("ws://{echo}");
    for line in [["run", &url, "--eio", "3"], ["run", &echo, "--client", "ws"]] {
        let more = ["--clients", "5", "--every", "50ms", "--messages", "3"];
        let report = Load::run(&[&line[..], &more].concat()).await;
        report.assert_unharmed();
        assert_eq!((report.total("finished"), report.total("answered")), (5, 15));
    }
    nodes.signal("TERM");
    assert_eq!(nodes.ended().await, Some(0));
}
