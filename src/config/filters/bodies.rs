//! The keys of a route that change bodies.

use super::super::{
    CompressConfig, ContentCoding,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// Smallest body that is compressed, if nothing is set: a smaller one saves no packet.
const SMALLEST: u64 = 1024;

/// Largest `min_size`.
const LARGEST_SMALLEST: usize = 1 << 30;

/// Level of all codings, if none is set. More costs much and saves little.
const LEVEL: u8 = 4;

/// Codings by name, the preferred one first.
const CODINGS: [(&str, ContentCoding); 3] =
    [("zstd", ContentCoding::Zstd), ("br", ContentCoding::Brotli), ("gzip", ContentCoding::Gzip)];

/// Reads `true`, or a table.
pub(super) fn compress(value: &TomlValue<'_>) -> Option<CompressConfig> {
    let all = || CODINGS.into_iter().map(|(_, coding)| coding).collect();
    if let Some(on) = value.switch() {
        let encodings = all();
        return on.then_some(CompressConfig {
            types: None,
            min_size: SMALLEST,
            encodings,
            level: LEVEL,
        });
    }
    let wanted = "true, false or a table such as `{ encodings = [\"gzip\"] }`";
    let table = value.table(&schema::COMPRESS, wanted)?;
    let encodings = table.value("encodings").map(|value| {
        let mut listed = value.strings(coding);
        // The same coding twice means the first place.
        let mut seen = Vec::new();
        listed.retain(|coding| {
            !seen.contains(coding) && {
                seen.push(*coding);
                true
            }
        });
        listed
    });
    let min_size = table.value("min_size").and_then(|value| value.size(0..=LARGEST_SMALLEST));
    Some(CompressConfig {
        types: table.value("types").map(|value| value.strings(media_type)),
        min_size: min_size.map_or(SMALLEST, |size| size as u64),
        encodings: encodings.unwrap_or_else(all),
        level: table.integer("level", 1..=9, LEVEL),
    })
}

fn coding(typed: &str) -> Result<ContentCoding, InvalidValue> {
    let known = CODINGS.iter().find(|(name, _)| *name == typed);
    known.map(|(_, coding)| *coding).ok_or_else(|| {
        let wrong = InvalidValue::new(format!("unknown coding {}", quoted(typed)));
        wrong.help("write \"zstd\", \"br\" or \"gzip\"")
    })
}

/// A media type without parameters, or all types of one kind.
fn media_type(typed: &str) -> Result<String, InvalidValue> {
    let lower = typed.to_ascii_lowercase();
    let is_valid = lower.split_once('/').is_some_and(|(kind, name)| {
        moorline_http::is_token(kind.as_bytes())
            && !kind.contains('*')
            && moorline_http::is_token(name.as_bytes())
            && (name == "*" || !name.contains('*'))
    });
    match is_valid {
        true => Ok(lower),
        false => Err(InvalidValue::new(format!("invalid media type {}", quoted(typed)))
            .help("write for example \"application/json\" or \"text/*\"")),
    }
}
