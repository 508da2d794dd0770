//! Memory that is returned to the system after a peak.
//!
//! glibc keeps freed memory in the process: see [`moorline_heap`]. So when the connections or the sessions have fallen to
//! half of their peak, the free pages are returned. This locks the heap of each thread for some milliseconds. So it is
//! done once for each halving, if possible when the fall has ended, and never for each connection.

use std::time::Instant;

use tokio::task::spawn_blocking;

/// Smallest fall that counts. A connection frees between 2 and 50 KiB.
const LEAST_FALL: usize = 100;

/// A number that falls by less than this part of it in a period has ended its fall, as far as it matters here.
const STEADY_PART: usize = 16;

/// Maximum number of periods until a fall counts that has not ended.
const LONGEST_FALL: u32 = 5;

/// Decides when free memory is returned to the system.
#[derive(Debug, Default)]
pub(super) struct HeapRelease {
    connections: PeakWatch,
    sessions: PeakWatch,
}

/// A number, its peak since the last return, and its fall.
#[derive(Debug, Default)]
struct PeakWatch {
    peak: usize,
    last: usize,
    /// Periods since the number fell to half of the peak.
    falling: u32,
}

impl HeapRelease {
    /// Returns free memory to the system if one of these numbers has fallen far enough. Called once in each period of
    /// housekeeping.
    pub(super) fn tick(&mut self, connections: usize, sessions: usize) {
        let fallen = [self.connections.has_fallen(connections), self.sessions.has_fallen(sessions)];
        if fallen.contains(&true) {
            // Not on the thread of the control task, which would be late for its other work.
            drop(spawn_blocking(move || {
                let began = Instant::now();
                let released = moorline_heap::release_free_pages();
                let took = began.elapsed();
                tracing::debug!(released, ?took, connections, sessions, "returned free memory");
            }));
        }
    }
}

impl PeakWatch {
    /// Records the number; true if it has fallen to half of its peak. The next peak begins there.
    fn has_fallen(&mut self, now: usize) -> bool {
        let steady = now >= self.last - self.last / STEADY_PART;
        self.last = now;
        self.peak = self.peak.max(now);
        if now > self.peak / 2 || self.peak - now < LEAST_FALL {
            self.falling = 0;
            return false;
        }
        self.falling += 1;
        let ended = steady || self.falling > LONGEST_FALL;
        if ended {
            *self = Self { peak: now, last: now, falling: 0 };
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions of the numbers at which memory is returned.
    fn returns(numbers: &[usize]) -> Vec<usize> {
        let mut watch = PeakWatch::default();
        (0..numbers.len()).filter(|&at| watch.has_fallen(numbers[at])).collect()
    }

    #[test]
    fn a_peak_is_followed_by_one_return_when_its_fall_has_ended() {
        assert_eq!(returns(&[0, 4000, 4000, 2500, 900, 0, 0, 0, 0]), [6]);
        assert_eq!(returns(&[0, 4000, 0, 0, 4000, 0, 0]), [3, 6]);
    }

    #[test]
    fn each_halving_of_a_slow_fall_is_followed_by_a_return() {
        let slow: Vec<usize> = (0..=100).map(|step| 10_000 - 100 * step).collect();
        let at: Vec<usize> = returns(&slow).iter().map(|&at| slow[at]).collect();
        assert_eq!(at, [5000, 2500, 700]);
    }

    #[test]
    fn a_fall_that_goes_on_does_not_delay_the_return_forever() {
        let halved: Vec<usize> = (0..20).map(|step| 1_000_000 >> step).collect();
        assert_eq!(returns(&halved).first(), Some(&6));
    }

    #[test]
    fn small_or_shallow_falls_return_nothing() {
        for numbers in [[0, 150, 60, 60, 60, 55, 55], [0, 4000, 2100, 2100, 4000, 2100, 2100]] {
            assert!(returns(&numbers).is_empty(), "{numbers:?}");
        }
    }
}
