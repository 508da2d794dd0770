//! `[pools.NAME.sticky]`: session affinity.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Cookie, SameSite, SetOn, Sticky,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema,
};

/// Maximum of `owner_search`.
const MOST_ASKED: usize = 65_535;

/// Longest cookie name in characters: a request header has many cookies.
const LONGEST_NAME: usize = 64;

/// The cookie name of earlier versions, which had one name for all pools.
pub(crate) const FORMER_NAME: &str = "moorline";

/// The unit of `Max-Age`.
const SECOND: Duration = Duration::from_secs(1);

/// Reads the `sticky` setting of this pool: `false`, `true` or a table.
pub(super) fn sticky(value: &TomlValue<'_>, pool: &str) -> Option<Sticky> {
    if let Some(on) = value.switch() {
        let memory = Duration::ZERO;
        let off = Sticky { engine_io: false, owner_search: 0, cookie: None, memory };
        return Some(if on { Sticky::of(pool) } else { off });
    }
    let table =
        value.table(&schema::STICKY, "true, false or a table such as `{ cookie = false }`")?;
    let default = Sticky::of(pool);
    let engine_io = table.boolean("engine_io", default.engine_io);
    let owner_search = if engine_io {
        table.integer("owner_search", 0..=MOST_ASKED, default.owner_search)
    } else {
        table.refuse(&["owner_search"], |key| {
            InvalidValue::new(format!("`{key}` is not used when `engine_io` is false"))
                .help("remove it")
        });
        0
    };
    let cookie = match table.value("cookie") {
        Some(value) => cookie(&value, pool)?,
        None => default.cookie,
    };
    let memory = table.period("memory", default.memory);
    Some(Sticky { engine_io, owner_search, cookie, memory })
}

/// Reads `false`, `true` or a table. The outer `None` is a fault, the inner `None` means no cookie.
fn cookie(value: &TomlValue<'_>, pool: &str) -> Option<Option<Cookie>> {
    if let Some(on) = value.switch() {
        return Some(on.then(|| Cookie::of(pool)));
    }
    let table =
        value.table(&schema::COOKIE, "true, false or a table such as `{ lifetime = \"1d\" }`")?;
    let default = Cookie::of(pool);
    let cookie = Cookie {
        name: table.value("name").and_then(|value| value.parsed(name)).unwrap_or(default.name),
        same_site: table.value("same_site").and_then(|value| value.parsed(same_site)),
        secure: table.value("secure").and_then(|value| value.boolean()),
        http_only: table.boolean("http_only", default.http_only),
        partitioned: table.boolean("partitioned", default.partitioned),
        lifetime: table.value("lifetime").and_then(|value| value.duration(SECOND)),
        set_on: table
            .value("set_on")
            .and_then(|value| {
                value.choice(&[("handshake", SetOn::Handshake), ("always", SetOn::Always)])
            })
            .unwrap_or_default(),
    };
    if cookie.secure == Some(false)
        && let Some(reason) = needs_secure(&cookie)
    {
        table.refuse(&["secure"], |_| {
            InvalidValue::new(format!("browsers reject a cookie with {reason} that is not secure"))
                .help("remove `secure`, or write `secure = true`")
        });
    }
    Some(Some(cookie))
}

/// The attribute that browsers accept only with `Secure` (RFC 6265bis §5.7, CHIPS).
fn needs_secure(cookie: &Cookie) -> Option<&'static str> {
    let prefixed = |prefix: &str| {
        cookie.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if cookie.same_site == Some(SameSite::None) {
        Some("`same_site = \"none\"`")
    } else if cookie.partitioned {
        Some("`partitioned = true`")
    } else if prefixed("__Secure-") || prefixed("__Host-") {
        Some("the prefix `__Secure-` or `__Host-`")
    } else {
        None
    }
}

/// Parses the spelling of the header or of the configuration.
fn same_site(typed: &str) -> Result<SameSite, InvalidValue> {
    match typed.to_ascii_lowercase().as_str() {
        "strict" => Ok(SameSite::Strict),
        "lax" => Ok(SameSite::Lax),
        "none" => Ok(SameSite::None),
        _ => Err(InvalidValue::new(format!("invalid same_site {}", quoted(typed)))
            .help("use one of \"strict\", \"lax\" and \"none\"")),
    }
}

/// The name of a pool's cookie if none is set: `moorline-POOL`. A pool name that cannot be part of a
/// cookie name is represented by its hash, which never changes.
pub(crate) fn default_name(pool: &str) -> String {
    let name = format!("{FORMER_NAME}-{pool}");
    if is_token(&name) && name.len() <= LONGEST_NAME {
        return name;
    }
    format!("{FORMER_NAME}-{:016x}", xxh3_64(pool.as_bytes()))
}

/// Whether a text is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(allowed)
}

/// A cookie name: a token, as RFC 6265, section 4.1.1 requires.
fn name(typed: &str) -> Result<String, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid cookie name {}", quoted(typed)));
    if !is_token(typed) {
        return Err(wrong().help("use letters, digits, `-` and `_`"));
    }
    if typed.len() > LONGEST_NAME {
        return Err(wrong().help(format!("use at most {LONGEST_NAME} characters")));
    }
    Ok(typed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{SameSite, default_name, name, same_site};

    #[test]
    fn same_site_is_read_in_both_spellings() {
        assert_eq!(same_site("None"), Ok(SameSite::None));
        assert_eq!(same_site("lax"), Ok(SameSite::Lax));
        assert!(same_site("").is_err() && same_site("loose").is_err());
    }

    #[test]
    fn the_default_cookie_name_is_a_token_that_is_different_for_each_pool() {
        assert_eq!(default_name("chat"), "moorline-chat");
        assert_eq!(default_name("__Host-x"), "moorline-__Host-x");
        // Part of the interface: another proxy of a fleet, or the next version, must agree.
        assert_eq!(default_name("a b"), "moorline-8044f8a624582c4c");
        let names = ["chat", "Chat", "a b", "a;b", "a=b", "ü", &"a".repeat(56), &"a".repeat(57)];
        let defaults = names.map(default_name);
        for (at, default) in defaults.iter().enumerate() {
            assert!(name(default).is_ok(), "{default}");
            assert!(!defaults[..at].contains(default), "{default}");
        }
    }

    #[test]
    fn cookie_names_are_tokens() {
        assert!(name("__Host-moorline").is_ok());
        for bad in ["", "a b", "a=b", "a;b", "ü", "a\r\nb", &"a".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
