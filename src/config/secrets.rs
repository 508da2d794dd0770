//! `cookie_key`, `ticket_keys`, `admin.token` and other secrets outside of the configuration's text.
//!
//! Invariant: no part of a secret is ever shown. Faults point at the configuration and never into the
//! file of the secret.

use std::env;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::{
    SharedKeys,
    fault::{InvalidValue, quoted},
    file::TomlValue,
    schema::{self, Section},
    text,
};

/// Shortest key in bytes: the full strength of the MAC (RFC 2104 §3, SHA-256).
const SHORTEST: usize = 32;

/// Shortest token in characters: 16 random letters and digits cannot be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Reads the keys of `{ file = "…" }` or `{ env = "NAME" }`.
pub(super) fn cookie_keys(value: &TomlValue<'_>) -> Option<SharedKeys> {
    let (place, text) = given(value, &schema::COOKIE_KEY, "key")?;
    place.checked(keys(&text, "cookie"))
}

/// Reads the keys of TLS session tickets from `{ file = "…" }` or `{ env = "NAME" }`.
pub(super) fn ticket_keys(value: &TomlValue<'_>) -> Option<SharedKeys> {
    let (place, text) = given(value, &schema::TICKET_KEYS, "key")?;
    place.checked(keys(&text, "ticket"))
}

/// Reads the bearer token of `{ file = "…" }` or `{ env = "NAME" }`.
pub(super) fn token(value: &TomlValue<'_>) -> Option<String> {
    let (place, text) = given(value, &schema::ADMIN_TOKEN, "token")?;
    place.checked(valid_token(&text))
}

/// Reads the secrets of tokens from `{ file = "…" }` or `{ env = "NAME" }`: the bytes of each line.
pub(super) fn jwt_secrets(value: &TomlValue<'_>) -> Option<Vec<Vec<u8>>> {
    let (place, text) = given(value, &schema::COOKIE_KEY, "secret")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Vec<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).collect();
    let is_short = |secret: &Vec<u8>| secret.len() < SHORTEST;
    place.checked(match secrets.iter().position(is_short) {
        _ if secrets.is_empty() => Err(advised(InvalidValue::new("there is no secret"))),
        Some(at) => Err(advised(InvalidValue::new(format!(
            "secret {} is shorter than {SHORTEST} bytes",
            at + 1
        )))),
        None => Ok(secrets),
    })
}

/// Reads the secret of a client of an OpenID provider from `{ file = "…" }` or `{ env = "NAME" }`.
pub(super) fn client_secret(value: &TomlValue<'_>) -> Option<String> {
    let (place, text) = given(value, &schema::COOKIE_KEY, "secret")?;
    let secret = text.trim();
    let valid = !secret.is_empty() && !secret.contains(['\n', '\r']);
    place.checked(match valid {
        true => Ok(secret.to_owned()),
        false => Err(InvalidValue::new("the secret is not one line of text")
            .help("write the secret that the provider has given to this client")),
    })
}

/// Reads a secret's text and the value that names it. `thing` is the noun for messages.
fn given<'t>(
    value: &TomlValue<'t>,
    section: &'static Section,
    thing: &str,
) -> Option<(TomlValue<'t>, String)> {
    let table = value.table(section, "a table `{ file = \"…\" }` or `{ env = \"NAME\" }`")?;
    match (table.value("file"), table.value("env")) {
        (Some(file), None) => {
            let path = file.resolve(file.string()?);
            let bytes = file.checked(file.read(&path))?;
            let text = String::from_utf8(bytes).map_err(|_| {
                advised(InvalidValue::new(format!("the {thing} file is not UTF-8 text")))
            });
            let text = file.checked(text)?;
            Some((file, text::unmarked(&text).to_owned()))
        }
        (None, Some(name)) => Some((name, name.checked(from_environment(name.string()?))?)),
        (Some(_), Some(name)) => {
            let key = value.key;
            name.fault(
                InvalidValue::new(format!("`{key}` takes `file` or `env`, not both"))
                    .help("remove one of the two"),
            );
            None
        }
        (None, None) => {
            if !table.has_unknown_keys() {
                let wrong =
                    InvalidValue::new(format!("`{}` has neither `file` nor `env`", value.key));
                let help =
                    format!("write `{{ file = \"{thing}.txt\" }}` or `{{ env = \"NAME\" }}`");
                value.file.missing(table.at(), wrong.help(help));
            }
            None
        }
    }
}

fn from_environment(name: &str) -> Result<String, InvalidValue> {
    // No environment variable can have another name.
    let valid = !name.is_empty() && !name.contains(['=', '\0']);
    valid
        .then(|| env::var(name).ok())
        .flatten()
        .ok_or_else(|| {
            InvalidValue::new(format!("the environment variable {} is not set", quoted(name))).help(
                "set it for this process (systemd: `Environment=` or `EnvironmentFile=`), or use `file`",
            )
        })
}

/// Checks a token: one line that a header can carry (RFC 6750 §2.1, a little wider), and long enough.
fn valid_token(text: &str) -> Result<String, InvalidValue> {
    let token = text.trim();
    if token.is_empty() {
        return Err(advised(InvalidValue::new("the token is empty")));
    }
    if token.lines().count() > 1 {
        return Err(advised(InvalidValue::new("the token has more than one line")));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(advised(InvalidValue::new(
            "the token has characters other than visible ASCII",
        )));
    }
    if token.len() < SHORTEST_TOKEN {
        let message = format!("the token is shorter than {SHORTEST_TOKEN} characters");
        return Err(advised(InvalidValue::new(message)));
    }
    Ok(token.to_owned())
}

fn advised(wrong: InvalidValue) -> InvalidValue {
    wrong.help("make one with `openssl rand -base64 32`")
}

/// Parses one key per line: the first is used for new secrets, all are accepted.
fn keys(text: &str, kind: &str) -> Result<SharedKeys, InvalidValue> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        keys.push(key(line).ok_or_else(|| {
            advised(InvalidValue::new(format!(
                "the {kind} key on line {} is shorter than {SHORTEST} bytes",
                index + 1
            )))
        })?);
    }
    if keys.is_empty() {
        return Err(advised(InvalidValue::new(format!("there is no {kind} key in this file"))));
    }
    Ok(SharedKeys::Configured(keys))
}

/// Hex or base64 of enough bytes, or the text itself if it is long enough.
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

    use super::{SharedKeys, keys, valid_token};

    fn given(text: &str) -> Vec<Vec<u8>> {
        match keys(text, "cookie").unwrap() {
            SharedKeys::Configured(keys) => keys,
            SharedKeys::Generated => panic!("no key was given"),
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
    fn each_line_is_a_key_in_order() {
        let (one, two) = ("1".repeat(33), "z!".repeat(20));
        assert_eq!(given(&format!("\n {one} \r\n\n{two}\n")), [one.as_bytes(), two.as_bytes()]);
    }

    #[test]
    fn short_keys_are_refused_by_line_and_never_shown() {
        let wrong = keys(&format!("{}\nhunter2\n", "k".repeat(40)), "cookie").unwrap_err();
        assert!(wrong.message.contains("line 2"));
        assert!(!wrong.to_string().contains("hunter2"));
        for bad in ["", " \n\n", &"0".repeat(31)] {
            assert!(keys(bad, "cookie").is_err());
        }
    }

    #[test]
    fn tokens_are_one_visible_line_and_never_shown() {
        assert_eq!(valid_token(" 0123456789abcdef\r\n").unwrap(), "0123456789abcdef");
        for bad in [
            "",
            "\n",
            "hunter2",
            "hunter2hunter2hun\nter2",
            "hunter2 hunter2 hunter2",
            "hünter2hünter2hünter2",
        ] {
            let shown = valid_token(bad).unwrap_err().to_string();
            assert!(!shown.contains("nter2"), "{shown}");
        }
    }
}
