//! How commands find the process, authenticate, and report errors.

use std::{ffi::OsStr, fs};

use crate::support::{
    Backend, Proxy, Raw,
    admin::command,
    message::get,
    proxy::{Setup, message_after},
};

#[tokio::test]
async fn errors_say_what_to_do_if_no_process_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let ran = command(folder.path(), &["status"], "", &[]).await;
    let here = folder.path().join("moorline.sock").display().to_string();
    // If the runtime folder is set, no other folder is searched.
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
async fn output_names_process_configuration_file_and_socket() {
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
        let process = &json["process"];
        assert_eq!(
            (&process["pid"], &process["at"]),
            (&pid.into(), &socket.display().to_string().into())
        );
        assert_eq!(process["config"], file.display().to_string());
    }
    let refused = proxy.command(&["drain", "app/unknown"]).await;
    assert!(refused.err.ends_with(&line), "{refused:?}");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn admin_socket_sets_the_socket_of_a_proxy_from_flags() {
    let backend = Backend::replying("ok").await;
    let address = backend.address.to_string();
    let setup = Setup::new();
    let socket = setup.directory().join("own.sock").display().to_string();
    let words =
        ["proxy", "--backend", &address, "--listen", "127.0.0.1:0", "--admin-socket", &socket];
    let proxy = setup.arguments(&words).run().await;
    // The socket is not in the runtime folder, so the process is not found without --socket.
    proxy.command(&["status"]).await.refused("no running Moorline");
    let ran = proxy.command(&["status", "--socket", &socket]).await;
    let line = format!("-- process {}, no configuration file, {socket}\n", proxy.pid());
    assert!(ran.out.ends_with(&line), "{ran:?}");
    assert!(proxy.stderr_text().contains("configuration from flags"), "{}", proxy.stderr_text());
    drop(backend);
}

#[tokio::test]
async fn errors_of_flags_suggest_a_valid_value() {
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
async fn version_and_help_are_commands() {
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
async fn the_token_is_read_from_the_environment_or_a_file() {
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
async fn control_characters_of_a_server_are_escaped() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let unsafe_name = "x\u{1b}[2J\u{9b}31m\u{202e}";
    for words in [
        &["drain", unsafe_name][..],
        &["drain", unsafe_name, "--json"],
        &["sessions", "close", unsafe_name],
    ] {
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
async fn the_help_of_each_command_has_examples() {
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
