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
