//! Warnings of `check`, of the start and of a reload.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{
    Backend, Proxy, Raw, message,
    proxy::{Setup, message_after},
};

const PLAIN: &str =
    "[listeners.web]\nbind = \"127.0.0.1:0\"\n[pools.app]\nbackends = [\"127.0.0.1:1\"]\n";

fn check(words: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command.arg("check").args(words).arg(file).output().unwrap()
}

/// Asserts that the check of this text gives one warning, at this line and with each of these words.
fn assert_warns(folder: &Path, text: &str, line: usize, words: &[&str]) {
    let file = folder.join("moorline.toml");
    fs::write(&file, text).unwrap();
    let output = check(&[], &file);
    let (shown, verdict) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(shown.matches("warning: ").count(), 1, "{text}\n{shown}");
    assert!(shown.contains(&format!(" --> {}:{line}\n  = help: ", file.display())), "{shown}");
    assert!(
        verdict.contains("is valid, with warnings") && verdict.contains("1 warning"),
        "{verdict}"
    );
    for word in words {
        assert!(shown.contains(word), "no {word:?} in {shown}");
    }
    assert_eq!(check(&["--strict"], &file).status.code(), Some(1), "{shown}");
}

/// Makes a certificate for `name` that is valid from `from` until `days`, both in days from today.
fn certificate(folder: &Path, name: &str, from: i64, days: i64) -> (PathBuf, PathBuf) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    let now = std::time::SystemTime::now();
    let day = |days: i64| {
        let length = std::time::Duration::from_secs(days.unsigned_abs() * 86_400);
        if days < 0 { now - length } else { now + length }
    };
    (params.not_before, params.not_after) = (day(from).into(), day(days).into());
    let key = rcgen::KeyPair::generate().unwrap();
    let [cert_file, key_file] = ["cert.pem", "cert.key"].map(|name| folder.join(name));
    fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    (cert_file, key_file)
}

fn https(route: &str) -> String {
    format!(
        "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
         certificates = [\n  {{ cert = \"cert.pem\", key = \"cert.key\" }},\n]\n\
         [[routes]]\n{route}pool = \"app\"\n[pools.app]\nbackends = [\"127.0.0.1:1\"]\n"
    )
}

#[test]
fn a_file_without_warnings_passes_the_strict_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("moorline.toml");
    fs::write(&file, PLAIN).unwrap();
    let output = check(&["--strict"], &file);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    certificate(folder.path(), "chat.test", -1, 90);
    fs::write(&file, https("host = \"chat.test\"\n")).unwrap();
    let output = check(&["--strict"], &file);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn doubtful_settings_of_pools_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let warns = |lines: &str, line: usize, words: &[&str]| {
        assert_warns(folder.path(), &format!("{PLAIN}{lines}"), line, words);
    };
    let unrouted =
        format!("[[routes]]\npool = \"app\"\n{PLAIN}[pools.other]\nbackends = [\"127.0.0.1:2\"]\n");
    assert_warns(folder.path(), &unrouted, 7, &["no route", "pool other"]);
    warns("tls = { verify = false }\n", 5, &["not verified", "`ca`"]);
    warns("timeouts = { tunnel_idle = \"10s\" }\n", 5, &["tunnel_idle", "pingInterval"]);
    warns("timeouts = { connect = \"30s\" }\n", 5, &["connect", "20s"]);
    warns("max_connection_age = \"1m\"\n", 5, &["max_connection_age", "drain"]);
    let unknown = PLAIN.replace("127.0.0.1:1", "nothing.invalid:1");
    assert_warns(folder.path(), &unknown, 4, &["nothing.invalid", "does not resolve", "getent"]);
}

#[test]
fn pools_that_lose_sessions_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let two = PLAIN.replace("[\"127.0.0.1:1\"]", "[\"127.0.0.1:1\", \"127.0.0.1:2\"]");
    let warns = |lines: &str, words: &[&str]| {
        assert_warns(folder.path(), &format!("{two}{lines}"), 5, words);
    };
    warns("drain = \"0s\"\n", &["`drain`", "pool app", "at once"]);
    warns("sticky = { owner_search = 0, cookie = false }\n", &["owner_search", "no cookie"]);
    warns("sticky.cookie.secure = true\n", &["Secure", "no listener uses TLS"]);
    warns("sticky.cookie.same_site = \"none\"\n", &["SameSite=None"]);
    warns("sticky.cookie.partitioned = true\n", &["Partitioned"]);
    let socket_io = "sticky = false\nhealth = { probe = \"engine.io\" }\n";
    warns(socket_io, &["engine.io probe", "Session ID unknown", "sticky = true"]);
    let elsewhere = "health = { probe = \"engine.io\", path = \"/chat/socket.io/\" }\n";
    let routed = format!("[[routes]]\npath = \"/ws\"\npool = \"app\"\n{PLAIN}{elsewhere}");
    assert_warns(folder.path(), &routed, 8, &["/chat/socket.io/", "no route of the pool covers"]);
    let tls = PLAIN.replace("127.0.0.1:1\"", "127.0.0.1:443\"");
    assert_warns(folder.path(), &tls, 4, &["port 443", "tls = true"]);
    let process = format!("drain = \"0s\"\n{PLAIN}");
    assert_warns(folder.path(), &process, 1, &["every connection is cut"]);
    let file = folder.path().join("moorline.toml");
    for good in [
        // One backend has every session; a hash or a cookie keeps sessions on their backend.
        format!("{PLAIN}sticky = false\nhealth = {{ probe = \"engine.io\" }}\n"),
        format!(
            "{two}balance = \"source-hash\"\nsticky = false\nhealth = {{ probe = \"engine.io\" }}\n"
        ),
        format!("{two}sticky = {{ owner_search = 0 }}\n"),
        format!("{two}sticky = {{ cookie = false }}\n"),
        format!("trusted_proxies = \"10.0.0.1\"\n{two}sticky.cookie.secure = true\n"),
        format!("{tls}tls = true\n"),
    ] {
        fs::write(&file, &good).unwrap();
        let output = check(&["--strict"], &file);
        assert!(output.status.success(), "{good}\n{output:?}");
    }
}

#[test]
fn listeners_without_routes_or_with_too_much_trust_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let warns = |text: &str, line: usize, words: &[&str]| {
        assert_warns(folder.path(), text, line, words);
    };
    let redirecting = "[listeners.web]\nbind = \"127.0.0.1:0\"\nredirect = \"https\"\n\
                       [listeners.other]\nbind = \"127.0.0.1:0\"\n[pools.app]\nbackends = [\"127.0.0.1:1\"]\n";
    warns(redirecting, 3, &["listener web", "no listener serves https", "no end"]);
    let route = "[[routes]]\npool = \"app\"\nlisteners = [\"web\"]\n";
    let unrouted = format!("{route}{PLAIN}[listeners.other]\nbind = \"127.0.0.1:0\"\n");
    warns(&unrouted, 8, &["no route is for the listener other"]);
    let trusting =
        |networks: &str, more: &str| format!("trusted_proxies = {networks}\n{PLAIN}{more}");
    warns(&trusting("[\"0.0.0.0/0\"]", ""), 1, &["every address", "claim the address"]);
    let from = "proxy_protocol = { mode = \"required\", from = [\"::/0\"] }\n[pools.app]";
    warns(&PLAIN.replace("[pools.app]", from), 3, &["PROXY headers from every address"]);
    let short = "keep_alive = \"60s\"\n[pools.app]";
    warns(&trusting("\"10.0.0.1\"", "").replace("[pools.app]", short), 4, &["keep_alive", "502"]);
    let secure = https("listeners = [\"plain\"]\n");
    certificate(folder.path(), "chat.test", -1, 90);
    let hidden = format!(
        "{secure}[listeners.plain]\nbind = \"127.0.0.1:0\"\nredirect = \"https\"\n[[routes]]\npath = \"/x\"\n\
         pool = \"app\"\n"
    );
    let at = hidden.lines().position(|line| line.starts_with("listeners = ")).unwrap() + 1;
    warns(&hidden, at, &["no request follows the route", "redirect every request"]);
}

#[test]
fn pools_that_overwrite_each_others_cookie_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let pools = "listeners.web.bind = \"127.0.0.1:0\"\n\
                 [[routes]]\npool = \"a\"\n[[routes]]\nhost = \"x.test\"\npath = \"/b\"\npool = \"b\"\n\
                 [pools.a]\nbackends = [\"127.0.0.1:1\"]\nsticky.cookie.name = \"lb\"\n\
                 [pools.b]\nbackends = [\"127.0.0.1:2\"]\nsticky.cookie.name = \"lb\"\n";
    assert_warns(folder.path(), pools, 13, &["`a` and `b`", "`lb`", "name"]);
}

#[test]
fn expiring_and_unused_certificates_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let of_chat = https("host = \"chat.test\"\n");
    certificate(folder.path(), "chat.test", -90, -1);
    assert_warns(folder.path(), &of_chat, 5, &["chat.test", "expired on", "renew"]);
    certificate(folder.path(), "chat.test", -86, 4);
    assert_warns(folder.path(), &of_chat, 5, &["expires in 3 days"]);
    certificate(folder.path(), "chat.test", 2, 90);
    assert_warns(folder.path(), &of_chat, 5, &["not valid yet", "clock"]);
    // Then the route has no certificate, too.
    certificate(folder.path(), "blog.test", -1, 90);
    let file = folder.path().join("moorline.toml");
    fs::write(&file, &of_chat).unwrap();
    let shown = String::from_utf8(check(&[], &file).stderr).unwrap();
    assert!(shown.contains("the certificate for blog.test covers the host of no route"), "{shown}");
    assert!(shown.contains("no certificate covers the host of the route chat.test/"), "{shown}");
    // A route for every host needs no particular name.
    fs::write(&file, https("")).unwrap();
    assert!(check(&["--strict"], &file).status.success());
}

#[test]
fn world_readable_secrets_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = folder.path().join("cookie.key");
    fs::write(&key, "a key of the tests, worth nothing at all\n").unwrap();
    let text = format!("cookie_key = {{ file = \"cookie.key\" }}\n{PLAIN}");
    // A folder that other users cannot enter protects its files.
    set(folder.path(), 0o700);
    set(&key, 0o644);
    let file = folder.path().join("moorline.toml");
    fs::write(&file, &text).unwrap();
    assert!(check(&["--strict"], &file).status.success());
    set(folder.path(), 0o755);
    assert_warns(folder.path(), &text, 1, &["every user can read", "chmod 600"]);
    set(&key, 0o640);
    assert!(check(&["--strict"], &file).status.success());
}

#[tokio::test]
async fn the_start_and_a_reload_log_new_warnings_once() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]).pool("max_connection_age", "\"1m\"");
    })
    .await;
    let of = |proxy: &Proxy, word: &str| {
        let lines = proxy.stderr();
        lines.iter().filter(|line| line.contains(" WARN ") && line.contains(word)).count()
    };
    assert_eq!(of(&proxy, "max_connection_age"), 1, "{}", proxy.stderr_text());
    proxy
        .reload(|settings| {
            settings.top("sessions", "{ max = 1000 }").timeouts("tunnel_idle = \"10s\"");
        })
        .await;
    assert_eq!((of(&proxy, "max_connection_age"), of(&proxy, "tunnel_idle")), (1, 1));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_low_descriptor_limit_is_logged_with_the_number_of_websockets_that_fit() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]);
    });
    let limited = ["sh", "-c", "ulimit -n 1000; exec \"$0\" \"$@\""];
    let proxy = setup.wrapped_in(&limited).start().await;
    let text = proxy.stderr_text();
    assert!(text.contains("the limit of open files is 1000: about 468 WebSockets fit"), "{text}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_port_in_use_names_the_process_that_holds_it() {
    let backend = Backend::replying("ok").await;
    let first = Proxy::for_backends(&[backend.address]).await;
    let (taken, pid) = (first.web(), first.pid());
    let second = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).listener("bind", &format!("\"{taken}\""));
    });
    let ended = second.fails_to_start().await;
    let owner = format!("listener web: cannot listen on {taken}: process {pid} (moorline) already");
    assert!(ended.stderr.contains(&owner), "{}", ended.stderr);
    assert!(ended.stderr.contains("choose another port"), "{}", ended.stderr);
    drop(backend);
    first.finish().await;
}

#[tokio::test]
async fn the_banner_lists_listeners_and_pools_and_every_line_has_a_timestamp() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let lines = proxy.stderr();
    let file = proxy.file().display().to_string();
    for words in [
        &format!(
            "Moorline {}, process {}, configuration {file}",
            env!("CARGO_PKG_VERSION"),
            proxy.pid()
        ),
        &format!("listening on http://{} (web)", proxy.web()),
        "pool app: 1 backend, least-sessions, no health check",
        &format!("admin API on {}", proxy.socket().display()),
        "access log: ",
    ] {
        assert!(
            lines.iter().any(|line| message_after(line, words).is_some()),
            "{words}: {lines:?}"
        );
    }
    let stamped = |line: &String| {
        line.split_once(' ').is_some_and(|(time, _)| humantime::parse_rfc3339(time).is_ok())
    };
    assert!(lines.iter().all(stamped), "{lines:?}");
    // With one backend, the cookie does not matter.
    assert!(!proxy.stderr_text().contains("cookie_key"), "{lines:?}");
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_missing_cookie_key_is_logged_if_a_pool_has_several_backends() {
    let (first, second) = (Backend::replying("a").await, Backend::replying("b").await);
    let proxy = Proxy::for_backends(&[first.address, second.address]).await;
    let notice = |line: &str| message_after(line, "no cookie_key set").is_some();
    proxy.wait_for_stderr("the INFO line", notice).await;
    drop((first, second));
    proxy.finish().await;
}

#[tokio::test]
async fn a_missing_folder_of_the_access_log_is_created() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let log = setup.directory().join("var/log/access.log");
    let proxy = setup
        .with(|settings| {
            let table = format!("{{ file = {:?} }}", log.display().to_string());
            settings.backends(&[backend.address]).top("access_log", &table);
        })
        .start()
        .await;
    Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    crate::support::eventually("a line", || fs::read(&log).is_ok_and(|text| !text.is_empty()))
        .await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn a_first_health_check_with_404_suggests_another_probe() {
    let backend = Backend::answering(|_| message::reply("404 Not Found", "", "")).await;
    let proxy = Proxy::with(|settings| {
        settings.backends(&[backend.address]);
        settings.pool("health", "{ probe = \"http\", path = \"/healthz\", interval = \"60s\" }");
    })
    .await;
    let advice = |line: &str| {
        line.contains(" WARN ") && line.contains("GET /healthz") && line.contains("got 404")
    };
    let line = proxy.wait_for_stderr("the advice after the first probe", advice).await;
    assert!(
        line.contains("probe = \\\"engine.io\\\"") || line.contains("probe = \"engine.io\""),
        "{line}"
    );
    drop(backend);
    proxy.finish().await;
}
