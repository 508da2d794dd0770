//! What a client says: made from its number and the message's, so that an answer can be checked
//! without keeping what was sent.
//!
//! Must not know how payloads are packed.

/// Bytes of the stamp that a payload starts with: the client's number and the message's, in hex.
pub(crate) const STAMP: usize = 16;

const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// What follows the stamp of a text: ASCII that JSON need not escape, over and over.
static TEXT: [u8; 4096] = text();
/// What follows the stamp of a binary: every byte there is, over and over.
static BINARY: [u8; 4096] = binary();

/// The payloads of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maker {
    client: u32,
    size: usize,
    filler: &'static [u8; 4096],
}

impl Maker {
    /// Texts of ASCII letters, digits, `-` and `_`.
    pub(crate) fn text(client: u32, size: usize) -> Self {
        Self { client, size, filler: &TEXT }
    }

    /// Bytes of all values.
    pub(crate) fn binary(client: u32, size: usize) -> Self {
        Self { client, size, filler: &BINARY }
    }

    /// Bytes of each payload.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Appends the payload of message `number`.
    pub(crate) fn write(&self, number: u64, into: &mut Vec<u8>) {
        into.reserve(self.size);
        let end = into.len() + self.size;
        let stamp = self.stamp(number);
        into.extend_from_slice(&stamp[..STAMP.min(self.size)]);
        while into.len() < end {
            let rest = (end - into.len()).min(self.filler.len());
            into.extend_from_slice(&self.filler[..rest]);
        }
    }

    /// Whether these bytes are the payload of message `number`.
    pub(crate) fn matches(&self, number: u64, bytes: &[u8]) -> bool {
        let stamp = self.stamp(number);
        bytes.len() == self.size
            && bytes.starts_with(&stamp[..STAMP.min(self.size)])
            && bytes.get(STAMP..).is_none_or(|rest| {
                rest.chunks(self.filler.len()).all(|chunk| self.filler.starts_with(chunk))
            })
    }

    /// The message's number in a payload of this client; `None` where it is not one, or too short to
    /// carry it.
    pub(crate) fn number(&self, bytes: &[u8]) -> Option<u64> {
        let stamp = bytes.get(..STAMP)?;
        let digits = std::str::from_utf8(stamp).ok()?;
        let number = u64::from_str_radix(digits.get(8..)?, 16).ok()?;
        (self.stamp(number) == stamp).then_some(number)
    }

    /// Message numbers wrap at 2³²: by then the answer to their first bearer is long settled.
    fn stamp(&self, number: u64) -> [u8; STAMP] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bits = u64::from(self.client) << 32 | (number & 0xffff_ffff);
        std::array::from_fn(|i| DIGITS[(bits >> (60 - 4 * i)) as usize & 15])
    }
}

const fn text() -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let mut i = 0;
    while i < bytes.len() {
        bytes[i] = ALPHABET[i % ALPHABET.len()];
        i += 1;
    }
    bytes
}

const fn binary() -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let mut i = 0;
    while i < bytes.len() {
        // Coprime to 256: all values in turn, no two neighbours alike.
        bytes[i] = (i * 7 % 256) as u8;
        i += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(maker: Maker, number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        maker.write(number, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn a_payload_is_known_again(client: u32, number: u32, size in 0_usize..10_000) {
            for maker in [Maker::text(client, size), Maker::binary(client, size)] {
                let bytes = payload(maker, u64::from(number));
                prop_assert_eq!(bytes.len(), size);
                prop_assert!(maker.matches(u64::from(number), &bytes));
                let read = maker.number(&bytes);
                prop_assert_eq!(read, (size >= STAMP).then_some(u64::from(number)));
            }
        }

        #[test]
        fn a_changed_byte_shows(size in 1_usize..10_000, at: prop::sample::Index, flip in 1_u8..) {
            for maker in [Maker::text(9, size), Maker::binary(9, size)] {
                let mut bytes = payload(maker, 5);
                bytes[at.index(size)] ^= flip;
                prop_assert!(!maker.matches(5, &bytes));
            }
        }
    }

    #[test]
    fn other_messages_and_clients_differ() {
        let maker = Maker::text(1, 64);
        assert!(!maker.matches(2, &payload(maker, 3)));
        assert!(!maker.matches(3, &payload(Maker::text(2, 64), 3)));
        assert_eq!(maker.number(&payload(Maker::text(2, 64), 3)), None);
        assert!(!maker.matches(3, &payload(Maker::text(1, 63), 3)));
    }

    #[test]
    fn texts_need_no_escape() {
        let bytes = payload(Maker::text(1, 5000), 3);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(serde_json::to_string(&text).unwrap().len(), text.len() + 2);
    }
}
