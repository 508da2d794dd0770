//! `cookie_key`: the keys under which sticky cookies are made.
//!
//! Invariant: nothing of a key is ever shown, so faults point at the configuration and never into
//! the key's file.

use std::env;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::{
    CookieKeys,
    fault::{Wrong, quoted},
    file::Value,
    schema,
};

/// Shortest key: that of the MAC's full strength (RFC 2104 §3, SHA-256).
const SHORTEST: usize = 32;

/// Reads `{ file = "…" }` or `{ env = "NAME" }`.
pub(super) fn cookie_keys(value: &Value<'_>) -> Option<CookieKeys> {
    let wanted = "a table `{ file = \"…\" }` or `{ env = \"NAME\" }`";
    let table = value.table(&schema::COOKIE_KEY, wanted)?;
    match (table.value("file"), table.value("env")) {
        (Some(file), None) => {
            let path = value.file.resolve(file.string()?);
            let bytes = file.checked(value.file.read(&path))?;
            let text = String::from_utf8(bytes).map_err(|_| Wrong::new("the key file is no text"));
            file.checked(text.map_err(advised).and_then(|text| keys(&text)))
        }
        (None, Some(name)) => name.checked(from_environment(name.string()?)),
        (Some(_), Some(name)) => {
            name.fault(Wrong::new("`cookie_key` takes `file` or `env`, not both"));
            None
        }
        (None, None) => {
            let wrong = Wrong::new("`cookie_key` names no key").help("write `file` or `env`");
            value.file.missing(table.at(), wrong);
            None
        }
    }
}

fn from_environment(name: &str) -> Result<CookieKeys, Wrong> {
    // `var_os` panics on neither, but such a name can never be set.
    let valid = !name.is_empty() && !name.contains(['=', '\0']);
    let text = valid
        .then(|| env::var(name).ok())
        .flatten()
        .ok_or_else(|| Wrong::new(format!("the environment has no variable {}", quoted(name))))?;
    keys(&text)
}

fn advised(wrong: Wrong) -> Wrong {
    wrong.help("make a key with `openssl rand -base64 32`")
}

/// A key a line: the first makes cookies, the others are accepted.
fn keys(text: &str) -> Result<CookieKeys, Wrong> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        keys.push(key(line).ok_or_else(|| {
            advised(Wrong::new(format!(
                "the cookie key on line {} is shorter than {SHORTEST} bytes",
                index + 1
            )))
        })?);
    }
    if keys.is_empty() {
        return Err(advised(Wrong::new("there is no cookie key in it")));
    }
    Ok(CookieKeys::Given(keys))
}

/// Hex or base64 of enough bytes, else the text itself if it is long enough.
fn key(line: &str) -> Option<Vec<u8>> {
    let unpadded = line.trim_end_matches('=');
    [hex(line), STANDARD_NO_PAD.decode(unpadded).ok(), URL_SAFE_NO_PAD.decode(unpadded).ok()]
        .into_iter()
        .flatten()
        .chain([line.as_bytes().to_vec()])
        .find(|key| key.len() >= SHORTEST)
}

fn hex(line: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        line.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::{CookieKeys, keys};

    fn given(text: &str) -> Vec<Vec<u8>> {
        match keys(text).unwrap() {
            CookieKeys::Given(keys) => keys,
            CookieKeys::Made => panic!("no key was given"),
        }
    }

    fn one(text: &str) -> Vec<u8> {
        let keys = given(text);
        assert_eq!(keys.len(), 1);
        keys.concat()
    }

    #[test]
    fn keys_are_hex_base64_or_text() {
        let bytes: Vec<u8> = (200..232).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(one(&hex), bytes);
        assert_eq!(one(&hex.to_uppercase()), bytes);
        let base64 = STANDARD.encode(&bytes);
        assert_eq!(one(&base64), bytes);
        assert_eq!(one(base64.trim_end_matches('=')), bytes);
        assert_eq!(one(&base64.replace('+', "-").replace('/', "_")), bytes);
        let text = "correct horse battery staple, twice";
        assert_eq!(one(text), text.as_bytes());
    }

    #[test]
    fn each_line_is_a_key_and_the_first_comes_first() {
        let (one, two) = ("1".repeat(33), "z!".repeat(20));
        assert_eq!(given(&format!("\n {one} \r\n\n{two}\n")), [one.as_bytes(), two.as_bytes()]);
    }

    #[test]
    fn short_keys_are_refused_by_line_and_never_shown() {
        let wrong = keys(&format!("{}\nhunter2\n", "k".repeat(40))).unwrap_err();
        assert!(wrong.message.contains("line 2"));
        assert!(!wrong.to_string().contains("hunter2"));
        assert!(keys("").is_err() && keys(" \n\n").is_err());
        assert!(keys(&"0".repeat(31)).is_err());
    }
}
