//! Speaking to a proxy's admin API, by raw requests and by its command line.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Message, Proxy, within};

/// The API on a unix socket.
pub(crate) struct Api(PathBuf);

impl Proxy {
    /// Where its admin socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory().join("moorline.sock")
    }

    /// Its admin API.
    pub(crate) fn api(&self) -> Api {
        Api(self.socket())
    }

    /// Runs `moorline` with these words, in the proxy's folder, where it finds the proxy.
    pub(crate) async fn command(&self, words: &[&str]) -> Ran {
        command(self.directory(), words, "", &[]).await
    }
}

impl Api {
    /// The response to these bytes on a connection of its own.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Message {
        let mut stream = within("connecting", UnixStream::connect(&self.0)).await.unwrap();
        within("sending", stream.write_all(request.as_ref())).await.unwrap();
        let mut bytes = Vec::new();
        loop {
            if let Some((message, _)) = Message::read(&bytes) {
                return message;
            }
            let read = within("an answer", stream.read_buf(&mut bytes)).await.unwrap();
            assert!(read > 0, "no answer: {:?}", String::from_utf8_lossy(&bytes));
        }
    }

    /// The response to a request with JSON; an empty body is none.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Message {
        let length = body.len();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.raw(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{kind}\r\n{body}"
        ))
        .await
    }

    /// What a `GET` answers, which must be a success.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, "").await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        reply.json()
    }
}

impl Message {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Asserts success and that the answer says which process gave it; gives what was printed before that.
    pub(crate) fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        let Some((said, whose)) = self.out.split_once("\n-- process ") else { return self.out };
        assert!(whose.contains("moorline.toml") && whose.contains(".sock"), "{whose}");
        format!("{said}\n")
    }

    /// Asserts exit code 1 and one sentence that contains `needle`.
    pub(crate) fn refused(self, needle: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        assert!(self.err.contains(needle), "{self:?}");
    }

    /// The JSON document that was printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs `moorline` in a folder where it looks for its socket.
pub(crate) async fn command(
    folder: &Path,
    words: &[&str],
    input: &str,
    env: &[(&str, &OsStr)],
) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command
        .args(words)
        .current_dir(folder)
        .env("XDG_RUNTIME_DIR", folder)
        .env_remove("MOORLINE_SOCKET")
        .env_remove("MOORLINE_TOKEN")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || -> Output {
        let mut child = command.spawn().unwrap();
        // It need not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let output = within("a command", tokio::task::spawn_blocking(run)).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("an exit code");
    Ran { code, out: text(output.stdout), err: text(output.stderr) }
}
