//! Invalid, half-written and unreadable configurations: the old configuration stays active.

use std::{fs, net::SocketAddr};

use crate::support::{
    Backend, Proxy, Raw, message,
    proxy::{RELOADS_OK, RELOADS_REFUSED, Setup, is_ready},
    settings::list,
    websocket::tunnel,
};

/// Asserts that the backend that answers `text` serves requests.
pub(crate) async fn assert_serves(proxy: &Proxy, text: &str) {
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, text), "{}", proxy.stderr_text());
}

#[tokio::test]
async fn fault_111_broken_file() {
    let (old, new) = (Backend::manual().await, Backend::replying("new").await);
    let mut proxy = Proxy::for_backends(&[old.address]).await;
    let (mut client, peer) = tunnel(&proxy, &old).await;
    let good = proxy.settings.text();
    let target = format!("\"{}\"", new.address);
    for (broken, line, word) in [
        (format!("{good}\n[pools.app"), None, "moorline.toml"),
        (good.replace("protocol", "protokol"), Some("protokol"), "protocol"),
        (good.replace("\"http\"", "\"gopher\""), Some("gopher"), "gopher"),
        (good.replace("pool = \"app\"", "pool = \"ap\""), Some("pool = \"ap\""), "app"),
        (good.replace(&format!("\"{}\"", old.address), "\"nowhere\""), Some("nowhere"), "nowhere"),
        // Partly valid: no part may be applied.
        (
            good.replace(&format!("\"{}\"", old.address), &target).replace("\"10s\"", "\"tens\""),
            Some("tens"),
            "drain",
        ),
    ] {
        assert_ne!(broken, good);
        let place = match line {
            Some(part) => broken.lines().position(|l| l.contains(part)).unwrap() + 1,
            None => broken.lines().count(),
        };
        let place = format!("moorline.toml:{place}:");
        proxy.refuses(&broken, &[&place, "^", word]).await;
        client.send("through").await;
        peer.wait_for_rest(b"through").await;
        peer.skip(7).await;
    }
    assert_eq!(new.connections(), 0);
    // A valid configuration is applied after that.
    proxy
        .reload(|settings| {
            settings.backends(&[new.address]);
        })
        .await;
    assert_serves(&proxy, "new").await;
    client.send("still").await;
    peer.wait_for_rest(b"still").await;
    drop((client, peer, old, new));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_112_half_written_file() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let proxy = Proxy::for_backends(&[old.address]).await;
    let mut settings = proxy.settings.clone();
    settings.backends(&[new.address]);
    let whole = settings.text();
    let file = proxy.file();
    // Like an editor that truncates the file and is interrupted. No signal is sent.
    for part in ["", &whole[..whole.find("bind").unwrap() + 3], &whole[..whole.len() - 5]] {
        let refused = proxy.metric(RELOADS_REFUSED).await;
        fs::write(&file, part).unwrap();
        let more = |count: f64| count > refused;
        proxy.wait_for_metric("the rejection of the half file", RELOADS_REFUSED, more).await;
        assert_serves(&proxy, "old").await;
    }
    let applied = proxy.metric(RELOADS_OK).await;
    assert_eq!(applied, 0.0, "half a file was applied");
    fs::write(&file, &whole).unwrap();
    proxy.wait_for_metric("the whole file", RELOADS_OK, |count| count > applied).await;
    assert_serves(&proxy, "new").await;
    drop((old, new));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_112_half_written_backend_list() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let setup = Setup::new();
    let file = setup.directory().join("backends.txt");
    fs::write(&file, format!("{}\n", old.address)).unwrap();
    let proxy = setup
        .with(|settings| {
            settings.pool("backends", "{ file = \"backends.txt\" }");
        })
        .start()
        .await;
    assert_serves(&proxy, "old").await;
    let refused = proxy.metric(RELOADS_REFUSED).await;
    fs::write(&file, "127.0.0.1:").unwrap();
    proxy.wait_for_metric("a refusal", RELOADS_REFUSED, |count| count > refused).await;
    let said = |line: &str| line.contains("backends.txt:1:");
    proxy.wait_for_stderr("the list's fault", said).await;
    assert_serves(&proxy, "old").await;
    fs::write(&file, format!("# blue\n{}\n", new.address)).unwrap();
    proxy.wait_for_metric("the whole list", RELOADS_OK, |count| count > 0.0).await;
    assert_serves(&proxy, "new").await;
    drop((old, new));
    proxy.finish().await;
}

/// Drops the reference that a chain of setters returns.
pub(crate) fn drop_ref<T>(_: &mut T) {}

/// Invalid variants of a valid file, each with a word of its error message.
fn invalid_files(good: &str, address: SocketAddr) -> Vec<(String, &'static str)> {
    let one = format!("backends = [\"{address}\"]");
    let with = |backends: String| good.replace(&one, &backends);
    let many: Vec<String> =
        (0..70_000).map(|n| format!("\"10.{}.0.1:{}\"", n / 60_000, n % 60_000 + 1)).collect();
    vec![
        (with("backends = []".to_owned()), "backend"),
        (with(format!("backends = [\"{address}\", \"{address}\"]")), "already"),
        (
            with(
                "backends = [{ name = \"x\", address = \"10.0.0.1:1\" }, \
                  { name = \"x\", address = \"10.0.0.2:1\" }]"
                    .to_owned(),
            ),
            "already",
        ),
        (with(format!("backends = [{}]", many.join(","))), "at most"),
        (with("backends = [\"127.0.0.1:99999\"]".to_owned()), "99999"),
        (with("backends = [\"127.0.0.1\"]".to_owned()), "port"),
        (with(format!("backend = [\"{address}\"]")), "did you mean `backends`?"),
        (with(format!("{one}\nbalance = \"fastest\"")), "fastest"),
        (format!("{good}\n[pools.app]\n{one}\n"), "app"),
        (format!("{good}\n[listeners.web]\nbind = \"127.0.0.1:0\"\n"), "web"),
        (format!("{good}\n[[routes]]\npath = \"/\"\npool = \"app\"\n"), "path"),
        (format!("surprise = 1\n{good}"), "surprise"),
        (good.replace("bind = \"127.0.0.1:0\"", "bind = []"), "bind"),
        (good.replace("bind = \"127.0.0.1:0\"", "bind = \"localhost\""), "localhost"),
        (good.replace("\"10s\"", "\"10 parsecs\""), "parsecs"),
        (good.replace("\"10s\"", "\"99999999999999999999s\""), "drain"),
        (format!("sessions = {{ max = 99999999999999999999 }}\n{good}"), "moorline.toml:1:"),
        (format!("sessions = {{ max = 0 }}\n{good}"), "max"),
        (format!("{good}\n# {}\n", "x".repeat(9 << 20)), "moorline.toml"),
        (format!("{}\n{good}", "a = [".repeat(100_000)), "moorline.toml"),
        (String::new(), "listener"),
        ("\0\0\0".to_owned(), "moorline.toml:1:"),
    ]
}

#[tokio::test]
async fn fault_113_faulty_file_at_start() {
    let backend = Backend::replying("ok").await;
    let good = Setup::new().with(|settings| drop_ref(settings.backends(&[backend.address])));
    for (text, word) in invalid_files(&good.settings.text(), backend.address) {
        let ended = Setup::new().text(text.as_str()).fails_to_start().await;
        let shown: String = text.chars().take(300).collect();
        assert_eq!(ended.status.code(), Some(1), "{shown}\n{}", ended.stderr);
        assert!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
        assert!(ended.stderr.contains("moorline.toml"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.lines().any(is_ready));
    }
    // Several errors at once, each with its place.
    let text = good.settings.text().replace("\"http\"", "\"htp\"").replace("\"10s\"", "10");
    let ended = Setup::new().text(text).fails_to_start().await;
    assert_eq!(ended.stderr.matches("moorline.toml:").count(), 2, "{}", ended.stderr);
    backend.assert_untouched();
}

#[tokio::test]
async fn fault_113_faulty_file_at_reload() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    for (text, word) in invalid_files(&proxy.settings.text(), backend.address) {
        proxy.refuses(&text, &[word]).await;
        assert_serves(&proxy, "ok").await;
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_114_unreadable_file_at_start() {
    let setup = Setup::new();
    let path = setup.directory().join("moorline.toml");
    let copies = format!(
        "printf '[listeners.web]\\nbind = \"\\377\\376\"\\n' > {path:?}; exec \"$0\" \"$@\""
    );
    let ended = setup.wrapped_in(&["sh", "-c", &copies]).fails_to_start().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("moorline.toml:2:9"), "{}", ended.stderr);
    for (command, word) in [("rm", "moorline.toml"), ("rm {path} && mkdir", "moorline.toml")] {
        let setup = Setup::new();
        let path = format!("{:?}", setup.directory().join("moorline.toml"));
        let script = format!("{} {path}; exec \"$0\" \"$@\"", command.replace("{path}", &path));
        let ended = setup.wrapped_in(&["sh", "-c", &script]).fails_to_start().await;
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(word) && !ended.stderr.contains("panicked"));
    }
}

#[tokio::test]
async fn fault_114_unreadable_file_at_reload() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let good = proxy.settings.text();
    let file = proxy.file();
    let refused = async |proxy: &Proxy, before: f64| {
        proxy.hangup();
        proxy.wait_for_metric("a refusal", RELOADS_REFUSED, |count| count > before).await;
        assert_serves(proxy, "ok").await;
    };
    // A missing file.
    let before = proxy.metric(RELOADS_REFUSED).await;
    fs::remove_file(&file).unwrap();
    refused(&proxy, before).await;
    // A folder instead of a file.
    let before = proxy.metric(RELOADS_REFUSED).await;
    fs::create_dir(&file).unwrap();
    refused(&proxy, before).await;
    fs::remove_dir(&file).unwrap();
    // Not UTF-8.
    let before = proxy.metric(RELOADS_REFUSED).await;
    fs::write(&file, b"\xff\xfe\x00").unwrap();
    refused(&proxy, before).await;
    // Paths of missing files.
    let missing = good.replace(
        "protocol = \"http\"",
        "protocol = \"https\"\n\
         certificates = [{ cert = \"missing.pem\", key = \"missing.key\" }]",
    );
    proxy.refuses(&missing, &["missing.pem"]).await;
    assert_serves(&proxy, "ok").await;
    let listed = good.replace(&list(&[backend.address]), "{ file = \"missing.txt\" }");
    proxy.refuses(&listed, &["missing.txt"]).await;
    assert_serves(&proxy, "ok").await;
    drop(backend);
    proxy.finish().await;
}
