//! `forward` of `auth`.

use std::time::Duration;

use super::super::super::{
    ForwardAuthConfig, conditions::token, fault::InvalidValue, file::TomlValue, reader::SHORTEST,
    schema, sources,
};

/// Deadline of a decision, if none is set.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest deadline, for which clients have to wait.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time for which a decision is kept.
const LONGEST_CACHE: Duration = Duration::from_secs(60);

/// Fields that belong to the connection of the client and its message, which no other server may set.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads the server that decides about the requests of a route.
pub(super) fn forward(value: &TomlValue<'_>) -> Option<ForwardAuthConfig> {
    let wanted = "a table such as `{ url = \"http://auth.internal/verify\" }`";
    let table = value.table(&schema::FORWARD_AUTH, wanted)?;
    let url = table.need("url", "`url = \"http://auth.internal/verify\"`");
    let url = url.and_then(|value| value.parsed(sources::url));
    let read = |key| table.value(key);
    let within = |key, bounds| read(key).and_then(|v: TomlValue<'_>| v.duration_within(bounds));
    Some(ForwardAuthConfig {
        send: read("send").map(|value| value.strings(token)),
        copy: read("copy").map(|value| value.strings(copied)).unwrap_or_default(),
        copy_back: read("copy_back").map(|value| value.strings(copied)).unwrap_or_default(),
        subject: read("subject").and_then(|value| value.parsed(token)),
        timeout: within("timeout", SHORTEST..=LONGEST_TIMEOUT).unwrap_or(TIMEOUT),
        cache: within("cache", Duration::ZERO..=LONGEST_CACHE).unwrap_or_default(),
        url: url?,
    })
}

/// The name of a field that the backend or the client gets.
fn copied(typed: &str) -> Result<String, InvalidValue> {
    let name = token(typed)?;
    match FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(&name)) {
        true => Err(InvalidValue::new(format!("`{name}` cannot be copied"))
            .help("it belongs to the connection or the message of the client")),
        false => Ok(name),
    }
}
