//! The body of an error reply in the format that its client understands.
//!
//! A browser gets an HTML page, an Engine.IO or API client JSON, a gRPC client its status fields, and
//! everything else one line of text. All formats carry the same sentence and request id.

use std::{fmt::Write as _, sync::LazyLock};

use bytes::Bytes;
use http::StatusCode;
use moorline_http::{FieldId, Head, RequestHead};
use serde::Serialize;

use crate::{
    config::{ErrorPage, ErrorPages, Placeholder},
    gateway::ApiReport,
    openapi::RequestFault,
};

/// Content types of gRPC requests; a longer one comes before its prefix.
const GRPC_TYPES: [&str; 3] =
    ["application/grpc-web-text", "application/grpc-web", "application/grpc"];

/// Elements of an `Accept` field that are read. Browsers send up to ten.
const MOST_MEDIA_RANGES: usize = 32;

/// The page that a browser gets if the configuration has none for the error.
static BUILT_IN: LazyLock<ErrorPage> =
    LazyLock::new(|| ErrorPage::parse(include_str!("error_reply.html")).unwrap_or_default());

/// The format of an error reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ErrorFormat {
    /// One sentence and the request id, as plain text.
    #[default]
    Text,
    /// An HTML page.
    Html,
    /// An object with `status`, `message` and `request_id`.
    Json,
    /// No body; `grpc-status` and `grpc-message` describe the error. With the reply's content type.
    Grpc(&'static str),
}

/// What an error reply says.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorText<'a> {
    pub(super) status: StatusCode,
    /// One sentence.
    pub(super) message: &'a str,
    pub(super) id: &'a str,
}

/// The JSON form of an error.
#[derive(Serialize)]
struct ErrorObject<'a> {
    status: u16,
    message: &'a str,
    request_id: &'a str,
}

impl ErrorFormat {
    /// The format for the client of this request; `is_engine`: it is one of Engine.IO.
    pub(super) fn of(request: &RequestHead, is_engine: bool) -> Self {
        let head = &request.head;
        if head.has(FieldId::SecWebSocketKey) {
            // A browser shows neither status nor body of a failed handshake; tools print the body.
            return Self::Text;
        }
        if is_engine {
            return Self::Json;
        }
        let content_type = head.get(FieldId::ContentType).unwrap_or_default();
        if let Some(grpc) = grpc_type(content_type) {
            return Self::Grpc(grpc);
        }
        let accepts = head.all(FieldId::Accept);
        let json_body = has_prefix(content_type, "application/json");
        Self::negotiated(accepts).unwrap_or(if json_body { Self::Json } else { Self::Text })
    }

    /// Whether a program reads the reply, not a person or gRPC.
    pub(super) fn is_for_programs(self) -> bool {
        matches!(self, Self::Text | Self::Json)
    }

    /// The format for a request header that could not be parsed, by the bytes that are known of it.
    pub(super) fn of_unparsed(head: &[u8]) -> Self {
        let accepts = head
            .split(|byte| *byte == b'\n')
            .skip(1)
            .filter(|line| has_prefix(line, "accept:"))
            .map(|line| &line["accept:".len()..]);
        Self::negotiated(accepts).unwrap_or_default()
    }

    /// The preferred format by `Accept` (RFC 9110 §12.5.1); `None`: no field names one. Of equally preferred
    /// formats the first one counts, wildcards name no format.
    fn negotiated<'a>(accepts: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let ranges = accepts.flat_map(|field| field.split(|byte| *byte == b','));
        let mut best: Option<(u16, Self)> = None;
        for range in ranges.take(MOST_MEDIA_RANGES) {
            let mut parameters = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let Some(format) = parameters.next().and_then(Self::of_media_type) else { continue };
            let weight = parameters.find_map(weight).unwrap_or(1000);
            if weight > best.map_or(0, |(best, _)| best) {
                best = Some((weight, format));
            }
        }
        best.map(|(_, format)| format)
    }

    fn of_media_type(media_type: &[u8]) -> Option<Self> {
        let is = |name: &str| media_type.eq_ignore_ascii_case(name.as_bytes());
        if is("text/html") || is("application/xhtml+xml") {
            Some(Self::Html)
        } else if is("application/json")
            || (has_prefix(media_type, "application/") && media_type.ends_with(b"+json"))
        {
            Some(Self::Json)
        } else {
            is("text/plain").then_some(Self::Text)
        }
    }

    /// The body, and the header fields that belong to it.
    pub(super) fn body(
        self,
        text: ErrorText<'_>,
        pages: Option<&ErrorPages>,
        head: &mut Head,
    ) -> Bytes {
        let ErrorText { status, message, id } = text;
        head.set(FieldId::ContentType, self.content_type());
        match self {
            Self::Text => Bytes::from(format!("{message}\nRequest id: {id}\n")),
            Self::Html => {
                head.set(FieldId::XContentTypeOptions, "nosniff");
                let page = pages.and_then(|pages| pages.page(status.as_u16()));
                if page.is_none() {
                    let policy = "default-src 'none'; style-src 'unsafe-inline'";
                    head.set(FieldId::ContentSecurityPolicy, policy);
                }
                Bytes::from(html(page.unwrap_or(&BUILT_IN), text))
            }
            Self::Json => {
                let object = ErrorObject { status: status.as_u16(), message, request_id: id };
                // Strings and a number: serializing them cannot fail.
                Bytes::from(serde_json::to_vec(&object).unwrap_or_default())
            }
            Self::Grpc(_) => {
                head.set_named("grpc-status", grpc_status(status));
                head.set_named("grpc-message", percent_encoded(message));
                Bytes::new()
            }
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Grpc(content_type) => content_type,
        }
    }
}

/// The body of a problem report (RFC 9457), and the header fields that belong to it.
pub(super) fn problem(text: ErrorText<'_>, report: &ApiReport, head: &mut Head) -> Bytes {
    let ErrorText { status, message, id } = text;
    head.set(FieldId::ContentType, "application/problem+json");
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": message,
        "request_id": id,
    });
    if !report.faults.is_empty() {
        problem["errors"] = report.faults.iter().map(RequestFault::json).collect();
    }
    Bytes::from(problem.to_string())
}

fn html(page: &ErrorPage, text: ErrorText<'_>) -> String {
    page.render(|placeholder, html| match placeholder {
        Placeholder::Status => html.push_str(text.status.as_str()),
        Placeholder::Reason => {
            escape(text.status.canonical_reason().unwrap_or("Error"), html);
        }
        Placeholder::Message => escape(text.message, html),
        Placeholder::RequestId => escape(text.id, html),
    })
}

/// Appends text to HTML, also within a quoted attribute. A request id may come from a peer.
fn escape(text: &str, html: &mut String) {
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
}

/// The `q` parameter of a media range, in thousandths.
fn weight(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.split_at_checked(2)?;
    if !name.eq_ignore_ascii_case(b"q=") {
        return None;
    }
    let value: f32 = std::str::from_utf8(value).ok()?.parse().ok()?;
    // An invalid weight counts as 1, as if it were absent.
    (0.0..=1.0).contains(&value).then_some((value * 1000.0) as u16)
}

fn has_prefix(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// The content type of a reply to a gRPC request with this content type.
fn grpc_type(content_type: &[u8]) -> Option<&'static str> {
    GRPC_TYPES.into_iter().find(|known| has_prefix(content_type, known))
}

/// The gRPC status code for an HTTP status code, as in gRPC's `http-grpc-status-mapping.md`.
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 431 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// A `grpc-message`: visible ASCII, everything else and `%` percent-encoded.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use moorline_http::ResponseHead;

    use super::*;
    use crate::proxy::testing::request;

    fn format(target: &str, fields: &[(&str, &str)]) -> ErrorFormat {
        let mut text = format!("GET {target} HTTP/1.1\r\n");
        for (name, value) in fields {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        ErrorFormat::of(&request(&text), target.contains("EIO="))
    }

    fn accepting(accept: &str) -> ErrorFormat {
        format("/", &[("accept", accept)])
    }

    #[test]
    fn the_accept_field_chooses_the_format() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        assert_eq!(accepting(browser), ErrorFormat::Html);
        assert_eq!(accepting("application/json, text/plain, */*"), ErrorFormat::Json);
        assert_eq!(accepting("application/problem+json"), ErrorFormat::Json);
        assert_eq!(accepting("TEXT/HTML;q=0.5, application/json;q=0.4"), ErrorFormat::Html);
        assert_eq!(accepting("text/html;q=0.1, application/json;Q=0.4"), ErrorFormat::Json);
        assert_eq!(accepting("text/html;level=1;q=0"), ErrorFormat::Text);
        assert_eq!(accepting("text/html;q=x"), ErrorFormat::Html);
        for none in ["*/*", "", "image/png", ",,;q=1", "text/*", "application/xml"] {
            assert_eq!(accepting(none), ErrorFormat::Text, "{none}");
        }
        let two = format("/", &[("accept", "*/*"), ("accept", "text/html")]);
        assert_eq!(two, ErrorFormat::Html);
    }

    #[test]
    fn clients_that_show_no_page_get_their_own_format() {
        let html = ("accept", "text/html");
        let query = "/socket.io/?EIO=4&transport=polling";
        assert_eq!(format(query, &[html]), ErrorFormat::Json);
        let socket = "/socket.io/?EIO=4&transport=websocket";
        assert_eq!(format(socket, &[html, ("sec-websocket-key", "x")]), ErrorFormat::Text);
        let grpc = format("/", &[("content-type", "application/grpc+proto"), html]);
        assert_eq!(grpc, ErrorFormat::Grpc("application/grpc"));
        let web = format("/", &[("content-type", "application/grpc-web-text+proto")]);
        assert_eq!(web, ErrorFormat::Grpc("application/grpc-web-text"));
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(format("/", &[json, ("accept", "*/*")]), ErrorFormat::Json);
        assert_eq!(format("/", &[json, html]), ErrorFormat::Html);
        assert_eq!(format("/", &[]), ErrorFormat::Text);
    }

    #[test]
    fn an_unparsed_header_is_searched_for_accept() {
        let of = |head: &str| ErrorFormat::of_unparsed(head.as_bytes());
        assert_eq!(of("GET / HTTP/1.1\r\nACCEPT: text/html\r\nX: y"), ErrorFormat::Html);
        assert_eq!(of("accept: text/html"), ErrorFormat::Text);
        assert_eq!(of(""), ErrorFormat::Text);
    }

    #[test]
    fn values_are_escaped() {
        let text = ErrorText {
            status: StatusCode::BAD_GATEWAY,
            message: "100% <b>\"ü\"</b>",
            id: "<script>alert('1')</script>&",
        };
        let mut head = ResponseHead::new(StatusCode::BAD_GATEWAY).head;
        let html = ErrorFormat::Html.body(text, None, &mut head);
        let html = std::str::from_utf8(&html).unwrap();
        assert!(html.contains("<h1>502 Bad Gateway</h1>"), "{html}");
        assert!(html.contains("<p>100% &lt;b&gt;&quot;ü&quot;&lt;/b&gt;</p>"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;"), "{html}");
        assert!(!html.contains("<script") && !html.contains("{{"), "{html}");
        let json = ErrorFormat::Json.body(text, None, &mut head);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (&json["message"], &json["request_id"]),
            (&text.message.into(), &text.id.into())
        );
        let body = ErrorFormat::Grpc("application/grpc").body(text, None, &mut head);
        assert!(body.is_empty());
        let value = |name| head.named(name).collect::<Vec<_>>();
        assert_eq!(value("grpc-message"), [b"100%25 <b>\"%C3%BC\"</b>"]);
        assert_eq!(value("grpc-status"), [b"14"]);
    }

    #[test]
    fn the_built_in_page_is_small_and_needs_nothing_else() {
        let source = include_str!("error_reply.html");
        assert!(ErrorPage::parse(source).is_ok());
        assert!(source.len() < 2000, "{}", source.len());
        for outside in ["<script", "http:", "https:", "url(", "@import", "<link", "<img"] {
            assert!(!source.contains(outside), "{outside}");
        }
    }
}
