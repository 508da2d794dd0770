//! Removes secrets from logged request targets. Pure functions.

use std::sync::LazyLock;

/// Parts of query parameter names whose values are not logged. A part matches a word of the name, as
/// in `accessToken` and `X-Amz-Signature`; a part of at least [`ANYWHERE`] letters matches anywhere
/// in the name. The list includes the Engine.IO `sid`, which allows reading and sending in its
/// session.
const SECRET: [&str; 23] = [
    "sid",
    "token",
    "secret",
    "session",
    "auth",
    "authorization",
    "key",
    "apikey",
    "jwt",
    "bearer",
    "assertion",
    "saml",
    "verifier",
    "credential",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pass",
    "pwd",
    "otp",
    "sig",
    "signature",
];

/// Secret names that match only as a whole, because they are parts of harmless names such as
/// `zip_code`.
const SECRET_NAMES: [&str; 1] = ["code"];

/// Minimum length of a part that matches anywhere in a name; shorter parts occur in many words.
const ANYWHERE: usize = 5;

/// The parameters of nearly every Engine.IO request. Comparing a name with all parts costs more than the rest of a log
/// record, so the answers for these names are computed once.
const FREQUENT: [&str; 4] = ["EIO", "transport", "t", "sid"];

/// The rules without any setting.
static BUILT_IN: LazyLock<Redaction> = LazyLock::new(Redaction::default);

/// Additions to the list of secrets and exceptions from it, from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// Parts of names, in addition to the built-in ones.
    parts: Vec<Box<str>>,
    /// Whole names whose values are logged.
    shown: Vec<Box<str>>,
    /// Whether the [`FREQUENT`] names are secret.
    frequent: [bool; FREQUENT.len()],
}

impl Default for Redaction {
    fn default() -> Self {
        Self::new([])
    }
}

impl Redaction {
    /// Creates the rules from the setting's entries: a part of a name, or `!` and a name that is
    /// logged.
    pub fn new<'e>(entries: impl IntoIterator<Item = &'e str>) -> Self {
        let frequent = [false; FREQUENT.len()];
        let mut redaction = Self { parts: Vec::new(), shown: Vec::new(), frequent };
        for entry in entries {
            match entry.strip_prefix('!') {
                Some(name) => redaction.shown.push(name.into()),
                None => redaction.parts.push(entry.into()),
            }
        }
        redaction.frequent = FREQUENT.map(|name| redaction.matches(name));
        redaction
    }

    /// Returns the rules without any setting.
    pub(super) fn built_in() -> &'static Self {
        &BUILT_IN
    }

    fn covers(&self, name: &str) -> bool {
        let place = FREQUENT.iter().position(|frequent| *frequent == name);
        place.map_or_else(|| self.matches(name), |place| self.frequent[place])
    }

    /// Compares a name with all rules.
    fn matches(&self, name: &str) -> bool {
        let is_name = |other: &str| other.eq_ignore_ascii_case(name);
        if self.shown.iter().any(|shown| is_name(shown)) {
            return false;
        }
        let added = self.parts.iter().map(|part| &**part);
        SECRET_NAMES.iter().any(|secret| is_name(secret))
            || SECRET.into_iter().chain(added).any(|part| is_name(part) || is_part(part, name))
    }
}

/// Whether a name contains this part: as a word, or anywhere if the part is long.
fn is_part(part: &str, name: &str) -> bool {
    let (part, name) = (part.as_bytes(), name.as_bytes());
    if part.is_empty() || part.len() > name.len() {
        return false;
    }
    let mut places = name.windows(part.len()).enumerate();
    places.any(|(start, window)| {
        window[0].eq_ignore_ascii_case(&part[0])
            && window.eq_ignore_ascii_case(part)
            && (part.len() >= ANYWHERE || is_word(name, start, start + part.len()))
    })
}

/// Whether these bytes are a word: delimited by the ends, by characters other than letters, or by a
/// change of case.
fn is_word(name: &[u8], start: usize, end: usize) -> bool {
    let letter = |at: usize| name.get(at).filter(|byte| byte.is_ascii_alphabetic());
    let begins = match (start.checked_sub(1).and_then(letter), name[start]) {
        (None, _) => true,
        (Some(before), first) => before.is_ascii_lowercase() && first.is_ascii_uppercase(),
    };
    let ends = match (name[end - 1], letter(end)) {
        (_, None) => true,
        // In `SIDName`, a word begins at the last capital before a small letter; in `keyId`, at the
        // change of case.
        (last, Some(next)) => {
            next.is_ascii_uppercase()
                && (last.is_ascii_lowercase()
                    || letter(end + 1).is_some_and(u8::is_ascii_lowercase))
        }
    };
    begins && ends
}

/// Replacement for a secret.
const REMOVED: &str = "-";

/// Appends path and query of `target`, with the values of secret parameters replaced by `-`.
///
/// Names are compared after percent-decoding; `user[password]` is as secret as `password`. Some
/// servers accept `;` as a separator, too: a secret name after `;` matches, and its value ends at
/// the next `&`.
pub(super) fn redact(target: &str, redaction: &Redaction, out: &mut String) {
    let Some((path, query)) = target.split_once('?') else {
        out.push_str(target);
        return;
    };
    out.push_str(path);
    let mut separator = '?';
    for pair in query.split('&') {
        out.push(separator);
        separator = '&';
        match secret_value(pair, redaction) {
            Some(at) => {
                out.push_str(&pair[..at]);
                out.push_str(REMOVED);
            }
            None => out.push_str(pair),
        }
    }
}

/// Returns where the value of a secret begins in `name=value`, or in several pairs joined by `;`.
fn secret_value(pair: &str, redaction: &Redaction) -> Option<usize> {
    let mut start = 0;
    for part in pair.split(';') {
        match part.split_once('=') {
            Some((name, _)) if is_secret(name, redaction) => return Some(start + name.len() + 1),
            _ => start += part.len() + 1,
        }
    }
    None
}

fn is_secret(name: &str, redaction: &Redaction) -> bool {
    if name.contains('%') { redaction.covers(&decode(name)) } else { redaction.covers(name) }
}

/// Percent-decodes a name; other characters than ASCII become `?`, because no secret name has any.
fn decode(name: &str) -> String {
    let mut decoded = String::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'%', high, low, after @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (*first, &rest[1..]),
            },
            _ => (*first, after),
        };
        decoded.push(if byte.is_ascii() { char::from(byte) } else { '?' });
        rest = after;
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests;
