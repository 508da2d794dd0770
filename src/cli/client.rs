//! The client of the admin API that the subcommands share: where the process is, one request and its
//! answer, and a sentence that says what to do where there is none.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
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
    show,
};
use crate::api::ApiError;

/// Deadline of a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Deadline of an answer to an order.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Deadline of an answer to a question: the process has it at hand, but may be reading its
/// configuration, for up to 10 s, and the first answers of sources, for up to 3 s.
const SHOW_WITHIN: Duration = Duration::from_secs(20);
/// Longest answer that is read.
const LONGEST: usize = 64 << 20;
/// What stays as it is in a segment of a path: the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the process is, and how to print what it says.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Where and how")]
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
    /// Print JSON: the API's answer and, as `process`, who gave it
    #[arg(long, global = true)]
    pub json: bool,
    /// The socket that was found.
    #[arg(skip)]
    found: OnceLock<PathBuf>,
}

/// What was answered: its meaning, its text, and by which process.
pub(super) struct ApiAnswer<T> {
    pub(super) value: T,
    text: String,
    pub(super) process: Process,
}

impl<T> ApiAnswer<T> {
    /// Prints the answer itself, or what `words` makes of it; and who gave it.
    pub(super) fn print(&self, access: &Access, words: impl FnOnce(&T) -> String) {
        if access.json {
            show::document(&self.process.signed(&self.text));
        } else {
            let text = words(&self.value);
            show::out(&format!("{}\n{}", text.trim_end_matches('\n'), self.process.line()));
        }
    }
}

/// A request without a body.
pub(super) const NOTHING: Option<&()> = None;

/// A segment of a path that names something.
pub(super) fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

impl Access {
    /// Asks for something.
    ///
    /// # Errors
    /// A sentence: why the process cannot be reached, or why it refused.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<ApiAnswer<T>> {
        self.ask_within(SHOW_WITHIN, Method::GET, path, NOTHING).await
    }

    /// Sends an order or a question with a body.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<ApiAnswer<T>> {
        self.ask_within(ANSWER_WITHIN, method, path, body).await
    }

    /// The same with another deadline.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn ask_within<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<ApiAnswer<T>> {
        let Reply { status, text, process } = self.exchange(deadline, method, path, body).await?;
        if !status.is_success() {
            return Err(self.refused(status, &text, &process));
        }
        match serde_json::from_str(&text) {
            Ok(value) => Ok(ApiAnswer { value, text, process }),
            Err(error) => Err(anyhow!(
                "the answer cannot be read ({error}); is the process of another version of Moorline?\n{}",
                process.line()
            )),
        }
    }

    /// The server's own sentence and whose it is; for scripts, its JSON as well.
    fn refused(&self, status: StatusCode, text: &str, process: &Process) -> anyhow::Error {
        match serde_json::from_str::<ApiError>(text) {
            Ok(refusal) => {
                if self.json {
                    show::document(&process.signed(text));
                }
                if status == StatusCode::UNAUTHORIZED {
                    // Without the token, the process does not say which one it is.
                    return anyhow!("{}: {}", process.at, show::lines(&refusal.error));
                }
                anyhow!("{}\n{}", show::lines(&refusal.error), process.line())
            }
            Err(_) => {
                anyhow!("{} answered with {status}: it is not Moorline's admin API", process.at)
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
                let (FoundSocket { stream, user }, path) = self.unix().await?;
                let request = request.header(header::HOST, "localhost").body(body)?;
                send(stream, request, path.display().to_string(), user).await
            }
        };
        timeout(deadline, exchange).await.unwrap_or_else(|_| bail!(self.silence(deadline)))
    }

    /// What to say of a process that does not answer.
    fn silence(&self, deadline: Duration) -> String {
        let socket = self.socket.as_ref().or(self.found.get());
        let at = match (&self.api, socket) {
            (Some(authority), _) => format!(" at http://{authority}"),
            (None, Some(path)) => format!(" at {}", path.display()),
            (None, None) => String::new(),
        };
        format!(
            "the process{at} did not answer within {}; it may be stopped (state T in `ps`; `kill -CONT PID` \
             continues it) or overloaded: see its log",
            show::seconds(deadline.as_secs_f64())
        )
    }

    /// The token of the API over TCP.
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

    /// The socket of the process, and a connection to it.
    async fn unix(&self) -> anyhow::Result<(FoundSocket, PathBuf)> {
        let given = self.socket.clone().or_else(|| {
            env::var_os("MOORLINE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        let path = match given.or_else(|| self.found.get().cloned()) {
            Some(path) => path,
            None => {
                let path = find::only().await?;
                // One command speaks to one process, however often it asks.
                self.found.get_or_init(|| path).clone()
            }
        };
        Ok((find::named(&path).await?, path))
    }
}

async fn tcp(authority: &Authority) -> anyhow::Result<TcpStream> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    let help = "check `admin.listen` of the process's configuration and the firewall";
    match timeout(CONNECT_WITHIN, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(anyhow!("cannot connect to {authority}: {error}; {help}")),
        Err(_) => {
            let within = show::seconds(CONNECT_WITHIN.as_secs_f64());
            Err(anyhow!("cannot connect to {authority}: no answer within {within}; {help}"))
        }
    }
}

/// Asks the process behind a socket who it is.
///
/// # Errors
/// It cannot be reached, or breaks off.
pub(super) async fn identify(path: &Path) -> anyhow::Result<Process> {
    let FoundSocket { stream, user } = find::named(path).await?;
    let request = Request::get("/v1").header(header::HOST, "localhost").body(Full::default())?;
    let asking = send(stream, request, path.display().to_string(), user);
    Ok(timeout(CONNECT_WITHIN, asking).await??.process)
}

/// What came back.
struct Reply {
    status: StatusCode,
    text: String,
    process: Process,
}

/// One request on a connection of its own; `at` and `user` say whose.
async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    at: String,
    user: Option<String>,
) -> anyhow::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken =
        format!("the process closed the connection before it answered ({at}); see its log");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.with_context(|| broken.clone())?;
    // Ends with the answer; what goes wrong is reported by the sender as well.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.with_context(|| broken.clone())?;
    let status = response.status();
    let process = Process::of(response.headers(), at, user);
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow!("{broken}: {error}"))?.to_bytes();
    let text = String::from_utf8(body.into()).context("the answer is not UTF-8")?;
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
    fn a_url_is_a_host_and_a_port() {
        assert_eq!(authority("http://10.0.0.1:9091").unwrap().as_str(), "10.0.0.1:9091");
        assert_eq!(authority("http://[::1]:9091/").unwrap().port_u16(), Some(9091));
        for bad in ["10.0.0.1:9091", "https://x", "http://x/v1", "http://u@x", "http://", "x y"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_segment_hides_what_has_a_meaning() {
        assert_eq!(segment("[::1]:3000"), "%5B%3A%3A1%5D%3A3000");
        assert_eq!(segment("a/b?ä"), "a%2Fb%3F%C3%A4");
        assert_eq!(segment("blue-2.x_y~"), "blue-2.x_y~");
    }
}
