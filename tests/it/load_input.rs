//! Invalid input of `moorline-load`: one line on standard error and exit code 2, at once.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use crate::support::{Backend, Proxy, Refusing, harness::harness, message, proxy::Setup};

/// Runs the harness with these arguments.
async fn load(words: &[&str]) -> Output {
    let mut command = Command::new(harness());
    command.args(words);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs the harness, asserts one line of error and exit code 2, and returns the line.
async fn rejected(words: &[&str]) -> String {
    error_line(&load(words).await)
}

fn error_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    said
}

/// A target that answers every request with a 404.
async fn server_without_socket_io() -> Backend {
    Backend::answering(|_| message::reply("404 Not Found", "", "no such page")).await
}

#[tokio::test]
async fn target_without_a_listener_is_reported() {
    let refusing = Refusing::new();
    let free = refusing.address();
    let url = format!("http://{free}");
    for client in ["polling-upgrade", "websocket", "ws", "http", "connect"] {
        let said = rejected(&["run", &url, "--client", client]).await;
        assert_eq!(
            said,
            format!("{url}: nothing listens on {free}: start the server, or check the URL"),
            "{client}"
        );
    }
}

#[tokio::test]
async fn target_without_socket_io_is_reported() {
    let server = server_without_socket_io().await;
    let url = format!("http://{}/chat/", server.address);
    for client in ["polling-upgrade", "polling", "websocket"] {
        let said = rejected(&["run", &url, "--client", client]).await;
        assert!(said.starts_with(&format!("{url}: ")), "{said}");
        assert!(said.contains("/chat/") && said.contains("404"), "{client}: {said}");
    }
    let said = rejected(&["run", &url, "--client", "http"]).await;
    assert!(said.contains("404 Not Found"), "{said}");
    let said = rejected(&["run", &url, "--client", "ws"]).await;
    assert!(said.contains("404 Not Found"), "{said}");
}

#[tokio::test]
async fn wrong_use_of_tls_is_reported() {
    let backend = server_without_socket_io().await;
    let (proxy, _) = Proxy::plain_and_secure(backend.address).await;
    let (plain, secure) = (proxy.web(), proxy.listener("secure"));

    let url = format!("https://{plain}");
    let said = rejected(&["run", &url]).await;
    assert_eq!(
        said,
        format!("{url}: the server does not use TLS: use http:// or ws:// in the URL")
    );
    let url = format!("http://{secure}");
    let said = rejected(&["run", &url]).await;
    assert!(said.contains("TLS"), "{said}");
}

#[tokio::test]
async fn untrusted_certificate_is_reported_with_advice() {
    let backend = server_without_socket_io().await;
    for (extension, reason) in [
        ("basicConstraints=critical,CA:TRUE", "it is the certificate of an authority"),
        (
            "basicConstraints=critical,CA:FALSE",
            "it is self-signed, or signed by an unknown authority",
        ),
    ] {
        let (proxy, cert) = self_signed_before(&backend, extension).await;
        let port = proxy.listener("secure").port();
        let url = format!("https://localhost:{port}");
        let said = rejected(&["run", &url]).await;
        assert!(
            said.starts_with(&format!("{url}: the server's certificate is not trusted: {reason}")),
            "{said}"
        );
        assert!(said.contains("--ca") && said.contains("--insecure"), "{said}");
        // Both flags work; the server then answers with a 404.
        for way in [&["--insecure"][..], &["--ca", cert.to_str().unwrap()]] {
            let said = rejected(&[&["run", &url], way].concat()).await;
            assert!(said.contains("404"), "{extension} {way:?}: {said}");
        }
        let elsewhere = format!("https://127.0.0.1:{port}");
        let said = rejected(&["run", &elsewhere, "--ca", cert.to_str().unwrap()]).await;
        assert!(said.contains("it is not for the host name in the URL"), "{said}");
        proxy.finish().await;
    }
}

/// Returns a proxy with a certificate for `localhost` from `openssl req -x509`, and the file of the certificate.
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
async fn limit_on_misrouted_answers_needs_node_names() {
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
    let said = rejected(&words).await;
    let expected =
        format!("{url}: max-misrouted cannot be checked: the nodes do not send their names");
    assert!(said.starts_with(&expected), "{said}");
}

#[tokio::test]
async fn server_that_never_answers_is_reported() {
    // The kernel accepts connections, but no program reads from them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let said = rejected(&["run", &url, "--timeout", "200ms"]).await;
    assert_eq!(said, format!("{url}: no Socket.IO session within 200ms"));
}

#[tokio::test]
async fn invalid_flags_are_reported() {
    for (words, part) in [
        (&["run"][..], "no target: give a URL"),
        (&["run", "localhost:1"], "did you mean http://localhost:1"),
        (&["run", "http://127.0.0.1:1", "--clients", "0"], "invalid value 0 for clients"),
        (&["run", "http://127.0.0.1:1", "--repeat"], "repeat needs messages"),
        (&["herd", "http://127.0.0.1:1", "--hold", "1s"], "the events take 5s"),
        (&["deploy", "http://127.0.0.1:1"], "no backends-file"),
        (&["chaos", "http://127.0.0.1:1", "--backends-file", "x"], "no events: give some"),
        (&["run", "https://127.0.0.1:1", "--ca", "/nowhere.pem"], "/nowhere.pem"),
        (&["run", "http://127.0.0.1:1", "--json", "/nowhere/x"], "cannot write /nowhere/x"),
        (&["run", "http://127.0.0.1:1", "--cost-of", "4194305"], "no process 4194305"),
        (&["run", "--file", "/nowhere.toml"], "cannot read the scenario file /nowhere.toml"),
    ] {
        let said = rejected(words).await;
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn documented_scenario_file_is_valid() {
    let page = fs::read_to_string("docs/reference/load.md").unwrap();
    let (_, rest) = page.split_once("# smoke.toml").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, format!("#{}", rest.split("```").next().unwrap())).unwrap();
    let refusing = Refusing::new();
    let free = refusing.address();
    let url = format!("http://{free}");
    let said = rejected(&["run", &url, "--file", file.path().to_str().unwrap()]).await;
    assert_eq!(
        said,
        format!("{url}: nothing listens on {free}: start the server, or check the URL")
    );
}

#[tokio::test]
async fn rejected_run_leaves_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let refusing = Refusing::new();
    let free = refusing.address();
    rejected(&["run", &format!("http://{free}"), "--html", page.to_str().unwrap()]).await;
    assert!(!page.exists());
}

#[tokio::test]
async fn invalid_scenario_file_is_reported_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("smoke.toml");
    let shown = file.to_str().unwrap();
    for (text, place, part) in [
        ("url = 'http://127.0.0.1:1'\nclints = 5", ":2:1: ", "clints"),
        ("every = 5s", ":1:", ""),
        ("[deploy]\ndrain = 'soon'", ":2:9: ", "invalid duration soon"),
    ] {
        fs::write(&file, text).unwrap();
        let said = rejected(&["run", "--file", shown]).await;
        assert!(said.starts_with(&format!("{shown}{place}")) && said.contains(part), "{said}");
    }
}

#[tokio::test]
async fn too_few_descriptors_report_the_number_that_fits() {
    let server = server_without_socket_io().await;
    let program = harness().display();
    let url = format!("http://{}", server.address);
    let line = format!("ulimit -n 100; exec {program} run {url} --client ws --clients 500");
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = error_line(&output);
    assert!(said.contains("500") && said.contains("descriptors"), "{said}");
    let fits = said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    assert!(fits.clone().any(|n| (20..100).contains(&n)), "no number that would fit: {said}");
    server.assert_untouched();
}
