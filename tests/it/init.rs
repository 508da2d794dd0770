//! `moorline init`: starting configurations, and translations of other proxies' files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    Backend, Node, Proxy, Raw,
    admin::{CommandOutput, command},
    dns::free_port,
    node::{handshake, handshake_target, poll},
    proxy::Setup,
    tls::Certificate,
    websocket,
};

/// Runs `moorline init` in a folder.
async fn init(folder: &Path, words: &[&str]) -> CommandOutput {
    command(folder, &[&["init"], words].concat(), "", &[]).await
}

#[tokio::test]
async fn each_starting_configuration_passes_the_check_and_starts() {
    for words in [
        &[][..],
        &["--tls"],
        &["--acme"],
        &["--acme=chat.test,www.chat.test"],
        &["--docker"],
        &["--docker", "--tls"],
        &["--docker", "--acme"],
    ] {
        let setup = Setup::new();
        let folder = setup.directory().to_owned();
        let output = init(&folder, words).await.done();
        assert!(output.starts_with("wrote moorline.toml\n"), "{words:?}: {output}");
        let checked = command(&folder, &["check", "--strict", "moorline.toml"], "", &[]).await;
        assert!(checked.done().contains(" is valid: "), "{words:?}");
        let text = fs::read_to_string(folder.join("moorline.toml")).unwrap();
        let stdout = init(&folder, &[words, &["-"]].concat()).await.done();
        assert_eq!(stdout, text, "{words:?}");
        // The ports may be in use on this machine, and the test must not order certificates.
        let text = local(&text);
        let proxy = setup.text(text).start().await;
        let lines = proxy.stderr_text();
        assert!(lines.contains("pool app: "), "{words:?}: {lines}");
        proxy.finish().await;
    }
}

/// Replaces each port by port 0 of the loopback address, and the ACME server by an unreachable one.
fn local(text: &str) -> String {
    let mut text = text.replace("https://acme-v02.api.letsencrypt.org", "https://127.0.0.1:1");
    for port in ["80", "443", "8080", "8443", "9090"] {
        text = text.replace(&format!("\"0.0.0.0:{port}\""), "\"127.0.0.1:0\"");
        text = text.replace(&format!("\"127.0.0.1:{port}\""), "\"127.0.0.1:0\"");
    }
    text
}

#[tokio::test]
async fn commented_out_settings_of_a_starting_configuration_are_valid() {
    for words in [&["-"][..], &["--tls", "-"], &["--docker", "--acme", "-"]] {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path(), &["--tls", "other.toml"]).await.done();
        let text = init(folder.path(), words).await.done();
        let setting = |line: &str| {
            let rest = line.strip_prefix("# ")?;
            let (key, value) = rest.split_once(" = ")?;
            let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            (is_key && !value.is_empty()).then(|| rest.to_owned())
        };
        let count = text.lines().filter_map(setting).count();
        assert!(count >= 8, "{text}");
        let set: Vec<String> =
            text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
        let checked = command(folder.path(), &["check", "-"], &set.join("\n"), &[]).await;
        assert_eq!(checked.code, 0, "{words:?}: {checked:?}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = init(folder.path(), &["--tls"]).await.done();
    assert!(output.contains("wrote site.pem and site.key"), "{output}");
    let key = fs::read(folder.path().join("site.key")).unwrap();
    let output = init(folder.path(), &["--tls", "--force"]).await.done();
    assert!(!output.contains("site.pem"), "{output}");
    assert_eq!(fs::read(folder.path().join("site.key")).unwrap(), key);
}

#[tokio::test]
async fn an_existing_file_is_kept_unless_force_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("moorline.toml");
    fs::write(&file, "# mine\n").unwrap();
    init(folder.path(), &[]).await.refused("moorline.toml exists; use --force to replace it");
    assert_eq!(fs::read_to_string(&file).unwrap(), "# mine\n");
    init(folder.path(), &["--force"]).await.done();
    assert!(fs::read_to_string(&file).unwrap().contains("[pools.app]"));
    init(folder.path(), &["none/moorline.toml"]).await.refused("cannot write none/moorline.toml");
    assert_eq!(init(folder.path(), &["--tls", "--acme"]).await.code, 2);
}

#[tokio::test]
async fn an_invalid_nginx_or_haproxy_file_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let refused = async |flag: &str, text: &str, expected: &str| {
        fs::write(folder.path().join("other.conf"), text).unwrap();
        init(folder.path(), &[flag, "other.conf", "-"]).await.refused(expected);
    };
    refused("--from-nginx", "http {\n server {", "other.conf:2: this block is not closed").await;
    refused("--from-nginx", "events {}\n", "nothing to translate").await;
    refused("--from-haproxy", "global\n daemon\n", "nothing to translate").await;
    refused("--from-haproxy", "frontend 'a\n", "other.conf:1: this quote is not closed").await;
    init(folder.path(), &["--from-nginx", "none.conf"]).await.refused("cannot read the file");
    assert!(!folder.path().join("moorline.toml").exists());
}

/// Copies an example and adds certificates. Returns its folder.
fn example(kind: &str, name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = examples().join(kind).join(name);
    copy(&source, folder.path());
    let certs = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
    let read = |name: &str| fs::read_to_string(certs.join(name)).unwrap();
    let to = folder.path().join("certs");
    fs::create_dir_all(&to).unwrap();
    // HAProxy reads chain and key from one file.
    fs::write(to.join("site.pem"), read("site.pem") + &read("site.key")).unwrap();
    for name in ["site.key", "ca.pem"] {
        fs::write(to.join(name), read(name)).unwrap();
    }
    folder
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/init")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Translates an example, compares the result with the expected file and checks it. With
/// `MOORLINE_WRITE_EXPECTED` in the environment, the function writes the expected file.
async fn assert_translates(kind: &str, file: &str, name: &str) {
    let folder = example(kind, name);
    let flag = format!("--from-{kind}");
    let output = init(folder.path(), &[&flag, file, "-"]).await;
    assert_eq!(output.code, 0, "{kind}/{name}: {output:?}");
    assert!(!output.err.contains("has errors"), "{kind}/{name}: {}", output.err);
    let place = folder.path().canonicalize().unwrap();
    let text = output.out.replace(place.to_str().unwrap(), "/etc/proxy");
    let expected = examples().join(kind).join(name).join("moorline.toml");
    if std::env::var_os("MOORLINE_WRITE_EXPECTED").is_some() {
        fs::write(&expected, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&expected).unwrap(), "{kind}/{name}");
    let checked = command(folder.path(), &["check", "-"], &output.out, &[]).await;
    assert_eq!(checked.code, 0, "{kind}/{name}: {}", checked.err);
    // Notes on the terminal are in the file as well.
    for line in output.err.lines().filter(|line| line.contains(": `")) {
        let reason = line.rsplit("`: ").next().unwrap();
        let first = reason.split(' ').next().unwrap();
        assert!(text.contains(first), "{kind}/{name}: {line}");
    }
}

#[tokio::test]
async fn configurations_of_nginx_are_translated() {
    for name in [
        "socketio-chat",
        "rocketchat",
        "mattermost",
        "home-assistant",
        "grafana",
        "stream",
        "gateway",
        "auth",
    ] {
        assert_translates("nginx", "nginx.conf", name).await;
    }
}

#[tokio::test]
async fn configurations_of_haproxy_are_translated() {
    for name in
        ["socketio-chat", "source-and-table", "split-by-name", "listen", "gateway", "conditions"]
    {
        assert_translates("haproxy", "haproxy.cfg", name).await;
    }
}

/// Changes an example, translates it, and starts a proxy with the result.
async fn translated(
    kind: &str,
    file: &str,
    name: &str,
    change: impl Fn(String) -> String,
) -> Proxy {
    let setup = Setup::new();
    let folder = example(kind, name);
    for path in [folder.path().join(file), folder.path().join("sites-enabled/chat.conf")] {
        if let Ok(text) = fs::read_to_string(&path) {
            fs::write(&path, change(text)).unwrap();
        }
    }
    let flag = format!("--from-{kind}");
    let output = init(folder.path(), &[&flag, file, "-"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    // The translation contains absolute paths of certificates and of folders.
    for name in ["certs", "www"].iter().filter(|name| folder.path().join(name).exists()) {
        copy(&folder.path().join(name), &setup.directory().join(name));
    }
    let old = folder.path().canonicalize().unwrap();
    let text = output.out.replace(old.to_str().unwrap(), setup.directory().to_str().unwrap());
    setup.text(format!("admin = \"127.0.0.1:0\"\n{text}")).start().await
}

#[tokio::test]
async fn a_chat_behind_nginx_runs_from_its_translation() {
    let nodes = [Node::start("a").await, Node::start("b").await];
    let [plain, secure] = [free_port(), free_port()];
    let proxy = translated("nginx", "nginx.conf", "socketio-chat", |text| {
        text.replace("listen 80;", &format!("listen {plain};"))
            .replace("listen 443 ssl http2;", &format!("listen {secure} ssl;"))
            .replace("    listen [::]:80;\n", "")
            .replace("    listen [::]:443 ssl http2;\n", "")
            .replace("https://$host$", &format!("https://$host:{}$", secure.port()))
            .replace("    server 127.0.0.1:3003 max_fails=3 fail_timeout=10s;\n", "")
            .replace("127.0.0.1:3001", &nodes[0].backend.address.to_string())
            .replace("127.0.0.1:3002", &nodes[1].backend.address.to_string())
            .replace("chat.example.com", "app.test")
    })
    .await;
    let redirect = Raw::ask(plain, b"GET /x?y HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(redirect.status(), 308);
    let to = format!("https://app.test:{}/x?y", secure.port());
    assert_eq!(redirect.header("location"), Some(to.as_str()));

    let certificate = site();
    let mut client = Raw::tls(secure, &certificate).await;
    let session = handshake(&mut client, "1", "").await;
    // A client returns to its node by its address, and by its session.
    for t in ["2", "3"] {
        assert_eq!(handshake(&mut client, t, "").await.node, session.node);
        let reply = poll(&mut client, &session.sid, t, "").await;
        assert_eq!((reply.status(), reply.header("x-node")), (200, Some(session.node.as_str())));
    }
    client.send(websocket::request("/socket.io/?EIO=4&transport=websocket", "")).await;
    assert_eq!(client.head().await.status(), 101);
    drop((client, nodes));
    proxy.finish().await;
}

#[tokio::test]
async fn a_gateway_of_nginx_runs_from_its_translation() {
    let (chat, site) = (Node::start("chat").await, Backend::replying("site").await);
    let port = free_port();
    let proxy = translated("nginx", "nginx.conf", "gateway", |text| {
        text.replace("listen 80;", &format!("listen {port};"))
            .replace("unix:/run/chat/a.sock", &chat.backend.address.to_string())
            .replace("127.0.0.1:4001", &site.address.to_string())
            .replace("127.0.0.1:4002", &site.address.to_string())
            .replace("www.example.com", "app.test")
    })
    .await;
    let web = std::net::SocketAddr::from(([127, 0, 0, 1], port.port()));
    let ask = async |target: &str, host: &str| {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        );
        Raw::ask(web, request).await
    };
    let old = ask("/a?b", "old.example.com").await;
    assert_eq!((old.status(), old.header("location")), (301, Some("https://app.test/a?b")));
    let open = ask(&format!("/app1{}", handshake_target("t")), "app.test").await;
    assert_eq!((open.status(), open.header("x-node")), (200, Some("chat")));
    for (target, status, text) in [
        ("/", 200, "site"),
        ("/healthz", 200, "ok\n"),
        ("/assets/hello.txt", 200, "hello\n"),
        ("/assets/none.txt", 404, "<h1>404</h1>\n"),
        ("/admin/", 403, ""),
        ("/hidden/x", 403, ""),
    ] {
        let reply = ask(target, "app.test").await;
        assert_eq!(reply.status(), status, "{target}");
        assert!(reply.text().contains(text), "{target}: {}", reply.text());
        if status == 200 {
            assert_eq!(reply.header("x-frame-options"), Some("DENY"), "{target}");
        }
    }
    ask("/api/users?x=1", "app.test").await;
    let api = site.requests().into_iter().find(|request| request.target() == "/v2/users?x=1");
    assert_eq!(api.unwrap().header("x-client"), Some("127.0.0.1"));
    drop((chat, site));
    proxy.finish().await;
}

#[tokio::test]
async fn a_chat_behind_haproxy_runs_from_its_translation() {
    let nodes = [Node::start("a").await, Node::start("b").await];
    let site_node = Node::start("site").await;
    let [plain, secure] = [free_port(), free_port()];
    let proxy = translated("haproxy", "haproxy.cfg", "socketio-chat", |text| {
        text.replace("bind *:80", &format!("bind {plain}"))
            .replace("bind *:443 ssl", &format!("bind {secure} ssl"))
            .replace("    bind [::]:443 v6only ssl crt certs/site.pem alpn h2,http/1.1\n", "")
            .replace("10.0.0.11:3000", &nodes[0].backend.address.to_string())
            .replace("10.0.0.12:3000", &nodes[1].backend.address.to_string())
            .replace("10.0.0.31:8080", &site_node.backend.address.to_string())
            .replace("chat.example.com", "app.test")
    })
    .await;
    let redirect = Raw::ask(plain, b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!((redirect.status(), redirect.header("location")), (308, Some("https://app.test/")));

    let mut client = Raw::tls(secure, &site()).await;
    let session = handshake(&mut client, "1", "").await;
    let cookies = session.reply.all("set-cookie");
    let cookie = cookies.iter().find(|cookie| cookie.starts_with("SERVERID=")).expect("the cookie");
    assert!(cookie.contains("Secure") && cookie.contains("SameSite=None"), "{cookie}");
    let field = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    for t in ["2", "3", "4"] {
        assert_eq!(handshake(&mut client, t, &field).await.node, session.node);
    }
    client.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(client.response().await.header("x-node"), Some("site"));
    drop((client, nodes, site_node));
    proxy.finish().await;
}

/// The certificate of the examples.
fn site() -> Certificate {
    let certs = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
    Certificate::read(&certs.join("site.pem"), &certs.join("site.key"), "localhost")
}
