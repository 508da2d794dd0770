//! Recognizes replies that reject an unknown session, so that another backend can be asked.
//!
//! A server looks the sid up before it touches any session, so a rejected request has had no effect.

use serde::Deserialize;

/// Body of the Engine.IO error for an unknown sid; status 400, `application/json`. A client that receives it opens
/// a new session at once.
pub const UNKNOWN_SID: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// Largest body inspected; all known bodies are much shorter.
const LONGEST: usize = 1024;

/// Whether a reply with status 400 rejects the request because of an unknown sid. There are three forms:
///
/// - [`UNKNOWN_SID`] on polls; engineioxide sends the code as a string.
/// - The bare message as `text/html` on upgrades, in every Engine.IO server for Node.
/// - `"Invalid session …"`, a JSON string as `text/plain`, on both, from python-engineio.
pub fn is_unknown_sid(content_type: Option<&str>, body: &[u8]) -> bool {
    if body.len() > LONGEST {
        return false;
    }
    let media_type = content_type.map(|value| value.split(';').next().unwrap_or(value).trim());
    let is = |name: &str| media_type.is_none_or(|media_type| media_type.eq_ignore_ascii_case(name));
    is("application/json") && has_code_1(body)
        || is("text/html") && body.trim_ascii() == b"Session ID unknown"
        || is("text/plain") && body.trim_ascii_start().starts_with(b"\"Invalid session ")
}

fn has_code_1(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        code: Code<'a>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code<'a> {
        Number(u64),
        Text(&'a str),
    }
    matches!(
        serde_json::from_slice(body),
        Ok(ErrorBody { code: Code::Number(1) | Code::Text("1") })
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_is_recognized_with_its_content_type() {
        let bare = "Session ID unknown".as_bytes();
        let text_code = br#"{"code":"1","message":"Session ID unknown"}"#;
        let python = br#""Invalid session lv_VI97HAXpY6yYWAAAB""#;
        for (content_type, body) in [
            ("application/json", UNKNOWN_SID.as_bytes()),
            ("application/json; charset=utf-8", text_code),
            ("Text/HTML", bare),
            ("text/plain", python),
        ] {
            assert!(is_unknown_sid(Some(content_type), body), "{content_type}");
            assert!(is_unknown_sid(None, body), "{content_type}");
            assert!(!is_unknown_sid(Some("image/png"), body), "{content_type}");
        }
        assert!(!is_unknown_sid(Some("text/html"), UNKNOWN_SID.as_bytes()));
        assert!(!is_unknown_sid(Some("application/json"), bare));
    }

    #[test]
    fn other_errors_are_not_recognized() {
        for body in [
            r#"{"code":0,"message":"Transport unknown"}"#,
            r#"{"code":3,"message":"Bad request"}"#,
            r#"{"code":10}"#,
            r#"{"code":[1]}"#,
            r#"{"message":"Session ID unknown"}"#,
            "1",
            "",
            "Transport unknown",
            "<p>Session ID unknown</p>",
            "\"Invalid transport\"",
        ] {
            assert!(!is_unknown_sid(None, body.as_bytes()), "{body}");
        }
        let long = format!("{UNKNOWN_SID}{}", " ".repeat(LONGEST));
        assert!(!is_unknown_sid(None, long.as_bytes()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted(kind in ".*", body in proptest::collection::vec(any::<u8>(), 0..99)) {
            let _ = is_unknown_sid(Some(&kind), &body);
        }
    }
}
