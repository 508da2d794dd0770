//! `openapi` of a route.

use std::{path::Path, str};

use super::super::{
    ApiDescription, OpenApiConfig,
    fault::{Fault, InvalidValue, SourceText},
    file::TomlValue,
    includes, path, schema,
};
use crate::openapi::{ApiDocument, ApiDocumentFault};

/// Maximum size of a body that is checked, if none is set.
const MOST_CHECKED: u64 = 1 << 20;

/// Largest `max_body` of a check: the body is held in memory.
const LARGEST_CHECKED: usize = 64 << 20;

/// Reads the path of a document, or a table with it.
pub(super) fn openapi(value: &TomlValue<'_>) -> Option<OpenApiConfig> {
    let of = |file: &TomlValue<'_>| {
        let path = file.resolve(file.string()?);
        let document = document(file, &path)?;
        Some(OpenApiConfig {
            file: path,
            document,
            base: None,
            refuse_unknown: true,
            max_body: MOST_CHECKED,
        })
    };
    if value.node.get_ref().is_str() {
        return of(value);
    }
    let wanted = "the path of a document, or a table such as `{ file = \"api.yaml\" }`";
    let table = value.table(&schema::OPENAPI, wanted)?;
    let document = table.need("file", "`file = \"api.yaml\"`").and_then(|value| of(&value));
    let base = table.value("base").and_then(|value| value.parsed(base));
    let unknown = table.value("unknown").and_then(|value| {
        let choices = [("refuse", true), ("pass", false)];
        value.choice(&choices)
    });
    let max_body = table.value("max_body").and_then(|value| value.size(1..=LARGEST_CHECKED));
    let document = document?;
    Some(OpenApiConfig {
        base,
        refuse_unknown: unknown.unwrap_or(document.refuse_unknown),
        max_body: max_body.map_or(document.max_body, |size| size as u64),
        ..document
    })
}

/// A path before all paths, without its last slash.
fn base(typed: &str) -> Result<String, InvalidValue> {
    path::prefix(typed)?;
    Ok(typed.trim_end_matches('/').to_owned())
}

/// Reads the document of a file. Its faults are reported at their places in the file.
fn document(value: &TomlValue<'_>, path: &Path) -> Option<ApiDescription> {
    let bytes = value.checked(value.read(path))?;
    let Ok(text) = str::from_utf8(&bytes) else {
        value.file.elsewhere(&value.at(), includes::not_utf8(path, &bytes));
        return None;
    };
    match ApiDocument::parse(text) {
        Ok(document) => Some(ApiDescription::new(text, document)),
        Err(faults) => {
            let source = SourceText::new(path, text);
            for wrong in faults {
                value.file.elsewhere(&value.at(), fault(path, &source, wrong));
            }
            None
        }
    }
}

fn fault(path: &Path, source: &SourceText<'_>, wrong: ApiDocumentFault) -> Fault {
    let ApiDocumentFault { at: _, place, message, help } = wrong;
    let wrong = InvalidValue { message, help };
    match place {
        Some(place) => source.fault(&place, wrong),
        None => Fault::of_file(path, wrong),
    }
}
