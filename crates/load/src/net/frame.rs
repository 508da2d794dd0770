//! WebSocket frames (RFC 6455, section 5) as pure functions over bytes, for clients and servers.
//!
//! Not a library: tokio-websockets and fastwebsockets keep a read buffer of 8 KiB per connection, and
//! thousands of clients must fit into 10 kB each. Here the caller owns all buffers and can keep one per
//! thread. The tests compare this module with tokio-websockets.

use std::fmt;

/// Maximum length of a header: 2 bytes, 8 of length, 4 of mask.
pub(crate) const MAX_HEADER: usize = 14;

/// Type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A later fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The last frame.
    Close = 8,
    /// Must be answered with a pong of the same payload.
    Ping = 9,
    /// Answer to a ping.
    Pong = 10,
}

impl Opcode {
    /// Whether this is a control frame: at most 125 bytes, never fragmented.
    pub(crate) fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether this frame ends its message.
    pub(crate) fin: bool,
    /// Type of the frame.
    pub(crate) opcode: Opcode,
    /// Masking key of a client's frame.
    pub(crate) mask: Option<[u8; 4]>,
    /// Length of the payload in bytes.
    pub(crate) len: u64,
}

/// An invalid WebSocket frame, or a frame that is not allowed at this point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// A reserved bit is set without a negotiated extension.
    ReservedBit,
    /// An opcode that RFC 6455 does not define.
    Opcode(u8),
    /// A control frame that is fragmented or longer than 125 bytes.
    Control,
    /// A length that is not in its shortest form, or larger than 63 bits.
    Length,
    /// A masked frame from a server, or an unmasked one from a client.
    Mask,
    /// A continuation without a message, or a new message inside a fragmented one.
    FragmentOrder,
    /// A text that is not UTF-8.
    Utf8,
    /// A close frame with an incomplete code, or with a code that must not be sent.
    CloseCode,
    /// A message that exceeds this number of bytes.
    TooLong(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBit => f.write_str("a WebSocket frame with a reserved bit"),
            Self::Opcode(opcode) => write!(f, "a WebSocket frame with the unknown opcode {opcode}"),
            Self::Control => {
                f.write_str("a WebSocket control frame that is too long or fragmented")
            }
            Self::Length => f.write_str("a WebSocket frame with a malformed length"),
            Self::Mask => f.write_str("a WebSocket frame with wrong masking"),
            Self::FragmentOrder => f.write_str("fragments of WebSocket messages out of order"),
            Self::Utf8 => f.write_str("a WebSocket text that is not UTF-8"),
            Self::CloseCode => f.write_str("a WebSocket close frame with a malformed code"),
            Self::TooLong(limit) => write!(f, "a WebSocket message of more than {limit} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// Parses the header at the start of `input`; `None` if more bytes are needed. Also returns the length of
    /// the header in bytes.
    ///
    /// # Errors
    ///
    /// A header that is invalid for both client and server.
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

/// Masks or unmasks `payload`, whose first byte is at `offset` in its frame.
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
