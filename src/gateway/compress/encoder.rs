//! Encoders of content codings, piece by piece.

use std::{
    fmt,
    io::{self, Write as _},
};

use crate::config::ContentCoding;

/// Window of a Brotli encoder, as a power of two: 256 KiB. The largest window would take 16 MiB for each response.
const BROTLI_WINDOW: u32 = 18;

/// Window of a Zstandard encoder, as a power of two.
const ZSTD_WINDOW: u32 = 18;

/// Buffer of a Brotli encoder, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// Compresses a body. It holds about 300 KiB to 1 MiB, depending on coding and level.
pub(crate) struct Encoder(Codec);

enum Codec {
    Gzip(Box<flate2::write::GzEncoder<Vec<u8>>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    /// The end has been written.
    Ended,
}

impl Encoder {
    /// Creates an encoder with a level from 1 (fast) to 9 (small).
    ///
    /// # Errors
    /// Memory is missing.
    pub(crate) fn new(coding: ContentCoding, level: u8) -> io::Result<Self> {
        let out = Vec::new();
        Ok(Self(match coding {
            ContentCoding::Gzip => {
                let level = flate2::Compression::new(level.into());
                Codec::Gzip(Box::new(flate2::write::GzEncoder::new(out, level)))
            }
            ContentCoding::Brotli => {
                let (level, window) = (level.into(), BROTLI_WINDOW);
                let writer = brotli::CompressorWriter::new(out, BROTLI_BUFFER, level, window);
                Codec::Brotli(Box::new(writer))
            }
            ContentCoding::Zstd => {
                let mut writer = zstd::stream::write::Encoder::new(out, level.into())?;
                writer.window_log(ZSTD_WINDOW)?;
                Codec::Zstd(Box::new(writer))
            }
        }))
    }

    /// Takes a piece.
    pub(in crate::gateway) fn feed(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Codec::Gzip(writer) => writer.write_all(data)?,
            Codec::Brotli(writer) => writer.write_all(data)?,
            Codec::Zstd(writer) => writer.write_all(data)?,
            Codec::Ended => return Err(io::ErrorKind::WriteZero.into()),
        }
        self.0.take(out);
        Ok(())
    }

    /// Lets everything go that was fed.
    pub(in crate::gateway) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Codec::Gzip(writer) => writer.flush()?,
            Codec::Brotli(writer) => writer.flush()?,
            Codec::Zstd(writer) => writer.flush()?,
            Codec::Ended => {}
        }
        self.0.take(out);
        Ok(())
    }

    /// Writes the end.
    pub(in crate::gateway) fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let last = match std::mem::replace(&mut self.0, Codec::Ended) {
            Codec::Gzip(writer) => writer.finish()?,
            Codec::Brotli(writer) => writer.into_inner(),
            Codec::Zstd(writer) => writer.finish()?,
            Codec::Ended => Vec::new(),
        };
        out.extend_from_slice(&last);
        Ok(())
    }
}

impl Codec {
    /// Moves what has been encoded.
    fn take(&mut self, out: &mut Vec<u8>) {
        let encoded = match self {
            Self::Gzip(writer) => writer.get_mut(),
            // It has no access to be written to: its bytes are taken by the flush below.
            Self::Brotli(writer) => writer.get_mut(),
            Self::Zstd(writer) => writer.get_mut(),
            Self::Ended => return,
        };
        out.append(encoded);
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let coding = match &self.0 {
            Codec::Gzip(_) => "gzip",
            Codec::Brotli(_) => "br",
            Codec::Zstd(_) => "zstd",
            Codec::Ended => "ended",
        };
        f.debug_tuple("Encoder").field(&coding).finish()
    }
}
