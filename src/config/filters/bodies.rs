//! The keys of a route that change bodies.

use std::path::PathBuf;

use super::super::{
    CompressConfig, ContentCoding, FilesConfig,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// The file that answers for a folder, if none is set.
const INDEX: &str = "index.html";

/// Smallest body that is compressed, if nothing is set: a smaller one saves no packet.
const SMALLEST: u64 = 1024;

/// Largest `min_size`.
const LARGEST_SMALLEST: usize = 1 << 30;

/// Level of all codings, if none is set. More costs much and saves little.
const LEVEL: u8 = 4;

/// Codings by name, the preferred one first.
const CODINGS: [(&str, ContentCoding); 3] =
    [("zstd", ContentCoding::Zstd), ("br", ContentCoding::Brotli), ("gzip", ContentCoding::Gzip)];

/// Reads a folder, or a table with it.
pub(in crate::config) fn files(value: &TomlValue<'_>) -> Option<FilesConfig> {
    let of = |root| FilesConfig {
        root,
        index: INDEX.to_owned(),
        spa: None,
        precompressed: false,
        hidden: false,
    };
    if value.node.get_ref().is_str() {
        return root(value).map(of);
    }
    let wanted = "the path of a folder, or a table such as `{ root = \"/srv/www\" }`";
    let table = value.table(&schema::FILES, wanted)?;
    let root = table.need("root", "`root = \"/srv/www\"`").and_then(|value| root(&value));
    let index = table.value("index").and_then(|value| value.parsed(file_name));
    let spa = table.value("spa").and_then(|value| value.parsed(page));
    let files = FilesConfig {
        index: index.unwrap_or_else(|| INDEX.to_owned()),
        spa,
        precompressed: table.boolean("precompressed", false),
        hidden: table.boolean("hidden", false),
        ..of(PathBuf::new())
    };
    Some(FilesConfig { root: root?, ..files })
}

fn root(value: &TomlValue<'_>) -> Option<PathBuf> {
    let typed = value.string()?;
    let path = value.resolve(typed);
    match path.metadata() {
        Ok(found) if found.is_dir() => return Some(path),
        Ok(_) => {
            let wrong = InvalidValue::new(format!("{} is not a folder", quoted(typed)));
            value.fault(wrong.help("write the folder that has the files"));
        }
        Err(error) => {
            let wrong = InvalidValue::new(format!("cannot read the folder {}", quoted(typed)));
            value.fault(wrong.help(error.to_string()));
        }
    }
    None
}

fn file_name(typed: &str) -> Result<String, InvalidValue> {
    match !typed.is_empty() && typed != ".." && typed != "." && !typed.contains(['/', '\\', '\0']) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid file name {}", quoted(typed)))
            .help("write a name without a path: \"index.html\"")),
    }
}

/// The path of a page below the root.
fn page(typed: &str) -> Result<String, InvalidValue> {
    let mut names = typed.trim_start_matches('/').split('/');
    match typed.starts_with('/') && names.all(|name| file_name(name).is_ok()) {
        true => Ok(typed.to_owned()),
        false => Err(InvalidValue::new(format!("invalid page {}", quoted(typed)))
            .help("write its path below the root: \"/index.html\"")),
    }
}

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
