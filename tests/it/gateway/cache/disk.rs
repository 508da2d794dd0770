//! Stored responses on disk.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{FRESH, cache_status};
use crate::{
    gateway::get,
    support::{Backend, Proxy, Raw, eventually, message, proxy::Setup},
};

/// A backend that numbers its responses; the query is a tag.
async fn numbering(fields: &'static str, size: usize) -> Backend {
    let count = AtomicUsize::new(0);
    Backend::answering(move |request| {
        let number = 1 + count.fetch_add(1, Ordering::Relaxed);
        let tag = request.target().split_once('?').map_or("none", |(_, tag)| tag);
        let body = format!("body {number}{}", "x".repeat(size));
        message::reply("200 OK", &format!("{FRESH}Cache-Tag: {tag}\r\n{fields}"), &body)
    })
    .await
}

/// A proxy that stores responses in the folder `stored` beside its configuration.
fn storing(backend: &Backend, max: &str) -> Setup {
    Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(&format!(
            "[[routes]]\npool = \"app\"\ncache = true\n\
             [cache]\nmemory = \"1MiB\"\ndisk = {{ path = \"stored\", max = \"{max}\" }}\n"
        ));
    })
}

fn folder(proxy: &Proxy) -> PathBuf {
    proxy.directory().join("stored/responses")
}

/// The files of responses.
fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| !path.ends_with("owner")).collect();
    files.sort();
    files
}

async fn wait_for_files(proxy: &Proxy, count: usize) {
    let series = "moorline_cache_entries{store=\"disk\"}";
    proxy.wait_for_metric("the files", series, |entries| entries == count as f64).await;
}

#[tokio::test]
async fn a_restart_keeps_stored_responses() {
    let backend = numbering("Vary: X-Kind\r\nETag: \"x\"\r\n", 0).await;
    let proxy = storing(&backend, "8MiB").start().await;
    for (target, fields) in
        [("/a?secret", "X-Kind: a\r\n"), ("/a?secret", "X-Kind: b\r\n"), ("/b?other", "")]
    {
        get(&proxy, target, fields).await;
    }
    wait_for_files(&proxy, 2).await;
    let written = "moorline_cache_disk_writes_total{result=\"ok\"}";
    proxy.wait_for_metric("all variants", written, |count| count == 3.0).await;
    let responses = folder(&proxy);
    assert_eq!(responses.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for file in files(&responses) {
        let name = file.file_name().unwrap().to_str().unwrap().replace('-', "");
        assert!(name.len() == 48 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let proxy = proxy.crash().start().await;
    wait_for_files(&proxy, 2).await;
    for (fields, body) in [("X-Kind: b\r\n", "body 2"), ("X-Kind: a\r\n", "body 1")] {
        let reply = get(&proxy, "/a?secret", fields).await;
        assert_eq!((reply.text().as_str(), cache_status(&reply).as_str()), (body, "moorline; hit"));
    }
    let mut client = Raw::connect(proxy.web()).await;
    client.send(b"HEAD /b?other HTTP/1.1\r\nHost: app.test\r\nIf-None-Match: \"y\"\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("6"), Some("\"x\"")));
    assert_eq!(backend.requests().len(), 3);
    let state = proxy.command(&["cache"]).await.done();
    assert!(state.ends_with("\non disk, of 2 URLs: 1 of 8 MiB\n"), "{state}");
    drop((client, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn an_upgrade_keeps_stored_responses() {
    let backend = numbering("", 0).await;
    let mut proxy = storing(&backend, "8MiB").start().await;
    get(&proxy, "/", "").await;
    wait_for_files(&proxy, 1).await;
    proxy.upgrade().await;
    // A miss would be stored.
    while get(&proxy, "/", "Cache-Control: only-if-cached\r\n").await.status() == 504 {}
    let reply = get(&proxy, "/", "").await;
    assert_eq!((reply.text().as_str(), cache_status(&reply).as_str()), ("body 1", "moorline; hit"));
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn removals_reach_the_disk() {
    let backend = numbering("", 0).await;
    let mut proxy = storing(&backend, "8MiB").start().await;
    let targets = ["/post", "/url", "/prefix/x", "/tag?t", "/all"];
    for target in targets {
        get(&proxy, target, "").await;
    }
    wait_for_files(&proxy, 5).await;
    // Only the disk has them.
    proxy = proxy.crash().start().await;
    wait_for_files(&proxy, 5).await;
    Raw::ask(proxy.web(), message::post("/post", "", "x")).await;
    wait_for_files(&proxy, 4).await;
    for (left, words) in [
        (3, &["--url", "http://app.test/url"][..]),
        (2, &["--prefix", "http://app.test/prefix/"]),
        (1, &["--tag", "t"]),
        (0, &["--all"]),
    ] {
        let said = proxy.command(&[&["cache", "purge"], words].concat()).await.done();
        assert_eq!(said, "removed the stored responses of 1 URL\n", "{words:?}");
        assert_eq!(files(&folder(&proxy)).len(), left, "{words:?}");
    }
    for target in targets {
        let status = cache_status(&get(&proxy, target, "").await);
        assert_eq!(status, "moorline; fwd=uri-miss; stored", "{target}");
    }
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn the_disk_has_what_memory_has_no_room_for_and_is_bounded() {
    let backend = numbering("", 200_000).await;
    let proxy = storing(&backend, "2MiB").start().await;
    for number in 0..9 {
        get(&proxy, &format!("/{number}"), "").await;
        wait_for_files(&proxy, number + 1).await;
    }
    for number in 0..9 {
        let reply = get(&proxy, &format!("/{number}"), "").await;
        assert_eq!(cache_status(&reply), "moorline; hit", "{number}");
        assert!(reply.text().starts_with(&format!("body {}x", number + 1)));
    }
    assert_eq!(backend.requests().len(), 9);
    for number in 9..14 {
        get(&proxy, &format!("/{number}"), "").await;
        let written = "moorline_cache_disk_writes_total{result=\"ok\"}";
        proxy.wait_for_metric("the file", written, |count| count == (number + 1) as f64).await;
    }
    let evicted = "moorline_cache_evictions_total{store=\"disk\"}";
    proxy.wait_for_metric("evictions", evicted, |count| count >= 4.0).await;
    eventually("removed files", || {
        let sizes =
            files(&folder(&proxy)).into_iter().map(|file| file.metadata().unwrap().blocks());
        sizes.sum::<u64>() * 512 <= 2 << 20
    })
    .await;
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn damaged_and_foreign_files_are_misses() {
    let backend = numbering("", 1000).await;
    let proxy = storing(&backend, "8MiB").start().await;
    let mut paths = Vec::new();
    for (number, target) in
        ["/cut", "/body", "/head", "/link", "/other", "/whole"].iter().enumerate()
    {
        get(&proxy, target, "").await;
        wait_for_files(&proxy, number + 1).await;
        let new = files(&folder(&proxy)).into_iter().find(|path| !paths.contains(path));
        paths.push(new.unwrap());
    }
    let setup = proxy.crash();
    let change = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        let at = if at == 0 { bytes.len() - 1 } else { at };
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let outside = setup.directory().join("outside");
    fs::copy(&paths[3], &outside).unwrap();
    fs::File::options().write(true).open(&paths[0]).unwrap().set_len(700).unwrap();
    change(&paths[1], 0);
    change(&paths[2], 60);
    fs::remove_file(&paths[3]).unwrap();
    symlink(&outside, &paths[3]).unwrap();
    // That of another URL.
    fs::copy(&paths[5], &paths[4]).unwrap();
    fs::write(paths[0].with_file_name("new-0"), "unfinished").unwrap();
    fs::write(paths[0].with_file_name("note"), "not ours").unwrap();
    let proxy = setup.start().await;
    // The body is not read yet.
    wait_for_files(&proxy, 2).await;
    for (target, expected) in [
        ("/cut", "moorline; fwd=uri-miss; stored"),
        ("/body", "moorline; fwd=uri-miss; stored"),
        ("/head", "moorline; fwd=uri-miss; stored"),
        ("/link", "moorline; fwd=uri-miss; stored"),
        ("/other", "moorline; fwd=uri-miss; stored"),
        ("/whole", "moorline; hit"),
    ] {
        assert_eq!(cache_status(&get(&proxy, target, "").await), expected, "{target}");
    }
    wait_for_files(&proxy, 6).await;
    assert!(outside.exists() && !paths[3].is_symlink());
    assert_eq!(files(&folder(&proxy)).len(), 7, "all of them, and the note");
    drop(backend);
    proxy.finish().await;
}

#[tokio::test]
async fn the_cache_goes_on_from_memory_if_the_disk_fails() {
    let backend = numbering("", 0).await;
    let hits = async |proxy: &Proxy, target: &str| {
        get(proxy, target, "").await;
        assert_eq!(cache_status(&get(proxy, target, "").await), "moorline; hit");
    };
    let cannot = "cannot use the folder; stored responses are kept only in memory";
    // Others may open the folder.
    let setup = storing(&backend, "8MiB");
    fs::create_dir_all(setup.directory().join("stored/responses")).unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(setup.directory().join("stored/responses"), mode).unwrap();
    let proxy = setup.start().await;
    proxy.wait_for_stderr("why", |line| line.contains(cannot) && line.contains("0700")).await;
    hits(&proxy, "/").await;
    proxy.command(&["cache", "purge", "--all"]).await.done();
    // A disk that cannot be written to, and works again.
    let setup = proxy.crash();
    fs::remove_dir(setup.directory().join("stored/responses")).unwrap();
    let proxy = setup.start().await;
    eventually("the folder", || folder(&proxy).join("owner").exists()).await;
    let owner = fs::read_to_string(folder(&proxy).join("owner")).unwrap();
    let obstacle = folder(&proxy).join(format!("new-{owner}"));
    fs::create_dir(&obstacle).unwrap();
    let failed = "moorline_cache_disk_writes_total{result=\"failed\"}";
    hits(&proxy, "/a").await;
    hits(&proxy, "/b").await;
    proxy.wait_for_metric("failures", failed, |count| count == 2.0).await;
    fs::remove_dir(&obstacle).unwrap();
    hits(&proxy, "/c").await;
    wait_for_files(&proxy, 1).await;
    assert_eq!(proxy.stderr_text().matches("cannot write to the folder").count(), 1);
    // Another process takes the folder over.
    fs::write(folder(&proxy).join("owner"), "another process").unwrap();
    hits(&proxy, "/d").await;
    proxy.wait_for_stderr("why", |line| line.contains("another process has taken over")).await;
    hits(&proxy, "/e").await;
    assert_eq!(files(&folder(&proxy)).len(), 1);
    drop(backend);
    proxy.finish().await;
}
