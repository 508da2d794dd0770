//! How a backend comes back: out of an ejection, and into its weight by and by.
//!
//! A backend that has been away knows nothing: its caches are cold, its code is not compiled, and by the
//! count of sessions it is the one that every new client should go to. So it begins with a tenth of its
//! weight and grows into the whole over the pool's `slow_start`. A tenth alone would not keep a herd
//! off it where sessions are counted: with none of its own it is the emptiest by any weight. For that
//! it is also taken to have, besides its own, what it lacks of the others' level, and less of that the
//! further it has grown. A herd that comes at one moment then brings it its share and no more.

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

/// What a fresh backend begins with: about a tenth, as much as shows whether it works at all.
const FIRST_SHARE: u32 = FULL_SHARE / 10;

/// What one backend has been through of late.
#[derive(Debug)]
pub(super) struct Recovery {
    outcomes: Outcomes,
    state: Mutex<RecoveryState>,
}

#[derive(Debug)]
struct RecoveryState {
    growth: Growth,
    /// Ejections of late.
    times: u32,
    /// When the present ejection is over.
    until: Option<Instant>,
    /// When the last one was.
    back: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// All of its weight is in force.
    Grown,
    /// It will begin to grow once it is healthy.
    Due,
    /// It has grown since then.
    Since(Instant),
}

impl Recovery {
    pub(super) fn new(now: Instant) -> Self {
        let state = RecoveryState { growth: Growth::Grown, times: 0, until: None, back: None };
        Self { outcomes: Outcomes::new(now), state: Mutex::new(state) }
    }

    /// It is to grow from now on, or once it is healthy.
    pub(super) fn start_slowly(&self, load: &Load) {
        self.lock().start_slowly(load);
    }

    /// Its health changed.
    pub(super) fn health_changed(&self, load: &Load, threshold: &PanicThreshold, now: Instant) {
        self.lock().grow(load, threshold, now, || threshold.level());
    }

    /// Counts an answer under traffic. Why it was ejected, where that did it; the selector knows then.
    pub(super) fn note(
        &self,
        failed: bool,
        (load, threshold, index): (&Load, &PanicThreshold, u32),
        now: Instant,
    ) -> Option<EjectionReason> {
        let settings = threshold.outlier()?;
        // What its own sessions still ask of it says nothing new.
        if load.is_ejected() {
            return None;
        }
        let reason = self.outcomes.note(failed, settings, now)?;
        // It has to fail as often again before it is asked about again, or a pool that fails as a
        // whole would ask with every request.
        self.outcomes.clear();
        let mut state = self.lock();
        if !threshold.eject(index) {
            return None;
        }
        if let Some(back) = state.back {
            let good = now.saturating_duration_since(back);
            state.times = outlier::decayed_count(settings, state.times, good);
        }
        state.times = state.times.saturating_add(1);
        state.until = Some(now + outlier::ejection_time(settings, state.times));
        state.grow(load, threshold, now, || threshold.level());
        Some(reason)
    }

    /// Ends an ejection whose time is over, and grows. Whether its weight or state changed; whether it is
    /// let in again.
    pub(super) fn tick(
        &self,
        load: &Load,
        threshold: &PanicThreshold,
        level: &OnceCell<Option<f64>>,
        now: Instant,
    ) -> (bool, bool) {
        let mut state = self.lock();
        let over = threshold.outlier().is_none() || state.until.is_none_or(|until| now >= until);
        let back = load.is_ejected() && over;
        if back {
            state.until = None;
            state.back = Some(now);
            self.outcomes.clear();
            load.set_ejected(false);
        }
        let grew = state.grow(load, threshold, now, || *level.get_or_init(|| threshold.level()));
        (grew || back, back)
    }

    /// When the present ejection is over; `None`: it is not ejected.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.lock().until
    }

    fn lock(&self) -> MutexGuard<'_, RecoveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecoveryState {
    fn start_slowly(&mut self, load: &Load) -> bool {
        self.growth = Growth::Due;
        // Behind everybody until it is known where it begins.
        load.set_growth(FIRST_SHARE, u32::MAX)
    }

    /// Puts in force what it has grown into by `now`; whether that changed anything.
    fn grow(
        &mut self,
        load: &Load,
        threshold: &PanicThreshold,
        now: Instant,
        level: impl FnOnce() -> Option<f64>,
    ) -> bool {
        let over = threshold.slow_start();
        if over.is_zero() || load.is_health_ignored() {
            self.growth = Growth::Grown;
        } else if !load.is_healthy() {
            return self.start_slowly(load);
        } else if self.growth == Growth::Due {
            self.growth = Growth::Since(now);
        }
        let Growth::Since(since) = self.growth else { return load.set_growth(FULL_SHARE, 0) };
        let progress = now.saturating_duration_since(since).as_secs_f64() / over.as_secs_f64();
        if progress >= 1.0 {
            self.growth = Growth::Grown;
            return load.set_growth(FULL_SHARE, 0);
        }
        let share = share(progress);
        let handicap = level().map_or(0, |level| {
            let shares = load.weight().saturating_mul(share);
            handicap(level, load.sessions(), shares, progress)
        });
        load.set_growth(share, handicap)
    }
}

/// Shares in force at this point of a slow start, from 0 to 1.
fn share(progress: f64) -> u32 {
    let grown = f64::from(FULL_SHARE - FIRST_SHARE) * progress;
    FIRST_SHARE + grown as u32
}

/// Sessions that one is taken to have besides its own, where the others have `level` for each share.
fn handicap(level: f64, sessions: u32, shares: u32, progress: f64) -> u32 {
    let lacks = level * f64::from(shares) - f64::from(sessions);
    // Saturates, and is 0 where it has as many as the others.
    (lacks * (1.0 - progress)).round() as u32
}

/// Time from one look at who grows and whose ejection is over to the next. Coarse: nobody waits for it.
pub const TICK_INTERVAL: Duration = Duration::from_millis(250);
