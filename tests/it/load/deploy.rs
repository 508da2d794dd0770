//! Rolling deploys: which clients count as moved or lost, and the warning on a drain that is too long.

use std::{fs, time::Duration};

use super::Front;
use crate::support::load::Load;

/// 30 clients that send messages, and a deploy of two nodes in a few seconds.
const DEPLOY: &str = "--nodes 2 --after 500ms --drain 2s --pause 200ms --hold 9s \
    --clients 30 --ramp 300ms --every 100ms --max-errors 0 --max-code1 0 --max-disconnects 0";

/// A drain of the pool that is shorter than that of the deploy.
const SHORT: &str = "{ within = \"1s\", spread = \"600ms\" }";

#[tokio::test]
async fn deploy_passes_when_the_proxy_moves_all_clients() {
    let front = Front::with(SHORT).await;
    let report = front.run(&front.words("deploy", DEPLOY)).await;
    report.assert_unharmed();
    // Each client was on one of the two nodes, and was moved.
    assert!(report.total("moved") >= 30, "{}", report.json["totals"]);
    assert_eq!((report.total("node_gone"), report.total("undrained")), (0, 0));
    assert_eq!(report.total("finished"), 30);
    assert!(report.total("answered") > 30);
    assert!(report.sessions("node-0") > 0 && report.sessions("node-1") > 0);
    assert!(report.sessions("node-0.2") > 0, "{}", report.json["nodes"]);
    let expected = [
        "replacing node-0 (1 of 2)",
        "draining node-0",
        "stopping node-0",
        "replacing node-1 (2 of 2)",
        "draining node-1",
        "stopping node-1",
        "all nodes replaced",
    ];
    assert_eq!(report.marks(), expected);
    front.finish().await;
}

#[tokio::test]
async fn polling_clients_that_the_proxy_asks_to_reconnect_count_as_moved() {
    let front = Front::with("{ within = \"1500ms\", spread = \"1500ms\" }").await;
    let report = front.run(&front.words("deploy", &format!("{DEPLOY} --client polling"))).await;
    // A client that polls only after the deadline reaches another node, which is not a move.
    assert!(report.total("moved") > 0, "{}", report.json["totals"]);
    assert_eq!((report.total("node_gone"), report.total("undrained")), (0, 0));
    assert_eq!(report.errors("code1"), report.total("disconnects"), "{}", report.json["errors"]);
    assert_eq!(report.total("disconnects"), report.total("misrouted"));
    assert_eq!(report.total("finished"), 30);
    front.finish().await;
}

#[tokio::test]
async fn deploy_fails_when_clients_are_lost_with_a_drained_node() {
    for client in ["polling-upgrade", "polling"] {
        // The proxy drains for five minutes, but the deploy waits only half a second.
        let front = Front::start().await;
        let socket = front.proxy.socket();
        let flags = format!("{DEPLOY} --client {client} --socket {}", socket.display());
        let report = front.run(&front.words("deploy", &flags.replace("2s", "500ms"))).await;
        assert_eq!(report.code, Some(1), "{}", report.stderr);
        let lost = report.total("undrained");
        assert!(lost >= 30, "{client}: {}", report.json["totals"]);
        assert_eq!(report.total("disconnects"), lost, "{}", report.json["errors"]);
        assert_eq!(report.errors("disconnect"), lost, "{}", report.json["errors"]);
        assert_eq!(report.errors("code1"), 0, "{}", report.json["errors"]);
        let verdict =
            format!("{lost} clients were still connected to a node at the end of its drain");
        assert!(report.stderr.contains(&verdict), "{}", report.stderr);
        let warning = "--drain is 500ms, but pool app of the Moorline on ";
        assert!(report.stderr.contains(warning), "{}", report.stderr);
        assert!(report.stderr.contains(" drains for 5m: "), "{}", report.stderr);
        assert!(report.marks().iter().any(|mark| mark.contains(warning)), "{:?}", report.marks());
        assert!(report.marks().iter().any(|mark| mark.ends_with(" clients still connected")));
        front.finish().await;
    }
}

#[tokio::test]
async fn deploy_does_not_warn_when_its_drain_is_long_enough() {
    let front = Front::with("\"1s\"").await;
    let socket = front.proxy.socket();
    let words = "--nodes 1 --after 0s --drain 1s --pause 0s --hold 2s --clients 1 --ramp 0s";
    let words = format!("{words} --socket {}", socket.display());
    let report = front.run(&front.words("deploy", &words)).await;
    assert!(!report.stderr.contains("warning"), "{}", report.stderr);
    front.finish().await;
}

#[tokio::test]
async fn deploy_names_an_admin_socket_that_does_not_answer() {
    let front = Front::start().await;
    let words = front.words("deploy", "--nodes 1 --clients 1 --socket /nowhere.sock");
    let report = front.run(&words).await;
    assert_eq!(report.code, Some(2), "{}", report.stderr);
    let said = "--socket /nowhere.sock: no admin API answers: ";
    assert!(report.stderr.starts_with(said), "{}", report.stderr);
    front.finish().await;
}

#[tokio::test]
async fn documented_deploy_passes_as_written() {
    let page = fs::read_to_string("docs/reference/load.md").unwrap();
    let (_, rest) = page.split_once("# the pool of the deploy below\n").unwrap();
    let pool = rest.split("```").next().unwrap();
    let value = |key: &str| {
        let line = pool.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
        line.split(" #").next().unwrap().trim().to_owned()
    };
    let (_, rest) = page.split_once("moorline-load deploy http://127.0.0.1:8080 ").unwrap();
    let command = rest.split("moorline-load").next().unwrap().replace("\\\n", " ");
    let front = Front::with(&value("drain")).await;
    assert_eq!(value("backends"), "{ file = \"backends.txt\" }");
    let command = command.replace("\"$(pidof moorline)\"", &front.proxy.pid().to_string());
    let command = command.replace("--backends-file backends.txt", "");
    let words = front.words("deploy", &command);
    let run = Load::start(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let report = run.ended_within(Duration::from_secs(120)).await;
    report.assert_unharmed();
    // Each client was on one of the nodes, and was moved at least once.
    assert!(report.total("moved") >= 300, "{}", report.json["totals"]);
    assert_eq!((report.total("undrained"), report.total("finished")), (0, 300));
    front.finish().await;
}

#[tokio::test]
async fn sessions_that_end_while_their_node_drains_are_not_lost() {
    let front = Front::start().await;
    let words = front.words(
        "deploy",
        "--nodes 2 --after 500ms --drain 2s --pause 0 --hold 5s --client websocket --clients 20 \
         --ramp 300ms --every 50ms --messages 4 --repeat",
    );
    let report = front.run(&words).await;
    report.assert_unharmed();
    assert_eq!(report.total("node_gone"), 0, "{}", report.json["totals"]);
    // A session takes about a quarter of a second, and new ones do not use an old node.
    assert!(report.total("finished") > 60, "{}", report.json["totals"]);
    assert!(report.sessions("node-1.2") > 0, "{}", report.json["nodes"]);
    front.finish().await;
}

#[tokio::test]
async fn proxy_that_cuts_the_sessions_of_a_removed_backend_fails_the_deploy() {
    let front = Front::with("\"0s\"").await;
    let report = front.run(&front.words("deploy", DEPLOY)).await;
    assert_eq!(report.code, Some(1), "{}", report.stderr);
    assert!(report.total("disconnects") > 0, "{}", report.json["totals"]);
    assert!(report.stderr.contains("disconnects"), "{}", report.stderr);
    front.finish().await;
}
