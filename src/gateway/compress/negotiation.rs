//! `Accept-Encoding` (RFC 9110 §12.5.3).

use moorline_http::{FieldId, Head, trim};

use crate::config::ContentCoding;

/// Elements of an `Accept-Encoding` field that are read.
const MOST_ELEMENTS: usize = 32;

/// What a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acceptable {
    /// The coding that the client likes best of those that are offered; `None`: it accepts none, or prefers none.
    pub(super) coding: Option<ContentCoding>,
    /// The client does not accept a body that is not encoded.
    pub(super) only_encoded: bool,
}

impl Acceptable {
    /// Chooses a coding. Of those that the client likes equally, the first one that is offered counts.
    pub(super) fn of(head: &Head, offered: &[ContentCoding]) -> Self {
        let listed: Vec<(&[u8], u16)> =
            head.tokens(FieldId::AcceptEncoding).take(MOST_ELEMENTS).map(weighted).collect();
        let weight = |names: &[&str]| {
            let is_it = |(found, _): &&(&[u8], u16)| {
                names.iter().any(|name| found.eq_ignore_ascii_case(name.as_bytes()))
            };
            listed.iter().find(is_it).map(|(_, weight)| *weight)
        };
        let any = weight(&["*"]);
        let identity = weight(&["identity"]);
        let only_encoded = identity.or(any) == Some(0);
        let mut best: Option<(ContentCoding, u16)> = None;
        for coding in offered {
            let names: &[&str] = match coding {
                ContentCoding::Gzip => &["gzip", "x-gzip"],
                ContentCoding::Brotli => &["br"],
                ContentCoding::Zstd => &["zstd"],
            };
            let weight = weight(names).or(any).unwrap_or(0);
            if weight > best.map_or(0, |(_, best)| best) {
                best = Some((*coding, weight));
            }
        }
        let preferred = best.filter(|(_, weight)| identity.is_none_or(|plain| *weight >= plain));
        Self { coding: preferred.map(|(coding, _)| coding), only_encoded }
    }
}

/// An element's coding and weight, in thousandths. An invalid weight means that the coding is not accepted.
fn weighted(element: &[u8]) -> (&[u8], u16) {
    let mut parts = element.split(|byte| *byte == b';').map(trim);
    let name = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| match part {
        [b'q' | b'Q', b'=', value @ ..] => Some(thousandths(value).unwrap_or(0)),
        _ => None,
    });
    (name, weight.unwrap_or(1000))
}

fn thousandths(value: &[u8]) -> Option<u16> {
    let value: f32 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (0.0..=1.0).contains(&value).then_some((value * 1000.0) as u16)
}
