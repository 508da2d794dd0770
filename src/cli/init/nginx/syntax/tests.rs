//! Tests of the parser.

use std::io;

use super::*;

/// Parses files by their names; the first one is `nginx.conf`.
fn parsed(texts: &[(&str, &str)]) -> Result<Vec<Directive>, TranslateError> {
    let read = |path: &Path| {
        let found = texts.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or(io::ErrorKind::NotFound.into())
    };
    let list = |folder: &Path| {
        let names = texts.iter().map(|(name, _)| Path::new(name));
        let inside = names.filter(|name| name.parent() == Some(folder));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    };
    parse(Path::new("nginx.conf"), &SourceFiles { read: &read, list: &list })
}

fn shown(directives: &[Directive]) -> Vec<String> {
    directives.iter().map(|d| format!("{}: {}", d.origin, d.text())).collect()
}

#[test]
fn words_quotes_comments_and_blocks_are_read() {
    let text = "user www; # a comment; with a semicolon\n\
                http {\n  log_format main '$remote_addr \"$request\"'\n    \"a\\\"b\";\n\
                location ~ ^/socket\\.io/ { set $x ${host}y; return 200 \"{}\"; }\n}\n";
    let read = parsed(&[("nginx.conf", text)]).unwrap();
    assert_eq!(shown(&read), ["nginx.conf:1: user www", "nginx.conf:2: http {…}"]);
    let http = read[1].children();
    assert_eq!(http[0].args, ["main", "$remote_addr \"$request\"", "a\"b"]);
    assert_eq!((http[0].origin.line, http[1].origin.line), (3, 5));
    assert_eq!(http[1].args, ["~", "^/socket\\.io/"]);
    let location = http[1].children();
    assert_eq!(location[0].args, ["$x", "${host}y"]);
    assert_eq!(location[1].args, ["200", "{}"]);
}

#[test]
fn includes_are_read_in_place_and_keep_their_own_lines() {
    let read = parsed(&[
        ("nginx.conf", "http {\n include conf.d/*.conf;\n include none.conf;\n}"),
        ("conf.d/a.conf", "\nserver { listen 80; }"),
        ("conf.d/b.conf", "server { listen 81; }"),
    ])
    .unwrap();
    let http = read[0].children();
    assert_eq!(
        shown(http),
        [
            "nginx.conf:2: include conf.d/*.conf",
            "conf.d/a.conf:2: server {…}",
            "conf.d/b.conf:1: server {…}",
            "nginx.conf:3: include none.conf"
        ]
    );
    let handled: Vec<bool> = http.iter().map(|directive| directive.handled.get()).collect();
    assert_eq!(handled, [true, false, false, false]);
}

#[test]
fn blocks_of_lua_are_skipped() {
    let text = "a { content_by_lua_block { if x then y = { 1; } end } }\nb;";
    let read = parsed(&[("nginx.conf", text)]).unwrap();
    assert_eq!(shown(&read), ["nginx.conf:1: a {…}", "nginx.conf:2: b"]);
}

#[test]
fn syntax_errors_have_their_line() {
    for (text, expected) in [
        ("a;\nb { c;", "nginx.conf:2: this block is not closed"),
        ("a;\n}", "nginx.conf:2: this brace has no directive"),
        ("\n{ }", "nginx.conf:2: this brace has no directive"),
        ("a\n'b", "nginx.conf:2: this quote is not closed"),
        ("a { b }", "nginx.conf:1: this directive does not end with `;`"),
        ("a b c", "nginx.conf:1: this directive does not end with `;`"),
        ("include nginx.conf;", "nginx.conf:1: includes or blocks are nested too deeply"),
    ] {
        let error = parsed(&[("nginx.conf", text)]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
    let deep = "a { ".repeat(100_000);
    assert!(parsed(&[("nginx.conf", &deep)]).unwrap_err().to_string().contains("too deeply"));
}
