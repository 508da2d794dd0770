//! Clients and scanners of others: what they make of a listener that speaks TLS.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{TIMEOUT, message};

/// A file of the repository's certificates for tests.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs").join(name)
}

/// The table for a listener's `certificates`: one that the test authority has signed, with an OCSP
/// response, and one with an RSA key for `other.test`.
pub(crate) fn certificates() -> String {
    let [cert, key, ocsp] = ["signed.pem", "signed.key", "signed.ocsp"].map(file);
    let [other, other_key] = ["other.pem", "other.key"].map(file);
    format!(
        "[{{ cert = {cert:?}, key = {key:?}, ocsp = {ocsp:?} }}, \
         {{ cert = {other:?}, key = {other_key:?} }}]"
    )
}

/// What `openssl s_client` tells of one connection on which it sends `input` and then waits for the
/// end. Asks for `localhost` and trusts the test authority, where `words` say nothing else.
pub(crate) async fn s_client(address: SocketAddr, words: &str, input: impl AsRef<[u8]>) -> String {
    let mut all = vec!["s_client".to_owned(), "-connect".to_owned(), address.to_string()];
    if !words.contains("-noservername") && !words.contains("-servername") {
        all.extend(["-servername", "localhost"].map(str::to_owned));
    }
    all.extend(["-CAfile".to_owned(), file("ca.pem").display().to_string()]);
    all.extend(words.split_whitespace().map(str::to_owned));
    run("openssl", &all, input.as_ref(), TIMEOUT).await
}

/// The same with one request, after which the connection is closed.
pub(crate) async fn request(address: SocketAddr, words: &str) -> String {
    s_client(address, words, message::get("/", "Connection: close\r\n")).await
}

/// The options for a client that proves to be whom these test files are of.
pub(crate) fn as_client(name: &str) -> String {
    let [cert, key] = ["pem", "key"].map(|kind| file(&format!("{name}.{kind}")));
    format!("-cert {} -key {}", cert.display(), key.display())
}

/// All that a command says, which must end before the deadline. Its input stays open until then.
pub(crate) async fn run(
    command: &str,
    words: &[String],
    input: &[u8],
    deadline: Duration,
) -> String {
    let mut child = Command::new(command)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{command}: {error}; tests/setup installs it"));
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended without having read it.
    let _ = stdin.write_all(input).await;
    let output = timeout(deadline, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command} {words:?} never ended")).unwrap();
    drop(stdin);
    let texts =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    texts.concat()
}

/// Panics unless a text has all of these in it.
pub(crate) fn assert_says(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "no {needle:?} in {text}");
    }
}
