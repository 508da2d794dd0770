//! `api_keys` and `basic` of `auth`: credentials in files of lines.
//!
//! Invariant: no part of a line is ever shown. A line may have a key by mistake, instead of its hash.

use std::{collections::HashSet, path::PathBuf, str};

use argon2::password_hash::phc::PasswordHash;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{
    super::super::{
        ApiKey, ApiKeysConfig, BasicConfig, TokenPlace,
        fault::InvalidValue,
        file::{TomlTable, TomlValue},
        schema,
    },
    place, scope,
};

/// Field of an API key, if no place is set.
const KEY_FIELD: &str = "X-API-Key";

/// Most lines with a credential.
const MOST: usize = 100_000;

/// Highest cost of a hash of bcrypt: 2 to this power rounds, several seconds of a core.
const HIGHEST_COST: u8 = 15;

/// Most memory of a hash of Argon2, in KiB.
const MOST_MEMORY: u32 = 256 << 10;

/// Most passes of Argon2 over its memory.
const MOST_PASSES: u32 = 64;

/// Reads the API keys of a route.
pub(super) fn api_keys(value: &TomlValue<'_>) -> Option<ApiKeysConfig> {
    let table = value.table(&schema::API_KEYS, "a table such as `{ file = \"keys.txt\" }`")?;
    let places = match table.value("key") {
        Some(value) => value.strings(place),
        None => vec![TokenPlace::Field(KEY_FIELD.to_owned())],
    };
    let (path, mut keys) = lines(&table, "`file = \"keys.txt\"`", api_key)?;
    keys.sort_by_key(|(_, key)| key.hash);
    let twice = keys.windows(2).find(|pair| pair[0].1.hash == pair[1].1.hash);
    if let Some([(first, _), (second, _)]) = twice {
        let message = format!("lines {first} and {second} of the file have the same key");
        let file = table.value("file")?;
        file.fault(InvalidValue::new(message).help("remove one of the two"));
        return None;
    }
    Some(ApiKeysConfig { path, keys: keys.into_iter().map(|(_, key)| key).collect(), places })
}

/// Reads the users of a route.
pub(super) fn basic(value: &TomlValue<'_>) -> Option<BasicConfig> {
    let table = value.table(&schema::BASIC, "a table such as `{ file = \"users.txt\" }`")?;
    let (path, users) = lines(&table, "`file = \"users.txt\"`", user)?;
    let mut names = HashSet::new();
    if let Some((line, _)) = users.iter().find(|(_, (name, _))| !names.insert(name.as_str())) {
        let message = format!("line {line} of the file repeats a user of a line before it");
        let file = table.value("file")?;
        file.fault(InvalidValue::new(message).help("remove one of the two"));
        return None;
    }
    Some(BasicConfig { path, users: users.into_iter().map(|(_, user)| user).collect() })
}

/// Reads the lines of a file, with their numbers. Empty lines and those that begin with `#` do not count.
fn lines<T>(
    table: &TomlTable<'_>,
    example: &str,
    read: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Option<(PathBuf, Vec<(usize, T)>)> {
    let file = table.need("file", example)?;
    let path = file.resolve(file.string()?);
    let content = file.checked(file.read(&path))?;
    let text = str::from_utf8(&content).map_err(|_| {
        InvalidValue::new("the file is not text").help("write one credential per line")
    });
    let text = file.checked(text)?;
    let numbered = (1..).zip(text.lines().map(str::trim));
    let is_entry = |(_, line): &(usize, &str)| !line.is_empty() && !line.starts_with('#');
    let mut found = Vec::new();
    for (number, line) in numbered.filter(is_entry) {
        let entry = read(line).map_err(|wrong| InvalidValue {
            message: format!("line {number} of the file: {}", wrong.message),
            ..wrong
        });
        found.push((number, file.checked(entry)?));
    }
    if found.is_empty() || found.len() > MOST {
        let (message, help) = match found.len() {
            0 => ("the file has no credential".to_owned(), "write one credential per line"),
            _ => (format!("the file has more than {MOST} credentials"), "use tokens instead"),
        };
        file.fault(InvalidValue::new(message).help(help));
        return None;
    }
    Some((path, found))
}

/// Reads a line such as `mobile 9f86…0a08 expires=2027-06-30 scope=chat,files`.
fn api_key(line: &str) -> Result<ApiKey, InvalidValue> {
    let help =
        "write the name of the client and the SHA-256 of its key: `printf %s KEY | sha256sum`";
    let mut words = line.split_ascii_whitespace();
    let (client, hash) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let hash = hex(hash.strip_prefix("sha256:").unwrap_or(hash))
        .ok_or_else(|| InvalidValue::new("the hash is not 64 hexadecimal digits").help(help))?;
    let mut key = ApiKey { hash, client: client.to_owned(), expires: None, scopes: Vec::new() };
    for word in words {
        match word.split_once('=') {
            Some(("expires", date)) => key.expires = Some(end(date)?),
            Some(("scope", scopes)) => {
                key.scopes = scopes.split(',').map(scope).collect::<Result<_, _>>()?;
            }
            _ => {
                let wrong = InvalidValue::new("there is an unknown word behind the hash");
                return Err(wrong.help("write `expires=2027-06-30` or `scope=chat,files`"));
            }
        }
    }
    Ok(key)
}

/// The end of a day in UTC, or a moment, in seconds since 1970.
fn end(typed: &str) -> Result<u64, InvalidValue> {
    let moment = typed.parse::<Timestamp>().ok().or_else(|| {
        let next = typed.parse::<Date>().ok()?.tomorrow().ok()?;
        Some(next.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp())
    });
    let seconds = moment.and_then(|moment| u64::try_from(moment.as_second()).ok());
    seconds.ok_or_else(|| {
        let wrong = InvalidValue::new("the expiry is not a date");
        wrong.help("write `expires=2027-06-30` or `expires=2027-06-30T12:00:00Z`")
    })
}

/// Reads a line such as `anna:$argon2id$…`.
fn user(line: &str) -> Result<(String, String), InvalidValue> {
    let help = "write `NAME:HASH` with a hash of bcrypt or Argon2: `htpasswd -nB NAME`";
    let (name, hash) = line
        .split_once(':')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| InvalidValue::new("there is no name before a colon").help(help))?;
    let is_valid = match hash.strip_prefix("$argon2") {
        Some(_) => is_argon2(hash)?,
        None => is_bcrypt(hash)?,
    };
    match is_valid {
        true => Ok((name.to_owned(), hash.to_owned())),
        false => {
            let wrong = InvalidValue::new("there is no hash of bcrypt or Argon2 behind the colon");
            Err(wrong.help(help))
        }
    }
}

/// Whether it is a hash of Argon2 (PHC string format).
fn is_argon2(hash: &str) -> Result<bool, InvalidValue> {
    let Ok(parsed) = PasswordHash::new(hash) else { return Ok(false) };
    let Ok(costs) = argon2::Params::try_from(&parsed) else { return Ok(false) };
    match costs.m_cost() <= MOST_MEMORY && costs.t_cost() <= MOST_PASSES {
        true => Ok(parsed.hash.is_some() && parsed.salt.is_some()),
        false => Err(InvalidValue::new("the hash takes too much work")
            .help(format!("use at most {MOST_PASSES} passes over {} MiB", MOST_MEMORY >> 10))),
    }
}

/// Whether it is a hash of bcrypt: `$2b$12$` and 53 letters.
fn is_bcrypt(hash: &str) -> Result<bool, InvalidValue> {
    let mut parts = hash.split('$');
    let (Some(""), Some("2a" | "2b" | "2x" | "2y"), Some(cost), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Ok(false);
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
    let Some(cost) = cost.parse::<u8>().ok().filter(|cost| (4..=31).contains(cost)) else {
        return Ok(false);
    };
    if cost > HIGHEST_COST {
        let wrong = InvalidValue::new("the hash takes too much work");
        return Err(wrong.help(format!("use a cost of at most {HIGHEST_COST}")));
    }
    Ok(rest.len() == 53 && rest.bytes().all(letter))
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_client_a_hash_and_terms() {
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let key = api_key(&format!("mobile sha256:{hash} scope=a,b expires=1970-01-02")).unwrap();
        assert_eq!((&*key.client, key.expires), ("mobile", Some(2 * 86_400)));
        assert_eq!((key.hash[0], key.scopes), (0x9f, vec!["a".to_owned(), "b".to_owned()]));
        let moment = api_key(&format!("mobile {hash} expires=1970-01-01T00:01:00Z")).unwrap();
        assert_eq!(moment.expires, Some(60));
        for (line, expected) in [
            ("mobile".to_owned(), "64 hexadecimal"),
            ("mobile secret".to_owned(), "64 hexadecimal"),
            (format!("mobile {hash} expires=never"), "not a date"),
            (format!("mobile {hash} secret"), "unknown word"),
            (format!("mobile {hash} scope=a,,b"), "invalid scope"),
        ] {
            let wrong = api_key(&line).unwrap_err();
            assert!(wrong.message.contains(expected), "{line}: {}", wrong.message);
            assert!(!wrong.message.contains("secret"), "{}", wrong.message);
        }
    }

    #[test]
    fn only_slow_hashes_are_accepted() {
        let bcrypt = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
        let argon = "$argon2id$v=19$m=16,t=2,p=1$MTIzNDU2Nzg$ZlgCW0V2GfYHJSpwaUWU1w";
        for hash in [bcrypt, argon] {
            assert_eq!(user(&format!("anna:{hash}")).unwrap().1, hash);
        }
        for (line, expected) in [
            ("anna", "no name"),
            (":$2y$05$x", "no name"),
            ("anna:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "no hash of"),
            ("anna:$apr1$x$y", "no hash of"),
            ("anna:secret", "no hash of"),
            ("anna:$2y$05$short", "no hash of"),
            (&format!("anna:{}", bcrypt.replace("$04$", "$31$")), "too much work"),
            (&format!("anna:{}", argon.replace("m=16", "m=4000000")), "too much work"),
        ] {
            let wrong = user(line).unwrap_err();
            assert!(wrong.message.contains(expected), "{line}: {}", wrong.message);
        }
    }
}
