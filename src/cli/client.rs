//! The client of the admin API that the subcommands share: where the process is, one request and its
//! answer, and a sentence that says what to do where there is none.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
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
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::show;
use crate::admin::{api::Refusal, usual_places};

/// Deadline of a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Deadline of an answer, where nothing has to be started for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const LONGEST: usize = 64 << 20;
/// What stays as it is in a segment of a path: the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the process is, and how to print what it says.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Where and how")]
pub struct Access {
    /// The proxy's admin socket, else $MOORLINE_SOCKET, else the usual places
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "admin")]
    pub socket: Option<PathBuf>,
    /// The admin API over TCP, as http://HOST:PORT; its token is in $MOORLINE_TOKEN or --token-file
    #[arg(long, value_name = "URL", global = true, value_parser = authority)]
    pub admin: Option<Authority>,
    /// A file with the token of the admin API over TCP
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Print the API's own JSON, one document
    #[arg(long, global = true)]
    pub json: bool,
}

/// What was answered: its meaning, and its text.
pub(super) struct Answer<T> {
    pub(super) value: T,
    text: String,
}

impl<T> Answer<T> {
    /// Prints the answer itself, or what `words` makes of it.
    pub(super) fn print(&self, access: &Access, words: impl FnOnce(&T) -> String) {
        if access.json {
            show::document(&self.text);
        } else {
            show::out(&words(&self.value));
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
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Answer<T>> {
        self.ask(Method::GET, path, NOTHING).await
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
    ) -> anyhow::Result<Answer<T>> {
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
    ) -> anyhow::Result<Answer<T>> {
        let (status, text) = self.exchange(deadline, method, path, body).await?;
        if !status.is_success() {
            return Err(self.refused(status, &text));
        }
        match serde_json::from_str(&text) {
            Ok(value) => Ok(Answer { value, text }),
            Err(error) => Err(anyhow!(
                "the answer is not understood; is that another version of Moorline? ({error})"
            )),
        }
    }

    /// The server's own sentence; for scripts, its JSON as well.
    fn refused(&self, status: StatusCode, text: &str) -> anyhow::Error {
        match serde_json::from_str::<Refusal>(text) {
            Ok(refusal) => {
                if self.json {
                    show::document(text);
                }
                anyhow!(show::lines(&refusal.error))
            }
            Err(_) => anyhow!("answered with {status}; is that the admin API of Moorline?"),
        }
    }

    async fn exchange(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<(StatusCode, String)> {
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
            if let Some(authority) = &self.admin {
                let stream = tcp(authority).await?;
                let bearer = format!("Bearer {}", self.token()?);
                let request = request
                    .header(header::HOST, authority.as_str())
                    .header(header::AUTHORIZATION, bearer)
                    .body(body)
                    .context("the token has characters that no header can have")?;
                send(stream, request).await
            } else {
                let stream = self.unix().await?;
                send(stream, request.header(header::HOST, "localhost").body(body)?).await
            }
        };
        timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| bail!("no answer within {}", show::seconds(deadline.as_secs_f64())))
    }

    /// The token of the API over TCP.
    fn token(&self) -> anyhow::Result<String> {
        let token = match &self.token_file {
            Some(file) => fs::read_to_string(file)
                .with_context(|| format!("the token file {} cannot be read", file.display()))?,
            None => env::var("MOORLINE_TOKEN").unwrap_or_default(),
        };
        match token.trim() {
            "" => bail!(
                "the admin API over TCP wants a token: set MOORLINE_TOKEN, or name a file that has \
                 it with --token-file"
            ),
            token => Ok(token.to_owned()),
        }
    }

    async fn unix(&self) -> anyhow::Result<UnixStream> {
        let given = self.socket.clone().or_else(|| {
            env::var_os("MOORLINE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        if let Some(path) = given {
            let connected = timeout(CONNECT_WITHIN, UnixStream::connect(&path)).await;
            return connected
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(|error| anyhow!(unreachable(&path, &error)));
        }
        let places = usual_places();
        for path in &places {
            match timeout(CONNECT_WITHIN, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) if is_absent(&error) => {}
                Ok(Err(error)) => bail!(unreachable(path, &error)),
                Err(_) => bail!(unreachable(path, &io::ErrorKind::TimedOut.into())),
            }
        }
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        bail!(
            "no running Moorline was found: nobody listens on {}. Where it runs with another \
             socket, name that with --socket",
            places.join(" or ")
        )
    }
}

/// Whether nobody is there, rather than somebody who cannot be reached.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory)
}

/// Why a socket was no use, and what to do.
fn unreachable(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => format!(
            "there is no socket {path}: Moorline does not run, or with another `socket` in `admin`"
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "nobody listens on {path}: the process that made it has ended, or it is no socket"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "{path} is another user's: run this as the user that Moorline runs as, or with sudo"
        ),
        io::ErrorKind::TimedOut => format!("{path} takes no connection: the process may hang"),
        _ => format!("{path} cannot be connected to: {error}"),
    }
}

async fn tcp(authority: &Authority) -> anyhow::Result<TcpStream> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    match timeout(CONNECT_WITHIN, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(anyhow!("nobody answers at {authority}: {error}")),
        Err(_) => Err(anyhow!("nobody answers at {authority}")),
    }
}

/// One request on a connection of its own.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = "the connection to the process broke";
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context(broken)?;
    // Ends with the answer; what goes wrong is told by the sender as well.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.context(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow!("{broken}: {error}"))?.to_bytes();
    let text = String::from_utf8(body.into()).context("the answer is no UTF-8")?;
    Ok((status, text))
}

/// Host and port of the URL that `--admin` takes.
fn authority(url: &str) -> Result<Authority, String> {
    let uri: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    match uri.authority() {
        Some(authority) if plain && !authority.as_str().contains('@') => Ok(authority.clone()),
        _ => Err("write it as http://HOST:PORT".to_owned()),
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

    #[test]
    fn each_way_of_not_reaching_it_says_what_to_do() {
        let said = |kind: io::ErrorKind| unreachable(Path::new("/run/m.sock"), &kind.into());
        assert!(said(io::ErrorKind::PermissionDenied).contains("sudo"));
        assert!(said(io::ErrorKind::NotFound).contains("does not run"));
        assert!(said(io::ErrorKind::ConnectionRefused).contains("has ended"));
    }
}
