//! Decoding of request bodies that clients have compressed.
//!
//! It protects the backend: a body whose coding is unknown or broken gets a 415, a body that becomes too large a 413. The limit
//! is the smaller one of a size and a multiple of what the client has sent, and is enforced while the body is decoded.

use std::io::{self, Read};

use moorline_http::{FieldId, Head};

use crate::config::DecompressConfig;

/// Decoded bodies up to this size are never a bomb.
const HARMLESS: u64 = 64 << 10;

/// Largest window of Zstandard, as a power of two: 8 MiB, which every decoder must accept (RFC 8878 §3.1.1.1.2).
const ZSTD_WINDOW: u32 = 23;

/// The coding of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyCoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodingFault {
    /// The coding is not one that can be decoded, or the body is not encoded by it.
    Coding,
    /// The decoded body is too large, or too large for its encoded size.
    TooLarge,
}

impl BodyCoding {
    /// Returns the coding of a message; `None`: it has none.
    ///
    /// # Errors
    /// The coding is unknown, or there are several.
    pub(super) fn of(head: &Head) -> Result<Option<Self>, DecodingFault> {
        let mut names = head
            .tokens(FieldId::ContentEncoding)
            .filter(|name| !name.eq_ignore_ascii_case(b"identity"));
        let Some(name) = names.next() else { return Ok(None) };
        if names.next().is_some() {
            // Each coding multiplies.
            return Err(DecodingFault::Coding);
        }
        match &*name.to_ascii_lowercase() {
            b"gzip" | b"x-gzip" => Ok(Some(Self::Gzip)),
            b"deflate" => Ok(Some(Self::Deflate)),
            b"br" => Ok(Some(Self::Brotli)),
            b"zstd" => Ok(Some(Self::Zstd)),
            _ => Err(DecodingFault::Coding),
        }
    }

    /// Returns the decoded body.
    ///
    /// # Errors
    /// It is not encoded by this coding, or too large.
    pub(crate) fn decode(
        self,
        body: &[u8],
        limits: &DecompressConfig,
    ) -> Result<Vec<u8>, DecodingFault> {
        let most = limits.most(body.len() as u64);
        let decoded = match self {
            Self::Gzip => bounded(flate2::read::MultiGzDecoder::new(body), most),
            Self::Deflate => bounded(flate2::read::ZlibDecoder::new(body), most),
            Self::Brotli => bounded(brotli::Decompressor::new(body, 4096), most),
            Self::Zstd => zstd::stream::read::Decoder::new(body).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW)?;
                bounded(decoder, most)
            }),
        };
        let decoded = decoded.map_err(|_| DecodingFault::Coding)?;
        if decoded.len() as u64 > most {
            return Err(DecodingFault::TooLarge);
        }
        Ok(decoded)
    }
}

impl DecompressConfig {
    /// Maximum size of a body of this size after decoding.
    pub(super) fn most(&self, encoded: u64) -> u64 {
        self.max.min(encoded.saturating_mul(self.ratio.into()).max(HARMLESS))
    }
}

/// Reads one byte more than the limit, at most.
fn bounded(reader: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(most.saturating_add(1)).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_is_noticed_before_it_is_whole() {
        let limits = DecompressConfig { ratio: 100, max: 1 << 30 };
        let bomb = gzip(&vec![0; 32 << 20]);
        assert_eq!(BodyCoding::Gzip.decode(&bomb, &limits), Err(DecodingFault::TooLarge));
        let small = gzip(&vec![0; HARMLESS as usize]);
        assert!(BodyCoding::Gzip.decode(&small, &limits).is_ok());
        let tight = DecompressConfig { ratio: 10_000, max: 1000 };
        assert_eq!(
            BodyCoding::Gzip.decode(&gzip(&[b'x'; 1001]), &tight),
            Err(DecodingFault::TooLarge)
        );
        assert_eq!(BodyCoding::Gzip.decode(&gzip(&[b'x'; 1000]), &tight).unwrap().len(), 1000);
        // A frame of Zstandard that asks for a window of 2 GiB.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert_eq!(BodyCoding::Zstd.decode(&window, &limits), Err(DecodingFault::Coding));
    }

    #[test]
    fn broken_bodies_are_not_passed_on_in_part() {
        let limits = DecompressConfig { ratio: 100, max: 1 << 20 };
        let whole = gzip(b"some text that is compressed");
        for coding in [BodyCoding::Gzip, BodyCoding::Deflate, BodyCoding::Brotli, BodyCoding::Zstd]
        {
            let decode = |body: &[u8]| coding.decode(body, &limits);
            assert_eq!(decode(b"\x01\x02not encoded"), Err(DecodingFault::Coding), "{coding:?}");
            if coding == BodyCoding::Gzip {
                assert_eq!(decode(&whole[..whole.len() - 3]), Err(DecodingFault::Coding));
                assert_eq!(decode(&[&whole[..], b"garbage"].concat()), Err(DecodingFault::Coding));
            }
        }
    }
}
