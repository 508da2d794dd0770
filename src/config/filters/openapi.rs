//! `openapi` of a route.

use std::{path::Path, rc::Rc, str};

use super::super::{
    ApiDescription, OpenApiConfig,
    fault::{Fault, Faults, InvalidValue, SourceText},
    file::TomlValue,
    includes,
    operations::LoadedDocument,
    path, schema,
};
use crate::openapi::{ApiDocument, ApiDocumentFault, RuleReading};

/// Maximum size of a body that is checked, if none is set.
const MOST_CHECKED: u64 = 1 << 20;

/// What is done with `security` of the document.
const SECURITY: [(&str, RuleReading); 2] =
    [("enforce", RuleReading::Security), ("ignore", RuleReading::Extensions)];

/// Largest `max_body` of a check: the body is held in memory.
const LARGEST_CHECKED: usize = 64 << 20;

/// Reads the path of a document, or a table with it.
pub(super) fn openapi(value: &TomlValue<'_>) -> Option<OpenApiConfig> {
    let of = |file: &TomlValue<'_>, reading| {
        let path = file.resolve(file.string()?);
        let document = document(file, &path, reading)?.description.clone();
        Some(OpenApiConfig {
            file: path,
            document,
            base: None,
            refuse_unknown: true,
            max_body: MOST_CHECKED,
        })
    };
    if value.node.get_ref().is_str() {
        return of(value, RuleReading::Security);
    }
    let wanted = "the path of a document, or a table such as `{ file = \"api.yaml\" }`";
    let table = value.table(&schema::OPENAPI, wanted)?;
    let reading = table.value("security").and_then(|value| value.choice(&SECURITY));
    let reading = reading.unwrap_or(RuleReading::Security);
    let document =
        table.need("file", "`file = \"api.yaml\"`").and_then(|value| of(&value, reading));
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

/// Returns the document of a route with its rules. Faults of other keys are not noted here.
pub(in crate::config) fn loaded(value: &TomlValue<'_>) -> Option<Rc<LoadedDocument>> {
    if value.node.get_ref().is_str() {
        let path = value.resolve(value.string()?);
        return document(value, &path, RuleReading::Security);
    }
    value.node.get_ref().as_table()?;
    let table = value.table(&schema::OPENAPI, "a table")?;
    let reading = table.value("security").and_then(|value| value.choice(&SECURITY));
    let file = table.value("file")?;
    let path = file.resolve(file.string()?);
    document(&file, &path, reading.unwrap_or(RuleReading::Security))
}

/// A path before all paths, without its last slash.
fn base(typed: &str) -> Result<String, InvalidValue> {
    path::prefix(typed)?;
    Ok(typed.trim_end_matches('/').to_owned())
}

/// Reads the document of a file, once. Its faults are reported at their places in the file.
fn document(
    value: &TomlValue<'_>,
    path: &Path,
    reading: RuleReading,
) -> Option<Rc<LoadedDocument>> {
    value.file.documents.load(path, reading, || {
        let bytes = value.checked(value.read(path))?;
        let Ok(read) = str::from_utf8(&bytes) else {
            value.file.elsewhere(&value.at(), includes::not_utf8(path, &bytes));
            return None;
        };
        // The text that has places. It is another one only if the file has just changed, which a later reload sees.
        let (text, base) = value.file.document(path).unwrap_or((read, 0));
        match ApiDocument::parse_with_rules(text, reading) {
            Ok((document, rules)) => {
                let description = ApiDescription::new(text, document);
                Some(LoadedDocument::new(description, rules, base))
            }
            Err(faults) => {
                let source = SourceText::new(path, text);
                for wrong in faults {
                    value.file.elsewhere(&value.at(), fault(path, &source, wrong));
                }
                None
            }
        }
    })
}

/// Shows faults of a document at their places.
pub(in crate::config) fn faults(path: &Path, text: &str, wrong: Vec<ApiDocumentFault>) -> Faults {
    let source = SourceText::new(path, text);
    Faults(wrong.into_iter().map(|wrong| fault(path, &source, wrong)).collect())
}

fn fault(path: &Path, source: &SourceText<'_>, wrong: ApiDocumentFault) -> Fault {
    let ApiDocumentFault { at: _, place, message, help } = wrong;
    let wrong = InvalidValue { message, help };
    match place {
        Some(place) => source.fault(&place, wrong),
        None => Fault::of_file(path, wrong),
    }
}
