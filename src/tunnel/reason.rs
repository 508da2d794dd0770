//! Why a tunnel is closed, and what follows from each reason.

use crate::error::{Side, Termination};

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
}

impl CloseReason {
    const ALL: [Self; 5] =
        [Self::Drained, Self::Rebalanced, Self::Aged, Self::Operator, Self::Down];

    /// Termination of a tunnel that is closed for this reason.
    pub fn termination(self) -> Termination {
        match self {
            Self::Drained => Termination::Drained,
            Self::Rebalanced => Termination::Rebalanced,
            Self::Aged => Termination::Aged,
            Self::Operator => Termination::Closed(Side::Proxy),
            Self::Down => Termination::BackendDown,
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

    /// Complete Close frame of a server: status 1012, "service restart", and a text.
    pub(super) fn frame(self) -> &'static [u8] {
        match self {
            Self::Drained => b"\x88\x0a\x03\xf4draining",
            Self::Rebalanced => b"\x88\x0d\x03\xf4rebalancing",
            Self::Aged => b"\x88\x11\x03\xf4connection aged",
            Self::Operator => b"\x88\x14\x03\xf4closed by operator",
            Self::Down => b"\x88\x0e\x03\xf4backend down",
        }
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
            assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), 1012);
            assert!(std::str::from_utf8(&frame[4..]).is_ok());
        }
        assert_eq!((CloseReason::of_code(0), CloseReason::of_code(6)), (None, None));
    }
}
