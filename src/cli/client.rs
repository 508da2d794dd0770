//! The client of the admin API that the subcommands share: it finds the process, sends one request and
//! reads the reply. Its errors say what to do.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header, uri::Authority};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

pub(super) use super::process::Process;
use super::{
    files,
    find::{self, FoundSocket},
    process, show,
};
use crate::{api::ApiError, http_client::HttpConnection};

/// Deadline of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of a reply to a request other than `GET`.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Deadline of a reply to `GET`. The process may be busy with its configuration for up to 10 s, and
/// with the first answers of sources for up to 3 s.
const GET_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a reply, in bytes.
const MAX_REPLY: usize = 64 << 20;
/// Characters that are encoded in a segment of a path: all but the unreserved ones (RFC 3986, section
/// 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Options that select the process and the form of the output.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Process and output")]
pub struct Access {
    /// The proxy's admin socket [default: $MOORLINE_SOCKET, else the only one of this user]
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "api")]
    pub socket: Option<PathBuf>,
    /// The admin API over TCP, as http://HOST:PORT; the token is in $MOORLINE_TOKEN or --token-file
    #[arg(long, value_name = "URL", global = true, value_parser = authority)]
    pub api: Option<Authority>,
    /// A file with the token of the admin API over TCP
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Print the API's reply as JSON, with the process that sent it as `process`
    #[arg(long, global = true)]
    pub json: bool,
    /// The socket that was discovered.
    #[arg(skip)]
    discovered: OnceLock<PathBuf>,
}

/// A reply: value, JSON text, and the process that sent it.
pub(super) struct ApiAnswer<T> {
    pub(super) value: T,
    text: String,
    pub(super) process: Process,
}

impl<T> ApiAnswer<T> {
    /// Prints the reply, as JSON or as formatted by `format`, and the process that sent it.
    pub(super) fn print(&self, access: &Access, format: impl FnOnce(&T) -> String) {
        if access.json {
            show::print_json(&self.process.with_process(&self.text));
        } else {
            let text = format(&self.value);
            process::print(text.trim_end_matches('\n'), &self.process);
        }
    }
}

/// The body of a request without one.
pub(super) const NO_BODY: Option<&()> = None;

/// Encodes a name as a segment of a path.
pub(super) fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

impl Access {
    /// Sends a `GET` request.
    ///
    /// # Errors
    /// The process cannot be reached, does not reply in time, or replies with an error.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<ApiAnswer<T>> {
        self.request_within(GET_TIMEOUT, Method::GET, path, NO_BODY).await
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<ApiAnswer<T>> {
        self.request_within(REPLY_TIMEOUT, method, path, body).await
    }

    /// Sends a request with a deadline for the reply.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn request_within<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<ApiAnswer<T>> {
        let Reply { status, text, process } = self.exchange(deadline, method, path, body).await?;
        if !status.is_success() {
            return Err(self.error_reply(status, &text, &process));
        }
        match serde_json::from_str(&text) {
            Ok(value) => Ok(ApiAnswer { value, text, process }),
            Err(error) => Err(anyhow!(
                "cannot read the reply ({error}); is the process of another version of Moorline?\n{}",
                process.line()
            )),
        }
    }

    /// Converts an error reply to an error that names the process. With `--json`, also prints the reply.
    fn error_reply(&self, status: StatusCode, text: &str, process: &Process) -> anyhow::Error {
        match serde_json::from_str::<ApiError>(text) {
            Ok(reply) => {
                if self.json {
                    show::print_json(&process.with_process(text));
                }
                if status == StatusCode::UNAUTHORIZED {
                    // The process does not identify itself to a client without the token.
                    return anyhow!("{}: {}", process.at, show::escaped_lines(&reply.error));
                }
                anyhow!("{}\n{}", show::escaped_lines(&reply.error), process.line())
            }
            Err(_) => {
                anyhow!("{} replied with {status}: this is not Moorline's admin API", process.at)
            }
        }
    }

    async fn exchange(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<Reply> {
        let mut request = Request::builder().method(method).uri(path);
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body)?
            }
            None => Vec::new(),
        };
        let body = Full::new(Bytes::from(body));
        let exchange = async {
            if let Some(authority) = &self.api {
                let stream = tcp(authority).await?;
                let bearer = format!("Bearer {}", self.token()?);
                let request = request
                    .header(header::HOST, authority.as_str())
                    .header(header::AUTHORIZATION, bearer)
                    .body(body)
                    .context(
                        "the token has characters that a header cannot have; use visible ASCII",
                    )?;
                send(stream, request, format!("http://{authority}"), None).await
            } else {
                let (FoundSocket { stream, user }, path) = self.connect_unix().await?;
                let request = request.header(header::HOST, "localhost").body(body)?;
                send(stream, request, path.display().to_string(), user).await
            }
        };
        timeout(deadline, exchange).await.unwrap_or_else(|_| bail!(self.no_reply(deadline)))
    }

    /// Returns the message for a process that does not reply.
    fn no_reply(&self, deadline: Duration) -> String {
        let socket = self.socket.as_ref().or(self.discovered.get());
        let at = match (&self.api, socket) {
            (Some(authority), _) => format!(" at http://{authority}"),
            (None, Some(path)) => format!(" at {}", path.display()),
            (None, None) => String::new(),
        };
        format!(
            "the process{at} did not reply within {}; it may be stopped (state T in `ps`; `kill -CONT PID` \
             continues it) or overloaded: see its log",
            show::seconds(deadline.as_secs_f64())
        )
    }

    /// Reads the token of the API over TCP.
    fn token(&self) -> anyhow::Result<String> {
        let token = match &self.token_file {
            Some(file) => files::text(file)?,
            None => env::var("MOORLINE_TOKEN").unwrap_or_default(),
        };
        match token.trim_start_matches('\u{feff}').trim() {
            "" => bail!(
                "the admin API over TCP needs a token: set MOORLINE_TOKEN, or name the token's file with \
                 --token-file"
            ),
            token => Ok(token.to_owned()),
        }
    }

    /// Connects to the unix socket of the process. Returns the connection and the path.
    async fn connect_unix(&self) -> anyhow::Result<(FoundSocket, PathBuf)> {
        let given = self.socket.clone().or_else(|| {
            env::var_os("MOORLINE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        let path = match given.or_else(|| self.discovered.get().cloned()) {
            Some(path) => path,
            None => {
                let path = find::only_socket().await?;
                // All requests of a command go to the same process.
                self.discovered.get_or_init(|| path).clone()
            }
        };
        Ok((find::connect(&path).await?, path))
    }
}

async fn tcp(authority: &Authority) -> anyhow::Result<TcpStream> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    let help = "check `admin.listen` of the process's configuration and the firewall";
    match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(anyhow!("cannot connect to {authority}: {error}; {help}")),
        Err(_) => {
            let within = show::seconds(CONNECT_TIMEOUT.as_secs_f64());
            Err(anyhow!("cannot connect to {authority}: no reply within {within}; {help}"))
        }
    }
}

/// Returns the process that listens on a socket.
///
/// # Errors
/// The process cannot be reached, or closes the connection.
pub(super) async fn identify(path: &Path) -> anyhow::Result<Process> {
    let FoundSocket { stream, user } = find::connect(path).await?;
    let request = Request::get("/v1").header(header::HOST, "localhost").body(Full::default())?;
    let reply = send(stream, request, path.display().to_string(), user);
    Ok(timeout(CONNECT_TIMEOUT, reply).await??.process)
}

/// A reply that is not parsed yet.
struct Reply {
    status: StatusCode,
    text: String,
    process: Process,
}

/// Sends one request on a new connection. `at` and `user` describe the process.
async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    at: String,
    user: Option<String>,
) -> anyhow::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = format!("the process closed the connection before it replied ({at}); see its log");
    let mut connection = HttpConnection::open(stream).await.with_context(|| broken.clone())?;
    let response = connection.exchange(request, MAX_REPLY).await;
    let (parts, body) = response.with_context(|| broken)?.into_parts();
    let status = parts.status;
    let process = Process::from_headers(&parts.headers, at, user);
    let text = String::from_utf8(body.into()).context("the reply is not UTF-8")?;
    Ok(Reply { status, text, process })
}

/// Why the URL of `--api` is invalid.
#[derive(Debug)]
enum InvalidApiUrl {
    /// The text is not a URL.
    Syntax(http::uri::InvalidUri),
    /// The scheme is `https`.
    Tls,
    /// The URL is not `http://HOST:PORT`.
    Form,
}

impl fmt::Display for InvalidApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "invalid URL: {error}; write http://HOST:PORT"),
            Self::Tls => f.write_str("the admin API does not use TLS; write http://HOST:PORT"),
            Self::Form => {
                f.write_str("write it as http://HOST:PORT, for example http://10.0.0.1:9091")
            }
        }
    }
}

impl std::error::Error for InvalidApiUrl {}

/// Parses the URL of `--api` and returns its host and port.
fn authority(url: &str) -> Result<Authority, InvalidApiUrl> {
    let uri: Uri = url.parse().map_err(InvalidApiUrl::Syntax)?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    match uri.authority() {
        Some(authority) if plain && !authority.as_str().contains('@') => Ok(authority.clone()),
        _ if uri.scheme_str() == Some("https") => Err(InvalidApiUrl::Tls),
        _ => Err(InvalidApiUrl::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_urls_have_only_a_host_and_a_port() {
        assert_eq!(authority("http://10.0.0.1:9091").unwrap().as_str(), "10.0.0.1:9091");
        assert_eq!(authority("http://[::1]:9091/").unwrap().port_u16(), Some(9091));
        for bad in ["10.0.0.1:9091", "https://x", "http://x/v1", "http://u@x", "http://", "x y"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reserved_characters_are_encoded_in_a_segment() {
        assert_eq!(segment("[::1]:3000"), "%5B%3A%3A1%5D%3A3000");
        assert_eq!(segment("a/b?ä"), "a%2Fb%3F%C3%A4");
        assert_eq!(segment("blue-2.x_y~"), "blue-2.x_y~");
    }
}
