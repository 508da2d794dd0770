//! Tracks WebSocket frame boundaries in one direction of a tunnel (RFC 6455 §5.2).
//!
//! Steps from header to header; payload is skipped, neither inspected nor stored. The proxy may
//! insert a Close frame only at a frame boundary: a single byte within a frame breaks the
//! connection. After bytes that cannot be a frame, there is no boundary any more.

/// Maximum length of a header: two bytes, a 64-bit length, a mask.
pub(super) const LONGEST: usize = 14;

/// Tracks the frames of one direction from its first byte on.
#[derive(Clone, Copy, Debug)]
pub struct FrameTracker {
    state: FrameState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameState {
    /// `seen` bytes of a header have passed; `seen == 0` is a boundary.
    Header { seen: u8, bytes: [u8; LONGEST] },
    /// `left` payload bytes are still to come, at least one.
    Payload { left: u64, close: bool },
    /// A whole Close frame has passed.
    Closed,
    /// The bytes are not WebSocket frames, are malformed, or were not tracked from their start.
    Lost,
}

/// Content of a complete header.
pub(super) struct FrameHeader {
    /// Length of the header itself.
    pub(super) length: usize,
    /// Whether it is a Close frame.
    pub(super) close: bool,
    /// Length of the payload.
    pub(super) payload: u64,
}

impl Default for FrameTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameTracker {
    /// Starts at the first byte after the handshake, which is a boundary.
    pub const fn new() -> Self {
        Self { state: FrameState::BOUNDARY }
    }

    /// For bytes without frames, or with an unknown start: there is no boundary.
    pub const fn lost() -> Self {
        Self { state: FrameState::Lost }
    }

    /// Steps over bytes that pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != FrameState::Lost {
            let stepped = self.step(bytes);
            bytes = &bytes[stepped..];
        }
    }

    /// Steps over bytes up to the next boundary and returns their number, which is 0 at a boundary.
    /// Returns `None` if `bytes` contain no boundary; all of them are then stepped over.
    pub fn pass_to_boundary(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut passed = 0;
        while !self.at_boundary() {
            if passed == bytes.len() || self.state == FrameState::Lost {
                return None;
            }
            passed += self.step(&bytes[passed..]);
        }
        Some(passed)
    }

    /// Whether a frame of the proxy may follow.
    pub fn at_boundary(&self) -> bool {
        self.state == FrameState::BOUNDARY
    }

    /// Whether a whole Close frame has passed, after which no frame may follow.
    pub fn is_closed(&self) -> bool {
        self.state == FrameState::Closed
    }

    /// Whether bytes that cannot be a frame have passed, so that there is no boundary any more.
    pub fn is_lost(&self) -> bool {
        self.state == FrameState::Lost
    }

    /// Steps over a part of `bytes`, which must not be empty: to the end of a header, a payload or a
    /// frame, or over all bytes.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            // Only a broken sender sends frames after Close.
            FrameState::Lost | FrameState::Closed => self.lose(bytes),
            FrameState::Payload { left, close } => {
                let (left, close) = (*left, *close);
                self.enter(left, close, bytes)
            }
            // Headers are nearly always complete: parsed in place.
            FrameState::Header { seen: 0, bytes: header } => match FrameHeader::read(bytes) {
                Ok(Some(FrameHeader { length, close, payload })) => {
                    length + self.enter(payload, close, &bytes[length..])
                }
                Ok(None) => {
                    // Shorter than a complete header, so it fits into the array.
                    header[..bytes.len()].copy_from_slice(bytes);
                    self.state = FrameState::Header { seen: bytes.len() as u8, bytes: *header };
                    bytes.len()
                }
                Err(()) => self.lose(bytes),
            },
            FrameState::Header { seen, bytes: header } => {
                header[usize::from(*seen)] = bytes[0];
                *seen += 1;
                match FrameHeader::read(&header[..usize::from(*seen)]) {
                    Ok(Some(FrameHeader { close, payload, .. })) => {
                        self.enter(payload, close, &[]);
                    }
                    Ok(None) => {}
                    Err(()) => return self.lose(bytes),
                }
                1
            }
        }
    }

    /// Steps over the available payload.
    fn enter(&mut self, payload: u64, close: bool, bytes: &[u8]) -> usize {
        let stepped = usize::try_from(payload).map_or(bytes.len(), |n| n.min(bytes.len()));
        self.state = match (payload - stepped as u64, close) {
            (0, true) => FrameState::Closed,
            (0, false) => FrameState::BOUNDARY,
            (left, close) => FrameState::Payload { left, close },
        };
        stepped
    }

    fn lose(&mut self, bytes: &[u8]) -> usize {
        self.state = FrameState::Lost;
        bytes.len()
    }
}

impl FrameState {
    /// Between two frames.
    const BOUNDARY: Self = Self::Header { seen: 0, bytes: [0; LONGEST] };
}

impl FrameHeader {
    /// Parses the header at the start of `bytes`. `None` if it is incomplete; an error if it is
    /// invalid.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, ()> {
        let opcode = bytes[0] & 0x0f;
        let control = opcode & 0x08 != 0;
        // Extensions have used reserved bits, but never reserved opcodes.
        if matches!(opcode, 0x3..=0x7 | 0xb..=0xf) || (control && bytes[0] & 0x80 == 0) {
            return Err(());
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let (short, mask) = (second & 0x7f, if second & 0x80 == 0 { 0 } else { 4 });
        if control && short > 125 {
            return Err(());
        }
        let width = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(extended) = bytes.get(2..2 + width) else { return Ok(None) };
        let long = extended.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
        if long >> 63 != 0 {
            return Err(());
        }
        let payload = if width == 0 { u64::from(short) } else { long };
        let length = 2 + width + mask;
        Ok((bytes.len() >= length).then_some(Self { length, close: opcode == 0x8, payload }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Creates a frame as a sender would.
    fn frame(opcode: u8, fin: bool, masked: bool, payload: usize) -> Vec<u8> {
        let mut made = vec![opcode | if fin { 0x80 } else { 0 }];
        let mask = if masked { 0x80 } else { 0 };
        match payload {
            0..=125 => made.push(mask | payload as u8),
            126..=0xffff => {
                made.push(mask | 126);
                made.extend((payload as u16).to_be_bytes());
            }
            _ => {
                made.push(mask | 127);
                made.extend((payload as u64).to_be_bytes());
            }
        }
        // Payload that looks like headers must not be parsed as headers.
        made.extend(std::iter::repeat_n(0x88, payload + if masked { 4 } else { 0 }));
        made
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let data = (prop::sample::select(vec![0x0, 0x1, 0x2]), any::<bool>(), 0..70_000_usize);
        let control = (prop::sample::select(vec![0x9, 0xa]), Just(true), 0..=125_usize);
        (prop_oneof![data, control], any::<bool>())
            .prop_map(|((opcode, fin, payload), masked)| frame(opcode, fin, masked, payload))
    }

    proptest! {
        #[test]
        fn boundaries_are_at_frame_ends_for_any_split(
            frames in prop::collection::vec(any_frame(), 1..6),
            cut in 1..5_000_usize,
        ) {
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            }).collect();
            let stream = frames.concat();
            let mut tracker = FrameTracker::new();
            let mut passed = 0;
            for piece in stream.chunks(cut) {
                tracker.pass(piece);
                passed += piece.len();
                prop_assert_eq!(tracker.at_boundary(), ends.contains(&passed), "after {}", passed);
            }

            let mut tracker = FrameTracker::new();
            let mut found = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                // One byte into the next frame, so that there is a boundary to look for.
                tracker.pass(&rest[..1]);
                let Some(stepped) = tracker.pass_to_boundary(&rest[1..]) else { break };
                rest = &rest[1 + stepped..];
                found.push(stream.len() - rest.len());
            }
            prop_assert_eq!(found, ends);
        }

        #[test]
        fn no_bytes_make_a_tracker_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut whole = FrameTracker::new();
            whole.pass(&bytes);
            let mut bit_by_bit = FrameTracker::new();
            bytes.iter().for_each(|&byte| bit_by_bit.pass(&[byte]));
            prop_assert_eq!(whole.state, bit_by_bit.state);
        }
    }

    #[test]
    fn the_start_is_a_boundary_and_the_middle_is_not() {
        let mut tracker = FrameTracker::new();
        assert_eq!(tracker.pass_to_boundary(b"\x81\x01a"), Some(0));
        tracker.pass(b"\x81");
        assert!(!tracker.at_boundary());
        assert_eq!(tracker.pass_to_boundary(b"\x05hel"), None);
        assert_eq!(tracker.pass_to_boundary(b"lo\x81"), Some(2));
    }

    #[test]
    fn nothing_may_follow_a_close() {
        let mut tracker = FrameTracker::new();
        let close = frame(0x8, true, true, 2);
        tracker.pass(&close[..3]);
        assert!(!tracker.is_closed());
        tracker.pass(&close[3..]);
        assert!(tracker.is_closed() && !tracker.at_boundary());
        tracker.pass(&[0x81]);
        assert!(tracker.is_lost() && !tracker.is_closed());
    }

    #[test]
    fn bytes_that_are_not_frames_have_no_boundary() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[0x83, 0x00],                           // reserved opcode
            &[0x09, 0x00],                           // a ping in fragments
            &[0x89, 126],                            // a ping beyond 125 bytes
            &[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0], // a negative length
        ] {
            let mut tracker = FrameTracker::new();
            tracker.pass(bytes);
            assert!(tracker.is_lost(), "{bytes:?}");
            assert_eq!(tracker.pass_to_boundary(b"\x81\x00"), None);
        }
    }

    #[test]
    fn a_tracker_is_small() {
        assert!(size_of::<FrameTracker>() <= 16);
    }
}
