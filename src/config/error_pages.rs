//! `error_pages`: custom HTML pages for errors that the proxy reports itself.
//!
//! A page is an HTML file with placeholders: `{{status}}`, `{{reason}}`, `{{message}}` and
//! `{{request_id}}`. It is read and parsed with the configuration, so that a reply needs no file access
//! and a misspelled placeholder is reported at its line.

use std::{ops::Range, path::PathBuf, str, sync::Arc};

use super::{
    fault::{Fault, InvalidValue, SourceText, quoted},
    text,
    value::TomlValue,
};

/// Largest error page, in bytes. Every failed request may send one.
const LARGEST_PAGE: usize = 256 << 10;

/// Status codes of the replies that the proxy makes itself.
const OWN_STATUSES: [u16; 16] =
    [400, 403, 404, 405, 408, 413, 414, 421, 426, 431, 501, 502, 503, 504, 505, 508];

/// The error pages of a route: the route's own pages, then those of the top level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages {
    entries: Vec<ErrorPageEntry>,
}

/// One page and the status codes that it is sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPageEntry {
    /// Status codes of the page.
    pub covers: StatusPattern,
    /// Absolute path of the page's file.
    pub file: PathBuf,
    /// The parsed page; shared, because several codes may name one file.
    pub page: Arc<ErrorPage>,
}

/// Status codes that an error page covers, the most specific pattern first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusPattern {
    /// One status code.
    Exact(u16),
    /// All status codes with this first digit.
    Class(u16),
    /// Every status code.
    Any,
}

/// An HTML page with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPage {
    segments: Vec<Segment>,
}

/// A part of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(String),
    Value(Placeholder),
}

/// A value that a page can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The status code.
    Status,
    /// The status code's standard reason phrase.
    Reason,
    /// A sentence that describes the error.
    Message,
    /// The request's id, as in the access log.
    RequestId,
}

impl ErrorPages {
    /// The page for a status code, if there is one.
    pub fn page(&self, status: u16) -> Option<&ErrorPage> {
        self.entries.iter().find(|entry| entry.covers.matches(status)).map(|entry| &*entry.page)
    }

    /// All pages, in the order in which they are looked up.
    pub fn entries(&self) -> &[ErrorPageEntry] {
        &self.entries
    }

    /// These pages, with `fallback` for the status codes that they do not cover.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        let entries = self.entries.iter().chain(&fallback.entries).cloned().collect();
        Self { entries }
    }
}

impl StatusPattern {
    fn matches(self, status: u16) -> bool {
        match self {
            Self::Exact(code) => code == status,
            Self::Class(digit) => digit == status / 100,
            Self::Any => true,
        }
    }

    /// The pattern as written in the file.
    pub fn name(self) -> String {
        match self {
            Self::Exact(code) => code.to_string(),
            Self::Class(digit) => format!("{digit}xx"),
            Self::Any => "any".to_owned(),
        }
    }
}

/// An unknown placeholder and its place in the page's text.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownPlaceholder {
    /// Byte range of the placeholder, with its braces.
    pub at: Range<usize>,
}

impl ErrorPage {
    /// Parses the text of a page. Two braces that do not enclose a name stand for themselves.
    ///
    /// # Errors
    /// The first placeholder with an unknown name.
    pub fn parse(text: &str) -> Result<Self, UnknownPlaceholder> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut from = 0;
        while let Some(open) = text[from..].find("{{").map(|at| from + at) {
            let Some(close) = text[open..].find("}}").map(|at| open + at + 2) else { break };
            let name = text[open + 2..close - 2].trim();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                // Continue behind the first brace: `{{{status}}` has a placeholder at its second one.
                literal.push_str(&text[from..=open]);
                from = open + 1;
                continue;
            }
            let value = Placeholder::named(name).ok_or(UnknownPlaceholder { at: open..close })?;
            literal.push_str(&text[from..open]);
            if !literal.is_empty() {
                segments.push(Segment::Text(std::mem::take(&mut literal)));
            }
            segments.push(Segment::Value(value));
            from = close;
        }
        literal.push_str(&text[from..]);
        if !literal.is_empty() {
            segments.push(Segment::Text(literal));
        }
        Ok(Self { segments })
    }

    /// The page's HTML. `value` writes the value of a placeholder, escaped for HTML text.
    pub fn render(&self, mut value: impl FnMut(Placeholder, &mut String)) -> String {
        let text = |segment: &Segment| match segment {
            Segment::Text(text) => text.len(),
            Segment::Value(_) => 64,
        };
        let mut html = String::with_capacity(self.segments.iter().map(text).sum());
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => html.push_str(text),
                Segment::Value(placeholder) => value(*placeholder, &mut html),
            }
        }
        html
    }
}

impl Placeholder {
    const ALL: [(&'static str, Self); 4] = [
        ("status", Self::Status),
        ("reason", Self::Reason),
        ("message", Self::Message),
        ("request_id", Self::RequestId),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// Reads `error_pages`: the path of one page for every error, or a table from status codes to paths.
pub(super) fn error_pages(value: &TomlValue<'_>) -> Option<Arc<ErrorPages>> {
    if value.node.get_ref().is_str() {
        let entry = entry(StatusPattern::Any, value)?;
        return Some(Arc::new(ErrorPages { entries: vec![entry] }));
    }
    if !value.node.get_ref().is_table() {
        value.wrong_type(
            "the path of an HTML file or a table such as `{ 404 = \"404.html\", 5xx = \"down.html\" }`",
        );
        return None;
    }
    let mut entries: Vec<ErrorPageEntry> = Vec::new();
    for (at, key, page) in value.named() {
        match pattern(key) {
            Ok(covers) => entries.extend(entry(covers, &page)),
            Err(wrong) => value.file.fault(&at, wrong),
        }
    }
    entries.sort_by_key(|entry| entry.covers);
    Some(Arc::new(ErrorPages { entries }))
}

/// The status codes that a key covers.
fn pattern(key: &str) -> Result<StatusPattern, InvalidValue> {
    match key {
        "4xx" => return Ok(StatusPattern::Class(4)),
        "5xx" => return Ok(StatusPattern::Class(5)),
        _ => {}
    }
    let code: Option<u16> = key.parse().ok().filter(|code| (100..600).contains(code));
    match code {
        Some(code) if OWN_STATUSES.contains(&code) => Ok(StatusPattern::Exact(code)),
        Some(code) => {
            let codes: Vec<String> = OWN_STATUSES.iter().map(u16::to_string).collect();
            Err(InvalidValue::new(format!("the proxy itself never replies with status {code}"))
                .help(format!(
                    "responses of backends are not replaced; use one of {}",
                    codes.join(", ")
                )))
        }
        None => Err(InvalidValue::new(format!("invalid status code {}", quoted(key)))
            .help("write a status code, for example `503`, or `4xx` or `5xx`")),
    }
}

fn entry(covers: StatusPattern, value: &TomlValue<'_>) -> Option<ErrorPageEntry> {
    let path = value.resolve(value.string()?);
    let page = match value.read(&path).and_then(checked) {
        Ok(text) => parsed(value, &path, &text)?,
        Err(wrong) => {
            value.fault(wrong);
            return None;
        }
    };
    let file = std::path::absolute(&path).unwrap_or(path);
    Some(ErrorPageEntry { covers, file, page: Arc::new(page) })
}

/// The text of a page's file.
fn checked(bytes: Vec<u8>) -> Result<String, InvalidValue> {
    if bytes.len() > LARGEST_PAGE {
        let message = format!("the error page is larger than {} KiB", LARGEST_PAGE >> 10);
        return Err(InvalidValue::new(message)
            .help("make the page smaller: every failed request may send it"));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        InvalidValue::new("the error page is not UTF-8 text").help("save it as UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err(InvalidValue::new("the error page is empty").help("write an HTML document"));
    }
    Ok(text)
}

/// Parses a page; a fault points into the page's file.
fn parsed(value: &TomlValue<'_>, path: &std::path::Path, text: &str) -> Option<ErrorPage> {
    let text = text::unmarked(text);
    match ErrorPage::parse(text) {
        Ok(page) => Some(page),
        Err(UnknownPlaceholder { at }) => {
            let known: Vec<String> =
                Placeholder::ALL.iter().map(|(name, _)| format!("`{{{{{name}}}}}`")).collect();
            let wrong =
                InvalidValue::new(format!("unknown placeholder {}", quoted(&text[at.clone()])))
                    .help(format!("the placeholders are {}", known.join(", ")));
            let fault: Fault = SourceText::new(path, text).fault(&at, wrong);
            value.file.elsewhere(&value.at(), fault);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> String {
        ErrorPage::parse(text).unwrap().render(|placeholder, html| {
            html.push_str(match placeholder {
                Placeholder::Status => "503",
                Placeholder::Reason => "R",
                Placeholder::Message => "M",
                Placeholder::RequestId => "id",
            });
        })
    }

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        assert_eq!(rendered("<b>{{status}} {{ reason }}</b>"), "<b>503 R</b>");
        assert_eq!(rendered("{{message}}{{request_id}}"), "Mid");
        for plain in ["", "{", "{{", "}}", "{{}}", "a{b}c", "{{ a-b }}", "{{status", "ü {{ ü }}"]
        {
            assert_eq!(rendered(plain), plain);
        }
        assert_eq!(rendered("{{{status}}}"), "{503}");
        assert_eq!(rendered("{{ x y }}{{status}}"), "{{ x y }}503");
    }

    #[test]
    fn an_unknown_placeholder_is_reported_with_its_place() {
        assert_eq!(ErrorPage::parse("a {{code}} b"), Err(UnknownPlaceholder { at: 2..10 }));
    }

    #[test]
    fn the_most_specific_page_is_used_and_then_the_fallback() {
        let page = |text: &str| Arc::new(ErrorPage::parse(text).unwrap());
        let entry =
            |covers, text| ErrorPageEntry { covers, file: PathBuf::new(), page: page(text) };
        let own = ErrorPages {
            entries: vec![
                entry(StatusPattern::Exact(503), "own 503"),
                entry(StatusPattern::Class(5), "own 5xx"),
            ],
        };
        let top = ErrorPages { entries: vec![entry(StatusPattern::Any, "any")] };
        let both = own.or(&top);
        assert_eq!(both.page(503), Some(&*page("own 503")));
        assert_eq!(both.page(502), Some(&*page("own 5xx")));
        assert_eq!(both.page(404), Some(&*page("any")));
        assert_eq!(own.page(404), None);
    }

    #[test]
    fn keys_are_status_codes_that_the_proxy_sends() {
        assert_eq!(pattern("503"), Ok(StatusPattern::Exact(503)));
        assert_eq!(pattern("4xx"), Ok(StatusPattern::Class(4)));
        for bad in ["500", "200", "5XX", "error", "", "6xx", "99999"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
