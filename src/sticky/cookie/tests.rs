use std::time::Duration;

use proptest::prelude::*;

use super::*;

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn keys(keys: &[[u8; 32]]) -> CookieKeys {
    CookieKeys::new(&SharedKeys::Configured(keys.iter().map(|key| key.to_vec()).collect()))
}

fn ids(keys: &CookieKeys, pool: &str, names: &[&str]) -> CookieIds {
    CookieIds::new(keys, pool, names.iter().copied())
}

#[test]
fn value_identifies_exactly_its_backend() {
    let ids = ids(&keys(&[NEW]), "chat", &["blue", "green"]);
    for index in 0..2 {
        let value = ids.value(index);
        assert_eq!(value.len(), 22);
        assert_eq!(ids.find(value), Some(CookieMatch { index, current_key: true }));
        assert_eq!(ids.find(&format!("{value}=")), None);
        assert_eq!(ids.find(&value[..21]), None);
        assert_eq!(ids.find(&value.to_uppercase()), None);
    }
    assert_eq!(ids.value(2), "");
    for forged in ["", "blue", "127.0.0.1:3001", "AAAAAAAAAAAAAAAAAAAAAA", "ö", "\0"] {
        assert_eq!(ids.find(forged), None, "{forged}");
    }
}

/// Every release and every proxy with the key must agree; computed with Python's `hmac`.
#[test]
fn values_are_stable() {
    assert_eq!(ids(&keys(&[NEW]), "chat", &["blue"]).value(0), "GvbNFETCKCAoQZmnXwfsGQ");
}

#[test]
fn proxies_with_a_common_key_agree_in_any_order() {
    let here = ids(&keys(&[NEW]), "chat", &["blue", "green"]);
    let there = ids(&keys(&[NEW, OLD]), "chat", &["green", "red", "blue"]);
    assert_eq!(there.find(here.value(0)), Some(CookieMatch { index: 2, current_key: true }));
}

#[test]
fn values_differ_by_pool_key_and_name() {
    let chat = ids(&keys(&[NEW]), "chat", &["blue"]);
    for other in [
        ids(&keys(&[NEW]), "game", &["blue"]),
        ids(&keys(&[NEW]), "cha", &["tblue"]),
        ids(&keys(&[OLD]), "chat", &["blue"]),
        ids(&CookieKeys::new(&SharedKeys::Generated), "chat", &["blue"]),
    ] {
        assert_eq!(other.find(chat.value(0)), None);
    }
}

#[test]
fn rotated_key_is_accepted_and_reported() {
    let before = ids(&keys(&[OLD]), "chat", &["blue", "green"]);
    let after = ids(&keys(&[NEW, OLD]), "chat", &["blue", "green"]);
    assert_eq!(after.find(before.value(1)), Some(CookieMatch { index: 1, current_key: false }));
    assert_ne!(after.value(1), before.value(1));
    assert_eq!(ids(&keys(&[NEW]), "chat", &["blue"]).find(before.value(0)), None);
}

#[test]
fn generated_keys_differ_and_are_kept_by_a_clone() {
    let generated = CookieKeys::new(&SharedKeys::Generated);
    let value = ids(&generated, "chat", &["blue"]);
    assert!(ids(&generated.clone(), "chat", &["blue"]).find(value.value(0)).is_some());
    let next = CookieKeys::adopt(&SharedKeys::Generated, generated.generated());
    assert!(ids(&next, "chat", &["blue"]).find(value.value(0)).is_some());
    let given = SharedKeys::Configured(vec![NEW.to_vec()]);
    assert_eq!(CookieKeys::adopt(&given, generated.generated()).generated(), None);
    let other = ids(&CookieKeys::new(&SharedKeys::Generated), "chat", &["blue"]);
    assert_eq!(other.find(value.value(0)), None);
    assert_eq!(format!("{generated:?}"), "CookieKeys(1)");
}

#[test]
fn cookie_is_read_among_others() {
    for cookies in [
        &[b"moorline=abc".as_slice()][..],
        &[b"a=b; moorline=abc; c=d"],
        &[b"a=b;moorline = \"abc\" ;;c"],
        &[b"a=b", b"\tmoorline=abc"],
        &[b"other=\xff\xfe; moorline=abc; moorline2=x; xmoorline=y; Moorline=z"],
    ] {
        assert_eq!(read(cookies), ["abc"], "{cookies:?}");
    }
    assert_eq!(read(&[b"moorline=a=b=="]), ["a=b=="]);
    assert_eq!(read(&[b"moorline=a; b=c; moorline=d", b"moorline=e"]), ["a", "d", "e"]);
}

fn read(cookies: &[&[u8]]) -> Vec<String> {
    values(cookies.iter().copied(), "moorline").map(str::to_owned).collect()
}

#[test]
fn invalid_value_is_read_as_empty() {
    let long = [b"moorline=".as_slice(), &[b'x'; 65]].concat();
    assert_eq!(read(&[&long[..long.len() - 1]]), ["x".repeat(64)]);
    for cookies in [b"".as_slice(), b"moorline", b"moorline2=a"] {
        assert_eq!(read(&[cookies]), [""; 0], "{cookies:?}");
    }
    for cookies in [b"moorline=".as_slice(), b"moorline=\"\"", b"moorline=\xff", &long] {
        assert_eq!(read(&[cookies]), [""], "{cookies:?}");
    }
    assert_eq!(read(&[&long, b"moorline=a"]), ["", "a"], "later values are still read");
}

#[test]
fn strip_keeps_other_cookies_byte_for_byte() {
    for (cookies, expected) in [
        (&[b"moorline=x".as_slice()][..], &[][..]),
        (&[b" moorline = \"x\" ;"], &[]),
        (&[b"moorline=x; a=b"], &[b"a=b".as_slice()]),
        (&[b"a=b; moorline=x"], &[b"a=b"]),
        (
            &[b"a=b;moorline=x;  c=\"d\";;e;moorline=y; moorline2=z"],
            &[b"a=b;  c=\"d\";;e; moorline2=z"],
        ),
        (&[b"moorline=x", b"a=\xff\xfe"], &[b"a=\xff\xfe"]),
        (&[b"a=b; moorline", b"Moorline=x"], &[b"a=b; moorline", b"Moorline=x"]),
    ] {
        let stripped = cookies.iter().map(|field| strip(field, |name, _| name == b"moorline"));
        let left: Vec<_> = stripped.filter(|field| !field.is_empty()).collect();
        assert_eq!(left, expected, "{cookies:?}");
    }
}

#[test]
fn default_attributes_follow_the_request() {
    let cookie = config::Cookie::of("chat");
    let set = |tls, cross_site| set_cookie(&cookie, "v", CookieContext { tls, cross_site });
    assert_eq!(set(false, false), "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(set(false, true), "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(set(true, false), "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax; Secure");
    assert_eq!(set(true, true), "moorline-chat=v; Path=/; HttpOnly; SameSite=None; Secure");
}

#[test]
fn configured_attributes_are_sent_unchanged() {
    let context = CookieContext { tls: true, cross_site: true };
    let cookie = config::Cookie {
        name: "__Host-node".to_owned(),
        same_site: Some(SameSite::Strict),
        secure: Some(false),
        http_only: false,
        lifetime: Some(Duration::from_secs(86_400)),
        ..config::Cookie::of("chat")
    };
    let expected = "__Host-node=v; Path=/; Max-Age=86400; SameSite=Strict";
    assert_eq!(set_cookie(&cookie, "v", context), expected);
    let open = config::Cookie { same_site: Some(SameSite::None), ..config::Cookie::of("chat") };
    let plain = CookieContext { tls: false, ..context };
    assert_eq!(set_cookie(&open, "v", plain), "moorline-chat=v; Path=/; HttpOnly; SameSite=None");
}

#[test]
fn same_site_none_is_used_only_with_secure() {
    let with = |secure, partitioned, tls| {
        let cookie = config::Cookie { secure, partitioned, ..config::Cookie::of("chat") };
        set_cookie(&cookie, "v", CookieContext { tls, cross_site: true })
    };
    let lax = "moorline-chat=v; Path=/; HttpOnly; SameSite=Lax";
    let none = "moorline-chat=v; Path=/; HttpOnly; SameSite=None; Secure";
    assert_eq!(with(Some(false), false, true), lax);
    assert_eq!(with(None, false, false), lax);
    // TLS ends at a proxy in front, and the operator configured `secure`.
    assert_eq!(with(Some(true), false, false), none);
    assert_eq!(with(Some(false), true, false), format!("{none}; Partitioned").as_str());
}

proptest! {
    #[test]
    fn any_bytes_are_accepted(
        first in proptest::collection::vec(any::<u8>(), 0..80),
        second in "moor[line=;\" ]{0,40}",
    ) {
        let fields = [first.as_slice(), second.as_bytes()];
        let ids = ids(&keys(&[NEW]), "chat", &["blue"]);
        for value in values(fields.into_iter(), "moor") {
            prop_assert!(value.len() <= LONGEST);
            prop_assert_eq!(ids.find(value), None);
        }
        for field in fields {
            let stripped = strip(field, |name, _| name == b"moor");
            prop_assert_eq!(values(std::iter::once(&*stripped), "moor").count(), 0);
        }
    }
}
