//! Removes secrets from logged request targets. Pure functions.

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

/// Additions to the list of secrets and exceptions from it, from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Parts of names, in addition to the built-in ones.
    parts: Vec<Box<str>>,
    /// Whole names whose values are logged.
    shown: Vec<Box<str>>,
}

impl Redaction {
    /// Creates the rules from the setting's entries: a part of a name, or `!` and a name that is
    /// logged.
    pub fn new<'e>(entries: impl IntoIterator<Item = &'e str>) -> Self {
        let mut redaction = Self::default();
        for scope in entries {
            match scope.strip_prefix('!') {
                Some(name) => redaction.shown.push(name.into()),
                None => redaction.parts.push(scope.into()),
            }
        }
        redaction
    }

    fn covers(&self, name: &str) -> bool {
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
        window.eq_ignore_ascii_case(part)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(target: &str) -> String {
        redacted_by(&Redaction::default(), target)
    }

    fn redacted_by(redaction: &Redaction, target: &str) -> String {
        let mut out = String::new();
        redact(target, redaction, &mut out);
        out
    }

    #[test]
    fn only_secrets_are_removed() {
        let cases = [
            ("/", "/"),
            ("/chat?", "/chat?"),
            ("/?a", "/?a"),
            (
                "/socket.io/?EIO=4&transport=polling&t=Pz&sid=abc123",
                "/socket.io/?EIO=4&transport=polling&t=Pz&sid=-",
            ),
            ("/?sid=&x=1", "/?sid=-&x=1"),
            ("/?ToKeN=x&Password=y&PASS=z", "/?ToKeN=-&Password=-&PASS=-"),
            ("/?token=a=b&c=d", "/?token=-&c=d"),
            ("/?token", "/?token"),
            ("/?&&x=1&", "/?&&x=1&"),
            ("/?user[password]=x&auth[a]=y", "/?user[password]=-&auth[a]=-"),
            ("/?monkey=1&keyboard=2&coded=3", "/?monkey=1&keyboard=2&coded=3"),
            ("/?x=ä&jwt=ö", "/?x=ä&jwt=-"),
        ];
        for (target, expected) in cases {
            assert_eq!(redacted(target), expected);
        }
    }

    #[test]
    fn every_listed_name_is_a_secret() {
        for name in SECRET.into_iter().chain(SECRET_NAMES) {
            assert_eq!(redacted(&format!("/?{name}=xyz")), format!("/?{name}=-"));
            let upper = name.to_ascii_uppercase();
            assert_eq!(redacted(&format!("/?{upper}=xyz")), format!("/?{upper}=-"));
        }
    }

    #[test]
    fn names_are_secret_if_a_part_matches() {
        for name in [
            "accessToken",
            "access_token",
            "refresh_token",
            "session_id",
            "sessionid",
            "SESSIONID",
            "PHPSESSION",
            "connectionToken",
            "csrftoken",
            "sig",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "AWSAccessKeyId",
            "api-key",
            "apiKey",
            "apikey2",
            "client_secret",
            "userSID",
            "SIDValue",
            "connect.sid",
            "oauth_verifier",
            "SAMLResponse",
            "authCode",
            "key1",
            "user.pass",
            "a[b][pwd]",
            "auth_sig_v2",
        ] {
            assert_eq!(redacted(&format!("/?{name}=xyz&b=1")), format!("/?{name}=-&b=1"));
        }
        for name in [
            "monkey",
            "keyboard",
            "author",
            "passenger",
            "compass",
            "zip_code",
            "codec",
            "signal",
            "design",
            "inside",
            "sidebar",
            "transport",
            "EIO",
            "t",
            "b64",
            "hotpot",
            "keys_",
            "assigned",
        ] {
            let target = format!("/?{name}=xyz");
            assert_eq!(redacted(&target), target);
        }
    }

    #[test]
    fn a_configuration_adds_parts_and_shows_names() {
        let redaction = Redaction::new(["ticket", "nid", "!sort_key", "!Page_Token"]);
        for (target, expected) in [
            ("/?loginTickets=1&userNid=2&nidus=3", "/?loginTickets=-&userNid=-&nidus=3"),
            (
                "/?sort_key=1&sort_keys_key=2&page_token=3",
                "/?sort_key=1&sort_keys_key=-&page_token=3",
            ),
            ("/?sid=1", "/?sid=-"),
        ] {
            assert_eq!(redacted_by(&redaction, target), expected);
        }
    }

    #[test]
    fn an_encoded_name_does_not_hide_a_secret() {
        assert_eq!(redacted("/?%73id=x&t%6Fken=y"), "/?%73id=-&t%6Fken=-");
        assert_eq!(redacted("/?user%5Bpassword%5D=x"), "/?user%5Bpassword%5D=-");
        assert_eq!(redacted("/?%=1&%4=2&%zz=3&%c3%a4=4"), "/?%=1&%4=2&%zz=3&%c3%a4=4");
    }

    #[test]
    fn a_semicolon_neither_hides_a_secret_nor_ends_it() {
        assert_eq!(redacted("/?a=1;token=x&b=2"), "/?a=1;token=-&b=2");
        assert_eq!(redacted("/?token=x;yz&b=2"), "/?token=-&b=2");
        assert_eq!(redacted("/?a=1;b=2"), "/?a=1;b=2");
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_panics_and_nothing_else_is_lost(target in "\\PC{0,80}") {
            let out = redacted(&target);
            if !target.contains('=') {
                prop_assert_eq!(out, target);
            }
        }

        #[test]
        fn no_secret_survives(before in "[a-z=&;%]{0,20}", after in "[a-z=&;%]{0,20}") {
            let out = redacted(&format!("/?{before}&sid=SECRET&{after}"));
            prop_assert!(!out.contains("SECRET"));
        }
    }
}
