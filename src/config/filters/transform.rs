//! The keys `transform` and `decompress` of a route.

use minijinja::{AutoEscape, Environment, UndefinedBehavior};

use super::super::{
    BodyChange, DecompressConfig, TransformConfig,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// The name of the template in its environment.
pub(crate) const TEMPLATE_NAME: &str = "body";

/// Largest body that is changed, in bytes, if nothing is set.
const LIMIT: u64 = 1 << 20;

/// Largest `limit` and `max`: a body of this size is in memory as a whole.
const LARGEST: usize = 16 << 20;

/// Longest template, in bytes.
const LONGEST_TEMPLATE: usize = 64 << 10;

/// Statuses of responses without a body of their own, or with a part of one: they stay as they are.
const FIXED: [u16; 4] = [204, 205, 206, 304];

/// Ratio of a decompressed body, if none is set. Text reaches about 20; deflate cannot exceed 1032.
const RATIO: u32 = 100;

/// Maximum size of a decompressed body, if none is set.
const MAX: u64 = 8 << 20;

/// Reads a table.
pub(super) fn transform(value: &TomlValue<'_>) -> TransformConfig {
    let wanted = "a table such as `{ response = { drop = [\"password\"] } }`";
    let Some(table) = value.table(&schema::TRANSFORM, wanted) else {
        return TransformConfig::default();
    };
    let change = |key| table.value(key).and_then(|value| body_change(&value));
    TransformConfig {
        request: change("request"),
        response: change("response"),
        status: table.value("status").map(|value| statuses(&value)).unwrap_or_default(),
        error_pages: table
            .value("error_pages")
            .map(|value| value.strings(status_or_class))
            .unwrap_or_default(),
    }
}

fn body_change(value: &TomlValue<'_>) -> Option<BodyChange> {
    let wanted = "a table such as `{ drop = [\"password\"] }`";
    let table = value.table(&schema::BODY_CHANGE, wanted)?;
    let fields = |key| table.value(key).map(|value| value.strings(field_path)).unwrap_or_default();
    let limit = table.value("limit").and_then(|value| value.size(1..=LARGEST));
    let change = BodyChange {
        limit: limit.map_or(LIMIT, |size| size as u64),
        passes_others: passes(table.value("other_types")),
        passes_faults: passes(table.value("on_fault")),
        rename: table.value("rename").map(|value| renamed(&value)).unwrap_or_default(),
        drop: fields("drop"),
        mask: fields("mask"),
        template: table.value("template").and_then(|value| value.parsed(template)),
    };
    if change.passes_faults
        && !(change.drop.is_empty() && change.mask.is_empty())
        && let Some(value) = table.value("on_fault")
    {
        let wrong = InvalidValue::new(
            "a body that cannot be changed would show the fields in `drop` and `mask`",
        );
        value.fault(wrong.help("remove `on_fault`: these bodies are refused"));
    }
    Some(change)
}

/// Whether a body passes, instead of being refused.
fn passes(value: Option<TomlValue<'_>>) -> bool {
    let choices = [("refuse", false), ("pass", true)];
    value.and_then(|value| value.choice(&choices)).unwrap_or_default()
}

/// The path of a field: names with dots between them.
fn field_path(typed: &str) -> Result<Vec<String>, InvalidValue> {
    let names: Vec<String> = typed.split('.').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        let wrong = InvalidValue::new(format!("invalid field {}", quoted(typed)));
        return Err(wrong.help("write names with dots between them: \"user.password\""));
    }
    if names.len() > 32 {
        let wrong = InvalidValue::new("more than 32 names in a field");
        return Err(wrong.help("write a shorter one"));
    }
    Ok(names)
}

fn renamed(value: &TomlValue<'_>) -> Vec<(Vec<String>, String)> {
    let read = |(at, from, value): (super::super::fault::Span, &str, TomlValue<'_>)| {
        let from = field_path(from).map_err(|wrong| value.file.fault(&at, wrong)).ok();
        let to = value.parsed(|typed| match typed.is_empty() {
            true => Err(InvalidValue::new("the new name is empty").help("use `drop` to remove it")),
            false => Ok(typed.to_owned()),
        });
        Some((from?, to?))
    };
    value.named().into_iter().filter_map(read).collect()
}

fn template(typed: &str) -> Result<String, InvalidValue> {
    if typed.len() > LONGEST_TEMPLATE {
        let wrong = InvalidValue::new(format!("`template` has more than {LONGEST_TEMPLATE} bytes"));
        return Err(wrong.help("write a shorter one"));
    }
    match body_template(typed) {
        Ok(_) => Ok(typed.to_owned()),
        Err(error) => {
            let line = error.line().map(|line| format!(" in its line {line}")).unwrap_or_default();
            let wrong = InvalidValue::new(format!("invalid template{line}"));
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            Err(wrong.help(detail))
        }
    }
}

/// Compiles a template of a body. Values are written as JSON, and a missing value is a fault.
pub(crate) fn body_template(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Json);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template_owned(TEMPLATE_NAME, source.to_owned())?;
    Ok(environment)
}

fn statuses(value: &TomlValue<'_>) -> Vec<(u16, u16)> {
    let read = |(at, from, value): (super::super::fault::Span, &str, TomlValue<'_>)| {
        let from = status(from).map_err(|wrong| value.file.fault(&at, wrong)).ok();
        let to = value.integer(200..=599).and_then(|to| {
            if FIXED.contains(&to) {
                let wrong =
                    InvalidValue::new(format!("a response cannot become one with status {to}"));
                value.fault(wrong.help("its body would have to be another one"));
                return None;
            }
            Some(to)
        });
        Some((from?, to?))
    };
    value.named().into_iter().filter_map(read).collect()
}

fn status(typed: &str) -> Result<u16, InvalidValue> {
    let code =
        typed.parse().ok().filter(|code| (200..=599).contains(code) && !FIXED.contains(code));
    code.ok_or_else(|| {
        let wrong = InvalidValue::new(format!("invalid status {}", quoted(typed)));
        wrong.help("write a status from 200 to 599, except 204, 205, 206 and 304")
    })
}

/// A status of an error, or the first digit of a class.
fn status_or_class(typed: &str) -> Result<u16, InvalidValue> {
    match typed {
        "4xx" => Ok(4),
        "5xx" => Ok(5),
        typed => typed.parse().ok().filter(|code| (400..=599).contains(code)).ok_or_else(|| {
            let wrong = InvalidValue::new(format!("invalid status {}", quoted(typed)));
            wrong.help("write a status of an error, or a class: \"404\" or \"5xx\"")
        }),
    }
}

/// Reads `true`, or a table.
pub(super) fn decompress(value: &TomlValue<'_>) -> Option<DecompressConfig> {
    let default = DecompressConfig { ratio: RATIO, max: MAX };
    if let Some(on) = value.switch() {
        return on.then_some(default);
    }
    let wanted = "true, false or a table such as `{ ratio = 50, max = \"4MiB\" }`";
    let table = value.table(&schema::DECOMPRESS, wanted)?;
    let max = table.value("max").and_then(|value| value.size(1..=LARGEST));
    Some(DecompressConfig {
        ratio: table.integer("ratio", 1..=10_000, RATIO),
        max: max.map_or(MAX, |size| size as u64),
    })
}
