//! Static files: which file answers a request, and its response.
//!
//! Finding the file is here; conditional requests, ranges, media types and reading are those of `tower-http`. All work on the
//! disk runs on threads for blocking work, so that a slow disk delays no other connection.
//!
//! Invariants:
//!
//! - No file outside of the root is served. The path of a request has no dot segment when it arrives here, and each of its
//!   segments is checked once more after decoding. Symbolic links are followed within the root; a link that leads out of it
//!   is like a missing file. A program that may change folders below the root is trusted: it could swap a folder between the
//!   check and the reading.
//! - Only regular files are served. Opening a pipe or a device could wait forever.
//! - Names that begin with a dot are like missing files, except `.well-known` at the top (RFC 8615), unless the
//!   configuration allows them.
//! - A missing file never looks like a page to a script: the fallback of a single-page app is for navigations only.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use moorline_http::{FieldId, RequestHead, ResponseHead};
use percent_encoding::percent_decode_str;
use tower_http::services::ServeFile;

use super::{
    body::{BodyStream, ReplyBody},
    local::LocalReply,
    variables::FilterFacts,
};
use crate::{
    config::{FilesConfig, path},
    error::{FailureKind, Phase, ProxyError, Side},
};

/// Fields of a request that decide what is sent of a file.
const CONDITIONS: [HeaderName; 8] = [
    header::ACCEPT_ENCODING,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::USER_AGENT,
];

/// A symbolic link that leads to itself.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// Extensions of files that were compressed in advance.
const COMPRESSED: [&str; 3] = ["br", "gz", "zst"];

/// The files of a route.
#[derive(Debug)]
pub(crate) struct StaticFiles(Arc<FilesConfig>);

/// A request for a file, before the disk is asked.
#[derive(Debug)]
pub(crate) struct FileRequest {
    config: Arc<FilesConfig>,
    /// Decoded names from the root to the file; empty: the root itself.
    names: Vec<Vec<u8>>,
    /// The path ends with a slash: it names a folder.
    slash: bool,
    method: Method,
    fields: HeaderMap,
    /// A browser wants a page to show.
    navigates: bool,
    /// Path and query with a slash after the path, as the client sees them.
    with_slash: String,
}

/// What a path leads to.
enum Found {
    File(FoundFile),
    /// A folder, without its slash.
    Folder,
    Missing,
}

/// A file, and which compressed forms of it are there.
struct FoundFile {
    path: PathBuf,
    compressed: [bool; COMPRESSED.len()],
    /// It takes the place of the file that the request names.
    is_fallback: bool,
}

impl StaticFiles {
    pub(crate) fn new(config: FilesConfig) -> Self {
        Self(Arc::new(config))
    }

    /// Reads a request, whose path may have been rewritten. A method other than GET and HEAD is answered at once.
    ///
    /// # Errors
    /// The path cannot be the name of a file.
    pub(super) fn request(
        &self,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<Result<FileRequest, LocalReply>, ProxyError> {
        if facts.upgrade || facts.is_engine {
            return Err(no_file().with_source("files are not served to WebSockets and Engine.IO"));
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Ok(Err(not_allowed()));
        }
        let config = Arc::clone(&self.0);
        let normal = path::normal(request.path());
        let names = names(&normal, config.hidden).ok_or_else(no_file)?;
        let query = facts.query.map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Ok(FileRequest {
            config,
            names,
            slash: normal.ends_with('/'),
            method: request.method.clone(),
            fields: conditions(request),
            navigates: navigates(request),
            // In normal form: a path that begins with two slashes would be another host.
            with_slash: format!("{}/{query}", path::normal(facts.path)),
        }))
    }
}

impl FileRequest {
    /// Finds and opens the file.
    ///
    /// # Errors
    /// There is no such file, or the disk has failed.
    pub(crate) async fn reply(self) -> Result<LocalReply, ProxyError> {
        let searched = tokio::task::spawn_blocking(move || {
            let found = self.search();
            (self, found)
        });
        let (request, found) =
            searched.await.map_err(|error| unreadable(io::Error::other(error)))?;
        let file = match found.map_err(unreadable)? {
            Found::File(file) => file,
            Found::Folder => {
                let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT);
                reply.fields().set(FieldId::Location, &request.with_slash);
                return Ok(reply);
            }
            Found::Missing => return Err(no_file()),
        };
        let mut response = request.serve(&file, &request.fields).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT && !request.may_resume(&response) {
            // The client has a part of another version.
            let mut fields = request.fields.clone();
            fields.remove(header::RANGE);
            response = request.serve(&file, &fields).await?;
        }
        Ok(local(response, file.is_fallback))
    }

    /// Finds the file of the request, or the fallback.
    fn search(&self) -> io::Result<Found> {
        let config = &self.config;
        let root = config.root.canonicalize()?;
        let names = self.names.iter().map(|name| OsStr::from_bytes(name));
        let path = names.fold(root.clone(), |path, name| path.join(name));
        let found = self.look_up(&root, &path)?;
        match &config.spa {
            Some(page) if matches!(found, Found::Missing) && self.navigates => {
                let page = root.join(page.trim_start_matches('/'));
                Ok(match inside(&root, &page)? {
                    Some(page) if page.is_file() => {
                        let compressed = self.compressed(&root, &page)?;
                        Found::File(FoundFile { path: page, compressed, is_fallback: true })
                    }
                    _ => Found::Missing,
                })
            }
            _ => Ok(found),
        }
    }

    fn look_up(&self, root: &Path, path: &Path) -> io::Result<Found> {
        let Some(mut path) = inside(root, path)? else { return Ok(Found::Missing) };
        let mut kind = path.metadata()?;
        match (kind.is_dir(), self.slash || self.names.is_empty()) {
            (true, false) => return Ok(Found::Folder),
            (false, true) => return Ok(Found::Missing),
            (true, true) => {
                let Some(index) = inside(root, &path.join(&self.config.index))? else {
                    return Ok(Found::Missing);
                };
                (kind, path) = (index.metadata()?, index);
            }
            (false, false) => {}
        }
        if !kind.is_file() {
            return Ok(Found::Missing);
        }
        let compressed = self.compressed(root, &path)?;
        Ok(Found::File(FoundFile { path, compressed, is_fallback: false }))
    }

    /// Which compressed forms of a file are there.
    fn compressed(&self, root: &Path, path: &Path) -> io::Result<[bool; COMPRESSED.len()]> {
        let mut found = [false; COMPRESSED.len()];
        if self.config.precompressed {
            for (extension, found) in COMPRESSED.iter().zip(&mut found) {
                let mut name = path.as_os_str().to_owned();
                name.push(".");
                name.push(extension);
                *found = inside(root, Path::new(&name))?.is_some_and(|path| path.is_file());
            }
        }
        Ok(found)
    }

    async fn serve(
        &self,
        file: &FoundFile,
        fields: &HeaderMap,
    ) -> Result<FileResponse, ProxyError> {
        let mut service = ServeFile::new(&file.path).ignore_multi_range_requests(true);
        let [brotli, gzip, zstd] = file.compressed;
        if brotli {
            service = service.precompressed_br();
        }
        if gzip {
            service = service.precompressed_gzip();
        }
        if zstd {
            service = service.precompressed_zstd();
        }
        let mut request = http::Request::new(());
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = fields.clone();
        service.try_call(request).await.map_err(unreadable)
    }

    /// Whether the condition of a range holds: the client has a part of this version (RFC 9110 §13.1.5).
    fn may_resume(&self, response: &FileResponse) -> bool {
        let Some(condition) = self.fields.get(header::IF_RANGE) else { return true };
        let is_same = |name| response.headers().get(name) == Some(condition);
        !condition.as_bytes().starts_with(b"W/")
            && (is_same(header::ETAG) || is_same(header::LAST_MODIFIED))
    }
}

type FileResponse = http::Response<tower_http::services::fs::ServeFileSystemResponseBody>;

/// The real path, if it is below the root; `None` also if nothing is there.
fn inside(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(real) => Ok(real.starts_with(root).then_some(real)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput => Ok(None),
            _ if error.raw_os_error() == Some(LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The decoded names of a path in normal form; `None`: they cannot name a file.
fn names(normal: &str, hidden: bool) -> Option<Vec<Vec<u8>>> {
    let decoded = normal.split('/').filter(|name| !name.is_empty());
    let decoded = decoded.map(|name| percent_decode_str(name).collect::<Vec<u8>>());
    let names: Vec<Vec<u8>> = decoded.collect();
    let is_valid = names.iter().enumerate().all(|(depth, name)| {
        let well_known = depth == 0 && name == b".well-known";
        let is_hidden = name.starts_with(b".") && !well_known;
        let is_dots = name == b"." || name == b"..";
        !is_dots
            && (hidden || !is_hidden)
            && !name.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0))
    });
    is_valid.then_some(names)
}

/// Whether a browser wants a page to show: not a script, a style sheet or data of a page.
fn navigates(request: &RequestHead) -> bool {
    match request.head.named("sec-fetch-mode").next() {
        Some(mode) => mode.eq_ignore_ascii_case(b"navigate"),
        None => request.head.tokens(FieldId::Accept).any(|range| {
            let kind = range.split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().eq_ignore_ascii_case(b"text/html")
        }),
    }
}

fn conditions(request: &RequestHead) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for name in CONDITIONS {
        for value in request.head.named(name.as_str()) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                fields.append(name.clone(), value);
            }
        }
    }
    fields
}

/// The response in the form that is delivered.
fn local(response: FileResponse, is_fallback: bool) -> LocalReply {
    let (parts, body) = response.into_parts();
    let mut head = ResponseHead::new(parts.status);
    for (name, value) in &parts.headers {
        head.head.append_named(name.as_str(), value.as_bytes());
    }
    if let Some(kind) = head.head.text(FieldId::ContentType)
        && kind.starts_with("text/")
        && !kind.contains("charset")
    {
        let kind = format!("{kind}; charset=utf-8");
        head.head.set(FieldId::ContentType, kind);
    }
    if is_fallback {
        // Scripts get a 404 for the same path.
        head.head.append(FieldId::Vary, "Accept, Sec-Fetch-Mode");
    }
    LocalReply { head, body: ReplyBody::Stream(BodyStream::new(body)) }
}

fn not_allowed() -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::METHOD_NOT_ALLOWED);
    reply.fields().set(FieldId::Allow, "GET, HEAD");
    reply.fields().set(FieldId::ContentType, "text/plain; charset=utf-8");
    reply.body = ReplyBody::Bytes(Bytes::from_static(b"Files can only be read.\n"));
    reply
}

fn no_file() -> ProxyError {
    ProxyError::new(Side::Proxy, Phase::Select, FailureKind::NoFile)
}

fn unreadable(error: io::Error) -> ProxyError {
    ProxyError::new(Side::Proxy, Phase::ResponseBody, FailureKind::Io).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::request;

    #[test]
    fn a_name_stays_one_name() {
        let text = |path: &str, hidden| {
            let names = names(&path::normal(path), hidden)?;
            let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
            Some(names.iter().map(text).collect::<Vec<_>>().join("|"))
        };
        for (path, expected) in [
            ("/", Some("")),
            ("//a///b%20c/", Some("a|b c")),
            ("/%C3%BC", Some("ü")),
            ("/a%2Fb", None),
            ("/a%2fb", None),
            ("/..", None),
            ("/a/%2e%2e/b", None),
            ("/a/.", None),
            ("/a%5cb", None),
            ("/a%00", None),
            ("/%2egit/config", None),
            ("/a/.env", None),
            ("/.well-known/x", Some(".well-known|x")),
            ("/a/.well-known/x", None),
            ("/a;b", Some("a;b")),
            ("/...", None),
        ] {
            assert_eq!(text(path, false).as_deref(), expected, "{path}");
        }
        assert_eq!(text("/.env", true).as_deref(), Some(".env"));
        assert_eq!(text("/..", true), None);
    }

    #[test]
    fn only_a_browser_that_shows_a_page_navigates() {
        let is = |fields: &str| navigates(&request(&format!("GET /x HTTP/1.1\r\n{fields}")));
        assert!(is("Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"));
        assert!(is("Sec-Fetch-Mode: navigate\r\nAccept: */*\r\n"));
        assert!(!is("Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n"));
        assert!(!is("Accept: */*\r\n") && !is("") && !is("Accept: application/json\r\n"));
    }
}
