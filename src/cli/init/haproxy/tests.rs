//! Single rules of the translation; whole files are under `tests/init`.

use std::{io, path::Path};

use super::{
    super::{Translation, files::SourceFiles, note::NoteKind},
    translate,
};

fn translated(text: &str) -> Translation {
    let read = |path: &Path| match path == Path::new("haproxy.cfg") {
        true => Ok(text.to_owned()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let list = |_: &Path| Err(io::ErrorKind::NotFound.into());
    translate(Path::new("haproxy.cfg"), &SourceFiles { read: &read, list: &list }).unwrap()
}

fn text(translation: &Translation) -> String {
    translation.draft.text("", &[])
}

#[test]
fn no_line_is_dropped_silently() {
    let translation = translated(
        "global\n xyzzy-global\ndefaults\n xyzzy-defaults\n mode http\nfrontend f\n xyzzy-frontend\n \
         bind :80 xyzzy-bind\n option xyzzy-option\n http-request xyzzy-rule\n default_backend b\nbackend b\n \
         xyzzy-backend\n server s 127.0.0.1:1 check xyzzy-server\ncache xyzzy-cache\n",
    );
    let all: String = translation.notes.iter().map(|note| note.text() + "\n").collect();
    for place in
        ["global", "defaults", "frontend", "bind", "option", "rule", "backend", "server", "cache"]
    {
        assert!(all.contains(&format!("xyzzy-{place}")), "{place}: {all}");
    }
}

#[test]
fn the_first_matching_rule_is_used() {
    let translation = translated(
        "defaults\n mode http\nfrontend f\n bind :80\n use_backend api if { path_beg /api/ }\n \
         use_backend chat if { hdr(host) chat.test }\n default_backend site\n\
         backend api\n server s 127.0.0.1:1\nbackend chat\n server s 127.0.0.1:2\n\
         backend site\n server s 127.0.0.1:3\n",
    );
    let text = text(&translation);
    let both = "host = \"chat.test\"\npath = \"/api/\"\npool = \"api\"\n";
    assert!(text.contains(both), "{text}");
}

#[test]
fn the_timeout_of_a_health_check_is_at_most_its_interval() {
    let translation = translated(
        "listen a\n mode http\n bind :80\n timeout check 10s\n server s 127.0.0.1:1 check inter 3s\n",
    );
    let text = text(&translation);
    assert!(
        text.contains("health.timeout = \"3s\"") && text.contains("health.interval = \"3s\""),
        "{text}"
    );
    assert!(
        translation
            .notes
            .iter()
            .any(|note| note.kind == NoteKind::Different && note.directive == "timeout check 10s")
    );
}

#[test]
fn the_default_mode_is_tcp() {
    let translation = translated("listen a\n bind :5432\n server s 127.0.0.1:5433\n");
    let text = text(&translation);
    assert!(text.contains("protocol = \"tcp\"\npool = \"a\"\n"), "{text}");
    assert!(!text.contains("[[routes]]"), "{text}");
}

#[test]
fn named_defaults_apply_to_sections_that_refer_to_them() {
    let translation = translated(
        "defaults one\n mode http\n balance leastconn\ndefaults two\n mode http\n balance source\n\
         listen a from one\n bind :80\n server s 127.0.0.1:1\nlisten b\n bind :81\n server s 127.0.0.1:2\n",
    );
    let pools: Vec<(&str, Option<&str>)> = translation
        .draft
        .pools
        .iter()
        .map(|pool| (&*pool.name, pool.settings.value("balance")))
        .collect();
    assert_eq!(pools, [("a", Some("\"least-sessions\"")), ("b", Some("\"source-hash\""))]);
}

/// The translation of a frontend with these lines and a backend with these.
fn routed(frontend: &str, backend: &str) -> Translation {
    translated(&format!(
        "defaults\n mode http\nfrontend f\n bind :80\n{frontend}\n default_backend app\n\
         backend app\n{backend}\n server s 127.0.0.1:1\nbackend next\n server s 127.0.0.1:2\n\
         cache store\n total-max-size 64\n"
    ))
}

#[test]
fn rules_become_settings_of_routes() {
    for (frontend, backend, expected) in [
        (
            "http-request set-header X-Client %[src]\nhttp-request del-header X-Debug",
            "http-response del-header Server\nhttp-response add-header X-Id %[unique-id]",
            "headers.request = { remove = [\"X-Debug\"], set = { X-Client = \"{client_ip}\" } }\n\
             headers.response = { remove = [\"Server\"], append = { X-Id = \"{request_id}\" } }\n",
        ),
        (
            "acl office src 10.0.0.0/8\nhttp-request deny unless office",
            "",
            "allow = [\"10.0.0.0/8\"]\n",
        ),
        ("http-request deny if !{ src 10.0.0.0/8 ::1 }", "", "allow = [\"10.0.0.0/8\", \"::1\"]\n"),
        ("tcp-request connection reject if { src 192.0.2.7 }", "", "deny = [\"192.0.2.7\"]\n"),
        (
            "stick-table type ip size 1m expire 1m store http_req_rate(10s)\nhttp-request track-sc0 src\n\
             http-request deny deny_status 429 if { sc_http_req_rate(0) gt 20 }",
            "",
            "limits = [{ rate = \"120/m\", burst = 20 }]\n",
        ),
        (
            "compression algo gzip\ncompression type text/html text/css",
            "",
            "compress = { encodings = [\"gzip\"], types = [\"text/html\", \"text/css\"] }\n",
        ),
        ("", "http-request cache-use store\nhttp-response cache-store store", "cache = true\n"),
        (
            "",
            "http-request replace-path ^/app1/(.*)$ /\\1",
            "rewrite.regex = { pattern = \"/app1/(.*)\", with = \"/$1\" }\n",
        ),
        (
            "use_backend next if { rand(100) lt 5 }",
            "",
            "split = [{ pool = \"next\", weight = 5 }, { pool = \"app\", weight = 95 }]\n",
        ),
        (
            "http-request return status 200 content-type text/plain string pong if { path /ping }",
            "",
            "path = \"/ping\"\nrespond = { status = 200, body = \"pong\", type = \"text/plain\" }\n",
        ),
        (
            "http-request deny if { path_beg /internal/ }",
            "",
            "path = \"/internal/\"\nrespond = { status = 403 }\n",
        ),
        (
            "http-request redirect prefix https://new.test code 301 if { hdr(host) old.test }",
            "",
            "host = \"old.test\"\npath = \"/\"\nredirect = { to = \"https://new.test{path}{query}\", status = 301 }\n",
        ),
        (
            "redirect location /new/ if { path_beg /old/ }",
            "",
            "redirect = { to = \"/new/\", status = 302 }\n",
        ),
        (
            "",
            " server u unix@/run/app.sock\n server b 127.0.0.1:9 backup",
            "    { name = \"u\", address = \"unix:/run/app.sock\" },\n    \
             { name = \"b\", address = \"127.0.0.1:9\", backup = true },\n",
        ),
    ] {
        let translation = routed(frontend, backend);
        let text = text(&translation);
        assert!(text.contains(expected), "{frontend}\n{backend}\n{text}\n{:?}", translation.notes);
    }
}

#[test]
fn rules_without_an_equivalent_are_noted_once() {
    for (frontend, line, reason) in [
        ("http-request set-header X-A %[rand(5)]", "http-request set-header", "%[rand(5)]"),
        (
            "http-request set-header X-A 1 if { path_beg /x }",
            "http-request set-header",
            "conditions",
        ),
        ("http-response set-header Connection close", "http-response set-header", "itself"),
        ("http-request deny if { hdr_cnt(x) gt 2 }", "http-request deny", ""),
        ("http-request replace-path (?!x) /y", "http-request replace-path", "no equivalent"),
        ("compression algo deflate", "compression algo", "encodings"),
        ("http-request return status 200 file /x if { path /y }", "http-request return", "respond"),
        ("use_backend next if !{ hdr(x) 1 }", "use_backend", "`match`"),
        (
            "http-request auth if { path_beg /x } !{ http_auth(staff) }",
            "http-request auth",
            "no equivalent check",
        ),
        (
            "http-request auth unless { http_auth(none) }",
            "http-request auth",
            "no equivalent check",
        ),
    ] {
        let notes = routed(frontend, "").notes;
        let of = notes.iter().filter(|note| note.directive.starts_with(line));
        let found: Vec<&str> = of.map(|note| note.reason.as_str()).collect();
        assert!(found.len() == 1 && found[0].contains(reason), "{frontend}: {notes:?}");
    }
    let denied = routed("http-request deny if { hdr_cnt(x) gt 2 }", "").notes;
    assert!(denied.iter().any(|note| note.kind == NoteKind::Unprotected));
}
