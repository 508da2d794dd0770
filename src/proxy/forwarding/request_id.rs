//! The id of a request, which every hop and log carries.

use arrayvec::ArrayString;
use moorline_http::{FieldId, Head};

/// Maximum length of a request id that is accepted from a trusted peer.
const MAX_LENGTH: usize = 128;

/// Length of a new id in hex digits.
const DIGITS: usize = 32;

/// The hex digits of each byte.
static HEX: [[u8; 2]; 256] = {
    const DIGIT: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGIT[byte >> 4], DIGIT[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The id of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(IdText);

#[derive(Clone, Debug, PartialEq, Eq)]
enum IdText {
    /// Created by this process.
    New(ArrayString<DIGITS>),
    /// Sent by a trusted peer.
    Claimed(Box<str>),
}

impl RequestId {
    /// Creates an id of 32 hex digits.
    pub(crate) fn new() -> Self {
        let mut digits = [0; DIGITS];
        let random = fastrand::u128(..).to_be_bytes();
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(random) {
            *pair = HEX[usize::from(byte)];
        }
        // Hex digits are UTF-8.
        Self(IdText::New(ArrayString::from_byte_string(&digits).unwrap_or_default()))
    }

    /// Returns the id of the request: the trusted peer's, otherwise a new one.
    pub(crate) fn of(head: &Head, trusted: bool) -> Self {
        let claimed = head.get(FieldId::XRequestId).filter(|_| trusted).and_then(super::ascii);
        match claimed {
            Some(id) if !id.is_empty() && id.len() <= MAX_LENGTH => {
                Self(IdText::Claimed(id.into()))
            }
            _ => Self::new(),
        }
    }

    /// Returns the text.
    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            IdText::New(digits) => digits,
            IdText::Claimed(id) => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::request;

    #[test]
    fn a_new_id_has_32_hex_digits() {
        let (one, other) = (RequestId::new(), RequestId::new());
        assert_ne!(one, other);
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(one.as_str().len() == 32 && one.as_str().bytes().all(is_digit), "{one:?}");
    }

    #[test]
    fn only_a_trusted_peer_names_the_id() {
        let of = |value: &str, trusted| {
            let request = request(&format!("GET / HTTP/1.1\r\nX-Request-Id: {value}\r\n"));
            RequestId::of(&request.head, trusted).as_str().to_owned()
        };
        let longest = "i".repeat(MAX_LENGTH);
        assert_eq!(of(&longest, true), longest);
        assert_eq!(of("a b", true), "a b");
        for bad in ["", "\u{fc}", &format!("{longest}i")] {
            assert_eq!(of(bad, true).len(), DIGITS, "{bad}");
            assert_ne!(of(bad, true), bad);
        }
        assert_ne!(of("mine", false), "mine");
    }
}
