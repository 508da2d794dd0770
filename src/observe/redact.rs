//! Removes secrets from what is logged of a request's target. Pure.

/// Query parameters whose value is never logged, whatever their case. An Engine.IO `sid` is one: who
/// has it can read and send in its session.
const SECRET: [&str; 15] = [
    "sid",
    "token",
    "access_token",
    "id_token",
    "auth",
    "authorization",
    "key",
    "api_key",
    "apikey",
    "password",
    "secret",
    "signature",
    "code",
    "session",
    "jwt",
];

/// What stands in for a secret.
const REMOVED: &str = "-";

/// Appends path and query of `target`, with the values of secret parameters replaced by `-`.
///
/// Names are compared after percent-decoding; `user[password]` is as secret as `password`. Some
/// servers take `;` for a separator as well: a secret name after one counts, and its value is taken
/// to reach to the next `&`.
pub(super) fn redact(target: &str, out: &mut String) {
    let Some((path, query)) = target.split_once('?') else {
        out.push_str(target);
        return;
    };
    out.push_str(path);
    let mut separator = '?';
    for pair in query.split('&') {
        out.push(separator);
        separator = '&';
        match secret_value(pair) {
            Some(at) => {
                out.push_str(&pair[..at]);
                out.push_str(REMOVED);
            }
            None => out.push_str(pair),
        }
    }
}

/// Where in `name=value`, or in several joined by `;`, the value of a secret begins.
fn secret_value(pair: &str) -> Option<usize> {
    let mut start = 0;
    for part in pair.split(';') {
        match part.split_once('=') {
            Some((name, _)) if is_secret(name) => return Some(start + name.len() + 1),
            _ => start += part.len() + 1,
        }
    }
    None
}

fn is_secret(name: &str) -> bool {
    if name.contains('%') { has_secret_part(&decode(name)) } else { has_secret_part(name) }
}

fn has_secret_part(name: &str) -> bool {
    let secret = |part: &str| SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(part));
    name.split(['[', ']']).any(secret)
}

/// Percent-decoded; what is not ASCII becomes `?`, because no secret's name has any.
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
        let mut out = String::new();
        redact(target, &mut out);
        out
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let cases = [
            ("/", "/"),
            ("/chat?", "/chat?"),
            ("/?a", "/?a"),
            (
                "/socket.io/?EIO=4&transport=polling&t=Pz&sid=abc123",
                "/socket.io/?EIO=4&transport=polling&t=Pz&sid=-",
            ),
            ("/?sid=&x=1", "/?sid=-&x=1"),
            ("/?ToKeN=x&Password=y&PASS=z", "/?ToKeN=-&Password=-&PASS=z"),
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
        for name in SECRET {
            assert_eq!(redacted(&format!("/?{name}=xyz")), format!("/?{name}=-"));
            let upper = name.to_ascii_uppercase();
            assert_eq!(redacted(&format!("/?{upper}=xyz")), format!("/?{upper}=-"));
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
