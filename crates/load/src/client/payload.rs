//! Payloads of a client: derived from the numbers of client and message, so that an answer can be checked
//! without keeping the message.
//!
//! Does not know how payloads are encoded.

/// Bytes of the stamp at the start of a payload: client number and message number in hex.
pub(crate) const STAMP: usize = 16;

const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// Repeated after the stamp of a text: ASCII that needs no JSON escape.
static TEXT: [u8; 4096] = text();
/// Repeated after the stamp of a binary payload: all byte values.
static BINARY: [u8; 4096] = binary();

/// Generates the payloads of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadGenerator {
    client: u32,
    size: usize,
    filler: &'static [u8; 4096],
}

impl PayloadGenerator {
    /// Texts of ASCII letters, digits, `-` and `_`.
    pub(crate) fn text(client: u32, size: usize) -> Self {
        Self { client, size, filler: &TEXT }
    }

    /// Bytes of all values.
    pub(crate) fn binary(client: u32, size: usize) -> Self {
        Self { client, size, filler: &BINARY }
    }

    /// Bytes per payload.
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

    /// Whether `bytes` is the payload of message `number`.
    pub(crate) fn matches(&self, number: u64, bytes: &[u8]) -> bool {
        let stamp = self.stamp(number);
        bytes.len() == self.size
            && bytes.starts_with(&stamp[..STAMP.min(self.size)])
            && bytes.get(STAMP..).is_none_or(|rest| {
                rest.chunks(self.filler.len()).all(|chunk| self.filler.starts_with(chunk))
            })
    }

    /// Returns the message number in a payload of this client; `None` if it is another client's payload, or
    /// too short to contain a number.
    pub(crate) fn number(&self, bytes: &[u8]) -> Option<u64> {
        let stamp = bytes.get(..STAMP)?;
        let digits = std::str::from_utf8(stamp).ok()?;
        let number = u64::from_str_radix(digits.get(8..)?, 16).ok()?;
        (self.stamp(number) == stamp).then_some(number)
    }

    /// Message numbers wrap at 2³². By then the earlier message with the same number is settled.
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
        // 7 is coprime to 256: all values occur, and neighbors differ.
        bytes[i] = (i * 7 % 256) as u8;
        i += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(generator: PayloadGenerator, number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        generator.write(number, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn payload_matches_and_has_its_number(client: u32, number: u32, size in 0_usize..10_000) {
            for generator in [PayloadGenerator::text(client, size), PayloadGenerator::binary(client, size)] {
                let bytes = payload(generator, u64::from(number));
                prop_assert_eq!(bytes.len(), size);
                prop_assert!(generator.matches(u64::from(number), &bytes));
                let read = generator.number(&bytes);
                prop_assert_eq!(read, (size >= STAMP).then_some(u64::from(number)));
            }
        }

        #[test]
        fn changed_byte_is_detected(size in 1_usize..10_000, at: prop::sample::Index, flip in 1_u8..) {
            for generator in [PayloadGenerator::text(9, size), PayloadGenerator::binary(9, size)] {
                let mut bytes = payload(generator, 5);
                bytes[at.index(size)] ^= flip;
                prop_assert!(!generator.matches(5, &bytes));
            }
        }
    }

    #[test]
    fn payloads_of_other_messages_and_clients_differ() {
        let generator = PayloadGenerator::text(1, 64);
        assert!(!generator.matches(2, &payload(generator, 3)));
        assert!(!generator.matches(3, &payload(PayloadGenerator::text(2, 64), 3)));
        assert_eq!(generator.number(&payload(PayloadGenerator::text(2, 64), 3)), None);
        assert!(!generator.matches(3, &payload(PayloadGenerator::text(1, 63), 3)));
    }

    #[test]
    fn texts_need_no_json_escape() {
        let bytes = payload(PayloadGenerator::text(1, 5000), 3);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(serde_json::to_string(&text).unwrap().len(), text.len() + 2);
    }
}
