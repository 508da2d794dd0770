//! Removes byte order marks, which some editors put before a text.

/// The mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Removes the marks from a PEM file, also those in the middle of a concatenated file. Other files stay
/// unchanged.
pub(super) fn unmarked_pem(bytes: Vec<u8>) -> Vec<u8> {
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
    if !has(MARK) || !has(b"-----BEGIN ") {
        return bytes;
    }
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let Some(at) = rest.windows(MARK.len()).position(|part| part == MARK) {
        text.extend_from_slice(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    text.extend_from_slice(rest);
    text
}

/// A text without a leading mark.
pub(super) fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_removed_from_pem_only() {
        let marked = b"\xef\xbb\xbf-----BEGIN A-----\n\xef\xbb\xbf-----BEGIN B-----\n".to_vec();
        assert_eq!(unmarked_pem(marked), b"-----BEGIN A-----\n-----BEGIN B-----\n");
        let other = b"\xef\xbb\xbf\x30\x03".to_vec();
        assert_eq!(unmarked_pem(other.clone()), other);
        assert_eq!((unmarked("\u{feff}a"), unmarked("a")), ("a", "a"));
    }
}
