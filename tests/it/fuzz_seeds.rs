//! Seeds of the fuzz targets: they pass the checks of the targets, and the parsers read them as expected.
//! `tests/fuzz` runs the targets.

use std::{fs, path::PathBuf};

use moorline::net::{
    client_hello::{Peeked, read},
    proxy_protocol::{ParsedHeader, parse},
};

#[path = "../../fuzz/checks/client_hello.rs"]
mod client_hello;
#[path = "../../fuzz/checks/proxy_header.rs"]
mod proxy_header;

/// Names and contents of a target's seeds.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = fs::read_dir(folder).expect("a folder of seeds").map(|entry| {
        let path = entry.expect("a seed").path();
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("a readable seed"))
    });
    entries.collect()
}

#[test]
fn seeds_pass_the_checks_of_their_fuzz_target() {
    for (target, check) in
        [("client_hello", client_hello::check as fn(&[u8])), ("proxy_header", proxy_header::check)]
    {
        let seeds = seeds(target);
        assert!(seeds.len() > 10, "{target} has {} seeds", seeds.len());
        for (name, bytes) in seeds {
            println!("{target}/{name}");
            check(&bytes);
        }
    }
}

#[test]
fn client_hellos_of_real_programs_have_server_name_and_protocols() {
    let mut summaries = Vec::new();
    for (name, bytes) in seeds("client_hello") {
        let what = match read(&bytes) {
            Peeked::Hello(hello) => {
                let protocols = hello.protocols().map(String::from_utf8_lossy).collect::<Vec<_>>();
                format!("{} {}", hello.sni.as_deref().unwrap_or("-"), protocols.join(","))
            }
            other => format!("{other:?}"),
        };
        summaries.push(format!("{name}: {}", what.trim_end()));
    }
    summaries.sort();
    let expected = [
        "alert: NotTls",
        "bytewise: Incomplete",
        "chromium: www.example.com h2,http/1.1",
        "curl: www.example.com h2,http/1.1",
        "fragments: db.example.com h2,http/1.1",
        "half: Incomplete",
        "http: NotTls",
        "openssl-no-sni: -",
        "openssl-postgres: db postgresql",
        "openssl-tls12: chat.example.com",
        "openssl: db.example.com h2,http/1.1",
        "rustls: localhost",
        "ssh: NotTls",
        "ssl2: NotTls",
        "trailing: db.example.com h2,http/1.1",
    ];
    assert_eq!(summaries, expected);
}

#[test]
fn proxy_headers_of_real_programs_are_whole() {
    for (name, bytes) in seeds("proxy_header") {
        if name.starts_with("haproxy") || name == "curl" {
            let ParsedHeader::Whole(header) = parse(&bytes) else {
                panic!("{name}: {:?}", parse(&bytes))
            };
            assert!(header.ends.is_some(), "{name}");
            assert!(bytes.len() > header.length, "{name}: no bytes after the header");
        }
    }
}
