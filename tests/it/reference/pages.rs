//! Reference pages that are written by hand, compared with the program.

use std::{collections::BTreeSet, fs};

use crate::support::{
    Backend, Node, Proxy, Raw, Refusing,
    admin::command,
    load::{Load, LoadNodes},
    message::get,
    node::handshake,
    openssl::file,
    tls::Certificate,
};

/// Returns the cells of the first table after a heading, without its two head rows.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(page).unwrap();
    let (_, rest) = text.split_once(heading).unwrap();
    let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// Exit codes of `moorline run`, `proxy` and `demo`.
async fn server_codes() -> Vec<Option<i32>> {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    proxy.terminate();
    let mut codes = vec![proxy.exited().await.code()];
    let folder = tempfile::tempdir().unwrap();
    for words in [["run", "missing.toml"], ["run", "--unknown-flag"]] {
        codes.push(Some(command(folder.path(), &words, "", &[]).await.code));
    }
    codes
}

/// Exit codes of `check`, `sessions find` and other commands.
async fn command_codes() -> [Vec<Option<i32>>; 3] {
    let node = Node::start("a").await;
    let proxy = Proxy::for_backends(&[node.backend.address]).await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "h", "").await;
    let runs: [[&[&str]; 3]; 3] = [
        [&["check", "moorline.toml"], &["check", "missing.toml"], &["check", "--unknown-flag"]],
        [&["sessions", "find", "-"], &["sessions", "find", "unknown"], &["sessions", "find"]],
        [&["status"], &["drain", "app/unknown"], &["drain"]],
    ];
    let mut codes = [Vec::new(), Vec::new(), Vec::new()];
    for (runs, codes) in runs.iter().zip(&mut codes) {
        for words in runs {
            let ran = command(proxy.directory(), words, &session.sid, &[]).await;
            codes.push(Some(ran.code));
        }
    }
    drop((client, node));
    proxy.finish().await;
    codes
}

/// Exit codes of `moorline-load`.
async fn load_codes() -> Vec<Option<i32>> {
    let nodes = LoadNodes::start(&["--nodes", "1", "--listen", "127.0.0.1:0"], 1);
    let url = format!("http://{}", nodes.listening[0].1);
    let run = ["run", &url, "--clients", "1", "--every", "100ms", "--hold", "1s"];
    let mut codes = Vec::new();
    // No node acknowledges the event `all`.
    for more in [&[][..], &["--event", "all"], &["--unknown-flag"]] {
        codes.push(Load::run(&[&run[..], more].concat()).await.code);
    }
    codes
}

#[tokio::test]
async fn exit_codes_are_those_of_real_runs() {
    let [check, find, others] = command_codes().await;
    let programs = [
        ("`moorline run`, `proxy`, `demo`", server_codes().await),
        ("`moorline check`", check),
        ("`moorline sessions find`", find),
        ("All other commands", others),
        ("`moorline-load`", load_codes().await),
    ];
    let mut actual = Vec::new();
    for (program, codes) in programs {
        let codes = codes.into_iter().map(|code| code.unwrap().to_string());
        actual.extend(codes.map(|code| (program.to_owned(), code)));
    }
    let mut listed: Vec<(String, String)> = Vec::new();
    for row in table("docs/reference/exit-codes.md", "# Exit codes") {
        let program = match (row[0].is_empty(), listed.last()) {
            (true, Some((program, _))) => program.clone(),
            _ => row[0].clone(),
        };
        listed.push((program, row[1].clone()));
    }
    assert_eq!(listed, actual);
}

#[tokio::test]
async fn access_log_fields_are_those_of_real_lines() {
    let backend = Backend::replying("ok").await;
    let refusing = Refusing::new();
    let certificates =
        format!("[{{ cert = {:?}, key = {:?} }}]", file("signed.pem"), file("signed.key"));
    let tls = format!("{{ client_auth = {{ ca = {:?} }} }}", file("ca.pem"));
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).listener("protocol", "\"https\"");
        settings.listener("certificates", &certificates).listener("tls", &tls);
        settings.host("closed.test", "closed", &[refusing.address()]);
    })
    .await;
    let client = Certificate::read(&file("client.pem"), &file("client.key"), "a client")
        .authenticating_client(&file("ca.pem"), "localhost");
    let mut connection = Raw::over(client.connect(proxy.web()).await);
    connection.send(get("/", "")).await;
    assert_eq!(connection.response().await.status(), 200);
    // A failure has an `error`.
    connection.send("GET /failed HTTP/1.1\r\nHost: closed.test\r\n\r\n").await;
    assert_eq!(connection.response().await.status(), 502);
    proxy.wait_for_log("the failed request", |line| line["path"] == "/failed").await;
    let written: BTreeSet<String> = proxy
        .log_lines()
        .iter()
        .flat_map(|line| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>())
        .collect();
    let rows = table("docs/reference/access-log.md", "## Fields");
    let listed: BTreeSet<String> =
        rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(listed, written);
    drop((connection, backend, refusing));
    proxy.finish().await;
}
