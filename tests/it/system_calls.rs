//! System calls of the proxy for requests over kept-alive connections, as strace(1) records them.

use std::path::Path;

use crate::support::{
    Node, Raw, message,
    node::{handshake, poll_target},
    proxy::Setup,
    wait_for,
};

/// Counted requests of each kind.
const REQUESTS: usize = 50;

/// System calls for one request, on average. Rounded down, so that rare work does not count.
#[derive(Debug, PartialEq)]
struct SystemCalls {
    reads: usize,
    writes: usize,
    /// All but waiting for events.
    others: usize,
}

/// One read and one write on each side.
const LIMIT: SystemCalls = SystemCalls { reads: 2, writes: 2, others: 0 };

#[tokio::test]
async fn a_kept_alive_request_takes_two_reads_and_two_writes() {
    let node = Node::start("a").await;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[node.backend.address]).top("access_log", "\"off\"");
        settings.pool("reuse", "{ idle_timeout = \"1m\" }");
    });
    let file = setup.directory().join("calls");
    let wrapper = ["strace", "-D", "-f", "-s", "256", "-o", file.to_str().unwrap()];
    let setup = setup.env("TOKIO_WORKER_THREADS", "1").wrapped_in(&wrapper);
    let mut proxy = setup.start().await;

    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "0", "").await;
    let target = poll_target(&session.sid, "1");
    let kinds = [
        ("request", message::get("/", "")),
        ("poll", message::get(&target, "")),
        ("post", message::post(&target, "", "4hello")),
    ];
    for (kind, request) in &kinds {
        exchange(&mut client, &message::get(&format!("/begin-{kind}"), "")).await;
        for _ in 1..REQUESTS {
            exchange(&mut client, request).await;
        }
        exchange(&mut client, &message::get(&format!("/end-{kind}"), "")).await;
    }
    proxy.terminate();
    proxy.exited().await;
    for (kind, _) in &kinds {
        let calls = calls_between(&file, &format!("/begin-{kind}"), &format!("/end-{kind}")).await;
        assert_eq!(count(&calls), LIMIT, "{kind}: {:#?}", &calls[..calls.len().min(40)]);
    }
}

async fn exchange(client: &mut Raw, request: &[u8]) {
    client.send(request).await;
    let status = client.response().await.status();
    assert!([200, 400].contains(&status), "{status}");
}

/// The calls of the thread that reads both markers: after the read of `begin`, up to the read of `end`.
async fn calls_between(file: &Path, begin: &str, end: &str) -> Vec<String> {
    // strace writes the last lines after the process has ended.
    let text = wait_for("the end of strace's output", || {
        let text = std::fs::read_to_string(file).unwrap();
        text.contains(&format!("GET {end} ")).then_some(text)
    })
    .await;
    let is_read = |line: &str, marker: &str| {
        line.contains(&format!("\"GET {marker} ")) && line.contains("recv")
    };
    let first =
        text.lines().find(|line| is_read(line, begin)).expect("the proxy reads the request");
    let thread = first.split(' ').next().unwrap();
    let mut calls = Vec::new();
    let lines = text.lines().filter_map(|line| line.strip_prefix(thread)?.strip_prefix(' '));
    for line in lines.skip_while(|line| !is_read(line, begin)).skip(1) {
        // An interrupted call has a second line.
        if !line.contains(" resumed>") {
            calls.push(line.trim_start().to_owned());
        }
        if is_read(line, end) {
            break;
        }
    }
    calls
}

fn count(calls: &[String]) -> SystemCalls {
    let mut counts = SystemCalls { reads: 0, writes: 0, others: 0 };
    for call in calls {
        match call.split('(').next().unwrap() {
            "read" | "readv" | "recvfrom" | "recvmsg" => counts.reads += 1,
            "write" | "writev" | "sendto" | "sendmsg" => counts.writes += 1,
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => {}
            _ => counts.others += 1,
        }
    }
    SystemCalls {
        reads: counts.reads / REQUESTS,
        writes: counts.writes / REQUESTS,
        others: counts.others / REQUESTS,
    }
}
