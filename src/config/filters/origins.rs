//! `origins` of a route.

use super::{
    super::{OriginPattern, OriginPatterns, OriginRules, fault::InvalidValue, file::TomlValue},
    listed_at_most, origin,
};

/// The word for pages of the host that a request is sent to.
const SAME_HOST: &str = "same-host";

/// Reads the origins of pages that may open sessions and WebSockets.
pub(super) fn origins(value: &TomlValue<'_>) -> OriginRules {
    if value.node.get_ref().as_str() == Some("*") {
        return OriginRules { same_host: false, listed: OriginPatterns::Any };
    }
    let read = |typed: &str| -> Result<Option<OriginPattern>, InvalidValue> {
        match typed == SAME_HOST {
            true => Ok(None),
            false => origin(typed).map(Some),
        }
    };
    let listed = value.strings(read);
    listed_at_most(value, listed.len());
    let same_host = listed.contains(&None);
    OriginRules {
        same_host,
        listed: OriginPatterns::Listed(listed.into_iter().flatten().collect()),
    }
}
