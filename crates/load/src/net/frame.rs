//! WebSocket frames (RFC 6455, section 5) as pure functions over bytes, for both sides.
//!
//! Our own rather than a library's: tokio-websockets and fastwebsockets keep 8 KiB to read into for
//! each connection, and a crowd of thousands is to fit into 10 kB a client. Here the caller owns all
//! bytes, and can keep one buffer for each thread. Checked against tokio-websockets in the tests.

use std::fmt;

/// Longest header: two bytes, eight of length, four of mask.
pub(crate) const MAX_HEADER: usize = 14;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A later part of a message.
    Continuation = 0,
    /// A message of UTF-8, or its first part.
    Text = 1,
    /// A message of bytes, or its first part.
    Binary = 2,
    /// The last frame.
    Close = 8,
    /// To be answered with a pong of the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Whether it is no part of a message: at most 125 bytes, never fragmented.
    pub(crate) fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether the message ends with this frame.
    pub(crate) fin: bool,
    /// What the frame is.
    pub(crate) opcode: Opcode,
    /// Key of a client's frame.
    pub(crate) mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub(crate) len: u64,
}

/// Bytes that are no WebSocket frame, or not one that may come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// A reserved bit is set, but no extension was agreed.
    ReservedBit,
    /// An opcode that RFC 6455 does not know.
    Opcode(u8),
    /// A control frame that is fragmented or longer than 125 bytes.
    Control,
    /// A length that is not in its shortest form, or beyond 63 bits.
    Length,
    /// A masked frame from a server, or an unmasked one from a client.
    Mask,
    /// A continuation of nothing, or a message within another.
    Order,
    /// A text that is not UTF-8.
    Utf8,
    /// A close frame with half a code, or a code that may not be sent.
    CloseCode,
    /// A message of more than this many bytes.
    TooLong(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBit => f.write_str("a WebSocket frame with a reserved bit"),
            Self::Opcode(opcode) => write!(f, "a WebSocket frame of the unknown opcode {opcode}"),
            Self::Control => f.write_str("a WebSocket control frame that is too long or in parts"),
            Self::Length => f.write_str("a WebSocket frame with a malformed length"),
            Self::Mask => f.write_str("a WebSocket frame with the other side's masking"),
            Self::Order => f.write_str("parts of WebSocket messages out of order"),
            Self::Utf8 => f.write_str("a WebSocket text that is not UTF-8"),
            Self::CloseCode => f.write_str("a WebSocket close frame with a malformed code"),
            Self::TooLong(limit) => write!(f, "a WebSocket message of more than {limit} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// Reads the header at the start of `input`; `None` where more bytes are needed. Also returns its
    /// own length in bytes.
    ///
    /// # Errors
    ///
    /// What no frame may look like, whoever sent it.
    pub(crate) fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let &[first, second, ref rest @ ..] = input else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBit);
        }
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            other => return Err(FrameError::Opcode(other)),
        };
        let fin = first & 0x80 != 0;
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || short > 125) {
            return Err(FrameError::Control);
        }
        let (len, rest) = match short {
            126 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let shortest = match short {
            126 => len > 125,
            127 => len > 0xffff && len >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(FrameError::Length);
        }
        let (mask, rest) = match (second & 0x80 != 0, rest.split_first_chunk()) {
            (false, _) => (None, rest),
            (true, Some((key, rest))) => (Some(*key), rest),
            (true, None) => return Ok(None),
        };
        Ok(Some((Self { fin, opcode, mask, len }, input.len() - rest.len())))
    }

    /// Appends the header to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = u8::from(self.fin) << 7 | self.opcode as u8;
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut end = match self.len {
            0..=125 => {
                bytes[1] = masked | self.len as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = masked | 126;
                bytes[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = masked | 127;
                bytes[2..10].copy_from_slice(&self.len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            bytes[end..end + 4].copy_from_slice(&key);
            end += 4;
        }
        out.extend_from_slice(&bytes[..end]);
    }
}

/// Masks or unmasks `payload`, whose first byte is the `offset`th of its frame.
pub(crate) fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: u64) {
    let mut key = key;
    key.rotate_left((offset % 4) as usize);
    let wide = u32::from_ne_bytes(key);
    let (chunks, rest) = payload.as_chunks_mut();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Whether a close frame may carry the code (RFC 6455, section 7.4).
pub(crate) fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
