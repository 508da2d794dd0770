//! Why a tunnel is closed, and what follows from each reason.

use bytes::Bytes;

use crate::error::{FailureKind, Phase, Side, Termination};

/// Why a tunnel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The backend drains, or the process shuts down.
    Drained,
    /// The backend has more than its share.
    Rebalanced,
    /// The tunnel has reached its maximum age.
    Aged,
    /// An operator closed the tunnel.
    Operator,
    /// The backend is down.
    Down,
    /// The client has sent a message that is too large.
    MessageTooLarge,
    /// The client has sent too many messages for too long.
    MessageRate,
    /// The client has sent a frame that is invalid, where messages are limited.
    InvalidFrame,
    /// The identity of the client has expired.
    Expired,
    /// The identity of the client was revoked.
    Revoked,
}

impl CloseReason {
    const ALL: [Self; 10] = [
        Self::Drained,
        Self::Rebalanced,
        Self::Aged,
        Self::Operator,
        Self::Down,
        Self::MessageTooLarge,
        Self::MessageRate,
        Self::InvalidFrame,
        Self::Expired,
        Self::Revoked,
    ];

    /// Termination of a tunnel that is closed for this reason.
    pub fn termination(self) -> Termination {
        let failed = |kind| Termination::Failed(Side::Client, Phase::Tunnel, kind);
        match self {
            Self::Drained => Termination::Drained,
            Self::Rebalanced => Termination::Rebalanced,
            Self::Aged => Termination::Aged,
            Self::Operator => Termination::Closed(Side::Proxy),
            Self::Down => Termination::BackendDown,
            Self::MessageTooLarge => failed(FailureKind::MessageTooLarge),
            Self::MessageRate => failed(FailureKind::MessageRate),
            Self::InvalidFrame => failed(FailureKind::Malformed),
            Self::Expired => Termination::Expired,
            Self::Revoked => Termination::Revoked,
        }
    }

    /// Whether a drain cuts the tunnel at its deadline.
    pub(super) fn has_drain_deadline(self) -> bool {
        self == Self::Drained
    }

    /// Code of the reason: between 1 and 0x7f.
    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Complete Close frame of a server: a status, for most reasons 1012, "service restart", and a text.
    pub(super) fn frame(self) -> &'static [u8] {
        match self {
            Self::Drained => b"\x88\x0a\x03\xf4draining",
            Self::Rebalanced => b"\x88\x0d\x03\xf4rebalancing",
            Self::Aged => b"\x88\x11\x03\xf4connection aged",
            Self::Operator => b"\x88\x14\x03\xf4closed by operator",
            Self::Down => b"\x88\x0e\x03\xf4backend down",
            Self::MessageTooLarge => b"\x88\x13\x03\xf1message too large",
            Self::MessageRate => b"\x88\x13\x03\xf0too many messages",
            Self::InvalidFrame => b"\x88\x0f\x03\xeainvalid frame",
            Self::Expired => b"\x88\x15\x03\xf0credentials expired",
            Self::Revoked => b"\x88\x15\x03\xf0credentials revoked",
        }
    }

    /// Like [`frame`](Self::frame), with another status.
    pub(super) fn frame_with(self, status: u16) -> Bytes {
        let mut frame = self.frame().to_vec();
        frame[2..4].copy_from_slice(&status.to_be_bytes());
        frame.into()
    }

    /// Complete Close frame of a client with the status of [`frame`](Self::frame), masked by zeros.
    pub(super) fn client_frame(self) -> Bytes {
        let status = &self.frame()[2..4];
        [&[0x88, 0x82, 0, 0, 0, 0][..], status].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::frame::FrameTracker;

    #[test]
    fn each_reason_has_its_own_complete_unmasked_close_frame() {
        let mut seen = std::collections::HashSet::new();
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::of_code(reason.code()), Some(reason));
            let frame = reason.frame();
            assert!(seen.insert(frame));
            let mut tracker = FrameTracker::new();
            tracker.pass(frame);
            assert!(tracker.is_closed(), "{reason:?}");
            assert_eq!((frame[0], frame[1] & 0x80), (0x88, 0));
            let status = match reason {
                CloseReason::MessageTooLarge => 1009,
                CloseReason::MessageRate | CloseReason::Expired | CloseReason::Revoked => 1008,
                CloseReason::InvalidFrame => 1002,
                _ => 1012,
            };
            assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), status);
            let mut tracker = FrameTracker::new();
            tracker.pass(&reason.client_frame());
            assert!(tracker.is_closed(), "{reason:?}");
            let other = reason.frame_with(4401);
            assert_eq!((&other[2..4], &other[4..]), (&b"\x11\x31"[..], &frame[4..]));
            assert!(std::str::from_utf8(&frame[4..]).is_ok());
        }
        assert_eq!((CloseReason::of_code(0), CloseReason::of_code(11)), (None, None));
    }
}
