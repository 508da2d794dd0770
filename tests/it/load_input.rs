//! What `moorline-load` says to bad input: one sentence on standard error, exit code 2, at once.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
};

use crate::support::{Backend, Proxy, harness::harness, message, proxy::Setup};

/// Runs the harness with these words; a run that it does begin is as short as can be.
async fn load(words: &[&str]) -> Output {
    let mut command = Command::new(harness());
    command.args(words);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// What it said, where it said one sentence and ended with exit code 2.
async fn refused(words: &[&str]) -> String {
    sentence(&load(words).await)
}

fn sentence(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    said
}

/// A target that answers every request with a 404 of its own.
async fn no_socket_io() -> Backend {
    Backend::answering(|_| message::reply("404 Not Found", "", "no such page")).await
}

#[tokio::test]
async fn a_target_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for client in ["polling-upgrade", "websocket", "ws", "http", "connect"] {
        let said = refused(&["run", &url, "--client", client]).await;
        assert_eq!(
            said,
            format!("{url}: nothing listens on {free}; start the server, or check the URL"),
            "{client}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_no_socket_io_server_and_a_wrong_path() {
    let server = no_socket_io().await;
    let url = format!("http://{}/chat/", server.address);
    for client in ["polling-upgrade", "polling", "websocket"] {
        let said = refused(&["run", &url, "--client", client]).await;
        assert!(said.starts_with(&format!("{url}: ")), "{said}");
        assert!(said.contains("/chat/") && said.contains("404"), "{client}: {said}");
    }
    let said = refused(&["run", &url, "--client", "http"]).await;
    assert!(said.contains("404 Not Found"), "{said}");
    let said = refused(&["run", &url, "--client", "ws"]).await;
    assert!(said.contains("404 Not Found"), "{said}");
}

#[tokio::test]
async fn tls_spoken_to_a_plain_port_and_the_reverse() {
    let backend = no_socket_io().await;
    let (proxy, _) = Proxy::plain_and_secure(backend.address).await;
    let (plain, secure) = (proxy.web(), proxy.listener("secure"));

    let url = format!("https://{plain}");
    let said = refused(&["run", &url]).await;
    assert_eq!(said, format!("{url}: the server does not speak TLS"));
    let url = format!("http://{secure}");
    let said = refused(&["run", &url]).await;
    assert!(said.contains("TLS"), "{said}");
}

#[tokio::test]
async fn certificate_that_is_not_trusted_names_what_to_do() {
    let backend = no_socket_io().await;
    for (extension, reason) in [
        ("basicConstraints=critical,CA:TRUE", "it is an authority's own certificate"),
        ("basicConstraints=critical,CA:FALSE", "it is self-signed, or signed by an authority"),
    ] {
        let (proxy, cert) = self_signed_before(&backend, extension).await;
        let port = proxy.listener("secure").port();
        let url = format!("https://localhost:{port}");
        let said = refused(&["run", &url]).await;
        assert!(
            said.starts_with(&format!("{url}: the server's certificate is not trusted: {reason}")),
            "{said}"
        );
        assert!(said.contains("--ca") && said.contains("--insecure"), "{said}");
        // Both ways work: what answers is no Socket.IO server.
        for way in [&["--insecure"][..], &["--ca", cert.to_str().unwrap()]] {
            let said = refused(&[&["run", &url], way].concat()).await;
            assert!(said.contains("404"), "{extension} {way:?}: {said}");
        }
        let elsewhere = format!("https://127.0.0.1:{port}");
        let said = refused(&["run", &elsewhere, "--ca", cert.to_str().unwrap()]).await;
        assert!(said.contains("it is for another name than the URL's"), "{said}");
        proxy.finish().await;
    }
}

/// A proxy with a certificate for `localhost` as `openssl req -x509` makes it, and the certificate's file.
async fn self_signed_before(backend: &Backend, extension: &str) -> (Proxy, PathBuf) {
    let setup = Setup::new();
    let (cert, key) = (setup.directory().join("own.pem"), setup.directory().join("own.key"));
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    command.args(["-subj", "/CN=no known authority", "-addext", "subjectAltName=DNS:localhost"]);
    command.args(["-addext", extension]).arg("-out").arg(&cert).arg("-keyout").arg(&key);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let proxy = setup.with(|settings| {
        settings.backends(&[backend.address]);
        settings.table(&format!(
            "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
             certificates = [{{ cert = {cert:?}, key = {key:?} }}]\n"
        ));
    });
    (proxy.start().await, cert)
}

#[tokio::test]
async fn limit_on_misrouted_answers_needs_nodes_that_tell_their_names() {
    let open = r#"0{"sid":"abc","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
    let server = Backend::answering(move |request| {
        let (head, path) = (request.method(), request.target());
        match (head, path.contains("sid=")) {
            ("GET", false) => message::ok(open),
            ("GET", true) => message::ok("40{\"sid\":\"s\"}"),
            _ => message::ok("ok"),
        }
    })
    .await;
    let url = format!("http://{}", server.address);
    let words = ["run", &url, "--client", "polling", "--max-misrouted", "0", "--clients", "1"];
    let said = refused(&words).await;
    let expected =
        format!("{url}: max-misrouted cannot be judged: the nodes do not tell their names");
    assert!(said.starts_with(&expected), "{said}");
}

#[tokio::test]
async fn a_server_that_never_answers() {
    // The kernel takes connections, and nobody reads them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let said = refused(&["run", &url, "--timeout", "200ms"]).await;
    assert_eq!(said, format!("{url}: no Socket.IO session within 200ms"));
}

#[tokio::test]
async fn flags_that_make_no_sense() {
    for (words, part) in [
        (&["run"][..], "no target; give a URL"),
        (&["run", "localhost:1"], "did you mean http://localhost:1"),
        (&["run", "http://127.0.0.1:1", "--clients", "0"], "invalid value 0 for clients"),
        (&["run", "http://127.0.0.1:1", "--repeat"], "repeat needs messages"),
        (&["herd", "http://127.0.0.1:1", "--hold", "1s"], "what is to happen takes 5s"),
        (&["deploy", "http://127.0.0.1:1"], "no backends-file"),
        (&["chaos", "http://127.0.0.1:1", "--backends-file", "x"], "no events; give some"),
        (&["run", "https://127.0.0.1:1", "--ca", "/nowhere.pem"], "/nowhere.pem"),
        (&["run", "http://127.0.0.1:1", "--json", "/nowhere/x"], "/nowhere/x cannot be written"),
        (&["run", "http://127.0.0.1:1", "--cost-of", "4194305"], "no process 4194305"),
        (&["run", "--file", "/nowhere.toml"], "cannot read the scenario file /nowhere.toml"),
    ] {
        let said = refused(words).await;
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn documented_scenario_file_is_valid() {
    let page = fs::read_to_string("docs/reference/load.md").unwrap();
    let (_, rest) = page.split_once("# smoke.toml").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, format!("#{}", rest.split("```").next().unwrap())).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let said = refused(&["run", &url, "--file", file.path().to_str().unwrap()]).await;
    assert_eq!(
        said,
        format!("{url}: nothing listens on {free}; start the server, or check the URL")
    );
}

#[tokio::test]
async fn a_refused_run_leaves_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&["run", &format!("http://{free}"), "--html", page.to_str().unwrap()]).await;
    assert!(!page.exists());
}

#[tokio::test]
async fn a_bad_scenario_file_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("smoke.toml");
    let shown = file.to_str().unwrap();
    for (text, place, part) in [
        ("url = 'http://127.0.0.1:1'\nclints = 5", ":2:1: ", "clints"),
        ("every = 5s", ":1:", ""),
        ("[deploy]\ndrain = 'soon'", ":2:9: ", "invalid duration soon"),
    ] {
        fs::write(&file, text).unwrap();
        let said = refused(&["run", "--file", shown]).await;
        assert!(said.starts_with(&format!("{shown}{place}")) && said.contains(part), "{said}");
    }
}

#[tokio::test]
async fn too_few_descriptors_are_told_with_the_number_that_fits() {
    let server = no_socket_io().await;
    let program = harness().display();
    let url = format!("http://{}", server.address);
    let line = format!("ulimit -n 100; exec {program} run {url} --client ws --clients 500");
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = sentence(&output);
    assert!(said.contains("500") && said.contains("descriptors"), "{said}");
    let fits = said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    assert!(fits.clone().any(|n| (20..100).contains(&n)), "no number that would fit: {said}");
    server.assert_untouched();
}
