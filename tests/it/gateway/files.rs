//! Static files, and the ways to ask for files that must not be served.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
};

use rustix::fs::{Advice, fadvise};

use super::compression::decoded;
use crate::support::{
    Message, Proxy, Raw, message, node::handshake_target, proxy::Setup, websocket,
};

/// A proxy that serves a folder; `keys` are more keys of `files`, `more` more keys of the route.
struct Site {
    proxy: Proxy,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start(keys: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("www");
        write(&root, "index.html", "<h1>home</h1>");
        write(&root, "app.js", &"let app = 1;\n".repeat(500));
        write(&root, "docs/index.html", "<h1>docs</h1>");
        write(&root, "docs/a b.txt", "0123456789");
        write(&root, "empty.txt", "");
        write(&root, ".env", "SECRET=1");
        write(&root, ".git/config", "secret");
        write(&root, ".well-known/security.txt", "Contact: x");
        write(folder.path(), "secret.txt", "secret");
        write(folder.path(), "www-other/secret.txt", "secret");
        symlink("../secret.txt", root.join("out.txt")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink("docs", root.join("inside")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let setup = Setup::new().with(|settings| {
            settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
            let root = root.display();
            settings.table(&format!("[[routes]]\nfiles = {{ root = \"{root}\"{keys} }}\n{more}"));
        });
        Self { proxy: setup.start().await, folder }
    }

    async fn get(&self, target: &str, fields: &str) -> Message {
        Raw::ask(self.proxy.web(), message::get(target, fields)).await
    }

    async fn finish(self) {
        self.proxy.finish().await;
    }
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn files_have_types_tags_and_lengths() {
    let site = Site::start("", "").await;
    let mut client = Raw::connect(site.proxy.web()).await;
    for (target, kind, body) in [
        ("/", "text/html; charset=utf-8", "<h1>home</h1>"),
        ("/index.html", "text/html; charset=utf-8", "<h1>home</h1>"),
        ("/docs/a%20b.txt?v=1", "text/plain; charset=utf-8", "0123456789"),
        ("//docs//%61%20b.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/docs/", "text/html; charset=utf-8", "<h1>docs</h1>"),
        ("/inside/a%20b.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/empty.txt", "text/plain; charset=utf-8", ""),
        ("/.well-known/security.txt", "text/plain; charset=utf-8", "Contact: x"),
    ] {
        // One connection for all of them.
        client.send(message::get(target, "")).await;
        let reply = client.response().await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, body), "{target}");
        assert_eq!(reply.header("content-type"), Some(kind), "{target}");
        assert_eq!(reply.header("content-length"), Some(&*body.len().to_string()), "{target}");
        assert!(reply.header("etag").is_some() && reply.header("last-modified").is_some());
        let id = reply.header("x-request-id").unwrap();
        let line = site.proxy.wait_for_log("the line", |line| line["id"] == id).await;
        assert_eq!((&line["status"], &line["bytes_out"]), (&200.into(), &body.len().into()));
        assert_eq!(line["termination"], "answered");
        let head = Raw::connect(site.proxy.web()).await;
        let mut head = head;
        head.send(format!("HEAD {target} HTTP/1.1\r\nHost: app.test\r\n\r\n")).await;
        let head = head.head().await;
        assert_eq!(head.header("content-length"), reply.header("content-length"), "{target}");
        assert_eq!(head.header("etag"), reply.header("etag"), "{target}");
    }
    drop(client);
    site.finish().await;
}

#[tokio::test]
async fn a_large_file_is_whole_and_streams_to_old_clients_too() {
    let site = Site::start("", "").await;
    let text: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    write(&site.folder.path().join("www"), "large.bin", &text);
    assert!(site.get("/large.bin", "").await.text() == text);
    let old = "GET /large.bin HTTP/1.0\r\nHost: app.test\r\n\r\n";
    assert!(Raw::ask(site.proxy.web(), old).await.text() == text);
    // A client that leaves in the middle ends its request.
    let mut client = Raw::connect(site.proxy.web()).await;
    client.send(message::get("/large.bin?left", "")).await;
    client.head().await;
    client.reset();
    let line = |line: &serde_json::Value| line["path"].as_str().is_some_and(|p| p.contains("left"));
    let line = site.proxy.wait_for_log("the line", line).await;
    assert!(
        ["answered", "client_response_body_incomplete"]
            .contains(&line["termination"].as_str().unwrap())
    );
    site.finish().await;
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let site = Site::start("", "").await;
    let target = "/docs/a%20b.txt";
    let whole = site.get(target, "").await;
    let (tag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    for fields in [format!("If-None-Match: {tag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
        let reply = site.get(target, &fields).await;
        assert_eq!((reply.status(), reply.body.len()), (304, 0), "{fields}");
    }
    assert_eq!(site.get(target, "If-None-Match: \"other\"\r\n").await.status(), 200);
    assert_eq!(site.get(target, "If-Match: \"other\"\r\n").await.status(), 412);
    for (fields, status, range, body) in [
        ("Range: bytes=2-4\r\n".to_owned(), 206, Some("bytes 2-4/10"), "234"),
        ("Range: bytes=-3\r\n".to_owned(), 206, Some("bytes 7-9/10"), "789"),
        ("Range: bytes=10-\r\n".to_owned(), 416, Some("bytes */10"), ""),
        ("Range: bytes=0-1,3-4\r\n".to_owned(), 200, None, "0123456789"),
        (format!("Range: bytes=2-4\r\nIf-Range: {date}\r\n"), 206, Some("bytes 2-4/10"), "234"),
        ("Range: bytes=2-4\r\nIf-Range: \"other\"\r\n".to_owned(), 200, None, "0123456789"),
        (format!("Range: bytes=2-4\r\nIf-Range: W/{tag}\r\n"), 200, None, "0123456789"),
    ] {
        let reply = site.get(target, &fields).await;
        assert_eq!((reply.status(), reply.text().as_str()), (status, body), "{fields}");
        assert_eq!(reply.header("content-range"), range, "{fields}");
    }
    site.finish().await;
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder_or_to_hidden_files() {
    let site = Site::start("", "").await;
    for target in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/.%2e/secret.txt",
        "/docs/..%2f..%2fsecret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/index.html%00.txt",
        "/..;/secret.txt",
        "/%252e%252e/secret.txt",
        "/out.txt",
        "/up/secret.txt",
        "/up/www-other/secret.txt",
        "/etc/passwd",
        "/etc",
        "/loop",
        "/docs%2fa%20b.txt",
        "//etc/passwd",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/.git/",
        "/index.html/",
        "/index.html/x",
        "/no.html",
        "/%ff",
    ] {
        let reply = site.get(target, "Accept: text/html\r\n").await;
        assert!([400, 404].contains(&reply.status()), "{target}: {}", reply.status());
        assert!(!reply.text().contains("secret") && !reply.text().contains("root:"), "{target}");
    }
    let long = format!("/{}", "x".repeat(2000));
    assert_eq!(site.get(&long, "").await.status(), 404);
    let missing = site.get("/no.html", "").await;
    assert!(missing.text().contains("There is no such file."), "{}", missing.text());
    let id = missing.header("x-request-id").unwrap();
    let line = site.proxy.wait_for_log("the line", |line| line["id"] == id).await;
    assert_eq!(line["termination"], "proxy_select_no_file");
    site.finish().await;
}

#[tokio::test]
async fn a_pipe_is_not_opened() {
    let site = Site::start("", "").await;
    let pipe = site.folder.path().join("www/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(site.get("/pipe", "").await.status(), 404);
    site.finish().await;
}

#[tokio::test]
async fn hidden_files_are_served_if_that_is_set() {
    let site = Site::start(", hidden = true", "").await;
    assert_eq!(site.get("/.git/config", "").await.text(), "secret");
    assert_eq!(site.get("/%2e%2e/secret.txt", "").await.status(), 400);
    site.finish().await;
}

#[tokio::test]
async fn only_get_and_head_are_allowed() {
    let site = Site::start("", "").await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let request =
            format!("{method} /index.html HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n");
        let reply = Raw::ask(site.proxy.web(), request).await;
        assert_eq!((reply.status(), reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    for request in
        [message::get(&handshake_target("t0"), ""), websocket::request("/index.html", "")]
    {
        assert_eq!(Raw::ask(site.proxy.web(), request).await.status(), 404);
    }
    site.finish().await;
}

#[tokio::test]
async fn a_folder_without_its_slash_is_redirected_by_the_client_s_path() {
    let more = "path = \"/site\"\nrewrite = { strip_prefix = \"/site\" }\n";
    let site = Site::start("", more).await;
    for (target, expected) in
        [("/site/docs?a=b", "/site/docs/?a=b"), ("//site//docs", "/site/docs/")]
    {
        let reply = site.get(target, "").await;
        assert_eq!((reply.status(), reply.header("location")), (307, Some(expected)), "{target}");
    }
    assert_eq!(site.get("/site/docs/", "").await.text(), "<h1>docs</h1>");
    assert_eq!(site.get("/site/.well-known/", "").await.status(), 404);
    site.finish().await;
}

#[tokio::test]
async fn a_page_of_an_app_answers_navigations_only() {
    let site = Site::start(", spa = \"/index.html\"", "").await;
    let browser =
        "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nSec-Fetch-Mode: navigate\r\n";
    let page = site.get("/users/7", browser).await;
    assert_eq!((page.status(), page.text().as_str()), (200, "<h1>home</h1>"));
    assert_eq!(page.header("vary"), Some("Accept, Sec-Fetch-Mode"));
    for fields in ["Accept: */*\r\nSec-Fetch-Mode: no-cors\r\n", "Accept: application/json\r\n", ""]
    {
        assert_eq!(site.get("/assets/old.js", fields).await.status(), 404, "{fields}");
    }
    assert_eq!(site.get("/app.js", browser).await.header("vary"), None);
    assert_eq!(site.get("/users/..%2f7", browser).await.status(), 400);
    assert_eq!(site.get("/.env", browser).await.status(), 404);
    site.finish().await;
}

#[tokio::test]
async fn compressed_files_are_sent_as_they_are_and_others_are_compressed() {
    let site = Site::start(", precompressed = true", "compress = true\n").await;
    let root = site.folder.path().join("www");
    fs::write(root.join("app.js.br"), "brotli").unwrap();
    symlink("../secret.txt", root.join("app.js.gz")).unwrap();
    let reply = site.get("/app.js", "Accept-Encoding: gzip, br\r\n").await;
    assert_eq!((reply.text().as_str(), reply.header("content-encoding")), ("brotli", Some("br")));
    assert_eq!(reply.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert!(reply.header("vary").unwrap().eq_ignore_ascii_case("accept-encoding"));
    // Without a compressed file, or with one outside of the folder, the filter compresses.
    let reply = site.get("/app.js", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(decoded("gzip", &reply.body), "let app = 1;\n".repeat(500));
    assert!(reply.header("etag").unwrap().starts_with("W/"));
    let part = site.get("/app.js", "Accept-Encoding: gzip\r\nRange: bytes=0-3\r\n").await;
    assert_eq!((part.status(), part.text().as_str()), (206, "let "));
    let plain = site.get("/app.js", "").await;
    assert_eq!((plain.header("content-encoding"), plain.body.len()), (None, 6500));
    site.finish().await;
}

#[tokio::test]
async fn other_filters_apply_to_files() {
    let more = "max_body = 10\ncors = { origins = [\"https://app.test\"] }\n\
                headers = { response = { set = { Cache-Control = \"max-age=60\" } } }\n";
    let site = Site::start("", more).await;
    let reply = site.get("/app.js", "Origin: https://app.test\r\n").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(reply.header("cache-control"), Some("max-age=60"));
    site.finish().await;
}

#[tokio::test]
async fn links_within_the_folder_and_names_of_any_bytes_work() {
    let site = Site::start(", precompressed = true", "").await;
    let root = site.folder.path().join("www");
    let absolute = root.canonicalize().unwrap().join("docs");
    symlink(&absolute, root.join("absolute")).unwrap();
    symlink(absolute.join("a b.txt"), root.join("absolute.txt")).unwrap();
    let bytes = OsStr::from_bytes(b"latin-\xe9.txt");
    fs::write(root.join(bytes), "latin").unwrap();
    for (target, text) in [
        ("/inside/a%20b.txt", "0123456789"),
        ("/absolute/a%20b.txt", "0123456789"),
        ("/absolute.txt", "0123456789"),
        ("/absolute/", "<h1>docs</h1>"),
        ("/latin-%e9.txt", "latin"),
    ] {
        let reply = site.get(target, "Accept-Encoding: gzip\r\n").await;
        assert_eq!((reply.status(), reply.text().as_str()), (200, text), "{target}");
        assert!(reply.header("content-type").unwrap().starts_with("text/"), "{target}");
    }
    site.finish().await;
}

#[tokio::test]
async fn a_file_that_is_not_in_memory_is_read_from_the_disk() {
    let site = Site::start("", "").await;
    let text: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let path = site.folder.path().join("www/cold.bin");
    fs::write(&path, &text).unwrap();
    let file = fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    // On a file system in memory, the advice has no effect.
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    assert!(site.get("/cold.bin", "").await.text() == text);
    let part = site.get("/cold.bin", "Range: bytes=400000-400009\r\n").await;
    assert_eq!((part.status(), part.text().as_str()), (206, &text[400_000..400_010]));
    site.finish().await;
}

#[tokio::test]
async fn a_release_can_be_swapped_by_a_link() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "1/index.html", "one");
    write(folder.path(), "2/index.html", "two");
    let current = folder.path().join("current");
    symlink("1", &current).unwrap();
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&["127.0.0.1:1".parse().unwrap()]);
        settings.table(&format!("[[routes]]\nfiles = \"{}\"\n", current.display()));
    });
    let proxy = setup.start().await;
    let page = || async { Raw::ask(proxy.web(), message::get("/", "")).await };
    assert_eq!(page().await.text(), "one");
    fs::remove_file(&current).unwrap();
    assert_eq!(page().await.status(), 500);
    symlink("2", &current).unwrap();
    assert_eq!(page().await.text(), "two");
    proxy.finish().await;
}
