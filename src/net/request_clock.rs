//! Where a client's connection stands between two requests, and since when.
//!
//! The byte stream and the HTTP layer above it both report to one [`RequestClock`]: the stream knows when
//! bytes arrive and when everything is written, the HTTP layer knows when a request has been understood. From
//! that follow the deadline in force, and whether bytes that the HTTP implementation writes belong to a
//! response of ours or are its own refusal of a request that never reached us.

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
/// Part of a request's header has arrived.
const HEADER: u8 = 1;
/// A request is being served.
const SERVING: u8 = 2;
/// The response is complete, but not all of it is written.
const WRITING: u8 = 3;

/// The state of one connection. All parts of a connection run in one task: the atomics are for sharing, not
/// for ordering.
#[derive(Debug)]
pub struct RequestClock {
    opened: Instant,
    state: AtomicU8,
    /// When the state began, in microseconds from `opened`. The header of the first request counts from there.
    since: AtomicU64,
    /// A request has been served here.
    served: AtomicBool,
    /// Bytes of the response have been written.
    answering: AtomicBool,
}

/// What a connection that serves no request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The first byte of its first request.
    First,
    /// The first byte of another request.
    Next,
    /// The rest of a request's header.
    Header,
}

/// One request while it is served; dropped when its response is complete.
#[derive(Debug)]
pub struct Serving(Arc<RequestClock>);

impl Default for RequestClock {
    /// A connection that has just been opened.
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
    /// Notes that bytes have arrived from the client.
    pub fn received(&self) {
        if self.state() == IDLE {
            // The first header's deadline runs from the beginning of the connection.
            if self.served.load(Ordering::Relaxed) {
                self.note_time();
            }
            self.set(HEADER);
        }
    }

    /// Notes that a request has been understood and is served from here on.
    pub fn serve(self: &Arc<Self>) -> Serving {
        self.served.store(true, Ordering::Relaxed);
        self.answering.store(false, Ordering::Relaxed);
        self.set(SERVING);
        Serving(Arc::clone(self))
    }

    /// Notes that everything given to the stream so far has been taken.
    pub fn flushed(&self) {
        if self.state() == WRITING {
            self.note_time();
            self.set(IDLE);
        }
    }

    /// Whether what is written belongs to a response of ours.
    pub fn is_serving(&self) -> bool {
        matches!(self.state(), SERVING | WRITING)
    }

    /// Notes that bytes of the response are written.
    pub fn answering(&self) {
        self.answering.store(true, Ordering::Relaxed);
    }

    /// Whether bytes of the response have been written.
    pub fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// What the connection waits for; `None`: it serves a request.
    pub fn waiting(&self) -> Option<Waiting> {
        match self.state() {
            IDLE if self.served.load(Ordering::Relaxed) => Some(Waiting::Next),
            IDLE => Some(Waiting::First),
            HEADER => Some(Waiting::Header),
            _ => None,
        }
    }

    /// When the current wait began.
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

impl Drop for Serving {
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
    async fn a_connection_waits_for_a_header_serves_and_is_idle_again() {
        let clock = Arc::new(RequestClock::default());
        let opened = clock.since();
        assert_eq!(clock.waiting(), Some(Waiting::First));
        tokio::time::advance(Duration::from_secs(1)).await;
        clock.received();
        assert_eq!(clock.waiting(), Some(Waiting::Header));
        assert_eq!(clock.since(), opened, "the first header's time runs from the beginning");
        let serving = clock.serve();
        assert_eq!((clock.waiting(), clock.is_serving()), (None, true));
        // Bytes of the body, and a flush in the middle of the response.
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
