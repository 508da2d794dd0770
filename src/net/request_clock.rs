//! Tracks what a client connection is waiting for, and since when.
//!
//! The byte stream and the HTTP layer above it both report to one [`RequestClock`]: the stream reports when
//! bytes arrive and when all output is written, the HTTP layer reports when a request has been parsed. The state
//! determines the deadline. It also determines whether bytes that the HTTP implementation writes belong to a
//! response of the proxy or are its own error reply to a request that never reached the proxy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// States of [`RequestClock`]: no byte of a request has arrived.
const IDLE: u8 = 0;
/// Part of a request header has arrived.
const HEADER: u8 = 1;
/// A request is being served.
const SERVING: u8 = 2;
/// The response is complete but not fully written.
const WRITING: u8 = 3;

/// The state of one connection. All parts of a connection run in one task; the atomics allow sharing and
/// guarantee no ordering.
#[derive(Debug)]
pub struct RequestClock {
    opened: Instant,
    state: AtomicU8,
    /// Start of the state in microseconds since `opened`. The header of the first request counts from `opened`.
    since: AtomicU64,
    /// At least one request was served.
    served: AtomicBool,
    /// Bytes of the response have been written.
    answering: AtomicBool,
}

/// What an idle connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The first byte of its first request.
    First,
    /// The first byte of another request.
    Next,
    /// The rest of a request header.
    Header,
}

/// A request being served; dropped when its response is complete.
#[derive(Debug)]
pub struct RequestInProgress(Arc<RequestClock>);

impl Default for RequestClock {
    /// Starts the clock of a new connection.
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            state: AtomicU8::new(IDLE),
            since: AtomicU64::new(0),
            served: AtomicBool::new(false),
            answering: AtomicBool::new(false),
        }
    }
}

impl RequestClock {
    /// Records that bytes arrived from the client.
    pub fn received(&self) {
        if self.state() == IDLE {
            // The deadline of the first header runs from the beginning of the connection.
            if self.served.load(Ordering::Relaxed) {
                self.note_time();
            }
            self.set(HEADER);
        }
    }

    /// Records that a request has been parsed and is served from now on.
    pub fn serve(self: &Arc<Self>) -> RequestInProgress {
        self.served.store(true, Ordering::Relaxed);
        self.answering.store(false, Ordering::Relaxed);
        self.set(SERVING);
        RequestInProgress(Arc::clone(self))
    }

    /// Records that the stream accepted all output so far.
    pub fn flushed(&self) {
        if self.state() == WRITING {
            self.note_time();
            self.set(IDLE);
        }
    }

    /// Whether bytes being written belong to a response of the proxy.
    pub fn is_serving(&self) -> bool {
        matches!(self.state(), SERVING | WRITING)
    }

    /// Records that bytes of the response are being written.
    pub fn answering(&self) {
        self.answering.store(true, Ordering::Relaxed);
    }

    /// Whether bytes of the response have been written.
    pub fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// Returns what the connection waits for; `None` while it serves a request.
    pub fn waiting(&self) -> Option<Waiting> {
        match self.state() {
            IDLE if self.served.load(Ordering::Relaxed) => Some(Waiting::Next),
            IDLE => Some(Waiting::First),
            HEADER => Some(Waiting::Header),
            _ => None,
        }
    }

    /// Returns the start of the current wait.
    pub fn since(&self) -> Instant {
        self.opened + Duration::from_micros(self.since.load(Ordering::Relaxed))
    }

    fn note_time(&self) {
        let micros = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.since.store(micros, Ordering::Relaxed);
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        if self.0.state() == SERVING {
            self.0.set(WRITING);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_states_follow_one_another() {
        let clock = Arc::new(RequestClock::default());
        let opened = clock.since();
        assert_eq!(clock.waiting(), Some(Waiting::First));
        tokio::time::advance(Duration::from_secs(1)).await;
        clock.received();
        assert_eq!(clock.waiting(), Some(Waiting::Header));
        assert_eq!(clock.since(), opened, "the first header is timed from the beginning");
        let serving = clock.serve();
        assert_eq!((clock.waiting(), clock.is_serving()), (None, true));
        // Bytes of the body, and a flush during the response.
        clock.received();
        clock.flushed();
        assert!(clock.is_serving());
        drop(serving);
        assert!(clock.is_serving(), "the last bytes are still to be written");
        clock.flushed();
        assert_eq!(clock.waiting(), Some(Waiting::Next));
        assert_eq!(clock.since(), opened + Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        clock.received();
        assert_eq!(clock.since(), opened + Duration::from_secs(2));
    }
}
