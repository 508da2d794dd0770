//! Access to a proxy's admin API, by raw requests and by the command line.

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

/// Client of the admin API on a Unix socket.
pub(crate) struct Api(PathBuf);

impl Proxy {
    /// Path of the admin socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory().join("moorline.sock")
    }

    /// Client of the proxy's admin API.
    pub(crate) fn api(&self) -> Api {
        Api(self.socket())
    }

    /// Runs `moorline` with these arguments in the proxy's folder, so that the command finds the proxy.
    pub(crate) async fn command(&self, words: &[&str]) -> CommandOutput {
        command(self.directory(), words, "", &[]).await
    }
}

impl Api {
    /// Sends these bytes on a new connection and returns the response.
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

    /// Sends a request with a JSON body and returns the response. With an empty `body`, the request has none.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Message {
        let length = body.len();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.raw(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{kind}\r\n{body}"
        ))
        .await
    }

    /// Sends a `GET`, which must succeed, and returns the JSON reply.
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

/// Exit code and output of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl CommandOutput {
    /// Asserts success. If the output ends with a line about the process that answered, checks this line and
    /// returns the output without it.
    pub(crate) fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        let Some((output, process)) = self.out.split_once("\n-- process ") else { return self.out };
        assert!(process.contains("moorline.toml") && process.contains(".sock"), "{process}");
        format!("{output}\n")
    }

    /// Asserts exit code 1 and an error message that contains `needle`.
    pub(crate) fn refused(self, needle: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        assert!(self.err.contains(needle), "{self:?}");
    }

    /// The printed JSON document.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs `moorline` in a folder in which it looks for the admin socket.
pub(crate) async fn command(
    folder: &Path,
    words: &[&str],
    input: &str,
    env: &[(&str, &OsStr)],
) -> CommandOutput {
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
        // A command may exit without reading its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let output = within("a command", tokio::task::spawn_blocking(run)).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("an exit code");
    CommandOutput { code, out: text(output.stdout), err: text(output.stderr) }
}
