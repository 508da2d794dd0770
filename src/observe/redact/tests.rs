//! Which values are removed, and which are kept.

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
        ("/?sort_key=1&sort_keys_key=2&page_token=3", "/?sort_key=1&sort_keys_key=-&page_token=3"),
        ("/?sid=1", "/?sid=-"),
    ] {
        assert_eq!(redacted_by(&redaction, target), expected);
    }
}

#[test]
fn a_configuration_changes_the_parameters_of_engine_io_too() {
    let target = "/?EIO=4&transport=polling&t=Pz&sid=abc";
    let shown = Redaction::new(["!SID", "transport", "EI"]);
    assert_eq!(redacted_by(&shown, target), "/?EIO=4&transport=-&t=Pz&sid=abc");
    let hidden = Redaction::new(["t", "EIO"]);
    assert_eq!(redacted_by(&hidden, target), "/?EIO=-&transport=polling&t=-&sid=-");
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
