//! Static files: which file answers a request, and its response.
//!
//! Which file that is, is decided here; conditional requests, ranges and media types are those of `tower-http`. Files are
//! opened and read by [`folder`], which never lets a slow disk delay another connection.
//!
//! Invariants:
//!
//! - No file outside of the root is served. The path of a request has no dot segment when it arrives here, each of its
//!   segments is checked once more after decoding, and the kernel resolves it below the root.
//! - Names that begin with a dot are like missing files, except `.well-known` at the top (RFC 8615), unless the
//!   configuration allows them.
//! - A missing file never looks like a page to a script: the fallback of a single-page app is for navigations only.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use moorline_http::{FieldId, RequestHead, ResponseHead};
use percent_encoding::percent_decode_str;
use tower_http::services::ServeDir;

use self::{
    folder::{DiskAccess, Folder, FolderEntry},
    served::ServedFile,
};
use super::{
    body::{BodyStream, ReplyBody},
    local::LocalReply,
    variables::FilterFacts,
};
use crate::{
    config::{FilesConfig, path},
    error::{FailureKind, Phase, ProxyError, Side},
};

mod folder;
mod served;

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

/// A file to serve.
struct FoundFile {
    file: ServedFile,
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
        let (request, found) = match self.search(DiskAccess::Cached) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let searched = tokio::task::spawn_blocking(move || {
                    let found = self.search(DiskAccess::Blocking);
                    (self, found)
                });
                searched.await.map_err(|error| unreadable(io::Error::other(error)))?
            }
            found => (self, found),
        };
        let file = match found.map_err(unreadable)? {
            Found::File(file) => file,
            Found::Folder => {
                let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT);
                reply.fields().set(FieldId::Location, &request.with_slash);
                return Ok(reply);
            }
            Found::Missing => return Err(no_file()),
        };
        let mut response = request.serve(&file.file, &request.fields).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT && !request.may_resume(&response) {
            // The client has a part of another version.
            let mut fields = request.fields.clone();
            fields.remove(header::RANGE);
            response = request.serve(&file.file, &fields).await?;
        }
        Ok(local(response, file.is_fallback))
    }

    /// Finds the file of the request, or the fallback.
    fn search(&self, access: DiskAccess) -> io::Result<Found> {
        let config = &self.config;
        let folder = Folder::open(&config.root, access)?;
        let mut path: PathBuf = self.names.iter().map(|name| OsStr::from_bytes(name)).collect();
        let mut entry = folder.entry(&path, access)?;
        match (&entry, self.slash || self.names.is_empty()) {
            (FolderEntry::Folder, false) => return Ok(Found::Folder),
            (FolderEntry::Folder, true) => {
                path.push(&config.index);
                entry = folder.entry(&path, access)?;
            }
            (FolderEntry::File(_), true) => entry = FolderEntry::Missing,
            (FolderEntry::File(_) | FolderEntry::Missing, _) => {}
        }
        let mut is_fallback = false;
        if let (FolderEntry::Folder | FolderEntry::Missing, Some(page), true) =
            (&entry, &config.spa, self.navigates)
        {
            (path, is_fallback) = (page.trim_start_matches('/').into(), true);
            entry = folder.entry(&path, access)?;
        }
        Ok(match entry {
            FolderEntry::File(file) => {
                let file = ServedFile::new(folder, path, file);
                Found::File(FoundFile { file, is_fallback })
            }
            FolderEntry::Folder | FolderEntry::Missing => Found::Missing,
        })
    }

    async fn serve(
        &self,
        file: &ServedFile,
        fields: &HeaderMap,
    ) -> Result<FileResponse, ProxyError> {
        let mut service = ServeDir::with_backend("", file.clone())
            .append_index_html_on_directories(false)
            .ignore_multi_range_requests(true);
        if self.config.precompressed {
            service = service.precompressed_br().precompressed_gzip().precompressed_zstd();
        }
        let mut request = http::Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            file.target().parse().map_err(|error| unreadable(io::Error::other(error)))?;
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
