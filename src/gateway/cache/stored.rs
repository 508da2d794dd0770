//! One stored response, and the replies that are made from it.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::StatusCode;
use moorline_http::{FieldId, Head, RequestHead, ResponseHead};

use super::{
    conditions::{self, Precondition},
    policy::{CacheExchange, Freshness, freshness},
    range::{self, PartOf},
    vary::SelectingFields,
};
use crate::{
    config::CacheConfig,
    gateway::{LocalReply, ReplyBody},
};

/// Fields that are not stored: they belong to one message. Fields of the connection are removed before.
const NOT_STORED: [&[u8]; 7] = [
    b"age",
    b"cache-status",
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-authorization",
    b"proxy-connection",
    b"x-request-id",
];

/// Fields that a 304 does not change: they describe the stored body.
const OF_THE_BODY: [&[u8]; 5] =
    [b"content-encoding", b"content-length", b"content-md5", b"content-range", b"etag"];

/// Name and value of a field.
pub(super) type StoredField = (Box<[u8]>, Box<[u8]>);

/// What a request wants of a stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AskedPart {
    /// All of it.
    All,
    /// These bytes of the body.
    Range(Range<usize>),
    /// Bytes behind the end of the body.
    Nothing,
    /// A confirmation that the client's copy is current.
    NotModified,
    /// Another state of the resource.
    Failed,
}

/// A stored response.
#[derive(Debug)]
pub(super) struct StoredResponse {
    pub(super) status: StatusCode,
    pub(super) fields: Box<[StoredField]>,
    pub(super) body: Bytes,
    pub(super) freshness: Freshness,
    pub(super) selecting: SelectingFields,
    /// Names by which it can be removed.
    pub(super) tags: Box<[Box<str>]>,
}

impl StoredResponse {
    /// Stores the head of a response, which has passed `strip_hop_by_hop`; `None`: it may not be stored. The body follows.
    pub(super) fn of(
        config: &CacheConfig,
        request: &RequestHead,
        response: &ResponseHead,
        exchange: CacheExchange,
    ) -> Option<Self> {
        let freshness = freshness(config, request, response, exchange)?;
        let kept = response.head.fields().filter(|field| !is_listed(&NOT_STORED, field.name));
        let mut fields: Vec<StoredField> =
            kept.map(|field| (field.name.into(), field.value.into())).collect();
        if !response.head.has(FieldId::Date) {
            let date = httpdate::fmt_http_date(exchange.received);
            fields.push((b"Date"[..].into(), date.as_bytes().into()));
        }
        Some(Self {
            status: response.status,
            fields: fields.into(),
            body: Bytes::new(),
            freshness,
            selecting: SelectingFields::of(&response.head, &request.head),
            tags: tags(&response.head),
        })
    }

    /// Returns it as a 304 for it has updated it; `None`: it may not be kept.
    pub(super) fn updated(
        &self,
        config: &CacheConfig,
        request: &RequestHead,
        not_modified: &ResponseHead,
        exchange: CacheExchange,
    ) -> Option<Self> {
        let mut head = ResponseHead::new(self.status);
        let is_new = |name: &[u8]| {
            !is_listed(&OF_THE_BODY, name)
                && not_modified.head.fields().any(|field| field.name.eq_ignore_ascii_case(name))
        };
        for (name, value) in self.fields.iter().filter(|(name, _)| !is_new(name)) {
            append(&mut head.head, name, value);
        }
        for field in not_modified.head.fields() {
            if !is_listed(&OF_THE_BODY, field.name) {
                append(&mut head.head, field.name, field.value);
            }
        }
        let updated = Self::of(config, request, &head, exchange)?;
        Some(Self { body: self.body.clone(), ..updated })
    }

    /// Adds the body.
    pub(super) fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    /// Bytes in memory.
    pub(super) fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        let fields: usize =
            self.fields.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 16).sum();
        OVERHEAD + fields + tags + self.selecting.size() + self.body.len()
    }

    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let named =
            self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| &**value)
    }

    /// Time from now after which it cannot be used any more.
    pub(super) fn kept_for(&self, now: SystemTime) -> Duration {
        self.freshness.kept_for(self.has_validator(), now)
    }

    pub(super) fn has_validator(&self) -> bool {
        self.field("etag").is_some() || self.field("last-modified").is_some()
    }

    /// Makes a request conditional: its own conditions are replaced by those of the stored response. `If-Range` stays: if
    /// the backend has another version, the client wants all of it (RFC 9110 §13.1.5).
    pub(super) fn make_conditional(&self, request: &mut RequestHead) {
        for name in ["if-none-match", "if-modified-since", "if-match", "if-unmodified-since"] {
            request.head.remove_named(name.as_bytes());
        }
        if let Some(etag) = self.field("etag") {
            request.head.append_named("If-None-Match", etag);
        }
        if let Some(date) = self.field("last-modified") {
            request.head.append_named("If-Modified-Since", date);
        }
    }

    /// What a request wants of the response.
    pub(super) fn asked(&self, request: &RequestHead) -> AskedPart {
        match conditions::check(self, request) {
            Precondition::NotModified => AskedPart::NotModified,
            Precondition::Failed => AskedPart::Failed,
            Precondition::None if self.status == StatusCode::OK => {
                match range::asked(self, request) {
                    PartOf::All => AskedPart::All,
                    PartOf::Range(range) => AskedPart::Range(range),
                    PartOf::Nothing => AskedPart::Nothing,
                }
            }
            Precondition::None => AskedPart::All,
        }
    }

    /// The reply to a request that wants this part.
    pub(super) fn reply(&self, asked: AskedPart, now: SystemTime) -> LocalReply {
        let all = self.body.len();
        let (status, part) = match asked {
            AskedPart::All => (self.status, Some(0..all)),
            AskedPart::Range(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
            AskedPart::NotModified => (StatusCode::NOT_MODIFIED, None),
            AskedPart::Failed => (StatusCode::PRECONDITION_FAILED, None),
            AskedPart::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, None),
        };
        let mut reply = LocalReply::new(status);
        for (name, value) in &self.fields {
            let length = name.eq_ignore_ascii_case(b"content-length");
            if !length
                && (status != StatusCode::PARTIAL_CONTENT
                    || !name.eq_ignore_ascii_case(b"content-range"))
            {
                append(reply.fields(), name, value);
            }
        }
        let head = reply.fields();
        head.append_named("Age", self.freshness.age(now).as_secs().to_string());
        match (status, part) {
            (StatusCode::PARTIAL_CONTENT, Some(part)) => {
                let (first, last) = (part.start, part.end.saturating_sub(1));
                head.append_named("Content-Range", format!("bytes {first}-{last}/{all}"));
                reply.body = ReplyBody::Bytes(self.body.slice(part));
            }
            (_, Some(part)) => reply.body = ReplyBody::Bytes(self.body.slice(part)),
            (StatusCode::RANGE_NOT_SATISFIABLE, None) => {
                head.append_named("Content-Range", format!("bytes */{all}"));
            }
            (_, None) => {}
        }
        reply
    }
}

fn append(head: &mut Head, name: &[u8], value: &[u8]) {
    // Names of parsed fields are tokens.
    head.append_named(std::str::from_utf8(name).unwrap_or_default(), value);
}

fn is_listed(names: &[&[u8]], name: &[u8]) -> bool {
    names.iter().any(|listed| listed.eq_ignore_ascii_case(name))
}

/// The tags of a response: `Cache-Tag` with commas, and `Surrogate-Key` and `xkey` with spaces.
fn tags(head: &Head) -> Box<[Box<str>]> {
    const MOST_TAGS: usize = 128;
    let separated = |name: &'static str, by: &'static [u8]| {
        head.named(name).flat_map(move |value| value.split(move |byte| by.contains(byte)))
    };
    let all = separated("cache-tag", b",")
        .chain(separated("surrogate-key", b" "))
        .chain(separated("xkey", b" "));
    let named = all.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty());
    named.filter_map(|tag| std::str::from_utf8(tag).ok()).take(MOST_TAGS).map(Box::from).collect()
}
