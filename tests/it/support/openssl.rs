//! OpenSSL's client and other TLS tools, run against a TLS listener.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{TIMEOUT, message};

/// Path of a file in `certs/`, the repository's test certificates.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs").join(name)
}

/// Value for a listener's `certificates`: a certificate of the test authority with an OCSP response, and a
/// certificate with an RSA key for `other.test`.
pub(crate) fn certificates() -> String {
    let [cert, key, ocsp] = ["signed.pem", "signed.key", "signed.ocsp"].map(file);
    let [other, other_key] = ["other.pem", "other.key"].map(file);
    format!(
        "[{{ cert = {cert:?}, key = {key:?}, ocsp = {ocsp:?} }}, \
         {{ cert = {other:?}, key = {other_key:?} }}]"
    )
}

/// Runs `openssl s_client`, which sends `input` and waits for the end of the connection; returns its output.
/// `words` are further arguments. The server name is `localhost` by default; the test authority is trusted.
pub(crate) async fn s_client(address: SocketAddr, words: &str, input: impl AsRef<[u8]>) -> String {
    let mut all = vec!["s_client".to_owned(), "-connect".to_owned(), address.to_string()];
    if !words.contains("-noservername") && !words.contains("-servername") {
        all.extend(["-servername", "localhost"].map(str::to_owned));
    }
    all.extend(["-CAfile".to_owned(), file("ca.pem").display().to_string()]);
    all.extend(words.split_whitespace().map(str::to_owned));
    run("openssl", &all, input.as_ref(), TIMEOUT).await
}

/// Runs [`s_client`] with one request, after which the proxy closes the connection.
pub(crate) async fn request(address: SocketAddr, words: &str) -> String {
    s_client(address, words, message::get("/", "Connection: close\r\n")).await
}

/// Options for a client certificate from `certs/NAME.pem` and `certs/NAME.key`.
pub(crate) fn as_client(name: &str) -> String {
    let [cert, key] = ["pem", "key"].map(|kind| file(&format!("{name}.{kind}")));
    format!("-cert {} -key {}", cert.display(), key.display())
}

/// Runs a command, which must end before the deadline; returns its output. Its input stays open meanwhile.
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
    // An error means that the command ended without reading its input.
    let _ = stdin.write_all(input).await;
    let output = timeout(deadline, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command} {words:?} never ended")).unwrap();
    drop(stdin);
    let texts =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    texts.concat()
}

/// Asserts that a text contains all of these parts.
pub(crate) fn assert_says(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "no {needle:?} in {text}");
    }
}
