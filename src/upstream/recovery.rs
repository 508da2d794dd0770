//! How a backend returns: the end of an ejection, and slow start.
//!
//! A backend that has been away is slow at first: its caches are cold and its code is not compiled yet.
//! By session count, it is also the backend that every new client would be sent to. Therefore it begins
//! with a tenth of its weight and ramps up over the pool's `slow_start`.
//!
//! With least-sessions, a tenth alone does not keep a burst of clients away: a backend without sessions
//! is the emptiest at any weight. Therefore a handicap is added to its session count: what it lacks
//! compared with the other backends, and less of that as slow start advances. A burst then brings the
//! backend its share and no more.

use std::{
    cell::OnceCell,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    load::{FULL_SHARE, Load},
    outlier::{self, EjectionReason, Outcomes},
    panic_threshold::PanicThreshold,
};

/// Interval of [`Pool::tick`](super::Pool::tick).
pub const TICK_INTERVAL: Duration = Duration::from_millis(250);

/// Shares at the beginning of slow start: about a tenth, enough to show whether the backend works.
const FIRST_SHARE: u32 = FULL_SHARE / 10;

/// Ejections and slow start of one backend.
#[derive(Debug)]
pub(super) struct Recovery {
    outcomes: Outcomes,
    state: Mutex<RecoveryState>,
}

/// What [`Recovery::tick`] changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecoveryTick {
    /// Whether the weight or the state changed.
    pub(super) changed: bool,
    /// Whether an ejection ended.
    pub(super) ejection_ended: bool,
}

#[derive(Debug)]
struct RecoveryState {
    slow_start: SlowStart,
    /// Number of recent ejections.
    ejections: u32,
    /// When the present ejection ends.
    until: Option<Instant>,
    /// When the last ejection ended.
    last_end: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlowStart {
    /// The whole weight counts.
    Done,
    /// Begins once the backend is healthy.
    Scheduled,
    /// Began at this time.
    Since(Instant),
}

impl Recovery {
    pub(super) fn new(now: Instant) -> Self {
        let state = RecoveryState {
            slow_start: SlowStart::Done,
            ejections: 0,
            until: None,
            last_end: None,
        };
        Self { outcomes: Outcomes::new(now), state: Mutex::new(state) }
    }

    /// Schedules a slow start, which begins once the backend is healthy.
    pub(super) fn schedule_slow_start(&self, load: &Load) {
        self.lock().schedule_slow_start(load);
    }

    /// Starts or schedules slow start after a change of health.
    pub(super) fn health_changed(&self, load: &Load, threshold: &PanicThreshold, now: Instant) {
        self.lock().advance(load, threshold, now, || threshold.sessions_per_share());
    }

    /// Counts the outcome of a request. Returns the reason if this ejects the backend; the selector has
    /// been notified then.
    pub(super) fn record_outcome(
        &self,
        failed: bool,
        (load, threshold, index): (&Load, &PanicThreshold, u32),
        now: Instant,
    ) -> Option<EjectionReason> {
        let settings = threshold.outlier()?;
        // Requests of existing sessions still come here, and must not eject it again.
        if load.is_ejected() {
            return None;
        }
        let reason = self.outcomes.record(failed, settings, now)?;
        // The next attempt to eject needs as many failures again. Otherwise each request of a pool that
        // fails as a whole would try to eject.
        self.outcomes.clear();
        let mut state = self.lock();
        if !threshold.eject(index) {
            return None;
        }
        if let Some(end) = state.last_end {
            let good = now.saturating_duration_since(end);
            state.ejections = outlier::decayed_count(settings, state.ejections, good);
        }
        state.ejections = state.ejections.saturating_add(1);
        state.until = Some(now + outlier::ejection_time(settings, state.ejections));
        state.advance(load, threshold, now, || threshold.sessions_per_share());
        Some(reason)
    }

    /// Ends an ejection whose time is over, and advances slow start.
    pub(super) fn tick(
        &self,
        load: &Load,
        threshold: &PanicThreshold,
        level: &OnceCell<Option<f64>>,
        now: Instant,
    ) -> RecoveryTick {
        let mut state = self.lock();
        let over = threshold.outlier().is_none() || state.until.is_none_or(|until| now >= until);
        let ejection_ended = load.is_ejected() && over;
        if ejection_ended {
            state.until = None;
            state.last_end = Some(now);
            self.outcomes.clear();
            load.set_ejected(false);
        }
        let level = || *level.get_or_init(|| threshold.sessions_per_share());
        let advanced = state.advance(load, threshold, now, level);
        RecoveryTick { changed: advanced || ejection_ended, ejection_ended }
    }

    /// When the present ejection ends; `None` if the backend is not ejected.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.lock().until
    }

    fn lock(&self) -> MutexGuard<'_, RecoveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecoveryState {
    fn schedule_slow_start(&mut self, load: &Load) -> bool {
        self.slow_start = SlowStart::Scheduled;
        // Behind all other backends until the handicap is known.
        load.set_ramp(FIRST_SHARE, u32::MAX)
    }

    /// Applies the share and the handicap for `now`. Returns whether something changed. `level`: see
    /// [`PanicThreshold::sessions_per_share`].
    fn advance(
        &mut self,
        load: &Load,
        threshold: &PanicThreshold,
        now: Instant,
        level: impl FnOnce() -> Option<f64>,
    ) -> bool {
        let duration = threshold.slow_start();
        if duration.is_zero() || load.is_health_ignored() {
            self.slow_start = SlowStart::Done;
        } else if !load.is_healthy() {
            return self.schedule_slow_start(load);
        } else if self.slow_start == SlowStart::Scheduled {
            self.slow_start = SlowStart::Since(now);
        }
        let SlowStart::Since(since) = self.slow_start else { return load.set_ramp(FULL_SHARE, 0) };
        let progress = now.saturating_duration_since(since).as_secs_f64() / duration.as_secs_f64();
        if progress >= 1.0 {
            self.slow_start = SlowStart::Done;
            return load.set_ramp(FULL_SHARE, 0);
        }
        let share = share(progress);
        let handicap = level().map_or(0, |level| {
            let shares = load.weight().saturating_mul(share);
            handicap(level, load.sessions(), shares, progress)
        });
        load.set_ramp(share, handicap)
    }
}

/// Shares that count at this point of slow start; `progress` is in 0..1.
fn share(progress: f64) -> u32 {
    let grown = f64::from(FULL_SHARE - FIRST_SHARE) * progress;
    FIRST_SHARE + grown as u32
}

/// Sessions to add to its own, if the other backends have `level` sessions per share.
fn handicap(level: f64, sessions: u32, shares: u32, progress: f64) -> u32 {
    let missing = level * f64::from(shares) - f64::from(sessions);
    // Saturates: 0 if the backend has as many sessions as the others.
    (missing * (1.0 - progress)).round() as u32
}
