//! Texts of a request: values of parameters and cookies, and what they are compared with.

use std::{borrow::Cow, str};

use moorline_http::{FieldId, Head};
use percent_encoding::percent_decode;
use regex::Regex;

use crate::config::{TextCondition, filters::whole_path};

/// What a text is compared with.
#[derive(Debug)]
pub(in crate::gateway) enum TextMatch {
    Present,
    Absent,
    OneOf(Box<[Box<[u8]>]>),
    Prefix(Box<[u8]>),
    Pattern(Box<Regex>),
    /// No text: the pattern is not valid, which the check of the configuration rules out.
    Nothing,
}

impl TextMatch {
    pub(in crate::gateway) fn new(config: &TextCondition) -> Self {
        match config {
            TextCondition::Present => Self::Present,
            TextCondition::Absent => Self::Absent,
            TextCondition::OneOf(texts) => {
                Self::OneOf(texts.iter().map(|text| text.as_bytes().into()).collect())
            }
            TextCondition::Prefix(prefix) => Self::Prefix(prefix.as_bytes().into()),
            TextCondition::Pattern(pattern) => {
                whole_path(pattern).map_or(Self::Nothing, |pattern| Self::Pattern(pattern.into()))
            }
        }
    }

    /// Whether one of the texts matches; none may be there if the text has to be absent.
    pub(in crate::gateway) fn meets<T: AsRef<[u8]>>(
        &self,
        texts: impl IntoIterator<Item = T>,
    ) -> bool {
        let mut texts = texts.into_iter();
        match self {
            Self::Present => texts.next().is_some(),
            Self::Absent => texts.next().is_none(),
            Self::OneOf(wanted) => {
                texts.any(|text| wanted.iter().any(|wanted| **wanted == *text.as_ref()))
            }
            Self::Prefix(prefix) => texts.any(|text| text.as_ref().starts_with(prefix)),
            Self::Pattern(pattern) => texts
                .any(|text| str::from_utf8(text.as_ref()).is_ok_and(|text| pattern.is_match(text))),
            Self::Nothing => false,
        }
    }
}

/// The decoded names and values of a query.
pub(super) fn parameters(
    query: Option<&str>,
) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, [u8]>)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = match decoded(name) {
            Cow::Borrowed(name) => String::from_utf8_lossy(name),
            Cow::Owned(name) => Cow::Owned(String::from_utf8_lossy(&name).into_owned()),
        };
        (name, decoded(value))
    })
}

/// A part of a query as forms encode it.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let spaces: Vec<u8> = text.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    Cow::Owned(percent_decode(&spaces).collect())
}

/// The names and values of the cookies.
pub(super) fn cookies(head: &Head) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = head.all(FieldId::Cookie).flat_map(|field| field.split(|&byte| byte == b';'));
    pairs.filter_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
    })
}
